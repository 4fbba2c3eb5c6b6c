"""Data sets in the layouts that they are published in, as the rows of a groups CSV.

Each reader takes a folder as it comes out of the archive, downloads nothing, and gives a row for
every image with what is known of it. What is wrong is collected, so that one reading finds it all.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ceag_cli.cifarbatches import BATCHES, find_batches, read_batches
from ceag_cli.errors import LabelsError, nearest

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of files that are taken for images."""

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folders that are splits and not classes, and which."""

AGES = (0, 3, 10, 20, 30, 40, 50, 60, 70)
"""Where the nine bands of FairFace begin."""


@dataclass
class Table:
    """What a layout says of its images."""

    root: Path
    """The folder that the paths are relative to."""
    columns: tuple[str, ...]
    """What is known of an image."""
    label: str | None = None
    """The column that is the target, where the data set has one."""
    groups: tuple[str, ...] = ()
    """The columns that are written unless others are asked for."""
    person: str | None = None
    """The column that tells who is in an image."""
    paths: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    """The split of each image; empty where it is to be drawn."""
    cells: list[tuple[str, ...]] = field(default_factory=list)
    """For each image what stands in the columns; empty where it is not known."""
    problems: list[str] = field(default_factory=list)
    """What is wrong beside that."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why something is not known, by row."""
    pixels: Callable[[], Iterator[npt.NDArray[np.uint8]]] | None = None
    """The images in this order, where they are in no files of their own."""

    def add(self, path: str, split: str, cells: Sequence[str]) -> None:
        """Add an image."""
        self.paths.append(path)
        self.splits.append(split)
        self.cells.append(tuple(cells))


def age_band(years: int) -> str:
    """The band that an age belongs to, in FairFace's words.

    >>> age_band(2), age_band(39), age_band(70)
    ('0-2', '30-39', 'more than 70')
    """
    start = max(age for age in AGES if age <= years)
    if start == AGES[-1]:
        return "more than 70"
    return f"{start}-{AGES[AGES.index(start) + 1] - 1}"


def images_in(folder: Path) -> list[str]:
    """Paths of all images below a folder, relative to it, sorted; hidden ones are no images."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        inside = Path(place).relative_to(folder).as_posix()
        found += [
            name if inside == "." else f"{inside}/{name}"
            for name in files
            if name.lower().endswith(IMAGES) and not name.startswith(".")
        ]
    return sorted(found)


# UTKFace: all in the name of the file.

UTKFACE_GENDERS = ("Male", "Female")
UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Others")
UTKFACE_NAME = "[age]_[gender]_[race]_[date].jpg"
_DATE = re.compile(r"\d{8,}")


def read_utkface(folder: Path) -> Table:
    """UTKFace (Zhang, Song and Qi 2017): files named ``[age]_[gender]_[race]_[date].jpg``.

    Some published files have two numbers or an empty one before the date. In a name with two, the
    race is what lacks: the second is a gender in all of them.
    """
    table = Table(folder, ("gender", "race", "age"), groups=("gender", "race", "age"))
    first: dict[str, str] = {}
    for path in images_in(folder):
        name = PurePosixPath(path).name
        other = first.setdefault(name, path)
        if other != path:
            table.problems.append(
                f"{folder / path}: has the name of {folder / other}, so it is the same image; "
                "name one of the folders"
            )
            continue
        *numbers, last = name.split("_")
        named = _DATE.match(last) is not None and 2 <= len(numbers) <= 3
        age, gender, race = [*numbers, ""][:3] if named else ("", "", "")
        cells = (
            UTKFACE_GENDERS[int(gender)] if gender in ("0", "1") else "",
            UTKFACE_RACES[int(race)] if race in ("0", "1", "2", "3", "4") else "",
            age_band(int(age)) if age.isdecimal() and age.isascii() and len(age) < 4 else "",
        )
        if "" in cells:
            table.reasons[len(table.paths)] = f"it is not named {UTKFACE_NAME}"
        table.add(path, "", cells)
    return table


# FairFace: two tables, one a split.

FAIRFACE_FILES = {"train": "fairface_label_train.csv", "val": "fairface_label_val.csv"}
FAIRFACE_COLUMNS = ("gender", "race", "age", "service_test")


def read_fairface(folder: Path) -> Table:
    """FairFace (Karkkainen and Joo 2021): label files beside the folders train and val."""
    table = Table(folder, FAIRFACE_COLUMNS, groups=FAIRFACE_COLUMNS[:3])
    lacking = [name for name in FAIRFACE_FILES.values() if not (folder / name).is_file()]
    if lacking:
        raise LabelsError(f"{folder}: has no {' and no '.join(lacking)}")
    there = set(images_in(folder))
    for split, name in FAIRFACE_FILES.items():
        rows = _lines(folder / name)
        _, header = next(rows, (1, []))
        wanted = ("file", *FAIRFACE_COLUMNS[:3])
        if not set(wanted) <= set(header):
            raise LabelsError(
                f"{folder / name} row 1: needs the columns {', '.join(wanted)}; found "
                f"{', '.join(header) or 'none'}"
            )
        for line, row in rows:
            if len(row) != len(header):
                table.problems.append(
                    f"{folder / name} row {line}: has {len(row)} cells, the header has "
                    f"{len(header)}"
                )
                continue
            cells = dict(zip(header, row, strict=True))
            if cells["file"] not in there:
                table.problems.append(
                    f"{folder / name} row {line}: there is no image '{cells['file']}' in {folder}"
                )
                continue
            table.add(cells["file"], split, [cells.get(c, "") for c in FAIRFACE_COLUMNS])
    return table


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table with their lines, cells without spaces around; empty rows left out.

    A .csv has commas, anything else spaces.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.reader(file, strict=True)
                for row in reader:
                    if row:
                        yield reader.line_num, [cell.strip() for cell in row]
            else:
                for number, line in enumerate(file, start=1):
                    if words := line.split():
                        yield number, words
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path}: cannot be read as a table: {error}") from None


# CelebA: tables of attributes, splits and people.

CELEBA_PARTITION = {"0": "train", "1": "val", "2": "test"}
CELEBA_VALUES = {"1": "yes", "-1": "no"}
CELEBA_IMAGES = ("img_align_celeba", "img_align_celeba_png", "img_celeba")
CELEBA_GROUPS = ("Male", "Young")


def read_celeba(folder: Path) -> Table:
    """CelebA (Liu et al. 2015), its .txt files or the .csv files that others have made of them."""
    attributes = _celeba_file(folder, "list_attr_celeba")
    if attributes is None:
        raise LabelsError(f"{folder}: has no list_attr_celeba.txt, nor have Anno and Eval in it")
    rows = _lines(attributes)
    line, header = next(rows, (1, [""]))
    count = int(header[0]) if len(header) == 1 and header[0].isdecimal() else None
    if count is not None:
        line, header = next(rows, (2, []))
    names = tuple(header[1:] if header[:1] == ["image_id"] else header)
    lacking = [name for name in CELEBA_GROUPS if name not in names]
    if lacking:
        raise LabelsError(f"{attributes} row {line}: has no attribute {' and no '.join(lacking)}")
    root, images = _celeba_images(folder)
    splits, problems = _celeba_column(folder, "list_eval_partition")
    persons, more = _celeba_column(folder, "identity_CelebA")
    columns = names if persons is None else (*names, "identity")
    table = Table(root, columns, groups=CELEBA_GROUPS, person="identity" if persons else None)
    table.problems += problems + more
    number = 0
    for line, (name, *values) in rows:
        number += 1
        wrong = _celeba_problem(name, values, names, images, splits, persons)
        if wrong is not None:
            table.problems.append(f"{attributes} row {line}: {wrong}")
            continue
        split = CELEBA_PARTITION[splits[name]] if splits is not None else ""
        cells = [CELEBA_VALUES[value] for value in values]
        if persons is not None:
            cells.append(persons[name])
        table.add(images[PurePosixPath(name).stem], split, cells)
    if count not in (None, number):
        table.problems.append(f"{attributes}: says that it has {count} rows, but has {number}")
    return table


def _celeba_problem(
    name: str,
    values: Sequence[str],
    names: Sequence[str],
    images: dict[str, str],
    splits: dict[str, str] | None,
    persons: dict[str, str] | None,
) -> str | None:
    """What is wrong with a row of attributes."""
    if len(values) != len(names):
        return f"'{name}' has {len(values)} values for {len(names)} attributes"
    strange = next((value for value in values if value not in CELEBA_VALUES), None)
    if strange is not None:
        return f"'{name}': '{strange}' is not 1 or -1"
    if PurePosixPath(name).stem not in images:
        return f"there is no image '{name}'"
    if splits is not None and splits.get(name) not in CELEBA_PARTITION:
        return f"'{name}' has no split 0, 1 or 2 in list_eval_partition"
    if persons is not None and name not in persons:
        return f"'{name}' has no person in identity_CelebA"
    return None


def _celeba_file(folder: Path, name: str) -> Path | None:
    places = (folder / inside / f"{name}{end}" for end in (".txt", ".csv") for inside in _INSIDE)
    return next((place for place in places if place.is_file()), None)


_INSIDE = ("", "Anno", "Eval")


def _celeba_images(folder: Path) -> tuple[Path, dict[str, str]]:
    """The folder that paths are relative to, and the path of each image by its name's stem."""
    for name in CELEBA_IMAGES:
        for place in (folder / name, folder / "Img" / name):
            if place.is_dir():
                inside = place.relative_to(folder).as_posix()
                return folder, {
                    PurePosixPath(path).stem: f"{inside}/{path}" for path in images_in(place)
                }
    raise LabelsError(f"{folder}: has no folder of images ({', '.join(CELEBA_IMAGES)}), nor Img/")


def _celeba_column(folder: Path, name: str) -> tuple[dict[str, str] | None, list[str]]:
    """A table of images and one word each, where there is one, and what is wrong with it."""
    path = _celeba_file(folder, name)
    if path is None:
        return None, []
    found, problems = {}, []
    for line, row in _lines(path):
        if row[0] == "image_id":
            continue
        if len(row) != 2:
            problems.append(f"{path} row {line}: has {len(row)} words, not 2")
            continue
        found[row[0]] = row[1]
    return found, problems


# CIFAR: images in pickles.


def read_cifar(kind: str, folder: Path) -> Table:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), the Python version."""
    batches = read_batches(kind, find_batches(kind, folder))
    columns = tuple(BATCHES[kind].labels)
    table = Table(folder, columns, label="label", groups=columns[1:])
    for split, batch in batches.items():
        digits = len(str(max(len(batch.pixels) - 1, 0)))
        for number, cells in enumerate(zip(*(batch.names[c] for c in columns), strict=True)):
            table.add(f"images/{split}/{cells[0]}/{number:0{digits}}.png", split, cells)
    table.pixels = lambda: (image for batch in batches.values() for image in batch.pixels)
    return table


# Folders.


def read_image_folder(folder: Path) -> Table:
    """A folder for each class, or folders of splits with a folder for each class in them.

    The class is the first folder; what lies deeper in it belongs to it.
    """
    table = Table(folder, ("label",), label="label")
    paths = images_in(folder)
    tops = {path.split("/", 1)[0] for path in paths if "/" in path}
    has_splits = bool(tops) and all(top.lower() in SPLIT_FOLDERS for top in tops)
    depth = 2 if has_splits else 1
    if not has_splits and any(top.lower() in SPLIT_FOLDERS for top in tops):
        inside = sorted(top for top in tops if top.lower() in SPLIT_FOLDERS)
        table.problems.append(
            f"{folder}: {', '.join(inside)} could be a split or a class among "
            f"{', '.join(sorted(tops - set(inside))[:3])}; have folders of splits or of classes"
        )
    for path in paths:
        *folders, _ = path.split("/")
        if len(folders) < depth:
            where = "a split's folder" if folders else "none"
            table.problems.append(
                f"{folder / path}: lies in {where}, but in no folder that names its class"
            )
            continue
        split = SPLIT_FOLDERS[folders[0].lower()] if has_splits else ""
        table.add(path, split, [folders[depth - 1]])
    return table


LAYOUTS: dict[str, Callable[[Path], Table]] = {
    "utkface": read_utkface,
    "fairface": read_fairface,
    "cifar10": lambda folder: read_cifar("cifar10", folder),
    "cifar100": lambda folder: read_cifar("cifar100", folder),
    "celeba": read_celeba,
    "imagefolder": read_image_folder,
}
"""What ``ceag groups --from`` knows."""


def read_layout(name: str, folder: Path) -> Table:
    """Read a data set in a layout of that name.

    Raises:
        LabelsError: There is no such layout or folder, or nothing in it is of that layout.
    """
    if name not in LAYOUTS:
        raise LabelsError(
            f"--from: '{name}' is not one of {', '.join(LAYOUTS)}{nearest(name, LAYOUTS)}"
        )
    if not folder.is_dir():
        more = "; unpack it first" if folder.is_file() else ""
        raise LabelsError(f"{folder}: is not a folder{more}")
    table = LAYOUTS[name](folder)
    if not table.paths and not table.problems:
        raise LabelsError(f"{folder}: has no image")
    return table
