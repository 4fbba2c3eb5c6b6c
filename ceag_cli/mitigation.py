"""Fine-tuning of a pruned model, from the models and the data to the weights that are kept.

What is trained on, what the choice between iterates rests on, how the dense model is measured for
the multipliers, and how the result is judged. The loop itself is in ``training``, the methods
are in ``ceag``, ``baselines`` and ``fairgrape``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ceag_cli.audit import audit
from ceag_cli.budgets import by_scope
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.convergence import troubles
from ceag_cli.data import Data
from ceag_cli.declarations import as_given, given
from ceag_cli.errors import OptionError
from ceag_cli.evaluation import (
    Compute,
    Predictions,
    evaluate,
    evaluate_in_training_mode,
    evaluate_mixed,
    sampled_batches,
)
from ceag_cli.fairgrape import prune_fairly
from ceag_cli.findings import FAIL, AuditResult, SplitResult
from ceag_cli.groups import GroupStats, set_aside
from ceag_cli.iterates import Keeper, Measured
from ceag_cli.masks import Masks
from ceag_cli.methods import (
    distill_share,
    first_candidate,
    measured_where,
    objective,
    prune_epochs,
    rule_of_keeping,
)
from ceag_cli.options import MitigateOptions
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy
from ceag_cli.progress import Reporter
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruned import Rule
from ceag_cli.pruning import GradualPruning, IterativePruning
from ceag_cli.runs import Run
from ceag_cli.splits import Split
from ceag_cli.training import Schedule, Training


@dataclass(frozen=True)
class Mitigated:
    """What became of the model. Its weights are those of the iterate kept."""

    masks: Masks
    train: SplitResult
    """Dense and sparse compared on the images that were trained on, in evaluation mode."""
    mixed: SplitResult | None
    """The same on these images mixed with others, where the constraints were measured there."""
    satisfied: bool
    """Whether ``psi_g <= eps`` for every group where the constraints were measured."""
    epochs: int
    """Epochs trained."""
    kept: Measured | None
    """The iterate that was chosen; ``None`` when it is simply the last."""
    judged_on: str | None
    """In words, the images that the choice rests on."""


@dataclass(frozen=True)
class Mitigation:
    """Everything that fine-tuning starts from."""

    options: MitigateOptions
    source: Checkpoint
    """The model to fine-tune in place: pruned, or dense where the options name a sparsity."""
    reference: Checkpoint
    """The dense model; may be ``source`` itself."""
    data: Data
    compute: Compute
    reporter: Reporter
    rule: Rule | None = None
    """By which the source is pruned, where the options name a sparsity."""

    def fine_tune(self, masks: Masks | None, run: Run, state: dict[str, Any] | None) -> Mitigated:
        """Fine-tune by the method asked for.

        Args:
            masks: The masks of a pruned model.
            run: Where the log and the state go.
            state: What to continue from.

        Raises:
            OptionError: There are too few images to set any aside.
            TrainingError: The loss became NaN or infinite.
        """
        options, grouping = self.options, self.data.labels.grouping
        train, judged, in_words = self._images()
        # The dense model first: it may be the very model that training is about to change.
        dense_model = self._dense_model()
        dense_says = self._evaluate(dense_model, train, "dense")
        dense = self._stats(dense_says, train)
        measured = self._stats(self._as_measured(train, dense_says), train)
        keeper = self._keeper(judged, train, dense_model)
        training = Training(
            model=self.source.model,
            split=train,
            preprocessing=self.source.preprocessing,
            compute=self.compute,
            options=options,
            epochs=options.epochs,
            seed=options.seed,
            num_groups=grouping.num_groups,
            run=run,
            reporter=self.reporter,
            title=options.method,
            masks=masks,
            schedule=self._schedule(train),
            dense=dense,
            keeper=keeper,
            # What 'matched' adds to 'train' is in how the dense model was measured above.
            measure="train" if self._where == "matched" else self._where,
            mix_share=options.mix_share,
            dense_model=dense_model,
            distill=distill_share(options),
            temperature=options.temperature,
            decay_on=options.decay_on,
            watch=lambda log: troubles(log, options.eps),
        )
        training.objective = objective(options, grouping, measured, training.steps)
        training.fit(state)
        assert training.masks is not None
        sparse_says = self._evaluate(self.source.model, train, "sparse")
        on_train = self._compared(dense_says, sparse_says, train)
        on_mixed = self._compared_on_mixed(dense_model, train) if self._where == "mixed" else None
        return Mitigated(
            masks=training.masks,
            train=on_train.splits[0],
            mixed=None if on_mixed is None else on_mixed.splits[0],
            satisfied=(on_mixed or on_train).verdict != FAIL,
            epochs=training.epoch,
            kept=None if keeper is None else keeper.kept,
            judged_on=in_words,
        )

    @property
    def _where(self) -> str:
        return measured_where(self.options)

    def _dense_model(self) -> nn.Module:
        """In evaluation mode; a copy if it is the very model that training is about to change."""
        same = self.reference.model is self.source.model
        model = copy.deepcopy(self.reference.model) if same else self.reference.model
        return model.eval()

    def _compared(self, dense: Predictions, sparse: Predictions, train: Split) -> AuditResult:
        """Both models' answers on what was trained on.

        That shows nothing about other images: the measured values are compared with eps.
        """
        pair = Paired("train", dense.correct, sparse.correct, train.groups)
        policy = Policy(eps=self.options.eps, gate="point")
        return audit([pair], self.data.labels.grouping, policy, gated=("train",))

    def _compared_on_mixed(self, dense_model: nn.Module, train: Split) -> AuditResult:
        models = (dense_model, "dense"), (self.source.model, "sparse")
        dense, sparse = (self._mixed(model, train, who) for model, who in models)
        return self._compared(dense, sparse, train)

    def _images(self) -> tuple[Split, Split | None, str | None]:
        """The images to train on, those that the iterate is chosen on, and these in words."""
        train = self._split("train")
        rule = rule_of_keeping(self.options)
        if rule is None:
            return train, None, None
        if rule[1] == "train":
            where = "mixed train images" if self._where == "mixed" else "train"
            return train, train, where
        if "val" in self.data.labels.splits:
            if given(self.options, ("val_share",)):
                warning = "--val-share has no effect: the CSV has val rows"
                self.reporter.warn(as_given(self.options, warning))
            return train, self._split("val"), "val"
        generator = torch.Generator().manual_seed(self.options.seed)
        strata = torch.cat([train.targets[:, None], train.groups], dim=1)
        chosen = set_aside(strata, self.options.val_share, generator)
        count = int(chosen.sum())
        if count == 0:
            raise OptionError(
                f"--val-share {self.options.val_share:g}: none of the {len(train)} train images "
                "can be set aside to choose on; give rows of split 'val' in the CSV, or a larger "
                "share"
            )
        in_words = f"{count} of {len(train)} train images, set aside (the CSV has no val rows)"
        self.reporter.say(f"the iterate is chosen on {in_words}")
        return train.only(~chosen, "train"), train.only(chosen, "val"), in_words

    def _as_measured(self, train: Split, dense_says: Predictions) -> Predictions:
        """The dense model as the multipliers are to see it, where it is measured once."""
        if self._where != "matched":
            return dense_says
        return evaluate_in_training_mode(
            self.reference.model,
            train,
            self.reference.preprocessing,
            self.compute,
            self.options.hflip,
            self.options.seed,
            self.reporter,
            "dense on train, in training mode",
        )

    def _keeper(self, judged: Split | None, train: Split, dense_model: nn.Module) -> Keeper | None:
        rule = rule_of_keeping(self.options)
        if rule is None or judged is None:
            return None
        # What the constraints are measured on while training decides on train as well.
        ask = self._mixed if judged is train and self._where == "mixed" else self._evaluate

        def measure(model: nn.Module, who: str = "iterate") -> GroupStats:
            return self._stats(ask(model, judged, who), judged)

        dense, first = measure(dense_model, "dense"), first_candidate(self.options)
        return Keeper(rule[0], measure, dense, self.options.eps, first, self.options.patience)

    def _schedule(self, train: Split) -> Schedule | None:
        options, model = self.options, self.source.model
        if options.sparsity is None:
            return None
        rule = self.rule or Rule(tuple(prunable_parameters(model)))
        names, last = rule.names, prune_epochs(options)
        if options.method != "fairgrape":
            budget = by_scope(rule.scope, rule.cap)
            return GradualPruning.of(model, names, options.sparsity, last, budget)
        groups = self.data.labels.grouping.num_groups

        def fairly(model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
            batches = partial(self._scoring_batches, train)
            return prune_fairly(model, names, sparsity, batches, groups, on_the_way=on_the_way)

        schedule = IterativePruning(
            fairly,
            options.sparsity,
            rounds=1 + last // options.epochs_between,
            epochs_between=options.epochs_between,
        )
        self.reporter.say(
            f"FairGRAPE prunes in {schedule.rounds} rounds, {options.epochs_between} epochs apart"
        )
        return schedule

    def _scoring_batches(self, train: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same ones in every round."""
        most = self.options.score_batches
        return sampled_batches(
            train,
            self.source.preprocessing,
            self.compute,
            self.options.seed,
            most and most * self.compute.batch_size,
            self.reporter,
            "scoring weights by group",
        )

    def _split(self, name: str) -> Split:
        return self.data.split(name, self.source.preprocessing, self.options, self.reporter)

    def _evaluate(self, model: nn.Module, split: Split, who: str) -> Predictions:
        title = f"{who} on {split.name}"
        preprocessing = self.source.preprocessing
        return evaluate(model, split, preprocessing, self.compute, self.reporter, title)

    def _mixed(self, model: nn.Module, split: Split, who: str) -> Predictions:
        return evaluate_mixed(
            model,
            split,
            self.source.preprocessing,
            self.compute,
            self.options.mix_share,
            self.options.seed,
            self.reporter,
            f"{who} on {split.name}, mixed",
        )

    def _stats(self, says: Predictions, split: Split) -> GroupStats:
        stats = says.stats(split.groups, self.data.labels.grouping.num_groups)
        return stats.to(self.compute.device)
