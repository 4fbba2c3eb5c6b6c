"""Parquet files, read as columns with pyarrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ceag_cli.columns import Column, Content, Problems, check_header, one_line
from ceag_cli.errors import LabelsError, OptionError
from ceag_cli.memory import bounded_by


class Parquet:
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
        check_header(self.place, self.header)

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
            raise LabelsError(f"{self.path}: is no whole .parquet: {one_line(error)}") from None

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
        return Column.of(codes, names)

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """Rows count from 1."""
        return {record: record + 1 for record in records}
