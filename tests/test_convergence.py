from __future__ import annotations

from collections.abc import Sequence

from ceag_cli.convergence import troubles


def log(**columns: Sequence[float]) -> list[dict[str, float]]:
    """One entry per epoch from the values of each key."""
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def warned(entries: list[dict[str, float]]) -> list[int]:
    """The epochs, counted from 1, at which there is a warning; eps is 0.02."""
    return [epoch for epoch in range(1, len(entries) + 1) if troubles(entries[:epoch], 0.02)]


def test_violated_at_the_bound_and_no_longer_falling_looks_infeasible() -> None:
    entries = log(
        stuck_multipliers=[0, 2, 2, 3, 2, 2],
        max_excess_gap=[0.3, 0.2, 0.1, 0.2, 0.2, 0.2],
    )
    assert warned(entries) == [4]
    (text,) = troubles(entries[:4], 0.02)
    assert text.startswith("the constraints look infeasible: 3 of them do not hold")


def test_at_the_bound_but_still_falling_is_no_trouble() -> None:
    psi = [0.5, 0.4, 0.3, 0.2, 0.1]
    assert warned(log(stuck_multipliers=[1] * 5, max_excess_gap=psi)) == []


def test_at_the_bound_but_satisfied_is_no_trouble() -> None:
    # Satisfied in the third and in the sixth epoch, so never three in a row.
    psi = [0.1, 0.1, 0.02, 0.1, 0.1, 0.01]
    assert warned(log(stuck_multipliers=[1] * 6, max_excess_gap=psi)) == []


def test_violated_but_not_at_the_bound_is_no_trouble() -> None:
    assert warned(log(stuck_multipliers=[0] * 5, max_excess_gap=[0.3] * 5)) == []


def test_a_warning_is_given_once() -> None:
    stuck = [1, 1, 1, 0, 1, 1, 1, 1]
    assert warned(log(stuck_multipliers=stuck, max_excess_gap=[0.3] * 8)) == [3]


def test_multipliers_that_rise_beyond_one_diverge() -> None:
    entries = log(sum_multipliers=[0.5, 1.5, 2.5, 17.0, 18.0])
    assert warned(entries) == [4]
    (text,) = troubles(entries[:4], 0.02)
    assert text.startswith("the multipliers diverge: they sum to 17.0")


def test_multipliers_that_fall_again_do_not() -> None:
    assert warned(log(sum_multipliers=[0.5, 1.5, 2.5, 2.0, 2.2, 2.1])) == []


def test_a_log_without_multipliers_gives_no_warning() -> None:
    assert warned([{"loss": 1.0}] * 5) == []
