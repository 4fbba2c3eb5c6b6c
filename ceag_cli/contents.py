"""The bytes of a data set's images, by their number: stretches of files, arrays, or records.

A .tar is read where its members lie in it, and a file is opened for every image, so that processes
which decode beside each other share no position in a file.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ceag_cli.arrays import Integers
from ceag_cli.stores import BEGINNING, MOST_BYTES, Folder, whole_file


class Contents(Protocol):
    """The bytes of images that are known by their number."""

    def read(self, number: int) -> bytes:
        """The bytes of an image."""

    def beginning(self, number: int) -> bytes:
        """The first bytes of an image, ``BEGINNING`` of them or all."""

    def mark(self, number: int) -> tuple[int, ...]:
        """A number or two that differ when the bytes differ, most of the time; cheap."""

    def state(self, number: int) -> tuple[int, ...]:
        """Numbers that change when the image is written anew, as far as one can tell cheaply."""


class Files:
    """Images that are files."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def read(self, number: int) -> bytes:
        """The file."""
        return whole_file(self.paths[number])

    def beginning(self, number: int) -> bytes:
        """How it begins."""
        with open(self.paths[number], "rb") as file:
            return file.read(BEGINNING)

    def mark(self, number: int) -> tuple[int, ...]:
        """The size."""
        return (os.stat(self.paths[number]).st_size,)

    def state(self, number: int) -> tuple[int, ...]:
        """The size and the times, as of a folder of the CSV's own files."""
        found = os.stat(self.paths[number])
        return (found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Stretches:
    """Images that are parts of larger files, as the members of a .tar are.

    Args:
        archives: The larger files.
        archive: Number of the one of each image, shape ``(N,)``.
        begin: Where each image begins in it, in bytes, shape ``(N,)``.
        size: Bytes of each, shape ``(N,)``.
    """

    def __init__(
        self, archives: Sequence[str], archive: Integers, begin: Integers, size: Integers
    ) -> None:
        self.archives, self.archive, self.begin, self.size = archives, archive, begin, size
        self.written = [(found.st_size, found.st_mtime_ns) for found in map(os.stat, archives)]

    def read(self, number: int) -> bytes:
        """The stretch.

        Raises:
            OSError: The file ends before it does.
        """
        return self._first(number, int(self.size[number]))

    def beginning(self, number: int) -> bytes:
        """How it begins."""
        return self._first(number, min(int(self.size[number]), BEGINNING))

    def _first(self, number: int, size: int) -> bytes:
        name = self.archives[self.archive[number]]
        if size > MOST_BYTES:
            raise OSError(f"it has {size} bytes; no more than {MOST_BYTES} are read")
        with open(name, "rb") as file:
            found_now = os.fstat(file.fileno())
            if (found_now.st_size, found_now.st_mtime_ns) != self.written[self.archive[number]]:
                raise OSError(f"{name} was changed while it was read")
            file.seek(int(self.begin[number]))
            found = file.read(size)
        if len(found) < size:
            raise OSError(f"{name} is cut short")
        return found

    def mark(self, number: int) -> tuple[int, ...]:
        """The size."""
        return (int(self.size[number]),)

    def state(self, number: int) -> tuple[int, ...]:
        """Where it lies, and the size and time of the file, which has no checksum of it."""
        place = (int(self.begin[number]), int(self.size[number]))
        return (*place, *self.written[self.archive[number]])


class Arrays:
    """Images that are pixels already: uint8, shape ``(N, H, W)`` or ``(N, H, W, 3)``.

    Their bytes are those of a PPM or PGM, which any reader of images turns into the same pixels.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def read(self, number: int) -> bytes:
        """A header, then the pixels."""
        image = self.pixels[number]
        kind = "P5" if image.ndim == 2 else "P6"
        header = f"{kind}\n{image.shape[1]} {image.shape[0]}\n255\n"
        pixels: bytes = image.tobytes()
        return header.encode("ascii") + pixels

    def beginning(self, number: int) -> bytes:
        """How they begin."""
        return self.read(number)[:BEGINNING]

    def mark(self, number: int) -> tuple[int, ...]:
        """A checksum of the pixels."""
        return (zlib.crc32(self.pixels[number].tobytes()),)

    def state(self, number: int) -> tuple[int, ...]:
        """The same, with the size of an image."""
        return (*self.mark(number), *self.pixels.shape[1:])


class Records:
    """Images in the records of a data set of Hugging Face, as bytes or as the path of a file.

    Args:
        records: Gives a record by its number; the image is not decoded.
        key: The field with the image.
        folder: That of the data set, in which the files of records have to lie.
    """

    def __init__(self, records: Any, key: str, folder: Folder) -> None:
        self.records, self.key, self.folder = records, key, folder

    def read(self, number: int) -> bytes:
        """The bytes of the record, else those of the file that it names in the folder.

        Raises:
            OSError: It has neither.
        """
        image = self.records[number][self.key] or {}
        if image.get("bytes"):
            return bytes(image["bytes"])
        if not image.get("path"):
            raise OSError("the record holds no image")
        path = os.path.relpath(os.path.join(self.folder.root, image["path"]), self.folder.root)
        if not self.folder.has(path):
            raise OSError(self.folder.absent(path))
        return self.folder.read(path)

    def beginning(self, number: int) -> bytes:
        """How they begin."""
        return self.read(number)[:BEGINNING]

    def mark(self, number: int) -> tuple[int, ...]:
        """Size and checksum."""
        found = self.read(number)
        return (len(found), zlib.crc32(found))

    def state(self, number: int) -> tuple[int, ...]:
        """The same: a record has no time of writing."""
        return self.mark(number)
