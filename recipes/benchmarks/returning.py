"""How much of the harm by group comes back with another seed, and how much does not.

    python recipes/benchmarks/returning.py SWEEP METHOD RIVAL ...

Psi of a group on unseen images is partly a trait of the group, harmed whatever the seed, and partly
one of these two models. With a and b two runs and A and B two halves of the test images,

    C(a, b) = sum_g p_g psi_g(a on A) psi_g(b on B),        p_g the share of images in group g

expects what their psi has in common, free of sampling noise because no image is in both. Printed
for every sparsity and method, in points^2, means over the seeds and over ways to halve:

    own       C(a, a): the variance of psi between groups
    returns   C of two seeds of the method: what is a trait of the groups
    the rest  the difference: what is of one pair of models
    shared    C with the last rival, same dense model and pruned weights, less C with it of another
              seed: what of the rest no choice between these two methods changes

and for METHOD less every rival the difference of what returns, with a 95 % interval over seeds and
images: the jackknife's variance over seeds and that over tenths of the images, added, and Student's
t with one degree of freedom less than seeds. The results are in docs/generalization.md.
"""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path

import numpy as np

from ceag_cli.arrays import Flags, Numbers
from ceag_cli.comparing import dealt
from ceag_cli.experiment import Cell
from ceag_cli.heldout import SEED, SameImages, same_images
from ceag_cli.heterogeneity import excess_gaps, halves

HALVINGS = 40
FOLDS = 10
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
"""97.5 % points by degrees of freedom."""


def found_in(sweep: Path) -> dict[Cell, Path]:
    """The answers that the audits of a sweep have kept."""
    cells = {}
    for path in sorted(sweep.glob("seed-*/sparsity-*/*.run/predictions.npz")):
        run, sparsity, seed = (parent.name for parent in list(path.parents)[:3])
        number = int(seed.removeprefix("seed-"))
        method = run.removesuffix(".run")
        cells[Cell(number, float(sparsity.removeprefix("sparsity-")), method)] = path
    return cells


def common(images: SameImages, taken: Flags, halvings: int) -> Numbers:
    """C of every two runs on some of the images, shape ``(M, M)``."""
    ids, number = images.groups[taken, 0], images.num_groups
    net = (images.dense.astype(np.int64) - images.sparse)[:, taken]
    share = np.bincount(ids, minlength=number) / len(ids)

    def psi(part: Flags) -> Numbers:
        n = np.bincount(ids[part], minlength=number)
        lost = [np.bincount(ids[part], row[part], number) for row in net]
        return np.nan_to_num(excess_gaps(n, np.stack(lost)))

    total = np.zeros((len(net), len(net)))
    for first in halves(ids, halvings, SEED):
        both = (psi(first) * share) @ psi(~first).T
        total += (both + both.T) / 2
    return total / halvings


def returns(c: Numbers, rows: list[int]) -> float:
    """The mean of C over the pairs of different seeds."""
    return float(np.mean([c[a, b] for a, b in product(rows, repeat=2) if a != b]))


def jackknife(values: list[float]) -> float:
    """The variance of an estimate from what it is without each part."""
    left_out = np.array(values)
    parts = len(left_out)
    return float((parts - 1) / parts * ((left_out - left_out.mean()) ** 2).sum())


def difference(c: Numbers, parts: list[Numbers], mine: list[int], other: list[int]) -> str:
    """What returns of one method less what returns of another, with its interval."""

    def less(matrix: Numbers, mine: list[int] = mine, other: list[int] = other) -> float:
        return 1e4 * (returns(matrix, mine) - returns(matrix, other))

    seeds = range(len(mine))
    without = [less(c, mine[:s] + mine[s + 1 :], other[:s] + other[s + 1 :]) for s in seeds]
    error = math.sqrt(jackknife(without) + jackknife([less(part) for part in parts]))
    half = STUDENT[len(mine) - 1] * error
    found = less(c)
    star = " *" if abs(found) > half else ""
    return f"{found:+.1f} ({found - half:+.1f} to {found + half:+.1f}){star}"


def main(sweep: Path, method: str, rivals: list[str]) -> None:
    images = next(found for found in same_images(found_in(sweep)) if found.split == "test")
    every = np.ones(len(images.groups), bool)
    c = common(images, every, HALVINGS)
    fold = dealt(images.groups, FOLDS, SEED)
    parts = [common(images, fold != part, HALVINGS // 4) for part in range(FOLDS)]
    rows: dict[tuple[float, str], dict[int, int]] = {}
    for row, cell in enumerate(images.cells):
        rows.setdefault((cell.sparsity, cell.method), {})[cell.seed] = row
    print(f"| sparsity | method | seeds | own | returns | the rest | shared | {method} less it |")
    print("|---" * 8 + "|")
    for (sparsity, name), mine in sorted(rows.items()):
        beside, best = rows[sparsity, rivals[-1]], rows[sparsity, method]
        own = float(np.mean([c[a, a] for a in mine.values()]))
        again = returns(c, list(mine.values()))
        here = np.mean([c[a, beside[s]] for s, a in mine.items() if s in beside])
        pairs = product(mine.items(), beside.items())
        there = np.mean([c[a, b] for (s, a), (t, b) in pairs if s != t])
        cells = [f"{100 * sparsity:g} %", name, str(len(mine))]
        cells += [f"{1e4 * v:.1f}" for v in (own, again, own - again, float(here - there))]
        both = sorted(set(mine) & set(best))
        chosen = [best[s] for s in both], [mine[s] for s in both]
        cells.append(difference(c, parts, *chosen) if name in rivals else "")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
