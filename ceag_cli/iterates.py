"""Which iterate of a run is kept, and on which images that is decided. Never on test.

``last``
    The last one, as in the paper. Nothing is measured.
``feasible``
    The last whose constraints hold on the images given (train).
``best``
    Of those whose constraints hold on the images given (val), the one with the best accuracy.
``accuracy``
    The one with the best accuracy on the images given (early stopping), whatever its constraints.

Where the constraints hold for none, ``feasible`` and ``best`` keep the last of those that violate
them no more than the least violated one and its standard error. The largest of many measured gaps
is mostly noise: the least of it marks a lucky iterate, and an earlier one is less accurate. That is
the rule of one standard error (Breiman et al. 1984, *Classification and regression trees*, 3.4.3).

Among equals the later one is kept. Only iterates at the final sparsity are candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ceag_cli.gaps import excess_gap, max_excess_gap
from ceag_cli.groups import GroupStats

ROUNDING = 1e-12
"""What a psi of exactly eps may exceed it by in floating point."""

RULES = ("feasible", "best", "accuracy")


@dataclass(frozen=True)
class Measured:
    """An iterate as measured on the images that decide."""

    epoch: int
    """Epochs finished, counted from 1."""
    accuracy: float
    max_excess_gap: float
    """max psi over the groups that have images."""
    standard_error: float = 0.0
    """Of psi of the group where it is largest, from its number of images, as if both models were
    right on images independently of each other; as they mostly are right together, too large."""

    @classmethod
    def of(cls, epoch: int, dense: GroupStats, sparse: GroupStats) -> Measured:
        """Compare an iterate with the dense model on the same images."""
        psi = excess_gap(dense, sparse)
        largest = max_excess_gap(psi)
        worst = int(psi.nan_to_num(-torch.inf).argmax())
        variances = [float(p * (1 - p)) for p in (dense.accuracy[worst], sparse.accuracy[worst])]
        error = math.sqrt(sum(variances) / max(int(sparse.count[worst]), 1))
        return cls(epoch, float(sparse.overall_accuracy), float(largest), error)

    def holds(self, eps: float) -> bool:
        """Whether no measured psi is beyond eps."""
        return not self.max_excess_gap > eps + ROUNDING


class Keeper:
    """Measures the candidates among the iterates and holds on to the one to keep.

    Args:
        rule: One of ``RULES``.
        measure: Statistics of a model on the images that decide, in evaluation mode.
        dense: Statistics of the dense model on the same images.
        eps: Largest psi_g allowed, as a fraction.
        first: The first epoch, counted from 1, after which an iterate is a candidate.
        patience: Epochs without a better iterate after which nothing more is to be expected;
            ``None`` waits to the end.
    """

    def __init__(
        self,
        rule: str,
        measure: Callable[[nn.Module], GroupStats],
        dense: GroupStats,
        eps: float,
        first: int,
        patience: int | None = None,
    ) -> None:
        self.rule = rule
        self.measure = measure
        self.dense = dense
        self.eps = eps
        self.first = first
        self.patience = patience
        self.kept: Measured | None = None
        self.least: Measured | None = None
        """The candidate that violates the constraints least."""
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, model: nn.Module) -> Measured | None:
        """Measure the iterate after an epoch, and keep it if it is the best yet.

        Returns:
            What was measured; ``None`` when the epoch is no candidate.
        """
        if epoch < self.first:
            return None
        found = Measured.of(epoch, self.dense, self.measure(model))
        if self.least is None or found.max_excess_gap <= self.least.max_excess_gap:
            self.least = found
        if self._is_better(found, self.least):
            self.kept = found
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        return found

    def _is_better(self, found: Measured, least: Measured) -> bool:
        """Whether a candidate is to be kept in place of the one that is."""
        kept, holds = self.kept, found.holds(self.eps)
        if kept is None:
            return True
        if self.rule == "accuracy":
            return found.accuracy >= kept.accuracy
        if holds != kept.holds(self.eps):
            return holds
        if holds:
            return self.rule == "feasible" or found.accuracy >= kept.accuracy
        return found.max_excess_gap <= least.max_excess_gap + least.standard_error

    def exhausted(self, epoch: int) -> bool:
        """Whether patience has run out after an epoch."""
        if self.patience is None or self.kept is None:
            return False
        return epoch - self.kept.epoch >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Give a model the weights of the kept iterate."""
        if self.kept is not None:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` goes on from."""
        kept, least = (one and vars(one).copy() for one in (self.kept, self.least))
        return {"kept": kept, "least": least, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.kept, self.least = (
            state[name] and Measured(**state[name]) for name in ("kept", "least")
        )
        self.weights = dict(state["weights"])
