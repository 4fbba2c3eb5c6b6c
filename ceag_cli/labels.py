"""The groups CSV: one row per image with its path, label, split and sensitive features.

Reading never stops at the first bad row: every problem is kept with its line in the file (the
header is line 1), and :meth:`Labels.raise_problems` reports them together, before any training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath

import numpy as np
import torch
from torch import Tensor

from ceag_cli.arrays import Flags, Integers
from ceag_cli.columns import (
    AT_ONCE,
    SHOWN_PROBLEMS,
    Column,
    Content,
    Problems,
    Source,
    raise_together,
)
from ceag_cli.csvfiles import Csv
from ceag_cli.errors import LabelsError, nearest
from ceag_cli.groupcolumns import check_clusters, grouped, split_numbers, without_group
from ceag_cli.groups import Grouping, crossed
from ceag_cli.headers import (
    PATH_COLUMNS,
    SPLITS,
    features_of,
    header_problems,
    no_such_column,
    refuse_cluster,
)
from ceag_cli.kinds import refuse_answers

_UNUSUAL = ("//", "/.", "..", ":", "\\", "\n/", "\n.", "/\n", "\n\n")
"""A path needs one of these, with line breaks around it, to be empty, to lie outside of its folder
or to be written in two ways."""

_OUTSIDE = re.compile(r"/|[\\/]{2}|.:|(?:.*[\\/])?\.\.(?:[\\/]|\Z)", re.DOTALL)
"""What a path begins with that leaves the data folder: a root, a drive, or parts with ``..``."""


@dataclass
class Labels:
    """The rows of a groups CSV that can be used, and what is wrong with the others."""

    csv: Path
    sha256: str
    label_column: str
    groups_by: str
    """The columns that make the groups, in the form of ``--groups-by``."""
    grouping: Grouping
    lines: Integers
    """Line of each row in the file."""
    paths: list[str]
    label: Column
    """The target class; no name is without rows."""
    split: Integers
    """Number in ``SPLITS``."""
    groups: Tensor
    """Group ids of each row, int64, shape ``(N, F)``."""
    missing: str = "error"
    """What was done with images that have no group, one of ``POLICIES``."""
    dropped: int = 0
    """Rows that were left out since they have none."""
    cluster_id: str | None = None
    """Column that tells which images belong together."""
    cells: dict[str, Column] = field(default_factory=dict)
    """For each row what stands in the columns that make groups, clusters and control levels."""
    problems: dict[int, list[str]] = field(default_factory=dict)
    """What is wrong, by line; line 0 holds what concerns the whole file."""
    more: int = 0
    """Further problems, of lines below those."""
    set_aside: dict[int, str] = field(default_factory=dict)
    """Path of each row that has a problem elsewhere, by line: its image is looked for all the same,
    so that one reading finds everything."""

    @property
    def splits(self) -> list[str]:
        """The splits that have rows, in their usual order."""
        return [name for i, name in enumerate(SPLITS) if bool((self.split == i).any())]

    def rows(self, split: str) -> Tensor:
        """Row numbers of a split, int64, in file order."""
        return torch.from_numpy(np.flatnonzero(self.split == SPLITS.index(split)))

    def problem(self, line: int, text: str) -> None:
        """Note a problem of a line of the file; 0 for the file as a whole."""
        self.problems.setdefault(line, []).append(text)

    def check_labels(self, index_of: Mapping[str, int], whose: str) -> Tensor:
        """Class index of each row, int64, shape ``(N,)``; an unknown label is a problem."""
        index = np.array([index_of.get(name, -1) for name in self.label.names], np.int64)
        targets = index[self.label.codes]
        unknown = np.flatnonzero(targets < 0)
        labels, first, count = _first_of_each(self.label.codes[unknown])
        found = sorted(zip(unknown[first].tolist(), labels, count, strict=True))
        self.more += max(len(found) - SHOWN_PROBLEMS, 0)
        for row, label, rows in found[:SHOWN_PROBLEMS]:
            name = self.label.names[label]
            more = f" (and {rows - 1} more rows)" if rows > 1 else ""
            self.problem(
                int(self.lines[row]),
                f"label '{name}' is not known to {whose}{nearest(name, index_of)}{more}; "
                "map names to outputs with --class-map, or give a new classifier with "
                "'ceag dense --num-classes'",
            )
        targets[unknown] = 0
        return torch.from_numpy(targets)

    def check_splits(self, required: Iterable[str], seen_in_train: bool) -> None:
        """Note a split without rows and, if asked, groups of other splits that train lacks."""
        for split in required:
            if split not in self.splits:
                self.problem(0, f"no row has split '{split}'")
        if not seen_in_train or "train" not in self.splits:
            return
        in_train = np.zeros(self.grouping.num_groups, bool)
        in_train[self.groups[self.rows("train")].numpy().reshape(-1)] = True
        for split in ("val", "test"):
            rows = self.rows(split).numpy()
            ids = self.groups[rows].numpy()
            missing = np.flatnonzero(~in_train[ids].reshape(-1))
            groups, first, count = _first_of_each(ids.reshape(-1)[missing])
            for group, place, number in zip(groups, missing[first].tolist(), count, strict=True):
                feature, value = self.grouping.names[group]
                self.problem(
                    int(self.lines[rows[place // ids.shape[1]]]),
                    f"group '{feature}={value}' is in split '{split}' ({number} rows) but not "
                    "in train, so nothing can be promised for it; group more coarsely with "
                    "--groups-by, or move or remove these rows",
                )

    def raise_problems(self) -> None:
        """Raise everything that is wrong, one problem per line of the message.

        Raises:
            LabelsError: There is any problem.
        """
        raise_together(self.csv, self.problems, self.more)


def _first_of_each(numbers: Integers) -> tuple[list[int], Integers, list[int]]:
    """The different ones of some numbers, where each is first, and how often it is there."""
    found, first, count = np.unique(numbers, return_index=True, return_counts=True)
    return found.tolist(), first, count.tolist()


def read_labels(
    path: Path,
    label_column: str = "label",
    groups_by: str | None = None,
    missing: str = "error",
    cluster_id: str | None = None,
    control: Sequence[str] = (),
    source: Source | None = None,
    allow_outside: bool = False,
) -> Labels:
    """Read a groups CSV.

    Args:
        path: The CSV, UTF-8, with a header.
        label_column: Column with the target class.
        groups_by: Columns that make the groups, ``a,b`` one by one and ``a*b`` crossed; ``None``
            takes every column that is not reserved (path, label, split).
        missing: One of ``POLICIES``: what to do with an image that has no group.
        cluster_id: Column that tells which images belong together; it makes no group by default.
        control: Columns within whose levels groups are compared; they make no group by default. A
            cell may be empty, which is a level of its own.
        source: The CSV as columns, where something is joined to it; by default the file alone.
        allow_outside: Take paths that leave the data folder for no problem.

    Returns:
        The good rows, with the problems of the others noted.

    Raises:
        LabelsError: The file cannot be read as a table at all: it is missing, not UTF-8, empty, or
            lacks a column.
    """
    source = Csv(path) if source is None else source
    columns = _Columns.find(path, source.header, label_column, groups_by, cluster_id, control)
    noted = Problems(source)
    content = source.read(columns.words, [], columns.path, noted)
    if isinstance(source, Csv):
        del source.content  # as large as all that was made of it
    rows = _checked(content, columns, missing, noted, allow_outside)
    problems = noted.by_line()
    if not rows.good.any() and not problems:
        problems[0] = [
            "no row has a group, so none is left (--missing drop)"
            if rows.dropped
            else "the file has a header but no rows"
        ]
    whole = bool(rows.good.all())
    words = {
        name: column if whole else column.only(rows.good).without_unused()
        for name, column in content.words.items()
    }
    groups = grouped(words, columns.features)
    if groups.ambiguous:
        problems.setdefault(0, []).extend(groups.ambiguous)
    features = [crossed(parts) for parts in columns.features]
    return Labels(
        csv=path,
        sha256=source.sha256,
        label_column=label_column,
        groups_by=",".join(features),
        grouping=Grouping(tuple(features), groups.values),
        lines=content.records[rows.good] + 2,
        paths=content.ids
        if whole
        else [content.ids[row] for row in np.flatnonzero(rows.good).tolist()],
        label=words[label_column],
        split=rows.split[rows.good],
        groups=torch.from_numpy(groups.ids),
        missing=missing,
        dropped=rows.dropped,
        cluster_id=cluster_id,
        cells={name: words[name] for name in columns.kept},
        problems=problems,
        more=noted.more,
        set_aside=rows.set_aside,
    )


@dataclass(frozen=True)
class _Columns:
    """Which columns of the file are which."""

    path: str
    label: str
    features: list[list[str]]
    """Per feature, the names of its columns (several when crossed)."""
    cluster: str | None
    control: Sequence[str]

    @property
    def used(self) -> list[str]:
        """Columns that make groups."""
        return list(dict.fromkeys(name for parts in self.features for name in parts))

    @property
    def kept(self) -> list[str]:
        """Columns whose cells are kept: those of groups, clusters and control levels."""
        cluster = [] if self.cluster is None else [self.cluster]
        return list(dict.fromkeys([*self.used, *cluster, *self.control]))

    @property
    def words(self) -> list[str]:
        """Columns that are read as words: all but the path."""
        return list(dict.fromkeys([self.label, "split", *self.kept]))

    @classmethod
    def find(
        cls,
        path: Path,
        header: list[str],
        label_column: str,
        groups_by: str | None,
        cluster_id: str | None,
        control: Sequence[str],
    ) -> _Columns:
        place = f"{path} row 1"
        if groups_by is None or not any(name in header for name in PATH_COLUMNS):
            refuse_answers(path, header)
        path_columns = [name for name in PATH_COLUMNS if name in header]
        unnamed = None
        if len(path_columns) != 1:
            unnamed = (
                f"{place}: needs exactly one of the columns {', '.join(PATH_COLUMNS)}; "
                f"found {', '.join(path_columns) or 'none'}"
            )
        problems = header_problems(place, header, label_column, unnamed)
        problems += no_such_column(place, header, cluster_id, control)
        reserved = {*PATH_COLUMNS, "split", "label", label_column, cluster_id, *control}
        others = [name for name in header if name and name not in reserved]
        features, wrong = features_of(place, header, groups_by, others, label_column)
        problems += wrong + refuse_cluster(path, features, cluster_id)
        if problems:
            raise LabelsError(problems)
        return cls(path_columns[0], label_column, features, cluster_id, control)


@dataclass(frozen=True)
class _Rows:
    """What is known of each row that has a cell for every column."""

    good: Flags
    split: Integers
    """Number in ``SPLITS``; -1 where it is none."""
    dropped: int
    set_aside: dict[int, str]


def _checked(
    content: Content, columns: _Columns, missing: str, noted: Problems, allow_outside: bool
) -> _Rows:
    """Note everything that is wrong with the rows, in the order of its reasons."""
    words = content.words
    noted.are_of(content.records)
    given = _check_paths(content.ids, noted, allow_outside)
    noted.note(words[columns.label].has(""), f"the label is empty (column '{columns.label}')")
    split = split_numbers(words["split"], noted)
    without = without_group({name: words[name] for name in columns.used}, missing, noted)
    if columns.cluster is not None:
        check_clusters(columns.cluster, words[columns.cluster], noted)
    dropped = without & ~noted.wrong if missing == "drop" else np.zeros_like(without)
    aside = np.flatnonzero(given & noted.wrong).tolist()
    lines = noted.lines_of(aside)
    return _Rows(
        good=~noted.wrong & ~dropped,
        split=split,
        dropped=int(dropped.sum()),
        set_aside={lines[row]: content.ids[row] for row in aside},
    )


def _check_paths(paths: Sequence[str], noted: Problems, allow_outside: bool) -> Flags:
    """Whether each path names an image that no row before it named; all else is noted."""
    empty, leaves = np.zeros((2, len(paths)), bool)
    hashes = np.zeros(len(paths), np.int64)
    for begin in range(0, len(paths), AT_ONCE):
        part = paths[begin : begin + AT_ONCE]
        here = slice(begin, begin + len(part))
        if _unusual("\n".join(part)):
            empty[here] = [not path for path in part]
            if not allow_outside:
                leaves[here] = [_OUTSIDE.match(path) is not None for path in part]
            part = list(map(normpath, part))
        hashes[here] = np.fromiter(map(hash, part), np.int64, len(part))
    noted.note(empty, "the path is empty")
    noted.note(leaves, lambda row: f"path '{paths[row]}' lies outside the data folder")
    usable = ~(empty | leaves)
    first = _given_before(paths, hashes, np.flatnonzero(usable))
    again = np.zeros(len(paths), bool)
    again[list(first)] = True
    lines = noted.lines_of(list(first.values()))
    noted.note(
        again, lambda row: f"path '{paths[row]}' was given in row {lines[first[row]]} already"
    )
    return np.asarray(usable & ~again)


def _given_before(paths: Sequence[str], hashes: Integers, rows: Integers) -> dict[int, int]:
    """The rows whose path an earlier one of these rows has, each with the first that has it.

    A set of ten million paths would take most of a gigabyte; their hashes, sorted, are small.
    """
    ordered = np.sort(hashes[rows])
    alike = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(alike):
        return {}
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for row in rows[np.isin(hashes[rows], alike)].tolist():
        given = first.setdefault(normpath(paths[row]), row)
        if given != row:
            found[row] = given
    return found


def _unusual(paths: str) -> bool:
    """Whether any of some paths, one a line, needs a closer look."""
    lines = f"\n{paths}\n"
    return any(part in lines for part in _UNUSUAL)


def outside(path: str) -> bool:
    """Whether a path of the CSV leaves the data folder (absolute, a drive, or ``..``)."""
    return _OUTSIDE.match(path) is not None
