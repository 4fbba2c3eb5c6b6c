from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Sample, floats, known, psi

from ceag_cli.gaps import (
    accuracy_gap,
    excess_gap,
    max_excess_gap,
    overall_gap,
    pairwise_disparity,
    weighted_mean,
)
from ceag_cli.groups import BatchOutcome, GroupStats

NAN = float("nan")


def stats(counts: list[int], correct: list[int]) -> GroupStats:
    """Groups of one feature, given by how many samples they have and how many are right."""
    n, right = torch.tensor(counts), torch.tensor(correct)
    loss = torch.zeros(len(counts), dtype=torch.float64)
    return GroupStats(n, right, loss, n.sum(), right.sum(), loss.sum())


def counted(samples: list[Sample], num_groups: int) -> tuple[GroupStats, GroupStats]:
    groups = torch.tensor([list(groups) for _, _, groups in samples])
    loss = torch.zeros(len(samples))

    def of(flags: list[bool]) -> GroupStats:
        return GroupStats.of(BatchOutcome(loss, torch.tensor(flags), groups), num_groups)

    return of([dense for dense, _, _ in samples]), of([sparse for _, sparse, _ in samples])


def test_gaps_by_hand() -> None:
    # Group 0: 8 of 8 right, then 4 of 8: gap 0.5. Group 1: 4 of 8, then 6 of 8: gap -0.25.
    # Overall: 12 of 16 right, then 10 of 16: gap 0.125.
    dense, sparse = stats([8, 8], [8, 4]), stats([8, 8], [4, 6])
    assert accuracy_gap(dense, sparse).tolist() == [0.5, -0.25]
    assert float(overall_gap(dense, sparse)) == 0.125
    assert excess_gap(dense, sparse).tolist() == [0.375, -0.375]


def test_positive_means_that_the_sparse_model_is_worse() -> None:
    dense, worse = stats([4, 4], [4, 4]), stats([4, 4], [3, 4])
    assert accuracy_gap(dense, worse).tolist() == [0.25, 0.0]
    assert float(overall_gap(dense, worse)) == 0.125
    assert excess_gap(dense, worse).tolist() == [0.125, -0.125]


def test_the_overall_gap_weighs_images_not_groups() -> None:
    # 1 of 4 groups of two loses everything: 2 of 32 images, not a quarter.
    dense, sparse = stats([2, 30], [2, 30]), stats([2, 30], [0, 30])
    assert float(overall_gap(dense, sparse)) == 0.0625
    assert excess_gap(dense, sparse).tolist() == [0.9375, -0.0625]


def test_everybody_losing_alike_is_no_excess() -> None:
    dense, sparse = stats([4, 400], [4, 300]), stats([4, 400], [2, 100])
    assert excess_gap(dense, sparse).tolist() == [0.0, 0.0]


def test_a_group_without_samples_is_nan_and_moves_nobody() -> None:
    dense, sparse = stats([4, 0, 4], [4, 0, 4]), stats([4, 0, 4], [2, 0, 4])
    assert known(excess_gap(dense, sparse)) == [0.25, None, -0.25]


def test_a_single_group_has_no_excess() -> None:
    assert excess_gap(stats([8], [8]), stats([8], [1])).tolist() == [0.0]


def test_the_extremes_are_reached() -> None:
    # One image loses everything while a thousand others gain everything, and the reverse.
    dense, sparse = stats([1, 1023], [1, 0]), stats([1, 1023], [0, 1023])
    assert excess_gap(dense, sparse).tolist() == [2.0 - 2 / 1024, -2 / 1024]
    assert excess_gap(sparse, dense).tolist() == [2 / 1024 - 2.0, 2 / 1024]


def test_max_excess_gap() -> None:
    assert float(max_excess_gap(torch.tensor([-0.5, 0.25, 0.125]))) == 0.25
    assert float(max_excess_gap(torch.tensor([NAN, -0.5, NAN]))) == -0.5
    assert math.isnan(max_excess_gap(torch.tensor([NAN, NAN])))
    assert math.isnan(max_excess_gap(torch.tensor([])))


def test_pairwise_disparity() -> None:
    assert float(pairwise_disparity(torch.tensor([-0.5, 0.25, 0.125]))) == 0.75
    assert float(pairwise_disparity(torch.tensor([NAN, -0.5]))) == 0.0
    assert math.isnan(pairwise_disparity(torch.tensor([NAN])))
    assert math.isnan(pairwise_disparity(torch.tensor([])))


def test_weighted_mean_by_feature() -> None:
    # Feature 0: groups 0, 1 (2 * 1 + 4 * 3) / 4 = 3.5. Feature 1: groups 2, 3, of which 3 is not
    # known: the mean is the value of group 2. Feature 2: nobody is known.
    mean = weighted_mean(
        torch.tensor([2.0, 4.0, 7.0, NAN, NAN]),
        torch.tensor([1.0, 3.0, 0.5, 100.0, 1.0]),
        torch.tensor([0, 0, 1, 1, 2]),
        3,
    )
    assert known(mean) == [3.5, 7.0, None]


def test_weighted_mean_does_not_care_about_the_scale_of_the_weights() -> None:
    values, feature_of = torch.tensor([1.0, 2.0]), torch.tensor([0, 0])
    assert weighted_mean(values, torch.tensor([1.0, 1.0]), feature_of, 1).tolist() == [1.5]
    assert weighted_mean(values, torch.tensor([64.0, 64.0]), feature_of, 1).tolist() == [1.5]


@st.composite
def split_samples(draw: st.DrawFn) -> tuple[list[Sample], int]:
    """Images with groups of two features, three and two of them; some may stay empty."""
    sample = st.tuples(
        st.booleans(), st.booleans(), st.tuples(st.integers(0, 2), st.integers(3, 4))
    )
    return draw(st.lists(sample, min_size=1, max_size=40)), 5


@settings(deadline=None, max_examples=100)
@given(split_samples())
def test_psi_is_what_the_definition_says(case: tuple[list[Sample], int]) -> None:
    samples, num_groups = case
    dense, sparse = counted(samples, num_groups)
    expected = psi(samples, num_groups)
    found = known(excess_gap(dense, sparse))
    assert [value is None for value in found] == [value is None for value in expected]
    assert [v for v in found if v is not None] == pytest.approx(
        [v for v in floats(expected) if v is not None], abs=1e-14
    )
    assert [v for v in known(excess_gap(sparse, dense)) if v is not None] == pytest.approx(
        [-v for v in found if v is not None], abs=1e-14
    )


@settings(deadline=None, max_examples=100)
@given(split_samples())
def test_weighted_by_size_the_psi_of_a_feature_sum_to_zero(case: tuple[list[Sample], int]) -> None:
    samples, num_groups = case
    dense, sparse = counted(samples, num_groups)
    weighted = (excess_gap(dense, sparse) * dense.count).nan_to_num(0.0)
    assert weighted[:3].sum().item() == pytest.approx(0.0, abs=1e-12)
    assert weighted[3:].sum().item() == pytest.approx(0.0, abs=1e-12)
    # The oracle, being rational, sums to zero exactly.
    exact = psi(samples, num_groups)
    sizes = dense.count.tolist()
    for groups in (range(3), range(3, 5)):
        total = sum((sizes[g] * (exact[g] or Fraction()) for g in groups), Fraction())
        assert total == 0
