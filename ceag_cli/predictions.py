"""What two models answer to the same images, as a table: one row per image.

It is read from a CSV, .parquet or .npz of any origin, or from the .npz that ``ceag audit`` keeps.
Columns are read at once, not row by row, so that a million rows take seconds. docs/predictions.md
describes the columns and the layout of the .npz.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ceag_cli.answerchecks import check_ids, check_probabilities, check_variety, classes_of
from ceag_cli.answercolumns import ALIASES, ID_COLUMNS, MODELS, OWN, PROBABILITIES, Roles
from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.columns import Anything, Column, Content, Problems, Source
from ceag_cli.csvfiles import Csv
from ceag_cli.errors import LabelsError
from ceag_cli.groupcolumns import check_clusters, grouped, split_numbers, without_group
from ceag_cli.groups import Grouping, crossed
from ceag_cli.headers import SPLITS
from ceag_cli.npzfiles import ABOUT, NAMES, Npz, coded, encoded
from ceag_cli.options import AuditOptions
from ceag_cli.parquetfiles import Parquet

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
    roles = Roles.find(
        path, source.place, source.header, label_column or "label", groups_by, cluster_id, control
    )
    problems = Problems(source)
    content = source.read(roles.words, roles.numbers, roles.id, problems)
    if not content.ids and not problems:
        raise LabelsError(f"{path}: the file has a header but no rows")
    rows = _checked(content, roles, problems, missing, groups_by is None)
    table = _table(source, content, roles, rows, missing)
    strange = list(_strangers(table, roles))
    if strange:
        raise LabelsError(strange)
    return table


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


@dataclass(frozen=True)
class _Rows:
    """The rows of a file, of which nothing is wrong."""

    split: Integers
    classes: tuple[str, ...]
    said: Mapping[str, Integers]
    """Class of each row by role: label, dense, sparse."""
    cells: Mapping[str, Column]
    """The columns that make groups, clusters and control levels."""
    without: Flags
    """Rows that have no group."""


def _checked(
    content: Content, roles: Roles, problems: Problems, missing: str, by_default: bool
) -> _Rows:
    """Look for all that can be wrong with the rows, in the order of its reasons.

    Raises:
        LabelsError: Something is.
    """
    words = content.words
    problems.are_of(content.records)
    check_ids(content.ids, problems)
    classes, said = classes_of(roles, words, problems)
    split = split_numbers(words[roles.split], problems)
    check_probabilities(roles, content, said, problems)
    used = dict.fromkeys(part for parts in roles.features for part in parts)
    cells = {name: words[roles.where(name)] for name in used}
    without = without_group(cells, missing, problems)
    if by_default:
        check_variety(cells, problems)
    if roles.cluster is not None:
        cells[roles.cluster] = words[roles.where(roles.cluster)]
        check_clusters(roles.cluster, cells[roles.cluster], problems)
    cells |= {name: words[roles.where(name)] for name in roles.control}
    problems.raise_all()
    return _Rows(split, classes, said, cells, without)


def _table(
    source: Source, content: Content, roles: Roles, rows: _Rows, missing: str
) -> AnswerTable:
    """The rows as a table, with ``--missing drop`` those that have a group."""
    path, dropped = source.path, int(rows.without.sum()) if missing == "drop" else 0
    if dropped == len(content.ids):
        raise LabelsError(f"{path}: no row has a group, so none is left (--missing drop)")
    left = ~rows.without if dropped else slice(None)
    groups = grouped(rows.cells, roles.features, left)
    if groups.ambiguous:
        raise LabelsError([f"{path}: {problem}" for problem in groups.ambiguous])
    features = tuple(crossed(parts) for parts in roles.features)
    return AnswerTable(
        ids=tuple(np.array(content.ids, object)[left].tolist() if dropped else content.ids),
        split=rows.split[left],
        classes=rows.classes,
        label=rows.said["label"][left],
        dense=rows.said["dense"][left],
        sparse=rows.said["sparse"][left],
        grouping=Grouping(features, groups.values),
        groups=groups.ids,
        probabilities={
            role: content.numbers[name][left] for role, name in roles.probabilities.items()
        },
        clusters=None if roles.cluster is None else rows.cells[roles.cluster].codes[left],
        cells={name: column.only(left) for name, column in rows.cells.items()},
        columns={"dense": roles.dense, "sparse": roles.sparse},
        label_column=roles.label,
        groups_by=",".join(features),
        missing=missing,
        cluster_id=roles.cluster,
        dropped=dropped,
        source=path,
        sha256=source.sha256,
        about=source.about,
    )


def _strangers(table: AnswerTable, roles: Roles) -> Iterator[str]:
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
