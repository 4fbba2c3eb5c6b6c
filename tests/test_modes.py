"""Modal labels and pruning identified exemplars, by hand, by a slow loop and by what must hold."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceag_cli import modes as subject
from ceag_cli.arrays import Integers
from ceag_cli.modes import Identified, by_dealing, identify, modes

# Three models of each population, five images.
#            image:  0  1  2  3  4
DENSE = np.array([[0, 0, 0, 0, 1],
                  [0, 0, 1, 1, 1],
                  [0, 1, 1, 2, 2]])  # fmt: skip
SPARSE = np.array([[1, 0, 1, 2, 2],
                   [1, 0, 0, 2, 2],
                   [1, 1, 0, 1, 1]])  # fmt: skip
# modal dense:       0  0  1 012  1
# modal sparse:      1  0  0  2   2


def test_by_hand() -> None:
    found = identify(DENSE, SPARSE)
    # Image 3 is tied among 0, 1 and 2 in the dense population, and 2 is modal in the sparse one.
    assert found.pies.tolist() == [True, False, True, False, True]
    assert found.dense.votes.tolist() == [3, 2, 2, 1, 2]
    assert found.sparse.votes.tolist() == [3, 2, 2, 2, 2]
    assert found.dense.smallest.tolist() == [0, 0, 1, 0, 1]
    assert found.dense.largest.tolist() == [0, 0, 1, 2, 1]
    assert found.dense.tied.tolist() == [False, False, False, True, False]
    # Image 0: all three votes go from 0 to 1. Images 2 and 4: 2 of 3 against 1 of 3, twice.
    assert found.margin.tolist() == pytest.approx([1, 0, 1 / 3, 0, 1 / 3])


def test_the_largest_number_wins_a_tie_in_the_code_of_the_paper() -> None:
    dense, sparse = np.array([[0, 2], [2, 0]]), np.array([[0, 0], [0, 0]])
    found = identify(dense, sparse)
    assert found.pies.tolist() == [False, False]
    assert found.largest.tolist() == [True, True]
    # Relabelled so that the tied labels are 0 and 2 still, but 0 is another class.
    assert identify(2 - dense, 2 - sparse).largest.tolist() == [False, False]


def test_a_tie_that_no_label_of_saves() -> None:
    found = identify(np.array([[0], [1]]), np.array([[2], [2]]))
    assert found.pies.tolist() == [True]
    assert found.margin.tolist() == [0.75]  # 1/2 lost, 1 gained


def test_one_pair_of_models_disagrees_where_it_answers_differently() -> None:
    found = identify(DENSE[:1], SPARSE[:1])
    assert found.pies.tolist() == (DENSE[0] != SPARSE[0]).tolist()
    assert found.margin.tolist() == found.pies.astype(float).tolist()


def test_no_images() -> None:
    nothing = np.zeros((3, 0), np.int64)
    found = identify(nothing, nothing)
    assert found.pies.shape == found.margin.shape == (0,)
    dealt = by_dealing(nothing, nothing, np.zeros((0, 1), np.int64), 2)
    assert (dealt.overall, dealt.p, dealt.by_group.tolist()) == (0.0, 1.0, [0.0, 0.0])


# A slow loop


def slowly(dense: Integers, sparse: Integers) -> tuple[list[bool], list[float]]:
    pies, margins = [], []
    for one, other in zip(dense.T.tolist(), sparse.T.tolist(), strict=True):
        votes = Counter(one), Counter(other)
        modal = [{label for label in v if v[label] == max(v.values())} for v in votes]
        pies.append(not modal[0] & modal[1])
        share = [{k: v / sum(each.values()) for k, v in each.items()} for each in votes]
        leads = [
            share[0][a] - share[0].get(b, 0) + share[1][b] - share[1].get(a, 0)
            for a, b in product(*modal)
        ]
        margins.append(min(leads) / 2 if pies[-1] else 0.0)
    return pies, margins


@st.composite
def answers(draw: st.DrawFn, most: int = 5) -> tuple[Integers, Integers]:
    n = draw(st.integers(1, 8))
    of = st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=most)
    return np.array(draw(of), np.int64), np.array(draw(of), np.int64)


def same(one: Identified, other: Identified) -> None:
    assert one.pies.tolist() == other.pies.tolist()
    assert one.margin.tolist() == pytest.approx(other.margin.tolist())


@settings(deadline=None)
@given(answers())
def test_as_by_a_slow_loop(both: tuple[Integers, Integers]) -> None:
    found = identify(*both)
    pies, margin = slowly(*both)
    assert found.pies.tolist() == pies
    assert found.margin.tolist() == pytest.approx(margin)
    assert ((found.margin > 0) == found.pies).all()


@settings(deadline=None)
@given(answers(), st.permutations(range(4)), st.randoms())
def test_what_changes_nothing(
    both: tuple[Integers, Integers], names: list[int], random: np.random.RandomState
) -> None:
    dense, sparse = both
    found = identify(dense, sparse)
    same(identify(sparse, dense), found)  # which population is which
    order = list(range(len(dense)))
    random.shuffle(order)
    same(identify(dense[order], sparse), found)  # the order of the models
    same(identify(np.array(names)[dense], np.array(names)[sparse]), found)  # numbers of classes
    same(identify(np.concatenate([dense, dense]), sparse), found)  # every model twice
    assert not identify(dense, dense).pies.any()


@settings(deadline=None)
@given(answers())
def test_an_image_is_for_itself(both: tuple[Integers, Integers]) -> None:
    found = identify(*both)
    for i in range(both[0].shape[1]):
        one = identify(both[0][:, [i]], both[1][:, [i]])
        assert (one.pies[0], one.margin[0]) == (found.pies[i], found.margin[i])


@settings(deadline=None)
@given(answers())
def test_small_integers_are_enough(both: tuple[Integers, Integers]) -> None:
    small = identify(both[0].astype(np.uint8), both[1].astype(np.uint8))
    same(small, identify(*both))


# By chance


def counted(dense: Integers, sparse: Integers) -> int:
    return sum(slowly(dense, sparse)[0])


def test_all_ways_to_deal_models_are_gone_through() -> None:
    ids = np.array([[0], [0], [1], [1], [1]])
    found = by_dealing(DENSE, SPARSE, ids, 2)
    every = np.concatenate([DENSE, SPARSE])
    counts, in_first = [], []
    for chosen in combinations(range(6), 3):
        rest = [i for i in range(6) if i not in chosen]
        pies = slowly(every[list(chosen)], every[rest])[0]
        counts.append(sum(pies))
        in_first.append(sum(pies[:2]))
    assert found.deals == len(counts) == 20
    assert not found.within_pairs
    assert found.overall == pytest.approx(np.mean(counts))
    assert found.by_group.tolist() == pytest.approx(
        [np.mean(in_first), np.mean(counts) - np.mean(in_first)]
    )
    assert found.p == pytest.approx(np.mean([count >= 3 for count in counts]))


def test_models_are_exchanged_within_pairs() -> None:
    ids = np.zeros((5, 1), np.int64)
    pairs = [2, 0, 1]
    found = by_dealing(DENSE, SPARSE, ids, 1, pairs)
    counts = []
    for swaps in product((False, True), repeat=3):
        one = [SPARSE[i] if swap else DENSE[pairs[i]] for i, swap in enumerate(swaps)]
        other = [DENSE[pairs[i]] if swap else SPARSE[i] for i, swap in enumerate(swaps)]
        counts.append(counted(np.array(one), np.array(other)))
    assert found.deals == 4  # half of them are the other half with the names changed
    assert found.within_pairs
    assert found.overall == pytest.approx(np.mean(counts))
    assert found.p == pytest.approx(np.mean([count >= 3 for count in counts]))


def test_deals_are_drawn_where_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    dense, sparse = generator.integers(0, 3, (2, 6, 40))
    ids = np.zeros((40, 1), np.int64)
    for pairs, ways in ((None, 924), (list(range(6)), 32)):
        every = by_dealing_all(dense, sparse, ids, pairs, monkeypatch)
        assert every.deals == ways
        monkeypatch.setattr(subject, "DRAWS", 20)
        drawn = by_dealing(dense, sparse, ids, 1, pairs, seed=1)
        assert drawn.deals == 20
        assert drawn.overall == pytest.approx(every.overall, rel=0.1)
        again = by_dealing(dense, sparse, ids, 1, pairs, seed=1)
        assert (again.overall, again.p) == (drawn.overall, drawn.p)
        assert 1 / 21 <= drawn.p <= 1


@settings(max_examples=25, deadline=None)
@given(answers(most=3), st.integers(0, 2**8 - 1))
def test_counts_of_groups_add_up(both: tuple[Integers, Integers], which: int) -> None:
    """Whatever the groups of a feature, and a group that is split in two shares its images."""
    n = both[0].shape[1]
    one = np.array([which >> i & 1 for i in range(n)])
    halves = np.where(one == 1, 1 + np.arange(n) % 2, 0)
    found = by_dealing(*both, np.column_stack([one, 2 + halves]), 5)
    assert found.by_group[:2].sum() == pytest.approx(found.overall)
    assert found.by_group[2] == pytest.approx(found.by_group[0])
    assert found.by_group[3:].sum() == pytest.approx(found.by_group[1])
    turned = by_dealing(both[1], both[0], np.zeros((n, 1), np.int64), 1)
    assert turned.overall == pytest.approx(found.overall)
    assert turned.p == pytest.approx(found.p)


def by_dealing_all(
    dense: Integers,
    sparse: Integers,
    ids: Integers,
    pairs: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> subject.Dealt:
    monkeypatch.setattr(subject, "DRAWS", 1000)
    return by_dealing(dense, sparse, ids, 1, pairs)


def test_p_is_uniform_where_it_makes_no_difference() -> None:
    """Models that answer by the same coin: p is at most a half in half of the cases or less."""
    generator = np.random.default_rng(1)
    every = np.zeros((60, 1), np.int64)
    coins = generator.integers(0, 2, (200, 2, 3, 60))
    p = np.array([by_dealing(dense, sparse, every, 1).p for dense, sparse in coins])
    assert p.min() == pytest.approx(0.1)  # of 20 ways two are the measured one
    for level in (0.1, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * (level * (1 - level) / 200) ** 0.5


def test_the_tie_breaking_of_modes_is_by_number_alone() -> None:
    found = modes(np.array([[2], [1], [0], [1], [0], [2]]))
    assert (found.votes[0], found.smallest[0], found.largest[0]) == (2, 0, 2)
    assert found.tied[0]
