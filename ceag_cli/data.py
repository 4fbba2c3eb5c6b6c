"""The data that a stage starts from: the groups CSV with its images.

Nothing here guesses. What was not given is taken from what a model names, and is always said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ceag_cli.arrays import Integers
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.columns import SHOWN_PROBLEMS
from ceag_cli.distributed import World
from ceag_cli.errors import OptionError
from ceag_cli.groups import look_alikes
from ceag_cli.headers import SPLITS
from ceag_cli.images import Images
from ceag_cli.joining import JoinedCsv, without_a_row
from ceag_cli.labels import Labels, read_labels
from ceag_cli.pixels import PixelCache
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Reporter
from ceag_cli.reading import Reading
from ceag_cli.references import DatasetReference, GroupsReference, Reference
from ceag_cli.sharedoptions import DataOptions, RunOptions
from ceag_cli.sources import join, refuse_without_dataset, relative_place
from ceag_cli.splits import Split
from ceag_cli.stores import Store, find_duplicates, open_store


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
