"""Which data set of timm images come from: what the options say, else what a model names."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ceag_cli.csvfiles import Csv
from ceag_cli.declarations import flag
from ceag_cli.errors import LineageError, OptionError
from ceag_cli.headers import SPLITS
from ceag_cli.joining import LABEL, DatasetStore, JoinedCsv, is_by_index
from ceag_cli.references import DatasetReference, GroupsReference
from ceag_cli.sharedoptions import OF_DATASET, DataOptions

_EXTENSION = re.compile(r"\.[a-z0-9]+")

OWN_FILES = "csv"
"""The data set that is none: the files that the CSV names."""


def dataset_of(
    options: DataOptions, reference: GroupsReference | None = None, named_by: Path = Path()
) -> DatasetReference | None:
    """The data set that images come from.

    Args:
        options: They name it, or change single things of what the model says.
        reference: How a model refers to its data, if it is the CSV's.
        named_by: The model.

    Returns:
        The data set, a path in its name relative to the current folder. Its hash is kept where
        nothing is said that may change its images or classes. ``None`` for the CSV's own files.
    """
    dataset = reference.dataset if reference is not None else None
    if dataset is not None:
        dataset = dataset.moved(named_by.parent, Path())
    if options.dataset == OWN_FILES:
        return None
    if options.dataset is not None and (dataset is None or dataset.name != options.dataset):
        dataset = DatasetReference(options.dataset)
    if dataset is None:
        return None
    said = {
        "input_key": options.input_key,
        "target_key": options.target_key,
        "labels": options.dataset_labels,
        "unlisted": options.unlisted,
    }
    changed: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    splits = {name: getattr(options, f"{name}_split") for name in SPLITS}
    if any(splits.values()):
        named = {name: split for name, split in splits.items() if split is not None}
        changed["splits"] = {**dataset.splits, **named}
    if options.dataset is not None or changed.keys() - {"unlisted"}:
        changed["sha256"] = None
    return replace(dataset, **changed)


def refuse_without_dataset(options: DataOptions) -> None:
    """Refuse what is said about a data set where none is named, by a model neither.

    Raises:
        OptionError: With all of it.
    """
    said = [flag(name) for name in OF_DATASET if getattr(options, name) is not None]
    if said:
        raise OptionError(
            f"{', '.join(said)}: there is no data set that this is about; name it with --dataset, "
            "or leave this out"
        )


def takes_place(dataset: DatasetReference | None, reference: GroupsReference) -> bool:
    """Whether what a model says about the place of its images holds for a data set."""
    named = reference.dataset
    if dataset is None or named is None:
        return dataset is named
    return dataset.kind == named.kind


def relative_place(data_dir: str | None, named_by: Path) -> str | None:
    """Where images lie, as the file ``named_by`` has it."""
    if data_dir is None:
        return None
    return os.path.relpath(Path(data_dir).resolve(), named_by.resolve().parent)


def join(
    csv: Path,
    dataset: DatasetReference,
    data_dir: str | None,
    label_column: str | None,
    class_map: str | None,
    *,
    allow_outside: bool = False,
) -> JoinedCsv:
    """Open a data set, and join a groups CSV with it.

    Args:
        csv: The CSV.
        dataset: What :func:`dataset_of` found.
        data_dir: Where it lies.
        label_column: Column with the target class; ``label`` by default.
        class_map: File by which different names may mean the same class.
        allow_outside: Also take images that links in it lead to elsewhere.

    Raises:
        OptionError: An option has no meaning for it.
        LabelsError, ImageError: The CSV or the data set cannot be read, or not joined.
        LineageError: It holds other images or classes than when the model that names it was made.
    """
    key, of_files = dataset.input_key, dataset.name in ("folder", "tar")
    if key is not None and of_files and not all(_EXTENSION.fullmatch(e) for e in key.split(";")):
        raise OptionError(
            f"--input-key {key}: for --dataset {dataset.name} it is extensions in small letters, "
            "as .webp;.png"
        )
    if key is not None and dataset.kind == "torch":
        raise OptionError(f"--input-key {key}: has no meaning for --dataset {dataset.name}")
    if dataset.target_key is not None and dataset.kind not in ("hfds", "wds"):
        raise OptionError(
            f"--target-key {dataset.target_key}: has no meaning for --dataset {dataset.name}"
        )
    rows = Csv(csv)
    store = DatasetStore(dataset, data_dir, is_by_index(rows), allow_outside=allow_outside)
    if dataset.sha256 not in (None, store.dataset.sha256):
        raise LineageError(
            f"{store.root}: the data set holds other images or classes than when the model "
            f"that names it was made; restore it, or take it as it is with --dataset {dataset.name}"
        )
    return JoinedCsv(rows, store, label_column or LABEL, class_map)
