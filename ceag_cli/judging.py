"""Verdicts of groups, from their counts: bounds, p-values, and Holm's correction over all of them.

PASS   the upper bound at alpha is at most eps
FAIL   the p-value of "psi is at most eps", corrected, is at most alpha
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.intervals import Counts, crossing, holm, p_values, psi_bounds, psi_lower, quantile_of

MOST_TIMES = 1e6
"""A group that would need more than so many times as many images is not waited for."""
STEPS = 8
"""In so many steps, equal in logarithm, a number of images that decides is looked for."""


@dataclass(frozen=True)
class Questions:
    """Whether psi is at most eps, one entry per group and gated split."""

    counts: Counts
    eps: Numbers
    accepted: Numbers
    """The same, or the larger psi that a waiver accepts for now."""
    same_as: Integers
    """Number of the first entry that asks the same of the same images."""


@dataclass(frozen=True)
class Answers:
    """One entry per question."""

    lower: Numbers
    upper: Numbers
    p: Numbers
    """Of "psi is at most eps"."""
    p_holm: Numbers
    passes: Flags
    fails: Flags
    waived: Flags
    """It would be FAIL, were it not accepted for now."""
    too_small: Flags
    """It could not pass even if no answer had changed."""
    times: Numbers
    """How many times its images an undecided group would need for a verdict; NaN if no number
    would do."""
    grows: Flags
    """Whether all groups would have to grow so, and not the group alone."""
    family_size: int
    """Number of distinct questions."""


def answers(asked: Questions, alpha: float, interval: str, against: str) -> Answers:
    """Judge all groups.

    Args:
        asked: About which groups.
        alpha: Error level of each PASS, and of all FAILs together.
        interval: As for :func:`~ceag_cli.intervals.psi_bounds`.
        against: Likewise.
    """
    kind, z = (interval, against), quantile_of(alpha)
    counts, eps = asked.counts, asked.eps
    psi, lower, upper = psi_bounds(counts, z, *kind)
    p = p_values(counts, eps, *kind)
    # FAIL is said of psi beyond what is accepted, by one procedure for all groups; what is beyond
    # eps only is waived.
    excused = asked.accepted > eps
    p_accepted = p.copy()
    if excused.any():
        p_accepted[excused] = p_values(counts.only(excused), asked.accepted[excused], *kind)
    beyond_eps, beyond_accepted = corrected(p, asked.same_as), corrected(p_accepted, asked.same_as)
    p_holm = np.where(excused, beyond_eps, beyond_accepted)
    passes: Flags = upper <= eps
    fails: Flags = (beyond_accepted <= alpha) & ~passes
    waived: Flags = excused & (beyond_eps <= alpha) & ~fails & ~passes
    _, _, best = psi_bounds(counts.without_change(), z, *kind)
    times, grows = np.full(len(eps), np.nan), np.zeros(len(eps), bool)
    undecided = ~(passes | fails | waived)
    if undecided.any():
        level = _level(asked, fails, alpha)
        times[undecided], grows[undecided] = _times(
            counts.only(undecided), eps[undecided], psi[undecided], alpha, level, *kind
        )
    return Answers(
        lower=lower,
        upper=upper,
        p=p,
        p_holm=p_holm,
        passes=passes,
        fails=fails,
        waived=waived,
        too_small=best > eps,
        times=times,
        grows=grows,
        family_size=int(distinct(asked.same_as).sum()),
    )


def distinct(same_as: Integers) -> Flags:
    """Which questions are the first to ask what they ask."""
    found: Flags = same_as == np.arange(len(same_as))
    return found


def corrected(p: Numbers, same_as: Integers) -> Numbers:
    """Holm's correction over one family of all distinct questions.

    Args:
        p: One per question.
        same_as: Number of the first question that asks the same of the same images.
    """
    asked = distinct(same_as)
    found = np.ones(len(p))
    found[asked] = holm(p[asked])
    return found[same_as]


def _level(asked: Questions, fails: Flags, alpha: float) -> float:
    """What the p-value of an undecided group would have to be for FAIL, others as they are."""
    return alpha / max(int((distinct(asked.same_as) & ~fails).sum()), 1)


def _times(
    counts: Counts,
    eps: Numbers,
    psi: Numbers,
    alpha: float,
    level: float,
    interval: str,
    against: str,
) -> tuple[Numbers, Flags]:
    """How many times its images each group would need: towards FAIL where psi is above eps.

    Images with the group's rates are added to the group, and so to all images: its share grows and
    its psi shrinks accordingly. Where that decides nothing before the group is larger than all
    others together, images of all groups are added alike, and psi stays.

    Returns:
        The times, NaN if no number would do; and where all groups grow.
    """
    high = psi > eps
    z = np.where(high, quantile_of(level), quantile_of(alpha))
    # The upper bound is at most eps where the lower one of the models swapped is at least -eps.
    turned, limit = counts.swapped(~high), np.where(high, eps, -eps)

    def alone(log_times: Numbers, i: Integers) -> Numbers:
        more = turned.only(i).with_more(np.exp(log_times))
        return limit[i] - psi_lower(more, z[i], interval, against)

    def alike(log_times: Numbers, i: Integers) -> Numbers:
        more = turned.only(i).of_larger(np.exp(log_times))
        return limit[i] - psi_lower(more, z[i], interval, against)

    most = np.log(np.clip((counts.all_n - counts.n) / counts.n, 1.0, MOST_TIMES))
    found = _where_decided(alone, most, np.flatnonzero(most > 0))
    grows = np.isnan(found)
    others = np.flatnonzero(grows)
    found[others] = _where_decided(alike, np.full(len(most), np.log(MOST_TIMES)), others)[others]
    return np.exp(found), grows


def _where_decided(
    undecided: Callable[[Numbers, Integers], Numbers], most: Numbers, some: Integers
) -> Numbers:
    """For some groups the smallest log of times at which they are decided; else NaN.

    Args:
        undecided: Positive where a group is not decided; takes logs of times and groups. It falls,
            and may rise again, as the lower bound of a group that dilutes itself does.
        most: Largest log of times, by group.
        some: Numbers of the groups.
    """
    found = np.full(len(most), np.nan)
    low = np.zeros(len(most))
    at_low = np.full(len(most), 1e-300)
    for step in np.linspace(0, 1, STEPS + 1)[1:]:
        if not len(some):
            break
        at = step * most[some]
        value = undecided(at, some)
        now = some[value < 0]
        if len(now):
            found[now] = crossing(
                lambda x, i, now=now: undecided(x, now[i]),  # type: ignore[misc]
                low[now],
                at[value < 0],
                at_low[now],
                value[value < 0],
                tolerance=1e-7,
            )
        low[some], at_low[some] = at, np.maximum(value, 1e-300)
        some = some[value >= 0]
    return found


def same_images(ids: Integers, n: Integers) -> Integers:
    """For each group the number of the first one of the very same images.

    Args:
        ids: Group ids of each image, shape ``(N, F)``.
        n: Images by group.
    """
    number = len(n)
    found = np.arange(number)
    if ids.shape[1] < 2:
        return found  # groups of one feature share no image
    keys = [n]
    generator = np.random.default_rng(0)
    for _ in range(2):  # sums of random whole numbers, exact in float64 up to 8 million images
        random = generator.integers(2**30, size=len(ids)).astype(np.float64)
        sums = np.zeros(number)
        for of_feature in ids.T:
            sums += np.bincount(of_feature, random, number)
        keys.append(sums.astype(np.int64))
    first: dict[tuple[int, ...], int] = {}
    for g, key in enumerate(zip(*(key.tolist() for key in keys), strict=True)):
        found[g] = first.setdefault(key, g)
    return found


def above(measured: tuple[int, int], limit: float) -> bool:
    """Whether a fraction is above a limit as it is written: 0.1 is a tenth.

    Args:
        measured: Numerator and denominator, which is above 0.
        limit: In decimal digits, as a policy has it.
    """
    exactly = _rational(limit)
    return measured[0] * exactly.denominator > exactly.numerator * measured[1]


@lru_cache
def _rational(limit: float) -> Fraction:
    return Fraction(repr(float(limit)))
