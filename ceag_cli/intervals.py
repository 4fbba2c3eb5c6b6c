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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from ceag_cli.arrays import Flags, Integers, Numbers

Bounds = tuple[Numbers, Numbers]

INTERVALS = ("score", "exact")

REST_SHARE = 0.2
"""Share of the error that the exact interval spends on the rest of the images."""


def crossing(
    function: Callable[[Numbers, Integers], Numbers],
    low: Numbers,
    high: Numbers,
    at_low: Numbers,
    at_high: Numbers,
    tolerance: float = 1e-13,
) -> Numbers:
    """Where functions that are positive at ``low`` and negative at ``high`` change their sign.

    All at once, by Chandrupatla's method (1997): inverse quadratic interpolation where the points
    allow it, else bisection.

    Args:
        function: Takes points and the numbers of the functions that they are for.
        low: One end, by function.
        high: The other, above or below it.
        at_low: Positive; need not be the true value.
        at_high: Negative; likewise.
        tolerance: How near to have it, relative to its size, or a tenth of it absolutely.
    """
    found = (low + high) / 2
    which = np.arange(len(found))
    x1, x2, f1, f2 = low, high, at_low, at_high
    t = np.full(len(found), 0.5)
    for _ in range(80):
        x = x1 + t * (x2 - x1)
        f = function(x, which)
        same = (f > 0) == (f1 > 0)
        x3, f3 = np.where(same, x1, x2), np.where(same, f1, f2)
        x2, f2 = np.where(same, x2, x1), np.where(same, f2, f1)
        x1, f1 = x, f
        found[which] = np.where(np.abs(f1) < np.abs(f2), x1, x2)
        width = np.abs(x2 - x1)
        near = tolerance * (0.1 + np.abs(x1))
        on = (width > 2 * near) & (f1 != 0)
        if not on.any():
            break
        which, near, width = which[on], near[on], width[on]
        x1, x2, x3, f1, f2, f3 = x1[on], x2[on], x3[on], f1[on], f2[on], f3[on]
        with np.errstate(all="ignore"):
            xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
            inverse = f1 / (f2 - f1) * f3 / (f2 - f3)
            inverse += (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        t = np.clip(np.where(smooth, inverse, 0.5), near / width, 1 - near / width)
    return found


def _constrained(delta: Numbers, lost: Numbers, gained: Numbers) -> Numbers:
    """Standard deviation of an image's change in which the expected change is delta.

    The rates are those that make the counts most likely among all with that difference.

    Args:
        delta: Difference of the rates, in [-1, 1].
        lost: Rate measured.
        gained: Rate measured.
    """
    linear = (2 - lost + gained) * delta - lost - gained
    product = gained * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 + 8 * product, 0.0))
    variance: Numbers = (root - linear) / 2 + delta * (1 - delta)
    return np.sqrt(np.maximum(variance, 0.0))


def _tango_lower(b: Numbers, c: Numbers, n: Numbers, z: Numbers) -> Numbers:
    lost, gained, scale = b / n, c / n, z / np.sqrt(n)
    measured = lost - gained

    def beyond(delta: Numbers, i: Integers) -> Numbers:
        sd = _constrained(delta, lost[i], gained[i])
        found: Numbers = measured[i] - delta - scale[i] * sd
        return found

    # No change has a standard deviation above 1, so the bound is not below this.
    low = np.maximum(measured - scale, -1.0)
    everywhere = np.arange(len(low))
    at_low = np.maximum(beyond(low, everywhere), 1e-300)
    at_high = np.minimum(beyond(measured, everywhere), -1e-3 * scale - 1e-300)
    return crossing(beyond, low, measured, at_low, at_high)


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
        n: Number of images, above 0. Counts need not be whole numbers.
        z: Quantile of the normal distribution, at least 0: 1.645 for one-sided bounds at 5 %.

    Returns:
        Lower and upper bound, in [-1, 1].
    """
    given = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (lost, gained, n, z)))
    shape = given[0].shape
    b, c, total, quantile = (x.reshape(-1) for x in given)
    lower = _tango_lower(b, c, total, quantile)
    upper = -_tango_lower(c, b, total, quantile)  # the same for the models swapped
    return lower.reshape(shape), upper.reshape(shape)


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
    return _cp_lower(x, n, alpha), _cp_upper(x, n, alpha)


def _cp_lower(x: Numbers, n: Numbers, alpha: Numbers) -> Numbers:
    none = x <= 0
    return np.where(none, 0.0, special.betaincinv(np.where(none, 1.0, x), n - x + 1, alpha))


def _cp_upper(x: Numbers, n: Numbers, alpha: Numbers) -> Numbers:
    every = x >= n
    return np.where(every, 1.0, special.betainccinv(x + 1, np.where(every, 1.0, n - x), alpha))


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

    @classmethod
    def of(cls, parts: Sequence[Counts]) -> Counts:
        """All of them, one after the other."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def only(self, chosen: Flags | Integers) -> Counts:
        """Some of the groups."""
        return Counts(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def without_change(self) -> Counts:
        """The same images, if both models answered alike."""
        nothing = np.zeros(len(self.n))
        return replace(self, lost=nothing, gained=nothing, all_lost=nothing, all_gained=nothing)

    def swapped(self, where: npt.ArrayLike = True) -> Counts:
        """The models exchanged, for some groups or all: psi is negated."""
        return Counts(
            self.n,
            np.where(where, self.gained, self.lost),
            np.where(where, self.lost, self.gained),
            self.all_n,
            np.where(where, self.all_gained, self.all_lost),
            np.where(where, self.all_lost, self.all_gained),
        )

    def with_more(self, times: npt.ArrayLike) -> Counts:
        """If each group had so many times as many images, with its rates; all others as before."""
        more = np.asarray(times, np.float64) - 1
        return Counts(
            self.n * (1 + more),
            self.lost * (1 + more),
            self.gained * (1 + more),
            self.all_n + self.n * more,
            self.all_lost + self.lost * more,
            self.all_gained + self.gained * more,
        )

    def of_larger(self, times: npt.ArrayLike) -> Counts:
        """If all groups had so many times as many images, with the rates that they have."""
        times = np.asarray(times, np.float64)
        return Counts(*(getattr(self, field.name) * times for field in fields(self)))

    @property
    def rest(self) -> tuple[Numbers, Numbers, Numbers]:
        """Lost, gained and number of the other images; 1 image, unchanged, where there is none."""
        n = self.all_n - self.n
        return self.all_lost - self.lost, self.all_gained - self.gained, np.where(n > 0, n, 1.0)

    def weight(self, against: str) -> Numbers:
        """What the difference to the rest is multiplied by: 1 - pi, or 1 ``against`` the rest."""
        if against == "rest":
            return np.where(self.n < self.all_n, 1.0, 0.0)
        return 1 - self.n / self.all_n


def psi_bounds(
    counts: Counts,
    z: npt.ArrayLike,
    interval: str = "score",
    against: str = "overall",
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

    Returns:
        psi, lower bound, upper bound. All 0 for a group of all images.
    """
    d, others = (counts.lost - counts.gained) / counts.n, counts.rest
    psi = counts.weight(against) * (d - (others[0] - others[1]) / others[2])
    lower = psi_lower(counts, z, interval, against)
    upper = 0.0 - psi_lower(counts.swapped(), z, interval, against)  # no -0.0
    return psi, lower, upper


def psi_lower(counts: Counts, z: npt.ArrayLike, interval: str, against: str) -> Numbers:
    """The lower bound alone; the upper one is that of the models swapped, negated."""
    z = np.broadcast_to(np.asarray(z, np.float64), counts.n.shape)
    weight, (lost, gained, n) = counts.weight(against), counts.rest
    if interval == "exact":
        half = special.ndtr(-z) / 2
        share, rest_share = (1 - REST_SHARE) * half, REST_SHARE * half
        low = _cp_lower(counts.lost, counts.n, share) - _cp_upper(counts.gained, counts.n, share)
        high = _cp_upper(lost, n, rest_share) - _cp_lower(gained, n, rest_share)
        return weight * (low - high)
    d, d_rest = (counts.lost - counts.gained) / counts.n, (lost - gained) / n
    low = _tango_lower(counts.lost, counts.gained, counts.n, z)
    high = -_tango_lower(gained, lost, n, z)
    return weight * (d - d_rest - np.hypot(d - low, high - d_rest))


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
    lower = psi_lower(counts, 0.0, interval, against)  # psi itself for the score interval
    above = lower > eps
    if above.any():
        by_interval = _exact_quantiles if interval == "exact" else _score_quantiles
        p[above] = special.ndtr(-by_interval(counts.only(above), eps[above], against))
    return p


MOST = 37.0
"""A normal variable exceeds it with a probability that is just above 0 as a float64."""


def _exact_quantiles(counts: Counts, eps: Numbers, against: str) -> Numbers:
    """The z at which the exact lower bound of psi is eps, which psi is above."""

    def beyond(z: Numbers, i: Integers) -> Numbers:
        return psi_lower(counts.only(i), z, "exact", against) - eps[i]

    low = np.zeros(len(eps))
    high = np.full(len(eps), MOST)
    everywhere = np.arange(len(eps))
    at_high = beyond(high, everywhere)
    found = crossing(beyond, low, high, beyond(low, everywhere), np.minimum(at_high, -1e-300))
    return np.where(at_high >= 0, MOST, found)


def _score_quantiles(counts: Counts, eps: Numbers, against: str) -> Numbers:
    """The z at which the score lower bound of psi is eps, which psi is above.

    There the distances of both sides' bounds from what was measured are the legs of a right
    triangle, ``(d_g - l_g)^2 + (u_r - d_r)^2 = D^2`` with ``D = d_g - d_r - eps / (1 - pi)``, and
    both bounds belong to one z. So only the angle is to be found.
    """
    others = counts.rest
    lost, gained = counts.lost / counts.n, counts.gained / counts.n
    rest_lost, rest_gained = others[0] / others[2], others[1] / others[2]
    d, d_rest = lost - gained, rest_lost - rest_gained
    long = d - d_rest - eps / counts.weight(against)
    root, rest_root = np.sqrt(counts.n), np.sqrt(others[2])

    def legs(angle: Numbers, i: Integers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Distances in standard errors, as numerator and standard deviation of an image."""
        down, up = long[i] * np.cos(angle), long[i] * np.sin(angle)
        sd = _constrained(d[i] - down, lost[i], gained[i])
        rest_sd = _constrained(d_rest[i] + up, rest_lost[i], rest_gained[i])
        return down * root[i], sd, up * rest_root[i], rest_sd

    def beyond(angle: Numbers, i: Integers) -> Numbers:
        far, sd, rest_far, rest_sd = legs(angle, i)
        return far * rest_sd - rest_far * sd

    low = np.zeros(len(eps))
    high = np.full(len(eps), np.pi / 2)
    everywhere = np.arange(len(eps))
    at_low = np.maximum(beyond(low, everywhere), 1e-6 * long)
    at_high = np.minimum(beyond(high, everywhere), -1e-6 * long)
    angle = crossing(beyond, low, high, at_low, at_high)
    far, sd, rest_far, rest_sd = legs(angle, everywhere)
    of_group = angle < np.pi / 4  # the longer leg is known better
    top, bottom = np.where(of_group, far, rest_far), np.where(of_group, sd, rest_sd)
    return np.minimum(top / np.maximum(bottom, top / MOST), MOST)


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
