"""Which classes are mistaken for which, before and after.

A cell of the confusion matrix is a label and a predicted class. Between the two models images move
out of cells and into others; only images whose predicted class changed do, so that everything here
is counted over those alone, and the number of classes costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.means import benjamini_hochberg, divided, mcnemar, names_of

MOST_CLASSES = 300
"""Of more there is no matrix, only the cells that most images moved into or out of."""
MOST_CELLS = 50
"""Cells that are listed."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Images of one class that are predicted as another."""

    label: str
    predicted: str
    dense: int
    """Images here according to the dense model."""
    sparse: int
    share_dense: float
    """Of the images of the class."""
    share_sparse: float
    moved: int
    """``sparse - dense``."""
    p: float
    """Exact McNemar p of "as many come as go"."""
    q: float
    """Corrected for all cells of mistakes that images moved into or out of (Benjamini and
    Hochberg)."""


@dataclass(frozen=True, slots=True)
class ClassShift:
    """One class. ``None`` where there is nothing to divide by."""

    name: str
    n: int
    """Images of the class."""
    predicted_dense: int
    """Images that the dense model takes for it."""
    predicted_sparse: int
    recall_dense: float | None
    recall_sparse: float | None
    recall_drop: float | None
    precision_dense: float | None
    precision_sparse: float | None
    precision_drop: float | None
    share_ratio: float | None
    """How many times as often the sparse model gives this answer."""
    total_variation: float | None
    """Half the sum over predicted classes of how much the shares among its images differ: the
    least share of images that had to move."""
    p: float | None
    """Exact McNemar p of "as many are lost as gained"; ``None`` where none was."""
    q: float | None
    """Corrected for all classes of which an image was lost or gained."""


@dataclass(frozen=True)
class Confusion:
    """The confusion of two models. Exploratory: nothing of it decides anything."""

    classes: int
    tested: int
    """Cells off the diagonal that images moved into or out of: the tests that their q is corrected
    for."""
    cells: tuple[Cell, ...]
    """Off the diagonal, those first into or out of which most images moved."""
    by_class: tuple[ClassShift, ...]
    """In the order of the matrices; without matrices only those that occur."""
    dense: Integers | None
    """Images by label and predicted class; ``None`` for more than ``MOST_CLASSES`` classes."""
    sparse: Integers | None

    def rows(self, counts: Integers) -> Numbers:
        """Row-normalised: of the images of each class, the share by predicted class."""
        return divided(counts, counts.sum(axis=1, keepdims=True))


def confusion(
    label: Integers, dense: Integers, sparse: Integers, names: Sequence[str]
) -> Confusion:
    """Compare two models' confusion.

    Args:
        label: Class of each image; predicted classes need not occur among them.
        dense: Predicted class of each image.
        sparse: The same of the sparse model.
        names: Of the classes, by number.
    """
    seen = max((int(x.max()) + 1 for x in (label, dense, sparse) if len(x)), default=0)
    number = max(len(names), seen)
    few = number <= MOST_CLASSES
    called = names_of(names, number)
    moves = _Moves.between(label, dense, sparse, number)
    return Confusion(
        classes=number,
        tested=int(moves.mistake.sum()),
        cells=tuple(_cells(moves, label, dense, called)),
        by_class=tuple(_by_class(moves, label, dense, sparse, called, every_class=few)),
        dense=_matrix(label, dense, number) if few else None,
        sparse=_matrix(label, sparse, number) if few else None,
    )


@dataclass(frozen=True)
class _Moves:
    """Cells that images moved into or out of, by number: label times classes plus predicted."""

    keys: Integers
    row: Integers
    """Label of each cell."""
    column: Integers
    """Predicted class of each cell."""
    moved: Integers
    """Images that came less those that went."""
    p: Numbers
    q: Numbers

    @classmethod
    def between(cls, label: Integers, dense: Integers, sparse: Integers, number: int) -> _Moves:
        changed = dense != sparse
        label_of, gone, come = label[changed], dense[changed], sparse[changed]
        keys, where = np.unique(
            np.concatenate([label_of * number + come, label_of * number + gone]),
            return_inverse=True,
        )
        where = where.reshape(-1)
        moved_in = np.bincount(where[: len(come)], minlength=len(keys))
        moved_out = np.bincount(where[len(come) :], minlength=len(keys))
        p = mcnemar(moved_in, moved_out)
        row, column = np.divmod(keys, max(number, 1))
        # What goes into a cell comes out of another one of its row: the mistakes are a family of
        # their own, and so are the classes, which are listed apart.
        q = np.empty(len(p))
        for family in (row != column, row == column):
            q[family] = benjamini_hochberg(p[family])
        return cls(keys, row, column, moved_in - moved_out, p, q)

    @property
    def mistake(self) -> Flags:
        """Whether a cell is off the diagonal."""
        found: Flags = self.row != self.column
        return found


def _cells(
    moves: _Moves, label: Integers, dense: Integers, called: Sequence[str]
) -> Iterator[Cell]:
    """The mistakes that most images moved into or out of."""
    n = np.bincount(label, minlength=len(called))
    off = np.flatnonzero(moves.mistake & (moves.moved != 0))
    order = np.lexsort((moves.keys[off], moves.p[off], -np.abs(moves.moved[off])))
    shown = off[order][:MOST_CELLS]
    before = _counts(moves.keys[shown], label * len(called) + dense)
    for i, count in zip(shown.tolist(), before, strict=True):
        row, moved = int(moves.row[i]), int(moves.moved[i])
        yield Cell(
            label=called[row],
            predicted=called[int(moves.column[i])],
            dense=count,
            sparse=count + moved,
            share_dense=count / int(n[row]),
            share_sparse=(count + moved) / int(n[row]),
            moved=moved,
            p=float(moves.p[i]),
            q=float(moves.q[i]),
        )


def _by_class(
    moves: _Moves,
    label: Integers,
    dense: Integers,
    sparse: Integers,
    called: Sequence[str],
    *,
    every_class: bool,
) -> Iterator[ClassShift]:
    """All classes, or those that occur."""
    number = len(called)
    n = np.bincount(label, minlength=number)
    right = [np.bincount(label[said == label], minlength=number) for said in (dense, sparse)]
    said = [np.bincount(answers, minlength=number) for answers in (dense, sparse)]
    recall = divided(right[0], n), divided(right[1], n)
    precision = divided(right[0], said[0]), divided(right[1], said[1])
    columns = {
        "recall_dense": recall[0],
        "recall_sparse": recall[1],
        "recall_drop": divided(right[0] - right[1], n),
        "precision_dense": precision[0],
        "precision_sparse": precision[1],
        "precision_drop": precision[0] - precision[1],
        "share_ratio": divided(said[1], said[0]),
        "total_variation": divided(np.bincount(moves.row, np.abs(moves.moved), number) / 2, n),
    }
    diagonal = {int(moves.row[i]): i for i in np.flatnonzero(~moves.mistake).tolist()}
    for k in np.flatnonzero((n > 0) | (said[0] > 0) | (said[1] > 0) | every_class).tolist():
        test = diagonal.get(k)
        numbers = {name: float(column[k]) for name, column in columns.items()}
        yield ClassShift(
            name=called[k],
            n=int(n[k]),
            predicted_dense=int(said[0][k]),
            predicted_sparse=int(said[1][k]),
            **{name: None if x != x else x for name, x in numbers.items()},
            p=None if test is None else float(moves.p[test]),
            q=None if test is None else float(moves.q[test]),
        )


def _counts(wanted: Integers, keys: Integers) -> list[int]:
    """How often each of some keys occurs."""
    if not len(wanted):
        return []
    order = np.argsort(wanted)
    place = np.minimum(np.searchsorted(wanted[order], keys), len(wanted) - 1)
    found = np.bincount(place[wanted[order][place] == keys], minlength=len(wanted))
    counts = np.empty(len(wanted), np.int64)
    counts[order] = found
    return [int(count) for count in counts]


def _matrix(label: Integers, said: Integers, number: int) -> Integers:
    flat = np.bincount(label * number + said, minlength=number * number)
    return flat.reshape(number, number).astype(np.int64)


def total_variation(groups: Integers, number: int, dense: Integers, sparse: Integers) -> Numbers:
    """How differently the two models answer in each group, whatever is right.

        TV_g = 1/2 sum over j of |P(sparse says j | g) - P(dense says j | g)|

    0: every class is predicted equally often; 1: no answer of one model is among those of the
    other. It is at most the group's churn.

    Args:
        groups: Groups of each image, shape ``(N, F)``.
        number: G, over all features.
        dense: Predicted class of each image.
        sparse: The same of the sparse model.

    Returns:
        Shape ``(G,)``; NaN for a group without images.
    """
    changed = dense != sparse
    gone, come = dense[changed], sparse[changed]
    classes = max((int(x.max()) + 1 for x in (gone, come) if len(x)), default=1)
    found, n = np.zeros(number), np.zeros(number)
    ones = np.concatenate([np.ones(len(come)), -np.ones(len(gone))])
    for ids in groups.T:
        n += np.bincount(ids, minlength=number)
        mine = ids[changed] * classes
        keys, where = np.unique(np.concatenate([mine + come, mine + gone]), return_inverse=True)
        net = np.bincount(where.reshape(-1), ones, len(keys))
        found += np.bincount(keys // classes, np.abs(net), number)
    return divided(found / 2, n)
