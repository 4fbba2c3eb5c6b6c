"""How near the regressions of `ceag sweep` come to the truth, and how often intervals have it.

    make bench-comparisons      # the results are in docs/sweep.md

Classes of which each has a frequency (two to the power of 3 to 7) and a difficulty, from 20 to 60
points, rarer classes being harder (correlation about -0.5). The drop is 5 points, less FREQUENCY
points per doubling, and more by SLOPE times the difficulty. Every class has 3 points more or less
of its own (e), every seed's dense model 4 points of luck with every class, and its sparse model,
fine-tuned on, luck of its own. Images differ in difficulty, alike for all models: each has its
share of the class's error as a beta variable.

Each cell: mean of the estimates, and in brackets of plain least squares, in points per doubling
or per ten points of error; how often the 95 % interval has the truth, in percent.
"""

from __future__ import annotations

import sys

import numpy as np

from ceag_cli.regression import DIFFICULTY, FREQUENCY, Regression, classes_of, regress

SAMPLES = 200
Array = np.ndarray


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def sample(
    generator: np.random.Generator,
    classes: int,
    each: int,
    seeds: int,
    truth: tuple[float, float],
) -> Regression:
    by_doubling, by_error = truth
    rank = np.linspace(-2, 2, classes)
    frequency = 2 ** np.round(5 + rank).astype(np.int64)
    mixed = -0.5 * rank / rank.std() + 0.87 * generator.permutation(rank) / rank.std()
    difficulty = np.clip(0.4 + 0.12 * mixed, 0.1, 0.7)
    own = generator.normal(0, 0.03, classes)
    drop = 0.05 + by_doubling * (np.log2(frequency) - 5) + by_error * (difficulty - 0.4) + own
    ids = np.repeat(np.arange(classes), each)
    shape = (seeds, classes)
    dense_error = np.clip(difficulty + generator.normal(0, 0.04, shape), 0.02, 0.9)
    sparse_error = np.clip(difficulty + drop + generator.normal(0, 0.04, shape), 0.02, 0.95)
    hard = generator.beta(1, 1, len(ids))  # an image's place among those of its class

    def right(error: Array) -> Array:
        # In the mean over places just the error; hard images are missed four times as often.
        of = error[:, ids]
        chance = np.clip(of * (0.4 + 1.2 * hard), 0, 1)
        return generator.random(chance.shape) >= chance

    dense, sparse = right(dense_error), right(sparse_error)
    found = classes_of(dense, dense.astype(float) - sparse, ids, frequency)
    return regress(found, (FREQUENCY, DIFFICULTY))


def main(count: int) -> None:
    row("classes x images", "seeds", "truth", "per doubling", "covered", "per 10 points", "covered")
    row(*["---"] * 7)
    for classes, each in ((20, 500), (100, 100)):
        for seeds in (1, 3, 5):
            for truth in ((0.0, 0.0), (-0.01, 0.2)):
                generator = np.random.default_rng(5)
                fits = [sample(generator, classes, each, seeds, truth) for _ in range(count)]
                kept = [fit.slopes for fit in fits if fit.slopes]
                cells = []
                for k, scale in ((0, 100), (1, 10)):
                    mean = scale * np.mean([slopes[k].estimate for slopes in kept])
                    naive = scale * np.mean([slopes[k].naive for slopes in kept])
                    has = np.mean([s[k].lower <= truth[k] <= s[k].upper for s in kept])
                    cells += [f"{mean:+.2f} ({naive:+.2f})", f"{100 * has:.0f}"]
                said = f"{100 * truth[0]:+g}, {10 * truth[1]:+g}"
                row(f"{classes} x {each}", seeds, said, *cells)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
