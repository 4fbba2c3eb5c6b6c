"""Masks: which weights are pruned. True marks a pruned weight, as in ``Tensor.masked_fill_``.

A mask is never stored beside the weights: in a file it is ``w == 0`` on the tensors that the
file's metadata lists. While training it is a bool tensor per pruned parameter, applied in place
after every optimiser step, because momentum and weight decay would otherwise revive pruned weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ceag_cli.errors import PruningError


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
