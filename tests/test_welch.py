"""Welch's test over models: by hand, beside scipy, and by what must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ceag_cli.arrays import Numbers
from ceag_cli.means import satterthwaite
from ceag_cli.welch import MOST_MODELS, accuracies, models_needed, welch


def test_accuracies_by_hand() -> None:
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool)
    ids = np.array([[0, 3], [0, 3], [1, 3], [1, 3]])
    found = accuracies(correct, ids, 4)
    assert found[:, :2].tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert np.isnan(found[:, 2]).all()  # a group without images
    assert found[:, 3].tolist() == [0.5, 0.5]  # of another feature


def test_by_hand() -> None:
    # Means 2 and 5, variances 1 and 4, three models each: error^2 = 1/3 + 4/3.
    found = welch(np.array([[1.0], [2.0], [3.0]]), np.array([[3.0], [5.0], [7.0]]), 0.05)
    assert found.value.tolist() == [-3.0]
    assert found.t[0] == pytest.approx(-3 / math.sqrt(5 / 3))
    # (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 25 * 2 / 17
    assert found.freedom[0] == pytest.approx(50 / 17)
    half = stats.t.ppf(0.95, 50 / 17) * math.sqrt(5 / 3)
    assert [found.lower[0], found.upper[0]] == pytest.approx([-3 - half, -3 + half])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6))
def test_as_scipy_has_it(seed: int, m: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=(m, 3)), generator.normal(0.5, 2.0, (k, 3))
    found = welch(one, other, 0.05)
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert found.t.tolist() == pytest.approx(expected.statistic.tolist())
    assert found.p.tolist() == pytest.approx(expected.pvalue.tolist())
    both = expected.confidence_interval(0.9)  # one-sided bounds at 5 % each
    assert found.lower.tolist() == pytest.approx(both.low.tolist())
    assert found.upper.tolist() == pytest.approx(both.high.tolist())
    turned = welch(other, one, 0.05)
    assert turned.value.tolist() == pytest.approx((-found.value).tolist())
    assert turned.lower.tolist() == pytest.approx((-found.upper).tolist())
    assert turned.p.tolist() == pytest.approx(found.p.tolist())
    shifted = welch(one[::-1] + 7, other + 7, 0.05)  # the order of models, and a common constant
    assert shifted.p.tolist() == pytest.approx(found.p.tolist())


def column(*values: float) -> Numbers:
    return np.array(values)[:, None]


def test_nothing_can_be_said() -> None:
    for one, other in (
        (column(0.5), column(0.1, 0.2)),  # one model has no variance
        (column(0.5, 0.5), column(0.1, 0.1)),  # neither population varies
        (column(0.1 + 0.2, 0.3), column(0.1, 0.1)),  # nor here, but for rounding
        (column(0.5, math.nan), column(0.1, 0.2)),  # a group without images
    ):
        found = welch(one, other, 0.05)
        assert np.isnan(found.p[0])
        assert np.isnan(found.lower[0])
        assert np.isnan(models_needed(one, other, np.array([0.05]))[0])
    assert welch(column(0.5), column(0.1, 0.3), 0.05).value[0] == pytest.approx(0.3)


def test_one_population_without_variance() -> None:
    found = welch(column(1.0, 1.0), column(2.0, 3.0, 4.0), 0.05)
    assert found.freedom[0] == pytest.approx(2)  # that of the other one alone
    assert np.isfinite(found.p[0])


def test_so_many_models_are_needed() -> None:
    one, other = column(0.0, 2.0), column(3.0, 5.0)  # variances 2, difference 3
    levels = np.array([0.05])
    needed = int(models_needed(one, other, levels)[0])

    def p_of(models: int) -> float:
        """Of so many models with these means and variances."""
        a = 2.0 / models
        t = 3 / math.sqrt(2 * a)
        return float(2 * stats.t.sf(t, 2 * (models - 1)))

    assert p_of(needed) <= 0.05 < p_of(needed - 1)
    assert models_needed(one, other, np.array([0.9]))[0] == 2  # it is so already
    assert np.isnan(models_needed(one, one, levels)[0])  # no difference
    near = column(0.0, 2.0), column(0.001, 2.001)
    assert p_of(MOST_MODELS) < 0.05
    assert np.isnan(models_needed(*near, levels)[0])  # too many


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_stricter_level_needs_no_fewer_models(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=(3, 1)), generator.normal(1.0, 1.0, (4, 1))
    needed = [models_needed(one, other, np.array([level]))[0] for level in (0.1, 0.01, 0.001)]
    known = [math.inf if math.isnan(n) else n for n in needed]
    assert known == sorted(known)


def test_tiny_variances_have_degrees_of_freedom() -> None:
    assert satterthwaite(1e-200, 3, 1e-200, 3) == pytest.approx(6)
    assert satterthwaite(0.0, 3, 1.0, 5) == pytest.approx(5)
    assert np.isnan(satterthwaite(0.0, 3, 0.0, 3))


def test_how_often_p_is_wrong() -> None:
    """Four models each, no difference, variances 1 and 9: p is at most 0.05 about so often."""
    generator = np.random.default_rng(2)
    one, other = generator.normal(size=(4, 20_000)), generator.normal(0, 3, (4, 20_000))
    wrong = (welch(one, other, 0.05).p <= 0.05).mean()
    assert 0.035 <= wrong <= 0.06
