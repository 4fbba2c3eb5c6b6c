"""Constrained excess accuracy gap: the fine-tuning objective this package exists for.

    minimise  L(sparse)   subject to   psi_g <= eps   for every group g

    psi_g  = [Acc(dense | g) - Acc(sparse | g)] - [Acc(dense) - Acc(sparse)]
    proxy_g = [L(sparse | g) - L(dense | g)] - [L(sparse) - L(dense)]

psi_g is not differentiable, so it only drives the multipliers (dual step); its loss proxy drives
the weights (primal step). The Lagrangian

    L(sparse) + sum_g lambda_g (proxy_g - eps)

is linear in the losses of the samples, and what concerns the dense model or eps has no gradient.
A primal step therefore needs nothing but *one weight per sample*: multiply the per-sample losses
by the weights, sum, differentiate. One forward and one backward pass per step suffice, and any
training loop can use this class with two added lines.

Source: Hashemizadeh, Ramirez et al., *Balancing Act: Constraining Disparate Impact in Sparse
Models* (ICLR 2024), algorithm 1. docs/method.md maps its symbols to the names used here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ceag_cli.gaps import weighted_mean
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.multipliers import Multipliers
from ceag_cli.replay import GroupReplay


class ConstrainedExcessAccuracyGap:
    """Turns the outcome of one batch into the sample weights of the primal step.

    Args:
        grouping: The sensitive features and their groups.
        dense: Statistics of the dense model on the training split, measured once.
        eps: Largest psi_g allowed, as a fraction (0.02 is two points of accuracy).
        replay: Recent correctness of every group.
        multipliers: One non-negative multiplier per group.
        macro_overall: Take the sparse model's overall accuracy as the plain mean over buffers,
            as the paper's released code does, so that a group of ten images weighs as much as one
            of ten thousand. By default both overall accuracies are weighted by prevalence over
            the same groups, which is what the definition of psi says.
    """

    def __init__(
        self,
        grouping: Grouping,
        dense: GroupStats,
        eps: float,
        replay: GroupReplay,
        multipliers: Multipliers,
        *,
        macro_overall: bool = False,
    ) -> None:
        self.features = len(grouping.features)
        self.feature_of = grouping.feature_of.to(dense.count.device)
        self.dense = dense
        self.eps = eps
        self.replay = replay
        self.multipliers = multipliers
        self.macro_overall = macro_overall

    def weights(self, batch: BatchOutcome) -> Tensor:
        """One step of the algorithm: dual first, then the weights for the primal step.

        Returns:
            Float64 weights of shape ``(B,)``, to be multiplied with the per-sample losses and
            summed. They add up to one whatever the multipliers are.
        """
        self.replay.push(batch.correct, batch.groups)
        self.multipliers.ascend_(self.recent_excess_gap() - self.eps)
        return lagrangian_weights(batch.groups, self.multipliers.values)

    def recent_excess_gap(self) -> Tensor:
        """psi_g measured on the replay buffers, shape ``(G,)``; NaN where not yet known."""
        recent = self.replay.accuracy()
        if self.macro_overall:
            sparse = self._mean(recent, torch.ones_like(recent))
            overall_gap = self.dense.overall_accuracy - sparse
        else:
            overall_gap = self._mean(self.dense.accuracy - recent, self.dense.prevalence)
        return self.dense.accuracy - recent - overall_gap[self.feature_of]

    def _mean(self, values: Tensor, weights: Tensor) -> Tensor:
        return weighted_mean(values, weights, self.feature_of, self.features)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Everything that outlives a step: buffers and multipliers."""
        return {"replay": self.replay.state_dict(), "multipliers": self.multipliers.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.replay.load_state_dict(state["replay"])
        self.multipliers.load_state_dict(state["multipliers"])


def lagrangian_weights(groups: Tensor, multipliers: Tensor) -> Tensor:
    """Sample weights whose weighted loss has the gradient of the Lagrangian.

    With B samples in the batch, n_g of them in group g, and sums over the groups in the batch,

        L + sum_g lambda_g (L_g - L)  =  sum_i w_i loss_i,
        w_i = (1 - sum_g lambda_g) / B  +  sum_{g of i} lambda_g / n_g.

    The weights add up to one. They are all positive while the multipliers sum to less than one;
    beyond that, samples of groups with small multipliers get negative weights and the loss is
    increased on them (see ``Multipliers.max_sum``). A group that is absent from the batch has no
    part in the step.

    Args:
        groups: Group ids, int64, shape ``(B, F)``.
        multipliers: lambda, shape ``(G,)``.

    Returns:
        Shape ``(B,)``, dtype of the multipliers.
    """
    ones = torch.ones(groups.numel(), dtype=multipliers.dtype, device=groups.device)
    in_batch = torch.zeros_like(multipliers).index_add_(0, groups.reshape(-1), ones)
    present = torch.where(in_batch > 0, multipliers, 0.0)
    by_group = present / in_batch.clamp(min=1.0)
    return (1.0 - present.sum()) / len(groups) + by_group[groups].sum(dim=1)
