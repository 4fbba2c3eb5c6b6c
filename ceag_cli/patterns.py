"""Patterns: which weights may be pruned together. N:M is the one that some hardware can use.

Of every M weights that meet in one sum, in a row, at most N are kept. They run along the input: the
columns of a linear layer, the input channels of a convolution at one place of its kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Keep ``keep`` of every ``of`` weights in a row: 2:4 and 4:8 keep half."""

    keep: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """``"2:4"`` as a pattern; ``None`` where it is none (``0 < N < M <= 64``)."""
        found = re.fullmatch(r"(\d{1,2}):(\d{1,2})", text)
        if not found:
            return None
        keep, of = int(found[1]), int(found[2])
        return cls(keep, of) if 0 < keep < of <= 64 else None

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"

    @property
    def sparsity(self) -> float:
        """Fraction removed of a tensor that the pattern fits."""
        return 1 - self.keep / self.of

    def fits(self, shape: torch.Size) -> bool:
        """Whether the inputs of a layer are a multiple of M."""
        return len(shape) > 1 and shape[1] > 0 and shape[1] % self.of == 0

    def blocks(self, values: Tensor) -> Tensor:
        """A tensor that the pattern fits as ``(number of blocks, M)``; a view or a copy."""
        return values.movedim(1, -1).reshape(-1, self.of)

    def prune(self, scores: Tensor) -> Tensor:
        """Mark the ``M - N`` smallest scores of every block.

        Among equal scores the first in the block are kept.

        Args:
            scores: Of a tensor that the pattern fits, shape ``(out, in, ...)``, without NaN.

        Returns:
            Bool, the same shape.

        >>> Pattern(2, 4).prune(torch.tensor([[1.0, 3.0, 2.0, 1.0, 5.0, 5.0, 5.0, 6.0]]))[0]
        tensor([ True, False, False,  True, False,  True,  True, False])
        """
        blocks = self.blocks(scores)
        order = torch.sort(blocks, dim=1, descending=True, stable=True).indices
        pruned = torch.zeros_like(blocks, dtype=torch.bool)
        pruned.scatter_(1, order[:, self.keep :], True)
        inputs_last = scores.movedim(1, -1).shape
        return pruned.reshape(inputs_last).movedim(-1, 1).contiguous()
