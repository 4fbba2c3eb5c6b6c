"""Bounds for shares and means by group, beside all images: what psi has, for other numbers.

Of any number per image, a group's excess is its mean less the mean of all images,

    excess_g = m_g - m = (1 - pi_g) (m_g - m_rest),

a difference over disjoint images. All bounds are one-sided, each at alpha, as those of psi
(``intervals``). Every function takes arrays of one shape, or numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import numpy.typing as npt
from scipy import special

from ceag_cli.arrays import Integers, Numbers
from ceag_cli.intervals import MOST, REST_SHARE, Bounds, clopper_pearson, crossing

FEWEST = 100
"""Images below which a mean of numbers that are not 0 or 1 gets no bounds: Student's t would be
wrong too often."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A measured number with one-sided bounds at alpha."""

    value: float
    lower: float | None
    """``None``: too few images for bounds, or no variation to tell them from."""
    upper: float | None


def bounded(value: Numbers, lower: Numbers, upper: Numbers) -> list[Bounded | None]:
    """One by one; ``None`` where there is no value. NaN says that there is none."""
    columns = zip(value.tolist(), lower.tolist(), upper.tolist(), strict=True)
    return list(starmap(_bounded, columns))


def _bounded(value: float, lower: float, upper: float) -> Bounded | None:
    if value != value:
        return None
    return Bounded(value, None if lower != lower else lower, None if upper != upper else upper)


def known(values: Numbers) -> list[float | None]:
    """An array as a list, ``None`` for NaN."""
    return [None if value != value else value for value in values.tolist()]


def divided(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Numbers:
    """A quotient, NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    found: Numbers = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return found


def summed(ids: Integers, weights: npt.NDArray[np.generic] | None, number: int) -> Numbers:
    """Sums over the images of each group; counts without weights.

    Args:
        ids: Groups of each image, shape ``(N, F)``.
        weights: By image, numbers or flags.
        number: G, over all features.
    """
    total = np.zeros(number)
    if weights is not None and weights.dtype == np.bool_:
        ids, weights = ids[weights], None
    for column in ids.T:
        total += np.bincount(column, weights, number)
    return total


def wilson(count: npt.ArrayLike, n: npt.ArrayLike, z: npt.ArrayLike) -> Bounds:
    """Score bounds for a probability. Source: Wilson 1927.

    With p = count / n, the two numbers q that solve ``(p - q)^2 = z^2 q (1 - q) / n``.

    Args:
        count: Successes.
        n: Trials, above 0.
        z: Quantile of the normal distribution, at least 0.
    """
    x, n, z = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (count, n, z)))
    share, square = x / n, z**2 / n
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    lower = np.where(x <= 0, 0.0, np.maximum(centre - half, 0.0))
    return lower, np.where(x >= n, 1.0, np.minimum(centre + half, 1.0))


def share_bounds(count: Numbers, n: Numbers, alpha: float, effect: Numbers) -> list[Bounded | None]:
    """A share with exact bounds (Clopper and Pearson); ``None`` for no images.

    Args:
        count: Images that count.
        n: Images.
        alpha: Error of each bound.
        effect: By how much clusters make the images fewer than they look.
    """
    known = n > 0
    lower, upper = np.full(len(n), np.nan), np.full(len(n), np.nan)
    by = effect[known]
    lower[known], upper[known] = clopper_pearson(count[known] / by, n[known] / by, alpha)
    return bounded(divided(count, n), lower, upper)


def excess_share(
    count: npt.ArrayLike,
    n: npt.ArrayLike,
    all_count: npt.ArrayLike,
    all_n: npt.ArrayLike,
    alpha: Numbers | float,
    interval: str = "score",
) -> tuple[Numbers, Numbers, Numbers]:
    """A group's share less that of all images, with bounds.

    ``score``: Wilson's bounds on either side, put together as those of psi (MOVER). ``exact``:
    the difference of Clopper-Pearson bounds, never wrong more often than alpha.

    Args:
        count: Images that count, in the group.
        n: Images of the group; NaN is the answer where there are none.
        all_count: Images that count, in all.
        all_n: All images.
        alpha: Error of each bound.
        interval: ``score`` or ``exact``.

    Returns:
        Excess, lower and upper bound; all 0 for a group of all images.
    """
    x, n, all_x, all_n = np.broadcast_arrays(
        *(np.asarray(v, np.float64) for v in (count, n, all_count, all_n))
    )
    rest = all_n - n
    some = np.where(n > 0, n, 1.0)
    others, rest_x = np.where(rest > 0, rest, 1.0), all_x - x
    weight = np.where(n > 0, divided(rest, all_n), np.nan)
    p, q = x / some, rest_x / others
    excess = weight * (p - q)
    if interval == "exact":
        low, high = clopper_pearson(x, some, (1 - REST_SHARE) * alpha)
        rest_low, rest_high = clopper_pearson(rest_x, others, REST_SHARE * alpha)
        return excess, weight * (low - rest_high), weight * (high - rest_low)
    z = -special.ndtri(alpha)
    low, high = wilson(x, some, z)
    rest_low, rest_high = wilson(rest_x, others, z)
    down, up = np.hypot(p - low, rest_high - q), np.hypot(high - p, q - rest_low)
    return excess, excess - weight * down, excess + weight * up


def excess_share_p(
    count: npt.ArrayLike,
    n: npt.ArrayLike,
    all_count: npt.ArrayLike,
    all_n: npt.ArrayLike,
    interval: str = "score",
) -> Numbers:
    """For each group the smallest alpha at which the lower bound of its excess share is above 0.

    Args:
        count: As for :func:`excess_share`.
        n: Likewise.
        all_count: Likewise.
        all_n: Likewise.
        interval: ``score`` or ``exact``.

    Returns:
        p of "its share is at most that of all images", in [0, 1/2], and 1 where the excess is not
        above 0; NaN for a group without images.
    """
    given = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (count, n, all_count, all_n)))
    x, some, all_x, others = (column.reshape(-1) for column in given)

    def lower(z: Numbers, i: Integers) -> Numbers:
        level = special.ndtr(-z)
        return excess_share(x[i], some[i], all_x[i], others[i], level, interval)[1]

    everywhere = np.arange(len(x))
    at_low = lower(np.zeros(len(everywhere)), everywhere)  # the excess itself for the score bounds
    p = np.where(np.isnan(at_low), np.nan, 1.0)
    above = np.flatnonzero(at_low > 0)
    if len(above):
        low, high = np.zeros(len(above)), np.full(len(above), MOST)
        at_high = lower(high, above)
        z = crossing(
            lambda x, i: lower(x, above[i]), low, high, at_low[above], np.minimum(at_high, -1e-300)
        )
        p[above] = special.ndtr(-np.where(at_high > 0, MOST, z))
    return p.reshape(given[0].shape)


def mean_shift(
    before: Numbers,
    after: Numbers,
    ids: Integers,
    number: int,
    alpha: float,
    effects: tuple[Numbers, Numbers] | None = None,
) -> tuple[tuple[Numbers, Numbers, Numbers], tuple[Numbers, Numbers, Numbers]]:
    """By how much the mean of a number per image shifts, by group, and the excess of that.

    The shift of an image is ``d = after - before``, and its mean m has Student's bounds
    ``m -+ t s / sqrt(n)`` with n - 1 degrees of freedom. The excess has Welch's: its variance is

        (1 - pi)^2 (s_g^2 / n_g + s_r^2 / n_r)

    with Satterthwaite's degrees of freedom, r being the rest of the images. Both variances are
    multiplied by the effect of clusters.

    Args:
        before: By image, of the dense model.
        after: By image, of the sparse model.
        ids: Groups of each image, shape ``(N, F)``.
        number: G, over all features.
        alpha: Error of each bound.
        effects: By how much clusters make a group's images fewer than they look, for the shift and
            for the excess; 1 without any.

    Returns:
        Shift and excess, each with its bounds. Bounds are NaN for groups that count for fewer than
        ``FEWEST`` images and for those in which all images shift alike; those of the excess also
        where the rest is such. Value, too, for groups without images.
    """
    shift = after - before
    n, total = summed(ids, None, number), len(shift)
    whole = float(shift.mean()) if total else 0.0
    centred = shift - whole
    # Squares of what is left of a common shift lose no digits.
    first, square = summed(ids, centred, number), summed(ids, centred**2, number)
    mean = divided(first, n)
    rest, rest_first = total - n, -first + float(centred.sum())
    rest_mean = divided(rest_first, rest)
    own = divided(np.maximum(square - first * divided(first, n), 0.0), n - 1)
    rest_square = float((centred**2).sum()) - square
    other = divided(np.maximum(rest_square - rest_first * np.nan_to_num(rest_mean), 0.0), rest - 1)

    tiny = 1e-12 * (whole**2 + (float((centred**2).mean()) if total else 0.0)) + 1e-300
    by, by_excess = effects or (np.ones(number), np.ones(number))
    known = (n >= FEWEST * np.maximum(by, by_excess)) & (own > tiny)
    half = np.full(number, np.nan)
    half[known] = special.stdtrit(n[known] - 1, 1 - alpha)
    half[known] *= np.sqrt(own[known] * by[known] / n[known])
    shifts = (whole + mean, whole + mean - half, whole + mean + half)

    weight = np.where(n > 0, rest / max(total, 1), np.nan)
    excess = np.where(rest > 0, weight * (mean - np.nan_to_num(rest_mean)), 0.0 * weight)
    both = known & (rest >= FEWEST) & (other > tiny)
    a, b = own[both] / n[both], other[both] / rest[both]
    freedom = satterthwaite(a, n[both] - 1, b, rest[both] - 1)
    wide = np.full(number, np.nan)
    wide[both] = special.stdtrit(freedom, 1 - alpha) * np.sqrt((a + b) * by_excess[both])
    wide[both] *= weight[both]
    wide[n == total] = 0.0  # everybody's excess is 0 by definition
    return shifts, (excess, excess - wide, excess + wide)


def satterthwaite(
    a: npt.ArrayLike, of_a: Numbers | float, b: npt.ArrayLike, of_b: Numbers | float
) -> Numbers:
    """Degrees of freedom of ``a + b``, two variances that are known by so many degrees each.

    NaN where both are 0. Source: Satterthwaite 1946.
    """
    one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
    # Of the shares of both, since squares of small variances may vanish.
    share = divided(one, one + two)
    return divided(1.0, share**2 / of_a + (1 - share) ** 2 / of_b)


def benjamini_hochberg(p: Numbers) -> Numbers:
    """p-values adjusted so that of those up to q, a share of about q is expected to be false.

    The i-th smallest of m is multiplied by m / i, and none is more than one after it.
    Source: Benjamini and Hochberg 1995.
    """
    order = np.argsort(p, kind="stable")
    raised = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return adjusted


def mcnemar(one: npt.ArrayLike, other: npt.ArrayLike) -> Numbers:
    """Exact p of "an image is as likely to go one way as the other", two-sided.

    Of all that went either way, each way is a toss of a coin: p is twice the probability of the
    smaller of both counts or less, at most 1. Source: McNemar 1947.
    """
    b, c = np.broadcast_arrays(np.asarray(one, np.float64), np.asarray(other, np.float64))
    p: Numbers = np.minimum(2 * special.bdtr(np.minimum(b, c), (b + c).astype(np.int64), 0.5), 1.0)
    return p


def names_of(found: Sequence[str], of: int) -> tuple[str, ...]:
    """Names for so many numbers: those given, then the numbers themselves."""
    return (*found[:of], *(str(i) for i in range(len(found), of)))
