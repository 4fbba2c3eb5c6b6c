"""Exemplars of populations, counted by group: ``modes`` and ``welch`` put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.clusters import Effects
from ceag_cli.judging import corrected, distinct, same_images
from ceag_cli.means import (
    Bounded,
    bounded,
    excess_share,
    excess_share_p,
    known,
    share_bounds,
    summed,
)
from ceag_cli.modes import FEWEST, Identified, by_dealing, identify, votes_for
from ceag_cli.pies import Accuracy, GroupPies, Pie, Pies
from ceag_cli.populations import Populations
from ceag_cli.welch import Difference, accuracies, models_needed, welch


def pies_in(found: Populations, alpha: float, interval: str, seed: int) -> Pies:
    """Find the images on which populations disagree, and compare groups.

    Args:
        found: The models' answers.
        alpha: Error of each bound.
        interval: ``score`` or ``exact``, for a group's rate beside that of all images.
        seed: Of the random numbers by which models are dealt, where there are too many ways.
    """
    dense, sparse, names = found.dense_answers, found.sparse_answers, found.grouping.names
    identified = identify(dense, sparse)
    modal = min(len(dense), len(sparse)) >= FEWEST
    number, total = len(names), len(found.label)
    dealt = by_dealing(dense, sparse, found.groups, number, found.pairs, seed) if modal else None
    right = dense == found.label, sparse == found.label
    rates = _rates(found, identified.pies, alpha, interval)
    chance = None if dealt is None else dealt.by_group
    tests = _tests(found, right, alpha)
    pies = identified.pies
    right_votes = [
        votes_for(answers, found.label) == modes.votes
        for answers, modes in ((dense, identified.dense), (sparse, identified.sparse))
    ]
    return Pies(
        split=found.split,
        modal=modal,
        models_dense=len(dense),
        models_sparse=len(sparse),
        n=total,
        count=int(pies.sum()),
        rate=rates.overall,
        by_chance=None if dealt is None else dealt.overall,
        p_by_chance=None if dealt is None else dealt.p,
        deals=None if dealt is None else dealt.deals,
        within_pairs=None if dealt is None else dealt.within_pairs,
        tied_dense=int(identified.dense.tied.sum()),
        tied_sparse=int(identified.sparse.tied.sum()),
        count_largest_label=int(identified.largest.sum()),
        dense=_accuracy(right[0], pies),
        sparse=_accuracy(right[1], pies),
        dense_right=int((pies & right_votes[0]).sum()),
        sparse_right=int((pies & right_votes[1]).sum()),
        neither_right=int((pies & ~right_votes[0] & ~right_votes[1]).sum()),
        alpha=alpha,
        interval=interval,
        clustered=found.clusters is not None,
        groups_tested=rates.tested,
        groups_tested_welch=tests.tested,
        groups=_groups(names, rates, chance, tests),
        images=_images(found, identified),
    )


def _accuracy(right: Flags, pies: Flags) -> Accuracy:
    """Over models and images alike, since all models answer the same images."""
    return Accuracy(
        overall=float(right.mean()),
        on_identified=float(right[:, pies].mean()) if pies.any() else None,
        on_others=float(right[:, ~pies].mean()) if (~pies).any() else None,
    )


@dataclass(frozen=True)
class _Rates:
    """How often images are identified, one entry per group."""

    n: Numbers
    count: Numbers
    rate: list[Bounded | None]
    excess: list[Bounded | None]
    p: Numbers
    p_holm: Numbers
    overall: Bounded | None
    tested: int


def _rates(found: Populations, pies: Flags, alpha: float, interval: str) -> _Rates:
    number, total = len(found.grouping.names), len(found.label)
    # Everybody is one group more, the last.
    ids = np.column_stack([found.groups, np.full(total, number)])
    effects = Effects(ids, number + 1, found.clusters, alpha)
    n, count = summed(ids, None, number + 1), summed(ids, pies, number + 1)
    by = effects.of_excess(pies)
    whole = (count[-1] / by, max(n[-1], 1) / by)
    excess = bounded(*excess_share(count / by, n / by, *whole, alpha, interval))
    rate = share_bounds(count, n, alpha, effects.of_mean(pies))
    p = excess_share_p(count / by, n / by, *whole, interval)[:-1]
    p_holm, tested = _holm(p, found.groups, n[:-1])
    return _Rates(n[:-1], count[:-1], rate[:-1], excess[:-1], p, p_holm, rate[-1], tested)


def _holm(p: Numbers, ids: Integers, n: Numbers) -> tuple[Numbers, int]:
    """Holm's correction over all groups that were tested, and their number.

    Groups of the very same images are one question; one of all images is none.
    """
    asked = np.flatnonzero(~np.isnan(p) & (n < len(ids)))
    same = same_images(ids, n.astype(np.int64))[asked]
    place = {int(g): i for i, g in enumerate(asked)}
    same_as = np.array([place.get(int(g), i) for i, g in enumerate(same)], np.int64)
    found = np.full(len(p), np.nan)
    found[asked] = corrected(p[asked], same_as)
    return found, int(distinct(same_as).sum())


@dataclass(frozen=True)
class _Tests:
    """Welch's test, one entry per group."""

    acc_dense: Numbers
    acc_sparse: Numbers
    difference: Difference
    p_holm: Numbers
    needed: Numbers
    tested: int


def _tests(found: Populations, right: tuple[Flags, Flags], alpha: float) -> _Tests:
    number = len(found.grouping.names)
    by_group = [accuracies(each, found.groups, number) for each in right]
    dense, sparse = (acc - each.mean(1)[:, None] for acc, each in zip(by_group, right, strict=True))
    difference = welch(dense, sparse, alpha)
    n = summed(found.groups, None, number)
    p_holm, tested = _holm(difference.p, found.groups, n)
    # What an open group's p would have to be, those shown already being out of the way.
    shown = int((p_holm <= alpha).sum())
    level = np.full(number, alpha / max(tested - shown, 1))
    return _Tests(
        by_group[0].mean(0),
        by_group[1].mean(0),
        difference,
        p_holm,
        models_needed(dense, sparse, level),
        tested,
    )


def _groups(
    names: Sequence[tuple[str, str]], rates: _Rates, chance: Numbers | None, tests: _Tests
) -> tuple[GroupPies, ...]:
    number, welched = len(names), tests.difference
    by_chance = np.full(number, np.nan)
    if chance is not None:
        some = rates.n > 0
        by_chance[some] = chance[some] / rates.n[some]
    columns: dict[str, Sequence[Any]] = {
        "feature": [feature for feature, _ in names],
        "value": [value for _, value in names],
        "n": rates.n.astype(np.int64).tolist(),
        "count": rates.count.astype(np.int64).tolist(),
        "rate": rates.rate,
        "excess": rates.excess,
        "p": known(rates.p),
        "p_holm": known(rates.p_holm),
        "rate_by_chance": known(by_chance),
        "acc_dense": known(tests.acc_dense),
        "acc_sparse": known(tests.acc_sparse),
        "excess_gap": bounded(welched.value, welched.lower, welched.upper),
        "t": known(welched.t),
        "degrees_of_freedom": known(welched.freedom),
        "p_welch": known(welched.p),
        "p_welch_holm": known(tests.p_holm),
        "models_needed": [None if m is None else int(m) for m in known(tests.needed)],
    }
    rows = zip(*columns.values(), strict=True)
    return tuple(GroupPies(**dict(zip(columns, row, strict=True))) for row in rows)


def _images(found: Populations, identified: Identified) -> tuple[Pie, ...]:
    """The identified images, the clearest first, equally clear ones as in the CSV."""
    rows = np.flatnonzero(identified.pies)
    rows = rows[np.argsort(-identified.margin[rows], kind="stable")]
    names = [f"{feature}={value}" for feature, value in found.grouping.names]
    modal = [
        _modal_labels(answers[:, rows], modes.votes[rows], found.classes)
        for answers, modes in (
            (found.dense_answers, identified.dense),
            (found.sparse_answers, identified.sparse),
        )
    ]
    return tuple(
        Pie(
            id=found.ids[row],
            label=found.classes[int(found.label[row])],
            dense=modal[0][i],
            sparse=modal[1][i],
            votes_dense=int(identified.dense.votes[row]),
            votes_sparse=int(identified.sparse.votes[row]),
            margin=float(identified.margin[row]),
            groups=tuple(names[g] for g in found.groups[row].tolist()),
        )
        for i, row in enumerate(rows.tolist())
    )


def _modal_labels(
    answers: Integers, votes: Integers, classes: Sequence[str]
) -> list[tuple[str, ...]]:
    """All labels with the most votes, by image."""
    modal = np.array([votes_for(answers, row) == votes for row in answers])
    return [
        tuple(classes[label] for label in sorted(set(column[which].tolist())))
        for column, which in zip(answers.T, modal.T, strict=True)
    ]
