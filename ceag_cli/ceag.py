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
Models* (ICLR 2024), algorithm 1. docs/method.md maps its symbols to the names used here, and
docs/choices.md says where the defaults differ from the paper and why.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ceag_cli.gaps import excess_gap, max_excess_gap, weighted_mean
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.multipliers import (
    MAX_SUM,
    MAX_UPWEIGHT,
    SPEED,
    Multipliers,
    bound_by_size,
    step_by_size,
)
from ceag_cli.replay import GroupReplay


def lagrangian_weights(
    groups: Tensor,
    multipliers: Tensor,
    prevalence: Tensor | None = None,
    *,
    detach_overall: bool = False,
) -> Tensor:
    """Sample weights whose weighted loss has the gradient of the Lagrangian.

    With B samples in the batch, n_g of them in group g,

        L + sum_g lambda_g (L_g - L)  =  sum_i w_i loss_i
        w_i = (1 - sum_g lambda_g) / B  +  sum_{g of i} lambda_g / m_g

    where m_g is either of

    - ``n_g``, when no prevalence is given: L_g is the mean over the group's samples in the batch,
      both sums run over the groups in the batch, and the weights add up to one. This is the
      paper's step. A group that most batches lack is left out of most steps, so its multiplier
      counts for less than it says.
    - ``B p_g`` with p_g the group's prevalence in training: the sums run over all groups, and the
      weights add up to one *on average*. Over the batches of an epoch this is an unbiased
      estimate of the Lagrangian's gradient, for rare groups too.

    All weights are positive while the multipliers sum to less than one; beyond that, samples of
    groups with small multipliers get negative weights and their loss is increased (see
    ``Multipliers.max_sum``).

    Args:
        groups: Group ids, int64, shape ``(B, F)``.
        multipliers: lambda, shape ``(G,)``; of either sign.
        prevalence: Share of the training images that belong to each group, shape ``(G,)``.
        detach_overall: Leave out what L in ``L_g - L`` contributes: ``(1 - sum_g lambda_g) / B``
            becomes ``1 / B``.

    Returns:
        Shape ``(B,)``, dtype of the multipliers.
    """
    batch = len(groups)
    if prevalence is None:
        ones = torch.ones(groups.numel(), dtype=multipliers.dtype, device=groups.device)
        members = torch.zeros_like(multipliers).index_add_(0, groups.reshape(-1), ones)
        multipliers = torch.where(members > 0, multipliers, 0.0)
    else:
        members = batch * prevalence
    rest = 1.0 if detach_overall else 1.0 - multipliers.sum()
    # A group that training lacks has no multiplier; the clamp keeps 0 / 0 out of its weights.
    tiny = torch.finfo(members.dtype).tiny
    return rest / batch + (multipliers[groups] / members[groups].clamp(min=tiny)).sum(dim=1)


class ConstrainedExcessAccuracyGap:
    """Turns the outcome of one batch into the sample weights of the primal step.

    Args:
        grouping: The sensitive features and their groups.
        dense: Statistics of the dense model on the training split, measured once.
        eps: Largest psi_g allowed, as a fraction (0.02 is two points of accuracy).
        replay: Recent correctness of every group; ``None`` measures psi on each batch alone.
        multipliers: One non-negative multiplier per group.
        macro_overall: Take the sparse model's overall accuracy as the plain mean over buffers,
            as the paper's released code does, so that a group of ten images weighs as much as one
            of ten thousand. By default both overall accuracies are weighted by prevalence over
            the same groups, which is what the definition of psi says.
        batch_means: Take L_g as the mean over the group's samples *in the batch*, as the paper
            does. By default a sample counts by the group's share of the training images, which
            estimates the same L_g without bias; see :func:`lagrangian_weights`.
        detach_overall: Leave the overall loss out of the proxy's gradient (an option of the
            paper's code): a violated group then pulls the weights towards itself without pushing
            them away from everybody else.
        paired: Batches say whether the dense model is right on the very same inputs
            (``BatchOutcome.dense_correct``), and the buffers hold the difference between the two
            models. So psi can be measured on inputs that are made anew in every step, like the
            mixed images of :mod:`ceag_cli.mixing`; of the dense statistics only the sizes of the
            groups are used.
    """

    def __init__(
        self,
        grouping: Grouping,
        dense: GroupStats,
        eps: float,
        replay: GroupReplay | None,
        multipliers: Multipliers,
        *,
        macro_overall: bool = False,
        batch_means: bool = False,
        detach_overall: bool = False,
        paired: bool = False,
    ) -> None:
        self.features = len(grouping.features)
        self.feature_of = grouping.feature_of.to(dense.count.device)
        self.paired = paired
        self.dense = dense
        self.eps = eps
        self.replay = replay
        self.multipliers = multipliers
        self.macro_overall = macro_overall
        self.prevalence = None if batch_means else dense.prevalence
        self.detach_overall = detach_overall
        self.violation = torch.full_like(dense.accuracy, float("nan"))
        """``psi_g - eps`` as the last dual step saw it; NaN where not known."""

    def weights(self, batch: BatchOutcome) -> Tensor:
        """One step of the algorithm, between the forward and the backward pass of a batch.

        Returns:
            Shape ``(B,)``, dtype of the losses, to be multiplied with the per-sample losses and
            summed; see :func:`lagrangian_weights`.
        """
        # Replay: psi_g on what was last measured of each group.
        if self.replay is None:
            psi = self.excess_gap_of(batch)
        else:
            self.replay.push(self._remembered(batch), batch.groups)
            psi = self.recent_excess_gap()
        # Dual step: lambda_g <- [lambda_g + lr_g (psi_g - eps)]_+
        self.violation = psi - self.eps
        self.multipliers.ascend_(self.violation)
        # Primal step, with the new multipliers: the loop differentiates the weighted losses.
        weights = lagrangian_weights(
            batch.groups,
            self.multipliers.values,
            self.prevalence,
            detach_overall=self.detach_overall,
        )
        return weights.to(batch.loss.dtype)

    def _remembered(self, batch: BatchOutcome) -> Tensor:
        """What the buffers hold of each sample, shape ``(B,)``."""
        if not self.paired:
            return batch.correct
        return _dense_correct(batch).long() - batch.correct.long()

    def recent_excess_gap(self) -> Tensor:
        """psi_g measured on the replay buffers, shape ``(G,)``; NaN where not yet known."""
        assert self.replay is not None
        recent = self.replay.mean()
        gap = recent if self.paired else self.dense.accuracy - recent
        if not self.macro_overall:
            overall_gap = self._mean(gap, self.dense.prevalence)
        elif self.paired:
            overall_gap = self._mean(gap, torch.ones_like(gap))
        else:
            sparse = self._mean(recent, torch.ones_like(recent))
            overall_gap = self.dense.overall_accuracy - sparse
        return gap - overall_gap[self.feature_of]

    def _mean(self, values: Tensor, weights: Tensor) -> Tensor:
        return weighted_mean(values, weights, self.feature_of, self.features)

    def excess_gap_of(self, batch: BatchOutcome) -> Tensor:
        """psi_g measured on one batch, shape ``(G,)``; NaN for groups that it lacks."""
        number, dense = len(self.feature_of), self.dense
        if self.paired:
            dense = GroupStats.of(replace(batch, correct=_dense_correct(batch)), number)
        return excess_gap(dense, GroupStats.of(batch, number))

    def status(self) -> dict[str, float]:
        """The largest psi as the last dual step saw it, and what the multipliers are."""
        stuck = (self.violation > 0) & self.multipliers.at_bound
        found = self.multipliers.status() | {"stuck_multipliers": int(stuck.sum())}
        largest = float(max_excess_gap(self.violation)) + self.eps
        # Not known before the buffers hold enough.
        return found if math.isnan(largest) else found | {"recent_max_excess_gap": largest}

    def state_dict(self) -> DualState:
        """Everything that outlives a step: buffers and multipliers."""
        return dual_state(self.replay, self.multipliers)

    def load_state_dict(self, state: DualState) -> None:
        """Restore what :meth:`state_dict` returned."""
        load_dual_state(self.replay, self.multipliers, state)

    @classmethod
    def against(
        cls,
        dense_correct: Tensor,
        groups: Tensor,
        *,
        eps: float,
        steps_per_epoch: int,
        speed: float = SPEED,
        max_sum: float | None = MAX_SUM,
        max_upweight: float = MAX_UPWEIGHT,
        paired: bool = False,
    ) -> ConstrainedExcessAccuracyGap:
        """The method with the defaults of ``ceag mitigate``, for a training loop of your own.

        That command measures psi on mixed images, as ``paired`` does; without it psi is measured
        on the training images as they are, as in the paper.

        Args:
            dense_correct: Whether the dense model is right on each training image, bool, shape
                ``(N,)``.
            groups: Group ids of the training images, int64, shape ``(N,)``, or ``(N, F)`` for
                several features side by side, whose groups are then numbered together (gender 0
                and 1, race 2 to 8).
            eps: Largest psi_g allowed, as a fraction.
            steps_per_epoch: Batches per epoch.
            speed: See ``multipliers.step_by_size``.
            max_sum: Bound on the sum of the multipliers.
            max_upweight: See ``multipliers.bound_by_size``.
            paired: Every call says where the dense model is right, on the same inputs as the
                sparse one; ``dense_correct`` is then about the images as they are, and gives the
                number of images alone.

        Raises:
            ValueError: Lengths differ, an id is negative or occurs in two features, or a number is
                out of its range.
        """
        ids = _columns(groups)
        grouping = Grouping.numbered(ids)
        if steps_per_epoch < 1 or not 0 <= eps <= 1:
            raise ValueError(
                f"need steps_per_epoch >= 1 and eps in [0, 1], got {steps_per_epoch}, {eps}"
            )
        if len(dense_correct) != len(ids):
            raise ValueError(f"{len(dense_correct)} outcomes of the dense model, {len(ids)} groups")
        unknown = torch.zeros(len(ids), device=ids.device)
        dense = GroupStats.of(BatchOutcome(unknown, dense_correct, ids), grouping.num_groups)
        multipliers = Multipliers(
            grouping.num_groups,
            step_by_size(dense.prevalence, steps_per_epoch, speed),
            max_sum=max_sum,
            max_each=bound_by_size(
                dense.prevalence, grouping.feature_of.to(ids.device), max_upweight
            ),
            device=ids.device,
        )
        replay = GroupReplay.by_size(dense.count)
        return cls(grouping, dense, eps, replay, multipliers, paired=paired)

    def __call__(
        self, correct: Tensor, groups: Tensor, dense_correct: Tensor | None = None
    ) -> Tensor:
        """Weights of a batch from what is at hand in any training loop.

        Args:
            correct: Whether the sparse model is right on each sample, bool, shape ``(B,)``.
            groups: Group ids, as given to :meth:`against`.
            dense_correct: Whether the dense model is right on the same inputs, bool, shape
                ``(B,)``; with ``paired`` only.

        Returns:
            Shape ``(B,)``, torch's default dtype; multiply with the losses and sum.

        Raises:
            ValueError: There are more or fewer outcomes than groups, or the dense model's are
                given or missing against ``paired``.
        """
        if (dense_correct is not None) != self.paired:
            raise ValueError("dense_correct goes with paired=True, and the other way round")
        if len(correct) != len(groups):
            raise ValueError(f"{len(correct)} outcomes, but the groups of {len(groups)} samples")
        no_losses = torch.empty(len(correct), device=correct.device)
        return self.weights(BatchOutcome(no_losses, correct, _columns(groups), dense_correct))


DualState = dict[str, dict[str, Tensor]]
"""What a method with multipliers remembers between steps."""


def dual_state(replay: GroupReplay | None, multipliers: Multipliers) -> DualState:
    """A copy of buffers and multipliers."""
    buffers = {} if replay is None else {"replay": replay.state_dict()}
    return buffers | {"multipliers": multipliers.state_dict()}


def load_dual_state(replay: GroupReplay | None, multipliers: Multipliers, state: DualState) -> None:
    """Restore what :func:`dual_state` returned."""
    if replay is not None:
        replay.load_state_dict(state["replay"])
    multipliers.load_state_dict(state["multipliers"])


def _dense_correct(batch: BatchOutcome) -> Tensor:
    if batch.dense_correct is None:
        raise ValueError("paired: say with every batch where the dense model is right")
    return batch.dense_correct


def _columns(groups: Tensor) -> Tensor:
    """Group ids of one feature, ``(N,)``, or of several, ``(N, F)``, as the latter."""
    return groups[:, None] if groups.ndim == 1 else groups
