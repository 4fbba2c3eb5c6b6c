from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from beside_cooper import CAPACITY, ByGroup, grouping, steps_beside
from cooper.cmp import CMPState
from cooper.constraints.constraint_state import ConstraintState
from cooper.utils.annotations import ConstraintType
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DequeReplay, floats, known, lagrangian, lagrangian_gradient, recent_psi
from torch import Tensor
from torch.nn import functional

from ceag_cli.baselines import NaiveFineTuning
from ceag_cli.ceag import ConstrainedExcessAccuracyGap, lagrangian_weights
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.methods import objective
from ceag_cli.multipliers import Multipliers
from ceag_cli.options import MitigateOptions
from ceag_cli.replay import GroupReplay


def dense_stats(groups: Grouping, counts: Sequence[tuple[int, int]]) -> GroupStats:
    """Statistics from ``(images, right ones)`` of each group."""
    count = torch.tensor([n for n, _ in counts])
    correct = torch.tensor([right for _, right in counts])
    loss = torch.zeros(len(counts), dtype=torch.float64)
    first = groups.feature_of == 0
    return GroupStats(
        count, correct, loss, count[first].sum(), correct[first].sum(), loss[first].sum()
    )


def method(
    groups: Grouping,
    counts: Sequence[tuple[int, int]],
    *,
    eps: float = 0.0,
    capacity: int = 2,
    min_count: int = 1,
    lr: float = 1.0,
    max_sum: float | None = None,
    macro_overall: bool = False,
    batch_means: bool = True,
    detach_overall: bool = False,
    paired: bool = False,
) -> ConstrainedExcessAccuracyGap:
    """The method with the paper's mean over the batch, unless told otherwise; 0 is no buffer."""
    return ConstrainedExcessAccuracyGap(
        groups,
        dense_stats(groups, counts),
        eps,
        GroupReplay(groups.num_groups, capacity, min_count) if capacity else None,
        Multipliers(groups.num_groups, lr, max_sum=max_sum),
        macro_overall=macro_overall,
        batch_means=batch_means,
        detach_overall=detach_overall,
        paired=paired,
    )


def outcome(
    correct: Sequence[int | bool],
    groups: Sequence[Sequence[int]],
    dense: Sequence[int] | None = None,
) -> BatchOutcome:
    return BatchOutcome(
        torch.zeros(len(correct), dtype=torch.float64),
        torch.tensor(correct, dtype=torch.bool),
        torch.tensor([list(of_sample) for of_sample in groups], dtype=torch.int64),
        None if dense is None else torch.tensor(dense, dtype=torch.bool),
    )


def close(values: Sequence[float]) -> object:
    return pytest.approx(values, rel=1e-12, abs=1e-12)


# ---------------------------------------------------------------------------------------------
# The step, by hand
# ---------------------------------------------------------------------------------------------


def test_two_steps_by_hand() -> None:
    # The dense model has 3 images of a and 1 of b, all right.
    ceag = method(grouping("ab"), [(3, 3), (1, 1)], eps=0.1, capacity=2, lr=1.0)

    # Step 1. Buffers: a 1 1 (the last two), b 0. Gaps: a 1 - 1 = 0, b 1 - 0 = 1.
    #   overall gap = 3/4 * 0 + 1/4 * 1 = 0.25, psi_a = -0.25, psi_b = 0.75
    #   lambda_a = max(0, 0 + 1 * (-0.25 - 0.1)) = 0, lambda_b = 0 + 1 * (0.75 - 0.1) = 0.65
    #   weight of an a: (1 - 0.65) / 4 = 0.0875, of the b: 0.0875 + 0.65 / 1 = 0.7375
    weights = ceag.weights(outcome([1, 1, 1, 0], [[0], [0], [0], [1]]))
    assert ceag.recent_excess_gap().tolist() == close([-0.25, 0.75])
    assert ceag.multipliers.values.tolist() == close([0.0, 0.65])
    assert weights.tolist() == close([0.0875, 0.0875, 0.0875, 0.7375])

    # Step 2. Buffers: a 1 0, b 0 1. Gaps: a 0.5, b 0.5; overall 0.5; psi 0 and 0.
    #   lambda_a = max(0, 0 - 0.1) = 0, lambda_b = 0.65 - 0.1 = 0.55
    #   weight of an a: (1 - 0.55) / 2 = 0.225, of the b: 0.225 + 0.55 / 1 = 0.775
    weights = ceag.weights(outcome([0, 1], [[0], [1]]))
    assert ceag.recent_excess_gap().tolist() == close([0.0, 0.0])
    assert ceag.multipliers.values.tolist() == close([0.0, 0.55])
    assert weights.tolist() == close([0.225, 0.775])


def test_the_dual_step_comes_first() -> None:
    # The very first batch is already weighted with the multiplier that it raised:
    # psi_b = 1 - 0.5 = 0.5, lambda_b = 0.5, weights (1 - 0.5) / 2 = 0.25 and 0.25 + 0.5.
    ceag = method(grouping("ab"), [(1, 1), (1, 1)])
    weights = ceag.weights(outcome([1, 0], [[0], [1]]))
    assert weights.tolist() == [0.25, 0.75]


def test_while_no_constraint_is_violated_the_step_is_plain_fine_tuning() -> None:
    batch = outcome([1, 0, 1, 1], [[0], [0], [1], [1]])
    # psi_a = 0.5 - 0.25 = 0.25 and eps is 0.25.
    ceag = method(grouping("ab"), [(2, 2), (2, 2)], eps=0.25)
    assert ceag.weights(batch).tolist() == [0.25] * 4
    assert NaiveFineTuning().weights(batch).tolist() == [0.25] * 4


def test_a_multiplier_moves_on_the_buffer_while_its_group_is_absent_from_the_batch() -> None:
    ceag = method(grouping("ab"), [(1, 1), (1, 1)], capacity=1, lr=0.5)
    ceag.weights(outcome([1, 0], [[0], [1]]))
    assert ceag.multipliers.values.tolist() == [0.0, 0.25]
    # No b in this batch; its buffer still holds 0, so psi_b is 0.5 again.
    weights = ceag.weights(outcome([1, 1], [[0], [0]]))
    assert ceag.multipliers.values.tolist() == [0.0, 0.5]
    assert weights.tolist() == [0.5, 0.5]


def test_a_group_that_is_not_known_yet_has_neither_psi_nor_multiplier() -> None:
    ceag = method(grouping("abc"), [(1, 1)] * 3, capacity=2, min_count=2)
    weights = ceag.weights(outcome([1, 1, 0, 0], [[0], [0], [1], [1]]))
    # c was never seen. Overall gap over a and b: 0.5.
    assert known(ceag.recent_excess_gap()) == [-0.5, 0.5, None]
    assert ceag.multipliers.values.tolist() == [0.0, 0.5, 0.0]
    assert weights.tolist() == [0.125, 0.125, 0.375, 0.375]


def test_before_any_group_is_known_nothing_happens() -> None:
    ceag = method(grouping("ab"), [(1, 1), (1, 1)], capacity=4, min_count=4)
    assert ceag.weights(outcome([1, 0], [[0], [1]])).tolist() == [0.5, 0.5]
    assert known(ceag.recent_excess_gap()) == [None, None]
    assert ceag.multipliers.values.tolist() == [0.0, 0.0]


def test_a_group_that_the_training_split_lacks_stays_out() -> None:
    ceag = method(grouping("abc"), [(1, 1), (1, 1), (0, 0)])
    weights = ceag.weights(outcome([1, 0], [[0], [1]]))
    assert known(ceag.recent_excess_gap()) == [-0.5, 0.5, None]
    assert weights.tolist() == [0.25, 0.75]


def test_a_single_group_is_never_constrained() -> None:
    ceag = method(grouping("a"), [(8, 8)])
    assert ceag.weights(outcome([0, 0], [[0], [0]])).tolist() == [0.5, 0.5]
    assert ceag.recent_excess_gap().tolist() == [0.0]


def test_two_features_side_by_side() -> None:
    # Groups a b of the first feature, x y of the second; four images, one of each pair.
    # ax wrong, the others right: acc a 0.5, b 1, x 0.5, y 1; overall gap 0.25 for both features.
    ceag = method(grouping("ab", "xy"), [(2, 2)] * 4)
    weights = ceag.weights(outcome([0, 1, 1, 1], [[0, 2], [0, 3], [1, 2], [1, 3]]))
    assert ceag.recent_excess_gap().tolist() == [0.25, -0.25, 0.25, -0.25]
    assert ceag.multipliers.values.tolist() == [0.25, 0.0, 0.25, 0.0]
    # (1 - 0.5) / 4 = 0.125, and 0.25 / 2 more for each of a and x.
    assert weights.tolist() == [0.375, 0.25, 0.25, 0.125]


def test_the_bound_on_the_sum_is_applied_before_the_weights() -> None:
    # Gaps 0 and 1, overall 0.5, psi_b 0.5; lr 4 makes lambda_b 2, the bound 0.75.
    ceag = method(grouping("ab"), [(4, 4), (4, 4)], lr=4.0, max_sum=0.75)
    weights = ceag.weights(outcome([1, 0], [[0], [1]]))
    assert ceag.multipliers.values.tolist() == [0.0, 0.75]
    # (1 - 0.75) / 2 = 0.125 for a, 0.125 + 0.75 for b; unbounded it would be -0.5 and 1.5.
    assert weights.tolist() == [0.125, 0.875]


def test_without_a_buffer_psi_is_that_of_the_batch() -> None:
    ceag = method(grouping("abc"), [(4, 4), (4, 4), (4, 4)], capacity=0, lr=0.5)
    # Accuracies a 1, b 0.5, overall 2/3: gaps 0, 0.5, 1/3; psi -1/3, 1/6. c is not in the batch.
    batch = outcome([1, 1, 0], [[0], [1], [1]])
    assert known(ceag.excess_gap_of(batch))[:2] == close([-1 / 3, 1 / 6])
    assert known(ceag.excess_gap_of(batch))[2] is None
    ceag.weights(batch)
    assert ceag.multipliers.values.tolist() == close([0.0, 1 / 12, 0.0])
    # The next batch knows nothing of the last: b is not in it, so its multiplier stays.
    ceag.weights(outcome([0, 1], [[0], [2]]))
    # Gaps a 1, c 0, overall 0.5.
    assert ceag.multipliers.values.tolist() == close([0.25, 1 / 12, 0.0])


def test_with_the_overall_loss_detached_nobody_is_pushed_away() -> None:
    # lambda_b = 0.5 as in the second test, but the others keep their 1 / 2.
    ceag = method(grouping("ab"), [(1, 1), (1, 1)], detach_overall=True)
    weights = ceag.weights(outcome([1, 0], [[0], [1]]))
    assert weights.tolist() == [0.5, 1.0]


def test_weights_have_the_dtype_of_the_losses() -> None:
    batch = outcome([1, 0], [[0], [1]])
    for dtype in (torch.float32, torch.float64, torch.float16):
        found = method(grouping("ab"), [(1, 1), (1, 1)]).weights(
            BatchOutcome(batch.loss.to(dtype), batch.correct, batch.groups)
        )
        assert found.dtype == dtype


# ---------------------------------------------------------------------------------------------
# What "overall" means
# ---------------------------------------------------------------------------------------------


def test_overall_weighted_by_prevalence_or_as_the_plain_mean_over_buffers() -> None:
    # 90 images of a and 10 of b, the dense model right on all. Buffers: a all right, b all wrong.
    batch = outcome([1, 1, 0, 0], [[0], [0], [1], [1]])
    counts = [(90, 90), (10, 10)]
    # By prevalence: overall gap 0.9 * 0 + 0.1 * 1 = 0.1.
    ceag = method(grouping("ab"), counts)
    ceag.weights(batch)
    assert ceag.recent_excess_gap().tolist() == close([-0.1, 0.9])
    # Plain mean: the sparse model is right on (1 + 0) / 2 = 0.5, overall gap 1 - 0.5 = 0.5.
    paper = method(grouping("ab"), counts, macro_overall=True)
    paper.weights(batch)
    assert paper.recent_excess_gap().tolist() == close([-0.5, 0.5])


def test_only_by_prevalence_a_model_as_good_as_the_dense_one_has_no_gap() -> None:
    # Dense: a 90 of 90, b 0 of 10. The buffers say the same of the sparse model.
    batch = outcome([1, 1, 0, 0], [[0], [0], [1], [1]])
    counts = [(90, 90), (10, 0)]
    ceag = method(grouping("ab"), counts)
    ceag.weights(batch)
    assert ceag.recent_excess_gap().tolist() == [0.0, 0.0]
    # Plain mean: dense 0.9 overall, sparse (1 + 0) / 2 = 0.5, so everybody's psi is off by -0.4.
    paper = method(grouping("ab"), counts, macro_overall=True)
    paper.weights(batch)
    assert paper.recent_excess_gap().tolist() == close([-0.4, -0.4])


def test_with_groups_of_equal_size_the_two_agree() -> None:
    batch = outcome([1, 0, 0, 0], [[0], [0], [1], [1]])
    for macro in (False, True):
        ceag = method(grouping("ab"), [(8, 8), (8, 6)], macro_overall=macro)
        ceag.weights(batch)
        # Gaps 0.5 and 0.75, overall 0.625.
        assert ceag.recent_excess_gap().tolist() == [-0.125, 0.125]


def test_while_some_groups_are_unknown_overall_is_over_the_known_ones() -> None:
    # c (80 images) is not known: the overall gap is (15 * 0 + 5 * 1) / 20, not / 100.
    ceag = method(grouping("abc"), [(15, 15), (5, 5), (80, 0)])
    ceag.weights(outcome([1, 0], [[0], [1]]))
    assert known(ceag.recent_excess_gap()) == [-0.25, 0.75, None]


Run = tuple[list[int], list[tuple[int, int]], int, int, list[list[tuple[bool, tuple[int, ...]]]]]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Sizes of the features, dense counts, capacity, min_count, batches."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    images = draw(st.integers(len(sizes) * 3, 30))
    counts: list[tuple[int, int]] = []
    right = draw(st.integers(0, images))
    for size in sizes:
        # The images, and the right ones among them, divided over the groups of the feature.
        at = sorted(
            draw(st.lists(st.integers(1, images - 1), min_size=size - 1, max_size=size - 1))
        )
        edges = [0, *at, images]
        for start, end in pairwise(edges):
            counts.append((end - start, max(0, min(end, right) - start)))
    starts = [sum(sizes[:f]) for f in range(len(sizes))]
    seen = [
        [g for g in range(start, start + size) if counts[g][0]]
        for start, size in zip(starts, sizes, strict=True)
    ]
    sample = st.tuples(st.booleans(), st.tuples(*(st.sampled_from(groups) for groups in seen)))
    capacity = draw(st.integers(1, 4))
    min_count = draw(st.integers(1, capacity))
    batches = draw(st.lists(st.lists(sample, min_size=1, max_size=8), min_size=1, max_size=6))
    return sizes, counts, capacity, min_count, batches


@settings(deadline=None, max_examples=100)
@given(runs(), st.booleans(), st.sampled_from([0.0, 0.0625, 0.25]))
def test_psi_and_multipliers_follow_the_loops(run: Run, macro: bool, eps: float) -> None:
    sizes, counts, capacity, min_count, batches = run
    groups = grouping(*("abc"[:size] for size in sizes))
    ceag = method(
        groups,
        counts,
        eps=eps,
        capacity=capacity,
        min_count=min_count,
        lr=0.5,
        macro_overall=macro,
    )
    starts = [sum(sizes[:f]) for f in range(len(sizes))]
    features = [range(a, a + size) for a, size in zip(starts, sizes, strict=True)]
    oracle = DequeReplay(groups.num_groups, capacity, min_count)
    multipliers = [Fraction()] * groups.num_groups
    for batch in batches:
        flags, ids = [flag for flag, _ in batch], [of_sample for _, of_sample in batch]
        weights = ceag.weights(outcome(flags, ids))
        oracle.push(flags, ids)
        psi = recent_psi(counts, oracle.mean(), features, macro=macro)
        for g, value in enumerate(psi):
            if value is not None:
                step = multipliers[g] + Fraction(1, 2) * (value - Fraction(eps))
                multipliers[g] = max(Fraction(), step)
        found = known(ceag.recent_excess_gap())
        assert [value is None for value in found] == [value is None for value in psi]
        assert [v for v in found if v is not None] == close(
            [v for v in floats(psi) if v is not None]
        )
        assert ceag.multipliers.values.tolist() == close([float(m) for m in multipliers])
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)


# ---------------------------------------------------------------------------------------------
# The weights
# ---------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    # B = 4; a has two samples, b and c one each; lambda 0.5, 0, 0.25.
    # (1 - 0.75) / 4 = 0.0625; a: + 0.5 / 2 = 0.3125; b: 0.0625; c: + 0.25 = 0.3125.
    groups = torch.tensor([[0], [0], [1], [2]])
    weights = lagrangian_weights(groups, torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64))
    assert weights.tolist() == [0.3125, 0.3125, 0.0625, 0.3125]


def test_beyond_a_sum_of_one_some_weights_are_negative() -> None:
    # lambda_b = 3: (1 - 3) / 2 = -1 for a, -1 + 3 = 2 for b.
    weights = lagrangian_weights(torch.tensor([[0], [1]]), torch.tensor([0.0, 3.0]))
    assert weights.tolist() == [-1.0, 2.0]


def test_a_multiplier_of_an_absent_group_changes_nothing() -> None:
    groups = torch.tensor([[0], [0], [1]])
    without = lagrangian_weights(groups, torch.tensor([0.5, 0.25, 0.0]))
    for multiplier in (7.0, 1e30):
        weights = lagrangian_weights(groups, torch.tensor([0.5, 0.25, multiplier]))
        assert weights.isfinite().all()
        assert weights.tolist() == without.tolist()


def test_one_sample_weighs_one() -> None:
    # L_g = L in such a batch, so the multipliers cancel.
    weights = lagrangian_weights(torch.tensor([[1, 2]]), torch.tensor([9.0, 4.0, 2.0]))
    assert weights.tolist() == [1.0]


def batches_and_multipliers() -> st.SearchStrategy[tuple[list[list[int]], list[float]]]:
    sample = st.tuples(st.integers(0, 2), st.integers(3, 5)).map(list)
    return st.tuples(
        st.lists(sample, min_size=1, max_size=12),
        st.lists(st.floats(0, 3, allow_subnormal=False), min_size=6, max_size=6),
    )


@settings(deadline=None, max_examples=150)
@given(batches_and_multipliers(), st.integers(0, 2**16), st.booleans())
def test_the_weighted_loss_has_the_gradient_of_the_lagrangian(
    case: tuple[list[list[int]], list[float]], seed: int, detach: bool
) -> None:
    ids, multipliers = case
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(ids), 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (len(ids),), generator=generator)
    parameter = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    losses = functional.cross_entropy(inputs @ parameter.T, targets, reduction="none")

    weights = lagrangian_weights(
        torch.tensor(ids), torch.tensor(multipliers, dtype=torch.float64), detach_overall=detach
    )
    weighted = (weights * losses).sum()
    (gradient,) = torch.autograd.grad(weighted, parameter, retain_graph=True)

    assert not weights.requires_grad
    expected = lagrangian_gradient(losses, ids, multipliers, parameter, detach_overall=detach)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    seen = {group for of_sample in ids for group in of_sample}
    extra = sum(multipliers[group] for group in seen) if detach else 0.0
    assert float(weights.sum()) == pytest.approx(1.0 + extra, abs=1e-12)
    if not detach:
        value = lagrangian(losses, ids, multipliers)
        torch.testing.assert_close(weighted, value, rtol=1e-10, atol=1e-10)
    if sum(multipliers) < 1:
        assert float(weights.min()) > 0


def test_samples_of_absent_groups_have_no_part_in_the_gradient() -> None:
    # One parameter for each group, so that each group's gradient is seen apart.
    parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([[0], [0], [1]])
    losses = parameter[groups[:, 0]]
    weights = lagrangian_weights(groups, torch.tensor([0.0, 0.5, 7.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad((weights * losses).sum(), parameter)
    # (1 - 0.5) / 3 for each of two a, the same + 0.5 for b, nothing for c.
    assert gradient.tolist() == close([1 / 3, 2 / 3, 0.0])
    assert gradient[2].item() == 0.0


def test_by_prevalence_a_group_weighs_the_same_in_every_batch() -> None:
    # Training: 6 of a, 2 of b, so p = 0.75 and 0.25; lambda_b = 0.5.
    # Every a weighs (1 - 0.5) / B, every b 0.5 / (B * 0.25) = 2 / B more, however many there are.
    prevalence = torch.tensor([0.75, 0.25], dtype=torch.float64)
    multipliers = torch.tensor([0.0, 0.5], dtype=torch.float64)
    for ids in ([0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]):
        weights = lagrangian_weights(torch.tensor(ids)[:, None], multipliers, prevalence)
        assert weights.tolist() == [0.625 if group else 0.125 for group in ids]


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_by_prevalence_an_epoch_is_the_lagrangian_of_all_images_exactly(
    data: st.DataObject,
) -> None:
    """Unbiased: over batches of equal size that make up the images, the mean of the weighted sums.

    The paper's weights have the same mean only if every batch has its share of every group.
    """
    batches, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    count = batches * size
    ids = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(3, 4)).map(list),
            min_size=count,
            max_size=count,
        )
    )
    multipliers = data.draw(st.lists(st.floats(0, 3), min_size=5, max_size=5))
    losses = torch.tensor(
        data.draw(st.lists(st.floats(0, 9), min_size=count, max_size=count)), dtype=torch.float64
    )
    groups = torch.tensor(ids)
    present = torch.bincount(groups.reshape(-1), minlength=5)
    known_groups = torch.tensor(multipliers, dtype=torch.float64) * (present > 0)
    prevalence = present.double() / count
    weighted = [
        lagrangian_weights(part, known_groups, prevalence) * loss
        for part, loss in zip(torch.split(groups, size), torch.split(losses, size), strict=True)
    ]
    found = torch.stack([part.sum() for part in weighted]).mean()
    torch.testing.assert_close(found, lagrangian(losses, ids, multipliers), rtol=1e-9, atol=1e-9)


def test_a_group_that_training_lacks_weighs_nothing_extra() -> None:
    groups = torch.tensor([[0], [1]])
    prevalence = torch.tensor([1.0, 0.0], dtype=torch.float64)
    weights = lagrangian_weights(groups, torch.zeros(2, dtype=torch.float64), prevalence)
    assert weights.tolist() == [0.5, 0.5]


def test_a_convex_problem_is_solved_to_its_solution_and_its_multiplier() -> None:
    # Three images of a with loss x^2, one of b with loss (x - 2)^2; the loss alone wants x = 0.5.
    # L = 0.75 x^2 + 0.25 (x - 2)^2, L_b - L = 3 - 3 x <= 0.75 asks for x >= 0.75.
    # At x* = 0.75 the slope of L is 2 x - 1 = 0.5, that of the constraint -3: lambda* = 1 / 6.
    groups = torch.tensor([[0], [0], [0], [1]])
    prevalence = torch.tensor([0.75, 0.25], dtype=torch.float64)
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    multipliers = Multipliers(2, lr=0.02)
    for _ in range(3000):
        losses = torch.stack([x**2, x**2, x**2, (x - 2) ** 2])
        violation = losses[3].detach() - losses.detach().mean() - 0.75
        multipliers.ascend_(torch.tensor([float("nan"), float(violation)], dtype=torch.float64))
        weights = lagrangian_weights(groups, multipliers.values, prevalence)
        (slope,) = torch.autograd.grad((weights * losses).sum(), x)
        with torch.no_grad():
            x -= 0.05 * slope
    assert x.item() == pytest.approx(0.75, abs=1e-9)
    assert multipliers.values.tolist() == pytest.approx([0.0, 1 / 6], abs=1e-9)


def test_naive_fine_tuning_is_blind_to_groups_and_outcomes() -> None:
    method_ = NaiveFineTuning()
    assert method_.weights(outcome([1, 0], [[0], [1]])).tolist() == [0.5, 0.5]
    assert method_.weights(outcome([0] * 5, [[1]] * 5)).tolist() == pytest.approx([0.2] * 5)
    assert method_.state_dict() == {}
    method_.load_state_dict({})


# ---------------------------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------------------------


def random_batches(steps: int) -> list[BatchOutcome]:
    generator = torch.Generator().manual_seed(7)
    return [
        BatchOutcome(
            torch.rand(6, generator=generator),
            torch.rand(6, generator=generator) < 0.6,
            torch.randint(3, (6, 1), generator=generator),
        )
        for _ in range(steps)
    ]


def fresh() -> ConstrainedExcessAccuracyGap:
    return method(
        grouping("abc"), [(10, 9), (20, 18), (30, 27)], eps=0.02, capacity=8, lr=0.25, max_sum=0.9
    )


def test_a_restored_method_goes_on_bit_for_bit() -> None:
    batches = random_batches(20)
    first = fresh()
    for batch in batches[:9]:
        first.weights(batch)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = fresh()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert float(second.multipliers.values.max()) > 0
    assert second.multipliers.values.tolist() == first.multipliers.values.tolist()
    for batch in batches[9:]:
        assert second.weights(batch).tolist() == first.weights(batch).tolist()
    assert second.multipliers.values.tolist() == first.multipliers.values.tolist()


def test_a_state_in_memory_can_be_returned_to() -> None:
    batches = random_batches(12)
    ceag = fresh()
    for batch in batches[:4]:
        ceag.weights(batch)
    state = ceag.state_dict()
    once = [ceag.weights(batch).tolist() for batch in batches[4:]]
    ceag.load_state_dict(state)
    assert [ceag.weights(batch).tolist() for batch in batches[4:]] == once


# ---------------------------------------------------------------------------------------------
# Against the cooper library
# ---------------------------------------------------------------------------------------------

COUNTS = [(120, 114), (40, 36), (10, 9)]
EPS, DUAL_LR, PRIMAL_LR = 0.02, 0.2, 0.5


class CooperProblem(ByGroup):
    """The paper's problem as its own library wants it: loss, proxy and strict violations."""

    def compute_cmp_state(
        self, parameter: Tensor, inputs: Tensor, targets: Tensor, groups: Tensor
    ) -> CMPState:
        logits = inputs @ parameter.T
        losses = functional.cross_entropy(logits, targets, reduction="none")
        overall = losses.mean()
        proxy = torch.stack(
            [
                losses[groups == g].mean() - overall if bool((groups == g).any()) else 0 * overall
                for g in range(len(COUNTS))
            ]
        )
        correct = (logits.argmax(dim=1) == targets).tolist()
        if self.replay is None:
            psi = batch_psi(correct, groups.tolist())
        else:
            self.replay.push(correct, [[g] for g in groups.tolist()])
            psi = recent_psi(COUNTS, self.replay.mean(), [range(len(COUNTS))], macro=True)
        strict = [0.0 if value is None else float(value) - EPS for value in psi]
        state = ConstraintState(
            violation=proxy, strict_violation=torch.tensor(strict, dtype=torch.float64)
        )
        return CMPState(loss=overall, observed_constraints={self.by_group: state})


def batch_psi(correct: Sequence[bool], groups: Sequence[int]) -> list[Fraction | None]:
    """psi_g of one batch against the dense model on all of train; ``None`` for absent groups."""
    images, right = sum(n for n, _ in COUNTS), sum(right for _, right in COUNTS)
    overall = Fraction(right, images) - Fraction(sum(correct), len(correct))
    found: list[Fraction | None] = []
    for g, (n, dense) in enumerate(COUNTS):
        members = [flag for flag, group in zip(correct, groups, strict=True) if group == g]
        gap = Fraction(dense, n) - Fraction(sum(members), len(members)) if members else None
        found.append(None if gap is None else gap - overall)
    return found


@pytest.mark.parametrize("buffers", [True, False], ids=["buffers", "no buffers"])
def test_two_hundred_steps_agree_with_cooper(buffers: bool) -> None:
    problem = CooperProblem(ConstraintType.INEQUALITY, len(COUNTS), buffers)
    ceag = method(
        grouping("abc"),
        COUNTS,
        eps=EPS,
        capacity=CAPACITY if buffers else 0,
        min_count=CAPACITY,
        lr=DUAL_LR,
        max_sum=None,
        macro_overall=True,
    )

    history = []
    absent = 0
    rates = {"lr": PRIMAL_LR, "dual_lr": DUAL_LR, "tolerance": 1e-9}
    for _, groups in steps_beside(problem, ceag, **rates):
        history.append(ceag.multipliers.values.tolist())
        absent += int(not bool((groups == 2).any()))

    # The run has met what it is to compare: late starters, multipliers that rise above a sum of
    # one and fall again, multipliers at zero, batches that lack a group.
    sums = [sum(step) for step in history]
    assert (history[0] == [0.0, 0.0, 0.0]) == buffers
    assert max(sums) > 1 > sums[-1] or not buffers
    assert any(b < a for a, b in pairwise(sums))
    assert any(0.0 in step and max(step) > 0 for step in history)
    assert absent > 20


# ---------------------------------------------------------------------------------------------
# In somebody else's training loop
# ---------------------------------------------------------------------------------------------


def test_the_method_for_another_loop_has_the_defaults_of_the_command() -> None:
    # 6 of a, 2 of b; 4 batches an epoch. Steps 10 / 4 * p, bounds p or 1 / 2, whichever is larger,
    # and 0.9 in sum; whole buffers.
    correct = torch.tensor([1, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    groups = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    method = ConstrainedExcessAccuracyGap.against(correct, groups, eps=0.05, steps_per_epoch=4)
    assert method.multipliers.lr.tolist() == [1.875, 0.625]
    assert method.multipliers.max_each is not None
    assert method.multipliers.max_each.tolist() == [0.75, 0.5]
    assert method.multipliers.max_sum == 0.9
    assert method.replay is not None
    assert method.replay.capacity.tolist() == [6, 2]
    assert method.replay.min_count.tolist() == [3, 1]
    assert method.dense.accuracy.tolist() == close([5 / 6, 1.0])
    options = MitigateOptions(eps=0.05, measure="matched")
    same = objective(options, grouping("ab"), method.dense, 4)
    batch = outcome([1, 0, 1, 0], [[0], [0], [0], [1]])
    for _ in range(5):
        expected = same.weights(batch)
        found = method(batch.correct, batch.groups[:, 0])
        assert found.tolist() == pytest.approx(expected.tolist())
        assert found.dtype == torch.float32
    assert method.status()["max_multiplier"] > 0


def test_paired_buffers_hold_what_the_dense_model_alone_gets_right() -> None:
    # Dense right and sparse wrong counts 1, the other way round -1. Group 0: 1, 1 of two; group 1:
    # 0, -1 of two. Gaps 1 and -1/2, of equal size 1/4 overall: psi 3/4 and -3/4.
    paired = ConstrainedExcessAccuracyGap.against(
        torch.ones(4, dtype=torch.bool),
        torch.tensor([0, 0, 1, 1]),
        eps=0.25,
        steps_per_epoch=5,
        paired=True,
    )
    sparse = torch.tensor([False, False, True, True])
    dense = torch.tensor([True, True, True, False])
    paired(sparse, torch.tensor([0, 0, 1, 1]), dense)
    assert paired.recent_excess_gap().tolist() == [0.75, -0.75]
    # A step of 10 / 5 * 1/2 times 3/4 - 1/4.
    assert paired.multipliers.values.tolist() == [0.5, 0.0]


def test_paired_without_buffers_is_psi_of_the_batch() -> None:
    one = method(grouping("ab"), [(4, 4), (4, 4)], capacity=0, paired=True)
    batch = outcome([0, 0, 1, 1], [[0], [0], [1], [1]], dense=[1, 1, 1, 0])
    assert one.excess_gap_of(batch).tolist() == [0.75, -0.75]


@given(
    st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6), max_size=6
    ),
    st.booleans(),
    st.sampled_from([0, 3]),
)
def test_paired_is_the_same_where_the_dense_model_is_always_right(
    batches: list[list[tuple[bool, int]]], macro_overall: bool, capacity: int
) -> None:
    # The plain mean over buffers is of those that are known, so all have to be known at once.
    batches = [[(True, 0), (True, 1), (True, 2)], *batches]
    plain, paired = (
        method(
            grouping("abc"),
            [(3, 3), (2, 2), (1, 1)],
            capacity=capacity,
            macro_overall=macro_overall,
            paired=paired,
        )
        for paired in (False, True)
    )
    for batch in batches:
        correct, ids = [right for right, _ in batch], [[group] for _, group in batch]
        expected = plain.weights(outcome(correct, ids))
        found = paired.weights(outcome(correct, ids, dense=[1] * len(batch)))
        assert found.tolist() == close(expected.tolist())


def test_what_the_dense_model_says_goes_with_paired_and_only_with_it() -> None:
    flags, ids = torch.ones(2, dtype=torch.bool), torch.tensor([0, 1])
    plain, paired = (
        ConstrainedExcessAccuracyGap.against(flags, ids, eps=0.1, steps_per_epoch=1, paired=paired)
        for paired in (False, True)
    )
    with pytest.raises(ValueError, match="paired=True"):
        plain(flags, ids, flags)
    with pytest.raises(ValueError, match="paired=True"):
        paired(flags, ids)


def test_the_status_counts_violated_groups_whose_multipliers_cannot_rise() -> None:
    # Group 0 loses everything, group 1 nothing; its multiplier may rise to its prevalence, 0.5.
    groups = torch.tensor([0, 0, 1, 1])
    method = ConstrainedExcessAccuracyGap.against(
        torch.ones(4, dtype=torch.bool), groups, eps=0.1, steps_per_epoch=1
    )
    assert method.status()["stuck_multipliers"] == 0
    method(torch.tensor([False, False, True, True]), groups)  # a step of 10 * 0.5 * (0.5 - 0.1)
    assert method.status() == {
        "max_multiplier": 0.5,
        "sum_multipliers": 0.5,
        "stuck_multipliers": 1,
        "recent_max_excess_gap": 0.5,
    }
    for _ in range(2):  # all right again: still at most 0.5, but not violated
        method(torch.ones(4, dtype=torch.bool), groups)
    assert method.status()["stuck_multipliers"] == 0


def test_several_features_are_numbered_together() -> None:
    groups = torch.tensor([[0, 2], [1, 3], [0, 3], [1, 2]])
    correct = torch.ones(4, dtype=torch.bool)
    method = ConstrainedExcessAccuracyGap.against(correct, groups, eps=0.1, steps_per_epoch=1)
    assert method.features == 2
    assert method.feature_of.tolist() == [0, 0, 1, 1]
    weights = method(torch.tensor([True, False]), groups[:2])
    assert weights.shape == (2,)


def test_a_number_that_no_image_has_is_a_group_without_images() -> None:
    correct = torch.ones(3, dtype=torch.bool)
    method = ConstrainedExcessAccuracyGap.against(
        correct, torch.tensor([0, 2, 2]), eps=0.1, steps_per_epoch=1
    )
    weights = method(torch.tensor([True, False]), torch.tensor([0, 2]))
    assert weights.isfinite().all()
    assert method.multipliers.values[1].item() == 0.0


@pytest.mark.parametrize(
    ("correct", "groups", "message"),
    [
        ([1, 1], [[0], [1], [1]], "2 outcomes of the dense model, 3 groups"),
        ([1], [[-1]], "group ids must be whole numbers from 0 on"),
        ([], [], "group ids must be whole numbers from 0 on"),
        ([1, 1], [[0, 1], [1, 2]], "groups of several features are numbered together"),
        ([1, 1], [[2, 0], [3, 1]], "groups of several features are numbered together"),
    ],
)
def test_groups_that_cannot_be_used_are_refused(
    correct: list[int], groups: list[list[int]], message: str
) -> None:
    ids = torch.tensor(groups, dtype=torch.int64).reshape(len(groups), -1 if groups else 1)
    flags = torch.tensor(correct, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        ConstrainedExcessAccuracyGap.against(flags, ids, eps=0.1, steps_per_epoch=1)


def test_outcomes_and_groups_must_be_of_the_same_samples() -> None:
    correct, groups = torch.ones(4, dtype=torch.bool), torch.tensor([0, 0, 1, 1])
    method = ConstrainedExcessAccuracyGap.against(correct, groups, eps=0.1, steps_per_epoch=1)
    with pytest.raises(ValueError, match="4 outcomes, but the groups of 2 samples"):
        method(correct, groups[:2])


@pytest.mark.parametrize(("steps", "eps"), [(0, 0.1), (1, -0.1), (1, 2.0)])
def test_numbers_out_of_range_are_refused(steps: int, eps: float) -> None:
    with pytest.raises(ValueError, match="need steps_per_epoch >= 1 and eps in"):
        ConstrainedExcessAccuracyGap.against(
            torch.ones(2, dtype=torch.bool), torch.tensor([0, 1]), eps=eps, steps_per_epoch=steps
        )
