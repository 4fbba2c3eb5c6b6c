"""The methods that CEAG is compared with, in the same shape: outcome in, sample weights out.

FairGRAPE is not here: it chooses which weights to prune, not how samples count (``fairgrape``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ceag_cli.ceag import DualState, dual_state, lagrangian_weights, load_dual_state
from ceag_cli.gaps import weighted_mean
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.multipliers import Multipliers
from ceag_cli.replay import GroupReplay


class _Stateless:
    """A method that remembers nothing from step to step, and so has nothing to log."""

    def status(self) -> dict[str, float]:
        """Nothing to log."""
        return {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Nothing outlives a step."""
        return {}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Nothing to restore."""


class NaiveFineTuning(_Stateless):
    """Plain fine-tuning of the mean loss, blind to groups (empirical risk minimisation)."""

    def weights(self, batch: BatchOutcome) -> Tensor:
        """Equal weights that add up to one, shape ``(B,)``."""
        return torch.full_like(batch.loss, 1.0 / len(batch.loss))


class EqualizedLoss:
    """Every group's loss is to equal the overall loss; the dense model plays no part.

        minimise  L   subject to   L_g = L   for every group g
        Lagrangian: L + sum_g lambda_g |L_g - L|,   lambda_g <- lambda_g + lr |L_g - L|

    There is no tolerance and the multipliers only ever rise. A group whose loss in the batch lies
    *below* the overall loss gets a negative weight in the proxy: equality also means making the
    good ones worse. Source: Tran, Fioretto, Kim and Naidu, *Pruning has a disparate impact on
    model accuracy* (NeurIPS 2022), section 7.

    Args:
        grouping: The sensitive features and their groups.
        stats: Statistics of any model on the training split; only the group sizes are used.
        replay: Recent losses of every group for the dual step (Hashemizadeh, Ramirez et al.
            2024 add these); ``None`` takes the losses of the batch, for the groups in it.
        multipliers: One per group.
        macro_overall: Overall recent loss as the plain mean over buffers instead of weighted by
            prevalence.
        batch_means: As in CEAG.
        detach_overall: Leave the overall loss out of the gradient of ``|L_g - L|``.
    """

    def __init__(
        self,
        grouping: Grouping,
        stats: GroupStats,
        replay: GroupReplay | None,
        multipliers: Multipliers,
        *,
        macro_overall: bool = False,
        batch_means: bool = False,
        detach_overall: bool = False,
    ) -> None:
        self.features = len(grouping.features)
        self.feature_of = grouping.feature_of.to(stats.count.device)
        prevalence = stats.prevalence
        self.shares = torch.ones_like(prevalence) if macro_overall else prevalence
        self.prevalence = None if batch_means else prevalence
        self.replay = replay
        self.multipliers = multipliers
        self.detach_overall = detach_overall

    def weights(self, batch: BatchOutcome) -> Tensor:
        """Dual step on the recent losses, then the weights of the primal step on the batch's."""
        stats = GroupStats.of(batch, len(self.feature_of))
        in_batch = stats.mean_loss - stats.overall_loss  # (G,), NaN for absent groups
        if self.replay is None:
            gap = in_batch
        else:
            self.replay.push(batch.loss, batch.groups)
            recent = self.replay.mean()
            overall = weighted_mean(recent, self.shares, self.feature_of, self.features)
            gap = recent - overall[self.feature_of]
        self.multipliers.ascend_(gap.abs())
        signed = self.multipliers.values * in_batch.sign().nan_to_num(0.0)
        weights = lagrangian_weights(
            batch.groups, signed, self.prevalence, detach_overall=self.detach_overall
        )
        return weights.to(batch.loss.dtype)

    def status(self) -> dict[str, float]:
        """The largest multiplier and their sum."""
        return self.multipliers.status()

    def state_dict(self) -> DualState:
        """Everything that outlives a step: buffers and multipliers."""
        return dual_state(self.replay, self.multipliers)

    def load_state_dict(self, state: DualState) -> None:
        """Restore what :meth:`state_dict` returned."""
        load_dual_state(self.replay, self.multipliers, state)


class Reweighting(_Stateless):
    """Every group counts the same: samples are weighted by one over the size of their group.

        w_i = 1/B * mean over features f of  N / (G_f n_g),   g the group of sample i in f

    with N training images, of which n_g are in group g, and G_f groups in feature f that have
    any. Over the training split the weights are 1/B on average, so the learning rate keeps its
    meaning; in one batch they need not add up to one.

    Args:
        grouping: The sensitive features and their groups.
        stats: Statistics of any model on the training split; only the group sizes are used.
    """

    def __init__(self, grouping: Grouping, stats: GroupStats) -> None:
        count = stats.count.double()
        feature_of = grouping.feature_of.to(count.device)
        groups_of = torch.zeros(len(grouping.features), dtype=count.dtype, device=count.device)
        groups_of.index_add_(0, feature_of, (count > 0).double())
        even = stats.total_count.double() / (groups_of[feature_of] * count.clamp(min=1.0))
        self.by_group = torch.where(count > 0, even, 1.0)

    def weights(self, batch: BatchOutcome) -> Tensor:
        """Shape ``(B,)``."""
        weights = self.by_group[batch.groups].mean(dim=1) / len(batch.groups)
        return weights.to(batch.loss.dtype)


class GroupDRO:
    """Distributionally robust optimisation over groups: the loss of the worst mixture of them.

        minimise over the model, maximise over q in the simplex:   sum_g q_g L_g
        q_g <- q_g exp(step L_g) for the groups in the batch, then q <- q / sum q

    Source: Sagawa, Koh, Hashimoto and Liang, *Distributionally robust neural networks for group
    shifts* (ICLR 2020), algorithm 1, with all groups of a batch at once as in their released code.
    With several features there is one simplex over the groups of all of them.

    Args:
        num_groups: G.
        step: Step size of q in the exponent; their code's default is 0.01.
        device: Where q lives.
    """

    def __init__(
        self, num_groups: int, step: float = 0.01, device: torch.device | str = "cpu"
    ) -> None:
        self.step = step
        # Kept as logarithms, which neither overflow nor reach zero.
        self.log_q = torch.zeros(num_groups, dtype=torch.float64, device=device)

    @property
    def q(self) -> Tensor:
        """Weight of each group, shape ``(G,)``; adds up to one."""
        return torch.softmax(self.log_q, 0)

    def weights(self, batch: BatchOutcome) -> Tensor:
        """``q_g / n_g`` with n_g the group's samples in the batch, shape ``(B,)``."""
        stats = GroupStats.of(batch, len(self.log_q))
        self.log_q.add_(stats.mean_loss.nan_to_num(0.0), alpha=self.step)
        self.log_q.sub_(self.log_q.max())
        weights = (self.q / stats.count.clamp(min=1))[batch.groups].sum(dim=1)
        return weights.to(batch.loss.dtype)

    def status(self) -> dict[str, float]:
        """The weight of the group that counts most."""
        return {"max_group_weight": float(self.q.max())}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of the groups."""
        return {"log_q": self.log_q.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RuntimeError: The state is of another number of groups.
        """
        if state["log_q"].shape != self.log_q.shape:
            raise RuntimeError(
                f"state holds {len(state['log_q'])} groups, expected {len(self.log_q)}"
            )
        self.log_q.copy_(state["log_q"])
