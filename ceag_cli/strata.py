"""psi and churn within strata: among images of one age, or of which the dense model is as sure.

A group may lose more than others because of what its images are, not because of whose they are.
Within a level k of a control feature a group is compared with all images of that level,

    psi_g|k = d_gk - d_k,        d: share lost less share gained.

Put together, with pi_k the share of all images in level k:

    within_g       = sum over k of (n_gk / n_g) psi_g|k       its own mix of levels
    explained_g    = psi_g - within_g                         what its mix does
    standardised_g = sum over k of pi_k psi_g|k               the same mix for every group

If all levels lose alike, nothing is explained and within is psi; if groups lose alike within every
level, within is 0 and the mix explains all of psi. The levels of a group are disjoint images, so
that bounds of a sum are put together as those of a difference are (MOVER).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.intervals import Counts, psi_bounds, quantile_of
from ceag_cli.means import Bounded, bounded, divided, excess_share, names_of, summed

Estimate = tuple[Numbers, Numbers, Numbers]
"""Value, lower and upper bound."""

MOST = 1000
"""So many levels, groups, and cells (a group in a level) are listed at most."""
PARTS = 5
"""Strata of equally many images that the confidence of the dense model is cut into."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level, all its images."""

    value: str
    n: int
    churn: float
    """Share of the images that the models answer differently."""
    gap: float
    """Share lost less share gained."""


@dataclass(frozen=True, slots=True)
class GroupInLevel:
    """One group in one level."""

    feature: str
    value: str
    level: str
    n: int
    psi: Bounded
    excess_churn: Bounded


@dataclass(frozen=True, slots=True)
class Stratified:
    """A number of a group, taken apart."""

    total: float
    """As without strata."""
    explained: float
    """By the group's mix of levels."""
    within: Bounded
    """What is left: the group beside others of its levels."""
    standardised: Bounded
    """The same with a common mix of levels."""


@dataclass(frozen=True, slots=True)
class GroupOverLevels:
    """One group over all levels."""

    feature: str
    value: str
    n: int
    coverage: float
    """Share of all images that lie in levels that the group has images of; the standardised
    numbers are about these levels only."""
    psi: Stratified
    excess_churn: Stratified


@dataclass(frozen=True)
class Strata:
    """A split within strata."""

    by: str
    """Control features, ``age`` or crossed ``age*light``, or ``confidence of the dense model``."""
    levels: tuple[Level, ...]
    """The largest, if there are more than ``MOST``."""
    levels_in_all: int
    groups: tuple[GroupOverLevels, ...]
    """Groups that have images; those whose losses differ most from all images', in images."""
    groups_in_all: int
    cells: tuple[GroupInLevel, ...]
    """Those first whose losses differ most from their level's, in images."""
    cells_in_all: int


def confidence_strata(confidence: Numbers) -> tuple[Integers, list[str]]:
    """Strata of about equally many images by how sure a model is, and their names.

    Equal confidences stay together, so that there may be fewer strata than ``PARTS``.

    Args:
        confidence: By image, shape ``(N,)``.
    """
    if not len(confidence):
        return np.zeros(0, np.int64), []
    edges = np.unique(np.quantile(confidence, np.arange(1, PARTS) / PARTS))
    _, strata = np.unique(np.searchsorted(edges, confidence, "right"), return_inverse=True)
    strata = strata.reshape(-1)
    names = []
    for k in range(int(strata.max()) + 1):
        inside = confidence[strata == k]
        names.append(f"{float(inside.min()):.3f} to {float(inside.max()):.3f}")
    return strata, [
        f"{name} ({k + 1})" if names.count(name) > 1 else name for k, name in enumerate(names)
    ]


def stratified(
    by: str,
    strata: Integers,
    levels: Sequence[str],
    groups: Integers,
    names: Sequence[tuple[str, str]],
    lost: Flags,
    gained: Flags,
    changed: Flags,
    alpha: float,
    interval: str = "score",
) -> Strata:
    """Compare groups within strata.

    Args:
        by: What the strata are of.
        strata: Level of each image, shape ``(N,)``.
        levels: Names of the levels.
        groups: Groups of each image, shape ``(N, F)``.
        names: Feature and value of each group.
        lost: Images that only the dense model gets right.
        gained: Images that only the sparse model gets right.
        changed: Images that they answer differently.
        alpha: Error of each bound.
        interval: As for psi; bounds over several levels are put together by MOVER in any case.
    """
    number, total = len(names), len(strata)
    count = max(len(levels), int(strata.max()) + 1 if total else 0)
    called = names_of(levels, count)
    of_level = [np.bincount(strata[f], minlength=count) for f in (lost, gained, changed)]
    size = np.bincount(strata, minlength=count)
    churn, gap = divided(of_level[2], size), divided(of_level[0] - of_level[1], size)

    keys, cell = np.unique(strata[:, None] * number + groups, return_inverse=True)
    cell = cell.reshape(groups.shape)
    k, g = np.divmod(keys, max(number, 1))
    n, n_lost, n_gained, n_changed = (
        summed(cell, f, len(keys)) for f in (None, lost, gained, changed)
    )
    psi = _psi(k, n, n_lost, n_gained, size, of_level, alpha, interval)
    excess = excess_share(n_changed, n, of_level[2][k], size[k], alpha, interval)

    n_group = np.bincount(g, n, number)
    beside = np.bincount(g, size[k], number)  # images of the levels that a group has images of
    coverage = beside / max(total, 1)
    own, common = n / n_group[g], size[k] / beside[g]
    overall_gap = (int(lost.sum()) - int(gained.sum())) / max(total, 1)
    raw = (
        divided(np.bincount(g, n_lost - n_gained, number), n_group) - overall_gap,
        divided(np.bincount(g, n_changed, number), n_group) - int(changed.sum()) / max(total, 1),
    )
    present = np.flatnonzero(n_group > 0)
    chosen = np.sort(present[_first(np.abs(n_group * raw[0])[present])])
    apart = [
        _apart(
            whole[chosen],
            _only(_together(estimate, own, g, number), chosen),
            _only(_together(estimate, common, g, number), chosen),
        )
        for whole, estimate in zip(raw, (psi, excess), strict=True)
    ]
    occupied = np.flatnonzero(size)
    largest = np.sort(occupied[_first(size[occupied].astype(np.float64))])
    shown = _first(np.abs(n * psi[0]))
    listed = [bounded(*_only(estimate, shown)) for estimate in (psi, excess)]
    return Strata(
        by=by,
        levels=tuple(
            Level(called[i], int(size[i]), float(churn[i]), float(gap[i])) for i in largest.tolist()
        ),
        levels_in_all=len(occupied),
        groups=tuple(
            GroupOverLevels(names[i][0], names[i][1], int(n_group[i]), float(coverage[i]), a, b)
            for i, a, b in zip(chosen.tolist(), *apart, strict=True)
            if a is not None and b is not None
        ),
        groups_in_all=len(present),
        cells=tuple(
            GroupInLevel(*names[int(g[i])], called[int(k[i])], int(n[i]), a, b)
            for i, a, b in zip(shown.tolist(), *listed, strict=True)
            if a is not None and b is not None
        ),
        cells_in_all=len(keys),
    )


def _first(weight: Numbers) -> Integers:
    """Where the largest are, those first; among equals the first."""
    found: Integers = np.argsort(-weight, kind="stable")[:MOST].astype(np.int64)
    return found


def _only(estimate: Estimate, chosen: Integers) -> Estimate:
    value, lower, upper = estimate
    return value[chosen], lower[chosen], upper[chosen]


def _psi(
    k: Integers,
    n: Numbers,
    lost: Numbers,
    gained: Numbers,
    size: Integers,
    of_level: Sequence[Integers],
    alpha: float,
    interval: str,
) -> Estimate:
    """The psi of each cell within its level. Cells of the same counts, mostly small, are one."""
    if not len(n):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    code = k
    for numbers in (n, lost, gained):  # renumbered each time, so that the codes stay small
        pair = code * (int(numbers.max()) + 1) + numbers.astype(np.int64)
        _, first, code = np.unique(pair, return_index=True, return_inverse=True)
        code = code.reshape(-1)
    level = k[first]
    counts = Counts(
        n[first],
        lost[first],
        gained[first],
        size[level].astype(np.float64),
        of_level[0][level].astype(np.float64),
        of_level[1][level].astype(np.float64),
    )
    psi, lower, upper = psi_bounds(counts, quantile_of(alpha), interval)
    return psi[code], lower[code], upper[code]


def _together(estimate: Estimate, weight: Numbers, g: Integers, number: int) -> Estimate:
    """A weighted sum over the cells of each group."""
    value, lower, upper = estimate
    whole: Numbers = np.bincount(g, weight * value, number).astype(np.float64)
    down: Numbers = np.sqrt(np.bincount(g, (weight * (value - lower)) ** 2, number))
    up: Numbers = np.sqrt(np.bincount(g, (weight * (upper - value)) ** 2, number))
    return whole, whole - down, whole + up


def _apart(total: Numbers, within: Estimate, standardised: Estimate) -> list[Stratified | None]:
    columns = zip(total.tolist(), bounded(*within), bounded(*standardised), strict=True)
    return [
        Stratified(whole, whole - inside.value, inside, common)
        if whole == whole and inside is not None and common is not None
        else None
        for whole, inside, common in columns
    ]
