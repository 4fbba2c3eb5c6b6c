"""How often the intervals of `ceag sweep`'s comparisons cover, and how wide they are.

    make bench-comparisons      # the results are in docs/benchmarks.md

Two methods, S seeds each, on the same images. An image is hard (for every model, 60 % of them) or
easy (10 % of the hard ones' risk); what a method loses of a group's images beyond the average is
drawn once (the disparity, if there is one), once more for every seed, and the two models of a seed
share some of it. Truth is the mean estimate over all samples, for all statistics.

Each cell: how often the interval has the truth, in percent; its mean width beside that of an
interval that knows the true error (normal, 95 %); how often it excludes zero, in percent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from ceag_cli.comparing import STATISTICS, Difference, differences, replicates

SAMPLES = 200
Array = np.ndarray

TASKS = {"14 x 900": (14, 900), "100 x 300": (100, 300)}
"""Groups and images of each; about those of recipes/benchmarks/unseen-*.yaml."""
DISPARITIES = {"0, 0": (0.0, 0.0), "2, 2": (0.02, 0.02), "1, 3": (0.01, 0.03)}
"""Spread of the true psi of the two; by name in points."""


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def answers(
    generator: np.random.Generator, ids: Array, hard: Array, seeds: int, pattern: Array
) -> tuple[Array, Array]:
    """Right or wrong, of dense and sparse models."""
    groups = len(pattern)
    risk = np.where(hard, 1.5, 0.25)
    of_seed = generator.normal(0, 0.005, (seeds, groups))
    lost = generator.random((seeds, len(ids))) < risk * (0.14 + pattern + of_seed)[:, ids]
    gained = ~lost & (generator.random((seeds, len(ids))) < risk * 0.1)
    return ~gained, ~lost


def sample(
    generator: np.random.Generator, groups: int, each: int, seeds: int, spreads: tuple[float, float]
) -> dict[str, Difference]:
    ids = np.repeat(np.arange(groups), each)
    hard = generator.random(len(ids)) < 0.6
    # The same groups are harmed in every sample, only the images and the seeds are others.
    unit = np.random.default_rng(1).permutation(np.linspace(-1.7, 1.7, groups))
    found = []
    for spread in spreads:
        dense, sparse = answers(generator, ids, hard, seeds, spread * unit)
        found.append(replicates(dense, sparse, ids[:, None], splits=20))
    return differences(*found)


def samples(*arguments: object, count: int) -> Iterator[dict[str, Difference]]:
    for number in range(count):
        yield sample(np.random.default_rng([7, number]), *arguments)  # type: ignore[arg-type]


def main(count: int) -> None:
    names = [name.replace("_", " ") for name in STATISTICS]
    row("groups", "seeds", "spreads of psi", *names)
    row(*["---"] * (3 + len(names)))
    for title, (groups, each) in TASKS.items():
        for seeds in (1, 3, 5, 10):
            for kind, spreads in DISPARITIES.items():
                found = list(samples(groups, each, seeds, spreads, count=count))
                cells = []
                for name in STATISTICS:
                    these = [one[name] for one in found]
                    estimates = np.array([one.estimate for one in these])
                    truth = estimates.mean()
                    covered = np.mean([one.lower <= truth <= one.upper for one in these])
                    excluded = np.mean([one.excludes_zero for one in these])
                    half = np.mean([one.upper - one.lower for one in these]) / 2
                    wide = half / (1.96 * estimates.std())
                    cells.append(f"{100 * covered:.1f}, {wide:.2f}, {100 * excluded:.0f}")
                row(title, seeds, kind, *cells)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
