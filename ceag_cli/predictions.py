"""What two models answer to the same images, as a table: one row per image.

It is read from a CSV, .parquet or .npz of any origin, or from the .npz that ``ceag audit`` keeps.
Columns are read at once, not row by row, so that a million rows take seconds. docs/predictions.md
describes the columns and the layout of the .npz.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.classes import class_order
from ceag_cli.columns import Anything, Column, Content, Problems, Source
from ceag_cli.csvfiles import Csv
from ceag_cli.errors import LabelsError, nearest
from ceag_cli.groups import Grouping, crossed
from ceag_cli.labels import (
    PATH_COLUMNS,
    SPLITS,
    features_of,
    grouped,
    header_problems,
    no_such_cluster,
    no_such_control,
    refuse_cluster,
    split_numbers,
    without_group,
)
from ceag_cli.npzfiles import ABOUT, NAMES, Npz, coded, encoded
from ceag_cli.options import AuditOptions
from ceag_cli.parquetfiles import Parquet

OWN = "column:"
"""Before the name of a group column of the .npz whose plain name means something else there."""

ID_COLUMNS = ("id", *PATH_COLUMNS)
MODELS = ("dense", "sparse")
ALIASES = {"dense": "baseline", "sparse": "candidate"}
PROBABILITIES = ("dense_p", "sparse_p", "dense_p_label", "sparse_p_label")
"""Optional columns: the probability of the predicted label, and of the true one."""

ROUNDED = 0.01 + 1e-6
"""By so much two probabilities of an image may contradict each other, being rounded."""

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
"""Names of classes that are compared as numbers."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""A probability that is smaller is kept as this one, so that its logarithm is a number."""


@dataclass(frozen=True)
class AnswerTable:
    """Both models' answers to the same images, all splits together. Every array has N rows."""

    ids: tuple[str, ...]
    split: Integers
    """Number in ``SPLITS``."""
    classes: tuple[str, ...]
    """Names of all labels and answers; the three columns below are numbers of these."""
    label: Integers
    dense: Integers
    sparse: Integers
    grouping: Grouping
    groups: Integers
    """Group ids, shape ``(N, F)``."""
    probabilities: Mapping[str, Numbers] = field(default_factory=dict)
    """Those of ``PROBABILITIES`` that are known, in [0, 1]."""
    clusters: Integers | None = None
    """Number of the person or the like that an image belongs to."""
    cells: Mapping[str, Column] = field(default_factory=dict)
    """The columns that groups, clusters and control levels were made of, as in the file."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the columns of the models, ``dense`` and ``sparse``, are called in the file."""
    label_column: str = "label"
    groups_by: str = ""
    missing: str = "error"
    cluster_id: str | None = None
    """Column that the clusters were made of."""
    dropped: int = 0
    """Rows that were left out since they have no group."""
    source: Path = Path()
    """The file that was read; of answers just given, the groups CSV."""
    sha256: str = ""
    about: Mapping[str, Any] | None = None
    """What ``ceag audit`` has kept about the models; ``None`` for a file of other origin."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def splits(self) -> list[str]:
        """The splits that have rows, in their usual order."""
        return [name for i, name in enumerate(SPLITS) if bool((self.split == i).any())]

    @property
    def changed(self) -> Flags:
        """Whether the two models answer differently."""
        return np.asarray(self.dense != self.sparse)

    def correct(self, model: str) -> Flags:
        """Whether a model, ``dense`` or ``sparse``, is right."""
        return np.asarray(getattr(self, model) == self.label)

    def only(self, split: str) -> AnswerTable:
        """The rows of one split, in the order of the file."""
        rows = np.flatnonzero(self.split == SPLITS.index(split))
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            split=self.split[rows],
            label=self.label[rows],
            dense=self.dense[rows],
            sparse=self.sparse[rows],
            groups=self.groups[rows],
            probabilities={name: values[rows] for name, values in self.probabilities.items()},
            clusters=None if self.clusters is None else self.clusters[rows],
            cells={name: column.only(rows) for name, column in self.cells.items()},
        )


def read_answers(
    path: Path,
    *,
    label_column: str | None = None,
    groups_by: str | None = None,
    missing: str | None = None,
    cluster_id: str | None = None,
    control: Sequence[str] = (),
) -> AnswerTable:
    """Read a table of answers. What is not given is as the file was kept, or the default.

    Args:
        path: A CSV in UTF-8 with a header, a .parquet, or a .npz; told apart by their first bytes.
        label_column: Column with the true class; ``label``.
        groups_by: Columns that make the groups, ``a,b`` one by one and ``a*b`` crossed; every
            column that has no other meaning.
        missing: One of ``POLICIES``: what to do with an image that has no group; ``error``.
        cluster_id: Column that tells which images belong together; none.
        control: Columns within whose levels groups are compared; they make no group by default. A
            cell may be empty, which is a level of its own.

    Raises:
        LabelsError: With every problem of the file.
        OptionError: It is a .parquet, and pyarrow is not installed.
    """
    source = _open(path)
    kept = (source.about or {}).get("data", {})
    groups_by = groups_by or kept.get("groups_by")
    missing = missing or kept.get("missing") or "error"
    cluster_id = cluster_id or kept.get("cluster_id")
    roles = _Roles.find(
        path, source.place, source.header, label_column or "label", groups_by, cluster_id, control
    )
    problems = Problems(source)
    content = source.read(roles.words, roles.numbers, roles.id, problems)
    return _table(path, source, roles, content, problems, missing, cluster_id, groups_by is None)


def _open(path: Path) -> Source:
    """Open a table by what it is, whatever its name."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        start = b""
    if start == b"PK\x03\x04":
        return Npz(path)
    if start == b"PAR1":
        return Parquet(path)
    return Csv(path, "\t" if path.suffix == ".tsv" else ",")


def read_as_asked(path: Path, options: AuditOptions) -> AnswerTable:
    """:func:`read_answers`, by the options of an audit."""
    return read_answers(
        path,
        label_column=options.label_column,
        groups_by=options.groups_by,
        missing=options.missing,
        cluster_id=options.cluster_id,
        control=options.control,
    )


def _table(
    path: Path,
    source: Source,
    roles: _Roles,
    content: Content,
    problems: Problems,
    missing: str,
    cluster_id: str | None,
    by_default: bool,
) -> AnswerTable:
    words, count = content.words, len(content.ids)
    if not count and not problems:
        raise LabelsError(f"{path}: the file has a header but no rows")
    problems.are_of(content.records)
    _check_ids(content.ids, problems)
    classes, said = _classes(roles, words, problems)
    split = split_numbers(words[roles.split], problems)
    _check_probabilities(roles, content, said, problems)
    used = dict.fromkeys(part for parts in roles.features for part in parts)
    cells = {name: words[roles.where(name)] for name in used}
    without = without_group(cells, missing, problems)
    if by_default:
        _check_variety(cells, problems)
    clusters = None
    if cluster_id is not None:
        cells[cluster_id] = words[roles.where(cluster_id)]
        clusters = cells[cluster_id].codes
        empty = cells[cluster_id].has("")
        problems.note(empty, f"the cluster is empty (column '{cluster_id}')")
    cells |= {name: words[roles.where(name)] for name in roles.control}
    problems.raise_all()
    dropped = int(without.sum()) if missing == "drop" else 0
    if dropped == count:
        raise LabelsError(f"{path}: no row has a group, so none is left (--missing drop)")
    left = ~without if dropped else slice(None)
    groups = grouped(cells, roles.features, left)
    if groups.ambiguous:
        raise LabelsError([f"{path}: {problem}" for problem in groups.ambiguous])
    table = AnswerTable(
        ids=tuple(np.array(content.ids, object)[left].tolist() if dropped else content.ids),
        split=split[left],
        classes=classes,
        label=said["label"][left],
        dense=said["dense"][left],
        sparse=said["sparse"][left],
        grouping=Grouping(tuple(crossed(parts) for parts in roles.features), groups.values),
        groups=groups.ids,
        probabilities={
            role: content.numbers[name][left] for role, name in roles.probabilities.items()
        },
        clusters=None if clusters is None else clusters[left],
        cells={name: column.only(left) for name, column in cells.items()},
        columns={"dense": roles.dense, "sparse": roles.sparse},
        label_column=roles.label,
        groups_by=",".join(crossed(parts) for parts in roles.features),
        missing=missing,
        cluster_id=cluster_id,
        dropped=dropped,
        source=path,
        sha256=source.sha256,
        about=source.about,
    )
    strange = list(_strangers(table, roles))
    if strange:
        raise LabelsError(strange)
    return table


def _classes(
    roles: _Roles, words: Mapping[str, Column], problems: Problems
) -> tuple[tuple[str, ...], dict[str, Integers]]:
    """Names of all classes, and the number of that of each row by role: label, dense, sparse."""
    columns = {"label": roles.label, "dense": roles.dense, "sparse": roles.sparse}
    for role, name in columns.items():
        what = "label" if role == "label" else "answer"
        problems.note(words[name].has(""), f"the {what} is empty (column '{name}')")
    _check_spellings(list(columns.values()), words, problems)
    classes = tuple(class_order({word for name in columns.values() for word in words[name].names}))
    number = {name: i for i, name in enumerate(classes)}
    return classes, {
        role: np.array([number[word] for word in words[name].names], np.int64)[words[name].codes]
        for role, name in columns.items()
    }


def _check_spellings(
    columns: Sequence[str], words: Mapping[str, Column], problems: Problems
) -> None:
    """Note classes that are the same number, or the same text, written in another way.

    ``1.0`` is another word than ``1``, so that an answer is wrong which the model got right.
    """
    meant: dict[str | Decimal, tuple[str, str]] = {}
    for name in columns:
        column = words[name]
        count = np.bincount(column.codes, minlength=len(column.names))
        other: dict[int, str] = {}
        for code in np.argsort(-count, kind="stable").tolist():  # the commonest is what is meant
            word = column.names[code]
            if count[code] and word:
                first, where = meant.setdefault(_spelled(word), (word, name))
                if first != word:
                    other[code] = (
                        f"{word!a} (column '{name}') and {first!a} (column '{where}') "
                        "would be two classes; write the same class in the same way"
                    )
        if other:
            problems.note(
                np.isin(column.codes, list(other)),
                lambda row, codes=column.codes, other=other: other[int(codes[row])],  # type: ignore[misc]
            )


def _spelled(word: str) -> str | Decimal:
    """What is equal for different spellings of a class."""
    return Decimal(word) if NUMBER.fullmatch(word) else normalize("NFC", word)


def _check_variety(cells: Mapping[str, Column], problems: Problems) -> None:
    """Note columns that make groups by default and have too many values for that."""
    count = len(problems.records)
    for name, column in cells.items():
        if len(column.names) > max(20, count / 2):
            problems.whole(
                f"column '{name}' has {len(column.names)} different values in {count} rows, "
                "so it makes no groups; name the columns that do with --groups-by"
            )


def _strangers(table: AnswerTable, roles: _Roles) -> Iterator[str]:
    """Models none of whose answers is ever a label: their accuracy would be 0 whatever they do."""
    labels = set(np.unique(table.label).tolist())
    for model in MODELS:
        column = getattr(table, model)
        if not labels & set(np.unique(column).tolist()):
            yield (
                f"{table.source}: no answer in column '{getattr(roles, model)}' is a label of "
                f"column '{roles.label}' anywhere (first: '{table.classes[column[0]]}', where the "
                f"label is '{table.classes[table.label[0]]}'); are they names of the same classes?"
            )


def _check_ids(ids: Sequence[str], problems: Problems) -> None:
    if "" in (distinct := set(ids)):
        problems.note(np.array([not name for name in ids]), "the id is empty")
    if len(distinct) == len(ids):
        return
    first: dict[str, int] = {}
    again = np.array(
        [bool(name) and first.setdefault(name, row) != row for row, name in enumerate(ids)]
    )
    lines = problems.lines_of([first[ids[row]] for row in np.flatnonzero(again).tolist()])
    problems.note(
        again, lambda row: f"id '{ids[row]}' was given in row {lines[first[ids[row]]]} already"
    )


def _check_probabilities(
    roles: _Roles, content: Content, said: Mapping[str, Integers], problems: Problems
) -> None:
    usable: dict[str, Flags] = {}
    for role, name in roles.probabilities.items():
        values = content.numbers[name]
        usable[role] = (values >= 0) & (values <= 1) & ~content.unreadable[name]
        problems.note(
            ~usable[role] & ~content.unreadable[name],
            lambda row, values=values, name=name: (  # type: ignore[misc]
                f"{values[row]:g} is no probability from 0 to 1 (column '{name}')"
            ),
        )
    for model in MODELS:
        both = [f"{model}_p", f"{model}_p_label"]
        if all(role in usable for role in both):
            _check_agreement(
                [roles.probabilities[role] for role in both],
                content,
                usable[both[0]] & usable[both[1]],
                said[model] == said["label"],
                problems,
            )


def _check_agreement(
    names: Sequence[str], content: Content, usable: Flags, right: Flags, problems: Problems
) -> None:
    """Note probabilities of the answer and of the label that no model gives.

    Where the answer is the label both are one number. Where it is not, they are those of two
    classes, of which the answer is the likelier one.
    """
    p, p_label = (content.numbers[name] for name in names)

    def text(why: str) -> Callable[[int], str]:
        return lambda row: f"{names[0]} is {p[row]:g} and {names[1]} {p_label[row]:g}, {why}"

    problems.note(
        usable & right & (np.abs(p - p_label) > ROUNDED), text("but the answer is the label")
    )
    problems.note(
        usable & ~right & (p_label > p + ROUNDED),
        text("but an answer is the likeliest class; leave out both columns if a threshold decides"),
    )
    problems.note(
        usable & ~right & (p + p_label > 1 + ROUNDED),
        text("of two classes, and together more than 1"),
    )


@dataclass(frozen=True)
class _Roles:
    """Which columns of a file are which."""

    id: str
    label: str
    split: str
    dense: str
    sparse: str
    probabilities: dict[str, str]
    features: list[list[str]]
    """Per feature, the names of its columns (several when crossed)."""
    cluster: str | None
    control: tuple[str, ...]
    header: list[str]

    def where(self, name: str) -> str:
        """The column of the file that a group column is in."""
        return OWN + name if OWN + name in self.header else name

    @property
    def words(self) -> list[str]:
        """Columns that are read as words."""
        parts = [part for parts in self.features for part in parts]
        found = [*parts, *([self.cluster] if self.cluster else []), *self.control]
        own = (self.label, self.split, self.dense, self.sparse)
        return list(dict.fromkeys([*own, *map(self.where, found)]))

    @property
    def numbers(self) -> list[str]:
        """Columns that are read as numbers."""
        return list(self.probabilities.values())

    @classmethod
    def find(
        cls,
        path: Path,
        place: str,
        header: list[str],
        label_column: str,
        groups_by: str | None,
        cluster_id: str | None,
        control: Sequence[str],
    ) -> _Roles:
        columns = f"columns: {', '.join(header)}"
        identity = next((name for name in ID_COLUMNS if name in header), "")
        unnamed = None
        if not identity:
            unnamed = (
                f"{place}: needs a column 'id' that names each image"
                f"{nearest('id', header)} ({columns})"
            )
        problems = header_problems(place, header, label_column, unnamed)
        found: dict[str, str] = {}
        for name in (*MODELS, *PROBABILITIES):
            other = name
            for model, alias in ALIASES.items():
                other = other.replace(model, alias)
            present = [spelling for spelling in (name, other) if spelling in header]
            if len(present) > 1:
                problems.append(f"{place}: columns '{name}' and '{other}' mean the same")
            elif present:
                found[name] = present[0]
            elif name in MODELS:
                problems.append(
                    f"{place}: needs a column '{name}' (or '{other}') with the answers of "
                    f"that model{nearest(name, header)} ({columns})"
                )
        own = [name.removeprefix(OWN) for name in header]
        if cluster_id is not None and cluster_id not in own:
            problems.append(no_such_cluster(place, own, cluster_id))
        problems += no_such_control(place, own, control)
        if groups_by is not None:
            features, wrong = features_of(place, own, groups_by)
            problems += wrong
            problems += refuse_cluster(path, features, cluster_id)
        else:
            reserved = {*ID_COLUMNS, "split", "label", label_column, cluster_id, *control}
            reserved |= set(found.values())
            features = [[name] for name in header if name and name not in reserved]
            if not features and not problems:
                problems.append(
                    f"{place}: no column is left to make groups of; name one with "
                    f"--groups-by ('--groups-by {label_column}' takes the class as the group)"
                )
        if problems:
            raise LabelsError(problems)
        models = {model: found.pop(model) for model in MODELS}
        return cls(
            id=identity,
            label=label_column,
            split="split",
            dense=models["dense"],
            sparse=models["sparse"],
            probabilities=found,
            features=features,
            cluster=cluster_id,
            control=tuple(control),
            header=header,
        )


def as_arrays(table: AnswerTable) -> dict[str, Anything]:
    """A table in the layout of the .npz."""
    arrays: dict[str, Anything] = {"id": encoded(table.ids)}
    plain = {
        "split": Column(table.split, SPLITS),
        **{name: Column(getattr(table, name), table.classes) for name in ("label", *MODELS)},
    }
    for name, column in plain.items():
        arrays |= coded(name, column)
    for name, values in table.probabilities.items():
        arrays[name] = np.maximum(values, SMALLEST).astype(np.float32)
    taken = {*ID_COLUMNS, *MODELS, *ALIASES.values(), *PROBABILITIES, "split", "label"}
    for name, column in table.cells.items():
        if name in plain and column.words() == plain[name].words():
            continue
        # A name that means something in this file already, or could.
        apart = name in taken or name.endswith(NAMES) or name == ABOUT
        arrays |= coded(OWN + name if apart else name, column)
    return arrays
