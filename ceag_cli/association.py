"""Rank correlation over groups, of which there are often few."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from scipy.stats import rankdata, spearmanr

from ceag_cli.arrays import Numbers

EXACT = 7
"""Groups up to which all orders are gone through (5040); beyond, p is Student's approximation."""

FEWEST = 3
"""Two groups always have the correlation 1 or -1."""


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of two quantities over some groups."""

    n: int
    """Groups for which both are known."""
    rho: float | None
    """Between -1 and 1; ``None`` for fewer than three groups, or where one is the same for all."""
    p: float | None
    """Two-sided, of "all orders are as likely". Exact up to seven groups."""


def rank_correlation(x: Numbers, y: Numbers) -> RankCorrelation:
    """Spearman's rank correlation (1904), ties having the mean of their ranks.

    Args:
        x: One number per group; NaN where it is not known.
        y: The same of another quantity.
    """
    both = np.isfinite(x) & np.isfinite(y)
    a, b = rankdata(x[both]), rankdata(y[both])
    n = len(a)
    if n < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(n, None, None)
    found = spearmanr(a, b)
    rho = float(found.statistic)
    if n > EXACT:
        return RankCorrelation(n, rho, float(found.pvalue))
    a, b = a - a.mean(), b - b.mean()
    by_chance = np.abs(b[_orders(n)] @ a)
    p = float(np.mean(by_chance >= abs(float(a @ b)) - 1e-9))
    return RankCorrelation(n, rho, p)


@lru_cache
def _orders(n: int) -> np.typing.NDArray[np.intp]:
    return np.array(list(permutations(range(n))))


def smallest_p(n: int) -> float:
    """The smallest p that Spearman's test can give for n groups without ties: 2 / n!."""
    return min(1.0, 2 / math.factorial(n))
