"""ERK and the global ranking; ``uniform`` is in test_pruning."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ceag_cli.budgets import erk, pooled
from ceag_cli.errors import PruningError


def of(**scores: list[float]) -> tuple[dict[str, tuple[int]], Callable[[str], Tensor]]:
    """Shapes and scores of some tensors."""
    return {name: (len(values),) for name, values in scores.items()}, lambda name: torch.tensor(
        scores[name]
    )


# The global ranking


def test_the_smallest_of_all_tensors_go() -> None:
    shapes, scores = of(a=[1.0, 5.0, 6.0], b=[2.0, 3.0, 4.0])
    # Half of six: 1, 2 and 3.
    assert pooled(shapes, 0.5, scores) == {"a": 1, "b": 2}
    assert pooled(shapes, 0.0, scores) == {"a": 0, "b": 0}
    assert pooled(shapes, 1.0, scores) == {"a": 3, "b": 3}


def test_all_together_are_rounded_up_once() -> None:
    shapes, scores = of(a=[1.0, 2.0], b=[3.0], c=[4.0, 5.0, 6.0, 7.0])
    # ceil(0.3 * 7) = 3, where tensor by tensor it would be 1 + 1 + 2.
    assert pooled(shapes, 0.3, scores) == {"a": 2, "b": 1, "c": 0}


def test_among_equal_scores_the_first_tensors_keep_theirs() -> None:
    shapes, scores = of(a=[1.0, 1.0], b=[1.0, 0.0], c=[1.0, 2.0])
    # Three of six: the 0, then of four ones the last two.
    assert pooled(shapes, 0.5, scores) == {"a": 0, "b": 2, "c": 1}


def test_a_tensor_that_would_lose_too_much_is_held_and_the_others_lose_more() -> None:
    shapes, scores = of(a=[1.0, 2.0, 3.0, 4.0], b=[5.0, 6.0, 7.0, 8.0])
    assert pooled(shapes, 0.5, scores) == {"a": 4, "b": 0}
    assert pooled(shapes, 0.5, scores, cap=0.75) == {"a": 3, "b": 1}


def test_a_cap_below_the_sparsity_is_refused() -> None:
    shapes, scores = of(a=[1.0, 2.0], b=[3.0, 4.0])
    for budget in (pooled, erk):
        with pytest.raises(PruningError, match=r"more than 0\.4 of its weights"):
            budget(shapes, 0.5, scores, cap=0.4)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, -math.inf]), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 100),
)
def test_the_ranking_is_what_sorting_gives(parts: list[list[float]], percent: int) -> None:
    shapes, scores = of(**{f"t{i}": part for i, part in enumerate(parts)})
    size = sum(map(len, parts))
    target = math.ceil(Fraction(percent, 100) * size)
    # By score, among equals the last tensor first.
    ranked = sorted((value, -i) for i, part in enumerate(parts) for value in part)[:target]
    expected = {f"t{i}": sum(place == -i for _, place in ranked) for i in range(len(parts))}
    assert pooled(shapes, percent / 100, scores) == expected


# ERK


def test_erk_by_hand() -> None:
    # Wishes (sums of dimensions) 20 and 40 of sizes 100 and 400; to keep: 60 of 500.
    # 20 : 40 as 20 : 40, so a keeps 20 (20 %) and b keeps 40 (10 %).
    assert erk({"a": (10, 10), "b": (20, 20)}, 0.88) == {"a": 80, "b": 360}


def test_a_tensor_that_would_be_more_than_dense_stays_dense() -> None:
    # To keep: 300 of 420. Wishes 12 : 40 would give a 69 of its 20, so it keeps all, b the rest.
    assert erk({"a": (2, 10), "b": (20, 20)}, 120 / 420) == {"a": 0, "b": 120}


def test_kernels_count_with_all_their_dimensions() -> None:
    # Wishes 4 + 4 + 3 + 3 = 14 and 4 + 4 = 8 of sizes 144 and 16; to keep: 22 of 160.
    assert erk({"conv": (4, 4, 3, 3), "linear": (4, 4)}, 138 / 160) == {"conv": 130, "linear": 8}


def test_with_a_cap_no_tensor_loses_more() -> None:
    # Without it a keeps 6 of 100 and b 12 of 400.
    assert erk({"a": (10, 10), "b": (20, 20)}, 0.964) == {"a": 94, "b": 388}
    # At most 96.5 % of b: it keeps 14, and a the other 4 of 18.
    assert erk({"a": (10, 10), "b": (20, 20)}, 0.964, cap=0.965) == {"a": 96, "b": 386}


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, (0, 0)), (1.0, (6, 4))])
def test_erk_at_the_ends(sparsity: float, zeros: tuple[int, int]) -> None:
    assert tuple(erk({"a": (2, 3), "b": (2, 2)}, sparsity).values()) == zeros


def loops(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """Densities as the published description has them: fix what would be dense, scale again."""
    dense: set[str] = set()
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    while True:
        rest = [name for name in shapes if name not in dense]
        keep = (1 - sparsity) * sum(size.values()) - sum(size[name] for name in dense)
        epsilon = keep / sum(sum(shapes[name]) for name in rest)
        density = {name: epsilon * sum(shapes[name]) / size[name] for name in rest}
        over = [name for name in rest if density[name] > 1]
        if not over:
            return density | dict.fromkeys(dense, 1.0)
        dense.add(max(over, key=lambda name: density[name]))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6
    ),
    st.integers(1, 99),
)
def test_erk_is_the_published_loop_and_exact_in_sum(
    given_shapes: list[tuple[int, ...]], percent: int
) -> None:
    shapes = {f"t{i}": shape for i, shape in enumerate(given_shapes)}
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    counts = erk(shapes, percent / 100)
    assert sum(counts.values()) == math.ceil(Fraction(percent, 100) * sum(size.values()))
    density = loops(shapes, percent / 100)
    for name in shapes:
        assert 0 <= counts[name] <= size[name]
        # Rounding up all together moves what each keeps by less than one more.
        assert counts[name] == pytest.approx((1 - density[name]) * size[name], abs=2 + 1e-6)
