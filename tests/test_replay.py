from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DequeReplay, floats, known

from ceag_cli.replay import GroupReplay

Batch = Sequence[tuple[bool, Sequence[int]]]


def push(replay: GroupReplay, correct: list[int], groups: list[int]) -> None:
    """Push samples with one group each."""
    replay.push(torch.tensor(correct, dtype=torch.bool), torch.tensor(groups).reshape(-1, 1))


def test_accuracy_over_what_is_held() -> None:
    replay = GroupReplay(num_groups=3, capacity=4, min_count=1)
    push(replay, [1, 0, 1, 1], [0, 0, 0, 2])
    assert known(replay.mean()) == [2 / 3, None, 1.0]
    push(replay, [0], [2])
    assert known(replay.mean()) == [2 / 3, None, 0.5]


def test_the_oldest_outcome_is_forgotten_first() -> None:
    replay = GroupReplay(num_groups=1, capacity=2, min_count=2)
    seen = []
    for flag in [1, 1, 0, 1, 0, 0]:
        push(replay, [flag], [0])
        seen.append(known(replay.mean())[0])
    #       1     11   10   01   10   00
    assert seen == [None, 1.0, 0.5, 0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("min_count", "expected"),
    [(1, [1.0, 1.0, 1.0]), (2, [None, 1.0, 1.0]), (3, [None, None, 1.0])],
)
def test_a_group_is_known_from_min_count_outcomes_on(
    min_count: int, expected: list[float | None]
) -> None:
    replay = GroupReplay(num_groups=1, capacity=3, min_count=min_count)
    seen = []
    for _ in range(3):
        push(replay, [1], [0])
        seen.append(known(replay.mean())[0])
    assert seen == expected


def test_of_more_samples_than_fit_the_last_remain() -> None:
    replay = GroupReplay(num_groups=2, capacity=2, min_count=1)
    # Group 0: 1 1 0 0 0, of which 0 0 remain. Group 1: 0 1.
    push(replay, [1, 0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0, 0])
    assert known(replay.mean()) == [0.0, 0.5]
    # Then 1: of group 0 remain 0 1, so the cursor stood at the right place.
    push(replay, [1], [0])
    assert known(replay.mean()) == [0.5, 0.5]
    push(replay, [1], [0])
    assert known(replay.mean()) == [1.0, 0.5]


def test_a_sample_enters_the_buffer_of_each_of_its_groups() -> None:
    replay = GroupReplay(num_groups=4, capacity=4, min_count=1)
    replay.push(torch.tensor([True, False, True]), torch.tensor([[0, 2], [0, 3], [1, 3]]))
    assert known(replay.mean()) == [0.5, 1.0, 1.0, 0.5]


def test_a_new_buffer_knows_nothing() -> None:
    assert known(GroupReplay(2, 3, 1).mean()) == [None, None]


@pytest.mark.parametrize(("capacity", "min_count"), [(3, 0), (3, 4), (0, 0), (0, 1), (3, -1)])
def test_impossible_sizes_are_refused(capacity: int, min_count: int) -> None:
    with pytest.raises(ValueError, match=f"got {min_count} and {capacity}"):
        GroupReplay(2, capacity, min_count)


def test_every_group_may_have_a_size_of_its_own() -> None:
    sizes, enough = torch.tensor([1, 3]), torch.tensor([1, 2])
    replay = GroupReplay(2, sizes, enough)
    push(replay, [1, 1], [0, 1])
    assert known(replay.mean()) == [1.0, None]
    push(replay, [0, 0, 1, 0], [0, 1, 1, 1])
    # Of group 0 remains the last, of group 1 the last three: 0 1 0.
    assert known(replay.mean()) == [0.0, 1 / 3]


def test_losses_are_held_as_they_are() -> None:
    replay = GroupReplay(1, capacity=2, min_count=1, dtype=torch.float64)
    replay.push(torch.tensor([0.5, 1.25, 2.25]), torch.zeros(3, 1, dtype=torch.int64))
    assert known(replay.mean()) == [1.75]


@dataclass(frozen=True)
class Stream:
    """Batches, and the buffers that they go to."""

    num_groups: int
    capacity: list[int]
    min_count: list[int]
    features: int
    batches: list[Batch]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    starts = [sum(sizes[:f]) for f in range(len(sizes))]
    groups = st.tuples(
        *(st.integers(start, start + size - 1) for start, size in zip(starts, sizes, strict=True))
    )
    capacity = draw(st.lists(st.integers(1, 5), min_size=sum(sizes), max_size=sum(sizes)))
    batch = st.lists(st.tuples(st.booleans(), groups), max_size=16)
    return Stream(
        num_groups=sum(sizes),
        capacity=capacity,
        min_count=[draw(st.integers(1, size)) for size in capacity],
        features=len(sizes),
        batches=draw(st.lists(batch, min_size=1, max_size=8)),
    )


def a_replay(stream: Stream, dtype: torch.dtype = torch.int64) -> GroupReplay:
    sizes, enough = torch.tensor(stream.capacity), torch.tensor(stream.min_count)
    return GroupReplay(stream.num_groups, sizes, enough, dtype)


def push_batch(replay: GroupReplay, batch: Batch, features: int) -> None:
    groups = torch.tensor([list(groups) for _, groups in batch], dtype=torch.int64)
    correct = torch.tensor([flag for flag, _ in batch], dtype=torch.bool)
    replay.push(correct, groups.reshape(len(batch), features))


@settings(deadline=None, max_examples=200)
@given(streams())
def test_the_buffers_are_those_of_one_deque_per_group(stream: Stream) -> None:
    replay = a_replay(stream)
    oracle = DequeReplay(stream.num_groups, stream.capacity, stream.min_count)
    for batch in stream.batches:
        push_batch(replay, batch, stream.features)
        oracle.push([flag for flag, _ in batch], [groups for _, groups in batch])
        assert replay.held.tolist() == [len(buffer) for buffer in oracle.buffers]
        assert replay.total.tolist() == [sum(buffer) for buffer in oracle.buffers]
        assert known(replay.mean()) == floats(oracle.mean())


@settings(deadline=None, max_examples=60)
@given(streams(), st.randoms(use_true_random=False))
def test_so_are_buffers_of_losses(stream: Stream, random: Random) -> None:
    """Quarters, so that sums are exact in floating point too."""
    replay = a_replay(stream, torch.float64)
    oracle = DequeReplay(stream.num_groups, stream.capacity, stream.min_count)
    for batch in stream.batches:
        losses = [random.randrange(100) / 4 for _ in batch]
        groups = [list(of_sample) for _, of_sample in batch]
        ids = torch.tensor(groups, dtype=torch.int64).reshape(len(batch), stream.features)
        replay.push(torch.tensor(losses), ids)
        oracle.push(losses, groups)
        assert known(replay.mean()) == floats(oracle.mean())


@settings(deadline=None, max_examples=60)
@given(streams(), st.data())
def test_cutting_a_stream_into_other_batches_changes_nothing(
    stream: Stream, data: st.DataObject
) -> None:
    samples = [sample for batch in stream.batches for sample in batch]
    cuts = data.draw(st.lists(st.integers(0, len(samples)), max_size=5))
    edges = sorted({0, len(samples), *cuts})
    whole = a_replay(stream)
    push_batch(whole, samples, stream.features)
    pieces = a_replay(stream)
    for start, end in pairwise(edges):
        push_batch(pieces, samples[start:end], stream.features)
    assert known(pieces.mean()) == known(whole.mean())
    assert pieces.held.tolist() == whole.held.tolist()
    assert pieces.total.tolist() == whole.total.tolist()


def test_a_batch_is_not_changed_by_pushing_it() -> None:
    correct, groups = torch.tensor([True, False]), torch.tensor([[1], [0]])
    GroupReplay(2, 1, 1).push(correct, groups)
    assert correct.tolist() == [True, False]
    assert groups.tolist() == [[1], [0]]


@settings(deadline=None, max_examples=60)
@given(streams(), st.integers(0, 8))
def test_a_restored_buffer_goes_on_as_the_first_one_would_have(stream: Stream, cut: int) -> None:
    first = a_replay(stream)
    for batch in stream.batches[:cut]:
        push_batch(first, batch, stream.features)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = a_replay(stream)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert known(second.mean()) == known(first.mean())
    for batch in stream.batches[cut:]:
        push_batch(first, batch, stream.features)
        push_batch(second, batch, stream.features)
        assert known(second.mean()) == known(first.mean())


def test_a_state_is_a_snapshot_that_later_batches_do_not_touch() -> None:
    replay = GroupReplay(num_groups=1, capacity=3, min_count=1)
    push(replay, [1, 0], [0, 0])
    state = replay.state_dict()
    push(replay, [1], [0])
    restored = GroupReplay(num_groups=1, capacity=3, min_count=1)
    restored.load_state_dict(state)
    # What was held when the state was taken: two outcomes, one of them a hit.
    assert known(restored.mean()) == [0.5]


def test_the_state_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError):
        GroupReplay(2, 3, 1).load_state_dict(GroupReplay(2, 4, 1).state_dict())
    with pytest.raises(RuntimeError):
        GroupReplay(2, 3, 1).load_state_dict(GroupReplay(3, 2, 1).state_dict())
