"""Columns of a table of images as its splits, groups and clusters; what is wrong is noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ceag_cli.arrays import Flags, Integers
from ceag_cli.columns import Column, Problems, renumbered
from ceag_cli.groups import ambiguous, crossed
from ceag_cli.headers import SPLITS

POLICIES = ("error", "group", "drop")
"""What to do with an image that has no group: refuse it, give it a group, leave it out."""

MISSING = "<missing>"
"""Group of the images that have none."""


def split_numbers(column: Column, problems: Problems) -> Integers:
    """Number in ``SPLITS`` of each row; -1, and a problem, where it is none."""
    number = {name: i for i, name in enumerate(SPLITS)}
    found = np.array([number.get(name, -1) for name in column.names], np.int64)[column.codes]

    def text(row: int) -> str:
        return f"split '{column.names[column.codes[row]]}' is not one of {', '.join(SPLITS)}"

    problems.note(found < 0, text)
    return found


def without_group(cells: Mapping[str, Column], missing: str, problems: Problems) -> Flags:
    """The rows in which a group is empty; what is wrong with that is noted."""
    without = np.zeros(len(problems.records), bool)
    for name, column in cells.items():
        empty = column.has("")
        without |= empty
        if missing == "error":
            problems.note(empty, f"the group is empty (column '{name}')")
        if missing == "group":
            problems.note(column.has(MISSING), _name_is_taken(name))
    return without


def _name_is_taken(column: str) -> str:
    """What is wrong with a group that is called as those without one."""
    return (
        f"the group '{MISSING}' (column '{column}') has the name that --missing group gives; "
        "rename it"
    )


def check_clusters(name: str, column: Column, problems: Problems) -> None:
    """Note the rows that say nothing of which others they belong together with."""
    problems.note(column.has(""), f"the cluster is empty (column '{name}')")


class Groups(NamedTuple):
    """Groups of columns."""

    values: tuple[tuple[str, ...], ...]
    """Their names by feature, sorted; a group without rows has none."""
    ids: Integers
    """Shape ``(N, F)``; they count through all features."""
    ambiguous: list[str]
    """Groups that would have one name, as messages."""


def grouped(
    cells: Mapping[str, Column],
    features: Sequence[Sequence[str]],
    rows: Flags | slice = slice(None),
) -> Groups:
    """Make groups of columns, those of a feature crossed."""
    values: list[tuple[str, ...]] = []
    ids = []
    problems: list[str] = []
    for of_feature in features:
        columns = [cells[name] for name in of_feature]
        key = np.zeros(len(columns[0].codes[rows]), np.int64)
        count = 1
        for column in columns:
            size = len(column.names)
            key, found = renumbered(key * size + column.codes[rows], count * size)
            count = len(found)
        where = np.zeros(count if len(key) else 0, np.int64)
        where[key] = np.arange(len(key))  # some row of each combination
        parts = [column.codes[rows][where].tolist() for column in columns]
        each = [
            [column.names[c] or MISSING for column, c in zip(columns, row, strict=True)]
            for row in zip(*parts, strict=True)
        ]
        words = [crossed(row) for row in each]
        problems += ambiguous(of_feature, each) if len(set(words)) < len(words) else []
        names = sorted(set(words))
        number = {name: i for i, name in enumerate(names)}
        offset = sum(len(names) for names in values)
        ids.append(offset + np.array([number[word] for word in words], np.int64)[key])
        values.append(tuple(names))
    return Groups(tuple(values), np.stack(ids, axis=1), problems)
