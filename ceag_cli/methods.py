"""The methods of fine-tuning by name: from the options to the objects that training asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ceag_cli.baselines import EqualizedLoss, GroupDRO, NaiveFineTuning, Reweighting
from ceag_cli.ceag import ConstrainedExcessAccuracyGap
from ceag_cli.declarations import Idle, declared, no_effect
from ceag_cli.distillation import SHARE as DISTILL_SHARE
from ceag_cli.errors import OptionError
from ceag_cli.groups import Grouping, GroupStats
from ceag_cli.multipliers import SPEED, Multipliers, bound_by_size, step_by_size
from ceag_cli.optimizers import without_effect
from ceag_cli.options import MitigateOptions
from ceag_cli.replay import LONGEST, GroupReplay
from ceag_cli.stageoptions import CONSTRAINED
from ceag_cli.training import Objective

SPEED_OF_EQUALIZED_LOSS = 1.0
"""Its violations are of loss, in nats, and without a tolerance."""

DUAL_KP = 0.5
"""Default proportional gain of nuPI, in epochs."""

PRUNE_EPOCHS = 15
"""Epochs of gradual pruning by default, as in the paper."""


def check_options(options: MitigateOptions) -> list[str]:
    """Refuse options that contradict each other.

    Returns:
        What has no effect, as warnings.

    Raises:
        OptionError: With the options and the remedy.
    """
    if options.sparsity is not None and prune_epochs(options) >= options.epochs:
        raise OptionError(
            f"--prune-epochs {options.prune_epochs} must be less than --epochs {options.epochs}, "
            "or mitigation never starts"
        )
    if options.method == "fairgrape" and options.sparsity is None:
        raise OptionError(
            "--method fairgrape chooses the weights to prune itself: give a dense model and "
            "--sparsity"
        )
    if options.min_count and options.buffer and options.min_count > options.buffer:
        raise OptionError(
            f"--min-count {options.min_count} must be at most --buffer {options.buffer}, "
            "or no group is ever constrained"
        )
    if options.method == "naive-es" and options.keep not in (None, "val"):
        raise OptionError(
            f"--keep {options.keep}: early stopping (--method naive-es) chooses on val; leave "
            "--keep out, or take --method naive"
        )
    of_others = [
        name
        for name, about in declared(MitigateOptions).items()
        if about.methods and options.method not in about.methods
    ]
    rule = rule_of_keeping(options)
    plain_ascent = options.method in CONSTRAINED and options.dual_opt == "ascent"
    constrained = options.method in CONSTRAINED
    idle: Idle = {
        f"with --method {options.method}": (True, of_others),
        "without --dual-opt nupi": (plain_ascent, ("dual_kp", "dual_nu")),
        "with --dual-lr": (constrained and options.dual_lr is not None, ("dual_speed",)),
        "with --buffer 0": (
            constrained and options.buffer == 0,
            ("min_count", "full_buffers", "macro_overall"),
        ),
        "with --min-count": (
            constrained and options.buffer != 0 and options.min_count is not None,
            ("full_buffers",),
        ),
        "without --keep val": (rule is None or rule[1] != "val", ("val_share",)),
        "without --sparsity": (options.sparsity is None, ("prune_epochs",)),
        "without --measure mixed": (options.measure != "mixed", ("mix_share",)),
        "without --distill": (distill_share(options) == 0, ("temperature",)),
        "with --weight-decay 0": (options.weight_decay == 0, ("decay_on",)),
    }
    return no_effect(options, idle) + without_effect(options)


def prune_epochs(options: MitigateOptions) -> int:
    """Epochs of gradual pruning: what was asked for, else 15 or half of all, if that is less."""
    if options.prune_epochs is not None:
        return options.prune_epochs
    return min(PRUNE_EPOCHS, options.epochs // 2)


def measured_where(options: MitigateOptions) -> str:
    """Where the method sees accuracies; those without a constraint on them have no choice."""
    return options.measure if options.method == "ceag" else "train"


def distill_share(options: MitigateOptions) -> float:
    """Share of the divergence from the dense model in the loss."""
    if options.distill is not None:
        return options.distill
    return DISTILL_SHARE if options.method == "ceag" else 0.0


def rule_of_keeping(options: MitigateOptions) -> tuple[str, str] | None:
    """How the iterate to keep is chosen and on which split; ``None`` for the last one."""
    if options.method == "naive-es":
        return "accuracy", "val"
    keep = options.keep or ("train" if options.method == "ceag" else "last")
    return {"last": None, "train": ("feasible", "train"), "val": ("best", "val")}[keep]


def first_candidate(options: MitigateOptions) -> int:
    """The first epoch, counted from 1, whose iterate may be kept.

    On val every one; on train, where all images have to be gone through once more to look, those
    of the last third, which are the better ones anyway while the learning rate falls.
    """
    rule = rule_of_keeping(options)
    if rule is None or rule[1] == "val":
        return 1
    return options.epochs - max(1, options.epochs // 3) + 1


def objective(
    options: MitigateOptions, grouping: Grouping, dense: GroupStats, steps: int
) -> Objective:
    """The method asked for.

    Args:
        options: Of ``ceag mitigate``.
        grouping: The sensitive features and their groups.
        dense: Statistics of the dense model on the images that are trained on.
        steps: Batches per epoch.
    """
    build = _METHODS[options.method]
    return build(options, grouping, dense, steps)


def _naive(*_: Any) -> Objective:
    return NaiveFineTuning()


def _reweighting(_: Any, grouping: Grouping, dense: GroupStats, __: int) -> Objective:
    return Reweighting(grouping, dense)


def _group_dro(
    options: MitigateOptions, grouping: Grouping, dense: GroupStats, _: int
) -> Objective:
    return GroupDRO(grouping.num_groups, options.dual_lr or 0.01, dense.count.device)


def _ceag(options: MitigateOptions, grouping: Grouping, dense: GroupStats, steps: int) -> Objective:
    return ConstrainedExcessAccuracyGap(
        grouping,
        dense,
        options.eps,
        _replay(options, dense, torch.int64),
        _multipliers(options, grouping, dense, steps),
        macro_overall=options.macro_overall,
        batch_means=options.batch_means,
        detach_overall=options.detach_overall,
        paired=options.measure == "mixed",
    )


def _equalized_loss(
    options: MitigateOptions, grouping: Grouping, dense: GroupStats, steps: int
) -> Objective:
    return EqualizedLoss(
        grouping,
        dense,
        _replay(options, dense, torch.float64),
        _multipliers(options, grouping, dense, steps),
        macro_overall=options.macro_overall,
        batch_means=options.batch_means,
        detach_overall=options.detach_overall,
    )


_METHODS: dict[str, Callable[[MitigateOptions, Grouping, GroupStats, int], Objective]] = {
    "ceag": _ceag,
    "naive": _naive,
    "naive-es": _naive,
    "equalized-loss": _equalized_loss,
    "fairgrape": _naive,  # the fairness is in what is pruned
    "reweight": _reweighting,
    "group-dro": _group_dro,
}


def dual_step(options: MitigateOptions, dense: GroupStats, steps: int) -> Tensor:
    """Step size of each multiplier, float64, shape ``(G,)``: ``--dual-lr``, else by speed."""
    if options.dual_lr is not None:
        return torch.full_like(dense.prevalence, options.dual_lr)
    default = SPEED_OF_EQUALIZED_LOSS if options.method == "equalized-loss" else SPEED
    return step_by_size(dense.prevalence, steps, options.dual_speed or default)


def _multipliers(
    options: MitigateOptions, grouping: Grouping, dense: GroupStats, steps: int
) -> Multipliers:
    kp = 0.0
    if options.dual_opt == "nupi":
        kp = steps * (DUAL_KP if options.dual_kp is None else options.dual_kp)
    bound = None
    if options.max_upweight:
        feature_of = grouping.feature_of.to(dense.count.device)
        bound = bound_by_size(dense.prevalence, feature_of, options.max_upweight)
    return Multipliers(
        len(dense.count),
        dual_step(options, dense, steps),
        kp=kp,
        nu=options.dual_nu,
        restart=options.dual_restarts,
        max_sum=options.max_multiplier_sum or None,
        max_each=bound,
        device=dense.count.device,
    )


def _replay(options: MitigateOptions, dense: GroupStats, dtype: torch.dtype) -> GroupReplay | None:
    if options.buffer == 0:
        return None
    if options.buffer is None and options.min_count is None and not options.full_buffers:
        return GroupReplay.by_size(dense.count, dtype)
    capacity = dense.count.clamp(min=1, max=LONGEST)
    if options.buffer is not None:
        capacity = torch.full_like(dense.count, options.buffer)
    enough = capacity if options.full_buffers else (capacity + 1) // 2
    if options.min_count is not None:
        enough = capacity.clamp(max=options.min_count)
    return GroupReplay(len(capacity), capacity, enough, dtype, capacity.device)
