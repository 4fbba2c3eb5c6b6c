"""What can be wrong with the rows of a table of answers; all of it is noted, row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from unicodedata import normalize

import numpy as np

from ceag_cli.answercolumns import MODELS, Roles
from ceag_cli.arrays import Flags, Integers
from ceag_cli.classes import class_order
from ceag_cli.columns import Column, Content, Problems

ROUNDED = 0.01 + 1e-6
"""By so much two probabilities of an image may contradict each other, being rounded."""

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
"""Names of classes that are compared as numbers."""


def classes_of(
    roles: Roles, words: Mapping[str, Column], problems: Problems
) -> tuple[tuple[str, ...], dict[str, Integers]]:
    """Names of all classes, and the number of that of each row by role: label, dense, sparse."""
    columns = {"label": roles.label, "dense": roles.dense, "sparse": roles.sparse}
    for role, name in columns.items():
        what = "label" if role == "label" else "answer"
        problems.note(words[name].has(""), f"the {what} is empty (column '{name}')")
    _check_spellings(list(columns.values()), words, problems)
    classes = tuple(class_order({word for name in columns.values() for word in words[name].names}))
    number = {name: i for i, name in enumerate(classes)}
    return classes, {
        role: np.array([number[word] for word in words[name].names], np.int64)[words[name].codes]
        for role, name in columns.items()
    }


def _check_spellings(
    columns: Sequence[str], words: Mapping[str, Column], problems: Problems
) -> None:
    """Note classes that are the same number, or the same text, written in another way.

    ``1.0`` is another word than ``1``, so that an answer is wrong which the model got right.
    """
    meant: dict[str | Decimal, tuple[str, str]] = {}
    for name in columns:
        column = words[name]
        count = np.bincount(column.codes, minlength=len(column.names))
        other: dict[int, str] = {}
        for code in np.argsort(-count, kind="stable").tolist():  # the commonest is what is meant
            word = column.names[code]
            if count[code] and word:
                first, where = meant.setdefault(_spelled(word), (word, name))
                if first != word:
                    other[code] = (
                        f"{word!a} (column '{name}') and {first!a} (column '{where}') "
                        "would be two classes; write the same class in the same way"
                    )
        if other:
            problems.note(
                np.isin(column.codes, list(other)),
                lambda row, codes=column.codes, other=other: other[int(codes[row])],  # type: ignore[misc]
            )


def _spelled(word: str) -> str | Decimal:
    """What is equal for different spellings of a class."""
    return Decimal(word) if NUMBER.fullmatch(word) else normalize("NFC", word)


def check_variety(cells: Mapping[str, Column], problems: Problems) -> None:
    """Note columns that make groups by default and have too many values for that."""
    count = len(problems.records)
    for name, column in cells.items():
        if len(column.names) > max(20, count / 2):
            problems.whole(
                f"column '{name}' has {len(column.names)} different values in {count} rows, "
                "so it makes no groups; name the columns that do with --groups-by"
            )


def check_ids(ids: Sequence[str], problems: Problems) -> None:
    """Note ids that are empty, or that an earlier row has."""
    if "" in (distinct := set(ids)):
        problems.note(np.array([not name for name in ids]), "the id is empty")
    if len(distinct) == len(ids):
        return
    first: dict[str, int] = {}
    again = np.array(
        [bool(name) and first.setdefault(name, row) != row for row, name in enumerate(ids)]
    )
    lines = problems.lines_of([first[ids[row]] for row in np.flatnonzero(again).tolist()])
    problems.note(
        again, lambda row: f"id '{ids[row]}' was given in row {lines[first[ids[row]]]} already"
    )


def check_probabilities(
    roles: Roles, content: Content, said: Mapping[str, Integers], problems: Problems
) -> None:
    """Note probabilities that are none, or that contradict each other or the answer."""
    usable: dict[str, Flags] = {}
    for role, name in roles.probabilities.items():
        values = content.numbers[name]
        usable[role] = (values >= 0) & (values <= 1) & ~content.unreadable[name]
        problems.note(
            ~usable[role] & ~content.unreadable[name],
            lambda row, values=values, name=name: (  # type: ignore[misc]
                f"{values[row]:g} is no probability from 0 to 1 (column '{name}')"
            ),
        )
    for model in MODELS:
        both = [f"{model}_p", f"{model}_p_label"]
        if all(role in usable for role in both):
            _check_agreement(
                [roles.probabilities[role] for role in both],
                content,
                usable[both[0]] & usable[both[1]],
                said[model] == said["label"],
                problems,
            )


def _check_agreement(
    names: Sequence[str], content: Content, usable: Flags, right: Flags, problems: Problems
) -> None:
    """Note probabilities of the answer and of the label that no model gives.

    Where the answer is the label both are one number. Where it is not, they are those of two
    classes, of which the answer is the likelier one.
    """
    p, p_label = (content.numbers[name] for name in names)

    def text(why: str) -> Callable[[int], str]:
        return lambda row: f"{names[0]} is {p[row]:g} and {names[1]} {p_label[row]:g}, {why}"

    problems.note(
        usable & right & (np.abs(p - p_label) > ROUNDED), text("but the answer is the label")
    )
    problems.note(
        usable & ~right & (p_label > p + ROUNDED),
        text("but an answer is the likeliest class; leave out both columns if a threshold decides"),
    )
    problems.note(
        usable & ~right & (p + p_label > 1 + ROUNDED),
        text("of two classes, and together more than 1"),
    )
