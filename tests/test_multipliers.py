from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ceag_cli.multipliers import Multipliers

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
