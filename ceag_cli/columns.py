"""Files as columns: a CSV, .parquet or .npz in, a .npz out; a column at a time, not a row.

What is wrong is kept with its place, so that it can be reported together. Ten million rows are read
in less than a minute and four gigabytes, so a word that comes again is kept once, and nothing makes
a copy of the whole file.
"""

from __future__ import annotations

import codecs
import csv
import gc
import hashlib
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ceag_cli import strictjson
from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.atomic import replacing
from ceag_cli.errors import LabelsError, OptionError, OutputError
from ceag_cli.kinds import kind_of, refuse_separator, taken
from ceag_cli.memory import bounded_by
from ceag_cli.provenance import check_about
from ceag_cli.quotes import stray_quotes

SHOWN_PROBLEMS = 50

MOST_COLUMNS = 4096
"""Of a table; far more than it has features, and its reading takes longer with each."""

AT_ONCE = 1 << 12
"""Rows of a CSV that are turned into columns at a time; so few that they stay in the cache."""

DECODED_AT_ONCE = 1 << 20
"""Bytes of a CSV that are looked at together when they are checked for UTF-8."""

FORMAT = 1
"""Version of the .npz that is kept."""

ABOUT = "about"
NAMES = "/names"

Anything = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """A column of words: for each row the number of its word."""

    codes: Integers
    names: tuple[str, ...]

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


def open_source(path: Path) -> Source:
    """Open a file by what it is, whatever its name."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        start = b""
    if start == b"PK\x03\x04":
        return _Npz(path)
    if start == b"PAR1":
        return _Parquet(path)
    return Csv(path, "\t" if path.suffix == ".tsv" else ",")


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


def refuse_no_utf8(path: Path, content: bytes) -> None:
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


def _check_header(place: str, header: Sequence[str]) -> None:
    """Refuse a table with more columns than any has on purpose.

    Raises:
        LabelsError: With their number.
    """
    if len(header) > MOST_COLUMNS:
        raise LabelsError(
            f"{place}: has {len(header)} columns; at most {MOST_COLUMNS} are read, so leave out "
            "those that make no groups"
        )


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
        self.content = read_bytes(path)
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.delimiter = delimiter
        refuse_no_utf8(path, self.content)
        first = self.content[: self.content.find(b"\n") + 1 or None]
        refuse_separator(path, first.decode("utf-8-sig"), self.delimiter)
        raise_together(path, stray_quotes(self.content, self.delimiter))
        try:
            self.header = [name.strip() for name in next(self._reader())]
        except StopIteration:
            raise LabelsError(f"{path}: the file is empty; it needs a header and rows") from None
        except csv.Error as error:
            raise LabelsError(f"{path} row 1: {error}") from None
        _check_header(self.place, self.header)

    def _reader(self) -> Any:
        text = io.TextIOWrapper(io.BytesIO(self.content), "utf-8-sig", newline="")
        return csv.reader(text, delimiter=self.delimiter)

    def read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        """Read some columns in one pass over the file."""
        with without_collector():
            return self._read(words, numbers, ids, problems)

    def _read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        place = {name: i for i, name in enumerate(self.header)}
        codes: dict[str, list[Integers]] = {name: [] for name in words}
        values: dict[str, list[Numbers]] = {name: [] for name in numbers}
        wrong: dict[str, list[Flags]] = {name: [] for name in numbers}
        code_of = {name: defaultdict[str, int](count().__next__) for name in words}
        identities: list[str] = []
        kept: list[Integers] = []
        reader = self._reader()
        next(reader)
        records, done = _all_records(reader), 0
        while chunk := list(islice(records, AT_ONCE)):
            numbered = np.arange(done, done + len(chunk))
            done += len(chunk)
            if set(map(len, chunk)) != {len(self.header)} or _Unreadable in set(map(type, chunk)):
                chunk, numbered = self._usable(chunk, numbered, problems)
            if not chunk:
                continue
            kept.append(numbered)
            columns = list(zip(*chunk, strict=True))
            size = len(chunk)
            identities += map(str.strip, columns[place[ids]])
            for name in words:
                found = map(code_of[name].__getitem__, columns[place[name]])
                codes[name].append(np.fromiter(found, np.int64, size))
            for name in numbers:
                cells = columns[place[name]]
                try:
                    values[name].append(np.fromiter(map(float, cells), np.float64, size))
                    wrong[name].append(np.zeros(size, bool))
                except ValueError:
                    number = [_number(cell) for cell in cells]
                    values[name].append(np.array([n or 0.0 for n in number]))
                    wrong[name].append(np.array([n is None for n in number]))
                    for i in np.flatnonzero(wrong[name][-1]).tolist():
                        text = f"'{cells[i]}' is not a number (column '{name}')"
                        problems.record(int(numbered[i]), text)
        return Content(
            identities,
            # One after the other, or all parts and all columns would be there at once.
            {
                name: _column(_joined(codes.pop(name), np.int64), list(code_of[name]))
                for name in words
            },
            {name: _joined(values.pop(name), np.float64) for name in numbers},
            {name: _joined(wrong.pop(name), np.bool_) for name in numbers},
            _joined(kept, np.int64),
        )

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


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _joined(parts: Sequence[Anything], kind: Any) -> Anything:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _column(codes: Anything, names: Sequence[str]) -> Column:
    """A column without spaces around its words."""
    words = [name.strip() for name in names]
    distinct = dict.fromkeys(words)
    if len(distinct) == len(words):
        return Column(codes.astype(np.int64), tuple(words))
    number = {word: i for i, word in enumerate(distinct)}
    return Column(np.array([number[w] for w in words], np.int64)[codes], tuple(distinct))


class _Npz:
    """A NumPy archive: an array of N entries for each column, and what ``ceag audit`` kept.

    Words are text, bytes in UTF-8, whole numbers, or numbers of the words in ``NAME/names``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = f"{path} (each array is a column)"
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self.arrays, self.about = read_npz(path)
        _check_header(self.place, list(self.arrays))
        self.header = [
            name
            for name in self.arrays
            if not (name.endswith(NAMES) and name.removesuffix(NAMES) in self.arrays)
        ]
        wrong = [
            f"{path}: array '{name}' has shape {self.arrays[name].shape}; wanted is one entry for "
            "each image"
            for name in self.header
            if self.arrays[name].ndim != 1
        ]
        lengths = {name: self.arrays[name].shape[0] for name in self.header if not wrong}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            wrong = [f"{path}: the arrays have different lengths: {listed}"]
        if wrong:
            raise LabelsError(wrong)

    def read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        """Take some arrays as columns."""
        content = Content([], {}, {}, {}, np.arange(len(self.arrays[ids])))
        wrong = []
        for name in (*words, ids):
            array = self.arrays[name]
            if array.dtype.kind not in "USiub":
                wrong.append(
                    f"{self.path}: array '{name}' is of type {array.dtype}; wanted is text or "
                    "whole numbers (x.astype(str))"
                )
            elif not _is_text(array):
                wrong.append(f"{self.path}: array '{name}' holds characters that no text has")
            elif name == ids and name not in words:
                content.ids = [item.strip() for item in _texts(array)]
            else:
                found = self._words(name, array)
                wrong += [found] if isinstance(found, str) else []
                if isinstance(found, Column):
                    content.words[name] = found
        for name in numbers:
            array = self.arrays[name]
            if array.dtype.kind not in "fiu":
                wrong.append(
                    f"{self.path}: array '{name}' is of type {array.dtype}; wanted are numbers"
                )
            else:
                content.numbers[name] = array.astype(np.float64)
                content.unreadable[name] = np.zeros(len(array), bool)
        if wrong:
            raise LabelsError(wrong)
        if not content.ids:
            content.ids = content.words[ids].words()
        return content

    def _words(self, name: str, array: Anything) -> Column | str:
        """A column of words, or what is wrong with it."""
        named = self.arrays.get(name + NAMES)
        if named is None:
            distinct, codes = np.unique(array, return_inverse=True)
            return _column(codes.reshape(-1), _texts(distinct))
        usable = named.ndim == 1 and named.dtype.kind in "USiub" and _is_text(named)
        if array.dtype.kind not in "iu" or not usable:
            return (
                f"{self.path}: array '{name}' should hold whole numbers, since '{name}{NAMES}' "
                "names them"
            )
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) < len(named):
            return (
                f"{self.path}: array '{name}' holds {int(array.min())} to {int(array.max())}, and "
                f"'{name}{NAMES}' has {len(named)} names"
            )
        return _column(array, _texts(named))

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """Entries count from 1."""
        return {record: record + 1 for record in records}


class _Parquet:
    """A .parquet; its rows count from 1."""

    about: dict[str, Any] | None = None

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise OptionError(
                f"{path}: reading a .parquet needs pyarrow: pip install 'ceag[parquet]'"
            ) from None
        self.path, self.place = path, str(path)
        self.arrow = pyarrow
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with self._whole():
            self.file = parquet.ParquetFile(path)
            names = self.file.schema_arrow.names
        self.header = [name for name in names if not name.startswith("__index_level_")]
        _check_header(self.place, self.header)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Say of a damaged file that it is one, and of one that unfolds to any size.

        Raises:
            LabelsError: It is.
        """
        try:
            with bounded_by(self.path):
                yield
        except MemoryError:
            raise LabelsError(
                f"{self.path}: unfolds to more memory than a table of its size may take"
            ) from None
        except (self.arrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise LabelsError(f"{self.path}: is no whole .parquet: {_one_line(error)}") from None

    def read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        """Read some columns; a null is an empty cell."""
        types = self.arrow.types
        wanted = list(dict.fromkeys([ids, *words, *numbers]))
        schema = self.file.schema_arrow
        wrong = []
        for name in wanted:
            kind = schema.field(name).type
            inner = kind.value_type if types.is_dictionary(kind) else kind
            text = types.is_string(inner) or types.is_large_string(inner)
            whole = types.is_integer(inner) or types.is_boolean(inner)
            if name in numbers and not (types.is_floating(kind) or types.is_integer(kind)):
                wrong.append(f"{self.path}: column '{name}' is of type {kind}; wanted are numbers")
            elif name not in numbers and not (text or whole or types.is_null(inner)):
                wrong.append(
                    f"{self.path}: column '{name}' is of type {kind}; wanted is text or whole "
                    "numbers (pandas: x.astype('string'))"
                )
        if wrong:
            raise LabelsError(wrong)
        with self._whole():
            return self._read(words, numbers, ids, wanted)

    def _read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, wanted: list[str]
    ) -> Content:
        table = self.file.read(columns=wanted)
        content = Content([], {}, {}, {}, np.arange(table.num_rows))
        for name in words:
            content.words[name] = self._words(table.column(name))
        for name in numbers:
            column = table.column(name).cast(self.arrow.float64())
            content.numbers[name] = column.to_numpy().astype(np.float64)
            content.unreadable[name] = np.zeros(table.num_rows, bool)
        cells = table.column(ids).cast(self.arrow.string()).to_pylist()
        content.ids = [(cell or "").strip() for cell in cells]
        return content

    def _words(self, column: Any) -> Column:
        text = column.cast(self.arrow.string()).combine_chunks().dictionary_encode()
        names = text.dictionary.to_pylist()
        if text.null_count:
            names.append("")
        codes = text.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
        return _column(codes, names)

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """Rows count from 1."""
        return {record: record + 1 for record in records}


def _is_text(array: Anything) -> bool:
    """Whether entries can be text: NumPy keeps numbers for characters, of which some are none."""
    if array.dtype.kind != "U":
        return True
    points = np.ascontiguousarray(array).view(np.uint32)
    if array.dtype.byteorder == ">":
        points = points.byteswap()
    return not bool(((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any())


def _texts(array: Anything) -> list[str]:
    """Entries of an array as text."""
    if array.dtype.kind == "S":
        return [item.decode("utf-8", "replace") for item in array.tolist()]
    return array.tolist() if array.dtype.kind == "U" else [str(item) for item in array.tolist()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# The .npz


def read_npz(path: Path) -> tuple[dict[str, Anything], dict[str, Any] | None]:
    """The arrays of a NumPy archive, and what ``ceag audit`` kept with them.

    Raises:
        LabelsError: It is damaged, holds Python objects, is of another format, or unfolds to far
            more than its size.
    """
    arrays: dict[str, Anything] = {}
    try:
        # The file is closed here, since NumPy leaves it open when it is no archive.
        with (
            bounded_by(path),
            path.open("rb") as file,
            np.lib.npyio.NpzFile(file, allow_pickle=False) as archive,
        ):
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    raise LabelsError(
                        f"{path}: array '{name}' holds Python objects, which are never loaded; "
                        "save it as text (x.astype(str)) or numbers"
                    ) from None
        wrong = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if wrong:
            raise ValueError(f"'{wrong[0]}' is no array")
    except LabelsError:
        raise
    except MemoryError:
        raise LabelsError(
            f"{path}: unfolds to more memory than a table of its size may take; write it anew"
        ) from None
    except Exception as error:  # NumPy and zipfile raise many kinds for damaged bytes
        raise LabelsError(f"{path}: is no whole .npz: {_one_line(error)}; write it anew") from None
    if ABOUT not in arrays or arrays[ABOUT].ndim:
        return arrays, None
    try:
        about = strictjson.mapping(strictjson.loads(str(arrays.pop(ABOUT))), "it")
        found = about["format"]
        if found == FORMAT:
            check_about(about)
    except (ValueError, KeyError):
        raise LabelsError(f"{path}: its array '{ABOUT}' is damaged; write the file anew") from None
    if found != FORMAT:
        raise LabelsError(
            f"{path}: written in format {strictjson.shown(found)}, this version of ceag reads "
            f"format {FORMAT}; write it anew"
        )
    return arrays, about


def write_npz(path: Path, arrays: Mapping[str, Anything], about: Mapping[str, Any]) -> None:
    """Write a NumPy archive; it is whole or not there, and equal content gives equal bytes.

    Raises:
        OutputError: The folder cannot be written.
    """
    text = np.array(json.dumps(about, ensure_ascii=False, sort_keys=True))
    try:
        with (
            replacing(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive,
        ):
            for name, array in (*arrays.items(), (ABOUT, text)):
                # Without a date of its own an entry gets the time of writing.
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def coded(name: str, column: Column) -> dict[str, Anything]:
    """The arrays of a column: numbers as small as they can be, and what they mean."""
    size = np.min_scalar_type(max(len(column.names) - 1, 0))
    return {name: column.codes.astype(size), name + NAMES: encoded(column.names)}


def encoded(words: Sequence[str]) -> Anything:
    """Words as bytes: text of NumPy takes four for each character."""
    return np.array([word.encode() for word in words], dtype=np.bytes_)
