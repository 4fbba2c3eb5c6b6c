"""A folder of decoded pixels, so that images are decoded once and not in every run.

A file of it holds the images of one split after one preprocessing, as ``numpy.load`` reads it, with
a checksum of each image behind them. Its name is made of the shape and of a hash of all that the
pixels depend on, so a changed image or another size is another file. Files may be deleted at any
time, also while a run reads them.

A run holds a shared lock on the file that it reads and an exclusive one on the file that it fills,
which has a name of its own until it is whole. The system drops the locks of a run that is killed.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ceag_cli.locks import lock
from ceag_cli.progress import Reporter

VARIABLE = "CEAG_CACHE"
"""The environment variable that names the folder where no option does."""

GIGABYTE = 1e9

Shape = tuple[int, int, int, int]
"""Images, channels, height, width."""

_OURS = re.compile(r"\d+x\d+x\d+x\d+-[0-9a-f]{32}\.(npy|filling)")
"""Names of files that may be removed to make room; all others in the folder are left alone."""

# https://bford.info/cachedir: programs that make backups leave such a folder out.
_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# Decoded pixels kept by ceag. All of it may be deleted at any time.
"""


class KeptPixels:
    """The pixels of a file, read where they are; each image is checked when it is first taken.

    They are not mapped into memory: the system ends a process without a word that looks at a mapped
    file which another one has cut short.

    Args:
        path: The file, which may be gone by now.
        file: The same, open and locked; it stays so as long as the pixels are in use.
        shape: Of all images.
    """

    def __init__(self, path: Path, file: BinaryIO, shape: Shape) -> None:
        self.path, self._file = path, file
        self.damaged = False
        """Whether an image was found damaged."""
        weakref.finalize(self, file.close)  # which unlocks it
        self._begin, self._image = len(_header(shape)), shape[1:]
        file.seek(self._begin + math.prod(shape))
        found = np.frombuffer(file.read(4 * shape[0]).ljust(4 * shape[0], b"\0"), "<u4")
        self._checksums = found
        self._checked = torch.zeros(shape[0], dtype=torch.bool)

    def is_there(self) -> bool:
        """Whether the file has its name still: another run may have made it anew."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        return False

    def take(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """The pixels of some rows, uint8, and which of these rows are damaged, by their place."""
        taken = np.empty((len(rows), *self._image), np.uint8)
        cut_short = [
            place for place, row in enumerate(rows.tolist()) if not self._read(row, taken[place])
        ]
        new = torch.nonzero(~self._checked[rows]).reshape(-1).tolist()
        damaged = [
            place for place in new if zlib.crc32(taken[place]) != self._checksums[int(rows[place])]
        ]
        damaged = sorted({*damaged, *cut_short})
        self._checked[rows] = True
        self._checked[rows[damaged]] = False
        return torch.from_numpy(taken), damaged

    def _read(self, row: int, into: npt.NDArray[np.uint8]) -> bool:
        """Read an image; whether the file has all of it."""
        size = into.nbytes
        return os.preadv(self._file.fileno(), [into.data], self._begin + row * size) == size


@dataclass(frozen=True)
class PixelCache:
    """The folder.

    Where it cannot be used, that is a warning, and images are decoded without it.
    """

    folder: Path
    most: int
    """Bytes that the files may take together."""
    reporter: Reporter

    @classmethod
    def of(cls, folder: str | None, gigabytes: float, reporter: Reporter) -> PixelCache | None:
        """The folder that an option or else the environment names; ``None`` where neither does."""
        name = folder or os.environ.get(VARIABLE, "").strip()
        return cls(Path(name), int(gigabytes * GIGABYTE), reporter) if name else None

    def open(
        self, key: str, shape: Shape, decoded: Callable[[], Iterator[Tensor]]
    ) -> KeptPixels | None:
        """The pixels that belong to a key, decoded now if no run has done so.

        Args:
            key: Hexadecimal digits, other ones wherever the pixels would be others.
            shape: Of all images.
            decoded: Decodes them, batch by batch, uint8; may raise what it likes.

        Returns:
            The pixels; ``None`` where the folder cannot be used.
        """
        path = self.folder / f"{'x'.join(map(str, shape))}-{key[:32]}.npy"
        try:
            return self._existing(path, shape) or self._filled(path, shape, decoded)
        except OSError as error:
            self._without(f"{error.strerror or error}")
            return None

    def discard(self, pixels: KeptPixels) -> None:
        """Remove a file in which an image is damaged, so that the next run makes it anew."""
        if not pixels.damaged:
            self.reporter.warn(f"{pixels.path}: is damaged; such images are decoded anew")
            pixels.damaged = True
            with suppress(OSError):
                if pixels.is_there():
                    pixels.path.unlink()

    def _without(self, why: str) -> None:
        self.reporter.warn(f"--cache {self.folder}: {why}; images are decoded without it")

    def _existing(self, path: Path, shape: Shape) -> KeptPixels | None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with _closed_on_error(file):
            lock(file, shared=True)
            header = _header(shape)
            whole = os.fstat(file.fileno()).st_size == _size(shape)
            if whole and file.read(len(header)) == header:
                with suppress(OSError):  # a folder that is only read has no order of use
                    os.utime(path)
                self.reporter.say(f"pixels from {path}")
                return KeptPixels(path, file, shape)
            path.unlink()
        file.close()
        self.reporter.warn(f"{path}: is damaged; its images are decoded anew")
        return None

    def _filled(
        self, path: Path, shape: Shape, decoded: Callable[[], Iterator[Tensor]]
    ) -> KeptPixels | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), (self.folder / "CACHEDIR.TAG").open("x") as tag:
            tag.write(_TAG)
        part = path.with_suffix(".filling")
        file = self._alone(part)
        try:
            existing = self._existing(path, shape)  # filled by the run that was waited for
            if existing is None and self._makes_room(_size(shape), part):
                _write(file, shape, decoded())
                os.replace(part, path)
                lock(file, shared=True)
                self.reporter.say(f"pixels kept in {path}")
                return KeptPixels(path, file, shape)
        except BaseException:
            _remove_with(file, part)
            raise
        _remove_with(file, part)
        return existing

    def _alone(self, part: Path) -> BinaryIO:
        """The file to be filled, open and locked; waits for another run that fills it."""
        while True:
            file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            with _closed_on_error(file):
                if lock(file, shared=False, wait=False):
                    with suppress(FileNotFoundError):
                        if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                            return file
                else:
                    self.reporter.say(f"{part}: another run decodes these images; waiting for it")
                    # Until that run has filled the file, not until it has done with reading it.
                    lock(file, shared=True)
            file.close()  # it has its final name by now, or was removed

    def _makes_room(self, size: int, part: Path) -> bool:
        """Whether there is room for so many bytes; files last used longest ago make it."""
        if size > self.most:
            needed = math.ceil(size / GIGABYTE * 10) / 10
            self._without(f"these pixels take {needed:.1f} GB, so --cache-size has to be more")
            return False
        others = []
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path != part:
                with suppress(FileNotFoundError):
                    found = path.stat()
                    others.append((path.suffix == ".npy", found.st_mtime_ns, found.st_size, path))
        taken = sum(bytes_ for _, _, bytes_, _ in others)
        for whole, _, bytes_, path in sorted(others):
            # What a killed run has left behind goes in any case.
            if (not whole or taken + size > self.most) and _removed(path):
                taken -= bytes_
        if taken + size > self.most:
            self._without("what other runs use fills it up to --cache-size")
            return False
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return True


def _write(file: BinaryIO, shape: Shape, batches: Iterator[Tensor]) -> None:
    """Write a whole file; its size is the final one from the beginning, for who counts it."""
    file.truncate(_size(shape))
    file.write(_header(shape))
    checksums = []
    for batch in batches:
        array = batch.contiguous().numpy()
        checksums += [zlib.crc32(image) for image in array]
        file.write(array.data)
    file.write(np.array(checksums, "<u4").tobytes())
    file.flush()


def _header(shape: Shape) -> bytes:
    """How an array of NumPy begins."""
    file = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def _size(shape: Shape) -> int:
    return len(_header(shape)) + math.prod(shape) + 4 * shape[0]


@contextmanager
def _closed_on_error(file: BinaryIO) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


def _removed(path: Path) -> bool:
    """Remove a file unless a run uses it; whether it is gone."""
    try:
        with path.open("r+b") as file:
            if not lock(file, shared=False, wait=False):
                return False
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:  # it belongs to somebody else
        return False
    return True


def _remove_with(file: BinaryIO, path: Path) -> None:
    """Remove a file that is open and locked, and close it."""
    path.unlink(missing_ok=True)
    file.close()
