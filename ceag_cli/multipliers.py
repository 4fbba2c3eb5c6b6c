"""Lagrange multipliers of inequality constraints, one per group."""

from __future__ import annotations

import torch
from torch import Tensor

SPEED = 10.0
"""Default speed of multipliers whose violations are of accuracy; see :func:`step_by_size`."""

MAX_SUM = 0.9
MAX_UPWEIGHT = 1.0
"""Default bounds: on the sum, and on each multiplier; see :func:`bound_by_size`."""


def step_by_size(prevalence: Tensor, steps: int, speed: float = SPEED) -> Tensor:
    """Dual step sizes that mean the same whatever the number of groups, images and batches.

        lr_g = speed / T * p_g

    with T batches per epoch and p_g the share of the training images in group g. A multiplier of
    p_g lets the samples of its group count once more than the others (``lagrangian_weights``). So a
    group that violates its constraint by v all through an epoch gains ``speed * v`` in relative
    weight: at speed 10 and a violation of 10 points, its own weight once more.

    Args:
        prevalence: p_g, shape ``(G,)``.
        steps: T.
        speed: More than 0.

    Returns:
        Float64, shape ``(G,)``.
    """
    return speed / steps * prevalence.double()


def bound_by_size(prevalence: Tensor, feature_of: Tensor, upweight: float) -> Tensor:
    """Bounds that let a group of average size count a few times more, and a rare one many times.

        max_g = upweight * max(p_g, 1 / G_f)

    with p_g the share of the training images in group g and G_f the number of groups that its
    feature has there. A multiplier of p_g lets the samples of its group count once more than the
    others (``lagrangian_weights``), so at 1 a group that is no smaller than the average counts at
    most twice, and a rarer one at most as much more as the average group has images.

    Args:
        prevalence: p_g, shape ``(G,)``.
        feature_of: Feature number of each group, shape ``(G,)``.
        upweight: More than 0.

    Returns:
        Float64, shape ``(G,)``; zero for a group without images.
    """
    there = (prevalence > 0).double()
    groups = torch.zeros_like(there).index_add_(0, feature_of, there)[feature_of]
    bound = torch.maximum(prevalence.double(), 1 / groups.clamp(min=1))
    return upweight * torch.where(prevalence > 0, bound, 0.0)


class Multipliers:
    """Non-negative multipliers that rise while their constraint is violated.

    With ``e_t`` the violation at step t and ``[.]_+`` the larger of a number and zero,

        xi_t          = nu xi_(t-1) + (1 - nu) e_t
        lambda_(t+1)  = [lambda_t + lr (e_t + kp (xi_t - xi_(t-1)))]_+

    ``kp = 0`` is plain gradient ascent, the paper's choice. A positive ``kp`` is nuPI, a
    proportional-integral controller (Sohrabi et al. 2024, *On PI controllers for updating Lagrange
    multipliers in constrained optimization*, algorithm 1, with K_i = 1 and kp = K_p / K_i): the
    steps add up to the sum of all violations (integral) plus ``kp`` times the present one
    (proportional), so a multiplier falls as soon as its violation does, which damps the swings of
    plain ascent. ``xi`` is zero after the first step, which is one of plain ascent.

    Args:
        num_groups: G.
        lr: Dual step size: one number, or one per group, shape ``(G,)``.
        kp: Proportional gain, in steps; at least 0.
        nu: Smoothing of the violation that ``kp`` acts on, in [0, 1).
        restart: Set a multiplier back to zero as soon as its constraint holds (dual restarts,
            Gallego-Posada et al. 2022, *Controlled sparsity via constrained optimization*).
        max_sum: Upper bound on the sum of the multipliers; ``None`` for no bound (the paper).
            The primal weights of samples outside the constrained groups are proportional to one
            minus that sum, so a bound below 1 keeps every sample's weight positive: the loss is
            never *maximised* on anybody, which is how unbounded multipliers make training
            collapse. Optimising over a bounded set of multipliers is the usual device of
            constrained learning (Agarwal et al. 2018, *A reductions approach to fair
            classification*, section 3).
        max_each: Upper bound on each multiplier, shape ``(G,)``; ``None`` for no bound.
        device: Where the multipliers live.
    """

    def __init__(
        self,
        num_groups: int,
        lr: float | Tensor,
        *,
        kp: float = 0.0,
        nu: float = 0.0,
        restart: bool = False,
        max_sum: float | None = None,
        max_each: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lr = torch.as_tensor(lr, dtype=torch.float64, device=device)
        self.kp = kp
        self.nu = nu
        self.restart = restart
        self.max_sum = max_sum
        self.max_each = None if max_each is None else max_each.to(device, torch.float64)
        self.values = torch.zeros(num_groups, dtype=torch.float64, device=device)
        self.smoothed = torch.full_like(self.values, float("nan"))
        """xi; NaN until the violation is first known."""

    def ascend_(self, violation: Tensor) -> None:
        """Take one projected ascent step.

        After the step the multipliers are clipped to [0, max_each], those of satisfied constraints
        are set back to zero if ``restart``, and all are scaled so that they sum to ``max_sum`` at
        most.

        Args:
            violation: Signed constraint values, positive where violated, shape ``(G,)``. NaN means
                "not known": that multiplier does not move (except by the scaling).
        """
        error = violation
        if self.kp:
            first = self.smoothed.isnan()
            smoothed = torch.lerp(violation, self.smoothed, self.nu)
            error = violation + self.kp * torch.where(first, 0.0, smoothed - self.smoothed)
            smoothed = torch.where(first, 0.0, smoothed)
            self.smoothed = torch.where(violation.isnan(), self.smoothed, smoothed)
        self.values.addcmul_(self.lr, error.nan_to_num(0.0)).clamp_(min=0.0)
        if self.max_each is not None:
            torch.minimum(self.values, self.max_each, out=self.values)
        if self.restart:
            self.values.masked_fill_(violation <= 0, 0.0)
        if self.max_sum is not None:
            # A product instead of a branch: nothing is read back from the device.
            tiny = torch.finfo(self.values.dtype).tiny
            self.values.mul_((self.max_sum / self.values.sum().clamp(min=tiny)).clamp(max=1.0))

    @property
    def at_bound(self) -> Tensor:
        """Which multipliers can rise no further, alone or all together; bool, shape ``(G,)``."""
        almost = 1 - 1e-9  # scaling to the bound rounds
        at_bound = torch.zeros_like(self.values, dtype=torch.bool)
        if self.max_each is not None:
            at_bound |= self.values >= almost * self.max_each
        if self.max_sum is not None:
            at_bound |= self.values.sum() >= almost * self.max_sum
        return at_bound

    def status(self) -> dict[str, float]:
        """The largest multiplier and their sum, for a log."""
        return {
            "max_multiplier": float(self.values.max()),
            "sum_multipliers": float(self.values.sum()),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the multipliers and of what their next step depends on."""
        return {"values": self.values.clone(), "smoothed": self.smoothed.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RuntimeError: The state is of another number of groups.
        """
        for name, tensor in state.items():
            own: Tensor = getattr(self, name)
            if own.shape != tensor.shape:
                raise RuntimeError(f"state holds {len(tensor)} multipliers, expected {len(own)}")
            own.copy_(tensor)
