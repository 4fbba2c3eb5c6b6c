"""Accuracy gaps between a dense and a sparse model, by group and overall.

All quantities are fractions. Positive means that the sparse model is worse.
Source: Hashemizadeh, Ramirez et al., *Balancing Act* (ICLR 2024), section 3.
"""

import torch
from torch import Tensor

from ceag_cli.groups import GroupStats


def accuracy_gap(dense: GroupStats, sparse: GroupStats) -> Tensor:
    """Accuracy lost by pruning, by group: ``Acc(dense | g) - Acc(sparse | g)``.

    Returns:
        Shape ``(G,)``, in [-1, 1]; NaN for a group without samples.
    """
    return dense.accuracy - sparse.accuracy


def overall_gap(dense: GroupStats, sparse: GroupStats) -> Tensor:
    """Accuracy lost by pruning over all samples: ``Acc(dense) - Acc(sparse)``, a scalar."""
    return dense.overall_accuracy - sparse.overall_accuracy


def excess_gap(dense: GroupStats, sparse: GroupStats) -> Tensor:
    """Excess accuracy gap ``psi_g``: what a group loses beyond what everybody loses.

        psi_g = [Acc(dense | g) - Acc(sparse | g)] - [Acc(dense) - Acc(sparse)]

    Weighted by group size, the psi of the groups of one feature sum to zero.

    Returns:
        Shape ``(G,)``, in [-2, 2]; NaN for a group without samples.
    """
    return accuracy_gap(dense, sparse) - overall_gap(dense, sparse)


def max_excess_gap(psi: Tensor) -> Tensor:
    """``max_g psi_g`` over the groups that are known (not NaN); NaN when none is."""
    known = psi[~psi.isnan()]
    return known.max() if len(known) else psi.new_tensor(float("nan"))


def pairwise_disparity(psi: Tensor) -> Tensor:
    """``max_{g,h} (psi_g - psi_h)``: the widest difference between two groups of one feature.

    The overall gap cancels, so this is also the widest difference of the accuracy gaps. NaN
    groups are left out; NaN when none is left.
    """
    known = psi[~psi.isnan()]
    return known.max() - known.min() if len(known) else psi.new_tensor(float("nan"))


def weighted_mean(values: Tensor, weights: Tensor, feature_of: Tensor, features: int) -> Tensor:
    """Mean of by-group values within each feature, over the groups that are known.

    Args:
        values: By-group values, shape ``(G,)``; NaN marks a group that is not known yet.
        weights: Non-negative weight of each group, shape ``(G,)``.
        feature_of: Feature number of each group, shape ``(G,)``.
        features: Number of features F.

    Returns:
        Shape ``(F,)``; NaN for a feature of which no group is known.
    """
    known = ~values.isnan()
    weights = torch.where(known, weights, 0.0)
    filled = torch.where(known, values, 0.0)
    zeros = torch.zeros(features, dtype=values.dtype, device=values.device)
    total = zeros.index_add(0, feature_of, weights * filled)
    return total / zeros.index_add(0, feature_of, weights)
