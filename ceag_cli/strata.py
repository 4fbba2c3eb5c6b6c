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
    count = max(len(levels), int(strata.max()) + 1 if len(strata) else 0)
    called = names_of(levels, count)
    counted = _Counted.of(strata, count, groups, len(names), lost, gained, changed)
    psi = _psi(counted, alpha, interval)
    changed_beside = counted.changed_by_level[counted.k]
    excess = excess_share(
        counted.changed, counted.n, changed_beside, counted.beside, alpha, interval
    )
    groups_of, groups_in_all = _over_levels(counted, psi, excess, names)
    occupied = np.flatnonzero(counted.size)
    largest = np.sort(occupied[_first(counted.size[occupied].astype(np.float64))])
    churn = divided(counted.changed_by_level, counted.size)
    gap = divided(counted.lost_by_level - counted.gained_by_level, counted.size)
    shown = _first(np.abs(counted.n * psi[0]))
    listed = [bounded(*_only(estimate, shown)) for estimate in (psi, excess)]
    return Strata(
        by=by,
        levels=tuple(
            Level(called[i], int(counted.size[i]), float(churn[i]), float(gap[i]))
            for i in largest.tolist()
        ),
        levels_in_all=len(occupied),
        groups=tuple(groups_of),
        groups_in_all=groups_in_all,
        cells=tuple(
            GroupInLevel(
                *names[int(counted.g[i])], called[int(counted.k[i])], int(counted.n[i]), a, b
            )
            for i, a, b in zip(shown.tolist(), *listed, strict=True)
            if a is not None and b is not None
        ),
        cells_in_all=len(counted.n),
    )


@dataclass(frozen=True)
class _Counted:
    """Images by level, and by cell: a group in a level that has images of it."""

    total: int
    number: int
    """Of groups."""
    size: Integers
    """By level."""
    lost_by_level: Integers
    gained_by_level: Integers
    changed_by_level: Integers
    k: Integers
    """Level of each cell."""
    g: Integers
    """Group of each cell."""
    n: Numbers
    """By cell."""
    lost: Numbers
    gained: Numbers
    changed: Numbers

    @classmethod
    def of(
        cls,
        strata: Integers,
        levels: int,
        groups: Integers,
        number: int,
        lost: Flags,
        gained: Flags,
        changed: Flags,
    ) -> _Counted:
        keys, cell = np.unique(strata[:, None] * number + groups, return_inverse=True)
        cell = cell.reshape(groups.shape)
        k, g = np.divmod(keys, max(number, 1))
        by_level = [np.bincount(strata[f], minlength=levels) for f in (lost, gained, changed)]
        by_cell = [summed(cell, f, len(keys)) for f in (None, lost, gained, changed)]
        return cls(
            total=len(strata),
            number=number,
            size=np.bincount(strata, minlength=levels),
            lost_by_level=by_level[0],
            gained_by_level=by_level[1],
            changed_by_level=by_level[2],
            k=k,
            g=g,
            n=by_cell[0],
            lost=by_cell[1],
            gained=by_cell[2],
            changed=by_cell[3],
        )

    @property
    def beside(self) -> Integers:
        """All images of the level of each cell."""
        found: Integers = self.size[self.k]
        return found


def _over_levels(
    counted: _Counted, psi: Estimate, excess: Estimate, names: Sequence[tuple[str, str]]
) -> tuple[list[GroupOverLevels], int]:
    """Groups over all levels, and how many have images."""
    g, number, total = counted.g, counted.number, max(counted.total, 1)
    n_group = np.bincount(g, counted.n, number)
    beside = np.bincount(g, counted.beside, number)  # images of the levels that it has images of
    coverage = beside / total
    own, common = counted.n / n_group[g], counted.beside / beside[g]
    net = (counted.lost - counted.gained, counted.lost_by_level - counted.gained_by_level)
    moved = (counted.changed, counted.changed_by_level)
    raw = [
        divided(np.bincount(g, by_cell, number), n_group) - int(by_level.sum()) / total
        for by_cell, by_level in (net, moved)
    ]
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
    found = [
        GroupOverLevels(names[i][0], names[i][1], int(n_group[i]), float(coverage[i]), a, b)
        for i, a, b in zip(chosen.tolist(), *apart, strict=True)
        if a is not None and b is not None
    ]
    return found, len(present)


def _first(weight: Numbers) -> Integers:
    """Where the largest are, those first; among equals the first."""
    found: Integers = np.argsort(-weight, kind="stable")[:MOST].astype(np.int64)
    return found


def _only(estimate: Estimate, chosen: Integers) -> Estimate:
    value, lower, upper = estimate
    return value[chosen], lower[chosen], upper[chosen]


def _psi(counted: _Counted, alpha: float, interval: str) -> Estimate:
    """The psi of each cell within its level. Cells of the same counts, mostly small, are one."""
    n, lost, gained = counted.n, counted.lost, counted.gained
    if not len(n):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    code = counted.k
    for numbers in (n, lost, gained):  # renumbered each time, so that the codes stay small
        pair = code * (int(numbers.max()) + 1) + numbers.astype(np.int64)
        _, first, code = np.unique(pair, return_index=True, return_inverse=True)
        code = code.reshape(-1)
    level = counted.k[first]
    counts = Counts(
        n[first],
        lost[first],
        gained[first],
        counted.size[level].astype(np.float64),
        counted.lost_by_level[level].astype(np.float64),
        counted.gained_by_level[level].astype(np.float64),
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
