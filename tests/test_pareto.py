from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ceag_cli.pareto import pareto_front


def front(*points: tuple[float, ...]) -> list[bool]:
    return [bool(found) for found in pareto_front(np.array(points, float))]


def test_what_is_worse_in_every_respect_is_left_out() -> None:
    assert front((1, 3), (3, 1), (2, 2), (1, 1), (2, 1)) == [True, True, True, False, False]


def test_equal_points_are_both_on_the_front_and_what_is_unknown_is_not() -> None:
    assert front((1, 1), (1, 1)) == [True, True]
    assert front((1, 1), (9, float("nan"))) == [True, False]
    assert pareto_front(np.zeros((0, 3))).tolist() == []


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12))
def test_it_is_what_slow_loops_find(points: list[tuple[int, int, int]]) -> None:
    expected = []
    for own in points:
        dominated = False
        for other in points:
            no_worse = all(b >= a for a, b in zip(own, other, strict=True))
            dominated = dominated or (no_worse and other != own)
        expected.append(not dominated)
    assert front(*points) == expected
    assert any(expected)
