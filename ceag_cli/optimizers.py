"""Optimisers and learning rates: timm's, as the options say."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim._optim_factory import create_optimizer_v2, get_optimizer_info
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn

from ceag_cli.declarations import Idle, no_effect
from ceag_cli.errors import OptionError
from ceag_cli.options import DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.prunable import classifier_names
from ceag_cli.sharedoptions import TrainingOptions

PAPER_MILESTONES = (0.6, 0.8, 0.9)
"""Fractions of the epochs after which the learning rate falls, as in the paper."""


def optimizer_of(
    model: nn.Module, options: TrainingOptions, decay_on: str
) -> torch.optim.Optimizer:
    """The optimiser asked for.

    Args:
        model: Whose parameters it steps.
        options: Name, learning rate, momentum and weight decay.
        decay_on: What weight decay acts on: ``all`` weights but biases and norms, or the
            ``classifier`` alone.

    Raises:
        OptionError: There is no such optimiser, or it does not take a value.
    """
    # timm's "sgd" has Nesterov momentum, which does not exist without momentum.
    plain = options.opt == "sgd" and options.momentum == 0
    decay_all = decay_on == "all"
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model if decay_all else _classifier_apart(model, options.weight_decay),
            opt="momentum" if plain else options.opt,
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay if decay_all else 0.0,
        )
    except (ValueError, AssertionError, TypeError) as error:
        raise OptionError(f"--opt {options.opt}: {error}") from None
    return optimizer


def _classifier_apart(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: the classifier's, which decay, and all others."""
    heads = tuple(f"{name}." for name in classifier_names(model))
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[name.startswith(heads)].append(parameter)
    return [
        {"params": parts[True], "weight_decay": weight_decay},
        {"params": parts[False], "weight_decay": 0.0},
    ]


def lr_scheduler_of(
    optimizer: torch.optim.Optimizer, options: TrainingOptions, epochs: int, steps: int
) -> Any:
    """The scheduler of the learning rate; ``None`` where that is constant.

    Args:
        optimizer: Whose learning rate it sets.
        options: The schedule and its warm-up.
        epochs: Over which the schedule runs.
        steps: Batches per epoch.

    Raises:
        OptionError: The warm-up is no shorter than the epochs.
    """
    if options.sched == "constant" and not options.warmup_epochs:
        return None
    if options.warmup_epochs >= epochs:
        raise OptionError(
            f"--warmup-epochs {options.warmup_epochs} leaves nothing of --epochs {epochs}"
        )
    milestones = options.decay_milestones or tuple(
        round(epochs * fraction) for fraction in PAPER_MILESTONES
    )
    if options.sched == "constant":
        milestones = (epochs + 1,)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine" if options.sched == "cosine" else "multistep",
        num_epochs=epochs,
        decay_milestones=list(milestones),
        decay_rate=options.decay_rate,
        warmup_epochs=options.warmup_epochs,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return scheduler


def without_effect(options: DenseOptions | PruneOptions | MitigateOptions) -> list[str]:
    """Options of training that change nothing beside the others, as warnings."""
    try:
        has_momentum = get_optimizer_info(options.opt).has_momentum
    except ValueError:  # refused when the optimiser is made
        has_momentum = True
    idle: Idle = {
        "without --model-ema": (not options.model_ema, ("model_ema_decay",)),
        "without --amp": (not options.amp, ("amp_dtype",)),
        f"with --sched {options.sched}": (
            options.sched != "multistep",
            ("decay_milestones", "decay_rate"),
        ),
        f"with --opt {options.opt}": (not has_momentum, ("momentum",)),
    }
    return no_effect(options, idle)
