"""The models that a stage starts from: which files, their classes, and what is made of them.

Nothing here guesses. What was not given is taken from what the files themselves name, or from the
newest fitting file in the current folder, and is always said.
"""

from __future__ import annotations

import os
from pathlib import Path

from ceag_cli.checkpoints import Checkpoint, first_difference, load
from ceag_cli.classes import class_index
from ceag_cli.data import Data
from ceag_cli.errors import CheckpointError, LineageError
from ceag_cli.lineage import Lineage, newest
from ceag_cli.models import architecture_of, check_runs
from ceag_cli.options import DenseOptions, PruneOptions
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Reporter
from ceag_cli.reading import ANOTHER
from ceag_cli.references import GroupsReference, Reference
from ceag_cli.sharedoptions import ArchitectureOptions
from ceag_cli.timmconfigs import TimmConfig
from ceag_cli.weightsfiles import weights_in


def check_targets(data: Data, checkpoint: Checkpoint, class_map: str | None) -> None:
    """Map the CSV's labels to a model's outputs; what cannot be mapped is a problem of the CSV."""
    num_classes: int = checkpoint.model.num_classes  # type: ignore[assignment]
    index = class_index(checkpoint.label_names, class_map, num_classes)
    whose = f"{checkpoint.path}"
    if checkpoint.label_names is None and class_map is None:
        whose += f" (it has no label names and takes 0 to {num_classes - 1})"
    data.targets = data.labels.check_labels(index, whose)


def choose(given: str | None, stages: tuple[str, ...], command: str, reporter: Reporter) -> Path:
    """The input file: the one given, else the newest fitting one in the current folder."""
    if given is not None:
        return weights_in(Path(given))
    path, stage = newest(stages, Path(), command)
    reporter.say(f"took {path}, the newest {stage} model in this folder")
    return path


def open_checkpoint(
    path: Path,
    options: ArchitectureOptions,
    reporter: Reporter,
    child: TimmConfig | None = None,
) -> Checkpoint:
    """Read a model and say what it is; ``child`` is the configuration of one made of it."""
    checkpoint = load(path, options, child)
    classes = checkpoint.model.num_classes
    if not isinstance(options, DenseOptions) and options.num_classes not in (None, classes):
        raise CheckpointError(f"{path}: has {classes} classes, --num-classes {options.num_classes}")
    introduce(checkpoint, checkpoint.preprocessing, reporter)
    return checkpoint


def introduce(checkpoint: Checkpoint, seen: Preprocessing, reporter: Reporter) -> None:
    """Say what a model is and how it is going to see images, and that it runs.

    Raises:
        CheckpointError: It does not run on the input of its file.
    """
    for warning in checkpoint.warnings:
        reporter.warn(warning)
    architecture = architecture_of(checkpoint.model)
    reporter.say(f"{checkpoint.path}: {architecture} (from {checkpoint.architecture_from}), {seen}")
    check_runs(checkpoint.model, checkpoint.preprocessing)


def find_early(source: Checkpoint, options: PruneOptions, reporter: Reporter) -> Checkpoint:
    """The same model as it was early in its training, for lottery tickets.

    Raises:
        LineageError: The model names none, or it is gone or changed.
        CheckpointError: It has other tensors than the model.
    """
    if options.early is not None:
        path = weights_in(Path(options.early))
    else:
        reference = source.lineage and source.lineage.parents.get("early")
        if not reference:
            raise LineageError(
                f"{source.path}: names no early weights to rewind to; train it with 'ceag dense "
                "--early-epoch 1', or name a file with --early"
            )
        path = reference.find(source.path, "early weights", ANOTHER.format("early"))
    early = open_checkpoint(path, options, reporter, source.config)
    name = first_difference(source, early)
    if name is not None:
        raise CheckpointError(
            f"{early.path}: tensor '{name}' is not as in {source.path}, so these are not its "
            "early weights"
        )
    return early


def parents_of(
    source: Checkpoint,
    output: Path,
    dense: Checkpoint | None = None,
    early: Checkpoint | None = None,
) -> dict[str, Reference]:
    """Parents of a file made from ``source``: the source itself and the dense model behind it.

    A lottery ticket also has the early weights that it was rewound to.
    """
    parents = {"input": Reference.to(source.path, source.sha256, output)}
    if early is not None:
        parents["early"] = Reference.to(early.path, early.sha256, output)
    if dense is not None:
        parents["dense"] = Reference.to(dense.path, dense.sha256, output)
    elif source.lineage is None or source.lineage.stage == "dense":
        parents["dense"] = parents["input"]
    elif "dense" in source.lineage.parents:
        own = source.lineage.parents["dense"]
        parents["dense"] = Reference.to(source.path.parent / own.path, own.sha256, output)
    return parents


def inherited_groups(source: Checkpoint, output: Path) -> GroupsReference | None:
    """The groups CSV that a model names, referred to from another file."""
    lineage: Lineage | None = source.lineage
    if lineage is None or lineage.groups is None:
        return None
    reference = lineage.groups
    folder = source.path.parent
    data_dir = reference.data_dir
    return GroupsReference(
        Reference.to(folder / reference.csv.path, reference.csv.sha256, output),
        data_dir and os.path.relpath((folder / data_dir).resolve(), output.resolve().parent),
        reference.label_column,
        reference.groups_by,
        reference.missing,
        reference.dataset and reference.dataset.moved(folder, output.parent),
    )
