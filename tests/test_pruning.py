from __future__ import annotations

import doctest
import math
from fractions import Fraction
from types import ModuleType

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ceag_cli import schedules as schedules_module
from ceag_cli import selection as selection_module
from ceag_cli.budgets import Counts, Scores, Shapes, uniform
from ceag_cli.errors import PruningError
from ceag_cli.masks import Masks
from ceag_cli.pruning import prune
from ceag_cli.schedules import cubic
from ceag_cli.scores import magnitude

INF = math.inf


class Toy(nn.Module):
    """Two tensors that may be pruned, with weights 1..6 and -1..-4, and a bias that may not."""

    names = ("first.weight", "second.weight")

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.arange(1.0, 7.0).reshape(2, 3))
            self.first.bias.fill_(0.5)
            self.second.weight.copy_(-torch.arange(1.0, 5.0).reshape(2, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.first(inputs))
        return outputs


def pruned_toy(sparsity: float) -> tuple[Toy, Masks]:
    toy = Toy()
    return toy, prune(toy, Toy.names, sparsity, magnitude, uniform)


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


def test_magnitude() -> None:
    weight = torch.tensor([[-3.0, 0.0], [2.0, -0.5]])
    assert magnitude("w", weight).tolist() == [[3.0, 0.0], [2.0, 0.5]]


def test_scoring_leaves_the_weights_that_stay_alone() -> None:
    """A score may overwrite the copy that it is given."""
    toy, _ = pruned_toy(0.5)
    assert toy.second.weight.tolist() == [[0.0, 0.0], [-3.0, -4.0]]


# ---------------------------------------------------------------------------------------------
# Budgets
# ---------------------------------------------------------------------------------------------


def test_uniform_gives_every_tensor_the_same_sparsity_rounded_up() -> None:
    assert uniform({"a": [10], "b": [3], "c": [1, 1]}, 0.5) == {"a": 5, "b": 2, "c": 1}
    assert uniform({"a": [10, 100]}, 0.9995) == {"a": 1000}


@pytest.mark.parametrize(("sparsity", "expected"), [(0.0, 0), (0, 0), (1.0, 7), (1, 7)])
def test_uniform_at_the_ends(sparsity: float, expected: int) -> None:
    assert uniform({"a": [7]}, sparsity) == {"a": expected}


@pytest.mark.parametrize(
    ("sparsity", "size", "expected"),
    [
        (0.7, 10, 7),  # 0.7 * 10 = 7.000000000000001 in float64
        (0.1, 30, 3),
        (0.55, 100, 55),  # 55.00000000000001
        (0.07, 100, 7),  # 7.000000000000001
        (0.99, 2_359_296, 2_335_704),  # 2335703.04
        (1e-5, 100_000, 1),
        (1e-5, 100_001, 2),
    ],
)
def test_uniform_counts_in_decimal(sparsity: float, size: int, expected: int) -> None:
    assert uniform({"a": [size]}, sparsity) == {"a": expected}


@settings(max_examples=200)
@given(st.integers(0, 1000), st.integers(1, 10_000_000))
def test_uniform_is_the_smallest_count_that_reaches_the_sparsity(
    thousandths: int, size: int
) -> None:
    count = uniform({"a": [size]}, thousandths / 1000)["a"]
    assert count * 1000 >= thousandths * size
    assert (count - 1) * 1000 < thousandths * size


# ---------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------


def test_prune_takes_the_smallest_weights_of_each_tensor() -> None:
    toy, masks = pruned_toy(0.5)
    assert toy.first.weight.tolist() == [[0.0, 0.0, 0.0], [4.0, 5.0, 6.0]]
    assert toy.second.weight.tolist() == [[0.0, 0.0], [-3.0, -4.0]]
    assert toy.first.bias.tolist() == [0.5, 0.5]
    assert masks.zeros() == {"first.weight": 3, "second.weight": 2}
    assert masks.sparsity == 0.5
    assert masks.pruned["second.weight"].tolist() == [[True, True], [False, False]]


def test_prune_rounds_up_in_each_tensor() -> None:
    # ceil(0.3 * 6) = 2, ceil(0.3 * 4) = 2: 4 of 10.
    _, masks = pruned_toy(0.3)
    assert masks.zeros() == {"first.weight": 2, "second.weight": 2}
    assert masks.sparsity == 0.4


def test_prune_nothing() -> None:
    toy, masks = pruned_toy(0.0)
    assert toy.first.weight.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert masks.sparsity == 0.0


def test_pruned_weights_stay_zero_through_momentum_and_weight_decay() -> None:
    toy = Toy()
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad()
        toy(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    step()  # fills the momentum of all weights
    masks = prune(toy, Toy.names, 0.5, magnitude, uniform)
    gone = masks.pruned["first.weight"]
    revived = False
    for _ in range(3):
        step()
        revived = revived or bool((toy.first.weight[gone] != 0).any())
        masks.apply_()
        assert toy.first.weight[gone].tolist() == [0.0] * 3
        assert masks.zeros() == {"first.weight": 3, "second.weight": 2}
    assert revived  # without apply_ they would have come back


def test_zeros_stay_pruned_and_count_towards_the_target() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.first.weight[1, 2] = 0.0  # the largest
    masks = prune(toy, Toy.names, 0.5, magnitude, uniform)
    assert toy.first.weight.tolist() == [[0.0, 0.0, 3.0], [4.0, 5.0, 0.0]]
    assert masks.zeros()["first.weight"] == 3


def test_zeros_stay_pruned_whatever_the_score_says() -> None:
    def largest_first(name: str, weight: Tensor) -> Tensor:
        return -weight.detach().abs()

    toy = Toy()
    with torch.no_grad():
        toy.second.weight[0, 0] = 0.0
    prune(toy, ["second.weight"], 0.5, largest_first, uniform)
    # By score alone -4 and -3 would have gone, and 0 come back to life.
    assert toy.second.weight.tolist() == [[0.0, -2.0], [-3.0, 0.0]]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0, 2.0]), min_size=6, max_size=6),
    st.integers(1, 5),
    st.floats(0.5, 0.99),
    st.integers(0, 2**16),
)
def test_masks_of_a_ramp_are_nested(first: list[float], end: int, final: float, seed: int) -> None:
    toy = Toy()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        toy.first.weight.copy_(torch.tensor(first).reshape(2, 3))
    names = ["first.weight"]
    initial = Masks.from_zeros(toy, names).sparsity
    assume(initial <= final)
    previous = Masks.from_zeros(toy, names).pruned["first.weight"]
    for epoch in range(end + 1):
        target = cubic(epoch, end, final, initial)
        masks = prune(toy, names, target, magnitude, uniform)
        mask = masks.pruned["first.weight"]
        assert bool((mask | ~previous).all())
        assert int(mask.sum()) == uniform({"w": [6]}, target)["w"]
        previous = mask
        with torch.no_grad():  # an epoch of training moves every weight
            toy.first.weight.add_(torch.randn(2, 3, generator=generator))
        masks.apply_()
    assert int(previous.sum()) == math.ceil(6 * Fraction(repr(final)))


def test_a_tensor_that_is_sparser_than_the_target_is_named() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.second.weight[0] = 0.0
    with pytest.raises(PruningError) as caught:
        prune(toy, Toy.names, 0.25, magnitude, uniform)
    assert len(caught.value.problems) == 1
    assert "'second.weight' is 50.00% zero already" in caught.value.problems[0]
    assert "0.25" in caught.value.problems[0]
    # Nothing was pruned on the way to the error.
    assert toy.first.weight.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_every_tensor_with_bad_weights_is_named() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.first.weight[0, 0] = math.nan
        toy.second.weight[0, 0] = INF
    with pytest.raises(PruningError) as caught:
        prune(toy, Toy.names, 0.5, magnitude, uniform)
    assert [problem.split("'")[1] for problem in caught.value.problems] == list(Toy.names)


def test_a_model_without_prunable_tensors_is_refused() -> None:
    with pytest.raises(PruningError, match="no tensor that may be pruned"):
        prune(Toy(), [], 0.5, magnitude, uniform)


def test_zeros_stay_pruned_in_whatever_memory_format_weights_and_scores_are() -> None:
    """Scores under which the zeros would be worth most."""
    model = nn.Sequential(nn.Conv2d(4, 6, 2)).to(memory_format=torch.channels_last)
    weight = model.get_parameter("0.weight")
    before = prune(model, ["0.weight"], 0.5, magnitude, uniform).pruned["0.weight"]

    def small_is_beautiful(name: str, copy: Tensor) -> Tensor:
        return (-copy.abs()).to(memory_format=torch.channels_last)

    after = prune(model, ["0.weight"], 0.75, small_is_beautiful, uniform).pruned["0.weight"]
    assert int(after.sum()) == 72  # of 96
    assert bool(after[before].all())
    assert torch.equal(weight == 0, after)


def test_another_score_and_another_budget_are_two_functions() -> None:
    def largest(name: str, weight: Tensor) -> Tensor:
        return -weight.detach().abs()

    def only_first(shapes: Shapes, sparsity: float, scores: Scores) -> Counts:
        return Counts({name: 4 if name == "first.weight" else 0 for name in shapes})

    toy = Toy()
    prune(toy, Toy.names, 0.4, largest, only_first)
    assert toy.first.weight.tolist() == [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    assert toy.second.weight.tolist() == [[-1.0, -2.0], [-3.0, -4.0]]


def test_masks_read_off_a_model() -> None:
    toy, masks = pruned_toy(0.5)
    read = Masks.from_zeros(toy, Toy.names)
    assert read.zeros() == masks.zeros()
    assert read.sha256() == masks.sha256()


def test_negative_zero_is_a_zero() -> None:
    toy = Toy()
    with torch.no_grad():
        toy.second.weight[0, 0] = -0.0
    assert Masks.from_zeros(toy, ["second.weight"]).zeros() == {"second.weight": 1}


def test_masks_are_bound_to_the_parameters_of_their_model() -> None:
    with pytest.raises(PruningError, match=r"no parameter 'third\.weight'"):
        Masks(Toy(), {"third.weight": torch.zeros(2, 2, dtype=torch.bool)})
    with pytest.raises(PruningError, match=r"shape \(3, 2\), the parameter \(2, 3\)"):
        Masks(Toy(), {"first.weight": torch.zeros(3, 2, dtype=torch.bool)})


def test_no_masks_are_no_sparsity() -> None:
    assert Masks(Toy(), {}).sparsity == 0.0
    assert Masks(Toy(), {}).zeros() == {}


def test_the_hash_sees_every_bit_and_every_name() -> None:
    twins = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("a", "b")})

    def hashed(**pruned: list[list[bool]]) -> str:
        return Masks(twins, {f"{k}.weight": torch.tensor(v) for k, v in pruned.items()}).sha256()

    one, two = [[True, False], [False, False]], [[False, True], [False, False]]
    assert hashed(a=one, b=two) == hashed(b=two, a=one)
    different = [{}, {"a": one}, {"b": one}, {"a": two}, {"a": one, "b": two}, {"a": two, "b": one}]
    assert len({hashed(**pruned) for pruned in different}) == len(different)


def test_masks_of_integers_are_taken_as_bool() -> None:
    toy = Toy()
    masks = Masks(toy, {"second.weight": torch.tensor([[1, 0], [0, 1]])})
    masks.apply_()
    assert toy.second.weight.tolist() == [[0.0, -2.0], [-3.0, 0.0]]


@pytest.mark.parametrize("module", [schedules_module, selection_module])
def test_examples_in_docstrings(module: ModuleType) -> None:
    results = doctest.testmod(module, extraglobs={"torch": torch})
    assert results.attempted > 0
    assert results.failed == 0
