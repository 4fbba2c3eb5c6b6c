"""A data set of timm joined with the groups CSV: every row has its image, every image its row.

A row names its image by file name or by place. The store gives its bytes under one name, whichever
way it was found, so that nothing that comes after knows of the difference. What does not fit is a
problem of the CSV.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from posixpath import normpath, splitext
from typing import Any

import numpy as np

from ceag_cli.arrays import Flags, Integers
from ceag_cli.classes import read_class_map
from ceag_cli.columns import Column, Content, Problems
from ceag_cli.csvfiles import Csv
from ceag_cli.declarations import flag
from ceag_cli.errors import ImageError, LabelsError, first
from ceag_cli.headers import PATH_COLUMNS, SPLITS
from ceag_cli.labels import Labels
from ceag_cli.listings import SHOWN_NAMES, Listing
from ceag_cli.readers import list_images, root_of
from ceag_cli.references import DatasetReference

INDEX = "index"
"""Column with the place of an image in its split of the data set, from 0 on."""

LABEL = "label"
"""Label column that the data set's own classes can stand in for."""

_INDEX = re.compile(r"[0-9]{1,18}")

_NO_PLACE = "no place "
"""How a row is called whose index is none, which no image can be."""


class DatasetStore:
    """The images of a data set, each under one name: a ``Store``.

    The name is the path in the data set's folder; where it has no names, or (joined by place) they
    are not all different, it is the split and the place, as ``test/17``.

    Args:
        dataset: Where they come from.
        data_dir: Where that lies.
        by_index: Whether rows name their image by its place.
        allow_outside: Also take images that links in it lead to elsewhere.

    Raises:
        OptionError, ImageError: It cannot be opened, or its images cannot be told apart in this
            way.
    """

    def __init__(
        self,
        dataset: DatasetReference,
        data_dir: str | None,
        by_index: bool,
        *,
        allow_outside: bool = False,
    ) -> None:
        self.root = root_of(dataset, data_dir)
        self.by_index = by_index
        self.listings = list_images(dataset, data_dir, allow_outside=allow_outside)
        self.begins = np.cumsum([0, *(listing.count for listing in self.listings)])
        problems = [
            f"--dataset {dataset.name}: {problem}"
            for listing in self.listings
            for problem in _cannot_join(listing, by_index)
        ]
        names = [name for listing in self.listings for name in _names_of(listing, by_index)]
        self.names = names
        self.numbers = {name: number for number, name in enumerate(names)}
        if len(self.numbers) < len(names) and not problems:
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            problems += first(
                [f"{self.root}: two images are called '{name}'; name them apart" for name in twice],
                SHOWN_NAMES,
                " such names",
            )
        if problems:
            raise ImageError(problems)
        asked = all(listing.labels is not None for listing in self.listings)
        self.labels = (
            [c for listing in self.listings for c in listing.labels or ()] if asked else None
        )
        self.dataset = replace(dataset, sha256=self._sha256())

    def _sha256(self) -> str:
        """Of the names and classes of the images; where they are joined by place, in order."""
        labels = self.labels or [None] * len(self.names)
        lines = [
            json.dumps([listing.split, self.names[number], labels[number]])
            for listing, begin in zip(self.listings, self.begins.tolist(), strict=False)
            for number in range(begin, begin + listing.count)
        ]
        text = "\n".join(lines if self.by_index else sorted(lines))
        return hashlib.sha256(text.encode()).hexdigest()

    def place(self, number: int) -> tuple[Listing, int]:
        """The split that an image is in, and where it is there."""
        which = int(np.searchsorted(self.begins, number, "right")) - 1
        return self.listings[which], number - int(self.begins[which])

    def number_at(self, split: str, index: str) -> int | None:
        """The image at a place of a split; ``None`` where there is none."""
        for listing, begin in zip(self.listings, self.begins.tolist(), strict=False):
            if listing.split == split and _INDEX.fullmatch(index):
                return begin + int(index) if int(index) < listing.count else None
        return None

    def has(self, path: str) -> bool:
        """Whether there is an image of this name."""
        return path in self.numbers

    def read(self, path: str) -> bytes:
        """The bytes of the image."""
        listing, place = self.place(self.numbers[path])
        return listing.contents.read(place)

    def beginning(self, path: str) -> bytes:
        """The first bytes of the image."""
        listing, place = self.place(self.numbers[path])
        return listing.contents.beginning(place)

    def mark(self, path: str) -> tuple[int, ...]:
        """A number or two that differ when the bytes differ, most of the time."""
        listing, place = self.place(self.numbers[path])
        return listing.contents.mark(place)

    def state(self, path: str) -> tuple[int, ...]:
        """Numbers that change when the image is written anew."""
        listing, place = self.place(self.numbers[path])
        return listing.contents.state(place)

    def absent(self, path: str) -> str:
        """What to say of a row whose image is not there."""
        if path.startswith(_NO_PLACE):
            counts = ", ".join(
                f"{listing.split or 'it'} has 0 to {listing.count - 1}" for listing in self.listings
            )
            return f"there is no image at {INDEX} {path.removeprefix(_NO_PLACE)} ({counts})"
        only = {extension for listing in self.listings for extension in listing.only}
        more = ""
        if only and splitext(path)[1].lower() not in only:
            kinds = ", ".join(sorted(only))
            more = f" (taken are files of the kinds {kinds}; others with --input-key)"
        return f"there is no image '{path}' in {self.root}{more}"


def _names_of(listing: Listing, by_index: bool) -> Sequence[str]:
    names = listing.names
    if names is None or (by_index and len(set(names)) < len(names)):
        prefix = f"{listing.split}/" if listing.split else ""
        return [f"{prefix}{number}" for number in range(listing.count)]
    return names


def _cannot_join(listing: Listing, by_index: bool) -> list[str]:
    """Why the images of a split cannot be told by what the rows have."""
    why = listing.without_order() if by_index else None
    if why is not None:
        return [
            f"the place of an image is not fixed: {why}; name images by their file "
            f"(column path) and not by '{INDEX}'"
        ]
    if not by_index and listing.names is None:
        return [
            f"its images have no names; give their place in each split in a column '{INDEX}', from "
            "0 on, and not in 'path'"
        ]
    return []


def is_by_index(csv: Csv) -> bool:
    """Whether the rows of a CSV name their image by its place.

    Raises:
        LabelsError: It has no column for that, or several.
    """
    columns = [name for name in (*PATH_COLUMNS, INDEX) if name in csv.header]
    if len(columns) != 1:
        raise LabelsError(
            f"{csv.place}: needs exactly one of the columns {', '.join((*PATH_COLUMNS, INDEX))} to "
            f"name the images of the data set; found {', '.join(columns) or 'none'}"
        )
    return columns == [INDEX]


class JoinedCsv:
    """A groups CSV whose rows are joined with a data set: a ``Source`` for ``read_labels``.

    Its column ``path`` is the name that the store has for the image; without a column ``label``,
    the data set's own classes are one.

    Args:
        csv: The CSV.
        store: The images.
        label_column: Column with the target class.
        class_map: File that maps names of classes to outputs, by which different names may mean
            the same class.
    """

    about: dict[str, Any] | None = None

    def __init__(
        self, csv: Csv, store: DatasetStore, label_column: str, class_map: str | None = None
    ) -> None:
        self.csv, self.store, self.label_column = csv, store, label_column
        self.path, self.place, self.sha256 = csv.path, csv.place, csv.sha256
        self.key = INDEX if store.by_index else next(n for n in PATH_COLUMNS if n in csv.header)
        self.header = ["path" if name == self.key else name for name in csv.header]
        self.own_labels = (
            label_column == LABEL and LABEL not in self.header and store.labels is not None
        )
        if self.own_labels:
            self.header.append(LABEL)
        self.outputs = read_class_map(Path(class_map)) if class_map is not None else {}
        self.named: Flags = np.zeros(len(store.names), bool)
        """Of each image, whether a row names it."""
        self.whole: list[str] = []
        self.by_record: list[tuple[int, str]] = []
        """What does not fit, by record of the CSV."""

    def lines(self, records: Iterable[int]) -> dict[int, int]:
        """As the CSV's."""
        return self.csv.lines(records)

    def read(
        self, words: Sequence[str], numbers: Sequence[str], ids: str, problems: Problems
    ) -> Content:
        """Read some columns, and find the image of each row."""
        wanted = [name for name in words if not (self.own_labels and name == LABEL)]
        asked = list(dict.fromkeys([*wanted, "split"]))
        content = self.csv.read(asked, numbers, self.key, problems)
        del self.csv.content  # as large as all that was made of it
        split = content.words["split"]
        self._check_splits(split)
        content.ids = self._names(content.ids, split)
        found = np.fromiter(
            (self.store.numbers.get(name, -1) for name in content.ids), np.int64, len(content.ids)
        )
        self.named[found[found >= 0]] = True
        self._check_places(content, found, split)
        if self.own_labels:
            content.words[LABEL] = self._own(found)
        elif self.store.labels is not None and self.label_column in content.words:
            self._check_labels(content, found)
        return content

    def _check_splits(self, split: Column) -> None:
        of = self.store.dataset.splits
        for name in split.without_unused().names if of else ():
            if name in SPLITS and name not in of:
                self.whole.append(
                    f"rows have split '{name}', and no split of the data set is named for it; name "
                    f"one with {flag(f'{name}_split')}"
                )

    def _names(self, cells: list[str], split: Column) -> list[str]:
        """What the store calls the image of each row."""
        if not self.store.by_index:
            return [_normal(cell) for cell in cells]
        of = self.store.dataset.splits
        places = [of.get(name, "") for name in split.names]
        found = []
        for cell, code in zip(cells, split.codes.tolist(), strict=True):
            number = self.store.number_at(places[code], cell)
            found.append(self.store.names[number] if number is not None else f"{_NO_PLACE}'{cell}'")
        return found

    def _check_places(self, content: Content, found: Integers, split: Column) -> None:
        """Each image has to be in the split of the data set that is named for the row's."""
        of = self.store.dataset.splits
        if not of or self.store.by_index:
            return
        splits = [listing.split for listing in self.store.listings]
        wanted = np.array([_position(splits, of.get(name)) for name in split.names], np.int64)
        there = np.searchsorted(self.store.begins, found, "right") - 1
        wrong = (found >= 0) & (wanted[split.codes] >= 0) & (there != wanted[split.codes])
        rows = np.flatnonzero(wrong)
        kinds = np.stack([split.codes[rows], there[rows]])
        for code, place in np.unique(kinds, axis=1).T.tolist():
            same = rows[(kinds[0] == code) & (kinds[1] == place)]
            row, name = int(same[0]), split.names[code]
            self.by_record.append(
                (
                    int(content.records[row]),
                    f"image '{content.ids[row]}' is in split '{splits[place]}' of the data set, "
                    f"but the row's split is '{name}', for which {flag(f'{name}_split')} names "
                    f"'{of[name]}'{_more(len(same))}",
                )
            )

    def _own(self, found: Integers) -> Column:
        """The data set's own class of the image of each row; empty where there is none."""
        labels = self.store.labels or []
        words = [(labels[number] or "") if number >= 0 else "" for number in found.tolist()]
        names = tuple(dict.fromkeys(words))
        code = {name: i for i, name in enumerate(names)}
        return Column(np.fromiter((code[word] for word in words), np.int64, len(words)), names)

    def _check_labels(self, content: Content, found: Integers) -> None:
        """Note where the CSV and the data set name different classes, once for each two names."""
        labels = self.store.labels or []
        cells = content.words[self.label_column]
        differing: dict[tuple[str, str], list[int]] = {}
        for row, (code, number) in enumerate(
            zip(cells.codes.tolist(), found.tolist(), strict=True)
        ):
            label, own = cells.names[code], labels[number] if number >= 0 else None
            if label and own is not None and label != own:
                differing.setdefault((label, own), []).append(row)
        for (label, own), rows in differing.items():
            if not self._same(label, own):
                self.by_record.append(
                    (
                        int(content.records[rows[0]]),
                        f"label '{label}' (column '{self.label_column}'), but the data set's own "
                        f"class of '{content.ids[rows[0]]}' is '{own}'{_more(len(rows))}; correct "
                        "one of them, let --class-map give both the same output, or, where the "
                        "data set's classes are not the target, say --dataset-labels ignore",
                    )
                )

    def _same(self, label: str, own: str) -> bool:
        """Whether two names mean one class, by the class map or by the data set's own numbers."""
        if label in self.outputs and own in self.outputs:
            return self.outputs[label] == self.outputs[own]
        numbers: Mapping[str, str] = self.store.listings[0].numbers
        return label not in numbers and numbers.get(own) == label

    def unlisted(self) -> list[str]:
        """The images that no row names."""
        return [self.store.names[number] for number in np.flatnonzero(~self.named).tolist()]

    def note_problems(self, labels: Labels) -> None:
        """Note what does not fit.

        Raises:
            LabelsError: Rows are of a split for which the data set has none.
        """
        for text in self.whole:
            labels.problem(0, text)
        if self.whole:
            labels.raise_problems()
        lines = self.lines(record for record, _ in self.by_record)
        for record, text in self.by_record:
            labels.problem(lines[record], text)
        unlisted = self.unlisted()
        if unlisted and self.store.dataset.unlisted == "error":
            labels.problem(
                0, f"{without_a_row(unlisted)}; add rows, or leave them out with --unlisted drop"
            )


def without_a_row(names: Sequence[str]) -> str:
    """How many images of a data set have no row, and the first of them."""
    which = "1 image" if len(names) == 1 else f"{len(names)} images"
    shown = ", ".join(f"'{name}'" for name in names[:SHOWN_NAMES])
    more = ", ..." if len(names) > SHOWN_NAMES else ""
    return f"{which} of the data set {'has' if len(names) == 1 else 'have'} no row ({shown}{more})"


def _more(rows: int) -> str:
    """How many rows have the same problem as the first."""
    return f" (and {rows - 1} more rows)" if rows > 1 else ""


def _normal(path: str) -> str:
    """A path written in one way; one that is empty or leaves the folder stays as it is."""
    return normpath(path) if "//" in path or "./" in path or path.endswith("/.") else path


def _position(splits: Sequence[str], split: str | None) -> int:
    return splits.index(split) if split in splits else -1
