"""Lagrange multipliers of inequality constraints, one per group."""

from __future__ import annotations

import torch
from torch import Tensor


class Multipliers:
    """Non-negative multipliers that rise while their constraint is violated.

    Args:
        num_groups: G.
        lr: Dual step size.
        max_sum: Upper bound on the sum of the multipliers; ``None`` for no bound (the paper).
            The primal weights of samples outside the constrained groups are proportional to one
            minus that sum, so a bound below 1 keeps every sample's weight positive: the loss is
            never *maximised* on anybody, which is how unbounded multipliers make training
            collapse. Optimising over a bounded set of multipliers is the usual device of
            constrained learning (Agarwal et al. 2018, *A reductions approach to fair
            classification*, section 3).
        device: Where the multipliers live.
    """

    def __init__(
        self,
        num_groups: int,
        lr: float,
        max_sum: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lr = lr
        self.max_sum = max_sum
        self.values = torch.zeros(num_groups, dtype=torch.float64, device=device)

    def ascend_(self, violation: Tensor) -> None:
        """Take one projected ascent step.

            lambda_g <- max(0, lambda_g + lr * violation_g),  then scaled to sum <= max_sum

        Args:
            violation: Signed constraint values, positive where violated, shape ``(G,)``. NaN means
                "not known": that multiplier does not move (except by the scaling).
        """
        self.values.add_(violation.nan_to_num(0.0), alpha=self.lr).clamp_(min=0.0)
        if self.max_sum is not None:
            # A product instead of a branch: nothing is read back from the device.
            tiny = torch.finfo(self.values.dtype).tiny
            self.values.mul_((self.max_sum / self.values.sum().clamp(min=tiny)).clamp(max=1.0))

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the multipliers."""
        return {"values": self.values.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RuntimeError: The state is of another number of groups.
        """
        values = state["values"]
        if values.shape != self.values.shape:
            raise RuntimeError(
                f"state holds {len(values)} multipliers, expected {len(self.values)}"
            )
        self.values.copy_(values)
