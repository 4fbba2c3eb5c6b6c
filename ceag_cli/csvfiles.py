"""CSV files, and with tabs .tsv: read as columns, every record one line."""

from __future__ import annotations

import codecs
import csv
import gc
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.columns import (
    AT_ONCE,
    Anything,
    Column,
    Content,
    Problems,
    check_header,
    raise_together,
)
from ceag_cli.errors import LabelsError
from ceag_cli.kinds import kind_of, refuse_separator, taken
from ceag_cli.quotes import stray_quotes

DECODED_AT_ONCE = 1 << 20
"""Bytes that are looked at together when they are checked for UTF-8."""


class Csv:
    """A CSV, or with tabs a .tsv. A record is one line; blank lines are none.

    Raises:
        LabelsError: It cannot be read as a table at all: it is missing, not UTF-8 or empty, or
            quotes are out of place.
    """

    about: dict[str, Any] | None = None

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        self.path = path
        self.place = f"{path} row 1"
        self.content = _read_bytes(path)
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.delimiter = delimiter
        _refuse_no_utf8(path, self.content)
        first = self.content[: self.content.find(b"\n") + 1 or None]
        refuse_separator(path, first.decode("utf-8-sig"), self.delimiter)
        raise_together(path, stray_quotes(self.content, self.delimiter))
        try:
            self.header = [name.strip() for name in next(self._reader())]
        except StopIteration:
            raise LabelsError(f"{path}: the file is empty; it needs a header and rows") from None
        except csv.Error as error:
            raise LabelsError(f"{path} row 1: {error}") from None
        check_header(self.place, self.header)

    def _reader(self) -> Any:
        text = io.TextIOWrapper(io.BytesIO(self.content), "utf-8-sig", newline="")
        return csv.reader(text, delimiter=self.delimiter)

    def read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        """Read some columns in one pass over the file."""
        with _without_collector():
            return self._read(words, numbers, ids, problems)

    def _read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        parts = _Parts(self.header, words, numbers, ids)
        reader = self._reader()
        next(reader)
        records, done = _all_records(reader), 0
        while chunk := list(islice(records, AT_ONCE)):
            numbered = np.arange(done, done + len(chunk))
            done += len(chunk)
            if set(map(len, chunk)) != {len(self.header)} or _Unreadable in set(map(type, chunk)):
                chunk, numbered = self._usable(chunk, numbered, problems)
            if chunk:
                parts.add(chunk, numbered, problems)
        return parts.joined()

    def _usable(
        self, chunk: list[list[str]], numbered: Integers, problems: Problems
    ) -> tuple[list[list[str]], Integers]:
        """The records that have a cell for each column; blank lines are none."""
        width, good = len(self.header), []
        for i, cells in enumerate(chunk):
            if isinstance(cells, _Unreadable):
                problems.record(int(numbered[i]), f"cannot be read: {cells[0]}")
            elif len(cells) == width:
                good.append(i)
            elif cells:
                problems.record(int(numbered[i]), f"has {len(cells)} cells, the header has {width}")
        return [chunk[i] for i in good], numbered[good]

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """The header is line 1, and every record one line."""
        return {record: record + 2 for record in records}


class _Parts:
    """The columns asked for, of some records after the other."""

    def __init__(
        self, header: Sequence[str], words: Sequence[str], numbers: Sequence[str], ids: str
    ) -> None:
        place = {name: i for i, name in enumerate(header)}
        self.place_of_ids = place[ids]
        self.places = {name: place[name] for name in (*words, *numbers)}
        self.ids: list[str] = []
        self.code_of = {name: defaultdict[str, int](count().__next__) for name in words}
        self.codes: dict[str, list[Integers]] = {name: [] for name in words}
        self.values: dict[str, list[Numbers]] = {name: [] for name in numbers}
        self.unreadable: dict[str, list[Flags]] = {name: [] for name in numbers}
        self.records: list[Integers] = []

    def add(self, chunk: list[list[str]], numbered: Integers, problems: Problems) -> None:
        """Add records, all of which have a cell for each column of the file."""
        self.records.append(numbered)
        columns = list(zip(*chunk, strict=True))
        self.ids += map(str.strip, columns[self.place_of_ids])
        for name, parts in self.codes.items():
            found = map(self.code_of[name].__getitem__, columns[self.places[name]])
            parts.append(np.fromiter(found, np.int64, len(chunk)))
        for name, values in self.values.items():
            cells = columns[self.places[name]]
            try:
                values.append(np.fromiter(map(float, cells), np.float64, len(chunk)))
                self.unreadable[name].append(np.zeros(len(chunk), bool))
            except ValueError:
                number = [_number(cell) for cell in cells]
                values.append(np.array([n or 0.0 for n in number]))
                self.unreadable[name].append(np.array([n is None for n in number]))
                for i in np.flatnonzero(self.unreadable[name][-1]).tolist():
                    text = f"'{cells[i]}' is not a number (column '{name}')"
                    problems.record(int(numbered[i]), text)

    def joined(self) -> Content:
        """All of them; one column after the other, or all parts and columns would be there."""
        codes, values, wrong = self.codes, self.values, self.unreadable
        return Content(
            self.ids,
            {
                name: Column.of(_joined(codes.pop(name), np.int64), list(self.code_of[name]))
                for name in list(codes)
            },
            {name: _joined(values.pop(name), np.float64) for name in list(values)},
            {name: _joined(wrong.pop(name), np.bool_) for name in list(wrong)},
            _joined(self.records, np.int64),
        )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _joined(parts: Sequence[Anything], kind: Any) -> Anything:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python looks for cycles whenever many lists are made; rows of a CSV are many, without any."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Unreadable(list[str]):
    """A record that the csv module cannot read, with the reason."""


def _all_records(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The records of a CSV; one that cannot be read is an ``_Unreadable``."""
    while True:
        try:
            yield from reader
            return
        except csv.Error as error:
            yield _Unreadable([str(error)])


def _read_bytes(path: Path) -> bytes:
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


def _refuse_no_utf8(path: Path, content: bytes) -> None:
    """Refuse what is no text in UTF-8.

    Raises:
        LabelsError: With what it is, or with the first byte that is wrong.
    """
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(content)
    try:
        for begin in range(0, len(content), DECODED_AT_ONCE):
            decoder.decode(view[begin : begin + DECODED_AT_ONCE])
        decoder.decode(b"", final=True)
        return
    except UnicodeDecodeError:
        kind = kind_of(path)
    if kind is not None:
        raise LabelsError(
            f"{path}: {kind}; wanted is a CSV with one row per image{taken(kind)}"
        ) from None
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LabelsError(
            f"{path} row {line}: byte {content[error.start]:#04x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
