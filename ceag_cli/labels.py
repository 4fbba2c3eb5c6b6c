"""The groups CSV: one row per image with its path, label, split and sensitive features.

Reading never stops at the first bad row: every problem is kept with its line in the file (the
header is line 1), and :meth:`Labels.raise_problems` reports them together, before any training.
"""

from __future__ import annotations

import _csv
import csv
import gc
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from torch import Tensor

from ceag_cli.errors import LabelsError
from ceag_cli.groups import Grouping, ambiguous, crossed
from ceag_cli.kinds import kind_of, refuse_answers, refuse_separator, taken
from ceag_cli.quotes import stray_quotes
from ceag_cli.recipe import nearest

PATH_COLUMNS = ("path", "file_name", "filename")
SPLITS = ("train", "val", "test")
SHOWN_PROBLEMS = 50

POLICIES = ("error", "group", "drop")
"""What to do with an image that has no group: refuse it, give it a group, leave it out."""

MISSING = "<missing>"
"""Group of the images that have none."""

AT_ONCE = 1 << 12
"""Rows of a CSV that are turned into columns at a time; so few that they stay in the cache."""

_UNUSUAL = ("//", "/.", "..", ":", "\\", "\n/", "\n.", "/\n")
"""A path needs one of these, with line breaks around it, to lie outside of its folder or to be
written in two ways."""


@dataclass
class Labels:
    """The rows of a groups CSV that can be used, and what is wrong with the others."""

    csv: Path
    sha256: str
    label_column: str
    groups_by: str
    """The columns that make the groups, in the form of ``--groups-by``."""
    grouping: Grouping
    lines: list[int]
    """Line of each row in the file."""
    paths: list[str]
    labels: list[str]
    splits: list[str]
    groups: Tensor
    """Group ids of each row, int64, shape ``(N, F)``."""
    missing: str = "error"
    """What was done with images that have no group, one of ``POLICIES``."""
    dropped: int = 0
    """Rows that were left out since they have none."""
    cluster_id: str | None = None
    """Column that tells which images belong together."""
    cells: dict[str, list[str]] = field(default_factory=dict)
    """For each row what stands in the columns that make groups, clusters and control levels."""
    problems: dict[int, list[str]] = field(default_factory=dict)
    """What is wrong, by line; line 0 holds what concerns the whole file."""
    set_aside: dict[int, str] = field(default_factory=dict)
    """Path of each row that has a problem elsewhere, by line: its image is looked for all the same,
    so that one reading finds everything."""

    def rows(self, split: str) -> Tensor:
        """Row numbers of a split, int64, in file order."""
        return torch.tensor([i for i, s in enumerate(self.splits) if s == split], dtype=torch.int64)

    def problem(self, line: int, text: str) -> None:
        """Note a problem of a line of the file; 0 for the file as a whole."""
        self.problems.setdefault(line, []).append(text)

    def check_labels(self, index_of: Mapping[str, int], whose: str) -> Tensor:
        """Class index of each row, int64, shape ``(N,)``; an unknown label is a problem."""
        unknown: dict[str, list[int]] = {}
        targets = torch.zeros(len(self.labels), dtype=torch.int64)
        for row, label in enumerate(self.labels):
            if label in index_of:
                targets[row] = index_of[label]
            else:
                unknown.setdefault(label, []).append(self.lines[row])
        for label, lines in unknown.items():
            more = f" (and {len(lines) - 1} more rows)" if len(lines) > 1 else ""
            self.problem(
                lines[0],
                f"label '{label}' is not known to {whose}{nearest(label, index_of)}{more}; "
                "map names to outputs with --class-map, or give a new classifier with "
                "'ceag dense --num-classes'",
            )
        return targets

    def check_splits(self, required: Iterable[str], seen_in_train: bool) -> None:
        """Note a split without rows and, if asked, groups of other splits that train lacks."""
        for split in required:
            if split not in self.splits:
                self.problem(0, f"no row has split '{split}'")
        if not seen_in_train or "train" not in self.splits:
            return
        in_train = set(self.groups[self.rows("train")].reshape(-1).tolist())
        for split in ("val", "test"):
            rows = self.rows(split)
            missing: dict[int, list[int]] = {}
            for row, ids in zip(rows.tolist(), self.groups[rows].tolist(), strict=True):
                for group in ids:
                    if group not in in_train:
                        missing.setdefault(group, []).append(self.lines[row])
            for group, lines in missing.items():
                feature, value = self.grouping.names[group]
                self.problem(
                    lines[0],
                    f"group '{feature}={value}' is in split '{split}' ({len(lines)} rows) but not "
                    "in train, so nothing can be promised for it; group more coarsely with "
                    "--groups-by, or move or remove these rows",
                )

    def raise_problems(self) -> None:
        """Raise everything that is wrong, one problem per line of the message.

        Raises:
            LabelsError: There is any problem.
        """
        raise_together(self.csv, self.problems)


def raise_together(path: Path, problems: Mapping[int, Sequence[str]], more: int = 0) -> None:
    """Raise what is wrong with a table, by line, each with its place.

    Args:
        path: The file.
        problems: By line; line 0 holds what concerns the whole file.
        more: Problems that are not among these.

    Raises:
        LabelsError: There is any problem.
    """
    messages = [
        f"{path} row {line}: {text}" if line else f"{path}: {text}"
        for line in sorted(problems)
        for text in problems[line]
    ]
    rest = more + max(len(messages) - SHOWN_PROBLEMS, 0)
    if rest:
        messages = [*messages[:SHOWN_PROBLEMS], f"{path}: and {rest} more problems"]
    if messages:
        raise LabelsError([" ".join(message.splitlines()) for message in messages])


def read_labels(
    path: Path,
    label_column: str = "label",
    groups_by: str | None = None,
    missing: str = "error",
    cluster_id: str | None = None,
    control: Sequence[str] = (),
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

    Returns:
        The good rows, with the problems of the others noted.

    Raises:
        LabelsError: The file cannot be read as a table at all: it is missing, not UTF-8, empty, or
            lacks a column.
    """
    content = read_bytes(path)
    text = decoded(path, content)
    refuse_separator(path, text)
    raise_together(path, stray_quotes(content))
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(reader)]
    except StopIteration:
        raise LabelsError(f"{path}: the file is empty; it needs a header and rows") from None
    except csv.Error as error:
        raise LabelsError(f"{path} row 1: {error}") from None
    columns = _Columns.find(path, header, label_column, groups_by, cluster_id, control)
    with without_collector():
        table = _read_rows(reader, columns, missing)
    for parts in columns.features:
        cells = [table.cells.get(name, []) for name in parts]
        if len(parts) > 1 and any("*" in value for column in cells for value in set(column)):
            for problem in ambiguous(parts, zip(*cells, strict=True)):
                table.problems.setdefault(0, []).append(problem)
    values = [sorted(set(words)) for words in table.groups]
    offsets = [sum(len(v) for v in values[:f]) for f in range(len(values))]
    ids = torch.zeros(len(table.paths), len(values), dtype=torch.int64)
    for f, words in enumerate(table.groups):
        index = {value: i for i, value in enumerate(values[f], start=offsets[f])}
        ids[:, f] = torch.tensor([index[word] for word in words], dtype=torch.int64)
    return Labels(
        csv=path,
        sha256=hashlib.sha256(content).hexdigest(),
        label_column=label_column,
        groups_by=",".join(crossed(parts) for parts in columns.features),
        grouping=Grouping(
            tuple(crossed(parts) for parts in columns.features), tuple(map(tuple, values))
        ),
        lines=table.lines,
        paths=table.paths,
        labels=table.labels,
        splits=table.splits,
        groups=ids,
        missing=missing,
        dropped=table.dropped,
        cluster_id=cluster_id,
        cells=table.cells,
        problems=table.problems,
        set_aside=table.set_aside,
    )


def decoded(path: Path, content: bytes) -> str:
    """The text of a CSV.

    Raises:
        LabelsError: It is something else, or not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = kind_of(path)
        if kind is not None:
            raise LabelsError(
                f"{path}: {kind}; wanted is a CSV with one row per image{taken(kind)}"
            ) from None
        line = content[: error.start].count(b"\n") + 1
        raise LabelsError(
            f"{path} row {line}: byte {content[error.start]:#04x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a CSV.

    Raises:
        LabelsError: There is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise LabelsError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise LabelsError(f"{path}: is a folder; give the CSV file in it") from None
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True)
class _Columns:
    """Which columns of the file are which."""

    path: int
    label: int
    split: int
    features: list[list[str]]
    """Per feature, the names of its columns (several when crossed)."""
    cluster: int | None
    control: list[int]
    header: list[str]
    places: list[list[int]]
    """Per feature, where its columns are."""

    @cached_property
    def used(self) -> list[int]:
        """Columns that make groups."""
        return list(dict.fromkeys(place for parts in self.places for place in parts))

    @cached_property
    def kept(self) -> list[int]:
        """Columns whose cells are kept: those of groups, clusters and control levels."""
        cluster = [] if self.cluster is None else [self.cluster]
        return list(dict.fromkeys([*self.used, *cluster, *self.control]))

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
        if cluster_id is not None and cluster_id not in header:
            problems.append(no_such_cluster(place, header, cluster_id))
        problems += no_such_control(place, header, control)
        reserved = {*PATH_COLUMNS, "split", "label", label_column, cluster_id, *control}
        if groups_by is None:
            features = [[name] for name in header if name and name not in reserved]
            if not features:
                problems.append(
                    f"{place}: no column is left to make groups of; name one with "
                    f"--groups-by ('--groups-by {label_column}' takes the class as the group)"
                )
        else:
            features, wrong = features_of(place, header, groups_by)
            problems += wrong + refuse_cluster(path, features, cluster_id)
        if problems:
            raise LabelsError(problems)
        return cls(
            header.index(path_columns[0]),
            header.index(label_column),
            header.index("split"),
            features,
            None if cluster_id is None else header.index(cluster_id),
            [header.index(name) for name in control],
            header,
            [[header.index(name) for name in parts] for parts in features],
        )


def header_problems(
    place: str, header: Sequence[str], label_column: str, unnamed: str | None
) -> list[str]:
    """What is wrong with the columns that every table has to have.

    Args:
        place: Where the header is, for the messages.
        header: Its columns.
        label_column: The column with the target class.
        unnamed: The problem with the column that names the image, if there is one.
    """
    problems = []
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        problems.append(f"{place}: column given twice: {', '.join(twice)}")
    if unnamed is not None:
        problems.append(unnamed)
    if "split" not in header:
        problems.append(
            f"{place}: needs a column 'split' with {', '.join(SPLITS)} in its rows"
            f"{nearest('split', header)}"
        )
    if label_column not in header:
        problems.append(
            f"{place}: there is no label column '{label_column}'; name one with "
            f"--label-column (columns: {', '.join(header)})"
        )
    return problems


def no_such_cluster(place: str, header: Sequence[str], cluster_id: str) -> str:
    """What is wrong when ``--cluster-id`` names no column."""
    return (
        f"{place}: --cluster-id names '{cluster_id}', which is not a column"
        f"{nearest(cluster_id, list(header))} (columns: {', '.join(header)})"
    )


def no_such_control(place: str, header: Sequence[str], control: Sequence[str]) -> list[str]:
    """What is wrong with ``--control``."""
    return [
        f"{place}: --control names '{name}', which is not a column"
        f"{nearest(name, list(header))} (columns: {', '.join(header)})"
        for name in control
        if name not in header
    ]


def features_of(
    place: str, header: Sequence[str], groups_by: str
) -> tuple[list[list[str]], list[str]]:
    """The columns of each feature that ``--groups-by`` names, and what is wrong with them."""
    features = [[part.strip() for part in item.split("*")] for item in groups_by.split(",")]
    problems = [
        f"{place}: --groups-by names '{name}', which is not a column"
        f"{nearest(name, list(header))} (columns: {', '.join(header)})"
        for parts in features
        for name in parts
        if name not in header
    ]
    names = [crossed(parts) for parts in features]
    problems += [
        f"--groups-by names '{name}' twice"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    return features, problems


def refuse_cluster(
    path: Path, features: Sequence[Sequence[str]], cluster_id: str | None
) -> list[str]:
    """What is wrong when a group is made of the column that tells images apart by cluster."""
    if not any(cluster_id in parts for parts in features):
        return []
    return [f"{path}: column '{cluster_id}' is both in --groups-by and --cluster-id; name one"]


def name_is_taken(column: str) -> str:
    """What is wrong with a group that is called as those without one."""
    return (
        f"the group '{MISSING}' (column '{column}') has the name that --missing group gives; "
        "rename it"
    )


@contextmanager
def without_collector() -> Iterator[None]:
    """Python looks for cycles whenever many lists are made; rows of a CSV are many, without any."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _Rows:
    groups: list[list[str]]
    """Per feature, the group of each row."""
    lines: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    cells: dict[str, list[str]] = field(default_factory=dict)
    first_line: dict[str, int] = field(default_factory=dict)
    """Of each path that is no problem."""
    dropped: int = 0
    problems: dict[int, list[str]] = field(default_factory=dict)
    set_aside: dict[int, str] = field(default_factory=dict)

    def append(
        self, lines: Sequence[int], cells: Sequence[Sequence[str]], columns: _Columns
    ) -> None:
        """Append good rows, given as columns."""
        self.lines += lines
        self.paths += cells[columns.path]
        self.labels += cells[columns.label]
        self.splits += cells[columns.split]
        for groups, parts in zip(self.groups, columns.places, strict=True):
            words = [[cell or MISSING for cell in cells[place]] for place in parts]
            groups += words[0] if len(words) == 1 else map(crossed, zip(*words, strict=True))
        for place in columns.kept:
            self.cells.setdefault(columns.header[place], []).extend(cells[place])


def _records(
    reader: _csv.Reader, problems: dict[int, list[str]]
) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV with the lines that they begin in; those that cannot be read are noted.

    The csv module gives an empty list for a blank line, which is no record.
    """
    line = reader.line_num + 1
    while True:
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
            return
        except csv.Error as error:
            problems[line] = [f"cannot be read: {error}"]
            line = reader.line_num + 1


def _read_rows(reader: _csv.Reader, columns: _Columns, missing: str) -> _Rows:
    rows = _Rows([[] for _ in columns.places])
    records = _records(reader, rows.problems)
    while chunk := list(islice(records, AT_ONCE)):
        if _take_all(chunk, columns, missing, rows):
            continue
        for line, cells in chunk:
            wrong = _read_row(cells, columns, missing, line, rows)
            if wrong:
                rows.problems[line] = wrong
    if not rows.paths and not rows.problems:
        rows.problems[0] = [
            "no row has a group, so none is left (--missing drop)"
            if rows.dropped
            else "the file has a header but no rows"
        ]
    return rows


def _take_all(
    chunk: Sequence[tuple[int, list[str]]], columns: _Columns, missing: str, rows: _Rows
) -> bool:
    """Append many rows at once, if there is nothing to say of any of them."""
    if {len(cells) for _, cells in chunk} != {len(columns.header)}:
        return False
    cells = [list(map(str.strip, column)) for column in zip(*(c for _, c in chunk), strict=True)]
    paths = cells[columns.path]
    distinct = set(paths)
    filled = [columns.path, columns.label, *([] if columns.cluster is None else [columns.cluster])]
    forbidden = MISSING if missing == "group" else ""
    if (
        len(distinct) < len(paths)
        or not rows.first_line.keys().isdisjoint(distinct)
        or _unusual("\n".join(paths))
        or not set(cells[columns.split]) <= set(SPLITS)
        or any("" in cells[place] for place in filled)
        or any(forbidden in cells[place] for place in columns.used)
    ):
        return False
    lines = [line for line, _ in chunk]
    rows.first_line.update(zip(paths, lines, strict=True))
    rows.append(lines, cells, columns)
    return True


def _read_row(
    cells: list[str], columns: _Columns, missing: str, line: int, rows: _Rows
) -> list[str]:
    """Append a good row to ``rows``, or say what is wrong with it."""
    header = columns.header
    if len(cells) != len(header):
        return [f"has {len(cells)} cells, the header has {len(header)}"]
    cells = [cell.strip() for cell in cells]
    image, label, split = cells[columns.path], cells[columns.label], cells[columns.split]
    same = str(PurePosixPath(image)) if _unusual(image) else image
    wrong = []
    if not image:
        wrong.append("the path is empty")
    elif outside(image):
        wrong.append(f"path '{image}' lies outside the data folder")
    elif same in rows.first_line:
        wrong.append(f"path '{image}' was given in row {rows.first_line[same]} already")
    else:
        rows.first_line[same] = line
    if not label:
        wrong.append(f"the label is empty (column '{header[columns.label]}')")
    if split not in SPLITS:
        wrong.append(f"split '{split}' is not one of {', '.join(SPLITS)}")
    empty = [place for place in columns.used if not cells[place]]
    if missing == "error":
        wrong += [f"the group is empty (column '{header[place]}')" for place in empty]
    elif missing == "group":
        wrong += [name_is_taken(header[place]) for place in columns.used if cells[place] == MISSING]
    if columns.cluster is not None and not cells[columns.cluster]:
        wrong.append(f"the cluster is empty (column '{header[columns.cluster]}')")
    if empty and missing == "drop" and not wrong:
        rows.dropped += 1
        return []
    if wrong and rows.first_line.get(same) == line:
        rows.set_aside[line] = image
    if not wrong:
        rows.append([line], [[cell] for cell in cells], columns)
    return wrong


def _unusual(paths: str) -> bool:
    """Whether any of some paths, one a line, needs a closer look."""
    lines = f"\n{paths}\n"
    return any(part in lines for part in _UNUSUAL)


def outside(path: str) -> bool:
    """Whether a path of the CSV leaves the data folder (absolute, a drive, or ``..``)."""
    if not _unusual(path):
        return False
    windows = PureWindowsPath(path)
    return (
        PurePosixPath(path).is_absolute()
        or bool(windows.drive)
        or ".." in PurePosixPath(path).parts
        or ".." in windows.parts
    )
