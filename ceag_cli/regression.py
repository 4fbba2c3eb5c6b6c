"""Does pruning harm rare and difficult classes more? A regression over classes.

Of every class u: its frequency in training f_u (as log2, so that a slope is per doubling), its
difficulty D_u, which is the error of the dense model, and its drop y_u, the accuracy that it loses
from the dense to the sparse model. The model is linear,

    y_u = a + b f_u + c D_u + e_u,

with whatever else there is to a class in e_u. Source of the question: Paganini 2020, *Prune
Responsibly*, who regresses the accuracy of classes on sparsity, imbalance and complexity.

**The trap.** D_u and y_u are both measured with the dense model's answers. A class on which the
dense model has been unlucky, on these images or with this seed, looks difficult, and loses little,
since luck does not come twice: ordinary least squares finds a negative c where there is none
(regression to the mean). Besides, noise in D_u pulls c towards 0, and b with it away from where it
should be. Both are errors of second moments: means are unbiased, their squares and products are
not. So the products are not taken of means. With W the dense model's errors and Y the drops, image
by image and seed by seed,

    D_u y_u  is replaced by the mean of  W[s, i] Y[t, j],   D_u^2 by that of  W[s, i] W[t, j],

over pairs of different images i != j **and** different seeds s != t of the class, which no noise is
shared by; the expectations are then exactly those of the products of the true values. This is the
moment estimator for errors in variables (Fuller 1987, *Measurement Error Models*, section 2.2) with
the covariance of the errors estimated from replicates. With a single seed only the images differ:
what luck this dense model has had in training stays in, and the result is about this model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.comparing import ALPHA, half_width

FREQUENCY, DIFFICULTY = "frequency", "difficulty"
FEWEST = 8
"""Classes below which nothing is fitted: three coefficients would have few left to vary."""
LEAST_RELIABLE = 0.25
"""Share of the variance of measured difficulties, beyond what frequency explains, that has to be
no noise."""


@dataclass(frozen=True)
class Slope:
    """One coefficient: by how much the drop grows, as a fraction."""

    term: str
    """``frequency``: per doubling of the training images. ``difficulty``: per 1 of the dense
    model's error, so a tenth of it is per ten points."""
    estimate: float
    lower: float
    upper: float
    """Of the two-sided interval."""
    naive: float
    """What ordinary least squares over the measured means finds."""
    error_classes: float
    """Standard error over classes and their images."""
    error_seeds: float | None
    """Standard error over seeds; ``None`` for one seed."""
    degrees_of_freedom: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the drop is shown to depend on it."""
        return self.lower > 0 or self.upper < 0


@dataclass(frozen=True)
class Regression:
    """A fit over classes."""

    classes: int
    """Those that have two images or more and, where frequency matters, any in training."""
    seeds: int
    slopes: tuple[Slope, ...]
    """Of the terms that could be fitted."""
    reliability: float | None
    """Share of the variance of measured difficulties (beyond what frequency explains) that is no
    noise; ``None`` without that term."""
    problem: str | None = None
    """Why nothing is fitted, in words."""


@dataclass(frozen=True)
class Classes:
    """What is measured of each class: means, and unbiased estimates of products."""

    log_frequency: Numbers
    """Shape ``(U,)``."""
    difficulty: Numbers
    """Mean error of the dense models, shape ``(U,)``."""
    drop: Numbers
    """Mean drop by seed, shape ``(S, U)``."""
    squared: Numbers
    """Estimate of the squared difficulty, shape ``(U,)``."""
    product: Numbers
    """Estimate of difficulty times drop by the drop's seed, shape ``(S, U)``."""


@dataclass(frozen=True)
class _Members:
    """Which image is of which class, of the classes that take part."""

    classes: Integers
    kept: Flags
    size: Numbers
    """Images by class."""

    def sums(self, values: Numbers) -> Numbers:
        """Sums over the images of each class, row by row."""
        number = len(self.kept)
        return np.array([np.bincount(self.classes, row, number)[self.kept] for row in values])

    def products(self, one: Numbers, other: Numbers) -> Numbers:
        """Mean of ``one[s, i] other[t, j]`` over i != j and s != t, by t and class.

        With a single seed over i != j alone.
        """
        seeds = len(one)
        # Of all other seeds together; with a single one, of itself.
        rest = one.sum(0, keepdims=True) - one if seeds > 1 else one
        pairs = max(seeds - 1, 1) * self.size * (self.size - 1)
        found: Numbers = (self.sums(rest) * self.sums(other) - self.sums(rest * other)) / pairs
        return found


def classes_of(dense: Flags, drop: Numbers, classes: Integers, train_images: Integers) -> Classes:
    """Measure every class that can take part.

    Args:
        dense: Whether the dense model of each seed is right, shape ``(S, N)``.
        drop: Dense less sparse, each 1 where right, of each seed and image, or the mean of several
            sparse models of a seed; shape ``(S, N)``.
        classes: Class of each image, shape ``(N,)``.
        train_images: Training images of each class, shape ``(U,)``.
    """
    n = np.bincount(classes, minlength=len(train_images))
    kept = (n >= 2) & (train_images > 0)
    members = _Members(classes, kept, n[kept].astype(np.float64))
    wrong = (~dense).astype(np.float64)
    return Classes(
        log_frequency=np.log2(train_images[kept].astype(np.float64)),
        difficulty=members.sums(wrong).mean(0) / members.size,
        drop=members.sums(drop) / members.size,
        squared=members.products(wrong, wrong).mean(0),
        product=members.products(wrong, drop),
    )


def regress(found: Classes, terms: tuple[str, ...], alpha: float = ALPHA) -> Regression:
    """Fit the drop of classes to some of frequency and difficulty.

    The error has two parts: over classes, by the jackknife that leaves out one class with all its
    images and seeds after the other, and over seeds; put together as in ``comparing``, and on the
    safe side as there.

    Args:
        found: The classes.
        terms: ``frequency``, ``difficulty`` or both.
        alpha: Two-sided error of the intervals.
    """
    seeds, count = found.drop.shape
    problem = _problem(found, terms, count)
    if problem is not None:
        return Regression(count, seeds, (), None, problem)
    moments, targets = _moments(found, terms)
    reliability = _reliability(found, terms, moments) if DIFFICULTY in terms else None
    if reliability is not None and reliability < LEAST_RELIABLE:
        return Regression(
            count,
            seeds,
            (),
            reliability,
            "difficulties cannot be told from noise, it takes more images",
        )
    whole, all_targets = moments.sum(0), targets.sum(1)
    by_seed = np.linalg.solve(whole, all_targets.T).T  # (S, p)
    estimate = by_seed.mean(0)
    left = np.linalg.solve(whole - moments, (all_targets.mean(0) - targets.mean(0))[..., None])[
        ..., 0
    ]
    over_classes = (count - 1) * left.var(0)
    over_seeds = by_seed.var(0, ddof=1) / seeds if seeds > 1 else np.zeros(len(estimate))
    naive = _least_squares(found, terms)
    slopes = []
    for k, term in enumerate(terms, start=1):
        parts = [
            (float(over_seeds[k]), seeds - 1),
            (float(over_classes[k]), count - len(terms) - 1),
        ]
        half, freedom = half_width(parts, alpha)
        slopes.append(
            Slope(
                term=term,
                estimate=float(estimate[k]),
                lower=float(estimate[k]) - half,
                upper=float(estimate[k]) + half,
                naive=float(naive[k]),
                error_classes=float(over_classes[k]) ** 0.5,
                error_seeds=float(over_seeds[k]) ** 0.5 if seeds > 1 else None,
                degrees_of_freedom=freedom,
            )
        )
    return Regression(count, seeds, tuple(slopes), reliability)


def _problem(found: Classes, terms: tuple[str, ...], count: int) -> str | None:
    if count < FEWEST:
        return f"{count} are too few, it takes {FEWEST}"
    if FREQUENCY in terms and np.ptp(found.log_frequency) < 1e-9:
        return "all have the same number of training images"
    if DIFFICULTY in terms and np.ptp(found.difficulty) < 1e-12:
        return "all are equally difficult"
    if len(terms) > 1 and np.linalg.matrix_rank(_design(found, terms)) <= len(terms):
        return "frequency and difficulty say the same"
    return None


def _design(found: Classes, terms: tuple[str, ...]) -> Numbers:
    """A column of ones and one for each term, as measured; shape ``(U, p)``."""
    columns = {FREQUENCY: found.log_frequency, DIFFICULTY: found.difficulty}
    return np.stack([np.ones(found.drop.shape[1]), *(columns[term] for term in terms)], axis=1)


def _moments(found: Classes, terms: tuple[str, ...]) -> tuple[Numbers, Numbers]:
    """What the normal equations are summed of, by class.

    Returns:
        ``x x'``, shape ``(U, p, p)``, and ``x y`` by seed, shape ``(S, U, p)``.
    """
    design = _design(found, terms)
    moments = design[:, :, None] * design[:, None, :]
    targets = design[None] * found.drop[..., None]
    if DIFFICULTY in terms:
        k = 1 + terms.index(DIFFICULTY)
        moments[:, k, k] = found.squared
        targets[..., k] = found.product
    return moments, targets


def _reliability(found: Classes, terms: tuple[str, ...], moments: Numbers) -> float:
    """How much of what varies in the measured difficulties is there."""
    k = 1 + terms.index(DIFFICULTY)
    design = _design(found, terms)
    return _left_over(moments.sum(0), k) / _left_over(design.T @ design, k)


def _left_over(matrix: npt.NDArray[np.float64], k: int) -> float:
    """Of a matrix of second moments, what the other columns do not explain of column k."""
    others = [i for i in range(len(matrix)) if i != k]
    cross = matrix[others, k]
    return float(matrix[k, k] - cross @ np.linalg.solve(matrix[np.ix_(others, others)], cross))


def _least_squares(found: Classes, terms: tuple[str, ...]) -> Numbers:
    solution: Numbers = np.linalg.lstsq(_design(found, terms), found.drop.mean(0), rcond=None)[0]
    return solution
