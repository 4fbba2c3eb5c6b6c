from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ceag_cli.groups import (
    BatchOutcome,
    Grouping,
    GroupStats,
    ambiguous,
    crossed,
    look_alikes,
    set_aside,
)

RACE_AND_GENDER = Grouping(("race", "gender"), (("black", "white", "other"), ("f", "m")))


def outcome(loss: list[float], correct: list[bool], groups: list[list[int]]) -> BatchOutcome:
    features = len(groups[0]) if groups else 1
    return BatchOutcome(
        torch.tensor(loss),
        torch.tensor(correct, dtype=torch.bool),
        torch.tensor(groups, dtype=torch.int64).reshape(len(groups), features),
    )


def as_lists(stats: GroupStats) -> dict[str, object]:
    return {name: getattr(stats, name).tolist() for name in stats.__dataclass_fields__}


def test_groups_of_all_features_are_numbered_together() -> None:
    assert RACE_AND_GENDER.num_groups == 5
    assert RACE_AND_GENDER.feature_of.tolist() == [0, 0, 0, 1, 1]
    assert RACE_AND_GENDER.names == (
        ("race", "black"),
        ("race", "white"),
        ("race", "other"),
        ("gender", "f"),
        ("gender", "m"),
    )


def test_a_grouping_of_one_group() -> None:
    grouping = Grouping(("all",), (("everybody",),))
    assert grouping.num_groups == 1
    assert grouping.feature_of.tolist() == [0]


def test_groupings_are_equal_by_value_also_after_their_caches_are_filled() -> None:
    other = Grouping(RACE_AND_GENDER.features, RACE_AND_GENDER.values)
    assert RACE_AND_GENDER.feature_of is RACE_AND_GENDER.feature_of
    assert other == RACE_AND_GENDER
    assert hash(other) == hash(RACE_AND_GENDER)


def test_crossed_names() -> None:
    assert crossed(["race", "gender"]) == "race*gender"
    assert crossed(["race"]) == "race"


def test_groups_of_other_values_and_one_name_are_named() -> None:
    values = [("a*b", "c"), ("a", "c"), ("a", "b*c"), ("a*b", "c")]
    assert ambiguous(["race", "gender"], values) == [
        "groups of race*gender: 'a*b' with 'c' and 'a' with 'b*c' would have one name, 'a*b*c'; "
        "rename a value so that it has no '*'"
    ]
    assert ambiguous(["race", "gender"], values[:2]) == []


@given(st.lists(st.tuples(*[st.text("a*", max_size=3)] * 2), max_size=6))
def test_names_without_a_complaint_tell_groups_apart(values: list[tuple[str, str]]) -> None:
    apart = len(set(map(crossed, values))) == len(set(values))
    assert (ambiguous(["x", "y"], values) == []) == apart


def test_groups_that_look_alike_are_named() -> None:
    """An e with an accent, in one character and in two."""
    names = [("city", "caf\u00e9"), ("city", "cafe"), ("city", "cafe\u0301"), ("x", "cafe\u0301")]
    assert look_alikes(names) == [
        "city has 2 groups that look like 'caf\u00e9', written 'caf\\xe9' and 'cafe\\u0301': they "
        "are judged apart; write them in one Unicode form"
    ]


def test_counts_and_sums_of_a_batch() -> None:
    # Group 0: samples 0 and 2; group 1: nobody; group 2: samples 1, 3 and 4.
    batch = outcome(
        loss=[1.0, 2.0, 4.0, 8.0, 16.0],
        correct=[True, False, False, True, True],
        groups=[[0], [2], [0], [2], [2]],
    )
    assert as_lists(GroupStats.of(batch, 3)) == {
        "count": [2, 0, 3],
        "correct": [1, 0, 2],
        "loss": [5.0, 0.0, 26.0],
        "total_count": 5,
        "total_correct": 3,
        "total_loss": 31.0,
    }


def test_a_sample_counts_once_in_each_feature_and_once_overall() -> None:
    batch = outcome(
        loss=[1.0, 2.0, 4.0],
        correct=[True, True, False],
        groups=[[0, 3], [0, 4], [2, 3]],
    )
    assert as_lists(GroupStats.of(batch, 5)) == {
        "count": [2, 0, 1, 2, 1],
        "correct": [2, 0, 0, 1, 1],
        "loss": [3.0, 0.0, 4.0, 5.0, 2.0],
        "total_count": 3,
        "total_correct": 2,
        "total_loss": 7.0,
    }


def test_means() -> None:
    stats = GroupStats.of(
        outcome([1.0, 3.0, 4.0, 8.0], [True, False, True, True], [[0], [0], [2], [2]]), 3
    )
    assert stats.accuracy[[0, 2]].tolist() == [0.5, 1.0]
    assert stats.mean_loss[[0, 2]].tolist() == [2.0, 6.0]
    assert stats.prevalence.tolist() == [0.5, 0.0, 0.5]
    assert float(stats.overall_accuracy) == 0.75
    assert float(stats.overall_loss) == 4.0


def test_a_group_without_samples_has_no_mean() -> None:
    stats = GroupStats.of(outcome([1.0, 3.0], [True, False], [[0], [0]]), 2)
    assert math.isnan(stats.accuracy[1])
    assert math.isnan(stats.mean_loss[1])
    assert stats.prevalence.tolist() == [1.0, 0.0]


def test_no_samples_at_all() -> None:
    nothing = GroupStats.zeros(2)
    assert as_lists(nothing) == {
        "count": [0, 0],
        "correct": [0, 0],
        "loss": [0.0, 0.0],
        "total_count": 0,
        "total_correct": 0,
        "total_loss": 0.0,
    }
    for mean in (nothing.overall_accuracy, nothing.overall_loss):
        assert math.isnan(mean)
    assert as_lists(GroupStats.of(outcome([], [], []), 2)) == as_lists(nothing)


def test_the_fields_of_zeros_share_no_memory() -> None:
    stats = GroupStats.zeros(1)
    tensors: list[Tensor] = [getattr(stats, name) for name in stats.__dataclass_fields__]
    assert len({tensor.data_ptr() for tensor in tensors}) == 6


def test_losses_are_summed_in_double_precision() -> None:
    # In float32 2**24 + 1 is 2**24.
    stats = GroupStats.of(outcome([2.0**24, 1.0, 1.0], [True] * 3, [[0], [0], [0]]), 1)
    assert stats.loss.dtype == torch.float64
    assert stats.loss.tolist() == [2.0**24 + 2]
    assert float(stats.total_loss) == 2.0**24 + 2


def test_statistics_hold_no_graph_and_leave_the_batch_as_it_was() -> None:
    batch = BatchOutcome(
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([True, False]),
        torch.tensor([[0], [1]]),
    )
    stats = GroupStats.of(batch, 2)
    assert not stats.loss.requires_grad
    assert not stats.total_loss.requires_grad
    assert batch.loss.tolist() == [1.0, 2.0]
    assert batch.groups.tolist() == [[0], [1]]


def test_a_group_that_does_not_exist_is_an_error() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        GroupStats.of(outcome([1.0], [True], [[2]]), 2)


def test_moving_to_a_device_keeps_every_field() -> None:
    stats = GroupStats.of(outcome([1.0, 2.0], [True, False], [[1], [1]]), 2)
    assert as_lists(stats.to("cpu")) == as_lists(stats)
    assert {getattr(stats.to("meta"), name).device.type for name in as_lists(stats)} == {"meta"}


samples = st.lists(
    # Losses in eighths, so that sums in float64 are exact whatever the order.
    st.tuples(st.integers(0, 80), st.booleans(), st.integers(0, 2), st.integers(3, 4)),
    max_size=20,
)


@settings(deadline=None, max_examples=60)
@given(samples, st.lists(st.integers(0, 20), max_size=4), st.randoms(use_true_random=False))
def test_neither_batches_nor_their_order_change_the_statistics(
    rows: list[tuple[int, bool, int, int]], cuts: list[int], random: Random
) -> None:
    def stats(of: list[tuple[int, bool, int, int]]) -> GroupStats:
        if not of:
            return GroupStats.zeros(5)
        return GroupStats.of(
            outcome([r[0] / 8 for r in of], [r[1] for r in of], [[r[2], r[3]] for r in of]), 5
        )

    shuffled = random.sample(rows, len(rows))
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    merged = GroupStats.zeros(5)
    for start, end in pairwise(edges):
        merged = merged + stats(shuffled[start:end])
    assert as_lists(merged) == as_lists(stats(rows))
    # Every sample is in one group of each feature.
    assert int(merged.count[:3].sum()) == int(merged.count[3:].sum()) == len(rows)
    assert int(merged.correct[:3].sum()) == int(merged.total_correct)


# A stratified part


def aside(strata: list[list[int]], share: float, seed: int = 0) -> Tensor:
    rows = torch.tensor(strata, dtype=torch.int64).reshape(len(strata), -1)
    return set_aside(rows, share, torch.Generator().manual_seed(seed))


def test_each_stratum_gives_its_share() -> None:
    strata = [[0, 0]] * 40 + [[0, 1]] * 20 + [[1, 0]] * 10
    chosen = aside(strata, 0.1)
    # 10 % of 70 are 7: 4 of 40, 2 of 20, 1 of 10.
    assert [int(part.sum()) for part in (chosen[:40], chosen[40:60], chosen[60:])] == [4, 2, 1]


def test_the_only_one_of_its_kind_stays() -> None:
    chosen = aside([[0]] * 10 + [[1]], 0.9)
    assert not bool(chosen[10])
    assert int(chosen.sum()) == 9
    assert int(aside([[i] for i in range(20)], 0.5).sum()) == 0


def test_it_is_drawn_at_random_from_the_seed() -> None:
    strata = [[0]] * 100
    assert torch.equal(aside(strata, 0.3), aside(strata, 0.3))
    assert not torch.equal(aside(strata, 0.3), aside(strata, 0.3, seed=1))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**16),
)
def test_no_stratum_is_emptied_and_none_gives_more_than_its_share(
    samples: list[tuple[int, int]], share: float, seed: int
) -> None:
    chosen = aside([list(sample) for sample in samples], share, seed)
    sizes = {sample: samples.count(sample) for sample in samples}
    free = len(samples) - len(sizes)
    assert int(chosen.sum()) == min(round(share * len(samples)), free)
    for sample, size in sizes.items():
        members = torch.tensor([other == sample for other in samples])
        given = int(chosen[members].sum())
        assert given < size or size == 0
        if free:
            # Equal distances: within one of the share of those that may go.
            assert abs(given - (size - 1) * int(chosen.sum()) / free) < 1


def test_adding_a_batch_in_place_is_adding_its_statistics() -> None:
    first = outcome([1.0, 2.0], [True, False], [[0], [1]])
    second = outcome([0.5], [True], [[1]])
    stats = GroupStats.of(first, 3)
    expected = stats + GroupStats.of(second, 3)
    stats.add_(second)
    assert as_lists(stats) == as_lists(expected)
