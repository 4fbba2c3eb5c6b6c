"""Pruning criteria: how important each weight is. Adding a criterion is one function."""

from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``, the weight's size (Han et al. 2015). Same shape; the smallest are pruned first."""
    return weight.detach().abs()
