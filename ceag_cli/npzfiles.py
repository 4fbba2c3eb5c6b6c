"""NumPy archives (.npz): read as columns, and written as what is kept of answers.

docs/predictions.md has the layout.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ceag_cli import strictjson
from ceag_cli.atomic import replacing
from ceag_cli.columns import Anything, Column, Content, Problems, check_header, one_line
from ceag_cli.errors import LabelsError, OutputError
from ceag_cli.memory import bounded_by
from ceag_cli.provenance import check_about

FORMAT = 1
"""Version of the .npz that is kept."""

ABOUT = "about"
"""The array with what is kept beside the columns, as JSON."""

NAMES = "/names"
"""Behind the name of a column: the array with the words that its numbers stand for."""


class Npz:
    """A NumPy archive: an array of N entries for each column, and what ``ceag audit`` kept.

    Words are text, bytes in UTF-8, whole numbers, or numbers of the words in ``NAME/names``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = f"{path} (each array is a column)"
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self.arrays, self.about = read_npz(path)
        check_header(self.place, list(self.arrays))
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
            return Column.of(codes.reshape(-1), _texts(distinct))
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
        return Column.of(array, _texts(named))

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """Entries count from 1."""
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
        raise LabelsError(f"{path}: is no whole .npz: {one_line(error)}; write it anew") from None
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
