"""Pruning: where score, budget, pattern, mask and schedule meet.

Each of them is an idea of its own: what a weight is worth (``scores``), how many weights each
tensor gives up (``budgets``), which weights may go together (``patterns``), which ones that makes
(``masks``), and when (``schedules``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ceag_cli.budgets import Budget, uniform
from ceag_cli.errors import PruningError, first
from ceag_cli.masks import Masks
from ceag_cli.patterns import Pattern
from ceag_cli.schedules import cubic, geometric
from ceag_cli.scores import Score, magnitude
from ceag_cli.selection import CHUNK, smallest


class Pruner(Protocol):
    """A rule of pruning, whenever that happens: what counts, and what each tensor gives up."""

    def __call__(self, model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
        """Prune in place to a sparsity; see :func:`prune`."""


def prune(
    model: nn.Module,
    names: Iterable[str],
    sparsity: float,
    score: Score,
    budget: Budget,
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
    chosen = _finite(model, names)
    shapes = {name: tuple(weight.shape) for name, weight in chosen.items()}
    sizes = {name: weight.numel() for name, weight in chosen.items()}
    zeros = {name: sizes[name] - int(w.detach().count_nonzero()) for name, w in chosen.items()}
    device = next(iter(chosen.values())).device
    # For a copy of any one tensor; made once, so that no more memory is taken than that.
    room = torch.empty(max(sizes.values()), dtype=torch.float32, device=device)

    def scores(name: str) -> Tensor:
        copy = room[: sizes[name]].view(shapes[name])
        return _ranked(name, chosen[name], copy, score, zeros[name])

    pruned = {
        name: torch.empty(shape, dtype=torch.bool, device=chosen[name].device)
        for name, shape in shapes.items()
    }
    counts = budget(shapes, sparsity, scores)
    denser = []
    for name in chosen:
        count = max(counts[name], zeros[name]) if on_the_way else counts[name]
        if zeros[name] > count:
            denser.append(
                f"tensor '{name}' is {zeros[name] / sizes[name]:.2%} zero already, more than "
                f"the sparsity {sparsity:g} asks for; pruned weights do not come back, so ask for "
                "more or start from the dense model"
            )
            continue
        smallest(scores(name), count, out=pruned[name], threshold=counts.threshold)
    if denser:
        raise PruningError(first(denser))
    masks = Masks(model, pruned)
    masks.apply_()
    return masks


def prune_pattern(model: nn.Module, names: Iterable[str], pattern: Pattern, score: Score) -> Masks:
    """Prune a model in place to an N:M pattern; weights that are zero already stay pruned.

    Args:
        model: Modified in place.
        names: The parameters that may be pruned; those that the pattern does not fit stay dense.
        pattern: Of every M weights in a row, N are kept.
        score: Importance of each weight of a tensor (``scores``).

    Returns:
        The masks of the tensors that the pattern fits, already applied.

    Raises:
        PruningError: The pattern fits no tensor; a weight is NaN or infinite; or there are blocks
            with more than M - N zeros already.
    """
    chosen = {
        name: weight for name, weight in _finite(model, names).items() if pattern.fits(weight.shape)
    }
    if not chosen:
        raise PruningError(
            f"no tensor has a number of inputs that is a multiple of {pattern.of}, as the pattern "
            f"{pattern} needs"
        )
    pruned, denser = {}, []
    for name, weight in chosen.items():
        gone = weight.detach() == 0
        zeros = int(gone.sum())
        if int(pattern.blocks(gone).sum(dim=1).max()) > pattern.of - pattern.keep:
            denser.append(
                f"tensor '{name}' has blocks with more zeros already than the pattern {pattern} "
                "makes; pruned weights do not come back, so start from the dense model"
            )
        copy = torch.empty_like(weight, dtype=torch.float32)
        pruned[name] = pattern.prune(_ranked(name, weight, copy, score, zeros))
    if denser:
        raise PruningError(first(denser))
    masks = Masks(model, pruned)
    masks.apply_()
    return masks


def _ranked(name: str, weight: Tensor, copy: Tensor, score: Score, zeros: int) -> Tensor:
    """Scores in single precision; zeros rank below all, so that a new mask contains the old one."""
    scores = score(name, copy.copy_(weight.detach())).float().contiguous()
    if zeros:
        chunks = (torch.split(t.detach().reshape(-1), CHUNK) for t in (weight, scores))
        for some, their_scores in zip(*chunks, strict=True):
            their_scores.masked_fill_(some == 0, -torch.inf)
    return scores


def _finite(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these names.

    Raises:
        PruningError: There are none, or some hold NaN or infinite weights.
    """
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name] for name in names}
    if not chosen:
        raise PruningError("this model has no tensor that may be pruned")
    bad = [
        name
        for name, weight in chosen.items()
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all()
    ]
    if bad:
        problems = [f"tensor '{name}' holds NaN or infinite weights" for name in bad]
        raise PruningError(first(problems))
    return chosen


def magnitude_uniform(
    model: nn.Module, names: Iterable[str], sparsity: float, *, on_the_way: bool = False
) -> Masks:
    """Prune by magnitude, the same sparsity in every tensor; see :func:`prune`."""
    return prune(model, names, sparsity, magnitude, uniform, on_the_way=on_the_way)


@dataclass(frozen=True)
class GradualPruning:
    """Pruning at the start of each of the first epochs; an objective sets in after the last."""

    pruner: Pruner
    final: float
    """Fraction removed in the end."""
    end: int
    """The epoch that reaches it, counted from 0."""
    initial: float
    """Fraction removed before."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        names: Iterable[str],
        final: float,
        end: int,
        budget: Budget = uniform,
    ) -> GradualPruning:
        """From where a model is now to a sparsity, by magnitude."""
        names = tuple(names)

        def by_magnitude(model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
            return prune(model, names, sparsity, magnitude, budget, on_the_way=on_the_way)

        return cls(by_magnitude, final, end, Masks.from_zeros(model, names).sparsity)

    def prune(self, model: nn.Module, epoch: int) -> Masks:
        """Prune in place to the sparsity of an epoch."""
        sparsity = cubic(epoch, self.end, self.final, self.initial)
        return self.pruner(model, sparsity, on_the_way=epoch < self.end)


@dataclass(frozen=True)
class IterativePruning:
    """Rounds of pruning with epochs of training after each; an objective sets in with the last.

    With ``early`` weights it looks for lottery tickets: every round takes the weights that are
    left back to them, and all other parameters and statistics too (Frankle et al. 2020, *Linear
    mode connectivity and the lottery ticket hypothesis*, algorithm 2).
    """

    pruner: Pruner
    final: float
    """Fraction removed in the end."""
    rounds: int
    """Number of times that the model is pruned."""
    epochs_between: int
    """Epochs of training after each round but the last."""
    initial: float = 0.0
    """Fraction removed before."""
    early: Mapping[str, Tensor] | None = None
    """State of the model from early in its training."""

    @property
    def end(self) -> int:
        """The epoch at whose start the last round takes place, counted from 0."""
        return (self.rounds - 1) * self.epochs_between

    def prune(self, model: nn.Module, epoch: int) -> Masks | None:
        """Prune in place if a round is due at the start of an epoch, and rewind."""
        if epoch % self.epochs_between:
            return None
        done = epoch // self.epochs_between + 1
        sparsity = geometric(done, self.rounds, self.final, self.initial)
        masks = self.pruner(model, sparsity, on_the_way=done < self.rounds)
        if self.early is not None:
            model.load_state_dict(dict(self.early))
            masks.apply_()
        return masks
