"""Files as columns: what is read of a table, a column at a time and not a row, and what is wrong.

What is wrong is kept with its place, so that it can be reported together. Ten million rows are read
in less than a minute and four gigabytes, so a word that comes again is kept once, and nothing makes
a copy of the whole file. ``csvfiles``, ``npzfiles`` and ``parquetfiles`` read the three formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.errors import LabelsError

SHOWN_PROBLEMS = 50

MOST_COLUMNS = 4096
"""Of a table; far more than it has features, and its reading takes longer with each."""

AT_ONCE = 1 << 12
"""Rows that are gone through at a time; so few that they stay in the cache."""

Anything = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """A column of words: for each row the number of its word."""

    codes: Integers
    names: tuple[str, ...]

    @classmethod
    def of(cls, codes: Anything, words: Sequence[str]) -> Column:
        """A column of numbers of words, without the spaces around these."""
        stripped = [word.strip() for word in words]
        distinct = dict.fromkeys(stripped)
        if len(distinct) == len(stripped):
            return cls(codes.astype(np.int64), tuple(stripped))
        number = {word: i for i, word in enumerate(distinct)}
        return cls(np.array([number[w] for w in stripped], np.int64)[codes], tuple(distinct))

    def words(self) -> list[str]:
        """The word of each row."""
        return [self.names[code] for code in self.codes.tolist()]

    def has(self, word: str) -> Flags:
        """Whether each row has a word."""
        if word not in self.names:
            return np.zeros(len(self.codes), bool)
        return np.asarray(self.codes == self.names.index(word))

    def only(self, rows: Integers | Flags | slice) -> Column:
        """Some of the rows; of the words none is left out."""
        return Column(self.codes[rows], self.names)

    def without_unused(self) -> Column:
        """The same rows, without words that none of them has."""
        codes, used = renumbered(self.codes, len(self.names))
        return Column(codes, tuple(self.names[code] for code in used.tolist()))


def renumbered(numbers: Integers, most: int) -> tuple[Integers, Integers]:
    """Numbers from 0 to ``most`` - 1 with no gaps left between them, and what each of them was."""
    if most > len(numbers):
        used, found = np.unique(numbers, return_inverse=True)
        return found.reshape(-1), used
    present = np.bincount(numbers, minlength=most) > 0
    return (np.cumsum(present) - 1)[numbers], np.flatnonzero(present)


@dataclass
class Content:
    """The columns asked for."""

    ids: list[str]
    words: dict[str, Column]
    numbers: dict[str, Numbers]
    unreadable: dict[str, Flags]
    """Of columns of numbers, the rows whose cell is none; a problem already."""
    records: Integers
    """Number of each row among all of the file, those included that cannot be used."""


class Source(Protocol):
    """A file with columns."""

    path: Path
    place: str
    """Where the names of the columns are, for messages."""
    header: list[str]
    sha256: str
    about: dict[str, Any] | None

    def read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        """Read some columns; what cannot be read is a problem."""

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """The row, as messages call it, of some records."""


class Problems:
    """What is wrong with a file, as much of it as is shown; the rest is counted."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.records: Integers = np.zeros(0, np.int64)
        self.wrong: Flags = np.zeros(0, bool)
        """Of each row, whether it has a problem."""
        self.found: list[tuple[int, str]] = []
        """By record; -1 for what concerns the whole file."""
        self.more = 0
        self.by_record = 0

    def __bool__(self) -> bool:
        return bool(self.found)

    def whole(self, text: str) -> None:
        """Note a problem of the file."""
        self.found.append((-1, text))

    def record(self, record: int, text: str) -> None:
        """Note a problem of a record, which need not be a row."""
        if self.by_record < SHOWN_PROBLEMS:
            self.found.append((record, text))
        self.more += self.by_record >= SHOWN_PROBLEMS
        self.by_record += 1

    def are_of(self, records: Integers) -> None:
        """Say which records the rows are."""
        self.records, self.wrong = records, np.zeros(len(records), bool)

    def note(self, wrong: Flags, text: str | Callable[[int], str]) -> None:
        """Note a problem of some rows, with a text for each."""
        self.wrong |= wrong
        rows = np.flatnonzero(wrong)
        self.more += max(len(rows) - SHOWN_PROBLEMS, 0)
        for row in rows[:SHOWN_PROBLEMS].tolist():
            said = text if isinstance(text, str) else text(row)
            self.found.append((int(self.records[row]), said))

    def lines_of(self, rows: Sequence[int]) -> dict[int, int]:
        """The row, as messages call it, of some rows."""
        records = {row: int(self.records[row]) for row in rows}
        lines = self.source.lines(records.values())
        return {row: lines[record] for row, record in records.items()}

    def raise_all(self) -> None:
        """Raise everything that is wrong.

        Raises:
            LabelsError: There is any problem.
        """
        raise_together(self.source.path, self.by_line(), self.more)

    def by_line(self) -> dict[int, list[str]]:
        """By the row, as messages call it; row 0 holds what concerns the whole file."""
        lines = self.source.lines({record for record, _ in self.found if record >= 0})
        by_line: dict[int, list[str]] = {}
        for record, text in self.found:
            by_line.setdefault(0 if record < 0 else lines[record], []).append(text)
        return by_line


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


def check_header(place: str, header: Sequence[str]) -> None:
    """Refuse a table with more columns than any has on purpose.

    Raises:
        LabelsError: With their number.
    """
    if len(header) > MOST_COLUMNS:
        raise LabelsError(
            f"{place}: has {len(header)} columns; at most {MOST_COLUMNS} are read, so leave out "
            "those that make no groups"
        )


def one_line(error: Exception) -> str:
    """What an error of a library says, which may be several lines."""
    return " ".join(str(error).split())
