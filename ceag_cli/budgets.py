"""Budgets: how many weights each tensor has to give up."""

import math
from collections.abc import Mapping
from decimal import Decimal


def uniform(sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """The same sparsity in every tensor: ``ceil(sparsity * size)`` zeros each.

    The product is taken in decimal, so that 0.7 of 10 is 7 and not ``ceil(7.000000000000001)``.

    Args:
        sizes: Number of weights by tensor name.
        sparsity: Fraction removed, in [0, 1].

    Returns:
        Number of weights to prune by tensor name.
    """
    fraction = Decimal(repr(sparsity))
    return {name: math.ceil(fraction * size) for name, size in sizes.items()}
