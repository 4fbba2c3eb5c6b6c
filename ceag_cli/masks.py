"""Masks: which weights are pruned. True marks a pruned weight, as in ``Tensor.masked_fill_``.

A mask is never stored beside the weights: in a file it is ``w == 0`` on the tensors that the
file's metadata lists. While training it is a bool tensor per pruned parameter, applied in place
after every optimiser step, because momentum and weight decay would otherwise revive pruned weights.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ceag_cli.errors import PruningError

CHUNK = 2**18
"""Scores looked at together: as many as a processor's cache holds with what is made of them."""


def kth_smallest(parts: Sequence[Callable[[], Tensor]], k: int) -> float:
    """The k-th smallest of many scores, exactly, without sorting or copying them.

    The bits of a float, with those after the sign flipped where it is negative, are a whole number
    in the same order. So two histograms of 65,536 bins find it: of the upper 16 bits, and of the
    lower 16 among the scores with the upper ones that it has. Memory beyond the scores is a few
    megabytes, whatever their number.

    Args:
        parts: Each gives some of the scores, float32 without NaN, anew when called (twice), so
            that no more than one part has to be in memory.
        k: Counted from 1, at most the number of scores.

    >>> kth_smallest([lambda: torch.tensor([3.0, -1.0]), lambda: torch.tensor([2.0])], 2)
    2.0
    """
    upper, k = _digit_of_kth(parts, k, _upper_half)
    low, high = _ends(upper)

    def lower_half(chunk: Tensor) -> Tensor:
        return _keys(chunk[(chunk >= low) & (chunk <= high)]) & 0xFFFF

    lower, _ = _digit_of_kth(parts, k, lower_half)
    return _float_of((upper - 2**15) << 16 | lower)


def _digit_of_kth(
    parts: Sequence[Callable[[], Tensor]], k: int, digits: Callable[[Tensor], Tensor]
) -> tuple[int, int]:
    """The 16-bit digit of the k-th smallest, and its rank among the scores with that digit."""
    counts = torch.zeros(2**16, dtype=torch.int64)
    for part in parts:
        _count_digits(part(), digits, counts)
    up_to = counts.cumsum(0)
    digit = int(torch.searchsorted(up_to, k))
    return digit, k - int(up_to[digit] - counts[digit])


def _count_digits(scores: Tensor, digits: Callable[[Tensor], Tensor], counts: Tensor) -> None:
    for chunk in torch.split(scores.detach().reshape(-1), CHUNK):
        found = torch.bincount(digits(chunk.cpu()))
        counts[: len(found)] += found


def _upper_half(chunk: Tensor) -> Tensor:
    return (_keys(chunk) >> 16).add_(2**15)


def _keys(chunk: Tensor) -> Tensor:
    """Whole numbers, int32, in the order of some floats; both zeros are 0."""
    bits = (chunk + 0.0).view(torch.int32)
    if len(bits) and int(bits.amin()) < 0:  # a float below zero has its sign bit set
        bits.bitwise_xor_((bits >> 31).bitwise_and_(0x7FFFFFFF))
    return bits


def _float_of(key: int) -> float:
    """The float that has a key."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    value: float = struct.unpack("f", struct.pack("i", bits))[0]
    return value


def _ends(upper: int) -> tuple[float, float]:
    """The smallest and the largest float whose keys have an upper half."""
    first = (upper - 2**15) << 16
    last = first | 0xFFFF
    low, high = _float_of(first), _float_of(last if first >= 0 else min(last, -2))  # -1 is -0.0
    # Beyond the infinities lie NaNs.
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def count_at_most(scores: Tensor, threshold: float) -> tuple[int, int]:
    """How many scores are below a threshold, and how many are equal to it."""
    below, equal = scores < threshold, scores == threshold
    return int(below.count_nonzero()), int(equal.count_nonzero())  # a sum would copy to int64


def smallest(scores: Tensor, count: int, out: Tensor | None = None) -> Tensor:
    """Mark exactly the ``count`` smallest scores.

    Among equal scores the first in memory order are kept, so the result is unique.

    Args:
        scores: Any shape, without NaN; taken in single precision.
        count: In [0, number of scores].
        out: Contiguous bool tensor of the same shape to write to.

    Returns:
        Bool tensor of the same shape with exactly ``count`` True.

    >>> smallest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 1)
    tensor([False, False, False,  True])
    """
    pruned = out
    if pruned is None:  # in plain memory order, whatever that of the scores is
        pruned = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if count <= 0 or count >= scores.numel():
        return pruned.fill_(count > 0)
    scores = scores.float()
    threshold = kth_smallest([lambda: scores], count)
    torch.lt(scores, threshold, out=pruned)
    ties = torch.nonzero(scores.reshape(-1) == threshold).reshape(-1)
    more = count - int(pruned.count_nonzero())
    pruned.view(-1)[ties[len(ties) - more :]] = True
    return pruned


class Masks:
    """The masks of a model's pruned parameters, bound to those parameters.

    Args:
        model: The model whose parameters are masked.
        pruned: Bool mask by parameter name.

    Raises:
        PruningError: A name is not a parameter of the model, or a shape differs.
    """

    def __init__(self, model: nn.Module, pruned: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        for name, mask in pruned.items():
            if name not in parameters:
                raise PruningError(f"the model has no parameter '{name}' to mask")
            if mask.shape != parameters[name].shape:
                raise PruningError(
                    f"mask of '{name}' has shape {tuple(mask.shape)}, "
                    f"the parameter {tuple(parameters[name].shape)}"
                )
        self.pruned = {
            name: mask.to(parameters[name].device, torch.bool) for name, mask in pruned.items()
        }
        self.parameters = {name: parameters[name] for name in pruned}

    @classmethod
    def from_zeros(cls, model: nn.Module, names: Iterable[str]) -> Masks:
        """Read the masks of a pruned model off its zeros, in the tensors named."""
        parameters = dict(model.named_parameters())
        return cls(
            model, {name: parameters[name].detach() == 0 for name in names if name in parameters}
        )

    @torch.no_grad()
    def apply_(self) -> None:
        """Set every pruned weight to zero, in place."""
        for name, parameter in self.parameters.items():
            parameter.masked_fill_(self.pruned[name], 0.0)

    def zeros(self) -> dict[str, int]:
        """Number of pruned weights by parameter name."""
        return {name: int(mask.count_nonzero()) for name, mask in self.pruned.items()}

    @property
    def sparsity(self) -> float:
        """Fraction removed, over the masked parameters; 0 when there are none."""
        total = sum(mask.numel() for mask in self.pruned.values())
        return sum(self.zeros().values()) / total if total else 0.0

    def sha256(self) -> str:
        """Hash of all masks, equal where every bit is."""
        digest = hashlib.sha256()
        for name in sorted(self.pruned):
            digest.update(name.encode())
            digest.update(self.pruned[name].cpu().numpy().tobytes())
        return digest.hexdigest()
