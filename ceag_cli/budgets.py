"""Budgets: how many weights each tensor has to give up.

A ``Budget`` takes the shapes of the tensors by name, the sparsity, and the scores of a tensor by
its name; all but :func:`pooled` go by the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from functools import partial

from torch import Tensor

from ceag_cli.errors import PruningError
from ceag_cli.selection import kth_smallest

Shapes = Mapping[str, Sequence[int]]
Scores = Callable[[str], Tensor]


class Counts(dict[str, int]):
    """The number of weights that each tensor gives up, by its name."""

    def __init__(self, counts: Mapping[str, int], threshold: float | None = None) -> None:
        super().__init__(counts)
        self.threshold = threshold
        """The score at which they end, where that is one for all tensors."""


Budget = Callable[[Shapes, float, Scores], Counts]


def _of(fraction: float, size: int) -> Decimal:
    """A fraction of a size, taken in decimal: 0.7 of 10 is 7 and not 7.000000000000001."""
    return Decimal(repr(fraction)) * size


def _zeros(sparsity: float, size: int) -> int:
    """The smallest number of zeros that reaches a sparsity."""
    return math.ceil(_of(sparsity, size))


def _bounds(
    shapes: Shapes, sparsity: float, cap: float
) -> tuple[dict[str, int], int, dict[str, int]]:
    """Size of each tensor, zeros of all together, and the most zeros that each may have.

    Raises:
        PruningError: The cap is below the sparsity.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    target = _zeros(sparsity, sum(sizes.values()))
    most = {
        name: int(_of(cap, size).to_integral_value(ROUND_FLOOR)) for name, size in sizes.items()
    }
    if sum(most.values()) < target:
        raise PruningError(
            f"no tensor may lose more than {cap:g} of its weights, so all together cannot lose "
            f"{sparsity:g}; ask for less sparsity or a larger --max-layer-sparsity"
        )
    return sizes, target, most


def uniform(shapes: Shapes, sparsity: float, scores: Scores | None = None) -> Counts:
    """The same sparsity in every tensor: ``ceil(sparsity * size)`` zeros each.

    Args:
        shapes: Shape of each tensor by name.
        sparsity: Fraction removed, in [0, 1].
        scores: Not used.

    Returns:
        Number of weights to prune by tensor name.
    """
    return Counts({name: _zeros(sparsity, math.prod(shape)) for name, shape in shapes.items()})


def erk(
    shapes: Shapes, sparsity: float, scores: Scores | None = None, *, cap: float = 1.0
) -> Counts:
    """Erdős–Rényi kernel: tensors are denser the smaller their dimensions are.

        density_l  ∝  (sum of the dimensions of l) / (product of the dimensions of l)

    A tensor that would be more than dense stays dense, and the others share what is left. The
    zeros of all tensors together are exactly ``ceil(sparsity * all weights)``: fractions of a
    weight go to the tensors with the largest, among equals to the first.

    Source: Evci et al. 2020, *Rigging the lottery*, section 3, after Mocanu et al. 2018.

    Args:
        shapes: Shape of each tensor by name.
        sparsity: Fraction removed over all tensors together, in [0, 1].
        scores: Not used.
        cap: Largest fraction removed of any tensor, in (0, 1].

    Raises:
        PruningError: The cap is below the sparsity.
    """
    sizes, target, most = _bounds(shapes, sparsity, cap)
    wish = {name: float(sum(shape)) for name, shape in shapes.items()}  # density times size

    def kept(scale: float) -> dict[str, float]:
        return {
            name: min(max(scale * wish[name], size - most[name]), size)
            for name, size in sizes.items()
        }

    # What is kept grows with the scale, from the least that the caps allow to everything.
    low, high = 0.0, max((sizes[name] / wish[name] for name in sizes if wish[name]), default=0.0)
    keep = sum(sizes.values()) - target
    for _ in range(128):  # more halvings than a float has bits
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle).values()) < keep else (low, middle)
    exact = {name: sizes[name] - value for name, value in kept(high).items()}
    return Counts(_rounded(exact, target, most))


def _rounded(exact: Mapping[str, float], target: int, most: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers near those given that add up to a target (largest remainders)."""
    counts = {name: min(math.floor(value), most[name]) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    missing = target - sum(counts.values())
    while missing:
        step = 1 if missing > 0 else -1
        for name in by_remainder[::step]:
            if missing and 0 <= counts[name] + step <= most[name]:
                counts[name] += step
                missing -= step
    return counts


def pooled(shapes: Shapes, sparsity: float, scores: Scores, *, cap: float = 1.0) -> Counts:
    """One ranking over all tensors: those whose weights matter least give up most.

    The zeros of all tensors together are exactly ``ceil(sparsity * all weights)``. Among equal
    scores the first are kept, in the order of the tensors and in memory order within each.

    Args:
        shapes: Shape of each tensor by name.
        sparsity: Fraction removed over all tensors together, in [0, 1].
        scores: The scores of a tensor by its name.
        cap: Largest fraction removed of any tensor, in (0, 1]. A tensor that would lose more is
            held there, and the others are ranked anew for what is left.

    Raises:
        PruningError: The cap is below the sparsity.
    """
    sizes, target, most = _bounds(shapes, sparsity, cap)
    held: dict[str, int] = {}
    while True:
        free = {name: size for name, size in sizes.items() if name not in held}
        found = _ranked(free, target - sum(held.values()), scores)
        beyond = {name: most[name] for name in free if found[name] > most[name]}
        if not beyond:
            counts = held | found
            return Counts({name: counts[name] for name in shapes}, found.threshold)
        held |= beyond


def _ranked(sizes: dict[str, int], target: int, scores: Scores) -> Counts:
    """How many of the ``target`` smallest scores each tensor has."""
    if target == 0:
        return Counts(dict.fromkeys(sizes, 0))
    parts = [partial(scores, name) for name in sizes]
    kth = kth_smallest(parts, target, sum(sizes.values()))
    counts = dict(zip(sizes, kth.below, strict=True))
    missing = target - sum(counts.values())
    for name, equal in zip(reversed(sizes), reversed(kth.equal), strict=True):
        more = min(missing, equal)  # of those at the threshold the last go
        counts[name] += more
        missing -= more
    return Counts(counts, kth.score)


def by_scope(scope: str, cap: float | None = None) -> Budget:
    """The budget of a scope by name: ``layer``, ``global`` or ``erk``.

    Args:
        scope: Its name.
        cap: Largest fraction removed of any tensor; of no effect with ``layer``.
    """
    if scope == "layer":
        return uniform
    return partial({"global": pooled, "erk": erk}[scope], cap=cap or 1.0)
