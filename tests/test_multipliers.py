from __future__ import annotations

import pytest
import torch
from cooper.optim.torch_optimizers.nupi_optimizer import nuPI
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ceag_cli.multipliers import Multipliers, bound_by_size

NAN = float("nan")


def violation(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_multipliers_start_at_zero() -> None:
    assert Multipliers(3, lr=0.5).values.tolist() == [0.0, 0.0, 0.0]


def test_a_violated_constraint_raises_its_multiplier_and_a_satisfied_one_lowers_it() -> None:
    multipliers = Multipliers(2, lr=0.5)
    multipliers.ascend_(violation(0.5, 1.0))
    assert multipliers.values.tolist() == [0.25, 0.5]
    multipliers.ascend_(violation(0.25, -0.5))
    assert multipliers.values.tolist() == [0.375, 0.25]


def test_a_multiplier_stops_at_zero_and_remembers_no_slack() -> None:
    multipliers = Multipliers(1, lr=1.0)
    multipliers.ascend_(violation(0.5))
    multipliers.ascend_(violation(-100.0))
    assert multipliers.values.tolist() == [0.0]
    multipliers.ascend_(violation(0.25))
    assert multipliers.values.tolist() == [0.25]


def test_an_unknown_violation_leaves_its_multiplier_where_it_is() -> None:
    multipliers = Multipliers(2, lr=1.0)
    multipliers.ascend_(violation(0.5, 0.5))
    multipliers.ascend_(violation(NAN, 0.25))
    assert multipliers.values.tolist() == [0.5, 0.75]
    multipliers.ascend_(violation(NAN, NAN))
    assert multipliers.values.tolist() == [0.5, 0.75]


def test_beyond_the_bound_all_are_scaled_alike() -> None:
    multipliers = Multipliers(3, lr=1.0, max_sum=0.5)
    multipliers.ascend_(violation(0.75, 0.25, -1.0))
    assert multipliers.values.tolist() == [0.375, 0.125, 0.0]
    # Scaling also moves a multiplier whose violation is not known: 0.375 + 0.5 = 0.875, 0.125.
    multipliers.ascend_(violation(0.5, NAN, NAN))
    assert multipliers.values.tolist() == [0.4375, 0.0625, 0.0]


def test_up_to_the_bound_nothing_is_scaled() -> None:
    multipliers = Multipliers(2, lr=1.0, max_sum=0.75)
    multipliers.ascend_(violation(0.5, 0.25))
    assert multipliers.values.tolist() == [0.5, 0.25]


def test_without_a_bound_the_sum_may_exceed_one() -> None:
    multipliers = Multipliers(2, lr=1.0)
    multipliers.ascend_(violation(4.0, 8.0))
    assert multipliers.values.tolist() == [4.0, 8.0]


def test_multipliers_that_are_all_zero_survive_the_bound() -> None:
    multipliers = Multipliers(2, lr=1.0, max_sum=0.5)
    multipliers.ascend_(violation(-1.0, NAN))
    assert multipliers.values.tolist() == [0.0, 0.0]


def test_the_violation_is_not_changed() -> None:
    given_violation = violation(0.5, NAN)
    Multipliers(2, lr=1.0).ascend_(given_violation)
    assert given_violation[0].item() == 0.5
    assert given_violation.isnan().tolist() == [False, True]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(
            st.one_of(st.floats(-2, 2, allow_subnormal=False), st.just(NAN)),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=10,
    ),
    st.one_of(st.none(), st.floats(0.01, 2)),
)
def test_step_by_step_as_a_loop_would_do_it(
    steps: list[list[float]], max_sum: float | None
) -> None:
    multipliers = Multipliers(3, lr=0.125, max_sum=max_sum)
    expected = [0.0, 0.0, 0.0]
    for step in steps:
        multipliers.ascend_(torch.tensor(step, dtype=torch.float64))
        for g, value in enumerate(step):
            if value == value:
                expected[g] = max(0.0, expected[g] + 0.125 * value)
        if max_sum is not None and sum(expected) > max_sum:
            expected = [value * max_sum / sum(expected) for value in expected]
        assert multipliers.values.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert min(multipliers.values.tolist()) >= 0
        if max_sum is not None:
            assert float(multipliers.values.sum()) <= max_sum * (1 + 1e-12)


def test_a_convex_problem_with_a_known_solution() -> None:
    # min (x - 2)^2 subject to x <= 1. At x = 1 the objective's slope is -2, so lambda = 2.
    x, multipliers = 0.0, Multipliers(1, lr=0.05)
    for _ in range(2000):
        multipliers.ascend_(violation(x - 1))
        x -= 0.05 * (2 * (x - 2) + float(multipliers.values))
    assert x == pytest.approx(1.0, abs=1e-6)
    assert float(multipliers.values) == pytest.approx(2.0, abs=1e-6)


def test_an_idle_constraint_ends_with_a_multiplier_of_zero() -> None:
    # min (x - 2)^2 subject to x <= 3 is solved at x = 2, from a start that violates it.
    x, multipliers = 5.0, Multipliers(1, lr=0.05)
    highest = 0.0
    for _ in range(2000):
        multipliers.ascend_(violation(x - 3))
        highest = max(highest, float(multipliers.values))
        x -= 0.05 * (2 * (x - 2) + float(multipliers.values))
    assert highest > 0
    assert x == pytest.approx(2.0, abs=1e-6)
    assert multipliers.values.tolist() == [0.0]


def test_a_bound_below_the_solution_is_met_with_equality() -> None:
    # The multiplier wants to be 2 and may be 1: then 2 (x - 2) + 1 = 0, x = 1.5.
    x, multipliers = 0.0, Multipliers(1, lr=0.05, max_sum=1.0)
    for _ in range(2000):
        multipliers.ascend_(violation(x - 1))
        x -= 0.05 * (2 * (x - 2) + float(multipliers.values))
    assert multipliers.values.tolist() == [1.0]
    assert x == pytest.approx(1.5, abs=1e-6)


def test_a_restored_state_goes_on_from_there() -> None:
    first = Multipliers(2, lr=0.5, max_sum=0.75)
    first.ascend_(violation(1.0, 0.25))
    second = Multipliers(2, lr=0.5, max_sum=0.75)
    second.load_state_dict(first.state_dict())
    assert second.values.tolist() == first.values.tolist() == [0.5, 0.125]
    second.ascend_(violation(-0.5, 0.0))
    assert second.values.tolist() == [0.25, 0.125]
    # The two share no memory.
    assert first.values.tolist() == [0.5, 0.125]


def test_a_state_is_a_snapshot_that_later_steps_do_not_touch() -> None:
    multipliers = Multipliers(1, lr=1.0)
    multipliers.ascend_(violation(0.5))
    state = multipliers.state_dict()
    multipliers.ascend_(violation(0.5))
    restored = Multipliers(1, lr=1.0)
    restored.load_state_dict(state)
    assert restored.values.tolist() == [0.5]


def test_the_state_of_another_number_of_groups_is_refused() -> None:
    with pytest.raises(RuntimeError):
        Multipliers(3, lr=1.0).load_state_dict(Multipliers(2, lr=1.0).state_dict())
    with pytest.raises(RuntimeError):
        Multipliers(3, lr=1.0).load_state_dict(Multipliers(1, lr=1.0).state_dict())


# Steps and bounds of their own


def test_every_group_may_have_a_step_of_its_own() -> None:
    multipliers = Multipliers(2, lr=torch.tensor([0.5, 0.25]))
    multipliers.ascend_(violation(1.0, 1.0))
    assert multipliers.values.tolist() == [0.5, 0.25]


def test_no_multiplier_exceeds_its_own_bound() -> None:
    multipliers = Multipliers(2, lr=1.0, max_each=torch.tensor([0.5, 0.25]), max_sum=0.6)
    multipliers.ascend_(violation(0.25, 9.0))
    # Clipped to 0.25 and 0.25, which sum to less than 0.6.
    assert multipliers.values.tolist() == [0.25, 0.25]
    multipliers.ascend_(violation(9.0, 0.0))
    # Clipped to 0.5 and 0.25, scaled by 0.6 / 0.75 = 0.8.
    assert multipliers.values.tolist() == pytest.approx([0.4, 0.2])


def test_dual_restarts_forget_a_multiplier_whose_constraint_holds() -> None:
    multipliers = Multipliers(3, lr=1.0, restart=True)
    multipliers.ascend_(violation(0.5, 0.5, 0.5))
    multipliers.ascend_(violation(-0.125, 0.0, NAN))
    # Without restarts these would be 0.375 and 0.5. What is not known is not satisfied.
    assert multipliers.values.tolist() == [0.0, 0.0, 0.5]
    multipliers.ascend_(violation(0.25, 0.25, 0.25))
    assert multipliers.values.tolist() == [0.25, 0.25, 0.75]


# The PI controller


def test_three_steps_of_the_controller_by_hand() -> None:
    multipliers = Multipliers(1, lr=1.0, kp=2.0, nu=0.5)
    # The first step is that of plain ascent; xi is 0 after it.
    multipliers.ascend_(violation(1.0))
    assert multipliers.values.tolist() == [1.0]
    # xi = 0.5 * 0 + 0.5 * 2 = 1; the step is 2 + 2 * (1 - 0) = 4.
    multipliers.ascend_(violation(2.0))
    assert multipliers.values.tolist() == [5.0]
    # xi = 0.5 * 1 + 0.5 * 0.5 = 0.75; the step is 0.5 + 2 * (0.75 - 1) = 0.
    multipliers.ascend_(violation(0.5))
    assert multipliers.values.tolist() == [5.0]


def test_without_smoothing_it_is_the_sum_of_violations_and_the_present_one() -> None:
    multipliers = Multipliers(1, lr=1.0, kp=3.0)
    total = 0.0
    for e in (0.5, 2.0, 1.0, 0.25):
        multipliers.ascend_(violation(e))
        total += e
    assert multipliers.values.tolist() == [total + 3 * 0.25]


def test_the_controller_starts_for_each_group_when_it_is_first_known() -> None:
    multipliers = Multipliers(2, lr=1.0, kp=3.0)
    multipliers.ascend_(violation(1.0, NAN))
    multipliers.ascend_(violation(1.0, 2.0))
    # a: 1, and then 1 + 3 * (1 - 0). b: 2, its first violation.
    assert multipliers.values.tolist() == [5.0, 2.0]
    multipliers.ascend_(violation(1.0, NAN))
    multipliers.ascend_(violation(1.0, 1.0))
    # a: 1 and 1, since nothing changes. b: nothing, and then 1 + 3 * (1 - 0).
    assert multipliers.values.tolist() == [7.0, 6.0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=3, max_size=3),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 20),
    st.floats(0, 0.95),
)
def test_the_controller_is_that_of_the_cooper_library(
    steps: list[list[float]], kp: float, nu: float
) -> None:
    theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = nuPI([theirs], lr=0.125, Kp=torch.tensor(kp), ema_nu=nu, maximize=True)
    ours = Multipliers(3, lr=0.125, kp=kp, nu=nu)
    for step in steps:
        theirs.grad = torch.tensor(step, dtype=torch.float64)
        optimizer.step()
        with torch.no_grad():
            theirs.clamp_(min=0.0)
        ours.ascend_(torch.tensor(step, dtype=torch.float64))
        # Their gain is a float32 tensor.
        torch.testing.assert_close(ours.values, theirs.detach(), rtol=1e-5, atol=1e-5)
        assert min(ours.values.tolist()) >= 0


def test_the_controller_damps_the_swings_of_plain_ascent() -> None:
    """min (x - 2)^2 subject to x <= 1 with a step at which plain ascent overshoots for long."""

    def farthest_late(kp: float) -> float:
        x, multipliers, late = 0.0, Multipliers(1, lr=0.5, kp=kp), 0.0
        for step in range(200):
            multipliers.ascend_(violation(x - 1))
            x -= 0.05 * (2 * (x - 2) + float(multipliers.values))
            late = max(late, abs(x - 1)) if step >= 100 else 0.0
        return late

    assert farthest_late(0.0) > 1e-3
    assert farthest_late(4.0) < 1e-4


def test_a_restored_controller_goes_on_from_there() -> None:
    first = Multipliers(1, lr=1.0, kp=2.0, nu=0.5)
    first.ascend_(violation(1.0))
    second = Multipliers(1, lr=1.0, kp=2.0, nu=0.5)
    second.load_state_dict(first.state_dict())
    for multipliers in (first, second):
        multipliers.ascend_(violation(2.0))
        assert multipliers.values.tolist() == [5.0]


def test_status_is_the_largest_and_the_sum() -> None:
    multipliers = Multipliers(2, lr=1.0)
    multipliers.ascend_(violation(0.5, 0.25))
    assert multipliers.status() == {"max_multiplier": 0.5, "sum_multipliers": 0.75}


def test_the_bound_is_a_groups_share_or_that_of_an_average_group() -> None:
    # Two features: one of three groups (half, a quarter, a quarter), one of two, one of them rare.
    prevalence = torch.tensor([0.5, 0.25, 0.25, 0.99, 0.01], dtype=torch.float64)
    feature_of = torch.tensor([0, 0, 0, 1, 1])
    third = pytest.approx(1 / 3)
    assert bound_by_size(prevalence, feature_of, 1.0).tolist() == [0.5, third, third, 0.99, 0.5]
    assert bound_by_size(prevalence, feature_of, 2.0).tolist()[3:] == [1.98, 1.0]


def test_a_group_without_images_has_no_share_and_does_not_count_among_the_groups() -> None:
    prevalence = torch.tensor([0.9, 0.1, 0.0], dtype=torch.float64)
    bounds = bound_by_size(prevalence, torch.zeros(3, dtype=torch.int64), 1.0)
    assert bounds.tolist() == [0.9, 0.5, 0.0]


def test_a_multiplier_is_at_its_bound_alone() -> None:
    multipliers = Multipliers(2, lr=1.0, max_each=torch.tensor([0.5, 1.0]))
    assert multipliers.at_bound.tolist() == [False, False]
    multipliers.ascend_(violation(0.75, 0.75))
    assert multipliers.at_bound.tolist() == [True, False]


def test_multipliers_are_at_their_bound_together() -> None:
    multipliers = Multipliers(2, lr=1.0, max_sum=0.9)
    multipliers.ascend_(violation(0.25, 0.5))
    assert multipliers.at_bound.tolist() == [False, False]
    multipliers.ascend_(violation(0.25, 0.5))
    assert multipliers.at_bound.tolist() == [True, True]


def test_without_bounds_none_is_at_a_bound() -> None:
    multipliers = Multipliers(2, lr=1.0)
    multipliers.ascend_(violation(100.0, 100.0))
    assert multipliers.at_bound.tolist() == [False, False]
