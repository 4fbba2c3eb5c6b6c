"""Confidence bounds for paired differences of proportions, and for psi.

Everything rests on three integers per group, counted on the same images: n, lost (the dense model
right, the sparse one wrong) and gained (the other way round). With d = (lost - gained) / n and
pi_g the group's share of all images,

    psi_g = (1 - pi_g) (d_g - d_rest)

is a difference over disjoint images, so that the two sides are independent: each gets an interval
of its own, and both are put together. All bounds are one-sided. They are about the images that
might have been drawn instead, for these two models as they are; another training seed makes
another pair of models.

Every function takes arrays of any one shape, or numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from scipy import special

Numbers = npt.NDArray[np.float64]
Bounds = tuple[Numbers, Numbers]

INTERVALS = ("score", "exact")

REST_SHARE = 0.2
"""Share of the error that the exact interval spends on the rest of the images."""


def _bisected(
    low: Numbers,
    high: Numbers,
    still_low: Callable[[Numbers], npt.NDArray[np.bool_]],
    halvings: int,
) -> Numbers:
    """Where a condition that holds from ``low`` on ceases to hold, element by element."""
    for _ in range(halvings):
        middle = (low + high) / 2
        holds = still_low(middle)
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return (low + high) / 2


def tango(lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, z: npt.ArrayLike) -> Bounds:
    """Score bounds for the expected difference of two paired proportions.

    The differences delta at which the score statistic

        T(delta) = (lost - gained - n delta) / sqrt(n (2 q + delta (1 - delta)))

    is z and -z, q being the constrained estimate of the probability of a gain. Where nothing
    changed they are ``-+ z^2 / (n + z^2)``, which is not nothing: no change in 20 images says
    little. Source: Tango 1998, *Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design*.

    Args:
        lost: Number of images that only the first model gets right.
        gained: Number that only the second gets right.
        n: Number of images, above 0.
        z: Quantile of the normal distribution, at least 0: 1.645 for one-sided bounds at 5 %.

    Returns:
        Lower and upper bound, in [-1, 1].
    """
    b, c, n, z = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (lost, gained, n, z)))
    measured = (b - c) / n

    def score(delta: Numbers) -> Numbers:
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
        variance = n * ((root - linear) / (2 * n) + delta * (1 - delta))
        distance = b - c - n * delta
        certain = np.where(distance > 0, np.inf, -np.inf)
        certain = np.where(np.abs(distance) < 1e-12, 0.0, certain)
        known = variance > 1e-14
        return np.where(known, distance / np.sqrt(np.where(known, variance, 1.0)), certain)

    one = np.ones_like(measured)
    lower = _bisected(-one, measured, lambda delta: score(delta) > z, 50)
    upper = _bisected(measured, one, lambda delta: score(delta) >= -z, 50)
    return lower, upper


def clopper_pearson(count: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike) -> Bounds:
    """Exact bounds for a probability: each is wrong at most ``alpha`` of the time, whatever it is.

    Source: Clopper and Pearson 1934.

    Args:
        count: Successes.
        n: Trials, above 0.
        alpha: Largest error of each bound, in (0, 1).

    Returns:
        Lower bound, 0 without successes, and upper bound, 1 without failures.
    """
    x, n, alpha = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (count, n, alpha)))
    none, all_of_them = x <= 0, x >= n
    lower = special.betaincinv(np.where(none, 1.0, x), n - x + 1, alpha)
    upper = special.betainccinv(x + 1, np.where(all_of_them, 1.0, n - x), alpha)
    return np.where(none, 0.0, lower), np.where(all_of_them, 1.0, upper)


def exact(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike
) -> Bounds:
    """Bounds for a paired difference whose error is at most ``alpha``, however small the group.

    The difference of Clopper-Pearson bounds for the two probabilities, at half of alpha each.
    """
    half = np.asarray(alpha, np.float64) / 2
    lost_low, lost_high = clopper_pearson(lost, n, half)
    gained_low, gained_high = clopper_pearson(gained, n, half)
    return lost_low - gained_high, lost_high - gained_low


@dataclass(frozen=True)
class Counts:
    """Groups beside all images."""

    n: Numbers
    """Images by group, above 0."""
    lost: Numbers
    gained: Numbers
    all_n: Numbers
    """All images beside which a group stands, by group, since they may be counted in its way."""
    all_lost: Numbers
    all_gained: Numbers

    def only(self, chosen: npt.NDArray[np.bool_]) -> Counts:
        """Some of the groups."""
        return Counts(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def without_change(self) -> Counts:
        """The same images, if both models answered alike."""
        nothing = np.zeros(len(self.n))
        return replace(self, lost=nothing, gained=nothing, all_lost=nothing, all_gained=nothing)


def psi_bounds(
    counts: Counts,
    z: npt.ArrayLike,
    interval: str = "score",
    against: str = "overall",
    *,
    grown: npt.ArrayLike = 1.0,
) -> tuple[Numbers, Numbers, Numbers]:
    """The excess accuracy gap of groups, with one-sided bounds.

    ``score``: Tango's bounds of the group and of the rest, put together by the method of variance
    estimates recovery (Zou and Donner 2008): with l and u the bounds of either side,

        L = (1 - pi) (d_g - d_r - sqrt((d_g - l_g)^2 + (u_r - d_r)^2))
        U = (1 - pi) (d_g - d_r + sqrt((u_g - d_g)^2 + (d_r - l_r)^2))

    Its error is alpha nominally; the worst cases are in docs/audit.md. ``exact``: the difference
    of exact bounds, with four fifths of alpha for the group and one for the rest; never more than
    alpha, and about twice as wide.

    Args:
        counts: The groups.
        z: Quantile for the error: alpha is P(Z > z) for a standard normal Z. At least 0.
        interval: One of ``INTERVALS``.
        against: ``rest`` for ``d_g - d_r`` itself, without the factor 1 - pi, which makes psi of a
            large group small.
        grown: As if a group had so many times as many images, with the same rates and the same
            weight in psi.

    Returns:
        psi, lower bound, upper bound. All 0 for a group of all images.
    """
    n, lost, gained = counts.n, counts.lost, counts.gained
    rest = counts.all_n - n
    weight = rest / counts.all_n if against == "overall" else np.ones(len(n))  # 1 - pi
    others = (counts.all_lost - lost, counts.all_gained - gained, np.where(rest > 0, rest, 1.0))
    d, d_rest = (lost - gained) / n, (others[0] - others[1]) / others[2]
    psi = weight * (d - d_rest)
    grown = np.asarray(grown, np.float64)
    group = (lost * grown, gained * grown, n * grown)
    if interval == "exact":
        alpha = special.ndtr(-np.asarray(z, np.float64))
        low, high = exact(*group, (1 - REST_SHARE) * alpha)
        rest_low, rest_high = exact(*others, REST_SHARE * alpha)
        return psi, weight * (low - rest_high), weight * (high - rest_low)
    low, high = tango(*group, z)
    rest_low, rest_high = tango(*others, z)
    down, up = np.hypot(d - low, rest_high - d_rest), np.hypot(high - d, d_rest - rest_low)
    return psi, psi - weight * down, psi + weight * up


def quantile_of(alpha: float) -> float:
    """The number that a standard normal variable exceeds with probability alpha."""
    return float(-special.ndtri(alpha))


def p_values(
    counts: Counts, eps: Numbers, interval: str = "score", against: str = "overall"
) -> Numbers:
    """For each group the smallest alpha at which its lower bound is above eps.

    Args:
        counts: The groups.
        eps: Largest psi allowed, by group.
        interval: One of ``INTERVALS``.
        against: As for :func:`psi_bounds`.

    Returns:
        p in [0, 1]: 1 where psi itself is not above eps, and where p would be above a half.
    """
    p = np.ones(len(counts.n))
    psi, lower, _ = psi_bounds(counts, 0.0, interval, against)
    above = (psi > eps) & (lower > eps) if interval == "exact" else psi > eps
    if above.any():
        some, limit = counts.only(above), eps[above]
        zero = np.zeros(len(limit))
        z = _bisected(
            zero, zero + 38.0, lambda at: psi_bounds(some, at, interval, against)[1] > limit, 40
        )
        p[above] = special.ndtr(-z)
    return p


def holm(p: Numbers) -> Numbers:
    """p-values adjusted so that rejecting those up to alpha is wrong at all at most so often.

    The i-th smallest of m is multiplied by m - i + 1, and none is less than one before it. That
    holds whatever the dependence of the tests. Source: Holm 1979.
    """
    order = np.argsort(p, kind="stable")
    raised = np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted
