from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ceag_cli import patterns
from ceag_cli.errors import PruningError
from ceag_cli.masks import Masks
from ceag_cli.patterns import Pattern
from ceag_cli.pruning import prune_pattern
from ceag_cli.scores import magnitude


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2:4", Pattern(2, 4)),
        ("4:8", Pattern(4, 8)),
        ("1:4", Pattern(1, 4)),
        ("4:4", None),
        ("0:4", None),
        ("4:2", None),
        ("2:99", None),
        ("2:4:8", None),
        ("2/4", None),
        ("", None),
    ],
)
def test_patterns_are_read(text: str, pattern: Pattern | None) -> None:
    assert Pattern.parse(text) == pattern
    if pattern is not None:
        assert str(pattern) == text


def test_of_every_four_weights_the_two_largest_stay() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 4.0, 9.0, 5.0, 6.0, 7.0]])
    assert Pattern(2, 4).prune(scores).int().tolist() == [[1, 0, 1, 0, 0, 1, 1, 0]]
    assert Pattern(2, 4).sparsity == 0.5


def test_blocks_of_a_convolution_run_along_its_input_channels() -> None:
    # One output, four inputs, a kernel of two places; each place is a block of its own.
    scores = torch.tensor([[[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]])
    pruned = Pattern(2, 4).prune(scores)
    assert pruned.int().tolist() == [[[1, 0], [1, 0], [0, 1], [0, 1]]]


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((8, 4), True), ((4, 6), False), ((16, 8, 3, 3), True), ((16, 1, 3, 3), False), ((4,), False)],
)
def test_it_fits_where_the_inputs_are_a_multiple(shape: tuple[int, ...], fits: bool) -> None:
    assert Pattern(2, 4).fits(torch.Size(shape)) == fits


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4)]),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=24, max_size=24),
)
def test_every_block_is_sorted_on_its_own(
    outputs: int, numbers: tuple[int, int], values: list[float]
) -> None:
    keep, of = numbers
    scores = torch.tensor(values[: 8 * outputs]).reshape(outputs, 8)
    pruned = Pattern(keep, of).prune(scores)
    for row, marks in zip(scores.tolist(), pruned.tolist(), strict=True):
        for start in range(0, 8, of):
            block = row[start : start + of]
            best = sorted(range(of), key=lambda i: (-block[i], i))[:keep]
            assert marks[start : start + of] == [i not in best for i in range(of)]


class Two(nn.Module):
    """One layer with four inputs, which 2:4 fits, and one with three."""

    def __init__(self) -> None:
        super().__init__()
        self.four = nn.Linear(4, 1, bias=False)
        self.three = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.four.weight.copy_(torch.tensor([[1.0, -4.0, 3.0, -2.0]]))
            self.three.weight.fill_(1.0)


NAMES = ("four.weight", "three.weight")


def test_what_the_pattern_does_not_fit_stays_dense() -> None:
    model = Two()
    masks = prune_pattern(model, NAMES, Pattern(2, 4), magnitude)
    assert model.four.weight.tolist() == [[0.0, -4.0, 3.0, 0.0]]
    assert model.three.weight.tolist() == [[1.0, 1.0, 1.0]]
    assert masks.zeros() == {"four.weight": 2}


def test_where_it_fits_nothing_it_is_refused() -> None:
    with pytest.raises(PruningError, match="a multiple of 4, as the pattern 2:4 needs"):
        prune_pattern(Two(), ["three.weight"], Pattern(2, 4), magnitude)


def test_zeros_count_and_too_many_of_them_are_refused() -> None:
    model = Two()
    with torch.no_grad():
        model.four.weight[0, 1] = 0.0  # the largest
    prune_pattern(model, ["four.weight"], Pattern(2, 4), magnitude)
    assert model.four.weight.tolist() == [[0.0, 0.0, 3.0, -2.0]]
    assert Masks.from_zeros(model, ["four.weight"]).zeros() == {"four.weight": 2}
    with pytest.raises(PruningError, match=r"'four\.weight' has blocks with more zeros already"):
        prune_pattern(model, ["four.weight"], Pattern(3, 4), magnitude)
    assert model.four.weight.tolist() == [[0.0, 0.0, 3.0, -2.0]]


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(patterns, extraglobs={"torch": torch})
    assert results.attempted > 0
    assert results.failed == 0
