from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ceag_cli.comparing import STATISTICS, dealt, difference, differences, replicates
from ceag_cli.heterogeneity import between_group_variance, split_half_harm

# Parts


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(1, 9),
)
def test_parts_are_even_in_all_and_in_every_cell(pairs: list[tuple[int, int]], folds: int) -> None:
    groups = np.array(pairs)
    part = dealt(groups, folds)
    parts = min(folds, len(pairs))
    sizes = np.bincount(part, minlength=parts)
    assert len(sizes) == parts
    assert sizes.max() - sizes.min() <= 1
    for cell in set(pairs):
        own = np.bincount(part[(groups == cell).all(axis=1)], minlength=parts)
        assert own.max() - own.min() <= 1


def test_parts_are_drawn_within_a_group() -> None:
    groups = np.zeros((40, 1), np.int64)
    assert np.array_equal(dealt(groups, 4, 1), dealt(groups, 4, 1))
    assert not np.array_equal(dealt(groups, 4, 1), dealt(groups, 4, 2))
    assert dealt(np.zeros((0, 1), np.int64), 4).tolist() == []


# Statistics without each part


def test_replicates_are_the_statistics_of_fewer_images() -> None:
    generator = np.random.default_rng(0)
    dense, sparse = generator.random((2, 3, 90)) < 0.7
    groups = np.repeat(np.arange(6), 15)[:, None]
    found = replicates(dense, sparse, groups, folds=5, splits=2, seed=3)
    part = dealt(groups, 5, 3)
    assert set(found) == set(STATISTICS)
    for column, left in enumerate([np.ones(90, bool), *(part != f for f in range(5))]):
        again = replicates(dense[:, left], sparse[:, left], groups[left], folds=0, splits=2)
        for name in STATISTICS:
            if name != "split_half_harm":  # which deals fewer images anew
                assert found[name][:, column] == pytest.approx(again[name][:, 0])
    n = np.full(6, 15)
    lost = (dense & ~sparse).reshape(3, 6, 15).sum(-1)
    gained = (sparse & ~dense).reshape(3, 6, 15).sum(-1)
    assert found["accuracy"][:, 0] == pytest.approx(sparse.mean(axis=1))
    assert found["between_group_variance"][:, 0] == pytest.approx(
        between_group_variance(n, lost, gained)
    )
    net = dense.astype(int) - sparse
    psi = net.reshape(3, 6, 15).mean(-1) - net.mean(-1, keepdims=True)
    assert found["max_excess_gap"][:, 0] == pytest.approx(psi.max(-1))
    assert found["mean_positive_gap"][:, 0] == pytest.approx(np.maximum(psi, 0).mean(-1))
    harm = split_half_harm(net, groups[:, 0], folds=part, splits=2, seed=3)
    assert np.array_equal(found["split_half_harm"], harm)


def test_of_two_features_the_mean_or_the_largest() -> None:
    generator = np.random.default_rng(1)
    dense, sparse = generator.random((2, 1, 60)) < 0.6
    groups = np.stack([np.arange(60) % 3, 3 + np.arange(60) // 30], axis=1)
    both = replicates(dense, sparse, groups, folds=0, splits=3)
    one, two = (replicates(dense, sparse, groups[:, [f]], folds=0, splits=3) for f in (0, 1))
    for name in ("between_group_variance", "split_half_harm"):
        assert both[name] == pytest.approx((one[name] + two[name]) / 2)
    largest = max(one["max_excess_gap"][0, 0], two["max_excess_gap"][0, 0])
    assert both["max_excess_gap"][0, 0] == pytest.approx(largest)
    mean = (3 * one["mean_positive_gap"] + 2 * two["mean_positive_gap"]) / 5
    assert both["mean_positive_gap"] == pytest.approx(mean)


def test_of_no_images_nothing_is_known() -> None:
    nothing = np.zeros((2, 0), bool)
    found = replicates(nothing, nothing, np.zeros((0, 1), np.int64))
    assert all(np.isnan(values).all() for values in found.values())


# Intervals


def test_an_interval_by_hand() -> None:
    # Differences 1 and 3: mean 2, variance 2, over two seeds 1. Parts: means 1, 2, 3; 2/3 * 2.
    method = np.array([[1.0, 0.0, 1.0, 2.0], [3.0, 2.0, 3.0, 4.0]])
    found = difference(method, np.zeros((2, 4)))
    assert found.estimate == 2
    assert found.error_seeds == pytest.approx(1)
    assert found.error_images == pytest.approx((4 / 3) ** 0.5)
    freedom = (1 + 4 / 3) ** 2 / (1 + (4 / 3) ** 2 / 2)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    half = stats.t.ppf(0.975, freedom) * (7 / 3) ** 0.5
    assert (found.lower, found.upper) == pytest.approx((2 - half, 2 + half))
    assert not found.excludes_zero
    assert (found.seeds, found.over) == (2, "seeds and images")


def test_one_seed_is_about_images_only() -> None:
    found = difference(np.array([[1.0, 0.9, 1.1, 0.9, 1.1]]), np.zeros((1, 5)))
    assert found.error_seeds is None
    assert found.over == "images only"
    assert found.error_images == pytest.approx((3 * 0.01) ** 0.5)
    assert found.degrees_of_freedom == pytest.approx(3)
    assert found.upper - 1 == pytest.approx(stats.t.ppf(0.975, 3) * 0.03**0.5)
    assert found.excludes_zero


def test_the_jackknife_of_a_mean_is_its_usual_variance() -> None:
    """With parts of one image it is the variance over n - 1, by n."""
    generator = np.random.default_rng(2)
    sparse = generator.random((1, 50)) < 0.3
    groups = np.zeros((50, 1), np.int64)
    values = replicates(np.ones_like(sparse), sparse, groups, folds=50, splits=1)["accuracy"]
    found = difference(values, np.zeros((1, 51)))
    assert found.error_images == pytest.approx(stats.sem(sparse[0]))


def test_what_does_not_vary_has_no_width() -> None:
    found = difference(np.ones((2, 4)), np.zeros((2, 4)))
    assert (found.lower, found.estimate, found.upper) == (1, 1, 1)
    assert found.excludes_zero
    same = difference(np.ones((2, 4)), np.ones((2, 4)))
    assert (same.lower, same.upper, same.excludes_zero) == (0, 0, False)


@pytest.mark.parametrize("columns", [1, 2])
def test_without_two_parts_no_bound_is_known(columns: int) -> None:
    found = difference(np.ones((3, columns)), np.zeros((3, columns)))
    assert found.estimate == 1
    assert np.isnan(found.lower)
    assert np.isnan(found.upper)
    assert not found.excludes_zero


def test_exchanging_the_two_negates_everything() -> None:
    generator = np.random.default_rng(4)
    dense, one, two = generator.random((3, 4, 200)) < 0.6
    groups = np.repeat(np.arange(4), 50)[:, None]
    a, b = (replicates(dense, sparse, groups, splits=3) for sparse in (one, two))
    forth, back = differences(a, b), differences(b, a)
    for name in STATISTICS:
        assert forth[name].estimate == -back[name].estimate
        assert forth[name].lower == pytest.approx(-back[name].upper)


def test_it_covers() -> None:
    """A fast version of recipes/benchmarks/comparisons.py: 3 seeds, 12 groups of 60 images."""
    generator = np.random.default_rng(0)
    ids = np.repeat(np.arange(12), 60)
    harmed = np.where(np.arange(12) < 3, 0.15, 0.0)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in STATISTICS}
    for _ in range(150):
        hard = generator.random(len(ids)) < 0.5  # images that every model may get wrong
        right = []
        for extra in (0.0, harmed):
            rate = (0.1 + extra + generator.normal(0, 0.02, (3, 12)))[:, ids]
            right.append(~(hard & (generator.random((3, len(ids))) < 2 * rate)))
        dense = np.ones_like(right[0])
        one, two = (replicates(dense, r, ids[:, None], folds=10, splits=4) for r in right)
        for name, each in differences(one, two).items():
            found[name].append((each.estimate, each.lower, each.upper))
    for name, intervals in found.items():
        truth = np.mean([estimate for estimate, _, _ in intervals])
        inside = np.mean([lower <= truth <= upper for _, lower, upper in intervals])
        assert inside >= 0.91, name  # 95 % less two standard errors of 150 samples
    zero = [lower <= 0 <= upper for _, lower, upper in found["accuracy"]]
    assert np.mean(zero) < 0.5  # and the difference that there is is found


def test_every_pair_of_seeds_counts_once() -> None:
    values = np.array([[0.3, 0.2, 0.4], [0.5, 0.4, 0.6], [0.1, 0.0, 0.2]])
    found = [
        difference(values[list(order)], 0 * values) for order in itertools.permutations(range(3))
    ]
    assert len({round(each.upper, 12) for each in found}) == 1
