"""Where the bytes of images lie: in a folder, or in a .zip."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ceag_cli.arrays import Integers
from ceag_cli.errors import ImageError

MOST_BYTES = 1 << 29
"""Of an image as a file: no more is read, whatever an archive says."""

BEGINNING = 4096
"""Bytes of an image that are compared before all of them are."""


class Store(Protocol):
    """Where the bytes of the images lie."""

    root: Path

    def has(self, path: str) -> bool:
        """Whether the image exists."""

    def absent(self, path: str) -> str:
        """Why there is no image of this name to be taken."""

    def read(self, path: str) -> bytes:
        """The bytes of the image."""

    def beginning(self, path: str) -> bytes:
        """The first bytes of the image, ``BEGINNING`` of them or all."""

    def mark(self, path: str) -> tuple[int, ...]:
        """A number or two that differ when the bytes differ, most of the time; cheap."""

    def state(self, path: str) -> tuple[int, ...]:
        """Numbers that change when the image is written anew, as far as one can tell cheaply."""


def whole_file(path: str) -> bytes:
    """A file of a size that is read.

    Raises:
        OSError: It is no file, or too large.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is a pipe or a device, not a file")
        if found.st_size > MOST_BYTES:
            raise OSError(f"it has {found.st_size} bytes; no more than {MOST_BYTES} are read")
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe without waiting for who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class Folder:
    """Images in a folder.

    Args:
        root: The folder.
        allow_outside: Also take what links in it lead to elsewhere.
    """

    def __init__(self, root: Path, *, allow_outside: bool = False) -> None:
        self.root, self.allow_outside = root, allow_outside
        self._real = os.path.realpath(root)
        self._inside: dict[str, bool] = {}
        """Of each folder in it, whether it is really there."""

    def has(self, path: str) -> bool:
        """Whether the image exists, lies in the folder, and can be read at once."""
        place = os.path.join(self.root, path)
        try:
            found = os.lstat(place)
            if stat.S_ISLNK(found.st_mode):
                inside = self.allow_outside or self.holds(os.path.realpath(place))
                found = os.stat(place)
            else:
                inside = self.allow_outside or self._folder_is_inside(path.rpartition("/")[0])
        except (OSError, ValueError):
            return False
        return inside and stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES

    def holds(self, real: str) -> bool:
        """Whether a path without links lies in the folder."""
        return real == self._real or real.startswith(os.path.join(self._real, ""))

    def _folder_is_inside(self, folder: str) -> bool:
        if folder not in self._inside:
            real = os.path.realpath(os.path.join(self.root, folder))
            self._inside[folder] = self.holds(real)
        return self._inside[folder]

    def absent(self, path: str) -> str:
        """Why an image cannot be taken."""
        place = os.path.join(self.root, path)
        try:
            if not (self.allow_outside or self.holds(os.path.realpath(place))):
                return outside_by_link(path)
            found = os.stat(place)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ELOOP:
                return f"image '{path}' is a link that leads back to itself"
            return f"there is no image '{path}' in {self.root}"
        if not stat.S_ISREG(found.st_mode):
            return f"image '{path}' in {self.root} is a folder, a pipe or a device, not a file"
        return too_large(path, found.st_size)

    def read(self, path: str) -> bytes:
        """The bytes of the image."""
        return whole_file(os.path.join(self.root, path))

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
                entries = [info for info in archive.infolist() if not info.is_dir()]
        except Exception as error:  # zipfile raises many kinds for damaged bytes
            raise ImageError(f"{root}: cannot be read as a .zip: {error}") from None
        self.entries = {info.filename: (info.CRC, info.file_size) for info in entries}
        self._refused = {
            info.filename: problem for info in entries if (problem := _not_an_image(info))
        }
        self._archive: zipfile.ZipFile | None = None
        self._owner = 0

    def has(self, path: str) -> bool:
        """Whether the image exists, and is a file of a size that is read."""
        return path in self.entries and path not in self._refused

    def absent(self, path: str) -> str:
        """Why an image cannot be taken."""
        return self._refused.get(path, f"there is no image '{path}' in {self.root}")

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


def _not_an_image(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry of a .zip, if anything; links in it are never followed."""
    if stat.S_ISLNK(info.external_attr >> 16):
        return outside_by_link(info.filename, "in a .zip no link is followed")
    return too_large(info.filename, info.file_size) if info.file_size > MOST_BYTES else None


def outside_by_link(path: str, remedy: str = "") -> str:
    """What is wrong with an image that a link leads away from."""
    remedy = remedy or (
        "name the folder that it leads to with --data-dir, or allow such images with "
        "--allow-outside"
    )
    return f"image '{path}' is behind a link, and lies outside the data folder; {remedy}"


def too_large(path: str, size: int) -> str:
    """What is wrong with an image of too many bytes."""
    return f"image '{path}' has {size} bytes; no image of more than {MOST_BYTES} is read"


def open_store(
    csv: Path, data_dir: str | None, paths: Iterable[str], *, allow_outside: bool = False
) -> Store:
    """Find the images of a groups CSV.

    They lie in ``data_dir`` (a folder or a .zip), else in the CSV's folder. Where that folder has
    none of the top folders that the paths begin with but holds exactly one .zip, it is the .zip.

    Raises:
        ImageError: ``data_dir`` does not exist or is not a .zip.
    """
    if data_dir is not None:
        root = Path(data_dir)
        if root.is_dir():
            return Folder(root, allow_outside=allow_outside)
        if root.is_file():
            return Zip(root)
        raise ImageError(f"--data-dir: '{data_dir}' does not exist")
    folder = csv.parent
    tops = {path.split("/", 1)[0] for path in paths}
    archives = sorted(folder.glob("*.zip"))
    if len(archives) == 1 and not any(os.path.exists(folder / top) for top in tops):
        return Zip(archives[0])
    return Folder(folder, allow_outside=allow_outside)


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
            for same in _alike(rows, (_hash(step, paths[row]) for row in rows.tolist()))
            if len(np.unique(splits[same])) > 1
        ]
    found = []
    for rows in sets:
        first = int(rows[np.argmin(splits[rows])])
        found += [(row, first) for row in rows.tolist() if splits[row] > splits[first]]
    return sorted(found)


def _hash(step: Callable[[str], Hashable], path: str) -> int:
    """Of what a step says of an image; one that cannot be read is like no other."""
    try:
        return hash(step(path))
    except Exception:  # zipfile raises many kinds for damaged bytes
        return hash(("cannot be read", path))


def _alike(rows: Integers, keys: Iterable[int]) -> list[Integers]:
    """Sets of at least two rows whose keys are equal."""
    key = np.fromiter(keys, np.int64, len(rows))
    order = np.argsort(key, kind="stable")
    again = np.diff(key[order]) == 0
    order = order[np.append(again, False) | np.append(False, again)]
    borders = np.flatnonzero(np.diff(key[order])) + 1
    return np.split(rows[order], borders) if len(order) else []
