"""The k-th smallest of many scores, and exactly the smallest ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import k_smallest
from torch import Tensor

from ceag_cli import selection
from ceag_cli.selection import FEW, Kth, kth_smallest, smallest

INF = math.inf

# The k-th smallest


def kth_of(parts: Sequence[Tensor], k: int) -> float:
    total = sum(part.numel() for part in parts)
    return kth_smallest([partial(torch.clone, part) for part in parts], k, total).score


def test_the_kth_smallest_over_parts() -> None:
    parts = [torch.tensor([5.0, -2.0]), torch.tensor([[0.5], [3.0]])]
    found = [kth_of(parts, k) for k in (1, 2, 3, 4)]
    assert found == [-2.0, 0.5, 3.0, 5.0]


def test_infinities_and_both_zeros_are_ranked() -> None:
    inf = math.inf
    parts = [torch.tensor([inf, 0.0, -0.0, -inf, 1e-45])]  # the smallest float above zero
    found = [kth_of(parts, k) for k in (1, 2, 3, 4, 5)]
    assert found == [-inf, 0.0, 0.0, pytest.approx(1e-45, abs=0, rel=1), inf]
    assert math.copysign(1, found[1]) == 1


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=20),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_it_is_what_sorting_gives(parts: list[list[float]], data: st.DataObject) -> None:
    together = sorted(value for part in parts for value in part)
    k = data.draw(st.integers(1, len(together)))
    assert kth_of([torch.tensor(part) for part in parts], k) == together[k - 1]


def test_it_is_what_sorting_gives_of_more_than_fit_in_a_chunk() -> None:
    scores = torch.randn(600_001, generator=torch.Generator().manual_seed(0))
    ordered = scores.sort().values
    for k in (1, 262_144, 300_001, 600_001):
        assert kth_of([scores], k) == float(ordered[k - 1])


def test_scores_in_another_memory_format_are_ranked_too() -> None:
    scores = torch.arange(16.0).reshape(1, 4, 2, 2).to(memory_format=torch.channels_last)
    assert kth_of([scores], 5) == 4.0


def test_how_many_are_below_and_equal_in_each_part() -> None:
    parts = [torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 0.0]), torch.tensor([3.0])]
    found = kth_smallest([partial(torch.clone, part) for part in parts], 3, total=6)
    assert found == Kth(2.0, below=(1, 1, 0), equal=(2, 1, 0))


def random(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def many(kind: str) -> list[Tensor]:
    """More scores than are looked at together, in two parts."""
    ordered = random(5 * FEW).sort().values
    return {
        "random": [random(3 * FEW), 5 + random(2 * FEW)],
        "ordered": [ordered[: 3 * FEW], ordered[3 * FEW :]],
        "mostly pruned": [
            random(3 * FEW).masked_fill(random(3 * FEW, 1) < 1.3, -INF),
            random(2 * FEW).masked_fill(random(2 * FEW, 1) < 1.3, -INF),
        ],
        "all equal": [torch.full((3 * FEW,), 2.0), torch.full((2 * FEW,), 2.0)],
        "two values": [torch.zeros(3 * FEW), torch.arange(2.0 * FEW) % 2],
        "coarse": [random(3 * FEW).bfloat16().float(), random(2 * FEW).bfloat16().float()],
        "both signs of zero": [torch.zeros(3 * FEW), -torch.zeros(2 * FEW)],
        "infinite": [torch.full((3 * FEW,), INF), random(2 * FEW)],
    }[kind]


KINDS = ("random", "ordered", "mostly pruned", "all equal", "two values", "coarse")
ZEROS_AND_INFINITIES = ("both signs of zero", "infinite")


@pytest.mark.parametrize("kind", [*KINDS, *ZEROS_AND_INFINITIES])
def test_of_many_it_is_what_sorting_gives(kind: str) -> None:
    parts = many(kind)
    ordered = torch.cat(parts).sort().values
    for k in (1, 2, FEW, 2 * FEW + 7, 4 * FEW, 5 * FEW - 1, 5 * FEW):
        found = kth_smallest([partial(torch.clone, part) for part in parts], k, 5 * FEW)
        assert found.score == float(ordered[k - 1])
        assert found.below == tuple(int((part < found.score).sum()) for part in parts)
        assert found.equal == tuple(int((part == found.score).sum()) for part in parts)
        assert math.copysign(1, found.score) == (-1 if found.score < 0 else 1)


def test_a_sample_that_misleads_costs_time_and_not_correctness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every score that the sample sees is small, and all others are large."""
    scores = torch.arange(1.0, 2.0 * FEW + 1)
    stride = round((2 * FEW) ** (1 / 3))
    scores[::stride] = -scores[::stride]
    asked: list[int] = []
    by_histograms = selection._by_histograms

    def counted(parts: Sequence[selection.Part], k: int) -> float:
        asked.append(k)
        return by_histograms(parts, k)

    monkeypatch.setattr(selection, "_by_histograms", counted)
    ordered = scores.sort().values
    for k in (10, FEW, 2 * FEW - 10):
        assert kth_of([scores], k) == float(ordered[k - 1])
    assert asked == [10, FEW, 2 * FEW - 10]


@pytest.mark.parametrize("kind", KINDS)
def test_the_histograms_alone_find_it_too(kind: str) -> None:
    parts = many(kind)
    ordered = torch.cat(parts).sort().values
    for k in (1, FEW, 4 * FEW, 5 * FEW):
        assert selection._by_histograms([partial(torch.clone, part) for part in parts], k) == float(
            ordered[k - 1]
        )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=30), st.data())
def test_the_histograms_find_it_among_any_floats(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    assert selection._by_histograms([lambda: torch.tensor(scores)], k) == sorted(scores)[k - 1]


def test_no_part_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is collected of 40 parts is about a hundredth of all, beyond the first few."""
    room: list[int] = []
    empty = np.empty

    def counted(size: int, dtype: type) -> object:
        room.append(size)
        return empty(size, dtype)

    monkeypatch.setattr(np, "empty", counted)
    total = 40 * FEW
    kth_smallest([partial(random, FEW, seed) for seed in range(40)], 36 * FEW, total)
    assert sum(room) <= FEW + total // 60


# Exactly the smallest


def test_smallest_marks_exactly_as_many_as_asked_for() -> None:
    scores = torch.tensor([[5.0, 1.0, 3.0], [2.0, 6.0, 4.0]])
    assert smallest(scores, 3).tolist() == [[False, True, True], [True, False, False]]
    assert smallest(scores, 0).tolist() == [[False] * 3] * 2
    assert smallest(scores, 6).tolist() == [[True] * 3] * 2


def test_among_equal_scores_the_first_in_memory_order_are_kept() -> None:
    equal = torch.ones(2, 2)
    assert smallest(equal, 1).tolist() == [[False, False], [False, True]]
    assert smallest(equal, 3).tolist() == [[False, True], [True, True]]
    # 0 goes in any case; of the three ones only the last.
    assert smallest(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2).tolist() == [False, False, True, True]


def test_scores_of_minus_infinity_go_first() -> None:
    scores = torch.tensor([2.0, -INF, 1.0, -INF])
    assert smallest(scores, 2).tolist() == [False, True, False, True]
    assert smallest(scores, 3).tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_can_be_ranked(dtype: torch.dtype) -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0], dtype=dtype)
    assert smallest(scores, 1).tolist() == [False, False, False, True]


def test_scores_in_another_memory_format_are_marked_in_their_own_places() -> None:
    scores = torch.arange(16.0).reshape(1, 4, 2, 2).to(memory_format=torch.channels_last)
    mask = smallest(scores, 5)
    assert mask.flatten().tolist() == [True] * 5 + [False] * 11
    # Among equals the first are kept in the order of indices, not of addresses.
    equal = torch.ones(1, 2, 1, 2).to(memory_format=torch.channels_last)
    assert smallest(equal, 2).flatten().tolist() == [False, False, True, True]


def test_smallest_of_nothing() -> None:
    assert smallest(torch.zeros(0, 3), 0).shape == (0, 3)


# Few different values, so that there are many ties; powers of two, so that all are exact.
tied_scores = st.lists(
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, -INF]), st.floats(0, 4, width=32)),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=200)
@given(tied_scores, st.data())
def test_smallest_is_what_sorting_gives(scores: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(scores)))
    mask = smallest(torch.tensor(scores), count)
    assert int(mask.sum()) == count
    assert mask.tolist() == k_smallest(scores, count)
    if count < len(scores):
        # With one more the mask only grows.
        assert bool((smallest(torch.tensor(scores), count + 1) | ~mask).all())


@pytest.mark.parametrize("threshold", [None, 1.0, 2.0, 0.5, 3.0, -INF, INF])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_wrong_hint_changes_nothing(count: int, threshold: float | None) -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 4.0])
    expected = {1: [3], 2: [1, 3], 3: [1, 2, 3], 4: [0, 1, 2, 3]}[count]
    assert (
        torch.nonzero(smallest(scores, count, threshold=threshold)).flatten().tolist() == expected
    )


def test_ties_far_apart_go_from_the_end() -> None:
    scores = torch.full((3 * selection.CHUNK,), 1.0)
    scores[::5] = 0.0
    count = int((scores == 0).sum()) + 7
    mask = smallest(scores, count)
    assert bool(mask[::5].all())
    rest = torch.nonzero(mask & (scores == 1)).flatten()
    assert rest.tolist() == torch.nonzero(scores == 1).flatten()[-7:].tolist()
