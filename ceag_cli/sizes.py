"""How many images each group has, by split: of a groups CSV or a table of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ceag_cli.arrays import Integers
from ceag_cli.columns import Source
from ceag_cli.groupcolumns import MISSING
from ceag_cli.groups import Grouping
from ceag_cli.headers import SPLITS
from ceag_cli.labels import Labels, read_labels
from ceag_cli.options import AuditOptions
from ceag_cli.predictions import AnswerTable, read_as_asked
from ceag_cli.references import DatasetReference
from ceag_cli.sources import join


@dataclass(frozen=True)
class Sizes:
    """How many images each group has, by split."""

    file: str
    sha256: str
    grouping: Grouping
    total: Mapping[str, int]
    by_group: Mapping[str, Integers]
    missing: Mapping[str, Mapping[str, int]]
    """Images that have no group, by feature and split."""

    policy: str = "error"
    """What an audit does with images that have no group, one of ``groupcolumns.POLICIES``."""

    @classmethod
    def of(cls, labels: Labels) -> Sizes:
        """Of a groups CSV that was read with ``missing="group"`` or ``"drop"``."""
        splits = [split for split in SPLITS if split in labels.splits]
        groups = {split: labels.groups[labels.rows(split)].numpy() for split in splits}
        return cls._counted(str(labels.csv), labels.sha256, labels.grouping, groups)

    @classmethod
    def of_answers(cls, table: AnswerTable) -> Sizes:
        """Of a table of answers."""
        groups = {split: table.only(split).groups for split in table.splits}
        return cls._counted(str(table.source), table.sha256, table.grouping, groups)

    @classmethod
    def _counted(
        cls, file: str, sha256: str, grouping: Grouping, groups: Mapping[str, Integers]
    ) -> Sizes:
        by_group = {
            split: np.bincount(ids.reshape(-1), minlength=grouping.num_groups).astype(np.int64)
            for split, ids in groups.items()
        }
        missing: dict[str, dict[str, int]] = {}
        for g, (feature, value) in enumerate(grouping.names):
            if is_missing(value):
                counts = missing.setdefault(feature, dict.fromkeys(groups, 0))
                for split in groups:
                    counts[split] += int(by_group[split][g])
        total = {split: len(ids) for split, ids in groups.items()}
        return cls(file, sha256, grouping, total, by_group, missing)


def is_missing(value: str) -> bool:
    """Whether a group is that of images without one, alone or crossed."""
    return MISSING in value.split("*")


def read_sizes(
    csv: Path,
    label_column: str = "label",
    groups_by: str | None = None,
    missing: str = "error",
    cluster_id: str | None = None,
    control: Sequence[str] = (),
    joined: Callable[[], Source] | None = None,
    *,
    allow_outside: bool = False,
) -> Sizes:
    """The sizes of a CSV's groups.

    Images without a group are counted even where an audit would refuse them. ``joined`` opens the
    CSV where something is joined to it.

    Raises:
        LabelsError: With every other problem of the file.
    """

    def read(how: str) -> Sizes:
        source = None if joined is None else joined()
        labels = read_labels(
            *(csv, label_column, groups_by, how, cluster_id, control, source),
            allow_outside=allow_outside,
        )
        labels.raise_problems()
        return Sizes.of(labels)

    found = read("group")
    if missing == "drop" and found.missing:
        return replace(read("drop"), missing=found.missing, policy=missing)
    return replace(found, policy=missing)


def joined_by(
    options: AuditOptions,
    csv: Path,
    dataset: DatasetReference | None,
    data_dir: str | None,
    label_column: str | None,
) -> Callable[[], Source] | None:
    """Opens a CSV joined with a data set, whose classes may be groups; ``None`` without one."""
    if dataset is None:
        return None
    return partial(
        join,
        *(csv, dataset, data_dir, label_column, options.class_map),
        allow_outside=options.allow_outside,
    )


def sizes_of_answers(path: Path, options: AuditOptions) -> Sizes:
    """The sizes of the groups of a table of answers.

    Raises:
        LabelsError: With every problem of the file.
    """
    return Sizes.of_answers(read_as_asked(path, options))
