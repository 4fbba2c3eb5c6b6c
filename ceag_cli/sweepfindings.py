"""What a sweep found, as plain data. Fractions; ``None`` where nothing can be said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ceag_cli.experiment import Plan
from ceag_cli.heldout import Comparison
from ceag_cli.policy import Policy
from ceag_cli.regression import Regression

NOT_TESTED, INCOMPLETE = "NOT_TESTED", "INCOMPLETE"
"""Verdicts on settings beside PASS, FAIL and INCONCLUSIVE: the test ended before; runs are
missing."""

BY_VAL, BY_RECIPE, BY_ALPHA = "val", "recipe", "alpha"
"""How it is made sure that the images of the verdict have chosen nothing: the approach is chosen on
val; the recipe names a single one; each of several is tested with its share of alpha."""


@dataclass(frozen=True)
class Row:
    """One run on one split."""

    task: str
    sparsity: float
    criterion: str
    """What the weights were chosen by, as the recipe calls it."""
    method: str
    seed: int
    split: str
    images: int
    acc_dense: float
    acc_sparse: float
    max_excess_gap: float
    worst_group: str
    pairwise_disparity: float
    eps: float
    mean_positive_gap: float | None
    worst_group_accuracy: float | None
    noise_floor: float | None
    between_group_variance: float | None
    split_half_harm: float | None


@dataclass(frozen=True)
class UnitRow:
    """One class or group in one run on one split."""

    task: str
    sparsity: float
    criterion: str
    method: str
    seed: int
    split: str
    kind: str
    """``class`` or ``group``."""
    feature: str
    """Column that the class or group is of."""
    value: str
    train_images: int
    """Of the class or group, as far as the audit has them."""
    images: int
    lost: int
    gained: int
    acc_dense: float | None
    acc_sparse: float | None
    gap: float | None
    excess_gap: float | None
    lower: float | None
    """One-sided bound of the audit, of a group of a gated split."""
    upper: float | None
    verdict: str | None


@dataclass(frozen=True)
class Point:
    """A setting as a point among accuracy, fairness and sparsity: means over its seeds."""

    sparsity: float
    criterion: str
    method: str
    split: str
    seeds: int
    accuracy: float
    """Of the sparse models."""
    accuracy_spread: float | None
    """Standard deviation (n - 1) over seeds; ``None`` for one."""
    max_excess_gap: float
    max_excess_gap_spread: float | None
    efficient: bool
    """Whether no other setting is at least as sparse, as accurate and as even, and in one respect
    more so."""


@dataclass(frozen=True)
class Limit:
    """Which eps a setting keeps on a split: by measurement, and as far as it can be shown."""

    sparsity: float
    criterion: str
    method: str
    split: str
    seeds: int
    measured: float
    """Largest psi of any seed: the smallest eps that every model keeps on these images."""
    measured_mean: float
    """Mean over seeds of the largest psi."""
    worst_group: str
    worst_seed: int
    shown: float | None
    """Smallest eps at which every seed's audit would PASS; ``None`` on a split that is described
    only."""
    shown_group: str | None
    """The group whose upper bound that is."""
    shown_seed: int | None
    shown_of_all: float | None
    """The same with alpha divided by the number of settings: it holds for all of them together, so
    that one may be picked by it."""
    refuted: float | None
    """For every eps below it some group of some seed would be FAIL."""


@dataclass(frozen=True)
class ClassRegression:
    """A regression of the drop of classes or groups."""

    split: str
    kind: str
    """``class`` or ``group``."""
    feature: str
    sparsity: float | None
    """``None``: of the drop averaged over all settings."""
    criterion: str | None
    method: str | None
    terms: tuple[str, ...]
    found: Regression


@dataclass(frozen=True)
class Step:
    """One setting, in the order in which they are tested."""

    sparsity: float
    verdict: str
    """PASS: every seed's audit passes. FAIL: a violation is shown. INCONCLUSIVE, NOT_TESTED,
    INCOMPLETE."""
    group: str | None = None
    """The group that keeps it from passing, ``feature=value``."""
    seed: int | None = None
    """In whose model."""
    excess_gap: float | None = None
    lower: float | None = None
    upper: float | None = None
    """Its bounds at the level of the verdict, by themselves."""
    reason: str | None = None
    """Why it does not pass, where no group is the reason."""


@dataclass(frozen=True)
class Sequence:
    """The settings of an approach from the lightest sparsity on, tested until one does not pass."""

    criterion: str
    method: str
    alpha: float | None
    """Error level of its tests; ``None`` where it was not chosen, and so is not tested."""
    steps: tuple[Step, ...]
    passes_up_to: float | None
    """The largest sparsity shown to pass."""
    val_kept: int | None = None
    """On val, at how many sparsities from the lightest on the mean largest psi is at most eps."""
    val_excess_gap: float | None = None
    """On val, the mean over sparsities and seeds of the largest psi."""

    @property
    def stopped_at(self) -> Step | None:
        """The setting at which the test ended; ``None`` where all pass, or none is tested."""
        return next((step for step in self.steps if step.verdict not in ("PASS", NOT_TESTED)), None)


@dataclass(frozen=True)
class Recommendation:
    """The sparsest setting that passes the audit."""

    policy: Policy
    """What a setting is judged by; the level of the tests is that of the sequences."""
    seeds: int
    gated: tuple[str, ...]
    chosen_by: str
    """``val``, ``recipe`` or ``alpha``."""
    sequences: tuple[Sequence, ...]
    criterion: str | None
    method: str | None
    sparsity: float | None
    """``None``: nothing is shown to pass."""
    seeds_lower: float | None
    """Of all training seeds, at least so many would pass, at level alpha: alpha ** (1 / S). About
    the seeds alone, the test images as they are."""

    @property
    def chosen(self) -> Sequence | None:
        """The sequence that is recommended, or the one that was chosen and does not pass."""
        tested = [each for each in self.sequences if each.alpha is not None]
        own = [s for s in tested if (s.criterion, s.method) == (self.criterion, self.method)]
        if own:
            return own[0]
        return tested[0] if len(tested) == 1 else None


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    plan: Plan
    rows: tuple[Row, ...]
    folder: Path
    comparisons: tuple[Comparison, ...] = ()
    units: tuple[UnitRow, ...] = ()
    points: tuple[Point, ...] = ()
    limits: tuple[Limit, ...] = ()
    regressions: tuple[ClassRegression, ...] = ()
    recommendation: Recommendation | None = None
    missing: int = 0
    """Runs of the recipe that are not there."""
