"""What a stage starts from: the groups CSV with its images, and the models it names.

Nothing here guesses. What was not given is taken from what the files themselves name, or from the
newest fitting file in the current folder, and is always said.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ceag_cli.arrays import Integers
from ceag_cli.budgets import uniform
from ceag_cli.checkpoints import Checkpoint, load
from ceag_cli.classes import class_index
from ceag_cli.columns import SHOWN_PROBLEMS
from ceag_cli.distributed import World
from ceag_cli.errors import CheckpointError, LineageError, OptionError, PruningError, first
from ceag_cli.groups import look_alikes
from ceag_cli.headers import SPLITS
from ceag_cli.images import Images, Split
from ceag_cli.joining import JoinedCsv, without_a_row
from ceag_cli.labels import Labels, read_labels
from ceag_cli.lineage import (
    DatasetReference,
    GroupsReference,
    Lineage,
    Reference,
    newest,
    weights_in,
)
from ceag_cli.masks import Masks
from ceag_cli.models import Preprocessing, architecture_of, check_runs
from ceag_cli.options import (
    ArchitectureOptions,
    DataOptions,
    DenseOptions,
    PruneOptions,
    RunOptions,
)
from ceag_cli.pixels import PixelCache
from ceag_cli.progress import Reporter
from ceag_cli.prunable import prunable_parameters
from ceag_cli.reading import ANOTHER, Reading
from ceag_cli.sources import (
    join,
    refuse_without_dataset,
    relative_place,
)
from ceag_cli.stores import Store, find_duplicates, open_store
from ceag_cli.timmconfigs import TimmConfig

MANY_ZEROS = 0.01
"""Share of zeros from which a model that says nothing of it is taken for a pruned one."""


class Duplicate(NamedTuple):
    """An image that is byte for byte one of an earlier split."""

    path: str
    split: str
    same_as: str
    of_split: str


@dataclass
class Data:
    """A groups CSV that has been read, with its images found but not decoded."""

    labels: Labels
    store: Store
    data_dir: str | None
    """As given; ``None`` when the images were found from the CSV."""
    dataset: DatasetReference | None = None
    """The data set that images come from, where that is not the files that the CSV names."""
    unlisted: int = 0
    """Images of the data set that have no row and are left out."""
    targets: Tensor | None = None
    """Class index of each row, once the classes are known."""

    def require(self, splits: Sequence[str], seen_in_train: bool) -> None:
        """Raise all problems of the CSV, those of the splits asked for included.

        Raises:
            LabelsError: There is any.
        """
        self.labels.check_splits(splits, seen_in_train)
        self.labels.raise_problems()

    def duplicates(self) -> list[Duplicate]:
        """The images that are byte for byte in an earlier split, too; the first process looks."""
        paths, splits = self.labels.paths, self.labels.split
        search = partial(find_duplicates, self.store, paths, splits)
        return [
            Duplicate(paths[row], SPLITS[splits[row]], paths[other], SPLITS[splits[other]])
            for row, other in World.current().on_first(search)
        ]

    def warn_of_duplicates(self, reporter: Reporter) -> None:
        """Say how many held-out images are also in train."""
        for warning in of_duplicates(len(self.duplicates())):
            reporter.warn(warning)

    def split(
        self,
        name: str,
        preprocessing: Preprocessing,
        options: RunOptions,
        reporter: Reporter,
        keep: bool = True,
    ) -> Split:
        """The images of a split: decoded and kept, or each time that they are gone through."""
        assert self.targets is not None
        labels = self.labels
        rows = labels.rows(name)
        paths = [labels.paths[row] for row in rows.tolist()]
        world = World.current()
        with reporter.bar(f"reading {name} images", len(paths)) as update:
            images = Images(
                self.store,
                paths,
                preprocessing,
                options.workers,
                progress=lambda done: update(done, ""),
                place=partial(_place, labels.csv, labels.lines[rows.numpy()]),
                keep=keep,
                cache=PixelCache.of(options.cache, options.cache_size, reporter),
                device=world.device(options.device),
                world=world,
            )
        if keep and images.kept is None and images.in_cache is None:
            reporter.say(
                f"the pixels of {len(paths)} {name} images take {images.size / 1e9:.1f} GB, more "
                "than is kept in memory, so they are decoded in every pass; --cache DIR keeps them "
                "in a folder"
            )
        return Split(name, images, self.targets[rows], labels.groups[rows])

    def reference(self, named_by: Path) -> GroupsReference:
        """How the metadata of the file ``named_by`` refers to this data."""
        return GroupsReference(
            Reference.to(self.labels.csv, self.labels.sha256, named_by),
            relative_place(self.data_dir, named_by),
            self.labels.label_column,
            self.labels.groups_by,
            self.labels.missing,
            self.dataset and self.dataset.moved(Path(), named_by.parent),
        )

    def hashes(self) -> dict[str, str]:
        """Of what was read, by its role."""
        of_dataset = {"data set": self.dataset.sha256 or ""} if self.dataset is not None else {}
        return {"groups CSV": self.labels.sha256, **of_dataset}

    def about_dataset(self) -> dict[str, Any] | None:
        """The data set as reports show it; ``None`` for the files that the CSV names."""
        if self.dataset is None:
            return None
        return {"root": str(self.store.root), "left_out": self.unlisted, **asdict(self.dataset)}


def _place(csv: Path, lines: Integers, row: int) -> str:
    return f"{csv} row {lines[row]}"


def of_duplicates(count: int) -> list[str]:
    """How many held-out images are also in train, in words; nothing where there are none."""
    if not count:
        return []
    which = "1 image is" if count == 1 else f"{count} images are"
    return [
        f"{which} byte for byte in more than one split; accuracies on val or test are a little "
        "too good"
    ]


def open_data(
    options: DataOptions,
    named_by: Sequence[Checkpoint],
    reporter: Reporter,
    command: str,
    control: Sequence[str] = (),
    cluster_id: str | None = None,
) -> Data:
    """Read the groups CSV given, or the one that a model names.

    How it is read (columns, folder of the images) is what the options say, else, when it is the
    very CSV that the model names, what was said then. ``control`` and ``cluster_id`` name further
    columns to read.

    Raises:
        OptionError: None was given and no model names one.
        LabelsError, LineageError, ImageError: It cannot be read, has changed, or its images
            cannot be found.
    """
    named = [(checkpoint.path, checkpoint.lineage) for checkpoint in named_by]
    reading = Reading.of(options, named, reporter)
    if reading.csv is None:
        raise OptionError(f"ceag {command} needs --groups, a CSV with one row per image")
    dataset, data_dir, joined = reading.dataset, reading.data_dir, None
    if dataset is not None:
        joined = join(
            *(reading.csv, dataset, data_dir, reading.label_column, options.class_map),
            allow_outside=options.allow_outside,
        )
    else:
        refuse_without_dataset(options)
    labels = read_labels(
        reading.csv,
        reading.label_column or "label",
        reading.groups_by,
        reading.missing or "error",
        cluster_id,
        control,
        joined,
        allow_outside=options.allow_outside,
    )
    if not labels.paths and not labels.set_aside:
        labels.raise_problems()
    if joined is not None:
        store: Store = joined.store
        _look_in_dataset(labels, joined, reporter)
    else:
        store = open_store(
            labels.csv,
            data_dir,
            chain(labels.paths, labels.set_aside.values()),
            allow_outside=options.allow_outside,
        )
        _look_for_images(labels, store)
    count = labels.grouping.num_groups
    of = "" if dataset is None else f" of the data set {dataset.name}"
    reporter.say(
        f"{len(labels.paths)} images{of} in {store.root}, target '{labels.label_column}', "
        f"{count} group{'s' if count != 1 else ''} by {labels.groups_by}"
    )
    if labels.dropped:
        reporter.say(left_out(labels.dropped, labels.csv))
    for warning in look_alikes(labels.grouping.names) if command != "audit" else ():
        reporter.warn(warning)  # that of an audit is part of what it found
    if joined is None:
        return Data(labels, store, data_dir)
    return Data(labels, store, data_dir, joined.store.dataset, len(joined.unlisted()))


def left_out(count: int, path: Path) -> str:
    """How many rows ``--missing drop`` has left out."""
    which = "1 row without a group is" if count == 1 else f"{count} rows without a group are"
    return f"{which} left out of {path}, from the groups and from the whole (--missing drop)"


def _look_in_dataset(labels: Labels, joined: JoinedCsv, reporter: Reporter) -> None:
    """Note what the rows and the images of a data set do not have in common."""
    joined.note_problems(labels)
    store = joined.store
    example = f"the data set has '{store.names[0]}', ..." if store.names else "it has no image"
    _look_for_images(labels, store, f"they are called otherwise there: {example}")
    unlisted = joined.unlisted()
    if unlisted and store.dataset.unlisted == "drop":
        reporter.say(f"{without_a_row(unlisted)} in {labels.csv}; left out (--unlisted drop)")


def _look_for_images(
    labels: Labels,
    store: Store,
    remedy: str = "name the folder or .zip that the paths are relative to with --data-dir",
) -> None:
    """Note every image that does not exist; stop when none does, since the folder is wrong then."""
    there = np.fromiter(map(store.has, labels.paths), bool, len(labels.paths))
    rows = np.flatnonzero(~there).tolist()
    missing = {int(labels.lines[row]): labels.paths[row] for row in rows}
    missing |= {line: path for line, path in labels.set_aside.items() if not store.has(path)}
    count = len(labels.paths) + len(labels.set_aside)
    said = {line: store.absent(path) for line, path in _first(missing).items()}
    if len(missing) == count and all(text.startswith("there is no") for text in said.values()):
        labels.problem(
            0,
            f"none of its {count} images is in {store.root} "
            f"(first: '{missing[min(missing)]}'); {remedy}",
        )
        labels.raise_problems()
    labels.more += len(missing) - len(said)
    for line, text in said.items():
        labels.problem(line, text)


def _first(missing: Mapping[int, str]) -> dict[int, str]:
    """Of many images that are not there those of the first rows, which are told one by one."""
    return {line: missing[line] for line in sorted(missing)[:SHOWN_PROBLEMS]}


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
    for warning in checkpoint.warnings:
        reporter.warn(warning)
    reporter.say(
        f"{path}: {architecture_of(checkpoint.model)} (from {checkpoint.architecture_from}), "
        f"{checkpoint.preprocessing}"
    )
    check_runs(checkpoint.model, checkpoint.preprocessing)
    return checkpoint


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
    shapes, wanted = (
        {name: tuple(tensor.shape) for name, tensor in checkpoint.model.state_dict().items()}
        for checkpoint in (early, source)
    )
    if shapes != wanted:
        other = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
        raise CheckpointError(
            f"{early.path}: tensor '{other[0]}' is not as in {source.path}, so these are not its "
            "early weights"
        )
    return early


def masks_of(checkpoint: Checkpoint) -> Masks:
    """The masks of a pruned model: the zeros of the tensors that its metadata lists.

    For a file of another tool, the zeros of every prunable tensor that has any.

    Raises:
        CheckpointError: There are fewer zeros than the metadata says: the file was changed.
        PruningError: The model is not pruned.
    """
    record = checkpoint.lineage and checkpoint.lineage.sparsity
    if record:
        masks = Masks.from_zeros(checkpoint.model, record.tensors)
        zeros = masks.zeros()
        changed = [
            f"{checkpoint.path}: tensor '{name}' has {zeros.get(name, 0)} zeros, its metadata "
            f"says {expected}; the file was changed after pruning"
            for name, (expected, _) in record.tensors.items()
            if zeros.get(name, 0) < expected
        ]
        if changed:
            raise CheckpointError(first(changed))
        return masks
    masks = Masks.from_zeros(checkpoint.model, prunable_parameters(checkpoint.model))
    pruned = {name: mask for name, mask in masks.pruned.items() if bool(mask.any())}
    if not pruned:
        raise PruningError(
            f"{checkpoint.path}: has no zeros in its weights, so it is not pruned; prune it with "
            "'ceag prune', or give --sparsity"
        )
    return Masks(checkpoint.model, pruned)


@dataclass(frozen=True)
class Rule:
    """Where a model is pruned, and how the zeros are spread."""

    names: tuple[str, ...]
    """The parameters that are pruned."""
    scope: str = "layer"
    cap: float | None = None
    """Largest fraction removed of any one of them, where the scope is another."""


def rule_of(checkpoint: Checkpoint, sparsity: float, reporter: Reporter) -> Rule:
    """The rule by which a model is pruned further: its own, as far as its metadata says it.

    Args:
        checkpoint: The model, pruned or dense.
        sparsity: Fraction to be removed.
        reporter: Hears what of its own rule does not go on.
    """
    path, everywhere = checkpoint.path, tuple(prunable_parameters(checkpoint.model))
    record = checkpoint.lineage and checkpoint.lineage.sparsity
    if not record:
        if Masks.from_zeros(checkpoint.model, everywhere).sparsity >= MANY_ZEROS:
            reporter.warn(
                f"{path}: does not say by what rule it is pruned; --sparsity {sparsity:g} is "
                f"reached in each of the {len(everywhere)} tensors that may be pruned"
            )
        return Rule(everywhere)
    assert checkpoint.lineage is not None
    names = tuple(record.tensors)
    if set(names) != set(everywhere):
        reporter.say(f"{path}: is pruned further in the {len(names)} tensors that it is pruned in")
    other = {f"--criterion {record.criterion}": record.criterion != "magnitude"}
    other[f"--pattern {record.pattern}"] = record.pattern != "unstructured"
    for rule in (rule for rule, applies in other.items() if applies):
        reporter.warn(
            f"{path}: is pruned by {rule}; --sparsity {sparsity:g} goes on from there by magnitude "
            "alone"
        )
    return Rule(names, record.scope, checkpoint.lineage.recipe.get("max_layer_sparsity"))


def check_further(
    checkpoint: Checkpoint,
    sparsity: float,
    reporter: Reporter,
    names: Iterable[str] | None = None,
    scope: str = "layer",
) -> None:
    """Say that a model is pruned already where it is to be pruned to a sparsity.

    Args:
        checkpoint: The model.
        sparsity: Fraction to be removed.
        reporter: Hears it.
        names: The tensors to be pruned; by default all that may be.
        scope: Whether the sparsity is that of every tensor, or of all of them together.

    Raises:
        PruningError: There are more zeros already than that asks for.
    """
    names = prunable_parameters(checkpoint.model) if names is None else names
    masks = Masks.from_zeros(checkpoint.model, names)
    zeros = masks.zeros()
    most = uniform({name: mask.shape for name, mask in masks.pruned.items()}, sparsity)
    denser = [
        f"{checkpoint.path}: tensor '{name}' is {zeros[name] / mask.numel():.2%} zero already"
        for name, mask in masks.pruned.items()
        if zeros[name] > most[name] and scope == "layer"
    ]
    if scope != "layer" and sum(zeros.values()) > sum(most.values()):
        denser = [f"{checkpoint.path}: is {masks.sparsity:.2%} zero already"]
    if denser:
        raise PruningError(
            [
                *first(denser),
                f"--sparsity {sparsity:g} asks for less, and pruned weights do not come back: ask "
                "for more, start from the dense model, or fine-tune it as it is ('ceag mitigate' "
                "without --sparsity)",
            ]
        )
    if checkpoint.lineage is None or checkpoint.lineage.sparsity is None:
        return  # a few zeros by chance are nothing to speak of
    further = f"is pruned further, to {sparsity:.2%}"
    if zeros == most:
        further = "no more weights are pruned"
    reporter.say(f"{checkpoint.path}: is pruned to {masks.sparsity:.2%} already; {further}")


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
