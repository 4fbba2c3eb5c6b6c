"""The regression of drops on frequency and difficulty: literal, beside slow loops, and in truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from ceag_cli.regression import DIFFICULTY, FREQUENCY, Classes, classes_of, regress

BOTH = (FREQUENCY, DIFFICULTY)


def known(frequency: list[float], difficulty: list[float], drop: list[list[float]]) -> Classes:
    """Classes that are measured without any noise."""
    d, y = np.array(difficulty), np.array(drop)
    return Classes(np.log2(np.array(frequency, float)), d, y, d**2, d * y)


def test_without_noise_a_line_is_found_again() -> None:
    frequency = [1.0, 2, 4, 8, 16, 32, 64, 128]
    difficulty = [0.5, 0.1, 0.4, 0.2, 0.3, 0.6, 0.0, 0.2]
    # One point less for each doubling, three points more for ten points of difficulty.
    drop = [0.2 - 0.01 * k + 0.3 * d for k, d in enumerate(difficulty)]
    found = regress(known(frequency, difficulty, [drop]), BOTH)
    estimates = {slope.term: slope.estimate for slope in found.slopes}
    assert estimates == pytest.approx({FREQUENCY: -0.01, DIFFICULTY: 0.3})
    for slope in found.slopes:
        assert slope.naive == pytest.approx(slope.estimate)
        assert slope.upper - slope.lower == pytest.approx(0, abs=1e-9)
        assert slope.error_seeds is None
    assert found.reliability == pytest.approx(1)


def test_two_seeds_around_a_slope_have_half_their_difference_as_error() -> None:
    frequency = [1.0, 2, 4, 8, 16, 32, 64, 128]
    drops = [[slope * k for k in range(8)] for slope in (0.01, 0.03)]
    found = regress(known(frequency, [0.0] * 8, drops), (FREQUENCY,))
    (slope,) = found.slopes
    assert slope.estimate == pytest.approx(0.02)
    # Variance (n - 1) of 0.01 and 0.03 is 0.0002, over two seeds 0.0001; Student's t with 1.
    assert slope.error_seeds == pytest.approx(0.01)
    assert slope.error_classes == pytest.approx(0, abs=1e-9)
    assert slope.upper - slope.estimate == pytest.approx(12.706 * 0.01, rel=1e-4)
    assert not slope.excludes_zero


def test_what_cannot_be_fitted_says_why() -> None:
    level, slope = [10.0] * 8, [0.1 * k for k in range(8)]
    drop = [slope]
    assert regress(known(level[:7], slope[:7], [slope[:7]]), BOTH).problem == (
        "7 are too few, it takes 8"
    )
    assert regress(known(level, slope, drop), (FREQUENCY,)).problem == (
        "all have the same number of training images"
    )
    assert regress(known([1 + k for k in range(8)], [0.5] * 8, drop), BOTH).problem == (
        "all are equally difficult"
    )
    same = known([2.0**k for k in range(8)], slope, drop)
    assert regress(same, BOTH).problem == "frequency and difficulty say the same"
    noise = Classes(np.zeros(8), np.array(slope), np.array(drop), np.zeros(8), np.zeros((1, 8)))
    assert "cannot be told from noise" in str(regress(noise, (DIFFICULTY,)).problem)
    assert regress(noise, (DIFFICULTY,)).slopes == ()


# The products, beside slow loops


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_products_are_means_over_pairs_of_other_images_and_seeds(
    seeds: int, images: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    dense = generator.random((seeds, images)) < 0.5
    sparse = generator.random((seeds, images)) < 0.5
    drop = dense.astype(float) - sparse
    found = classes_of(dense, drop, np.zeros(images, np.int64), np.array([4]))
    wrong = 1.0 - dense
    for t in range(seeds):
        pairs = [
            (wrong[s, i] * drop[t, j], wrong[s, i] * wrong[t, j])
            for s, i, j in product(range(seeds), range(images), range(images))
            if i != j and (s != t or seeds == 1)
        ]
        assert found.product[t, 0] == pytest.approx(np.mean([p for p, _ in pairs]))
    every = [
        wrong[s, i] * wrong[t, j]
        for s, t, i, j in product(range(seeds), range(seeds), range(images), range(images))
        if i != j and (s != t or seeds == 1)
    ]
    assert found.squared[0] == pytest.approx(np.mean(every))
    assert found.difficulty[0] == pytest.approx(wrong.mean())
    assert found.drop[:, 0] == pytest.approx(drop.mean(1))
    assert found.log_frequency[0] == 2


def test_classes_of_one_image_or_without_training_take_no_part() -> None:
    dense = np.ones((1, 6), bool)
    drop = np.zeros((1, 6))
    ids = np.array([0, 0, 1, 2, 2, 3])
    found = classes_of(dense, drop, ids, np.array([1, 1, 0, 1, 9]))
    assert found.drop.shape == (1, 1)


def test_products_are_unbiased_by_exact_enumeration() -> None:
    # One image of a coin each: dense right with 3/4, sparse with 1/2, two images, one seed.
    total_product = total_square = 0.0
    for rights in product((False, True), repeat=4):
        weight = np.prod([0.75 if r else 0.25 for r in rights[:2]]) * 0.5**2
        dense, sparse = np.array([rights[:2]]), np.array([rights[2:]])
        drop = dense.astype(float) - sparse
        found = classes_of(dense, drop, np.zeros(2, np.int64), np.array([1]))
        total_product += weight * found.product[0, 0]
        total_square += weight * found.squared[0]
    assert total_product == pytest.approx(0.25 * 0.25)  # error 1/4 times drop 3/4 - 1/2
    assert total_square == pytest.approx(0.25**2)


# Beside statsmodels, and against the truth

Flags = npt.NDArray[np.bool_]


def drawn(
    generator: np.random.Generator, slope: float, seeds: int, images: int, classes: int = 60
) -> tuple[Flags, Flags, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Answers of classes whose drop is ``0.1 + slope * difficulty``, and their frequencies.

    A dense model has luck of its own with every class, which it does not leave to its sparse one.
    """
    ids = np.repeat(np.arange(classes), images)
    difficulty = np.linspace(0.2, 0.6, classes)
    luck = generator.normal(0, 0.05, (seeds, classes))
    right = 1 - difficulty + luck
    sparse = 1 - difficulty - 0.1 - slope * difficulty
    shape = (seeds, len(ids))
    return (
        generator.random(shape) < right[:, ids],
        generator.random(shape) < np.broadcast_to(sparse[ids], shape),
        ids,
        2 ** generator.integers(3, 8, classes),
    )


def test_naive_is_what_statsmodels_finds() -> None:
    dense, sparse, ids, frequency = drawn(np.random.default_rng(0), 0.2, 2, 40)
    drop = dense.astype(float) - sparse
    found = regress(classes_of(dense, drop, ids, frequency), BOTH)
    means = [[row[ids == c].mean() for c in range(60)] for row in (drop.mean(0), 1 - dense.mean(0))]
    design = sm.add_constant(np.stack([np.log2(frequency), means[1]], axis=1))
    expected = sm.OLS(means[0], design).fit().params[1:]
    assert [slope.naive for slope in found.slopes] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_luck_of_the_dense_model_is_no_effect_of_difficulty(seeds: int, slope: float) -> None:
    generator = np.random.default_rng(1)
    fits = []
    for _ in range(40):
        dense, sparse, ids, frequency = drawn(generator, slope, seeds, 30)
        found = classes_of(dense, dense.astype(float) - sparse, ids, frequency)
        fits.append(regress(found, (DIFFICULTY,)).slopes[0])
    mean, naive = np.mean([f.estimate for f in fits]), np.mean([f.naive for f in fits])
    error = np.std([f.estimate for f in fits]) / np.sqrt(40)
    assert naive < slope - 0.08  # regression to the mean
    if seeds > 1:
        assert abs(mean - slope) < 4 * error
    else:  # the luck of the one dense model is in what is said about it
        luck = 0.05**2 / (0.05**2 + np.var(np.linspace(0.2, 0.6, 60)))
        assert abs(mean - (slope - (1 + slope) * luck)) < 4 * error
    covered = np.mean([f.lower <= slope <= f.upper for f in fits])
    assert covered >= (0.85 if seeds > 1 else 0.5)


def test_the_slopes_of_a_mean_of_drops_are_the_means_of_the_slopes() -> None:
    generator = np.random.default_rng(3)
    dense, sparse, ids, frequency = drawn(generator, 0.1, 2, 30)
    other = drawn(generator, 0.1, 2, 30)[1]
    drops = [dense.astype(float) - of for of in (sparse, other)]
    first, second, mean = (
        [s.estimate for s in regress(classes_of(dense, drop, ids, frequency), BOTH).slopes]
        for drop in (*drops, (drops[0] + drops[1]) / 2)
    )
    assert mean == pytest.approx([(a + b) / 2 for a, b in zip(first, second, strict=True)])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_seeds_images_and_classes_does_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    dense, sparse, ids, frequency = drawn(generator, 0.1, 3, 20, classes=12)
    drop = dense.astype(float) - sparse
    images, seeds, names = (generator.permutation(n) for n in (len(ids), 3, 12))
    moved = np.empty(12, np.int64)
    moved[names] = frequency
    one = regress(classes_of(dense, drop, ids, frequency), BOTH)
    two = regress(
        classes_of(dense[seeds][:, images], drop[seeds][:, images], names[ids][images], moved), BOTH
    )
    assert one.reliability == pytest.approx(two.reliability)
    for a, b in zip(one.slopes, two.slopes, strict=True):
        assert (a.estimate, a.lower, a.naive) == pytest.approx((b.estimate, b.lower, b.naive))
