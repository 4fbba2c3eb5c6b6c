"""The options of the commands that make models: dense, prune and mitigate."""

from __future__ import annotations

from dataclasses import dataclass

from ceag_cli.declarations import option, with_paper_preset
from ceag_cli.sharedoptions import (
    METHOD,
    MODEL,
    OUTPUT,
    PERCENT,
    POINTS,
    PRUNING,
    TRAINING,
    ArchitectureOptions,
    DataOptions,
    RunOptions,
    TrainingOptions,
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
