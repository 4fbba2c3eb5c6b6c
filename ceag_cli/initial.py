"""What ``ceag dense`` starts from: a model, its classes, and the input that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ceag_cli.checkpoints import Checkpoint, load, load_adapted
from ceag_cli.classes import class_index, class_order, ordered_names
from ceag_cli.data import Data
from ceag_cli.declarations import Idle, no_effect
from ceag_cli.errors import OptionError
from ceag_cli.inputs import check_targets, introduce
from ceag_cli.models import create, model_kwargs
from ceag_cli.optimizers import without_effect
from ceag_cli.options import DenseOptions
from ceag_cli.preprocessing import preprocessing_of
from ceag_cli.progress import Reporter
from ceag_cli.sharedoptions import WITH_IMAGES, DataOptions, TrainingOptions
from ceag_cli.weightsfiles import weights_in


def check_options(options: DenseOptions) -> list[str]:
    """Refuse options of ``ceag dense`` that are missing or contradict each other.

    Returns:
        What has no effect, as warnings.

    Raises:
        OptionError: With the options and the remedy.
    """
    if options.checkpoint is None and options.model is None:
        raise OptionError("ceag dense needs --model, a timm model, or --checkpoint, a file")
    if options.checkpoint is None and options.epochs == 0 and not options.pretrained:
        raise OptionError("--epochs 0 adopts existing weights; name them with --checkpoint")
    if options.early_epoch is not None and options.early_epoch >= options.epochs:
        raise OptionError(
            f"--early-epoch {options.early_epoch} must be less than --epochs {options.epochs}"
        )
    if options.groups is None and options.epochs > 0:
        raise OptionError("ceag dense needs --groups, a CSV with one row per image")
    adopts_hub_weights = options.pretrained and options.epochs == 0
    if adopts_hub_weights and options.groups is not None and options.class_map is None:
        raise OptionError(
            "--pretrained --epochs 0 keeps a classifier whose class names are not known; name its "
            "outputs with --class-map"
        )
    if options.checkpoint is not None and options.pretrained:
        raise OptionError("--checkpoint and --pretrained both name weights to start from")
    idle: Idle = {
        "without --checkpoint": (options.checkpoint is None, ("use_ema",)),
        "with --epochs 0": (options.epochs == 0, TrainingOptions.__dataclass_fields__),
        "without --groups": (
            options.groups is None,
            (*DataOptions.__dataclass_fields__, *WITH_IMAGES),
        ),
    }
    return no_effect(options, idle) + (without_effect(options) if options.epochs else [])


def open_given(options: DenseOptions, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint to start from, with the classifier and the input of its file.

    What is said of it is how it is going to see images, which the options may change.

    Raises:
        CheckpointError: It cannot be read, or its model does not run.
        OptionError: An option does not fit its input.
    """
    if options.checkpoint is None:
        return None
    given = load(weights_in(Path(options.checkpoint)), _as_it_is(options))
    introduce(given, preprocessing_of(given.config, options), reporter)
    return given


def _as_it_is(options: DenseOptions) -> DenseOptions:
    """The options without what changes input or outputs of a checkpoint to be fine-tuned."""
    return replace(
        options,
        num_classes=None if options.epochs else options.num_classes,
        img_size=None,
        in_chans=None,
        mean=None,
        std=None,
        interpolation=None,
        crop_pct=None,
    )


def classes_of(
    options: DenseOptions, data: Data | None, given: Checkpoint | None
) -> tuple[list[str] | None, bool]:
    """Names of the classes, and whether the classifier has to be a new one.

    Also maps the labels of the CSV to outputs. A checkpoint keeps its classifier unless
    ``--num-classes`` asks for another number of classes or its labels cannot be mapped.
    """
    if data is None:
        assert given is not None or options.pretrained
        return (given.label_names if given else None), False
    if given is not None:
        outputs = int(given.model.num_classes)  # type: ignore[arg-type]
        index = class_index(given.label_names, options.class_map, outputs)
        known = set(data.labels.label.names) <= index.keys()
        if options.num_classes in (None, outputs) and (known or options.num_classes is None):
            check_targets(data, given, options.class_map)
            names = given.label_names
            if options.class_map is not None and len(index) == outputs:
                names = sorted(index, key=lambda name: index[name])
            return names, False
        if options.epochs == 0:
            raise OptionError("--num-classes makes a new classifier, which --epochs 0 cannot train")
    names = class_order(data.labels.label.names)
    if options.class_map is not None and given is None:
        names = ordered_names(Path(options.class_map))
    if options.num_classes not in (None, len(names)):
        raise OptionError(
            f"--num-classes {options.num_classes}: column '{data.labels.label_column}' has "
            f"{len(names)} classes; name all of them with --class-map, or leave the option out"
        )
    index = {name: i for i, name in enumerate(names)}
    data.targets = data.labels.check_labels(index, f"--class-map {options.class_map}")
    return names, True


def initial_model(
    options: DenseOptions, given: Checkpoint | None, names: list[str] | None, new_classifier: bool
) -> nn.Module:
    """The model to train: of timm, or the one given, with other inputs or outputs if need be.

    Args:
        options: Of ``ceag dense``.
        given: The checkpoint to start from.
        names: Names of the classes, where they are known.
        new_classifier: Whether the classifier given does not do for them.
    """
    if given is None:
        return create(
            options.model or "",
            num_classes=len(names) if names else options.num_classes,
            in_chans=options.in_chans,
            img_size=options.img_size,
            arguments=model_kwargs(options),
            pretrained=options.pretrained,
        )
    channels, height, _ = given.preprocessing.input_size
    other_input = (options.in_chans or channels, options.img_size or height) != (channels, height)
    if not new_classifier and not other_input:
        return given.model
    classes = len(names) if new_classifier and names else int(given.model.num_classes)  # type: ignore[arg-type]
    return load_adapted(given.path, classes, options)
