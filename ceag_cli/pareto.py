"""Which of several choices no other one is better than in every respect."""

from __future__ import annotations

import numpy as np

from ceag_cli.arrays import Flags, Numbers


def pareto_front(values: Numbers) -> Flags:
    """Mark the points that no other point dominates.

    A point dominates another if it is at least as good in every column and better in one; so equal
    points do not dominate each other. Paganini 2020 (*Prune Responsibly*) compares prunings so.

    Args:
        values: Shape ``(K, D)``; in every column more is better.

    Returns:
        Bool, shape ``(K,)``. False for a point with NaN, which dominates none either.
    """
    known = ~np.isnan(values).any(1)
    dominated = np.zeros(len(values), bool)
    for k in np.flatnonzero(known).tolist():
        better = (values[known] >= values[k]).all(1) & (values[known] > values[k]).any(1)
        dominated[k] = better.any()
    return known & ~dominated
