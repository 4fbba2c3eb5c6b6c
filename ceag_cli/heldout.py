"""What the answers that a sweep's audits have kept say beyond the largest psi.

Every audit keeps both models' answers in ``predictions.npz``. The runs of a sweep answer the same
images, so that one random way to halve and to part them serves all, and methods are compared image
by image. Nothing is evaluated again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.chance import by_chance
from ceag_cli.comparing import FOLDS, STATISTICS, Difference, difference, replicates
from ceag_cli.experiment import Cell, Plan
from ceag_cli.predictions import read_answers

SEED = 42
"""Of halves, parts and the noise floor; that of ``ceag audit``, which gives the same floor then."""


@dataclass(frozen=True)
class SameImages:
    """The answers of some runs to the same images, in the same groups."""

    split: str
    cells: tuple[Cell, ...]
    """The M runs."""
    dense: Flags
    """Whether the dense model is right, shape ``(M, N)``."""
    sparse: Flags
    groups: Integers
    """Group ids, shape ``(N, F)``."""
    num_groups: int


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
    found: dict[tuple[str, bytes], list[tuple[Cell, Flags, Flags]]] = {}
    groups: dict[tuple[str, bytes], tuple[Integers, int]] = {}
    for cell, path in files.items():
        table = read_answers(path)
        for split in table.splits:
            part = table.only(split)
            words = "\0".join((*part.ids, *(f"{f}={v}" for f, v in part.grouping.names)))
            digest = hashlib.sha256(words.encode("utf-8", "surrogatepass"))
            digest.update(np.ascontiguousarray(part.groups).tobytes())
            key = (split, digest.digest())
            dense, sparse = part.correct("dense"), part.correct("sparse")
            found.setdefault(key, []).append((cell, dense, sparse))
            groups[key] = (part.groups, part.grouping.num_groups)
    return [
        SameImages(
            split=key[0],
            cells=tuple(cell for cell, _, _ in runs),
            dense=np.stack([dense for _, dense, _ in runs]),
            sparse=np.stack([sparse for _, _, sparse in runs]),
            groups=groups[key][0],
            num_groups=groups[key][1],
        )
        for key, runs in found.items()
    ]


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
                (Cell(seed, sparsity, method), Cell(seed, sparsity, rival)) for seed in plan.seeds
            ]
            both = [(one, two) for one, two in both if one in values and two in values]
            for statistic in STATISTICS if both else ():
                own, other = (
                    np.stack([values[pair[side]][statistic] for pair in both]) for side in (0, 1)
                )
                yield Comparison(
                    task=plan.name,
                    sparsity=sparsity,
                    split=split,
                    method=method,
                    rival=rival,
                    statistic=statistic,
                    mean_method=float(own[:, 0].mean()),
                    mean_rival=float(other[:, 0].mean()),
                    difference=difference(own, other),
                )


def pairs(plan: Plan) -> list[tuple[str, str]]:
    """The methods to compare, each with its rival."""
    return [(method, rival) for method, rivals in plan.compare.items() for rival in rivals]


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
                where.get(Cell(seed, sparsity, method), -1)
                != where.get(Cell(seed, sparsity, rival), -1)
                for seed in plan.seeds
                for sparsity in plan.sparsities
                if Cell(seed, sparsity, method) in where and Cell(seed, sparsity, rival) in where
            )
            if apart:
                found.append(
                    f"{method} and {rival} were audited on different images or groups of {split}, "
                    "so they are not compared there"
                )
    return found
