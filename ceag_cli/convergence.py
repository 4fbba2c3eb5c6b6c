"""What a log says of a constrained run that does not converge to what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 3
"""Epochs in a row that make a warning due."""


def troubles(log: Sequence[Mapping[str, Any]], eps: float) -> list[str]:
    """What the last epoch of a log gives reason to warn of, each of it once in a run.

    - The constraints look infeasible: for three epochs some are violated whose multipliers are at
      their bounds, so that more weight on those groups cannot be had, and the largest psi no
      longer falls.
    - The multipliers diverge: for three epochs they have summed to more than 1, where samples of
      other groups get negative weights, and have risen.

    Args:
        log: One entry per epoch, the last one new.
        eps: Largest psi_g allowed, as a fraction.
    """
    psi = [
        float(line.get("recent_max_excess_gap", line.get("max_excess_gap", 0.0))) for line in log
    ]
    stuck = [int(line.get("stuck_multipliers", 0)) for line in log]
    sums = [float(line.get("sum_multipliers", 0.0)) for line in log]
    beyond = [count > 0 and gap > eps for count, gap in zip(stuck, psi, strict=True)]
    risen = [now > max(1.0, before) for before, now in zip([0.0, *sums], sums, strict=False)]
    infeasible = [
        all(beyond[end - WINDOW : end]) and psi[end - 1] >= psi[end - WINDOW]
        for end in range(WINDOW, len(log) + 1)
    ]
    diverging = [all(risen[end - WINDOW : end]) for end in range(WINDOW, len(log) + 1)]
    found = []
    if _for_the_first_time(infeasible):
        found.append(
            f"the constraints look infeasible: {stuck[-1]} of them do not hold, the multipliers "
            f"have been at their bounds for {WINDOW} epochs, and the largest psi no longer falls; "
            "allow a larger --eps, ask for less sparsity, train longer, or let groups count more "
            "(--max-upweight)"
        )
    if _for_the_first_time(diverging):
        found.append(
            f"the multipliers diverge: they sum to {sums[-1]:.1f}, and beyond 1 samples of other "
            "groups count negatively; bound them with --max-multiplier-sum 0.9, or take a smaller "
            "--dual-lr"
        )
    return found


def _for_the_first_time(flags: Sequence[bool]) -> bool:
    return flags.count(True) == 1 and flags[-1]
