"""Options that commands share: where a command runs, the images, the model, and the training."""

from __future__ import annotations

from dataclasses import dataclass

from ceag_cli.datasetnames import not_a_dataset
from ceag_cli.declarations import Options, option

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


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
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


WITH_IMAGES = ("batch_size", "amp", "cache", "cache_size")
"""Options of running that change nothing where no images are looked at."""

OF_DATASET = (
    *("train_split", "val_split", "test_split", "input_key", "target_key"),
    *("dataset_labels", "unlisted"),
)
"""Options that say something about a data set."""


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
