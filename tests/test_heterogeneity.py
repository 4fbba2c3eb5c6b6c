from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceag_cli.heterogeneity import (
    between_group_variance,
    excess_gaps,
    halves,
    mean_positive_gap,
    signed_root,
    split_half_harm,
)

Changes = Sequence[Sequence[int]]
"""For each group the c of its images: 1 lost, -1 gained, 0 else."""


def slow(groups: Changes) -> Fraction | None:
    """The formula as it is written, with rational numbers."""
    kept = [group for group in groups if len(group) >= 2]
    total = sum(map(len, kept))
    if not total:
        return None
    overall = Fraction(sum(map(sum, kept)), total)
    found = Fraction()
    for group in kept:
        n = len(group)
        share, mean = Fraction(n, total), Fraction(sum(group), n)
        variance = sum(((c - mean) ** 2 for c in group), Fraction()) / (n - 1)
        found += share * (mean - overall) ** 2 - share * (1 - share) * variance / n
    return found


def counts(groups: Changes) -> tuple[list[int], list[int], list[int]]:
    return (
        [len(group) for group in groups],
        [list(group).count(1) for group in groups],
        [list(group).count(-1) for group in groups],
    )


groups_of_images = st.lists(st.lists(st.sampled_from([-1, 0, 1]), max_size=6), max_size=5)


# The variance between groups


def test_two_groups_without_noise() -> None:
    # All of one lost, none of the other: psi is 0.5 and -0.5, and no image differs within.
    assert between_group_variance([4, 4], [4, 0], [0, 0]) == 0.25
    # A quarter and three quarters: psi 0.75 and -0.25; 1/4 * 9/16 + 3/4 * 1/16.
    assert between_group_variance([2, 6], [2, 0], [0, 0]) == 0.1875


def test_equal_groups_are_below_zero() -> None:
    # One of two lost in both: psi 0; s^2 = 1/2, so 2 * (1/2 * 1/2 * 1/4) is subtracted.
    assert between_group_variance([2, 2], [1, 1], [0, 0]) == -0.125


def test_one_group_is_zero_and_none_is_not_known() -> None:
    assert between_group_variance([5], [3], [1]) == 0
    assert np.isnan(between_group_variance([1, 1, 0], [1, 0, 0], [0, 0, 0]))
    assert np.isnan(between_group_variance([], [], []))


def test_groups_of_one_image_leave_with_it() -> None:
    with_it = between_group_variance([4, 1, 4, 0], [4, 1, 0, 0], [0, 0, 0, 0])
    assert with_it == between_group_variance([4, 4], [4, 0], [0, 0])


@settings(deadline=None)
@given(groups_of_images)
def test_integers_suffice(groups: list[list[int]]) -> None:
    expected = slow(groups)
    found = float(between_group_variance(*counts(groups)))
    assert np.isnan(found) if expected is None else abs(found - float(expected)) < 1e-12


@settings(deadline=None)
@given(groups_of_images, st.randoms())
def test_order_of_groups_and_exchange_of_models_do_not_matter(groups: Changes, random) -> None:  # type: ignore[no-untyped-def]
    n, lost, gained = counts(groups)
    found = between_group_variance(n, lost, gained)
    assert np.array_equal(between_group_variance(n, gained, lost), found, equal_nan=True)
    mixed = list(groups)
    random.shuffle(mixed)
    again = between_group_variance(*counts(mixed))
    assert np.isclose(again, found, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(
    "rates",
    [
        # Size of a group, and probabilities of lost and gained.
        [(2, Fraction(1, 2), Fraction(0)), (3, Fraction(1, 4), Fraction(1, 4))],
        [(2, Fraction(1, 3), Fraction(1, 3)), (2, Fraction(1, 3), Fraction(1, 3))],
        [
            (2, Fraction(1), Fraction(0)),
            (2, Fraction(1, 2), Fraction(0)),
            (2, *[Fraction(1, 5)] * 2),
        ],
    ],
)
def test_the_expectation_is_that_of_the_true_psi(
    rates: list[tuple[int, Fraction, Fraction]],
) -> None:
    """Every outcome of every image, with its probability."""
    expectation = Fraction()
    images = [(g, lost, gained) for g, (n, lost, gained) in enumerate(rates) for _ in range(n)]
    for outcome in itertools.product((1, 0, -1), repeat=len(images)):
        probability = Fraction(1)
        for c, (_, lost, gained) in zip(outcome, images, strict=True):
            probability *= {1: lost, -1: gained, 0: 1 - lost - gained}[c]
        dealt: list[list[int]] = [[] for _ in rates]
        for c, (g, _, _) in zip(outcome, images, strict=True):
            dealt[g].append(c)
        found = slow(dealt)
        assert found is not None
        expectation += probability * found
    total = sum(n for n, _, _ in rates)
    overall = sum(n * (lost - gained) for n, lost, gained in rates) / total
    truth = sum(Fraction(n, total) * (lost - gained - overall) ** 2 for n, lost, gained in rates)
    assert expectation == truth


def test_many_rows_at_once() -> None:
    n = np.array([[4, 4], [2, 2]])
    found = between_group_variance(n, [[4, 0], [1, 1]], [[0, 0], [0, 0]])
    assert found.tolist() == [0.25, -0.125]


def test_a_spread_keeps_its_sign() -> None:
    assert signed_root([0.0004, 0.0, -0.0004]).tolist() == pytest.approx([0.02, 0, -0.02])


# Psi


def test_excess_gaps_and_their_positive_mean() -> None:
    psi = excess_gaps([4, 4, 0], [2, 0, 0])  # gaps 0.5 and 0, overall 0.25
    assert psi[:2].tolist() == [0.25, -0.25]
    assert np.isnan(psi[2])
    assert mean_positive_gap(psi) == 0.125
    assert np.isnan(mean_positive_gap(np.array([np.nan])))


# Halves


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=30),
    st.integers(0, 5),
)
def test_halves_split_every_group_evenly(ids: list[int], seed: int) -> None:
    group = np.array(ids)
    for first in halves(group, 3, seed):
        n, half = np.bincount(group), np.bincount(group[first], minlength=max(ids) + 1)
        assert np.all(np.abs(n - 2 * half) <= 1)
        assert np.all((n % 2 == 1) | (n == 2 * half))


def test_halves_depend_on_the_seed_alone() -> None:
    ids = np.repeat([0, 1], 20)
    one, again, other = (list(halves(ids, 4, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_every_way_to_halve_is_as_likely() -> None:
    # Three images: one or two in the first half, six ways.
    ways = [tuple(first.tolist()) for first in halves(np.zeros(3, np.int64), 6000, 0)]
    found = {way: ways.count(way) for way in set(ways)}
    assert len(found) == 6
    assert all(850 < count < 1150 for count in found.values())  # five standard deviations


# Split-half harm


def slow_harm(net: list[int], ids: list[int], splits: int, seed: int) -> float:
    """With loops, over the same halves."""

    def psi(half: list[int], group: int) -> float:
        own = [net[i] for i in half if ids[i] == group]
        return sum(own) / len(own) - sum(net[i] for i in half) / len(half)

    kept = [i for i, g in enumerate(ids) if ids.count(g) >= 2]
    groups = sorted({ids[i] for i in kept})
    number = [groups.index(ids[i]) for i in kept]
    k = max(1, round(0.1 * len(groups)))
    total = 0.0
    for first in halves(np.array(number), splits, seed):
        a = [i for i, here in zip(kept, first, strict=True) if here]
        b = [i for i, here in zip(kept, first, strict=True) if not here]
        for chosen_on, seen_on in ((a, b), (b, a)):
            worst = sorted(groups, key=lambda g: -psi(chosen_on, g))[:k]
            total += sum(psi(seen_on, g) for g in worst) / k
    return total / (2 * splits)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 25), st.integers(1, 40))
def test_split_half_harm_is_a_difference_of_gaps_or_not_known(
    data: st.DataObject, groups: int, images: int
) -> None:
    ids = data.draw(st.lists(st.integers(0, groups - 1), min_size=images, max_size=images))
    net = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=images, max_size=images))
    found = split_half_harm(np.array([net]), np.array(ids), splits=3, seed=4)
    assert found.shape == (1, 1)
    if max(map(ids.count, ids)) < 2:
        assert np.isnan(found[0, 0])
    elif len(set(ids)) == 1:
        assert found[0, 0] == 0
    else:
        assert -2 <= found[0, 0] <= 2


def test_split_half_harm_against_loops_where_no_psi_are_equal() -> None:
    generator = np.random.default_rng(5)
    ids = np.repeat(np.arange(21), np.arange(40, 61))
    net = generator.choice([-1, 0, 1], (2, len(ids)), p=[0.1, 0.6, 0.3])
    found = split_half_harm(net, ids, splits=4, seed=1)
    expected = [[slow_harm(row.tolist(), ids.tolist(), 4, 1)] for row in net]
    assert found == pytest.approx(np.array(expected), abs=1e-9)


def test_a_harm_that_is_sure_is_found_whole() -> None:
    # All images of one of ten groups are lost: psi 0.9, on every half.
    ids = np.repeat(np.arange(10), 4)
    net = (ids == 3).astype(int)[None]
    assert split_half_harm(net, ids) == pytest.approx(np.array([[0.9]]))


def test_where_nobody_is_harmed_more_nothing_is_expected() -> None:
    """The mean over many samples is within four standard errors of 0; max psi's is far above."""
    generator = np.random.default_rng(0)
    ids = np.repeat(np.arange(20), np.arange(5, 25))
    net = generator.choice([-1, 0, 1], (1000, len(ids)), p=[0.2, 0.4, 0.4])
    harm = split_half_harm(net, ids, splits=5)[:, 0]
    assert abs(harm.mean()) < 4 * harm.std() / 1000**0.5
    n = np.bincount(ids)
    by_group = np.array([np.bincount(ids, row) for row in net])
    largest = excess_gaps(n, by_group).max(axis=1)
    assert largest.mean() > 0.25


def test_without_each_part_is_as_if_it_were_not_there() -> None:
    generator = np.random.default_rng(3)
    ids = np.repeat(np.arange(12), 9)
    net = generator.choice([-1, 0, 1], (1, len(ids)))
    parts = np.arange(len(ids)) % 3
    found = split_half_harm(net, ids, folds=parts, splits=2, seed=7)
    assert found.shape == (1, 4)
    assert found[0, 0] == split_half_harm(net, ids, splits=2, seed=7)[0, 0]
    # The halves are those of all images, less the part.
    expected = []
    for part in range(3):
        total = 0.0
        for first in halves(ids, 2, 7):
            sides = [np.flatnonzero(side & (parts != part)) for side in (first, ~first)]
            psi = [
                excess_gaps(np.bincount(ids[side]), np.bincount(ids[side], net[0, side]))
                for side in sides
            ]
            total += psi[1][np.argmax(psi[0])] + psi[0][np.argmax(psi[1])]
        expected.append(total / 4)
    assert found[0, 1:].tolist() == pytest.approx(expected)


def test_a_group_that_lacks_a_half_without_a_part_is_not_asked() -> None:
    # Two images of group 0, one in each part: without either, the group has one half only.
    ids, parts = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 0, 0, 1, 1])
    found = split_half_harm(np.array([[1, 1, 0, 0, 0, 0]]), ids, folds=parts, splits=1)
    assert found[0, 0] == pytest.approx(2 / 3)
    assert np.all((found[0, 1:] == 0) | np.isnan(found[0, 1:]))


def test_no_images() -> None:
    found = split_half_harm(np.zeros((2, 0), np.int64), np.zeros(0, np.int64))
    assert found.shape == (2, 1)
    assert np.isnan(found).all()
