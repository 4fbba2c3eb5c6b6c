"""The images of a data set of timm, in its own order, and what all kinds of them have in common."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from posixpath import normpath
from typing import Any

from timm.data.readers.img_extensions import get_img_extensions, set_img_extensions
from timm.utils.misc import natural_key

from ceag_cli.contents import Contents
from ceag_cli.errors import ImageError, nearest
from ceag_cli.labels import outside
from ceag_cli.references import DatasetReference

# These have no types.
_natural_key: Callable[[str], Any] = natural_key
_extensions: Callable[[], Sequence[str]] = get_img_extensions
_set_extensions: Callable[[Sequence[str]], None] = set_img_extensions

SHOWN_NAMES = 5

WHOLE = ""
"""The split of a data set that is taken as one."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set, or of one split of it, in its own order."""

    split: str
    """``WHOLE``, or the name of the split."""
    contents: Contents
    names: Sequence[str] | None
    """Path of each image in the folder of the data set, a .tar counting as a folder; ``None`` where
    the data set names none."""
    labels: Sequence[str | None] | None
    """Class of each; ``None`` for all where they were not asked for."""
    count: int
    numbers: Mapping[str, str]
    """Number of each class by name, where the data set itself numbers them and not a sorting."""
    unordered: str | None = None
    """Why the place of an image among the others means nothing."""
    sorted_by: Sequence[str] = ()
    """Paths in the order into which timm has sorted them, where it has."""
    only: Sequence[str] = ()
    """Extensions of the files that were taken, where others are passed over."""

    def without_order(self) -> str | None:
        """Why the place of an image among the others means nothing; ``None`` where it is fixed."""
        for one, other in pairwise(self.sorted_by):
            if _natural_key(one) == _natural_key(other):
                return (
                    f"'{one}' and '{other}' are equal to timm's sorting, so their order depends on "
                    "the file system"
                )
        return self.unordered


def part_of(root: Path, split: str) -> Path:
    """The folder or .tar of a split; timm would take all of ``root`` where it is not there."""
    if split == WHOLE:
        return root
    place = root / split
    if outside(split) or not place.exists():
        raise no_split(str(root), split, _entries(root))
    return place


def no_split(where: str, split: str, known: Sequence[str]) -> ImageError:
    """What is wrong where there is no such split; some of those that there are."""
    more = f"; there are {', '.join(known)}" if known else ""
    return ImageError(f"{where}: has no split '{split}'{nearest(split, known)}{more}")


def _entries(root: Path) -> list[str]:
    """What may be splits: folders and .tar files."""
    if not root.is_dir():
        return []
    named = sorted(path.name for path in root.iterdir() if path.is_dir() or path.suffix == ".tar")
    return named[:SHOWN_NAMES]


def cannot_be_read(where: str | Path, error: Exception, remedy: str = "") -> ImageError:
    """What is wrong by the error of a library, in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{where}: cannot be read: {reason}{remedy}")


def by_number(classes: Mapping[str, int]) -> dict[int, str]:
    """Classes by their number."""
    return {number: name for name, number in classes.items()}


@contextmanager
def taken_for_images(dataset: DatasetReference) -> Iterator[tuple[str, ...]]:
    """The extensions of the files that timm takes for images meanwhile."""
    usual = tuple(_extensions())
    only = tuple(dataset.input_key.split(";")) if dataset.input_key else usual
    _set_extensions(only)
    try:
        yield only
    finally:
        _set_extensions(usual)


def no_image(place: Path, only: Sequence[str]) -> ImageError:
    """What is wrong where there is no file that is taken for an image."""
    kinds = ", ".join(sorted(only))
    return ImageError(
        f"{place}: holds no image of the kinds {kinds}; name others with --input-key, as .webp;.png"
    )


def inside(*parts: str) -> str:
    """A path inside of the data set, written in one way."""
    return normpath("/".join(part.replace(os.sep, "/") for part in parts if part))


def labels_of(dataset: DatasetReference, labels: Sequence[str | None]) -> list[str | None] | None:
    """Classes, if they are asked for; the folder that is the data set itself is none."""
    if dataset.labels == "ignore":
        return None
    return [None if label in (None, "", ".") else label for label in labels]


def as_label(target: Any, dataset: DatasetReference) -> str | None:
    """The class as a word; none for what timm counts as unlabelled."""
    if target is None or (isinstance(target, int) and target < 0):
        return None
    if not isinstance(target, (int, str)):
        raise ImageError(
            f"--dataset {dataset.name}: a target is {json.dumps(target, default=str)[:40]}, not "
            "one class; name another field with --target-key, or take the CSV's labels alone with "
            "--dataset-labels ignore"
        )
    return str(target)
