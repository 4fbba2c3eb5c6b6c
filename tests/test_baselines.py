from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from beside_cooper import CAPACITY, ByGroup, grouping, steps_beside
from cooper.cmp import CMPState
from cooper.constraints.constraint_state import ConstraintState
from cooper.utils.annotations import ConstraintType
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ceag_cli.baselines import EqualizedLoss, GroupDRO, Reweighting
from ceag_cli.groups import BatchOutcome, GroupStats
from ceag_cli.multipliers import Multipliers
from ceag_cli.replay import GroupReplay


def sizes(*counts: int, features: int = 1) -> GroupStats:
    """Statistics of which only the group sizes matter."""
    count = torch.tensor(counts)
    zeros = torch.zeros(len(counts), dtype=torch.float64)
    total = count.sum() // features
    return GroupStats(count, torch.zeros_like(count), zeros, total, total * 0, zeros.sum())


def outcome(losses: list[float], groups: list[list[int]]) -> BatchOutcome:
    return BatchOutcome(
        torch.tensor(losses, dtype=torch.float64),
        torch.zeros(len(losses), dtype=torch.bool),
        torch.tensor(groups),
    )


# ---------------------------------------------------------------------------------------------
# Equalised loss
# ---------------------------------------------------------------------------------------------


def equalized(
    capacity: int = 0, lr: float = 0.5, counts: tuple[int, ...] = (3, 1), **options: Any
) -> EqualizedLoss:
    """With the paper's means over batch and buffers."""
    groups = grouping("abcdefg"[: len(counts)])
    replay = None
    if capacity:
        replay = GroupReplay(len(counts), capacity, capacity, dtype=torch.float64)
    multipliers = Multipliers(len(counts), lr)
    options = {"macro_overall": True, "batch_means": True} | options
    return EqualizedLoss(groups, sizes(*counts), replay, multipliers, **options)


def test_two_steps_without_buffers_by_hand() -> None:
    method = equalized()
    # Losses a 1 1 1, b 5; overall 2; a is 1 below, b 3 above.
    #   lambda_a = 0.5 * |1 - 2| = 0.5, lambda_b = 0.5 * |5 - 2| = 1.5; signs - and +
    #   rest (1 - (-0.5 + 1.5)) / 4 = 0; an a: 0 - 0.5 / 3, the b: 0 + 1.5 / 1
    weights = method.weights(outcome([1, 1, 1, 5], [[0], [0], [0], [1]]))
    assert method.multipliers.values.tolist() == [0.5, 1.5]
    assert weights.tolist() == pytest.approx([-1 / 6] * 3 + [1.5])
    # A batch of a alone: a is the overall loss, so its multiplier stays and nobody counts more.
    weights = method.weights(outcome([1, 3], [[0], [0]]))
    assert method.multipliers.values.tolist() == [0.5, 1.5]
    assert weights.tolist() == [0.5, 0.5]


def test_multipliers_rise_whether_a_group_is_above_or_below() -> None:
    method = equalized()
    for losses in ([1.0, 1.0, 1.0, 5.0], [5.0, 5.0, 5.0, 1.0]):
        method.weights(outcome(losses, [[0], [0], [0], [1]]))
    # 0.5 * 1 + 0.5 * 1 and 0.5 * 3 + 0.5 * 3.
    assert method.multipliers.values.tolist() == [1.0, 3.0]


def test_with_buffers_the_dual_step_goes_by_what_they_hold() -> None:
    method = equalized(capacity=2)
    weights = method.weights(outcome([1, 1, 5], [[0], [0], [1]]))
    # b's buffer holds one loss of two: it is not known, and a alone is the overall loss.
    assert method.multipliers.values.tolist() == [0.0, 0.0]
    assert weights.tolist() == pytest.approx([1 / 3] * 3)
    method.weights(outcome([2, 2, 3], [[0], [0], [1]]))
    # Buffers a 2 2, b 5 3; plain mean over buffers (2 + 4) / 2 = 3; both are 1 away.
    assert method.multipliers.values.tolist() == [0.5, 0.5]


def test_by_prevalence_overall_is_weighted_by_the_groups_sizes() -> None:
    method = equalized(capacity=1, macro_overall=False)
    method.weights(outcome([2, 6], [[0], [1]]))
    # 0.75 * 2 + 0.25 * 6 = 3: a is 1 below, b 3 above.
    assert method.multipliers.values.tolist() == [0.5, 1.5]


def test_equal_losses_are_plain_fine_tuning() -> None:
    method = equalized()
    weights = method.weights(outcome([2, 2, 2, 2], [[0], [0], [1], [1]]))
    assert weights.tolist() == [0.25] * 4
    assert method.status() == {"max_multiplier": 0.0, "sum_multipliers": 0.0}


COUNTS = (65, 25, 10)
DUAL_LR, PRIMAL_LR = 0.02, 0.1


class CooperProblem(ByGroup):
    """The equality constraints of Tran et al., by the library that the CEAG paper used."""

    def compute_cmp_state(
        self, parameter: Tensor, inputs: Tensor, targets: Tensor, groups: Tensor
    ) -> CMPState:
        losses = functional.cross_entropy(inputs @ parameter.T, targets, reduction="none")
        overall = losses.mean()
        violation = torch.stack(
            [
                (losses[groups == g].mean() - overall).abs()
                if bool((groups == g).any())
                else 0 * overall
                for g in range(len(COUNTS))
            ]
        )
        strict = violation.detach()
        if self.replay is not None:
            self.replay.push(losses.tolist(), [[g] for g in groups.tolist()])
            recent = self.replay.mean()
            full = [value for value in recent if value is not None]
            middle = sum(full) / len(full) if full else None
            strict = torch.tensor(
                [
                    0.0 if value is None or middle is None else abs(float(value - middle))
                    for value in recent
                ],
                dtype=torch.float64,
            )
        state = ConstraintState(violation=violation, strict_violation=strict)
        return CMPState(loss=overall, observed_constraints={self.by_group: state})


@pytest.mark.parametrize("buffers", [True, False], ids=["buffers", "no buffers"])
def test_two_hundred_steps_agree_with_cooper(buffers: bool) -> None:
    problem = CooperProblem(ConstraintType.EQUALITY, len(COUNTS), buffers)
    method = equalized(CAPACITY if buffers else 0, DUAL_LR, COUNTS)
    negative = absent = 0
    rates = {"lr": PRIMAL_LR, "dual_lr": DUAL_LR, "tolerance": 1e-8}
    for weights, groups in steps_beside(problem, method, **rates):
        negative += int((weights < 0).any())
        absent += int(not bool((groups == 2).any()))
    # The run has met groups below the overall loss, whose loss is increased, and absent groups.
    assert negative > 20
    assert absent > 20


# ---------------------------------------------------------------------------------------------
# Reweighting
# ---------------------------------------------------------------------------------------------


def test_reweighting_by_hand() -> None:
    # 6 of a, 2 of b: a counts 8 / (2 * 6) = 2/3, b 8 / (2 * 2) = 2; two samples in the batch.
    method = Reweighting(grouping("ab"), sizes(6, 2))
    assert method.weights(outcome([0, 0], [[0], [1]])).tolist() == pytest.approx([1 / 3, 1.0])


def test_with_several_features_the_weights_are_averaged() -> None:
    # Feature 1: a 6, b 2 (2/3 and 2). Feature 2: x 4, y 4 (1 and 1).
    method = Reweighting(grouping("ab", "xy"), sizes(6, 2, 4, 4, features=2))
    weights = method.weights(outcome([0, 0], [[0, 2], [1, 3]]))
    assert weights.tolist() == pytest.approx([(2 / 3 + 1) / 4, (2 + 1) / 4])


def test_groups_without_images_do_not_share_in_it() -> None:
    method = Reweighting(grouping("abc"), sizes(6, 2, 0))
    assert method.weights(outcome([0, 0], [[0], [1]])).tolist() == pytest.approx([1 / 3, 1.0])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 2**16))
def test_over_all_images_it_is_the_mean_of_the_groups_mean_losses(
    groups: list[int], seed: int
) -> None:
    losses = torch.rand(len(groups), generator=torch.Generator().manual_seed(seed)).double()
    ids = torch.tensor(groups)
    counts = torch.bincount(ids, minlength=4)
    batch = BatchOutcome(losses, losses > 0.5, ids[:, None])
    weights = Reweighting(grouping("abcd"), sizes(*counts.tolist())).weights(batch)
    means = [float(losses[ids == g].mean()) for g in range(4) if counts[g]]
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float((weights * losses).sum()) == pytest.approx(sum(means) / len(means))


# ---------------------------------------------------------------------------------------------
# Group DRO
# ---------------------------------------------------------------------------------------------


def test_group_dro_starts_with_equal_groups() -> None:
    assert GroupDRO(4).q.tolist() == [0.25] * 4


def test_a_step_of_group_dro_by_hand() -> None:
    # Losses a 1, b (1 + 3) / 2 = 2; step log 2: q ~ 2^1 and 2^2, so 1/3 and 2/3.
    method = GroupDRO(2, step=float(torch.tensor(2.0).log()))
    weights = method.weights(outcome([1, 1, 3], [[0], [1], [1]]))
    assert method.q.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    # A batch of a alone, loss 1: a doubles once more, b stays: 2/3 to 2/3.
    weights = method.weights(outcome([1], [[0]]))
    assert method.q.tolist() == pytest.approx([0.5, 0.5])
    assert weights.tolist() == pytest.approx([0.5])
    assert method.status() == {"max_group_weight": pytest.approx(0.5)}


def test_huge_losses_do_not_overflow() -> None:
    method = GroupDRO(3, step=1.0)
    for _ in range(50):
        weights = method.weights(outcome([1e4, 1.0], [[0], [1]]))
    assert method.q.tolist() == [1.0, 0.0, 0.0]
    assert weights.tolist() == [1.0, 0.0]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 2)), min_size=1, max_size=8))
def test_the_weighted_loss_is_the_mixture_of_the_groups_mean_losses(
    samples: list[tuple[float, int]],
) -> None:
    method = GroupDRO(3, step=0.5)
    batch = outcome([loss for loss, _ in samples], [[group] for _, group in samples])
    weights = method.weights(batch)
    assert float(method.q.sum()) == pytest.approx(1.0)
    expected = 0.0
    for group in range(3):
        losses = [loss for loss, g in samples if g == group]
        if losses:
            expected += float(method.q[group]) * sum(losses) / len(losses)
    assert float((weights * batch.loss).sum()) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fresh",
    [
        lambda: equalized(capacity=3),
        lambda: equalized(),
        lambda: GroupDRO(2, step=0.5),
        lambda: Reweighting(grouping("ab"), sizes(3, 1)),
    ],
    ids=["equalised loss", "without buffers", "group DRO", "reweighting"],
)
def test_a_restored_method_goes_on_bit_for_bit(fresh: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [
        BatchOutcome(
            torch.rand(5, generator=generator).double(),
            torch.rand(5, generator=generator) < 0.5,
            torch.randint(2, (5, 1), generator=generator),
        )
        for _ in range(12)
    ]
    first = fresh()
    for batch in batches[:6]:
        first.weights(batch)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = fresh()
    second.load_state_dict(torch.load(file, weights_only=True))
    for batch in batches[6:]:
        assert second.weights(batch).tolist() == first.weights(batch).tolist()


def test_the_state_of_another_number_of_groups_is_refused() -> None:
    with pytest.raises(RuntimeError, match="state holds 3 groups, expected 2"):
        GroupDRO(2).load_state_dict(GroupDRO(3).state_dict())
