"""Which groups CSV is read, and how: what the options say, else what a model says of it.

A model names the CSV that it was made with, its columns, and where its images are. What it says
holds for that very CSV (by sha256) and for no other one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ceag_cli.errors import LineageError
from ceag_cli.labels import read_labels
from ceag_cli.lineage import Lineage
from ceag_cli.progress import Reporter
from ceag_cli.references import DatasetReference, GroupsReference
from ceag_cli.sharedoptions import DataOptions
from ceag_cli.sources import dataset_of, takes_place
from ceag_cli.weightsfiles import sha256_of

ANOTHER = "name another one with --{}"

Named = tuple[Path, Lineage | None]
"""A model's file, and what it says."""


@dataclass(frozen=True)
class Reading:
    """A groups CSV and how it is read. ``None`` is what nobody has said."""

    csv: Path | None
    data_dir: str | None = None
    label_column: str | None = None
    groups_by: str | None = None
    missing: str | None = None
    dataset: DatasetReference | None = None

    @classmethod
    def of(
        cls,
        options: DataOptions,
        models: Sequence[Named],
        reporter: Reporter,
        *,
        needs_images: bool = True,
    ) -> Reading:
        """As the options say it, else the first model that names the CSV.

        Args:
            options: Of the command.
            models: In the order in which they are asked.
            reporter: Hears what was taken from a model.
            needs_images: Whether images have to be where the model says.

        Raises:
            LabelsError, LineageError: The CSV has changed or is gone, or its images are.
        """
        csv = None if options.groups is None else Path(options.groups)
        for path, lineage in models:
            reference = lineage and lineage.groups
            if not reference:
                continue
            if csv is None:
                csv = named_csv(path, reference)
                reporter.say(f"groups from {csv}, named by {path}")
            elif not csv.is_file():
                continue  # which is said when it is read
            elif sha256_of(csv) != reference.csv.sha256:
                reporter.say(
                    f"{csv} is not the groups CSV that {path} names, '{reference.csv.path}'"
                )
                continue
            dataset = dataset_of(options, reference, path)
            data_dir = options.data_dir
            if data_dir is None and reference.data_dir and takes_place(dataset, reference):
                # The images of some data sets are made of what lies elsewhere.
                looks = needs_images and (dataset is None or dataset.kind != "hfds")
                data_dir = images_of(path, reference.data_dir, csv if looks else None)
                if needs_images:
                    reporter.say(f"images from {data_dir}, named by {path}")
            return cls(
                csv,
                data_dir,
                options.label_column or reference.label_column,
                options.groups_by or reference.groups_by,
                options.missing or reference.missing,
                dataset,
            )
        columns = (options.label_column, options.groups_by, options.missing)
        return cls(csv, options.data_dir, *columns, dataset_of(options))


def named_csv(path: Path, reference: GroupsReference) -> Path:
    """The groups CSV that a model names.

    Raises:
        LabelsError: It has changed, and something is wrong in its rows.
        LineageError: It is gone, or has changed.
    """
    try:
        return reference.csv.find(path, "groups CSV", ANOTHER.format("groups"))
    except LineageError:
        changed = path.parent / reference.csv.path
        if changed.is_file() and reference.dataset is None:
            columns = (reference.label_column, reference.groups_by, reference.missing)
            read_labels(changed, *columns).raise_problems()
        raise


def images_of(path: Path, data_dir: str, csv: Path | None) -> str:
    """The folder or .zip of images that a model names, or one of that name beside the CSV.

    Args:
        path: The model.
        data_dir: As it says.
        csv: The groups CSV; ``None`` takes what the model says without a look.

    Raises:
        LineageError: There is neither.
    """
    named = path.parent / data_dir
    if csv is None:
        return os.path.relpath(named)
    for candidate in (named, csv.parent / named.name):
        if candidate.exists():
            return os.path.relpath(candidate)
    raise LineageError(
        f"{path}: its images '{data_dir}' are not there, nor '{named.name}' beside {csv}; name "
        "them with --data-dir"
    )
