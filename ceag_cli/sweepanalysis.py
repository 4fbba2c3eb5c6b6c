"""What follows from the runs of a sweep together: tables, fronts, limits and regressions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ceag_cli.arrays import Integers, Numbers
from ceag_cli.experiment import Approach, Cell, Plan
from ceag_cli.heldout import SameImages
from ceag_cli.paired import counted
from ceag_cli.pareto import pareto_front
from ceag_cli.policy import Policy
from ceag_cli.reach import Reach, reach
from ceag_cli.regression import DIFFICULTY, FREQUENCY, classes_of, regress
from ceag_cli.sweepfindings import ClassRegression, Limit, Point, Row, UnitRow

CLASS, GROUP = "class", "group"

Setting = tuple[float, Approach]
"""A sparsity and an approach."""


def settings_of(plan: Plan) -> list[Setting]:
    """All settings, approach by approach, each from the lightest sparsity on."""
    return [(sparsity, a) for a in plan.approaches for sparsity in sorted(plan.sparsities)]


def cells_of(plan: Plan, setting: Setting) -> list[Cell]:
    """The runs of a setting, one for each seed."""
    sparsity, approach = setting
    return [Cell(seed, sparsity, approach.method, approach.criterion) for seed in plan.seeds]


# Classes and groups


@dataclass(frozen=True)
class Unit:
    """What images are counted by: their classes, or the groups of a feature."""

    kind: str
    feature: str
    names: tuple[str, ...]
    ids: Integers
    """Number in ``names`` of each image, shape ``(N,)``."""
    train_images: Integers
    """By class or group."""


def units_of(images: SameImages) -> list[Unit]:
    """The classes of some images, then the groups of every feature."""
    found = [Unit(CLASS, images.label_column, images.classes, images.label, images.train_classes)]
    first = 0
    for f, (feature, names) in enumerate(
        zip(images.grouping.features, images.grouping.values, strict=True)
    ):
        own = slice(first, first + len(names))
        ids = images.groups[:, f] - first
        found.append(Unit(GROUP, feature, names, ids, images.train_groups[own]))
        first += len(names)
    return found


def unit_rows(
    plan: Plan, images: SameImages, documents: Mapping[Cell, Mapping[str, Any]]
) -> Iterator[UnitRow]:
    """Every class and group of every run on some images.

    Args:
        plan: The sweep.
        images: The answers.
        documents: The audits of the runs, which have the bounds of groups.
    """
    units = units_of(images)
    for m, cell in enumerate(images.cells):
        judged = {
            (group["feature"], group["value"]): group
            for group in documents[cell]["groups"]
            if group["split"] == images.split
        }
        dense, sparse = images.dense[m], images.sparse[m]
        overall = float(dense.mean() - sparse.mean()) if len(dense) else 0.0
        for unit in units:
            flags = (np.ones_like(dense), dense & ~sparse, sparse & ~dense, dense, sparse)
            counts = [np.bincount(unit.ids[f], minlength=len(unit.names)).tolist() for f in flags]
            for value, in_train, n, lost, gained, right, right_sparse in zip(
                unit.names, unit.train_images.tolist(), *counts, strict=True
            ):
                said = judged.get((unit.feature, value), {}) if unit.kind == GROUP else {}
                yield UnitRow(
                    task=plan.name,
                    sparsity=cell.sparsity,
                    criterion=plan.criterion_of(cell.approach),
                    method=cell.method,
                    seed=cell.seed,
                    split=images.split,
                    kind=unit.kind,
                    feature=unit.feature,
                    value=value,
                    train_images=in_train,
                    images=n,
                    lost=lost,
                    gained=gained,
                    acc_dense=right / n if n else None,
                    acc_sparse=right_sparse / n if n else None,
                    gap=(lost - gained) / n if n else None,
                    excess_gap=(lost - gained) / n - overall if n else None,
                    lower=said.get("lower"),
                    upper=said.get("upper"),
                    verdict=said.get("verdict"),
                )


# Accuracy, fairness and sparsity


def points_of(plan: Plan, rows: Sequence[Row], split: str) -> tuple[Point, ...]:
    """Every setting that has runs on a split, and which of them no other is better than."""
    found: list[tuple[Setting, list[float], list[float]]] = []
    for sparsity, approach in settings_of(plan):
        key = (sparsity, plan.criterion_of(approach), approach.method)
        own = [r for r in rows if r.split == split and (r.sparsity, r.criterion, r.method) == key]
        if own:
            accuracy = [row.acc_sparse for row in own]
            gaps = [row.max_excess_gap for row in own]
            found.append(((sparsity, approach), accuracy, gaps))
    if not found:
        return ()
    values = [[s, statistics.mean(acc), -statistics.mean(gap)] for (s, _), acc, gap in found]
    return tuple(
        Point(
            sparsity=sparsity,
            criterion=plan.criterion_of(approach),
            method=approach.method,
            split=split,
            seeds=len(accuracy),
            accuracy=statistics.mean(accuracy),
            accuracy_spread=statistics.stdev(accuracy) if len(accuracy) > 1 else None,
            max_excess_gap=statistics.mean(gaps),
            max_excess_gap_spread=statistics.stdev(gaps) if len(gaps) > 1 else None,
            efficient=efficient,
        )
        for ((sparsity, approach), accuracy, gaps), efficient in zip(
            found, pareto_front(np.array(values)).tolist(), strict=True
        )
    )


# Feasibility


def limits_of(
    plan: Plan, policy: Policy, images: Sequence[SameImages], gated: Sequence[str]
) -> tuple[Limit, ...]:
    """Which eps every setting keeps, on every split that its runs have answered.

    Args:
        plan: The sweep.
        policy: Says the error level and the kind of bounds; its eps plays no part.
        images: The answers.
        gated: The splits that have bounds.
    """
    settings = settings_of(plan)
    found = []
    for split in dict.fromkeys(each.split for each in images):
        places = {cell: each for each in images if each.split == split for cell in each.cells}
        for setting in settings:
            cells = [cell for cell in cells_of(plan, setting) if cell in places]
            limit = _limit(plan, policy, setting, split, split in gated, places, cells)
            if limit is not None:
                found.append(limit)
    return tuple(found)


def _limit(
    plan: Plan,
    policy: Policy,
    setting: Setting,
    split: str,
    gated: bool,
    places: Mapping[Cell, SameImages],
    cells: Sequence[Cell],
) -> Limit | None:
    by_seed: list[tuple[Cell, Reach, Reach, Reach, list[str]]] = []
    for cell in cells:
        images = places[cell]
        counts, numbers = counted(images.pair(cell), images.grouping, gated)
        # All three are upper bounds of the same, at the level of one setting, of all, and of FAIL.
        alphas = (
            policy.alpha,
            policy.alpha / len(settings_of(plan)),
            policy.alpha / len(plan.seeds),
        )
        levels = [reach(counts, alpha, policy.interval, policy.against) for alpha in alphas]
        names = ["=".join(images.grouping.names[g]) for g in numbers.tolist()]
        one, two, three = levels
        if one is not None and two is not None and three is not None:
            by_seed.append((cell, one, two, three, names))
    if not by_seed:
        return None
    worst = max(by_seed, key=lambda found: found[1].measured)
    widest = max(by_seed, key=lambda found: found[1].shown)
    return Limit(
        sparsity=setting[0],
        criterion=plan.criterion_of(setting[1]),
        method=setting[1].method,
        split=split,
        seeds=len(by_seed),
        measured=worst[1].measured,
        measured_mean=statistics.mean(found[1].measured for found in by_seed),
        worst_group=worst[4][worst[1].worst],
        worst_seed=worst[0].seed,
        shown=widest[1].shown if gated else None,
        shown_group=widest[4][widest[1].widest] if gated else None,
        shown_seed=widest[0].seed if gated else None,
        shown_of_all=max(found[2].shown for found in by_seed) if gated else None,
        refuted=max(found[3].refuted for found in by_seed) if gated else None,
    )


# Regressions

TERMS = ((FREQUENCY,), (DIFFICULTY,), (FREQUENCY, DIFFICULTY))


def regressions_of(plan: Plan, images: SameImages) -> Iterator[ClassRegression]:
    """Regress the drop of classes, and of the groups of every feature, for every setting.

    Settings enter with the seeds that have answered these images. Where all settings have the same
    seeds, the drop averaged over settings is regressed, too: its slopes are the means of theirs.

    Args:
        plan: The sweep.
        images: The answers to a split that no model was fitted on.
    """
    rows = {cell: m for m, cell in enumerate(images.cells)}
    drop = images.dense.astype(np.float64) - images.sparse
    settings = {
        setting: own
        for setting in settings_of(plan)
        if (own := [rows[cell] for cell in cells_of(plan, setting) if cell in rows])
    }
    if not settings:
        return
    for unit in _distinct(units_of(images)):
        for (sparsity, approach), own in settings.items():
            names = (sparsity, plan.criterion_of(approach), approach.method)
            yield from _regressions(images, unit, own, drop[own], names)
        seeds = {tuple(images.cells[m].seed for m in own) for own in settings.values()}
        if len(settings) > 1 and len(seeds) == 1:
            own = next(iter(settings.values()))
            mean = np.mean([drop[of] for of in settings.values()], axis=0)
            yield from _regressions(images, unit, own, mean, (None, None, None))


def _distinct(units: Sequence[Unit]) -> list[Unit]:
    """Without features whose groups are the classes."""
    first, *others = units
    pairs = [len(np.unique(np.stack([first.ids, unit.ids]), axis=1).T) for unit in others]
    own = len(np.unique(first.ids))
    same = [count == own == len(np.unique(u.ids)) for u, count in zip(others, pairs, strict=True)]
    return [first, *(unit for unit, is_same in zip(others, same, strict=True) if not is_same)]


def _regressions(
    images: SameImages,
    unit: Unit,
    own: Sequence[int],
    drop: Numbers,
    names: tuple[float | None, str | None, str | None],
) -> Iterator[ClassRegression]:
    known = bool(unit.train_images.any())
    frequency = unit.train_images if known else np.ones_like(unit.train_images)
    measured = classes_of(images.dense[list(own)], drop, unit.ids, frequency)
    for terms in TERMS if known else ((DIFFICULTY,),):
        found = regress(measured, terms)
        yield ClassRegression(images.split, unit.kind, unit.feature, *names, terms, found)
