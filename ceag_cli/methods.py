"""The methods of fine-tuning by name: from the options to the objective that training asks."""

from __future__ import annotations

from collections.abc import Callable

from ceag_cli.baselines import NaiveFineTuning
from ceag_cli.ceag import ConstrainedExcessAccuracyGap
from ceag_cli.errors import OptionError
from ceag_cli.groups import Grouping, GroupStats
from ceag_cli.multipliers import Multipliers
from ceag_cli.options import MitigateOptions
from ceag_cli.replay import GroupReplay
from ceag_cli.training import Objective

DUAL_LR_OF_ALL_GROUPS = 0.1
"""Default dual step size times the number of groups."""


def check_options(options: MitigateOptions) -> None:
    """Refuse options under which no group would ever be constrained.

    Raises:
        OptionError: With the options and the remedy.
    """
    if options.sparsity is not None and options.prune_epochs >= options.epochs:
        raise OptionError(
            f"--prune-epochs {options.prune_epochs} must be less than --epochs {options.epochs}, "
            "or mitigation never starts"
        )
    if options.min_count is not None and options.min_count > options.buffer:
        raise OptionError(
            f"--min-count {options.min_count} must be at most --buffer {options.buffer}, "
            "or no group is ever constrained"
        )


def objective(
    options: MitigateOptions, grouping: Grouping, dense: GroupStats
) -> tuple[Objective, Callable[[], dict[str, float]]]:
    """The method asked for, and what it adds to the log."""
    if options.method == "naive":
        return NaiveFineTuning(), dict
    device = dense.count.device
    full = options.buffer
    min_count = full if options.paper else options.min_count or (full + 1) // 2
    # Noise in psi adds up over groups: each multiplier rests at a level proportional to its step.
    dual_lr = options.dual_lr or DUAL_LR_OF_ALL_GROUPS / grouping.num_groups
    multipliers = Multipliers(
        grouping.num_groups,
        dual_lr,
        max_sum=None if options.paper else options.max_multiplier_sum,
        device=device,
    )
    objective = ConstrainedExcessAccuracyGap(
        grouping,
        dense,
        options.eps,
        GroupReplay(grouping.num_groups, full, min_count, device),
        multipliers,
        macro_overall=options.paper,
    )

    def status() -> dict[str, float]:
        return {
            "max_multiplier": float(multipliers.values.max()),
            "sum_multipliers": float(multipliers.values.sum()),
        }

    return objective, status
