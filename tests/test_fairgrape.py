from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import greedy_shares
from torch import Tensor, nn
from torch.nn import functional
from toys import tiny_model

from ceag_cli import fairgrape
from ceag_cli.errors import PruningError
from ceag_cli.fairgrape import group_importance, preserve_shares, prune_fairly
from ceag_cli.masks import Masks
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import IterativePruning

Batch = tuple[Tensor, Tensor, Tensor]


def chosen(importance: list[list[int]], keep: int, per_turn: int = 1) -> list[int]:
    kept = preserve_shares(torch.tensor(importance), keep, per_turn)
    return torch.nonzero(kept).reshape(-1).tolist()


# Which weights are kept


def test_a_selection_by_hand() -> None:
    # Group a cares for weights 0 (6) and 1 (2), b for 2 (1) and 3 (1): T = 0.8, 0.2.
    importance = [[6, 2, 0, 0], [0, 0, 1, 1]]
    # Equal shares at first, so a is furthest below: weight 0; share_a is 1 and stays too high
    # until b has its due: 1 of 7 with weight 2, which is below 0.2, so weight 3 follows.
    assert chosen(importance, 1) == [0]
    assert chosen(importance, 2) == [0, 2]
    assert chosen(importance, 3) == [0, 2, 3]
    assert chosen(importance, 4) == [0, 1, 2, 3]


def test_magnitude_of_importance_alone_would_forget_the_small_group() -> None:
    # Everything that a cares for is worth more than all that b does.
    importance = [[90, 80, 70, 60, 0, 0], [0, 0, 0, 0, 20, 10]]
    by_sum = torch.tensor(importance).sum(0).topk(4).indices.sort().values.tolist()
    assert by_sum == [0, 1, 2, 3]
    assert chosen(importance, 4) == [0, 1, 2, 4]


def test_one_group_is_plain_importance() -> None:
    assert chosen([[3, 1, 4, 1, 5]], 3) == [0, 2, 4]


def test_among_equals_the_first_are_kept() -> None:
    assert chosen([[1, 1, 1, 1], [1, 1, 1, 1]], 2) == [0, 1]
    assert chosen([[0, 0, 0], [0, 0, 0]], 2) == [0, 1]


@pytest.mark.parametrize("keep", [0, 5])
def test_nothing_and_everything(keep: int) -> None:
    assert chosen([[3, 1, 4, 1, 5], [1, 2, 3, 4, 5]], keep) == list(range(keep))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_the_selection_is_the_formula_taken_literally(data: st.DataObject) -> None:
    weights = data.draw(st.integers(1, 12))
    of_group = st.lists(st.integers(0, 6), min_size=weights, max_size=weights)
    importance = data.draw(st.lists(of_group, min_size=1, max_size=4))
    keep = data.draw(st.integers(0, weights))
    assert chosen(importance, keep) == sorted(greedy_shares(importance, keep))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**16))
def test_several_weights_a_turn_keep_as_many(
    weights: int, groups: int, per_turn: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    importance = torch.rand(groups, weights, generator=generator) ** 4
    keep = int(torch.randint(weights + 1, (), generator=generator))
    assert int(preserve_shares(importance, keep, per_turn).sum()) == keep


def test_a_turn_of_two_by_hand() -> None:
    # a is served first and takes 0 and 1; then b is below its share and takes 2 and 3.
    assert chosen([[6, 2, 0, 0, 0], [0, 0, 1, 1, 1]], 4, per_turn=2) == [0, 1, 2, 3]
    # The last turn is cut short.
    assert chosen([[6, 2, 0, 0, 0], [0, 0, 1, 1, 1]], 3, per_turn=2) == [0, 1, 2]


def test_large_tensors_are_chosen_in_few_turns_and_nearly_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    importance = torch.rand(7, 4000, generator=torch.Generator().manual_seed(1)) ** 6
    exact = preserve_shares(importance, 2000, per_turn=1)
    monkeypatch.setattr(fairgrape, "TURNS", 200)  # ten weights a turn
    coarse = preserve_shares(importance, 2000)
    assert not torch.equal(exact, coarse)
    assert int((exact & coarse).sum()) > 1960


def test_shares_are_preserved_better_than_by_summed_importance() -> None:
    generator = torch.Generator().manual_seed(4)
    importance = torch.rand(5, 3000, generator=generator) ** 8
    importance *= torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])[:, None]
    target = importance.sum(1) / importance.sum()

    def worst(kept: Tensor) -> float:
        share = importance[:, kept].sum(1) / importance[:, kept].sum()
        return float((share - target).abs().max())

    by_sum = torch.zeros(3000, dtype=torch.bool)
    by_sum[importance.sum(0).topk(600).indices] = True
    assert worst(preserve_shares(importance, 600)) < 0.25 * worst(by_sum)


# What a weight is worth


class Linear(nn.Module):
    """Two weights, one logit each beside a constant zero: z = (w_k x_k, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[2.0, -1.0]]))

    def forward(self, inputs: Tensor) -> Tensor:
        logit = self.fc(inputs)
        return torch.cat([logit, torch.zeros_like(logit)], dim=1)


def test_importance_by_hand() -> None:
    # One sample of group 0 sees x = (1, 0), one of group 1 sees (0, 1); both of class 0.
    # dL/dz = sigmoid(z) - 1, with z = 2 and -1; dL/dw = that times x.
    sigmoid = torch.sigmoid(torch.tensor([2.0, -1.0]))
    batch = (torch.eye(2), torch.tensor([0, 0]), torch.tensor([[0], [1]]))
    found = group_importance(Linear(), ["fc.weight"], lambda: [batch], num_groups=3)["fc.weight"]
    expected = torch.zeros(3, 2)
    expected[0, 0] = (2.0 * (sigmoid[0] - 1)) ** 2
    expected[1, 1] = (1.0 * (sigmoid[1] - 1)) ** 2
    torch.testing.assert_close(found, expected)


def test_importance_is_averaged_over_the_batches_that_have_the_group() -> None:
    one = (torch.eye(2)[:1], torch.tensor([0]), torch.tensor([[0]]))
    other = (torch.eye(2)[1:], torch.tensor([0]), torch.tensor([[1]]))
    once = group_importance(Linear(), ["fc.weight"], lambda: [one, other], 2)["fc.weight"]
    # Group 1 in one batch of three, group 0 twice the same.
    again = group_importance(Linear(), ["fc.weight"], lambda: [one, other, one], 2)["fc.weight"]
    torch.testing.assert_close(once, again)


def test_a_sample_of_two_groups_counts_for_both() -> None:
    batch = (torch.eye(2)[:1], torch.tensor([0]), torch.tensor([[0, 2]]))
    found = group_importance(Linear(), ["fc.weight"], lambda: [batch], 3)["fc.weight"]
    assert found[0].tolist() == found[2].tolist()
    assert found[0, 0] > 0
    assert found[1].tolist() == [0.0, 0.0]


def images(count: int = 24, groups: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(9)
    inputs = torch.randn(count, 3, 16, 16, generator=generator)
    targets = torch.arange(count) % 3
    ids = torch.randint(groups, (count, 1), generator=generator)
    return [
        (inputs[rows], targets[rows], ids[rows]) for rows in torch.split(torch.arange(count), 8)
    ]


def test_importance_is_the_gradient_of_each_groups_mean_loss() -> None:
    model, batches = tiny_model("test_resnet"), images()
    name = prunable_parameters(model)[3]
    found = group_importance(model, [name], lambda: batches, 3)[name]
    weight = model.get_parameter(name)
    for group in range(3):
        values = []
        for inputs, targets, ids in batches:
            mine = ids[:, 0] == group
            if bool(mine.any()):
                loss = functional.cross_entropy(model(inputs)[mine], targets[mine])
                (gradient,) = torch.autograd.grad(loss, weight)
                values.append((weight.detach().abs() * gradient.abs()) ** 2)
        expected = torch.stack(values).mean(0).reshape(-1)
        torch.testing.assert_close(found[group], expected, rtol=1e-3, atol=1e-12)


def test_scoring_changes_nothing_about_the_model() -> None:
    model = tiny_model("test_resnet").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    group_importance(model, prunable_parameters(model), images, 3)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# Pruning


def test_the_number_of_zeros_is_exact_and_masks_are_nested() -> None:
    model = tiny_model("test_resnet")
    names = prunable_parameters(model)

    def fairly(model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
        return prune_fairly(model, names, sparsity, images, 3, on_the_way=on_the_way)

    schedule = IterativePruning(fairly, 0.9, rounds=3, epochs_between=2)
    assert schedule.end == 4
    found = [schedule.prune(model, epoch) for epoch in range(schedule.end + 1)]
    masks = [mask for mask in found if mask is not None]
    assert [mask is not None for mask in found] == [True, False, True, False, True]
    # Each of three rounds keeps 0.1^(1/3) = 46 % of what is left.
    assert [round(mask.sparsity, 2) for mask in masks] == [0.54, 0.78, 0.9]
    for earlier, later in pairwise(masks):
        for name, mask in earlier.pruned.items():
            assert bool(later.pruned[name][mask].all())
    for name, zeros in masks[-1].zeros().items():
        weight = model.get_parameter(name)
        assert int((weight == 0).sum()) == zeros == -(-9 * weight.numel() // 10)


def test_on_the_way_a_tensor_that_is_sparser_already_waits() -> None:
    model = tiny_model("test_resnet")
    names = prunable_parameters(model)
    before = prune_fairly(model, names, 0.8, images, 3)
    after = prune_fairly(model, names, 0.5, images, 3, on_the_way=True)
    assert before.sha256() == after.sha256()


def test_a_model_that_is_sparser_already_is_refused() -> None:
    model = tiny_model("test_resnet")
    names = prunable_parameters(model)
    prune_fairly(model, names, 0.8, images, 3)
    with pytest.raises(PruningError, match=r"has more zeros already than the sparsity 0\.5"):
        prune_fairly(model, names, 0.5, images, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    model = tiny_model("test_resnet")
    names = prunable_parameters(model)
    with torch.no_grad():
        model.get_parameter(names[2]).view(-1)[5] = bad
    with pytest.raises(PruningError, match=f"tensor '{names[2]}': NaN or infinite"):
        prune_fairly(model, names, 0.5, images, 3)


def test_a_weight_without_a_part_in_the_output_is_pruned_first() -> None:
    class Idle(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(2, 1, bias=False)

    batch = (torch.eye(2), torch.tensor([0, 0]), torch.tensor([[0], [1]]))
    found = group_importance(Idle(), ["fc.weight", "idle.weight"], lambda: [batch], 2)
    assert found["idle.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert float(found["fc.weight"].min(dim=0).values.max()) == 0.0
    assert float(found["fc.weight"].max()) > 0


def test_tensors_that_do_not_fit_in_memory_together_give_the_same_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = 0

    def counted() -> Iterator[Batch]:
        nonlocal passes
        passes += 1
        yield from images()

    def masks() -> dict[str, Tensor]:
        model = tiny_model("test_resnet")
        return prune_fairly(model, prunable_parameters(model), 0.7, counted, 3).pruned

    together = masks()
    assert passes == 1
    monkeypatch.setattr(fairgrape, "SCORES_IN_MEMORY", 1)
    apart = masks()
    assert passes == 1 + len(together)
    assert all(torch.equal(together[name], apart[name]) for name in together)
