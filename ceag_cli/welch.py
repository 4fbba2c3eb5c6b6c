"""Whether a group's excess gap is more than the chance of training, from several models.

psi of one pair of models says what that pair does. Other seeds make another pair. With M dense and
L sparse models evaluated on the same images, let x be by how much a model's accuracy in a group is
above its accuracy overall. The mean of x over the dense models less that over the sparse ones is
the mean psi of the group, and Welch's test (1947) asks whether it is 0, the variances of both
populations being what they are:

    t = (mean x_dense - mean x_sparse) / sqrt(s_dense^2 / M + s_sparse^2 / L)

with Satterthwaite's degrees of freedom. It is the test of Hooker et al. 2019 for classes. Their
code subtracts the mean accuracy of a population from the recalls of its models, which gives the
same difference; here every model's own accuracy is subtracted, so that models which are better
everywhere add no variance.

The test takes the models to be independent. A sparse model that was made of one of the dense ones
resembles it; then the difference varies less than is taken here, and p is rather too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.intervals import crossing
from ceag_cli.means import divided, satterthwaite, summed

FEWEST = 2
"""Models of a population that a variance takes."""

MOST_MODELS = 1000
"""More models than so many in each population are not waited for."""


def accuracies(correct: Flags, ids: Integers, number: int) -> Numbers:
    """Accuracy of each model in each group, shape ``(M, G)``; NaN for a group without images.

    Args:
        correct: Whether each model is right, shape ``(M, N)``.
        ids: Groups of each image, shape ``(N, F)``.
        number: G, over all features.
    """
    n = summed(ids, None, number)
    return np.array([divided(summed(ids, row, number), n) for row in correct])


@dataclass(frozen=True)
class Difference:
    """Of each group, shape ``(G,)``. NaN: nothing can be said."""

    value: Numbers
    """Mean over the first population less that over the second."""
    lower: Numbers
    """One-sided bounds at alpha; NaN, as all that follows, where neither population varies."""
    upper: Numbers
    t: Numbers
    freedom: Numbers
    """Degrees of freedom."""
    p: Numbers
    """Two-sided."""


def welch(one: Numbers, other: Numbers, alpha: float) -> Difference:
    """Welch's test for each group.

    Args:
        one: A number per model and group, shape ``(M, G)``.
        other: Likewise, shape ``(L, G)``.
        alpha: Error of each bound.

    Returns:
        Tests are NaN for populations of fewer than two models, and where all models of each
        population agree exactly, in which case there is nothing to tell chance from.
    """
    value = one.mean(0) - other.mean(0)
    nothing = np.full(value.shape, np.nan)
    if min(len(one), len(other)) < FEWEST:
        return Difference(value, nothing, nothing, nothing, nothing, nothing)
    a, b = _squared_error(one), _squared_error(other)
    error = np.sqrt(a + b)
    freedom = satterthwaite(a, len(one) - 1, b, len(other) - 1)
    t = divided(value, error)
    p = 2 * special.stdtr(freedom, -np.abs(t))
    half = special.stdtrit(freedom, 1 - alpha) * error
    return Difference(value, value - half, value + half, t, freedom, p)


def _squared_error(values: Numbers) -> Numbers:
    """Of the mean over models. What rounding makes of equal numbers counts as no variance."""
    found: Numbers = values.var(0, ddof=1) / len(values)
    found[found < 1e-30] = 0.0
    return found


def models_needed(one: Numbers, other: Numbers, level: Numbers) -> Numbers:
    """With how many models in each population p would be at most a level.

    If all further models were like these: the same means and variances.

    Args:
        one: As for :func:`welch`.
        other: Likewise.
        level: What p has to be, by group.

    Returns:
        At least 2, shape ``(G,)``; NaN where there is no difference or no variance, and where more
        than ``MOST_MODELS`` would be needed.
    """
    value = np.abs(one.mean(0) - other.mean(0))
    found = np.full(value.shape, np.nan)
    if min(len(one), len(other)) < FEWEST:
        return found
    a, b = _squared_error(one) * len(one), _squared_error(other) * len(other)

    def beyond(models: Numbers, group: Integers) -> Numbers:
        """Log of p over that of the level, as p is tiny for many models."""
        freedom = satterthwaite(a[group], models - 1, b[group], models - 1)
        t = value[group] * np.sqrt(models / (a[group] + b[group]))
        p = 2 * special.stdtr(freedom, -t)
        found: Numbers = np.log(np.maximum(p, 1e-300)) - np.log(level[group])
        return found

    asked = np.flatnonzero((value > 0) & (a + b > 0))
    at_low = beyond(np.full(len(asked), float(FEWEST)), asked)
    at_high = beyond(np.full(len(asked), float(MOST_MODELS)), asked)
    found[asked[at_low <= 0]] = FEWEST
    open_ = (at_low > 0) & (at_high <= 0)
    some = asked[open_]
    if len(some):
        low, high = np.full(len(some), float(FEWEST)), np.full(len(some), float(MOST_MODELS))
        where = crossing(
            lambda x, i: beyond(x, some[i]),
            low,
            high,
            at_low[open_],
            np.minimum(at_high[open_], -1e-300),
            tolerance=1e-9,
        )
        found[some] = np.ceil(where - 1e-6)
    return found
