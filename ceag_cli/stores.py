"""Where the bytes of images lie: in a folder, or in a .zip."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ceag_cli.arrays import Integers
from ceag_cli.errors import ImageError

BEGINNING = 4096
"""Bytes of an image that are compared before all of them are."""


class Store(Protocol):
    """Where the bytes of the images lie."""

    root: Path

    def has(self, path: str) -> bool:
        """Whether the image exists."""

    def read(self, path: str) -> bytes:
        """The bytes of the image."""

    def beginning(self, path: str) -> bytes:
        """The first bytes of the image, ``BEGINNING`` of them or all."""

    def mark(self, path: str) -> tuple[int, ...]:
        """A number or two that differ when the bytes differ, most of the time; cheap."""

    def state(self, path: str) -> tuple[int, ...]:
        """Numbers that change when the image is written anew, as far as one can tell cheaply."""


class Folder:
    """Images in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, path: str) -> bool:
        """Whether the image exists."""
        return os.path.isfile(os.path.join(self.root, path))

    def read(self, path: str) -> bytes:
        """The bytes of the image."""
        return (self.root / path).read_bytes()

    def beginning(self, path: str) -> bytes:
        """The first bytes of the image."""
        with open(os.path.join(self.root, path), "rb") as file:
            return file.read(BEGINNING)

    def mark(self, path: str) -> tuple[int, ...]:
        """The size."""
        return (os.stat(os.path.join(self.root, path)).st_size,)

    def state(self, path: str) -> tuple[int, ...]:
        """The size, when it was written, and when that was last made to look otherwise.

        Images of one size that come out of an archive may all have been written at the same time,
        the old and the new ones.
        """
        found = os.stat(os.path.join(self.root, path))
        return (found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Zip:
    """Images in a .zip, read in place. Every process opens the file for itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            with zipfile.ZipFile(root) as archive:
                self.entries = {
                    info.filename: (info.CRC, info.file_size)
                    for info in archive.infolist()
                    if not info.is_dir()
                }
        except (OSError, zipfile.BadZipFile) as error:
            raise ImageError(f"{root}: cannot be read as a .zip: {error}") from None
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0

    def has(self, path: str) -> bool:
        """Whether the image exists."""
        return path in self.entries

    def read(self, path: str) -> bytes:
        """The bytes of the image."""
        return self._opened(path).read(path)

    def beginning(self, path: str) -> bytes:
        """The first bytes of the image."""
        with self._opened(path).open(path) as file:
            return file.read(BEGINNING)

    def _opened(self, path: str) -> zipfile.ZipFile:
        """The archive, in which the image is what it was when its directory was read.

        Raises:
            OSError: It is another one.
        """
        if self._archive is None or self._owner != os.getpid():
            self._archive, self._owner = zipfile.ZipFile(self.root), os.getpid()
        found = self._archive.NameToInfo.get(path)
        if found is None or (found.CRC, found.file_size) != self.entries[path]:
            raise OSError(f"{self.root} was replaced by another .zip while it was read")
        return self._archive

    def mark(self, path: str) -> tuple[int, ...]:
        """The checksum and size that the archive records."""
        return self.entries[path]

    def state(self, path: str) -> tuple[int, ...]:
        """The same."""
        return self.entries[path]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None, "_owner": 0}


def open_store(csv: Path, data_dir: str | None, paths: Iterable[str]) -> Store:
    """Find the images of a groups CSV.

    They lie in ``data_dir`` (a folder or a .zip), else in the CSV's folder. Where that folder has
    none of the top folders that the paths begin with but holds exactly one .zip, it is the .zip.

    Raises:
        ImageError: ``data_dir`` does not exist or is not a .zip.
    """
    if data_dir is not None:
        root = Path(data_dir)
        if root.is_dir():
            return Folder(root)
        if root.is_file():
            return Zip(root)
        raise ImageError(f"--data-dir: '{data_dir}' does not exist")
    folder = csv.parent
    tops = {path.split("/", 1)[0] for path in paths}
    archives = sorted(folder.glob("*.zip"))
    if len(archives) == 1 and not any(os.path.exists(folder / top) for top in tops):
        return Zip(archives[0])
    return Folder(folder)


def find_duplicates(store: Store, paths: Sequence[str], splits: Integers) -> list[tuple[int, int]]:
    """Images that are byte for byte equal to one of an earlier split.

    Of many files of one size only the beginnings are read, and the whole of those that begin alike.

    Args:
        store: Where they lie.
        paths: Of all images.
        splits: Number of the split of each, the earlier the smaller.

    Returns:
        Row of each and of the first one that it is equal to, in the order of rows.
    """
    steps: tuple[Callable[[str], Hashable], ...] = (
        store.mark,
        store.beginning,
        lambda path: hashlib.sha256(store.read(path)).digest(),
    )
    sets = [np.arange(len(paths))]
    for step in steps:
        sets = [
            same
            for rows in sets
            for same in _alike(rows, (hash(step(paths[row])) for row in rows.tolist()))
            if len(np.unique(splits[same])) > 1
        ]
    found = []
    for rows in sets:
        first = int(rows[np.argmin(splits[rows])])
        found += [(row, first) for row in rows.tolist() if splits[row] > splits[first]]
    return sorted(found)


def _alike(rows: Integers, keys: Iterable[int]) -> list[Integers]:
    """Sets of at least two rows whose keys are equal."""
    key = np.fromiter(keys, np.int64, len(rows))
    order = np.argsort(key, kind="stable")
    again = np.diff(key[order]) == 0
    order = order[np.append(again, False) | np.append(False, again)]
    borders = np.flatnonzero(np.diff(key[order])) + 1
    return np.split(rows[order], borders) if len(order) else []
