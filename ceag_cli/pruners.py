"""What ``ceag prune`` does by name: from the options to the rule that is applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ceag_cli import scores
from ceag_cli.batchnorm import norms_of, recalibrate
from ceag_cli.budgets import Budget, erk, pooled, uniform
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.errors import OptionError
from ceag_cli.evaluation import Compute, sampled_batches
from ceag_cli.fairgrape import prune_fairly
from ceag_cli.images import Split
from ceag_cli.inputs import Data
from ceag_cli.masks import Masks
from ceag_cli.options import NEED_DATA, PruneOptions
from ceag_cli.patterns import Pattern
from ceag_cli.progress import Reporter
from ceag_cli.pruning import prune, prune_pattern

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
    if options.criterion in NEED_DATA and options.groups is None:
        raise OptionError(
            f"--criterion {options.criterion} scores weights on train images; name their CSV with "
            "--groups"
        )
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
    if options.recalibrate and options.groups is None:
        raise OptionError("--recalibrate measures on train images; name their CSV with --groups")
    without_effect = {
        "--max-layer-sparsity has no effect with --scope layer": cap and options.scope == "layer",
        f"--score-batches has no effect with --criterion {options.criterion}": (
            options.score_batches and options.criterion not in NEED_DATA
        ),
        "--recalibrate has no effect with --epochs: training measures BatchNorm statistics": (
            options.recalibrate and options.epochs
        ),
    }
    return [text for text, applies in without_effect.items() if applies]


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
    if options.epochs and options.prune_epochs != 0:
        raise OptionError(
            f"--pattern {pattern} has no steps on the way: give --prune-epochs 0, and the --epochs "
            "of fine-tuning follow"
        )


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
            return prune_fairly(model, self.names, sparsity, self._batches, groups)
        score = self._score(model)
        pattern = pattern_of(self.options)
        if pattern is not None:
            return prune_pattern(model, self.names, pattern, score)
        budget = _budget(self.options)
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

    def recalibrate(self, model: nn.Module) -> int | None:
        """Measure BatchNorm statistics anew where there are any and images to do it on.

        Returns:
            The number of images; ``None`` when the statistics are as they were.
        """
        wanted = RECALIBRATE if self.options.recalibrate is None else self.options.recalibrate
        if self.train is None or not wanted or not norms_of(model):
            return None
        count = min(wanted, len(self.train))
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


def _budget(options: PruneOptions) -> Budget:
    if options.scope == "layer":
        return uniform
    return partial(
        {"global": pooled, "erk": erk}[options.scope], cap=options.max_layer_sparsity or 1.0
    )
