"""What the answers that a sweep's audits have kept say beyond the largest psi.

Every audit keeps both models' answers in ``predictions.npz``. The runs of a sweep answer the same
images, so that one random way to halve and to part them serves all, and methods are compared image
by image. Nothing is evaluated again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.chance import by_chance
from ceag_cli.columns import renumbered
from ceag_cli.comparing import FOLDS, STATISTICS, Difference, difference, replicates
from ceag_cli.experiment import OWN, Approach, Cell, Plan
from ceag_cli.groups import Grouping
from ceag_cli.headers import SPLITS
from ceag_cli.paired import Paired
from ceag_cli.predictions import AnswerTable, read_answers

SEED = 42
"""Of halves, parts and the noise floor; that of ``ceag audit``, which gives the same floor then."""


@dataclass(frozen=True)
class SameImages:
    """The answers of some runs to the same images, in the same classes and groups."""

    split: str
    cells: tuple[Cell, ...]
    """The M runs."""
    dense: Flags
    """Whether the dense model is right, shape ``(M, N)``."""
    sparse: Flags
    grouping: Grouping
    groups: Integers
    """Group ids, shape ``(N, F)``."""
    label_column: str
    classes: tuple[str, ...]
    """Names of the classes that any image of any split is of."""
    label: Integers
    """Number of the class of each image, shape ``(N,)``."""
    train_classes: Integers
    """Training images of each class, as far as the audit has them; shape ``(C,)``."""
    train_groups: Integers
    """Likewise of each group, shape ``(G,)``."""
    clusters: Integers | None = None
    """Number of the person or the like that an image belongs to."""

    @property
    def num_groups(self) -> int:
        """G, over all features."""
        return self.grouping.num_groups

    def pair(self, cell: Cell) -> Paired:
        """The answers of one run, as an audit takes them."""
        m = self.cells.index(cell)
        return Paired(
            split=self.split,
            dense=torch.from_numpy(self.dense[m]),
            sparse=torch.from_numpy(self.sparse[m]),
            groups=torch.from_numpy(self.groups),
            clusters=None if self.clusters is None else torch.from_numpy(self.clusters),
        )


@dataclass(frozen=True)
class Measured:
    """Numbers of one run on one split. Fractions; ``None`` where nothing can be said."""

    mean_positive_gap: float | None
    """Mean over groups of max(psi, 0)."""
    worst_group_accuracy: float | None
    """Smallest accuracy of the sparse model in any group."""
    noise_floor: float | None
    """Largest psi to be expected by chance alone."""
    between_group_variance: float | None
    """Of psi, beyond sampling noise; may be negative."""
    split_half_harm: float | None
    """Psi of the worst tenth of the groups, on images that did not choose them."""


@dataclass(frozen=True)
class Comparison:
    """One statistic of two methods at one sparsity on one split. Fractions."""

    task: str
    sparsity: float
    criterion: str
    """What the weights of both were chosen by; of a method that prunes by itself and another one,
    that of the other."""
    split: str
    method: str
    rival: str
    statistic: str
    """One of ``comparing.STATISTICS``."""
    mean_method: float
    """Over the seeds."""
    mean_rival: float
    difference: Difference


def same_images(files: Mapping[Cell, Path]) -> list[SameImages]:
    """The answers of runs, those to the same images together.

    Args:
        files: The ``predictions.npz`` of each run.

    Raises:
        LabelsError: A file cannot be read.
    """
    found: dict[tuple[str, bytes], SameImages] = {}
    runs: dict[tuple[str, bytes], list[tuple[Cell, Flags, Flags]]] = {}
    for cell, path in files.items():
        for part in _by_split(read_answers(path)):
            key = (part.split, _digest(part.images, part.table))
            runs.setdefault(key, []).append(
                (cell, part.table.correct("dense"), part.table.correct("sparse"))
            )
            found.setdefault(key, part.images)
    return [
        replace(
            found[key],
            cells=tuple(cell for cell, _, _ in of_key),
            dense=np.stack([dense for _, dense, _ in of_key]),
            sparse=np.stack([sparse for _, _, sparse in of_key]),
        )
        for key, of_key in runs.items()
    ]


@dataclass(frozen=True)
class _Part:
    """One split of a run's answers: the images, without any answers, and the table."""

    split: str
    images: SameImages
    table: AnswerTable


def _by_split(table: AnswerTable) -> Iterator[_Part]:
    labels, used = renumbered(table.label, len(table.classes))
    names = tuple(table.classes[code] for code in used.tolist())
    train = table.split == SPLITS.index("train")
    nothing = np.zeros((0, 0), bool)
    for split in table.splits:
        rows = table.split == SPLITS.index(split)
        part = table.only(split)
        images = SameImages(
            split=split,
            cells=(),
            dense=nothing,
            sparse=nothing,
            grouping=table.grouping,
            groups=part.groups,
            label_column=table.label_column,
            classes=names,
            label=labels[rows],
            train_classes=np.bincount(labels[train], minlength=len(names)).astype(np.int64),
            train_groups=np.bincount(
                table.groups[train].reshape(-1), minlength=table.grouping.num_groups
            ).astype(np.int64),
            clusters=part.clusters,
        )
        yield _Part(split, images, part)


def _digest(images: SameImages, table: AnswerTable) -> bytes:
    """The same for the same images in the same classes, groups and clusters."""
    names = (f"{feature}={value}" for feature, value in images.grouping.names)
    words = "\0".join((*table.ids, *names, images.label_column, *images.classes))
    digest = hashlib.sha256(words.encode("utf-8", "surrogatepass"))
    clusters = np.zeros(0, np.int64) if images.clusters is None else images.clusters
    counted = (images.train_classes, images.train_groups)
    for array in (images.groups, images.label, clusters, *counted):
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.digest()


Replicates = dict[str, Numbers]
"""Of one run, by statistic: with all images, then without each part of them."""


def replicates_of(images: SameImages, folds: int = FOLDS) -> dict[Cell, Replicates]:
    """The statistics of each run, with and without each part of the images."""
    values = replicates(images.dense, images.sparse, images.groups, folds=folds, seed=SEED)
    return {
        cell: {name: of_runs[m] for name, of_runs in values.items()}
        for m, cell in enumerate(images.cells)
    }


def measured(images: SameImages, values: Mapping[Cell, Replicates]) -> dict[Cell, Measured]:
    """What the table has about each run.

    Args:
        images: The answers.
        values: From :func:`replicates_of`.
    """
    n = np.bincount(images.groups.reshape(-1), minlength=images.num_groups)
    features = images.groups.shape[1]
    found = {}
    for cell, dense, sparse in zip(images.cells, images.dense, images.sparse, strict=True):
        ids = images.groups[sparse].reshape(-1)
        right = np.bincount(ids, minlength=images.num_groups)
        lost, gained = dense & ~sparse, sparse & ~dense
        chance = by_chance(images.groups, images.num_groups, lost, gained, SEED)
        own = {name: _known(float(value[0])) for name, value in values[cell].items()}
        found[cell] = Measured(
            mean_positive_gap=own["mean_positive_gap"],
            worst_group_accuracy=float((right[n > 0] / n[n > 0]).min()) if features else None,
            noise_floor=None if chance is None else chance.noise_floor,
            between_group_variance=own["between_group_variance"],
            split_half_harm=own["split_half_harm"],
        )
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def comparisons(plan: Plan, split: str, values: Mapping[Cell, Replicates]) -> Iterator[Comparison]:
    """Compare methods as the plan asks, sparsity by sparsity, over the seeds that both have.

    Args:
        plan: Says which.
        split: On which the values are.
        values: Of the runs on the same images.
    """
    for sparsity in plan.sparsities:
        for method, rival in pairs(plan):
            both = [
                tuple(Cell(seed, sparsity, a.method, a.criterion) for a in (method, rival))
                for seed in plan.seeds
            ]
            both = [pair for pair in both if all(cell in values for cell in pair)]
            for statistic in STATISTICS if both else ():
                own, other = (
                    np.stack([values[pair[side]][statistic] for pair in both]) for side in (0, 1)
                )
                yield Comparison(
                    task=plan.name,
                    sparsity=sparsity,
                    criterion=plan.criterion_of(rival if method.criterion == OWN else method),
                    split=split,
                    method=method.method,
                    rival=rival.method,
                    statistic=statistic,
                    mean_method=float(own[:, 0].mean()),
                    mean_rival=float(other[:, 0].mean()),
                    difference=difference(own, other),
                )


def pairs(plan: Plan) -> list[tuple[Approach, Approach]]:
    """The approaches to compare: a method and its rival after the same pruning.

    A method that prunes by itself is compared with its rival after each pruning.
    """
    by_method = [
        (method, rival, criterion)
        for criterion in plan.criteria or ("",)
        for method, rivals in plan.compare.items()
        for rival in rivals
    ]
    found = [
        (plan.approach(method, criterion), plan.approach(rival, criterion))
        for method, rival, criterion in by_method
    ]
    return list(dict.fromkeys(found))


def not_comparable(plan: Plan, images: Sequence[SameImages]) -> list[str]:
    """Pairs of runs that were audited on different images, as sentences."""
    found = []
    for split in dict.fromkeys(each.split for each in images):
        where = {
            cell: number
            for number, each in enumerate(images)
            if each.split == split
            for cell in each.cells
        }
        for method, rival in pairs(plan):
            apart = any(
                len({where[cell] for cell in both if cell in where}) > 1
                for seed in plan.seeds
                for sparsity in plan.sparsities
                for both in [[Cell(seed, sparsity, a.method, a.criterion) for a in (method, rival)]]
            )
            if apart:
                found.append(
                    f"{method} and {rival} were audited on different images or groups of {split}, "
                    "so they are not compared there"
                )
    return found
