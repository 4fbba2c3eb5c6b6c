"""Criteria that are not plain magnitude, which is in test_pruning."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.errors import PruningError
from ceag_cli.scores import Batches, random_order, snip, taylor

Batch = tuple[Tensor, Tensor, Tensor]


def given(*batches: tuple[list[list[float]], list[int]]) -> Batches:
    """Batches of inputs and targets; groups play no part."""
    made = [
        (torch.tensor(x), torch.tensor(y), torch.zeros(len(y), 1, dtype=torch.int64))
        for x, y in batches
    ]

    def again() -> Iterable[Batch]:
        return made

    return again


def two_classes() -> nn.Linear:
    """Two classes from two inputs; with equal weights both have a probability of one half."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
    return model


def test_random_numbers_go_by_seed_and_name() -> None:
    weight = torch.zeros(50, 4)
    score = random_order(1)
    assert torch.equal(score("a", weight), score("a", weight))
    assert torch.equal(score("a", weight), random_order(1)("a", weight))
    assert not torch.equal(score("a", weight), score("b", weight))
    assert not torch.equal(score("a", weight), random_order(2)("a", weight))
    assert 0 <= float(score("a", weight).min()) < float(score("a", weight).max()) < 1


def test_taylor_by_hand() -> None:
    # dL/dw of the true class is -x / 2, of the other x / 2. One image (1, 4) of class 0.
    score = taylor(two_classes(), ["weight"], given(([[1.0, 4.0]], [0])))
    assert score("weight", torch.empty(0)).tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_in_snip_gradients_of_different_batches_cancel_and_in_taylor_they_do_not() -> None:
    batches = given(([[1.0, 4.0]], [0]), ([[1.0, 4.0]], [1]))
    model = two_classes()
    assert snip(model, ["weight"], batches)("weight", model.weight).tolist() == [[0.0] * 2] * 2
    # |1| + |-1| and |2| + |-2|; that it is a sum and not a mean changes no order.
    found = taylor(model, ["weight"], batches)("weight", model.weight)
    assert found.tolist() == [[2.0, 4.0], [2.0, 4.0]]


def test_with_one_batch_the_two_agree_and_are_weight_times_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs, targets = torch.randn(8, 3), torch.randint(2, (8,))
    names = ["0.weight", "2.weight"]
    loss = functional.cross_entropy(model(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    batches = given((inputs.tolist(), targets.tolist()))
    for criterion in (taylor, snip):
        score = criterion(model, names, batches)
        for name in names:
            weight = model.get_parameter(name)
            assert weight.grad is not None
            expected = (weight * weight.grad).abs()
            assert torch.allclose(score(name, weight), expected, atol=1e-7)


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score = taylor(model, ["0.weight"], given(([[1.0, 2.0], [0.0, 1.0]], [0, 1])))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model[0].weight.grad is None
    again = score("0.weight", model[0].weight)
    again.zero_()  # what a score returns belongs to the caller
    assert bool(score("0.weight", model[0].weight).any())


def test_a_weight_without_a_part_in_the_output_is_worth_nothing() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(2, 2)
            self.unused = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.used(inputs)
            return outputs

    model = Unused()
    names = ["used.weight", "unused.weight"]
    score = snip(model, names, given(([[1.0, 2.0]], [0])))
    assert score("unused.weight", model.unused.weight).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert score("used.weight", model.used.weight).min() > 0


@pytest.mark.parametrize("criterion", [taylor, snip])
def test_gradients_that_are_no_numbers_are_an_error(criterion: type) -> None:
    with pytest.raises(PruningError, match="tensor 'weight': NaN or infinite gradients"):
        criterion(two_classes(), ["weight"], given(([[math.inf, 1.0]], [0])))


@pytest.mark.parametrize("criterion", [taylor, snip])
def test_asked_twice_a_score_is_the_same(criterion: type) -> None:
    model = two_classes()
    score = criterion(model, ["weight"], given(([[1.0, 4.0]], [0])))
    assert torch.equal(score("weight", model.weight), score("weight", model.weight))
