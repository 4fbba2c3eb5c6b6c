from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ceag_cli.arrays import Numbers
from ceag_cli.intervals import (
    INTERVALS,
    Counts,
    clopper_pearson,
    crossing,
    exact,
    holm,
    p_values,
    psi_bounds,
    quantile_of,
    tango,
)

Z = quantile_of(0.05)


def counts(*groups: tuple[float, float, float], all_of: tuple[float, float, float]) -> Counts:
    """Groups as (n, lost, gained), beside all images."""
    columns = [np.array(column, float) for column in zip(*groups, strict=True)]
    return Counts(*columns, *(np.full(len(groups), float(x)) for x in all_of))


def pair(n: float, lost: float, gained: float, rest: tuple[float, float, float]) -> Counts:
    """One group and the other images."""
    return counts((n, lost, gained), all_of=(n + rest[0], lost + rest[1], gained + rest[2]))


# ---------------------------------------------------------------------------------------------
# Tango's score bounds
# ---------------------------------------------------------------------------------------------


def test_a_quantile() -> None:
    assert quantile_of(0.05) == pytest.approx(1.6448536)
    assert quantile_of(0.025) == pytest.approx(1.9599640)
    assert quantile_of(0.5) == 0


@pytest.mark.parametrize(
    ("lost", "gained", "n", "lower", "upper"),
    [  # 95 %, two-sided
        (40, 20, 160, 0.03086, 0.21806),
        (1, 7, 21, -0.51723, -0.02600),
    ],
)
def test_published_score_intervals(
    lost: int, gained: int, n: int, lower: float, upper: float
) -> None:
    found = tango(lost, gained, n, quantile_of(0.025))
    assert [float(x) for x in found] == pytest.approx([lower, upper], abs=5e-6)


@pytest.mark.parametrize("n", [1, 20, 100, 133, 10_000])
def test_no_change_says_little_of_few_images(n: int) -> None:
    lower, upper = tango(0, 0, n, Z)
    assert float(upper) == pytest.approx(Z**2 / (n + Z**2), abs=1e-12)
    assert float(lower) == -float(upper)


def test_no_change_of_a_hundred_images() -> None:
    assert float(tango(0, 0, 100, Z)[1]) == pytest.approx(0.026343, abs=5e-7)


@pytest.mark.parametrize("eps", [0.005, 0.01, 0.02, 0.03, 0.05])
def test_so_many_unchanged_images_it_takes(eps: float) -> None:
    """z^2 (1 - eps) / eps, which is 133 at two points."""
    n = math.ceil(Z**2 * (1 - eps) / eps)
    assert n == {0.005: 539, 0.01: 268, 0.02: 133, 0.03: 88, 0.05: 52}[eps]
    assert float(tango(0, 0, n, Z)[1]) <= eps < float(tango(0, 0, n - 1, Z)[1])


def test_everything_lost() -> None:
    lower, upper = tango(10, 0, 10, Z)
    assert upper == 1
    # T is sqrt(n (1 - delta) / (1 + delta)), since all of the variance is that of delta.
    assert float(lower) == pytest.approx((10 - Z**2) / (10 + Z**2))


def score(delta: float, lost: float, gained: float, n: float) -> float:
    """Tango's statistic, its nuisance parameter by maximising the likelihood itself.

    The probabilities are q of a gain and q + delta of a loss. Golden section, so that nothing of
    the closed form is used.
    """

    def likelihood(q: float) -> float:
        found = 0.0
        for count, p in ((lost, q + delta), (gained, q), (n - lost - gained, 1 - 2 * q - delta)):
            if count:
                if p <= 0:
                    return -math.inf
                found += count * math.log(p)
        return found

    low, high = max(0.0, -delta), (1 - delta) / 2
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if likelihood(left) > likelihood(right):
            high = right
        else:
            low = left
    q = (low + high) / 2
    variance = n * (2 * q + delta - delta**2)
    return (lost - gained - n * delta) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("lost", "gained", "n"),
    [(3, 1, 12), (0, 2, 9), (5, 0, 40), (40, 20, 160), (1, 1, 2), (0, 0, 30), (6, 4, 10)],
)
@pytest.mark.parametrize("z", [0.5, Z, 3.3])
def test_at_its_bounds_the_score_is_z(lost: int, gained: int, n: int, z: float) -> None:
    lower, upper = (float(x) for x in tango(lost, gained, n, z))
    assert score(lower, lost, gained, n) == pytest.approx(z, rel=1e-5)
    assert score(upper, lost, gained, n) == pytest.approx(-z, rel=1e-5)


group = st.integers(1, 200).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
        lambda known: st.tuples(
            st.just(known[0]), st.just(known[1]), st.integers(0, known[0] - known[1])
        )
    )
)
quantiles = st.floats(0.0, 6.0)


@settings(deadline=None, max_examples=200)
@given(group, quantiles)
def test_score_bounds_enclose_what_is_measured(known: tuple[int, int, int], z: float) -> None:
    n, lost, gained = known
    lower, upper = (float(x) for x in tango(lost, gained, n, z))
    assert -1 <= lower <= (lost - gained) / n + 1e-12
    assert (lost - gained) / n - 1e-12 <= upper <= 1
    swapped = tango(gained, lost, n, z)
    assert (lower, upper) == (-float(swapped[1]), -float(swapped[0]))


def test_shapes_are_kept_and_numbers_do_not_depend_on_their_neighbours() -> None:
    lost = np.array([[3, 0, 7], [1, 1, 0]])
    lower, upper = tango(lost, 1, 20, Z)
    assert lower.shape == upper.shape == (2, 3)
    for at in np.ndindex(2, 3):
        alone = tango(lost[at], 1, 20, Z)
        assert (float(lower[at]), float(upper[at])) == pytest.approx([float(x) for x in alone])


# ---------------------------------------------------------------------------------------------
# Clopper and Pearson's exact bounds
# ---------------------------------------------------------------------------------------------


def test_nothing_in_ten_by_hand() -> None:
    lower, upper = clopper_pearson(0, 10, 0.05)
    # At that probability nothing happens in ten trials one time in twenty.
    assert float(lower) == 0
    assert float(upper) == pytest.approx(1 - 0.05 ** (1 / 10))


def test_one_of_one_and_all_of_ten_by_hand() -> None:
    assert float(clopper_pearson(1, 1, 0.05)[0]) == pytest.approx(0.05)
    lower, upper = clopper_pearson(10, 10, 0.05)
    assert float(lower) == pytest.approx(0.05 ** (1 / 10))
    assert float(upper) == 1


@pytest.mark.parametrize(("count", "n"), [(0, 7), (1, 7), (7, 7), (3, 40), (25, 1000)])
@pytest.mark.parametrize("alpha", [0.05, 0.0005])
def test_exact_bounds_are_those_of_the_binomial_test(count: int, n: int, alpha: float) -> None:
    lower, upper = clopper_pearson(count, n, alpha)
    above = stats.binomtest(count, n, alternative="greater").proportion_ci(1 - alpha, "exact")
    below = stats.binomtest(count, n, alternative="less").proportion_ci(1 - alpha, "exact")
    assert float(lower) == pytest.approx(above.low, abs=1e-9)
    assert float(upper) == pytest.approx(below.high, abs=1e-9)


def test_exact_bounds_of_a_difference_by_hand() -> None:
    # Nothing lost, nothing gained of ten: 1 - 0.025^(1/10) on either side.
    lower, upper = exact(0, 0, 10, 0.05)
    assert float(upper) == -float(lower) == pytest.approx(1 - 0.025 ** (1 / 10))


# ---------------------------------------------------------------------------------------------
# How often they are wrong, by enumeration
# ---------------------------------------------------------------------------------------------


def outcomes(n: int) -> tuple[Numbers, Numbers]:
    """All numbers of lost and gained images of n."""
    every = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    lost, gained = zip(*every, strict=True)
    return np.array(lost, float), np.array(gained, float)


def probability(n: int, lost: Numbers, gained: Numbers, p: float, q: float) -> Numbers:
    """Of each outcome, if images are lost with probability p and gained with q."""
    found = stats.multinomial.pmf(
        np.stack([lost, gained, n - lost - gained], 1), n, [p, q, 1 - p - q]
    )
    return np.asarray(found, np.float64)


RATES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
"""Of gains: from hardly any to more than any model has."""


def errors(
    n: int, eps: float, bounds: Callable[[Numbers, Numbers], tuple[Numbers, Numbers]]
) -> tuple[float, float]:
    """Worst probabilities of a false FAIL and a false PASS of a group beside infinitely many.

    The truth is eps itself, so that either verdict is false: FAIL where it is not above, PASS
    where it is above by next to nothing.
    """
    lost, gained = outcomes(n)
    lower, upper = bounds(lost, gained)
    rates = [q for q in RATES if 2 * q + eps <= 1]
    each = [probability(n, lost, gained, q + eps, q) for q in rates]
    return (
        max(float(p[lower > eps].sum()) for p in each),
        max(float(p[upper <= eps].sum()) for p in each),
    )


GRID = list(itertools.product([0.01, 0.02, 0.05], [10, 30, 50, 100]))


@pytest.mark.parametrize(("eps", "n"), GRID)
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_exact_bounds_are_wrong_at_most_half_of_alpha(eps: float, n: int, alpha: float) -> None:
    fail, passed = errors(n, eps, lambda b, c: exact(b, c, n, alpha))
    assert fail <= 0.5 * alpha
    assert passed <= 0.5 * alpha


@pytest.mark.parametrize(("eps", "n"), GRID)
def test_score_bounds_are_wrong_about_alpha(eps: float, n: int) -> None:
    fail, passed = errors(n, eps, lambda b, c: tango(b, c, n, Z))
    assert fail <= 0.073
    assert passed <= 0.063


@pytest.mark.parametrize(("eps", "n"), GRID)
@pytest.mark.parametrize("alpha", [0.005, 0.0005])
def test_score_bounds_at_small_levels(eps: float, n: int, alpha: float) -> None:
    """Where Holm's correction looks: FAIL may be false two and a half times as often as said."""
    fail, passed = errors(n, eps, lambda b, c: tango(b, c, n, quantile_of(alpha)))
    assert fail <= 2.5 * alpha
    assert passed <= 1.25 * alpha


@pytest.mark.parametrize(
    ("eps", "n", "alpha", "fail", "passed"),
    [  # as multiples of alpha
        (0.02, 10, 0.05, 1.26, 1.16),
        (0.02, 100, 0.05, 1.45, 1.03),
        (0.05, 100, 0.05, 1.29, 1.02),
        (0.02, 100, 0.0005, 0.86, 0.96),
        (0.05, 100, 0.0005, 0.88, 0.93),
    ],
)
def test_the_worst_errors_of_the_table(
    eps: float, n: int, alpha: float, fail: float, passed: float
) -> None:
    """On a grid of our own, which need not hit the worst rate of gains."""
    found = errors(n, eps, lambda b, c: tango(b, c, n, quantile_of(alpha)))
    assert 0.7 * fail <= found[0] / alpha <= fail + 0.006
    assert 0.7 * passed <= found[1] / alpha <= passed + 0.006


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("against", ["overall", "rest"])
def test_psi_of_two_small_groups_by_enumeration(interval: str, against: str) -> None:
    """Both sides at once: 8 and 12 images with every outcome of either, at no disparity."""
    n, others = 8, 12
    b, c = outcomes(n)
    rb, rc = outcomes(others)
    i, j = (x.ravel() for x in np.meshgrid(np.arange(len(b)), np.arange(len(rb)), indexing="ij"))
    total = np.full(len(i), float(n + others))
    found = Counts(np.full(len(i), float(n)), b[i], c[i], total, b[i] + rb[j], c[i] + rc[j])
    _, lower, upper = psi_bounds(found, Z, interval, against)
    for lose, gain in ((0.02, 0.01), (0.1, 0.05), (0.3, 0.1), (0.5, 0.5)):
        p = (
            probability(n, b, c, lose, gain)[:, None] * probability(others, rb, rc, lose, gain)
        ).ravel()
        assert p.sum() == pytest.approx(1)
        most = 0.05 if interval == "exact" else 0.073
        assert float(p[lower > 0].sum()) <= most
        assert float(p[upper < 0].sum()) <= most


# ---------------------------------------------------------------------------------------------
# psi
# ---------------------------------------------------------------------------------------------

FOUR = counts((1000, 60, 20), (300, 9, 6), (40, 6, 0), (25, 0, 0), all_of=(1365, 75, 26))


def test_four_groups() -> None:
    psi, lower, upper = psi_bounds(FOUR, Z)
    assert psi == pytest.approx([0.00410, -0.02590, 0.11410, -0.03590], abs=5e-6)
    assert lower == pytest.approx([-0.00307, -0.04671, 0.04235, -0.13257], abs=5e-6)
    assert upper == pytest.approx([0.01091, -0.00467, 0.22607, 0.06068], abs=5e-6)
    assert float(FOUR.n @ psi) == pytest.approx(0, abs=1e-12)


def test_p_values_of_four_groups() -> None:
    p = p_values(FOUR, np.full(4, 0.02))
    assert p == pytest.approx([1, 1, 0.0283, 1], abs=5e-5)
    assert holm(p) == pytest.approx([1, 1, 0.113, 1], abs=5e-4)


def test_two_groups_without_any_change() -> None:
    """U = (1 - pi) sqrt(2) z^2 / (n + z^2): two groups of a hundred are enough for two points."""
    half = pair(100, 0, 0, rest=(100, 0, 0))
    psi, lower, upper = (float(x[0]) for x in psi_bounds(half, Z))
    assert psi == 0
    assert upper == -lower == pytest.approx(math.sqrt(2) / 2 * Z**2 / (100 + Z**2))
    assert upper == pytest.approx(0.0186, abs=5e-5)
    few = pair(60, 0, 0, rest=(9940, 0, 0))
    assert float(psi_bounds(few, Z)[2][0]) == pytest.approx(0.0429, abs=5e-5)


def test_a_group_of_everybody_has_psi_0_for_certain() -> None:
    everybody = counts((50, 7, 2), all_of=(50, 7, 2))
    for interval, against in itertools.product(INTERVALS, ("overall", "rest")):
        assert [float(x[0]) for x in psi_bounds(everybody, Z, interval, against)] == [0, 0, 0]


def test_the_gap_against_the_rest_does_not_shrink_with_the_share() -> None:
    """Nine tenths lose five points more than the others; beside all images it is half a point."""
    large = pair(9000, 450, 0, rest=(1000, 0, 0))
    psi, lower, upper = (float(x[0]) for x in psi_bounds(large, Z))
    assert psi == pytest.approx(0.005)
    gap, gap_lower, gap_upper = (float(x[0]) for x in psi_bounds(large, Z, "score", "rest"))
    assert gap == pytest.approx(0.05)
    assert (gap_lower, gap_upper) == pytest.approx((10 * lower, 10 * upper))


sides = st.tuples(group, group)


@settings(deadline=None, max_examples=100)
@given(sides, quantiles, st.sampled_from(INTERVALS), st.sampled_from(["overall", "rest"]))
def test_swapping_the_models_turns_the_bounds_round(
    both: tuple[tuple[int, int, int], tuple[int, int, int]], z: float, interval: str, against: str
) -> None:
    one = pair(*both[0], rest=both[1])
    (psi,), (lower,), (upper,) = psi_bounds(one, z, interval, against)
    (p,), (low,), (high,) = psi_bounds(one.swapped(), z, interval, against)
    assert (p, low, high) == pytest.approx((-psi, -upper, -lower), abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(sides, st.floats(0.001, 0.49), st.floats(0.001, 0.49), st.sampled_from(INTERVALS))
def test_bounds_widen_as_alpha_falls(
    both: tuple[tuple[int, int, int], tuple[int, int, int]], a: float, b: float, interval: str
) -> None:
    one = pair(*both[0], rest=both[1])
    small, large = sorted((a, b))
    psi, low, high = psi_bounds(one, quantile_of(small), interval)
    _, lower, upper = psi_bounds(one, quantile_of(large), interval)
    assert low[0] <= lower[0] + 1e-9
    assert upper[0] <= high[0] + 1e-9
    if interval == "score":
        assert lower[0] <= psi[0] + 1e-9
        assert psi[0] <= upper[0] + 1e-9


def test_exact_bounds_are_about_twice_as_wide() -> None:
    beside = pair(100, 3, 2, rest=(9900, 198, 99))
    psi, lower, upper = (float(x[0]) for x in psi_bounds(beside, Z))
    _, low, high = (float(x[0]) for x in psi_bounds(beside, Z, "exact"))
    assert 1.5 * (upper - psi) < high - psi < 2.5 * (upper - psi)
    assert 1.5 * (psi - lower) < psi - low < 2.5 * (psi - lower)


@settings(deadline=None, max_examples=150)
@given(
    sides,
    st.sampled_from([0.0, 0.01, 0.02, 0.1, 0.5]),
    st.sampled_from(INTERVALS),
    st.sampled_from(["overall", "rest"]),
)
def test_at_its_p_value_the_lower_bound_is_eps(
    both: tuple[tuple[int, int, int], tuple[int, int, int]], eps: float, interval: str, against: str
) -> None:
    one = pair(*both[0], rest=both[1])
    (p,) = p_values(one, np.array([eps]), interval, against).tolist()
    psi = psi_bounds(one, 0.0, interval, against)[0][0]
    if p == 1:  # not even at one half
        assert psi_bounds(one, 0.0, interval, against)[1][0] <= eps + 1e-12
        return
    assert psi > eps
    assert 0 < p <= 0.5
    lower = psi_bounds(one, quantile_of(p), interval, against)[1][0]
    assert lower == pytest.approx(eps, abs=1e-6)


def test_a_p_value_that_is_hardly_above_0() -> None:
    p = p_values(pair(100_000, 90_000, 0, rest=(100_000, 0, 0)), np.array([0.02]))
    assert 0 < p[0] < 1e-200


# ---------------------------------------------------------------------------------------------
# Counts
# ---------------------------------------------------------------------------------------------


def test_more_images_of_a_group_are_more_of_all() -> None:
    found = pair(10, 2, 1, rest=(30, 3, 0)).with_more(4)
    assert [float(x[0]) for x in (found.n, found.lost, found.gained)] == [40, 8, 4]
    assert [float(x[0]) for x in (found.all_n, found.all_lost, found.all_gained)] == [70, 11, 4]


def test_without_change_the_sizes_stay() -> None:
    found = pair(10, 2, 1, rest=(30, 3, 0)).without_change()
    assert [float(x[0]) for x in (found.n, found.all_n)] == [10, 40]
    assert not any(x.any() for x in (found.lost, found.gained, found.all_lost, found.all_gained))


# ---------------------------------------------------------------------------------------------
# Roots and Holm's correction
# ---------------------------------------------------------------------------------------------


def test_crossings_of_many_functions_at_once() -> None:
    roots = np.linspace(0.01, 0.99, 50)

    def function(x: Numbers, i: np.ndarray) -> Numbers:
        return np.asarray((roots[i] - x) ** 3 * np.exp(3 * x), np.float64)

    zero, one = np.zeros(50), np.ones(50)
    everywhere = np.arange(50)
    found = crossing(function, zero, one, function(zero, everywhere), function(one, everywhere))
    assert found == pytest.approx(roots, abs=1e-4)  # a root of the third degree is flat
    # The values at the ends need the right sign only.
    found = crossing(lambda x, i: roots[i] - x, zero, one, one * 1e-9, -one * 1e9)
    assert found == pytest.approx(roots, abs=1e-12)


def test_holm_by_hand() -> None:
    # In order: 3 * .01, 2 * .02, 1 * .03, of which the last may not be below the one before.
    assert holm(np.array([0.03, 0.01, 0.02])) == pytest.approx([0.04, 0.03, 0.04])
    assert holm(np.array([0.4, 0.6])) == pytest.approx([0.8, 0.8])
    assert holm(np.array([])).tolist() == []


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from([0.0, 1e-9, 0.001, 0.01, 0.02, 0.03, 0.5, 1.0]), min_size=1))
def test_holm_against_statsmodels(p: list[float]) -> None:
    expected = multipletests(p, method="holm")[1]
    assert holm(np.array(p)) == pytest.approx(expected)
