from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Sample, psi

from ceag_cli import chance
from ceag_cli.chance import Chance, by_chance


def dealt(samples: Sequence[Sample], num_groups: int, seed: int = 0) -> Chance:
    found = by_chance(
        np.array([list(ids) for _, _, ids in samples]),
        num_groups,
        np.array([dense and not sparse for dense, sparse, _ in samples]),
        np.array([sparse and not dense for dense, sparse, _ in samples]),
        seed,
    )
    assert found is not None
    return found


def every_way(samples: Sequence[Sample], num_groups: int) -> tuple[Fraction, Fraction]:
    """The same by all permutations of the images' answers: mean largest psi, and p of the test."""

    def spread(values: Sequence[Fraction | None], sizes: Sequence[int]) -> Fraction:
        return sum(
            (n * x**2 for n, x in zip(sizes, values, strict=True) if x is not None), Fraction()
        )

    groups = [ids for _, _, ids in samples]
    sizes = [sum(g in ids for ids in groups) for g in range(num_groups)]
    measured = spread(psi(samples, num_groups), sizes)
    largest, as_large, ways = Fraction(), 0, 0
    for order in itertools.permutations(samples):
        mixed = [
            (dense, sparse, ids) for (dense, sparse, _), ids in zip(order, groups, strict=True)
        ]
        values = psi(mixed, num_groups)
        largest += max(value for value in values if value is not None)
        as_large += spread(values, sizes) >= measured
        ways += 1
    return largest / ways, Fraction(as_large, ways)


LOST, GAINED, KEPT = (True, False), (False, True), (True, True)


@pytest.mark.parametrize(
    "samples",
    [
        [
            (*LOST, (0,)),
            (*LOST, (0,)),
            (*KEPT, (0,)),
            (*KEPT, (1,)),
            (*GAINED, (1,)),
            (*KEPT, (1,)),
        ],
        [(*LOST, (0,)), (*KEPT, (1,)), (*KEPT, (1,)), (*KEPT, (1,)), (*LOST, (1,))],
        # Two features, of which the cells cross.
        [
            (*LOST, (0, 2)),
            (*LOST, (0, 3)),
            (*KEPT, (0, 2)),
            (*GAINED, (1, 2)),
            (*KEPT, (1, 3)),
            (*KEPT, (1, 3)),
        ],
    ],
)
def test_against_all_permutations(samples: list[Sample]) -> None:
    number = 1 + max(max(ids) for _, _, ids in samples)
    found = dealt(samples, number)
    floor, p = every_way(samples, number)
    assert found.draws == chance.DRAWS
    assert found.noise_floor == pytest.approx(float(floor), abs=0.02)
    assert found.omnibus_p == pytest.approx(float(p), abs=0.04)


def test_by_hand() -> None:
    """One image of two is lost: it is in either group as often, and psi is 1/2 each time."""
    found = dealt([(*LOST, (0,)), (*KEPT, (1,))], 2)
    assert (found.noise_floor, found.omnibus_p) == (0.5, 1.0)


def test_where_nothing_changed_nothing_is_to_be_expected() -> None:
    found = dealt([(*KEPT, (0,)), (*KEPT, (1,)), (False, False, (1,))], 2)
    assert (found.noise_floor, found.omnibus_p) == (0.0, 1.0)


def test_without_images() -> None:
    nothing = np.zeros(0, bool)
    assert by_chance(np.zeros((0, 1), np.int64), 2, nothing, nothing, 0) is None


@pytest.mark.parametrize(
    ("groups", "each", "floor"), [(7, 1500, 0.011), (20, 500, 0.025), (100, 100, 0.077)]
)
def test_the_noise_floor_of_equal_groups(groups: int, each: int, floor: float) -> None:
    """5 % lost and 4 % gained, without any disparity: 1.1, 2.5 and 7.7 points."""
    n = groups * each
    rank = np.arange(n)
    ids = np.random.default_rng(0).permutation(n) % groups
    found = by_chance(ids[:, None], groups, rank < 0.05 * n, rank >= 0.96 * n, 0)
    assert found is not None
    assert found.noise_floor == pytest.approx(floor, abs=0.0015)
    # Whatever p is, it is no sign of a disparity of this size.
    assert found.omnibus_p > 0.001


def four_groups() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1000, 300, 40 and 25 images with 60, 9, 6 and 0 lost and 20, 6, 0 and 0 gained."""
    sizes, lost, gained = (1000, 300, 40, 25), (60, 9, 6, 0), (20, 6, 0, 0)
    ids = np.repeat(np.arange(4), sizes)
    rank = np.concatenate([np.arange(n) for n in sizes])
    a, b = np.repeat(lost, sizes), np.repeat(gained, sizes)
    return ids[:, None], rank < a, (rank >= a) & (rank < a + b)


def test_the_omnibus_test_of_four_groups_against_permuted_images() -> None:
    ids, lost, gained = four_groups()
    found = by_chance(ids, 4, lost, gained, 0)
    assert found is not None
    change = lost.astype(float) - gained
    sizes = np.bincount(ids[:, 0])

    def spread(values: np.ndarray) -> float:
        return float(sizes @ (np.bincount(ids[:, 0], values) / sizes - values.mean()) ** 2)

    generator, measured = np.random.default_rng(1), spread(change)
    permuted = [spread(generator.permutation(change)) for _ in range(4000)]
    p = float(np.mean([value >= measured - 1e-12 for value in permuted]))
    assert p == pytest.approx(0.0175, abs=0.01)
    assert found.omnibus_p == pytest.approx(p, abs=0.015)


def test_a_real_disparity_is_noticed_where_no_group_alone_is() -> None:
    """100 groups of 100, of which every other one loses 10 % and the others 4 %."""
    generator = np.random.default_rng(0)
    ids = np.arange(10_000) % 100
    lost = generator.random(10_000) < np.where(ids % 2, 0.1, 0.04)
    gained = ~lost & (generator.random(10_000) < 0.04)
    found = by_chance(ids[:, None], 100, lost, gained, 0)
    assert found is not None
    assert found.omnibus_p == 1 / (1 + found.draws)  # no draw is as uneven


def test_the_scale_is_that_of_the_gap_against_the_rest() -> None:
    """Of one of two images lost the gap against the other is 1."""
    lost = np.array([True, False])
    found = by_chance(np.array([[0], [1]]), 2, lost, ~lost & False, 0, np.array([2.0, 2.0]))
    assert found is not None
    assert found.noise_floor == 1.0


def test_of_many_cells_there_are_fewer_draws() -> None:
    n = 40_000
    ids = np.arange(n) % 20_000
    lost = np.arange(n) < 2000
    found = by_chance(ids[:, None], 20_000, lost, np.zeros(n, bool), 0)
    assert found is not None
    assert found.draws == chance.FEWEST


image = st.tuples(st.booleans(), st.booleans(), st.tuples(st.integers(0, 1), st.integers(2, 4)))


@settings(deadline=None, max_examples=25)
@given(st.lists(image, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(samples: list[Sample], random: Random) -> None:
    assert dealt(samples, 5) == dealt(random.sample(samples, len(samples)), 5)


def test_the_order_does_not_matter_where_numbers_of_groups_are_far_apart() -> None:
    """Cells are then found by sorting, and are the same ones."""
    ids = np.array([[0, 900], [0, 1000], [500, 1000], [500, 900], [500, 1000]])
    close = np.array([[0, 2], [0, 3], [1, 3], [1, 2], [1, 3]])
    lost = np.array([True, True, False, False, False])
    far = by_chance(ids, 1001, lost, lost & False, 3)
    assert far == by_chance(close, 4, lost, lost & False, 3)


def test_the_seed_is_what_the_draws_depend_on() -> None:
    samples: list[Sample] = [(*LOST, (i % 3,)) if i % 5 else (*KEPT, (i % 2,)) for i in range(60)]
    assert dealt(samples, 3, seed=1) == dealt(samples, 3, seed=1)
    assert dealt(samples, 3, seed=1) != dealt(samples, 3, seed=2)
