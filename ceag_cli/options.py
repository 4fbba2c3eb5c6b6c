"""The options of every command, declared once.

A field of these classes is a flag of the command line (``groups_by`` is ``--groups-by``), a key of
a recipe and an argument of the Python functions, with one type, one default and one sentence of
help. Flags keep timm's names wherever timm has one.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, Union

from ceag_cli.clauses import (
    Group,
    Override,
    Waiver,
    read_overrides,
    read_required,
    read_waivers,
)
from ceag_cli.errors import OptionError, nearest

Options = TypeVar("Options", bound="RunOptions")

AUDIT_FORMATS = ("text", "json", "markdown", "github", "junit", "csv", "html")
"""What an audit can be written as; ``formats`` knows how."""

EXPLAIN_FORMATS = ("text", "json", "markdown", "html")
"""What an explanation can be written as; ``explanationformats`` knows how."""

EXEMPLARS_FORMATS = ("text", "json", "markdown", "csv", "html")
"""What identified exemplars can be written as; ``pieformats`` knows how."""

REPORT_EXAMPLES = {
    AUDIT_FORMATS: "junit=audit.xml",
    EXPLAIN_FORMATS: "markdown=why.md",
    EXEMPLARS_FORMATS: "csv=exemplars.csv",
}
"""For who has given something else."""

EMPTY = "is empty, as an unset variable makes it; give a value, or leave it out"
"""What is wrong with a text without letters. Taken for "not given" it would change what is done."""

POINTS = "a fraction: 0.02 is 2 points"
PERCENT = "a fraction: 0.9 is 90 %"

DATA, MODEL, TRAINING, METHOD, PRUNING, RUN, OUTPUT = (
    "Data",
    "Model and preprocessing",
    "Training",
    "Method",
    "Pruning",
    "Running",
    "Output",
)


def option(
    default: Any,
    help: str,
    panel: str,
    *,
    flags: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    positional: bool = False,
    shown: str | None = None,
    paper: Any = None,
    methods: tuple[str, ...] = (),
    read: Callable[[Any], Any] | None = None,
    repeatable: bool = False,
    rule: Callable[[Any], str | None] | None = None,
    unit: str = "",
) -> Any:
    """Declare an option.

    Args:
        default: Its default value.
        help: One sentence for ``--help`` and the documentation.
        panel: The heading under which ``--help`` lists it.
        flags: Spellings of the flag besides ``--`` and the field's name.
        low: Smallest value allowed.
        high: Largest value allowed.
        below: The value must be smaller than this.
        above: The value must be larger than this.
        choices: The values allowed.
        positional: The option is an argument of the command line, not a flag.
        shown: The default in words, where the value does not explain itself.
        paper: The default under ``--paper``, where that is another one.
        methods: The methods of mitigation that it changes anything for; none means all of them.
        read: Makes the value of what a file says, for what is no word or number. There is no flag
            for such an option.
        repeatable: The values of a list are given by repeating the flag, not as ``a,b``.
        rule: Says what is wrong with a value, if anything.
        unit: What a number means, for who takes it for another one.
    """
    metadata = {
        "help": help,
        "panel": panel,
        "flags": flags,
        "low": low,
        "high": high,
        "below": below,
        "above": above,
        "choices": choices,
        "positional": positional,
        "shown": shown,
        "paper": paper,
        "methods": methods,
        "read": read,
        "repeatable": repeatable,
        "rule": rule,
        "unit": unit,
    }
    return dataclasses.field(default=default, metadata=metadata)


ARRAYS_OF_TORCH = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
FILES_OF_TORCH = ("image_folder", "imagenet", "places365", "inaturalist")
DATASETS = ("csv", "folder", "tar", "torch/NAME", "hfds/PATH", "wds")

OF_DATASET = (
    *("train_split", "val_split", "test_split", "input_key", "target_key"),
    *("dataset_labels", "unlisted"),
)
"""Options that say something about a data set."""

_STREAMS = {
    "tfds": "decodes images by itself; write them to a folder, and say --dataset folder",
    "hfids": "is a stream, whose images cannot be named; say hfds/PATH for the same data",
}
"""Kinds of data sets that timm reads and ceag does not, and what to do instead."""


def not_a_dataset(value: str) -> str | None:
    """What is wrong with the name of a data set, if anything.

    timm takes any word that it does not know for a folder.
    """
    kind, slash, rest = value.partition("/")
    if kind in _STREAMS:
        return f"'{value}' {_STREAMS[kind]}"
    if kind == "torch" and slash:
        known = (*ARRAYS_OF_TORCH, *FILES_OF_TORCH)
        if rest in known:
            return None
        listed = ", ".join(known)
        return (
            f"'{value}' is no data set of torchvision that is read{nearest(rest, known)} ({listed})"
        )
    if value in ("csv", "folder", "tar") or kind == "wds" or (kind == "hfds" and rest):
        return None
    return f"'{value}' is not one of {', '.join(DATASETS)}{nearest(value, DATASETS)}"


def with_paper_preset(options: type[Options]) -> type[Options]:
    """Let ``paper=True`` change the defaults of an options class to those declared with ``paper``.

    What is given explicitly stays, so that every published setting can still be varied.
    """
    preset = {
        name: field.metadata["paper"]
        for name, field in options.__dataclass_fields__.items()
        if field.metadata["paper"] is not None
    }
    initialise = options.__init__

    def initialise_with_preset(self: Options, **given: Any) -> None:
        initialise(self, **(preset | given if given.get("paper") else given))

    setattr(options, "__init__", initialise_with_preset)  # noqa: B010 - mypy forbids the assignment
    return options


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every command needs: where it runs and where its results go."""

    batch_size: int = option(
        128, "Images of a batch, over all processes together.", RUN, flags=("-b",), low=1
    )
    workers: int | None = option(
        None,
        "Processes that decode images; 0 decodes in the main one.",
        RUN,
        flags=("-j",),
        low=0,
        shown="one a core where decoding takes seconds, else 0",
    )
    cache: str | None = option(
        None,
        "Folder in which decoded images are kept for later commands; made where it is missing, and "
        "safe to delete at any time.",
        RUN,
        shown="what CEAG_CACHE names, else none",
    )
    cache_size: float = option(
        20.0,
        "Gigabytes that --cache may take; what was used longest ago is removed first.",
        RUN,
        above=0,
    )
    device: str | None = option(None, "cpu, cuda or cuda:N.", RUN, shown="cuda where there is one")
    amp: bool = option(False, "Forward passes in autocast, at half precision.", RUN)
    amp_dtype: str = option(
        "bfloat16", "What --amp computes in.", RUN, choices=("bfloat16", "float16")
    )
    torchcompile: str | None = option(
        None, "Compile models with this backend of torch.compile, e.g. inductor.", RUN
    )
    seed: int = option(42, "Seed of everything random.", RUN, low=0, high=2**39 - 1)
    resume: bool = option(
        False, "Continue the interrupted run that would write the same output.", OUTPUT
    )
    overwrite: bool = option(False, "Replace an output that exists.", OUTPUT)
    output: str | None = option(
        None,
        "File to write, or a folder ending in / for model.safetensors with timm's config.json.",
        OUTPUT,
        flags=("-o",),
        shown="model.safetensors for dense, else beside the input; for audit the run folder",
    )
    format: str = option("text", "What is printed.", OUTPUT, choices=("text", "json"))

    def __post_init__(self) -> None:
        """Check values given in Python as those of a command line or a recipe are.

        Raises:
            OptionError: With every value that is out of its range.
        """
        problems: list[str] = []
        for name, field in self.__dataclass_fields__.items():
            value = getattr(self, name)
            if field.metadata["read"] is not None:
                try:
                    object.__setattr__(self, name, field.metadata["read"](value))
                except OptionError as error:
                    problems += error.problems
                continue
            for item in value if isinstance(value, tuple) else (value,):
                try:
                    if item is not None:
                        _check(called(type(self), name), item, field)
                except OptionError as error:
                    problems += error.problems
                except TypeError:
                    problems.append(f"{flag(name)}: '{item}' is of the wrong type")
        if problems:
            raise OptionError(problems)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each option that was given comes from: a flag or a file. Empty in Python."""
        found: Mapping[str, str] = self.__dict__.get("_origins", {})
        return found

    def come_from(self, origins: Mapping[str, str]) -> None:
        """Note where the options come from; it does not make them other options."""
        object.__setattr__(self, "_origins", dict(origins))


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The groups CSV and the images."""

    groups: str | None = option(
        None,
        "CSV with one row per image: path, label, split and sensitive features.",
        DATA,
        shown="the model's, where images are needed",
    )
    data_dir: str | None = option(
        None,
        "Folder or .zip that the CSV's paths are relative to; with --dataset, where that lies.",
        DATA,
        shown="the model's for the same CSV, else the CSV's folder",
    )
    allow_outside: bool = option(
        False,
        "Also take images that lie outside of the data folder: by links in it, or by absolute "
        "paths and '..' in the CSV.",
        DATA,
    )
    dataset: str | None = option(
        None,
        "Where the images come from: the files that the CSV names (csv), or a data set as timm "
        "reads it: folder, tar, torch/NAME, hfds/PATH or wds. The CSV joins it by file name "
        "(column path) or by place (column index).",
        DATA,
        shown="the model's for the same CSV, else csv",
        rule=not_a_dataset,
    )
    train_split: str | None = option(
        None,
        "Split of the data set that holds the train images; without any of the three, all of it "
        "is one.",
        DATA,
        shown="the model's, with its data set",
    )
    val_split: str | None = option(
        None,
        "Split of the data set that holds the val images.",
        DATA,
        shown="the model's, with its data set",
    )
    test_split: str | None = option(
        None,
        "Split of the data set that holds the test images.",
        DATA,
        shown="the model's, with its data set",
    )
    input_key: str | None = option(
        None,
        "Field of the image in hfds and wds; of a folder or tar, the extensions that are taken "
        "(.webp;.png).",
        DATA,
        shown="timm's",
    )
    target_key: str | None = option(
        None, "Field of the class in hfds and wds.", DATA, shown="timm's"
    )
    dataset_labels: str | None = option(
        None,
        "The data set's own classes: the label column must agree with them, and they stand in "
        "where there is none (check); or they are not looked at (ignore).",
        DATA,
        choices=("check", "ignore"),
        shown="the model's, else check",
    )
    unlisted: str | None = option(
        None,
        "What to do with images of the data set that have no row: refuse them (error), or leave "
        "them out (drop).",
        DATA,
        choices=("error", "drop"),
        shown="the model's, else error",
    )
    label_column: str | None = option(
        None, "Column with the target class.", DATA, shown="the model's, else label"
    )
    groups_by: str | None = option(
        None,
        "Columns that make the groups: 'race,gender' one by one, 'race*gender' crossed.",
        DATA,
        shown="the model's, else every column that is not path, label or split",
    )
    missing: str | None = option(
        None,
        "What to do with an image whose group is empty: refuse the CSV (error), give it the group "
        "<missing> (group), or leave it out everywhere (drop).",
        DATA,
        choices=("error", "group", "drop"),
        shown="the model's, else error",
    )
    class_map: str | None = option(
        None, "Names of the model's outputs: .txt, one a line, or .json, name to index.", DATA
    )


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """How an image becomes the model's input."""

    img_size: int | None = option(
        None, "Height and width of the input in pixels.", MODEL, low=1, shown="the model's"
    )
    in_chans: int | None = option(
        None, "Channels of the input: 3 for colour, 1 for grey.", MODEL, low=1, shown="the model's"
    )
    mean: tuple[float, ...] | None = option(
        None, "Mean of each channel, e.g. 0.5,0.5,0.5.", MODEL, shown="the model's"
    )
    std: tuple[float, ...] | None = option(
        None, "Standard deviation of each channel.", MODEL, above=0, shown="the model's"
    )
    interpolation: str | None = option(
        None,
        "How images are resized.",
        MODEL,
        choices=("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
        shown="the model's",
    )
    crop_pct: float | None = option(
        None,
        "Share of the resized image that the centre crop keeps.",
        MODEL,
        above=0,
        high=1,
        shown="the model's",
    )


@dataclass(frozen=True, kw_only=True)
class ArchitectureOptions(PreprocessingOptions):
    """Which timm model it is."""

    model: str | None = option(
        None, "Architecture: a timm model name.", MODEL, flags=("--arch",), shown="the file's"
    )
    num_classes: int | None = option(None, "Outputs of the classifier.", MODEL, low=1)
    model_kwargs: tuple[str, ...] | None = option(
        None, "Further arguments of the timm model, e.g. stem_width=8,stem_type=deep.", MODEL
    )
    use_ema: bool = option(False, "Take the averaged weights of a timm training checkpoint.", MODEL)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The optimiser and its schedule."""

    opt: str = option(
        "sgd", "Optimiser, by timm's name (sgd, momentum, adamw, ...).", TRAINING, paper="momentum"
    )
    lr: float = option(0.05, "Learning rate.", TRAINING, above=0, paper=0.01)
    momentum: float = option(0.9, "Momentum of the optimiser.", TRAINING, low=0, below=1)
    weight_decay: float = option(1e-4, "Weight decay (not on biases and norms).", TRAINING, low=0)
    sched: str = option(
        "cosine",
        "Learning-rate schedule.",
        TRAINING,
        choices=("cosine", "multistep", "constant"),
        paper="multistep",
    )
    warmup_epochs: int = option(0, "Epochs of linear warm-up.", TRAINING, low=0)
    decay_milestones: tuple[int, ...] | None = option(
        None, "Epochs at which multistep multiplies the rate by --decay-rate.", TRAINING, low=0
    )
    decay_rate: float = option(0.1, "Factor of multistep.", TRAINING, above=0, high=1)
    smoothing: float = option(0.0, "Label smoothing.", TRAINING, low=0, below=1)
    hflip: float = option(0.5, "Probability of a horizontal flip.", TRAINING, low=0, high=1)
    clip_grad: float | None = option(
        None, "Largest norm of the gradient.", TRAINING, above=0, shown="no bound"
    )
    grad_accum_steps: int = option(
        1, "Batches whose gradients are averaged into one step of the optimiser.", TRAINING, low=1
    )
    model_ema: bool = option(
        False, "Write, and choose among, moving averages of the weights.", TRAINING
    )
    model_ema_decay: float = option(
        0.9998, "Decay of the averages, which warms up from 0.", TRAINING, low=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class DenseOptions(DataOptions, ArchitectureOptions, TrainingOptions, RunOptions):
    """Train, fine-tune or adopt the dense reference model."""

    epochs: int = option(30, "Epochs; 0 adopts --checkpoint unchanged.", TRAINING, low=0, flags=())
    early_epoch: int | None = option(
        None,
        "Also write the weights as they were after so many epochs, 0 for the initial ones: "
        "lottery tickets are rewound to them (ceag prune --schedule rewind).",
        TRAINING,
        low=0,
        shown="none",
    )
    checkpoint: str | None = option(
        None, "Weights to start from (.safetensors, .pth, .pth.tar).", MODEL
    )
    pretrained: bool = option(False, "Start from timm's pretrained weights.", MODEL)


WITH_IMAGES = ("batch_size", "amp", "cache", "cache_size")
"""Options of running that change nothing where no images are looked at."""

CRITERIA = ("magnitude", "random", "taylor", "snip", "fairgrape")
NEED_DATA = ("taylor", "snip", "fairgrape")
"""The criteria that look at images."""

SCOPES = ("layer", "global", "erk")
SCHEDULES = ("one-shot", "cubic", "iterative", "rewind")


@dataclass(frozen=True, kw_only=True)
class PruneOptions(DataOptions, ArchitectureOptions, TrainingOptions, RunOptions):
    """Prune a model: at once, or gradually while it is fine-tuned."""

    checkpoint: str | None = option(
        None,
        "Weights to prune. [default: the newest dense model in the current folder]",
        MODEL,
        positional=True,
    )
    sparsity: float | None = option(
        None, "Fraction of the prunable weights to remove.", PRUNING, low=0, below=1, unit=PERCENT
    )
    criterion: str = option(
        "magnitude",
        "What a weight is worth; taylor, snip and fairgrape look at train images.",
        PRUNING,
        choices=CRITERIA,
    )
    scope: str = option(
        "layer",
        "How the zeros are spread: the same sparsity in every layer, one ranking of all weights, "
        "or by the layers' shapes (ERK).",
        PRUNING,
        choices=SCOPES,
    )
    pattern: str = option(
        "unstructured",
        "unstructured, or N:M: of every M weights along the input N are kept (2:4, 4:8).",
        PRUNING,
    )
    max_layer_sparsity: float | None = option(
        None,
        "Largest fraction removed of any one layer, with --scope global or erk.",
        PRUNING,
        above=0,
        high=1,
        shown="no bound",
    )
    include: str | None = option(
        None,
        "Prune only the tensors in whose names this regular expression is found; it may name the "
        "first layer and the classifier, which stay dense otherwise.",
        PRUNING,
    )
    exclude: str | None = option(
        None, "Leave out the tensors in whose names this regular expression is found.", PRUNING
    )
    dry_run: bool = option(
        False, "Show every tensor and what would happen to it; write nothing.", PRUNING
    )
    pack: bool = option(
        False,
        "Write a packed file, really smaller, which every command of ceag reads; 'ceag unpack' "
        "makes a plain timm file of it.",
        OUTPUT,
    )
    score_batches: int | None = option(
        None,
        "Batches of train images that weights are scored on.",
        PRUNING,
        low=1,
        shown="all of train",
    )
    recalibrate: int | None = option(
        None,
        "Train images on which BatchNorm statistics are measured anew after one-shot pruning; 0 "
        "keeps the dense model's.",
        PRUNING,
        low=0,
        shown="2048 where train images are read anyway",
    )
    epochs: int = option(
        0,
        "Epochs of fine-tuning; with --schedule iterative or rewind, after each round of pruning.",
        TRAINING,
        low=0,
    )
    schedule: str | None = option(
        None,
        "When weights go: at once; a little every epoch by the cubic schedule; in rounds with "
        "fine-tuning after each; or in rounds that each go back to early weights (lottery "
        "tickets).",
        PRUNING,
        choices=SCHEDULES,
        shown="cubic with --epochs, else one-shot; always one-shot with an N:M pattern",
    )
    prune_epochs: int | None = option(
        None,
        "Epochs until the cubic schedule reaches the final sparsity.",
        PRUNING,
        low=0,
        shown="--epochs less one",
    )
    rounds: int | None = option(
        None,
        "Rounds of --schedule iterative or rewind.",
        PRUNING,
        low=1,
        shown="so many that each removes at most a fifth of what is left; 1 with an N:M pattern",
    )
    early: str | None = option(
        None,
        "Early weights for --schedule rewind.",
        PRUNING,
        shown="those that the model names, written by ceag dense --early-epoch",
    )


METHODS = (
    "ceag",
    "naive",
    "naive-es",
    "equalized-loss",
    "fairgrape",
    "reweight",
    "group-dro",
)
CONSTRAINED = ("ceag", "equalized-loss")
"""The methods with multipliers."""


@with_paper_preset
@dataclass(frozen=True, kw_only=True)
class MitigateOptions(DataOptions, ArchitectureOptions, TrainingOptions, RunOptions):
    """Fine-tune a pruned model so that no group loses more than eps beyond the rest."""

    checkpoint: str | None = option(
        None,
        "Pruned model, or a dense one with --sparsity. "
        "[default: the newest that fits in the current folder]",
        MODEL,
        positional=True,
    )
    dense: str | None = option(
        None,
        "Where the dense model lies that psi is measured against.",
        MODEL,
        shown="where the file names it",
    )
    baseline: str | None = option(
        None, "Another dense model in its place, on purpose.", MODEL, shown="none"
    )
    eps: float = option(
        0.02,
        "Largest excess accuracy gap allowed, a fraction: 0.02 is 2 points.",
        METHOD,
        unit=POINTS,
        low=0,
        high=1,
    )
    method: str = option("ceag", "Fine-tuning method.", METHOD, choices=METHODS)
    keep: str | None = option(
        None,
        "The iterate that is written: the last; the last whose constraints hold on train (as "
        "--measure says), looked for in the last third of the epochs; or the best on val.",
        METHOD,
        choices=("last", "train", "val"),
        shown="train with ceag, val with naive-es, else last",
        paper="last",
    )
    val_share: float = option(
        0.1,
        "Share of train that is set aside to choose on, where the CSV has no val rows.",
        METHOD,
        above=0,
        below=1,
    )
    patience: int | None = option(
        None,
        "Stop after so many epochs without a better iterate.",
        METHOD,
        low=1,
        methods=("naive-es",),
        shown="train to the last epoch",
    )
    dual_lr: float | None = option(
        None,
        "Step size of the multipliers (of the group weights with group-dro).",
        METHOD,
        above=0,
        shown="from --dual-speed; 0.01 with group-dro",
        paper=0.01,
        methods=(*CONSTRAINED, "group-dro"),
    )
    dual_speed: float | None = option(
        None,
        "Speed of the multipliers, whatever the number and size of the groups: at speed 10, a "
        "group 10 points above eps gains its own weight once more in an epoch.",
        METHOD,
        above=0,
        shown="10; 1 with equalized-loss, whose violations are of loss",
        methods=CONSTRAINED,
    )
    dual_opt: str = option(
        "ascent",
        "How the multipliers move: plain gradient ascent, or the PI controller nuPI.",
        METHOD,
        choices=("ascent", "nupi"),
        paper="ascent",
        methods=CONSTRAINED,
    )
    dual_kp: float | None = option(
        None,
        "Proportional gain of nupi, in epochs: a violation that grows by v moves a multiplier as "
        "far as one of v that lasts so long.",
        METHOD,
        low=0,
        shown="0.5",
        methods=CONSTRAINED,
    )
    dual_nu: float = option(
        0.0, "Smoothing of what nupi reacts to.", METHOD, low=0, below=1, methods=CONSTRAINED
    )
    dual_restarts: bool = option(
        False,
        "Set a multiplier back to zero when its constraint holds.",
        METHOD,
        methods=("ceag",),
    )
    detach_overall: bool = option(
        False,
        "Leave the overall loss out of the gradient of the constraints.",
        METHOD,
        methods=CONSTRAINED,
    )
    buffer: int | None = option(
        None,
        "Outcomes remembered per group (k); 0 measures the constraints on each batch alone.",
        METHOD,
        low=0,
        shown="200, or the group's train images if they are fewer",
        paper=40,
        methods=CONSTRAINED,
    )
    min_count: int | None = option(
        None,
        "Outcomes after which a group's buffer counts.",
        METHOD,
        low=1,
        shown="half of the buffer",
        methods=CONSTRAINED,
    )
    full_buffers: bool = option(
        False,
        "Let a group's buffer count only when it is full.",
        METHOD,
        paper=True,
        methods=CONSTRAINED,
    )
    macro_overall: bool = option(
        False,
        "Take the overall accuracy as the plain mean over buffers, not by the groups' sizes.",
        METHOD,
        paper=True,
        methods=CONSTRAINED,
    )
    batch_means: bool = option(
        False,
        "Weigh a group's samples by their number in the batch, not by the group's share of train.",
        METHOD,
        paper=True,
        methods=CONSTRAINED,
    )
    measure: str = option(
        "mixed",
        "Where accuracies are measured for the multipliers: on train images mixed with others, "
        "which stand for unseen ones, both models in evaluation mode ('mixed'); on train images "
        "with both models in training mode ('matched'), the sparse one alone ('train'), or both in "
        "evaluation mode ('eval').",
        METHOD,
        choices=("mixed", "matched", "train", "eval"),
        paper="train",
        methods=("ceag",),
    )
    mix_share: float = option(
        0.7,
        "Share of the image itself in a mixed one.",
        METHOD,
        above=0.5,
        high=1,
        methods=("ceag",),
    )
    distill: float | None = option(
        None,
        "Share of the divergence from the dense model's answers in the loss; 0 learns from the "
        "labels alone.",
        METHOD,
        low=0,
        high=1,
        shown="0.9 with ceag, else 0",
        paper=0.0,
    )
    temperature: float = option(
        4.0,
        "Temperature of both models' answers in distillation.",
        METHOD,
        above=0,
    )
    max_multiplier_sum: float = option(
        0.9,
        "Bound on the sum of the multipliers; 0 is no bound.",
        METHOD,
        low=0,
        paper=0.0,
        methods=CONSTRAINED,
    )
    max_upweight: float = option(
        1.0,
        "Bound on what a group's samples gain in weight: at 1 a group of average size or more "
        "counts at most twice, a rarer one at most as much more as an average group has images; 0 "
        "is no bound.",
        METHOD,
        low=0,
        paper=0.0,
        methods=CONSTRAINED,
    )
    decay_on: str = option(
        "all",
        "Weights that decay: all but biases and norms, or, as in the paper's code, the "
        "classifier alone.",
        TRAINING,
        choices=("all", "classifier"),
        paper="classifier",
    )
    paper: bool = option(
        False,
        "The published algorithm and settings to the letter: changes the defaults marked 'paper'.",
        METHOD,
    )
    strict: bool = option(
        False,
        "Exit with 1 when the constraints do not hold at the end where they were measured.",
        METHOD,
    )
    sparsity: float | None = option(
        None, "Prune a dense model to this sparsity first.", PRUNING, low=0, below=1, unit=PERCENT
    )
    prune_epochs: int | None = option(
        None,
        "Epochs of gradual pruning, within --epochs; mitigation starts after them.",
        PRUNING,
        low=0,
        shown="15, but at most half of --epochs",
        paper=15,
    )
    epochs_between: int = option(
        3,
        "Epochs from one round of pruning to the next.",
        PRUNING,
        low=1,
        methods=("fairgrape",),
    )
    score_batches: int | None = option(
        None,
        "Batches that weights are scored on.",
        PRUNING,
        low=1,
        shown="all of train",
        methods=("fairgrape",),
    )
    epochs: int = option(30, "Epochs, gradual pruning included.", TRAINING, low=1, paper=60)


def _not_a_report(value: str, formats: tuple[str, ...]) -> str | None:
    kind, equals, file = value.partition("=")
    if not equals or not file:
        return f"'{value}' is not FORMAT=FILE, e.g. {REPORT_EXAMPLES[formats]}"
    if kind not in formats:
        return f"'{kind}' is not one of {', '.join(formats)}"
    return None


def _report(formats: tuple[str, ...]) -> Any:
    """The option ``--report`` of a command that has these formats."""
    return option(
        (),
        "FORMAT=FILE: also write the result to a file, as any of the formats; may be repeated.",
        OUTPUT,
        repeatable=True,
        rule=partial(_not_a_report, formats=formats),
    )


PICTURES_SHOWN = "24; 0 where the environment variable CI is set"


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Compare a dense with a sparse model by group, on the same images."""

    checkpoint: str | None = option(
        None,
        "Sparse model. [default: the newest mitigated, else the newest pruned one in the "
        "current folder]",
        MODEL,
        positional=True,
    )
    dense: str | None = option(
        None,
        "Where the dense model lies that the sparse one was made from.",
        MODEL,
        shown="where the file names it",
    )
    baseline: str | None = option(
        None,
        "Another model to compare with, on purpose; reports say so. The two may see the images in "
        "different sizes.",
        MODEL,
        shown="none",
    )
    candidate: str | None = option(
        None, "Sparse model, where it is not given as FILE.", MODEL, shown="FILE"
    )
    predictions: str | None = option(
        None,
        "Answers of two models in place of the models: a .csv, .parquet or .npz with the columns "
        "id, label, split, dense, sparse and groups.",
        DATA,
        shown="none",
    )
    cluster_id: str | None = option(
        None,
        "Column that tells which images belong together, e.g. the person in them; bounds are "
        "widened for it, and are approximate then.",
        DATA,
        shown="every image counts for itself",
    )
    forbid_duplicates: bool = option(
        False,
        "Refuse images that are byte for byte in an earlier split, too; else they are counted, "
        "listed and warned of.",
        DATA,
    )
    reevaluate: bool = option(
        False, "Evaluate both models anew, even where their answers were kept.", RUN
    )
    eps: float | None = option(
        None,
        "Largest excess accuracy gap allowed, a fraction: 0.02 is 2 points.",
        METHOD,
        unit=POINTS,
        low=0,
        high=1,
        shown="the model's, else 0.02",
    )
    gate: str = option(
        "evidence",
        "What makes the audit fail: a violation that is shown (evidence); any group that is not "
        "shown to satisfy (strict); a measured psi beyond eps, the paper's criterion (point).",
        METHOD,
        choices=("evidence", "strict", "point"),
    )
    alpha: float = option(
        0.05,
        "Error level of a PASS, and of all FAILs together.",
        METHOD,
        above=0,
        below=0.5,
    )
    interval: str = option(
        "score",
        "Bounds of psi: score holds alpha nominally, exact never exceeds it.",
        METHOD,
        choices=("score", "exact"),
    )
    against: str = option(
        "overall",
        "What a group's gap is compared with: that of all images, or of all others (rest), which "
        "does not shrink with the group's share.",
        METHOD,
        choices=("overall", "rest"),
    )
    control: tuple[str, ...] = option(
        (),
        "Columns within whose levels groups are compared, too, e.g. age or age,light (crossed); "
        "described only. They make no groups unless --groups-by says so.",
        METHOD,
        shown="none",
    )
    max_drop: float | None = option(
        None,
        "Largest loss of accuracy over all images, a fraction.",
        METHOD,
        unit=POINTS,
        low=0,
        high=1,
        shown="no bound",
    )
    min_accuracy: float | None = option(
        None,
        "Smallest accuracy of the sparse model in any group.",
        METHOD,
        unit=PERCENT,
        low=0,
        high=1,
        shown="no bound",
    )
    min_coverage: float = option(
        0.5,
        "Share of the images that must lie in groups with a verdict, or the audit decides nothing "
        "(exit 3).",
        METHOD,
        unit=PERCENT,
        low=0,
        high=1,
    )
    gate_splits: tuple[str, ...] = option(
        ("test",),
        "Splits that the verdict rests on; those that a model was fitted or chosen on are refused.",
        METHOD,
        choices=("train", "val", "test"),
    )
    plan: bool = option(
        False,
        "Run no model: show from the CSV alone which groups could be decided, and how many images "
        "the others need.",
        METHOD,
    )
    plan_churn: tuple[float, ...] = option(
        (0.02, 0.05, 0.1),
        "Shares of the images on which one of the models alone is right, assumed by --plan.",
        METHOD,
        above=0,
        high=1,
        shown="0.02,0.05,0.1",
    )
    overrides: tuple[Override, ...] = option(
        (),
        "Groups with an eps of their own, each {feature, value, eps}.",
        METHOD,
        read=read_overrides,
    )
    required_groups: tuple[Group, ...] = option(
        (),
        "Groups that must PASS whatever the gate, each {feature, value}.",
        METHOD,
        read=read_required,
    )
    waivers: tuple[Waiver, ...] = option(
        (),
        "Violations that are accepted for a while, each {feature, value, eps, reason, expires}, "
        "and owner if you like.",
        METHOD,
        read=read_waivers,
    )

    format: str = option("text", "What is printed.", OUTPUT, choices=AUDIT_FORMATS)
    report: tuple[str, ...] = _report(AUDIT_FORMATS)
    gallery: int | None = option(
        None,
        "Images lost to the sparse model that are shown on the HTML page, and so copied into it, "
        "from the worst groups; 0 shows none.",
        OUTPUT,
        low=0,
        high=200,
        shown=PICTURES_SHOWN,
    )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Describe by group why pruning costs what it costs: gradients, curvature and margins.

    At the dense model, by the quantities of Tran et al. 2022, with the change of loss that they
    predict beside the one that is measured. Nothing of it is a verdict.
    """

    checkpoint: str | None = option(
        None,
        "Sparse model. [default: the newest mitigated, else the newest pruned one in the "
        "current folder]",
        MODEL,
        positional=True,
    )
    dense: str | None = option(
        None,
        "Where the dense model lies that the sparse one was made from.",
        MODEL,
        shown="where the file names it",
    )
    baseline: str | None = option(
        None, "Another dense model in its place, on purpose.", MODEL, shown="none"
    )
    split: str = option(
        "test", "Split whose images are looked at.", DATA, choices=("train", "val", "test")
    )
    max_images_per_group: int = option(
        512,
        "Images of a group that losses, gradients and curvature are taken on, drawn by --seed; 0 "
        "takes all.",
        METHOD,
        low=0,
    )
    tol: float = option(
        0.01,
        "Residual of a largest eigenvalue, as a fraction of it, that ends Lanczos' method.",
        METHOD,
        above=0,
        below=1,
    )
    max_iterations: int = option(
        100, "Hessian-vector products a group after which it ends without that.", METHOD, low=1
    )
    output: str | None = option(
        None,
        "Folder for explanation.json and explanation.html.",
        OUTPUT,
        flags=("-o",),
        shown="the sparse model's run folder, where the audit has its reports",
    )
    format: str = option("text", "What is printed.", OUTPUT, choices=EXPLAIN_FORMATS)
    report: tuple[str, ...] = _report(EXPLAIN_FORMATS)


@dataclass(frozen=True, kw_only=True)
class ExemplarsOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Find the images that several dense and several sparse models answer differently.

    They are the pruning identified exemplars of Hooker et al. 2019, with their rate by group, and
    Welch's test of each group's excess gap over the models. Nothing of it is a verdict.
    """

    files: tuple[str, ...] = option(
        (),
        "Sparse models, e.g. seed-*/model.pruned.safetensors.",
        MODEL,
        positional=True,
        repeatable=True,
    )
    sparse: tuple[str, ...] = option(
        (),
        "Sparse model, where it is not given as FILE; may be repeated.",
        MODEL,
        repeatable=True,
    )
    dense: tuple[str, ...] = option(
        (),
        "Dense model; may be repeated.",
        MODEL,
        repeatable=True,
        shown="those that the sparse ones name",
    )
    predictions: tuple[str, ...] = option(
        (),
        "Answers of a dense and a sparse model in place of models, as ceag audit --predictions "
        "takes them or keeps them (predictions.npz); may be repeated, for several of either.",
        DATA,
        repeatable=True,
        shown="none",
    )
    split: str = option(
        "test", "Split whose images are looked at.", DATA, choices=("train", "val", "test")
    )
    cluster_id: str | None = option(
        None,
        "Column that tells which images belong together, e.g. the person in them; bounds are "
        "widened for it, and are approximate then.",
        DATA,
        shown="every image counts for itself",
    )
    reevaluate: bool = option(
        False, "Evaluate all models anew, even where their answers were kept.", RUN
    )
    alpha: float = option(
        0.05,
        "Error level of each bound, and of what is said to be shown of any group, together.",
        METHOD,
        above=0,
        below=0.5,
    )
    interval: str = option(
        "score",
        "Bounds of a group's rate beside that of all images: score holds alpha nominally, exact "
        "never exceeds it.",
        METHOD,
        choices=("score", "exact"),
    )
    output: str | None = option(
        None,
        "Folder for exemplars.json and exemplars.html.",
        OUTPUT,
        flags=("-o",),
        shown="exemplars.run",
    )
    format: str = option("text", "What is printed.", OUTPUT, choices=EXEMPLARS_FORMATS)
    report: tuple[str, ...] = _report(EXEMPLARS_FORMATS)
    gallery: int | None = option(
        None,
        "Images shown on the HTML page, and so copied into it, the clearest ones; 0 shows none.",
        OUTPUT,
        low=0,
        high=200,
        shown=PICTURES_SHOWN,
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Write a model as ONNX, which ONNX Runtime and OpenVINO run; compared with PyTorch.

    On images of noise, or with --groups on the CSV's test images. Needs 'ceag[onnx]'.
    """

    checkpoint: str | None = option(
        None,
        "Model to export. [default: the newest mitigated, else pruned, else dense one in the "
        "current folder]",
        MODEL,
        positional=True,
    )
    output: str | None = option(
        None,
        "File to write, or a folder ending in / for model.onnx.",
        OUTPUT,
        flags=("-o",),
        shown="beside the input",
    )


Command = (
    DenseOptions
    | PruneOptions
    | MitigateOptions
    | AuditOptions
    | ExplainOptions
    | ExemplarsOptions
    | ExportOptions
)

COMMANDS: dict[str, type[Command]] = {
    "dense": DenseOptions,
    "prune": PruneOptions,
    "mitigate": MitigateOptions,
    "audit": AuditOptions,
    "explain": ExplainOptions,
    "exemplars": ExemplarsOptions,
    "export": ExportOptions,
}


def value_type(options: type[Command], name: str) -> Any:
    """Type of an option without its ``| None``, e.g. ``int`` or ``tuple[float, ...]``."""
    hint = typing.get_type_hints(options)[name]
    if typing.get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def flag(name: str) -> str:
    """``groups_by`` → ``--groups-by``."""
    return "--" + name.replace("_", "-")


def given(options: Command, names: Iterable[str]) -> list[str]:
    """Those of some options that are not at their default, under ``--paper`` the published one."""
    paper = getattr(options, "paper", False)
    found = []
    for name in names:
        field = options.__dataclass_fields__[name]
        published = field.metadata["paper"] if paper else None
        if getattr(options, name) != (field.default if published is None else published):
            found.append(name)
    return found


def no_effect(options: Command, idle: Mapping[str, tuple[bool, Iterable[str]]]) -> list[str]:
    """Warnings of options that were given and change nothing.

    Args:
        options: Of the command.
        idle: By the words that follow "has no effect", whether they apply, and to which options.
    """
    return [
        f"{flag(name)} has no effect {where}"
        for where, (applies, names) in idle.items()
        if applies
        for name in given(options, names)
    ]


def called(options: type[RunOptions], name: str) -> str:
    """What an option is called on the command line: its flag, or ``FILE``."""
    return "FILE" if options.__dataclass_fields__[name].metadata["positional"] else flag(name)


def parse(options: type[Command], name: str, raw: Any, place: str = "") -> Any:
    """Turn a value from a command line or a recipe into the option's type.

    YAML 1.1 reads ``1e-3`` as a string, and lists arrive as ``a,b`` from a command line, so
    numbers are accepted as strings and lists as comma-separated strings.

    Args:
        options: The command's options class.
        name: The option.
        raw: Its value as given.
        place: What the option is called where it was given; by default as on the command line.

    Raises:
        OptionError: The value cannot be used; the message names value, option and remedy.
    """
    wanted = value_type(options, name)
    field = options.__dataclass_fields__[name]
    if field.metadata["read"] is not None:
        return field.metadata["read"](raw)
    place = place or called(options, name)
    if raw is None:
        if typing.get_type_hints(options)[name] == wanted:
            raise OptionError(f"{place}: needs a value")
        return None
    if typing.get_origin(wanted) is tuple:
        repeatable = field.metadata["repeatable"]
        items = raw.split(",") if isinstance(raw, str) and not repeatable else raw
        items = items if isinstance(items, (list, tuple)) else [items]
        element = typing.get_args(wanted)[0]
        return tuple(_check(place, _convert(place, item, element), field) for item in items)
    return _check(place, _convert(place, raw, wanted), field)


def _convert(place: str, raw: Any, wanted: type) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    wrong = OptionError(f"{place}: '{raw}' is not {words[wanted]}")
    if wanted is bool:
        if not isinstance(raw, bool):
            raise wrong
        return raw
    if isinstance(raw, (bool, dict, list)):
        raise wrong
    if wanted is str:
        return str(raw).strip()
    if wanted is int and isinstance(raw, int):
        return raw
    try:
        number = float(raw)
        if wanted is int:
            if number != int(number):
                raise wrong
            return int(raw) if isinstance(raw, str) else int(number)
    except (ValueError, OverflowError, TypeError):  # a date is of another type
        raise wrong from None
    if not math.isfinite(number):
        raise wrong
    return number


def _check(place: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    limits = field.metadata
    if isinstance(value, str) and not value.strip():
        raise OptionError(f"{place}: {EMPTY}")
    if isinstance(value, str) and "\0" in value:  # which a YAML file can hold, and no path
        raise OptionError(f"{place}: {value!a} holds a NUL")
    rules: list[tuple[str, str, Callable[[Any], bool]]] = [
        ("low", "at least {}", lambda bound: value >= bound),
        ("high", "at most {}", lambda bound: value <= bound),
        ("below", "less than {}", lambda bound: value < bound),
        ("above", "more than {}", lambda bound: value > bound),
    ]
    for key, words, holds in rules:
        bound = limits[key]
        if bound is not None and not holds(bound):
            meant = f" ({limits['unit']})" if limits["unit"] and key in ("high", "below") else ""
            raise OptionError(f"{place}: {value} must be {words.format(bound)}{meant}")
    if limits["choices"] and value not in limits["choices"]:
        raise OptionError(f"{place}: '{value}' is not one of {', '.join(limits['choices'])}")
    problem = limits["rule"](value) if limits["rule"] else None
    if problem is not None:
        raise OptionError(f"{place}: {problem}")
    return value
