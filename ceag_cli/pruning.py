"""Pruning: where score, budget, mask and schedule meet.

Each of the four is an idea of its own: what a weight is worth (``scores``), how many weights each
tensor gives up (``budgets``), which ones that makes (``masks``), and when (``schedules``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ceag_cli.budgets import uniform
from ceag_cli.errors import PruningError
from ceag_cli.masks import Masks, smallest
from ceag_cli.schedules import cubic
from ceag_cli.scores import magnitude


def prune(
    model: nn.Module,
    names: Iterable[str],
    sparsity: float,
    score: Callable[[Tensor], Tensor],
    budget: Callable[[Mapping[str, int], float], Mapping[str, int]],
    *,
    on_the_way: bool = False,
) -> Masks:
    """Prune a model in place to a sparsity; weights that are zero already stay pruned.

    Args:
        model: Modified in place.
        names: The parameters that may be pruned.
        sparsity: Target fraction removed over those parameters, in [0, 1).
        score: Importance of each weight of a tensor (``scores``).
        budget: How many weights each tensor gives up (``budgets``).
        on_the_way: The sparsity is a step of a schedule: a tensor that has more zeros already
            keeps them and waits for the schedule, instead of being an error.

    Returns:
        The masks, already applied.

    Raises:
        PruningError: Nothing to prune; a weight is NaN or infinite; or a tensor has more zeros
            already than the target asks for.
    """
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name] for name in names}
    if not chosen:
        raise PruningError("this model has no tensor that may be pruned")
    bad = [name for name, weight in chosen.items() if not bool(weight.isfinite().all())]
    if bad:
        raise PruningError([f"tensor '{name}' holds NaN or infinite weights" for name in bad])
    counts = budget({name: weight.numel() for name, weight in chosen.items()}, sparsity)
    pruned, denser = {}, []
    for name, weight in chosen.items():
        already = weight.detach() == 0
        count = counts[name]
        if on_the_way:
            count = max(count, int(already.sum()))
        if int(already.sum()) > count:
            denser.append(
                f"tensor '{name}' is {float(already.double().mean()):.2%} zero already, more than "
                f"the sparsity {sparsity:g} asks for; pruned weights do not come back, so ask for "
                "more or start from the dense model"
            )
            continue
        # Zeros rank below every score, so that a new mask contains the old one.
        pruned[name] = smallest(score(weight).masked_fill(already, -torch.inf), count)
    if denser:
        raise PruningError(denser)
    masks = Masks(model, pruned)
    masks.apply_()
    return masks


def magnitude_uniform(
    model: nn.Module, names: Iterable[str], sparsity: float, *, on_the_way: bool = False
) -> Masks:
    """Prune by magnitude, the same sparsity in every tensor; see :func:`prune`."""
    return prune(model, names, sparsity, magnitude, uniform, on_the_way=on_the_way)


@dataclass(frozen=True)
class GradualPruning:
    """Pruning at the start of each of the first epochs; an objective sets in after the last."""

    names: tuple[str, ...]
    """The parameters that may be pruned."""
    final: float
    """Fraction removed in the end."""
    end: int
    """The epoch that reaches it, counted from 0."""
    initial: float
    """Fraction removed before."""

    @classmethod
    def of(cls, model: nn.Module, names: Iterable[str], final: float, end: int) -> GradualPruning:
        """From where a model is now to a sparsity."""
        names = tuple(names)
        return cls(names, final, end, Masks.from_zeros(model, names).sparsity)

    def prune(self, model: nn.Module, epoch: int) -> Masks:
        """Prune in place to the sparsity of an epoch."""
        sparsity = cubic(epoch, self.end, self.final, self.initial)
        return magnitude_uniform(model, self.names, sparsity, on_the_way=epoch < self.end)
