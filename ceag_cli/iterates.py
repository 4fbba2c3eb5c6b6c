"""Which iterate of a run is kept, and on which images that is decided. Never on test.

``last``
    The last one, as in the paper. Nothing is measured.
``feasible``
    The last whose constraints hold on the images given (train); where they hold for none, the one
    that violates them least.
``best``
    Of those whose constraints hold on the images given (val), the one with the best accuracy;
    where they hold for none, the one that violates them least.
``accuracy``
    The one with the best accuracy on the images given (early stopping), whatever its constraints.

Among equals the later one is kept. Only iterates at the final sparsity are candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

    @classmethod
    def of(cls, epoch: int, dense: GroupStats, sparse: GroupStats) -> Measured:
        """Compare an iterate with the dense model on the same images."""
        psi = float(max_excess_gap(excess_gap(dense, sparse)))
        return cls(epoch, float(sparse.overall_accuracy), psi)

    def rank(self, rule: str, eps: float) -> tuple[float, ...]:
        """The larger in lexicographic order is the one to keep."""
        if rule == "accuracy":
            return (self.accuracy, self.epoch)
        if self.max_excess_gap > eps + ROUNDING:
            return (0, -self.max_excess_gap, self.epoch)
        return (1, self.accuracy, self.epoch) if rule == "best" else (1, self.epoch)


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
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, model: nn.Module) -> Measured | None:
        """Measure the iterate after an epoch, and keep it if it is the best yet.

        Returns:
            What was measured; ``None`` when the epoch is no candidate.
        """
        if epoch < self.first:
            return None
        found = Measured.of(epoch, self.dense, self.measure(model))
        if self.kept is None or self._rank(found) > self._rank(self.kept):
            self.kept = found
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        return found

    def _rank(self, iterate: Measured) -> tuple[float, ...]:
        return iterate.rank(self.rule, self.eps)

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
        kept = None if self.kept is None else vars(self.kept).copy()
        return {"kept": kept, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.kept = None if state["kept"] is None else Measured(**state["kept"])
        self.weights = dict(state["weights"])
