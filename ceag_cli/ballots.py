"""Populations of models whose answers stand in tables, each of one dense and one sparse model.

Every model has one vote, in however many tables its answers are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ceag_cli.answers import refuse_models
from ceag_cli.arrays import Integers
from ceag_cli.clusters import numbered
from ceag_cli.data import left_out
from ceag_cli.errors import LabelsError, first
from ceag_cli.options import ExemplarsOptions
from ceag_cli.populations import DENSE, SPARSE, Member, Populations, data_document, pairs_of
from ceag_cli.predictions import AnswerTable, read_answers
from ceag_cli.progress import Reporter
from ceag_cli.subjects import subject_of_table


def from_tables(options: ExemplarsOptions, reporter: Reporter) -> Populations:
    """The answers in the tables given.

    Raises:
        CeagError: Something given cannot be used.
    """
    first_path, *others = map(Path, options.predictions)
    refuse_models(options, str(first_path))
    collected = _Collected(_read(first_path, options))
    for path in others:
        collected.add(_read(path, options, collected.base))
    base = collected.base
    subject = subject_of_table(base, base.source)
    dense, sparse = (collected.voters(role) for role in (DENSE, SPARSE))
    if base.dropped:
        reporter.say(left_out(base.dropped, base.source))
    for note in collected.notes:
        reporter.say(note)
    count = base.grouping.num_groups
    reporter.say(
        f"{len(base)} images of {options.split}, {count} group{'s' if count != 1 else ''} by "
        f"{base.groups_by}"
    )
    return Populations(
        dense=tuple(member for member, _ in dense),
        sparse=tuple(member for member, _ in sparse),
        dense_answers=np.stack([answers for _, answers in dense]),
        sparse_answers=np.stack([answers for _, answers in sparse]),
        pairs=collected.pairs(),
        split=options.split,
        ids=base.ids,
        classes=tuple(collected.numbers),
        label=collected.label,
        grouping=base.grouping,
        groups=base.groups,
        clusters=None if base.clusters is None else numbered(base.clusters),
        architecture=subject.architecture,
        data=data_document(subject, collected.sources),
        files=tuple(Path(name) for name in options.predictions),
    )


def _read(path: Path, options: ExemplarsOptions, base: AnswerTable | None = None) -> AnswerTable:
    """A table's rows of the split, grouped as those of the first table are."""
    table = read_answers(
        path,
        label_column=options.label_column,
        groups_by=options.groups_by if base is None else base.groups_by,
        missing=options.missing if base is None else base.missing,
        cluster_id=options.cluster_id,
    )
    if options.split not in table.splits:
        raise LabelsError(f"{path}: no row has split '{options.split}'")
    return table.only(options.split)


class _Collected:
    """The answers of tables about the same images, in the order of the first one."""

    def __init__(self, base: AnswerTable) -> None:
        self.base = base
        self.sources: list[tuple[Path, str]] = []
        """Every table and its sha256."""
        self.numbers: dict[str, int] = {}
        """Of classes, by name."""
        self.label: Integers = base.label
        self.all: dict[str, list[tuple[Member, Integers]]] = {DENSE: [], SPARSE: []}
        """One entry per table, so that a model may be there several times."""
        self.notes: list[str] = []
        self.add(base)

    def add(self, table: AnswerTable) -> None:
        """Take a table.

        Raises:
            LabelsError: It is about other images than the first one, or says other things of them.
        """
        codes = np.array(
            [self.numbers.setdefault(name, len(self.numbers)) for name in table.classes], np.int64
        )
        order = self._order(table)
        self._check(table, codes[table.label][order], order)
        about = subject_of_table(table, table.source)
        for role, path, digest in (
            (DENSE, about.dense, about.dense_sha256),
            (SPARSE, about.sparse, about.sparse_sha256),
        ):
            place = path if digest is not None else f"{path} of {table.source}"
            of_sparse = (about.sparsity, about.method) if role == SPARSE else (None, None)
            answers = codes[getattr(table, role)][order]
            self.all[role].append((Member(place, digest, *of_sparse), answers))
        self.sources.append((table.source, table.sha256))

    def _order(self, table: AnswerTable) -> Integers | slice:
        """Where the rows of the first table are in another one."""
        base = self.base
        if table.ids == base.ids:
            return slice(None)
        where = {name: row for row, name in enumerate(table.ids)}
        missing = [name for name in base.ids if name not in where]
        if missing or len(table) != len(base):
            known = set(base.ids)
            more = [name for name in table.ids if name not in known]
            named = [f"lacks '{name}'" for name in missing]
            named += [f"also has '{name}'" for name in more]
            raise LabelsError(
                f"{table.source}: is not about the same images as {base.source}: it "
                f"{', '.join(first(named, 3))}"
            )
        return np.array([where[name] for name in base.ids], np.int64)

    def _check(self, table: AnswerTable, label: Integers, order: Integers | slice) -> None:
        base = self.base
        problems = []
        other = np.flatnonzero(label != self.label)
        if len(other):
            problems.append(("label", other))
        own = {name: g for g, name in enumerate(base.grouping.names)}
        known = np.array([own.get(name, -1) for name in table.grouping.names], np.int64)
        other = np.flatnonzero((known[table.groups][order] != base.groups).any(1))
        if len(other):
            problems.append(("group", other))
        if problems:
            raise LabelsError(
                [
                    f"{table.source}: '{base.ids[int(rows[0])]}' has another {what} than in "
                    f"{base.source} ({len(rows)} image{'s' if len(rows) > 1 else ''} in all)"
                    for what, rows in problems
                ]
            )

    def voters(self, role: str) -> list[tuple[Member, Integers]]:
        """The models of a population, each once."""
        everybody = self.all[role]
        found = [everybody[i] for i in dict.fromkeys(self._same(role))]
        if len(found) < len(everybody):
            self.notes.append(
                f"{len(everybody)} tables have the answers of {len(found)} {role} "
                f"model{'s' if len(found) > 1 else ''}; each has one vote"
            )
        return found

    def pairs(self) -> tuple[int, ...] | None:
        """For each sparse model the dense one of its table, where that is one to one."""
        dense, sparse = self._same(DENSE), self._same(SPARSE)
        if len(set(zip(dense, sparse, strict=True))) != len(set(sparse)):
            return None  # a sparse model with several dense ones
        of_sparse = dict(zip(sparse, dense, strict=True))
        return pairs_of(
            [str(i) for i in dict.fromkeys(dense)], [str(i) for i in of_sparse.values()]
        )

    def _same(self, role: str) -> list[int]:
        """For each table the first one with the same model.

        Without a sha256 a model is known by its answers: equal ones to all images are one model's.
        """
        found: list[int] = []
        for i, (member, answers) in enumerate(self.all[role]):
            same = (
                j
                for j, (other, others) in enumerate(self.all[role][:i])
                if (
                    member.sha256 == other.sha256
                    if member.sha256 is not None and other.sha256 is not None
                    else np.array_equal(answers, others)
                )
            )
            found.append(next(same, i))
        return found
