"""What ``ceag prune`` does by name: from the options to the rule that is applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ceag_cli import scores
from ceag_cli.batchnorm import norms_of, recalibrate
from ceag_cli.budgets import by_scope
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.data import Data
from ceag_cli.declarations import Idle, no_effect
from ceag_cli.errors import OptionError
from ceag_cli.evaluation import Compute, sampled_batches
from ceag_cli.fairgrape import prune_fairly
from ceag_cli.masks import Masks
from ceag_cli.optimizers import without_effect
from ceag_cli.options import PruneOptions
from ceag_cli.packing import pack
from ceag_cli.patterns import Pattern
from ceag_cli.progress import Reporter
from ceag_cli.prunable import prunable_parameters, why_dense
from ceag_cli.pruning import GradualPruning, IterativePruning, prune, prune_pattern
from ceag_cli.results import PruneResult, TensorResult
from ceag_cli.runs import Run
from ceag_cli.schedules import rounds_of_a_fifth
from ceag_cli.sharedoptions import WITH_IMAGES, DataOptions, TrainingOptions
from ceag_cli.splits import Split
from ceag_cli.stageoptions import NEED_DATA
from ceag_cli.training import Training

IN_ROUNDS = ("iterative", "rewind")
"""The schedules with rounds of training."""

OF_SCHEDULES = {"prune_epochs": ("cubic",), "rounds": IN_ROUNDS, "early": ("rewind",)}
"""Options that only some schedules have, and which."""

PACKED_UP_TO = 400 * 1024**2
"""Bytes of a file up to which its packed size is measured in passing."""

RECALIBRATE = 2048
"""Train images for BatchNorm by default; nncf takes about as many."""


def check_options(options: PruneOptions) -> list[str]:
    """Refuse options that are missing or contradict each other.

    Returns:
        What has no effect, as warnings.

    Raises:
        OptionError: With the options and the remedy.
    """
    pattern = pattern_of(options)
    if options.sparsity is None and pattern is None:
        raise OptionError("ceag prune needs --sparsity, the fraction of weights to remove")
    if pattern is not None:
        _check_pattern(options, pattern)
    if options.criterion == "fairgrape" and options.scope != "layer":
        raise OptionError(
            "--criterion fairgrape preserves the groups' shares within every layer; leave out "
            f"--scope {options.scope}"
        )
    cap = options.max_layer_sparsity
    if cap is not None and options.sparsity is not None and cap < options.sparsity:
        raise OptionError(
            f"--max-layer-sparsity {cap:g} is less than --sparsity {options.sparsity:g}, so it "
            "cannot be reached"
        )
    schedule = schedule_of(options)
    if schedule != "one-shot" and not options.epochs:
        raise OptionError(
            f"--schedule {schedule} prunes while the model is fine-tuned; say for how long with "
            "--epochs"
        )
    of_others = [name for name, known in OF_SCHEDULES.items() if schedule not in known]
    trains = options.epochs > 0
    without_images = options.groups is None and not needs_images(options)
    idle: Idle = {
        "with --scope layer": (options.scope == "layer", ("max_layer_sparsity",)),
        f"with --criterion {options.criterion}": (
            options.criterion not in NEED_DATA,
            ("score_batches",),
        ),
        "with --epochs: training measures BatchNorm statistics": (
            bool(trains and options.recalibrate),
            ("recalibrate",),
        ),
        f"with --schedule {schedule}": (True, of_others),
        "with --dry-run, which writes nothing": (options.dry_run, ("pack",)),
        "without --epochs": (not trains, TrainingOptions.__dataclass_fields__),
        "without --groups": (without_images, (*DataOptions.__dataclass_fields__, *WITH_IMAGES)),
    }
    return no_effect(options, idle) + (without_effect(options) if trains else [])


def needs_images(options: PruneOptions) -> bool:
    """Whether what is asked for cannot be done without a groups CSV."""
    return bool(options.epochs or options.recalibrate or options.criterion in NEED_DATA)


def check_images(options: PruneOptions, source: Checkpoint) -> None:
    """Refuse what looks at images where neither an option nor the model names a groups CSV.

    Raises:
        OptionError: With what looks at them.
    """
    if options.groups is not None or (source.lineage and source.lineage.groups):
        return
    remedy = f"name their CSV with --groups ({source.path} names none)"
    if options.criterion in NEED_DATA:
        raise OptionError(
            f"--criterion {options.criterion} scores weights on train images; {remedy}"
        )
    if options.recalibrate and not options.epochs:
        raise OptionError(f"--recalibrate measures on train images; {remedy}")


def _check_pattern(options: PruneOptions, pattern: Pattern) -> None:
    given = options.sparsity
    if given is not None and given != pattern.sparsity:
        raise OptionError(
            f"--pattern {pattern} removes {pattern.sparsity:g} of every tensor that it fits, not "
            f"{given:g}; leave out --sparsity"
        )
    if options.scope != "layer":
        raise OptionError(
            f"--pattern {pattern} fixes what every tensor gives up; leave out --scope "
            f"{options.scope}"
        )
    if options.criterion == "fairgrape":
        raise OptionError(
            f"--criterion fairgrape chooses weights of a whole layer, which --pattern {pattern} "
            "does not allow; take another criterion"
        )
    if schedule_of(options) == "cubic" or (options.rounds or 1) > 1:
        raise OptionError(
            f"--pattern {pattern} has no steps on the way; prune at once (--schedule one-shot, or "
            "--rounds 1), and the --epochs of fine-tuning follow"
        )


def schedule_of(options: PruneOptions) -> str:
    """When weights go, by name: as asked for, else by what else is asked for."""
    if options.schedule is not None:
        return options.schedule
    return "cubic" if options.epochs and pattern_of(options) is None else "one-shot"


def rounds_of(options: PruneOptions, initial: float) -> int:
    """Rounds of an iterative schedule from a sparsity on."""
    if options.rounds is not None:
        return options.rounds
    return 1 if pattern_of(options) else rounds_of_a_fifth(target_of(options), initial)


def pattern_of(options: PruneOptions) -> Pattern | None:
    """The N:M pattern asked for; ``None`` for unstructured.

    Raises:
        OptionError: It is neither.
    """
    if options.pattern == "unstructured":
        return None
    pattern = Pattern.parse(options.pattern)
    if pattern is None:
        raise OptionError(
            f"--pattern: '{options.pattern}' is neither 'unstructured' nor N:M with 0 < N < M, "
            "such as 2:4"
        )
    return pattern


def target_of(options: PruneOptions) -> float:
    """Fraction to be removed of what is pruned."""
    pattern = pattern_of(options)
    if pattern is not None:
        return pattern.sparsity
    assert options.sparsity is not None
    return options.sparsity


@dataclass(frozen=True)
class OptionsPruner:
    """The rule of pruning that the options describe; a ``pruning.Pruner``."""

    options: PruneOptions
    names: tuple[str, ...]
    """The parameters that may be pruned."""
    source: Checkpoint
    compute: Compute
    reporter: Reporter
    data: Data | None
    train: Split | None
    """The images that criteria look at."""

    def __call__(self, model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
        """Prune in place to a sparsity; see ``pruning.prune``."""
        if self.options.criterion in NEED_DATA:
            self.compute.place(model)
        if self.options.criterion == "fairgrape":
            assert self.data is not None
            groups = self.data.labels.grouping.num_groups
            return prune_fairly(
                model, self.names, sparsity, self._batches, groups, on_the_way=on_the_way
            )
        score = self._score(model)
        pattern = pattern_of(self.options)
        if pattern is not None:
            return prune_pattern(model, self.names, pattern, score)
        budget = by_scope(self.options.scope, self.options.max_layer_sparsity)
        return prune(model, self.names, sparsity, score, budget, on_the_way=on_the_way)

    def _score(self, model: nn.Module) -> scores.Score:
        criterion = self.options.criterion
        if criterion == "magnitude":
            return scores.magnitude
        if criterion == "random":
            return scores.random_order(self.options.seed)
        of_gradients = {"taylor": scores.taylor, "snip": scores.snip}[criterion]
        return of_gradients(model, self.names, self._batches)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        most = self.options.score_batches
        return self._sampled(most and most * self.compute.batch_size, "scoring weights")

    def prune_in_training(
        self, run: Run, state: dict[str, Any] | None, early: nn.Module | None
    ) -> tuple[Masks, int | None]:
        """Prune by the schedule asked for while the model is fine-tuned.

        Args:
            run: Where the log and the state go.
            state: What to continue from.
            early: The model as it was early in its training, for lottery tickets.

        Returns:
            The masks, and the number of rounds of an iterative schedule.

        Raises:
            OptionError: The schedule is longer than the training.
            TrainingError: The loss became NaN or infinite.
        """
        assert self.data is not None
        assert self.train is not None
        options = self.options
        schedule = self._schedule(early)
        rounds = schedule.rounds if isinstance(schedule, IterativePruning) else None
        if rounds is not None:
            self.reporter.say(
                f"rounds of pruning: {rounds}; epochs of training after each: {options.epochs}"
            )
        training = Training(
            model=self.source.model,
            split=self.train,
            preprocessing=self.source.preprocessing,
            compute=self.compute,
            options=options,
            epochs=options.epochs * (rounds or 1),
            seed=options.seed,
            num_groups=self.data.labels.grouping.num_groups,
            run=run,
            reporter=self.reporter,
            title="prune",
            schedule=schedule,
            cycle=options.epochs if rounds else None,
        )
        training.fit(state)
        assert training.masks is not None
        return training.masks, rounds

    def _schedule(self, early: nn.Module | None) -> GradualPruning | IterativePruning:
        options, final, name = self.options, target_of(self.options), schedule_of(self.options)
        initial = Masks.from_zeros(self.source.model, self.names).sparsity
        if name in IN_ROUNDS:
            return IterativePruning(
                self,
                final,
                rounds=rounds_of(options, initial),
                epochs_between=options.epochs,
                initial=initial,
                early=early.state_dict() if early is not None else None,
            )
        end = options.epochs - 1 if options.prune_epochs is None else options.prune_epochs
        if name == "one-shot":
            end = 0
        if end >= options.epochs:
            raise OptionError(f"--prune-epochs {end} must be less than --epochs {options.epochs}")
        return GradualPruning(self, final, end, initial)

    def recalibrate(self, model: nn.Module) -> int | None:
        """Measure BatchNorm statistics anew where there are any and images to do it on.

        Returns:
            The number of images; ``None`` when the statistics are as they were.
        """
        wanted = RECALIBRATE if self.options.recalibrate is None else self.options.recalibrate
        if self.train is None or not wanted or not norms_of(model):
            return None
        count = min(wanted, len(self.train))
        if min(count, self.compute.batch_size) < 2:
            raise OptionError(
                "BatchNorm statistics cannot be measured on one image at a time; take a larger "
                "--batch-size and more images, or --recalibrate 0"
            )
        self.compute.place(model)
        inputs = (inputs for inputs, _, _ in self._sampled(count, "measuring BatchNorm statistics"))
        recalibrate(model, inputs)
        return count

    def _sampled(self, count: int | None, title: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        assert self.train is not None
        preprocessing, seed = self.source.preprocessing, self.options.seed
        return sampled_batches(
            self.train, preprocessing, self.compute, seed, count, self.reporter, title
        )


def warn_of_empty(masks: Masks, reporter: Reporter) -> None:
    """A layer without a single weight passes nothing on; the model may be dead behind it."""
    empty = [name for name, mask in masks.pruned.items() if bool(mask.all())]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        reporter.warn(f"no weight is left in {', '.join(empty[:5])}{more}")


def prune_result(
    options: PruneOptions,
    output: Path,
    model: nn.Module,
    masks: Masks,
    recalibrated: int | None = None,
    rounds: int | None = None,
) -> PruneResult:
    """What became of a model, for the report; ``output`` is there unless it is a dry run."""
    zeros = masks.zeros()
    parameters = dict(model.named_parameters())
    chosen = prunable_parameters(model, options.include, options.exclude)
    unfit = [name for name in chosen if name not in zeros]  # only a pattern leaves any of them
    reasons = why_dense(model, zeros, unfit, options.pattern)
    size = None if options.dry_run else output.stat().st_size
    return PruneResult(
        output=output,
        dry_run=options.dry_run,
        criterion=options.criterion,
        scope=options.scope,
        pattern=options.pattern,
        schedule=schedule_of(options),
        rounds=rounds,
        sparsity=masks.sparsity,
        sparsity_of_all=sum(zeros.values()) / sum(p.numel() for p in parameters.values()),
        zeros=sum(zeros.values()),
        weights=sum(mask.numel() for mask in masks.pruned.values()),
        tensors=len(zeros),
        unfit=len(unfit),
        by_tensor=tuple(
            TensorResult(name, tuple(p.shape), zeros.get(name, 0), reasons.get(name))
            for name, p in parameters.items()
        ),
        recalibrated=recalibrated,
        bytes=size,
        packed=options.pack,
        bytes_packed=_packed_size(model, size) if size is not None and not options.pack else None,
    )


def _packed_size(model: nn.Module, size: int) -> int | None:
    """Bytes that the weights would take when packed; ``None`` for a file too large for that."""
    if size > PACKED_UP_TO:
        return None
    packed, _ = pack(model.state_dict())
    return sum(tensor.numel() for tensor in packed.values())
