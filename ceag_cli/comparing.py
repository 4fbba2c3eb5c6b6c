"""Differences between two ways to make sparse models, over training seeds and over images.

Of a statistic T, seeds s = 1..S, and all models evaluated on the same images,

    D_s = T(method, s) - T(rival, s),   estimate = mean of D_s

Two things would be otherwise in another experiment, the seeds and the images:

    squared error = (variance of D_s over seeds) / S + (variance of mean D_s over images)

The second is that of the jackknife: the images are dealt into F parts, within groups, and with
D_(f) the estimate without part f it is ``(F - 1) / F * sum_f (D_(f) - mean D_(f))^2``. The interval
is the estimate -+ a quantile of Student's t times the error, with the degrees of freedom of
Satterthwaite (1946), ``(a + b)^2 / (a^2 / (S - 1) + b^2 / (F - 1))`` for the two parts a and b.

**It is on the safe side**: two seeds' models err on other images too, so that some of the spread
over seeds is noise of the images, which is counted again; and of a statistic quadratic in the
counts the jackknife finds up to twice the variance where there is no disparity.
docs/benchmarks.md has how often it covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.heterogeneity import (
    SPLITS,
    between_group_variance,
    excess_gaps,
    mean_positive_gap,
    split_half_harm,
)

STATISTICS = (
    "accuracy",
    "between_group_variance",
    "split_half_harm",
    "max_excess_gap",
    "mean_positive_gap",
)
"""Accuracy is that of the sparse model; of all others less is better."""
FOLDS = 20
ALPHA = 0.05
"""Two-sided error of the intervals."""


def dealt(groups: Integers, folds: int, seed: int = 0) -> Integers:
    """Deal images into parts of nearly equal size, within the cells in which the features cross.

    Args:
        groups: Group ids, shape ``(N, F)``.
        folds: How many parts; as many as images, where they are fewer.
        seed: Of the order within a cell.

    Returns:
        Number of the part of each image, shape ``(N,)``. Parts differ by at most one image, in
        every cell and in all.
    """
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    order = shuffled[np.lexsort(groups[shuffled].T)] if groups.shape[1] else shuffled
    found = np.zeros(len(groups), np.int64)
    found[order] = np.arange(len(groups)) % max(min(folds, len(groups)), 1)
    return found


def replicates(
    dense: Flags,
    sparse: Flags,
    groups: Integers,
    *,
    folds: int = FOLDS,
    splits: int = SPLITS,
    seed: int = 0,
) -> dict[str, Numbers]:
    """Every statistic of some runs, with all images and without each part of them.

    Between-group variance and split-half harm are means over the features, the two of psi go over
    the groups of all features.

    Args:
        dense: Whether each run's dense model is right, bool, shape ``(M, N)``.
        sparse: Whether its sparse model is, likewise, on the same images.
        groups: Group ids, shape ``(N, F)``.
        folds: See :func:`dealt`; 0 for all images only.
        splits: Ways to halve, for the split-half harm.
        seed: Of parts and halves, which are the same for all runs.

    Returns:
        By name of ``STATISTICS``, shape ``(M, 1 + parts)``; NaN where nothing can be said.
    """
    if not len(groups):
        return {name: np.full((len(dense), 1), np.nan) for name in STATISTICS}
    part = dealt(groups, folds, seed) if folds else np.zeros(len(groups), np.int64)
    parts = int(part.max(initial=-1)) + 1 if folds else 0
    net = dense.astype(np.int8) - sparse.astype(np.int8)
    right = _without_each(sparse, part, np.zeros_like(part), 1, parts)[..., 0]
    images = _without_each(np.ones_like(sparse[:1]), part, np.zeros_like(part), 1, parts)[..., 0]
    variances, harms, psi = [], [], []
    for ids in groups.T:
        _, group = np.unique(ids, return_inverse=True)
        number = int(group.max(initial=-1)) + 1
        n, lost, gained = (
            _without_each(flags, part, group, number, parts)
            for flags in (np.ones_like(dense[:1]), net == 1, net == -1)
        )
        variances.append(between_group_variance(n, lost, gained))
        psi.append(excess_gaps(n, lost - gained))
        of_parts = part if folds else None
        harms.append(split_half_harm(net, group, folds=of_parts, splits=splits, seed=seed))
    together = np.concatenate(psi, axis=-1)
    largest = np.where(np.isnan(together), -np.inf, together).max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        accuracy = right / images
    return {
        "accuracy": accuracy,
        "between_group_variance": np.mean(variances, axis=0),
        "split_half_harm": np.mean(harms, axis=0),
        "max_excess_gap": np.where(np.isinf(largest), np.nan, largest),
        "mean_positive_gap": mean_positive_gap(together),
    }


def _without_each(
    flags: Flags, part: Integers, group: Integers, number: int, parts: int
) -> Numbers:
    """Counts by group of all images and of all but each part, shape ``(M, 1 + parts, G)``."""
    code = part * number + group
    cells = max(parts, 1) * number
    each = [np.bincount(code[row], minlength=cells).reshape(-1, number) for row in flags]
    by_part = np.array(each, np.float64).reshape(len(flags), -1, number)
    total = by_part.sum(1, keepdims=True)
    return np.concatenate([total, total - by_part], axis=1) if parts else total


@dataclass(frozen=True)
class Difference:
    """A method less its rival, in one statistic. The unit is that of the statistic."""

    estimate: float
    lower: float
    upper: float
    """Of the two-sided interval."""
    seeds: int
    """How many pairs of runs; of one the interval is over images only, and so too narrow for
    what other seeds would give."""
    error_seeds: float | None
    """Standard error over seeds; ``None`` for one seed."""
    error_images: float
    """Standard error over images, the seeds as they are."""
    degrees_of_freedom: float

    @property
    def over(self) -> str:
        """What the interval is about."""
        return "images only" if self.error_seeds is None else "seeds and images"

    @property
    def excludes_zero(self) -> bool:
        """Whether the two are shown to differ. False where the interval is not known."""
        return self.lower > 0 or self.upper < 0


def difference(method: Numbers, rival: Numbers, alpha: float = ALPHA) -> Difference:
    """Compare two methods, seed by seed.

    Args:
        method: One statistic of its runs, shape ``(S, 1 + F)``: with all images, then without each
            part, as :func:`replicates` gives them.
        rival: The same of the other's, from the same seeds and on the same images.
        alpha: Two-sided error.

    Returns:
        Bounds are NaN where a statistic is, or where there are fewer than two parts; equal to the
        estimate where nothing varies.
    """
    found = method - rival
    seeds, parts = len(found), found.shape[1] - 1
    estimate = float(found[:, 0].mean())
    over_seeds = float(found[:, 0].var(ddof=1)) / seeds if seeds > 1 else 0.0
    over_images = float("nan")
    if parts > 1:
        over_images = (parts - 1) * float(found[:, 1:].mean(0).var())
    half, freedom = half_width([(over_images, parts - 1), (over_seeds, seeds - 1)], alpha)
    return Difference(
        estimate=estimate,
        lower=estimate - half,
        upper=estimate + half,
        seeds=seeds,
        error_seeds=over_seeds**0.5 if seeds > 1 else None,
        error_images=over_images**0.5,
        degrees_of_freedom=freedom,
    )


def half_width(parts: Sequence[tuple[float, int]], alpha: float) -> tuple[float, float]:
    """Half of a two-sided interval whose error has several independent parts.

    Args:
        parts: Variance of each, and its degrees of freedom.
        alpha: Two-sided error.

    Returns:
        The half, and the degrees of freedom of all parts together (Satterthwaite 1946).
    """
    together = sum(variance for variance, _ in parts)
    lack = sum(variance**2 / max(freedom, 1) for variance, freedom in parts)
    freedom = together**2 / lack if lack else float("inf")
    half = together**0.5 * _student(1 - alpha / 2, freedom) if together else 0.0
    return half, freedom


def _student(p: float, freedom: float) -> float:
    """Quantile of Student's t."""
    return float(special.ndtri(p) if np.isinf(freedom) else special.stdtrit(freedom, p))


def differences(
    method: Mapping[str, npt.NDArray[np.float64]], rival: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, Difference]:
    """:func:`difference` of every statistic."""
    return {name: difference(method[name], rival[name]) for name in STATISTICS}
