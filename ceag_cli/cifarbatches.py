"""The Python batches of CIFAR: pickles, read without running what a pickle may run.

A pickle is a program: it names functions and has them called. Here it can name what makes an array
of bytes, and gets a stand-in for that; everything else is refused. So a file that pretends to be
CIFAR can at most be refused, too.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ceag_cli.errors import LabelsError

SIDE = 32
"""Height and width of the images."""


@dataclass(frozen=True)
class BatchLayout:
    """Which files a data set has, and what their keys are called."""

    folder: str
    """Where the published archive puts them."""
    meta: str
    splits: dict[str, tuple[str, ...]]
    """Files of each split."""
    labels: dict[str, tuple[str, str]]
    """By column of the CSV, the key of the numbers in a batch and that of the names in ``meta``."""


BATCHES = {
    "cifar10": BatchLayout(
        "cifar-10-batches-py",
        "batches.meta",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        {"label": ("labels", "label_names")},
    ),
    "cifar100": BatchLayout(
        "cifar-100-python",
        "meta",
        {"train": ("train",), "test": ("test",)},
        {
            "label": ("fine_labels", "fine_label_names"),
            "superclass": ("coarse_labels", "coarse_label_names"),
        },
    ),
}


@dataclass(frozen=True)
class Batch:
    """The images of one file, and their classes by name."""

    pixels: npt.NDArray[np.uint8]
    """Shape ``(N, 32, 32, 3)``."""
    names: dict[str, list[str]]
    """By column, the name for each image."""


class _Array:
    """Stands in for a numpy array: keeps what the pickle says is in it."""

    __slots__ = ("state",)

    @classmethod
    def of_buffer(cls, content: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
        """As newer pickles have it."""
        found = cls()
        found.state = (1, shape, kind, order != "C", content)
        return found

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The numbers in it.

        Raises:
            ValueError: It is no array of bytes, row by row.
        """
        _, shape, kind, by_column, content = self.state
        if not isinstance(kind, _Kind) or kind.name != "u1" or by_column:
            raise ValueError("its data are no array of bytes")
        found: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8).reshape(shape)
        return found


class _Kind:
    """Stands in for a numpy dtype."""

    __slots__ = ("name",)

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, of which a byte has none."""


class _Unpickler(pickle.Unpickler):
    """Knows numbers, texts, lists, dictionaries and arrays, by stand-ins made anew each time."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for.

        Raises:
            pickle.UnpicklingError: It is none that an array is made with.
        """
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy.core.numeric", "_frombuffer"): lambda *given: _Array.of_buffer(*given),
            ("numpy", "ndarray"): lambda *_: None,  # only named, never called
            ("numpy", "dtype"): lambda *given: _Kind(*given),
            # So Python 3 writes bytes for Python 2.
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
        }
        named = (module.replace("numpy._core", "numpy.core"), name)  # it was renamed in numpy 2
        if named not in known:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which CIFAR's batches do not and which may run "
                "anything; it was not read further"
            )
        return known[named]


def _read(path: Path) -> dict[str, Any]:
    """A dictionary of a pickle of Python 2 or 3, its keys as text."""
    try:
        with path.open("rb") as file:
            found = _Unpickler(file, encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError("it holds no dictionary")
        return {_text(key): value for key, value in found.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LabelsError(f"{path}: cannot be read as a batch of CIFAR: {reason}") from None


def _text(word: str | bytes) -> str:
    return word.decode("utf-8") if isinstance(word, bytes) else str(word)


def find_batches(kind: str, folder: Path) -> Path:
    """The folder of the batches: the one given, or the archive's own folder in it.

    Raises:
        LabelsError: They are in neither.
    """
    layout = BATCHES[kind]
    files = [layout.meta, *(name for names in layout.splits.values() for name in names)]
    for place in (folder, folder / layout.folder):
        lacking = [name for name in files if not (place / name).is_file()]
        if len(lacking) < len(files):
            if lacking:
                raise LabelsError(
                    f"{place}: lacks {', '.join(lacking)} of the Python version of {kind}"
                )
            return place
    raise LabelsError(f"{folder}: has no file of the Python version of {kind} ({', '.join(files)})")


def read_batches(kind: str, folder: Path) -> dict[str, Batch]:
    """Read CIFAR-10 or CIFAR-100 as its authors publish it for Python.

    Args:
        kind: A key of ``BATCHES``.
        folder: As ``find_batches`` gives it.

    Returns:
        The images of each split, in the order of the files.

    Raises:
        LabelsError: A file is damaged, or is no such file.
    """
    layout = BATCHES[kind]
    meta = _read(folder / layout.meta)
    try:
        classes = {
            column: [_text(name) for name in meta[key]]
            for column, (_, key) in layout.labels.items()
        }
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise LabelsError(f"{folder / layout.meta}: has no list of class names: {error}") from None
    found = {}
    for split, names in layout.splits.items():
        parts = [_batch(folder / name, layout, classes) for name in names]
        found[split] = Batch(
            np.concatenate([part.pixels for part in parts]),
            {c: [name for part in parts for name in part.names[c]] for c in layout.labels},
        )
    return found


def _batch(path: Path, layout: BatchLayout, classes: dict[str, list[str]]) -> Batch:
    content = _read(path)
    try:
        rows = content["data"].pixels()
        pixels = rows.reshape(len(rows), 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        names = {
            column: [classes[column][_index(i)] for i in content[key]]
            for column, (key, _) in layout.labels.items()
        }
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise LabelsError(f"{path}: cannot be read as a batch of CIFAR: {reason}") from None
    for column, each in names.items():
        if len(each) != len(pixels):
            raise LabelsError(f"{path}: has {len(pixels)} images and {len(each)} of '{column}'")
    return Batch(pixels, names)


def _index(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"'{number}' is no class")
    return number


def write_archive(
    path: Path, names: Sequence[str], pixels: Iterator[npt.NDArray[np.uint8]]
) -> Iterator[int]:
    """Write images as PNGs into a .zip, in place; gives the number of each that is written.

    Equal images give equal bytes.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, (name, image) in enumerate(zip(names, pixels, strict=True), start=1):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            archive.writestr(zipfile.ZipInfo(name), png.getvalue())
            yield number
