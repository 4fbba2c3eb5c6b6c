"""Several images of one person, patient or video: how many images they are worth.

Images of a cluster resemble each other, so that n of them say less than n images of different
clusters. The intervals take numbers of images, so these are divided by the design effect: how many
times larger the variance is than without clusters (Rao and Scott 1992, *A simple method for the
analysis of clustered binary data*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from ceag_cli.arrays import Flags, Integers, Numbers

FEWEST = 5
"""Of fewer clusters a variance is not taken."""


def numbered(clusters: npt.NDArray[np.generic]) -> Integers:
    """Clusters as whole numbers from 0 on."""
    found: Integers = np.unique(clusters, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return found


@dataclass(frozen=True)
class Pairs:
    """The pairs of a group of some feature and a cluster that have images."""

    group: Integers
    cluster: Integers
    of_image: Integers
    """Number of the pair of each image."""

    @classmethod
    def of(cls, group: Integers, cluster: Integers, number: int) -> Pairs:
        """Find them; ``number`` is that of groups."""
        key, where = np.unique(cluster * number + group, return_inverse=True)
        return cls(key % number, key // number, where.reshape(-1))

    def sums(self, values: npt.NDArray[Any]) -> Numbers:
        """Of values by image."""
        return np.bincount(self.of_image, values, len(self.group)).astype(np.float64)


def psi_effects(
    change: Numbers,
    ids: Integers,
    clusters: Integers,
    number: int,
    pairs: Sequence[Pairs] | None = None,
) -> Numbers:
    """Design effects of psi, by group; at least 1.

    The variance of the mean of psi's influence function

        1[i in g] (d_i - d_g) / pi_g - (d_i - d)

    over clusters, over that over images. A group in which nothing changed, and one of fewer than
    five clusters, have no variance to rely on; there all images of a cluster count as one.

    Args:
        change: 1 lost, -1 gained, else 0, by image.
        ids: Group ids of each image, shape ``(N, F)``.
        clusters: Number of the cluster of each image, from 0 on.
        number: G, over all features.
        pairs: Of each feature, where they are known already.
    """
    total = len(change)
    deviation = change - change.mean()
    whole = np.bincount(clusters, deviation)
    effect = np.ones(number)
    for f, of_feature in enumerate(ids.T):
        pair = Pairs.of(of_feature, clusters, number) if pairs is None else pairs[f]
        n = np.bincount(of_feature, minlength=number)
        share = np.maximum(n, 1) / total
        mean = np.bincount(of_feature, change, number) / np.maximum(n, 1)
        inside = change - mean[of_feature]
        sums = pair.sums(inside)
        k = np.bincount(pair.group, minlength=number)
        by_cluster = (
            np.bincount(pair.group, sums**2, number) / share**2 * k / np.maximum(k - 1, 1)
            - 2 * np.bincount(pair.group, sums * whole[pair.cluster], number) / share
            + (whole**2).sum()
        )
        own = np.bincount(of_feature, inside**2, number)
        by_image = own * (n / np.maximum(n - 1, 1) / share**2 - 2 / share)
        by_image += (deviation**2).sum()
        found = _known(by_cluster, by_image, own, n, k)
        effect = np.where(n > 0, np.maximum(found, effect), effect)
    return effect


def mean_effects(
    values: Numbers,
    ids: Integers,
    clusters: Integers,
    number: int,
    alpha: float,
    pairs: Sequence[Pairs] | None = None,
    among: Flags | None = None,
) -> Numbers:
    """The same for the means of values by group.

    A mean close to a border, as an accuracy is, gets a small variance where it is far off by
    chance. So the variance is taken to be known by k clusters only: the effect is multiplied by
    ``(t_{k-1} / t_{n-1})^2``, Student's quantiles at alpha (Korn and Graubard 1998, *Confidence
    intervals for proportions with small expected number of positive counts*).

    Args:
        values: By image.
        ids: As for ``psi_effects``, as the next two are.
        clusters: Likewise.
        number: Likewise.
        alpha: Error of a bound.
        pairs: Of each feature, where they are known already.
        among: The images that the means are over, all by default.
    """
    effect = np.ones(number)
    counted = np.ones(len(values)) if among is None else among.astype(np.float64)
    for f, of_feature in enumerate(ids.T):
        pair = Pairs.of(of_feature, clusters, number) if pairs is None else pairs[f]
        n = np.bincount(of_feature, counted, number)
        mean = np.bincount(of_feature, values * counted, number) / np.maximum(n, 1)
        inside = (values - mean[of_feature]) * counted
        sums = pair.sums(inside)
        k = np.bincount(pair.group[pair.sums(counted) > 0], minlength=number)
        own = np.bincount(of_feature, inside**2, number)
        by_cluster = np.bincount(pair.group, sums**2, number) * k / np.maximum(k - 1, 1)
        found = _known(by_cluster, own * n / np.maximum(n - 1, 1), own, n, k)
        some = (own > 1e-12) & (k >= FEWEST)
        t = [special.stdtrit(np.maximum(m, FEWEST) - 1, 1 - alpha) for m in (k, n)]
        found = np.maximum(found, 1.0) * np.where(some, (t[0] / t[1]) ** 2, 1.0)
        effect = np.where(n > 0, np.maximum(found, effect), effect)
    return effect


@dataclass(frozen=True)
class Effects:
    """The design effects of a split's groups; all 1 without clusters."""

    ids: Integers
    """Groups of each image, shape ``(N, F)``."""
    number: int
    """G, over all features."""
    clusters: Integers | None
    """Number of the cluster of each image, from 0 on."""
    alpha: float
    """Error of each bound."""

    def of_mean(self, values: npt.NDArray[Any], among: Flags | None = None) -> Numbers:
        """Of a mean by group (``mean_effects``), over the images that it is a mean of."""
        if self.clusters is None:
            return np.ones(self.number)
        return mean_effects(
            values.astype(np.float64),
            self.ids,
            self.clusters,
            self.number,
            self.alpha,
            self._pairs,
            among,
        )

    def of_excess(self, values: npt.NDArray[Any]) -> Numbers:
        """Of a mean by group less that of all images (``psi_effects``)."""
        if self.clusters is None or not len(values):
            return np.ones(self.number)
        change = values.astype(np.float64)
        return psi_effects(change, self.ids, self.clusters, self.number, self._pairs)

    @cached_property
    def _pairs(self) -> list[Pairs]:
        """Sorting all images by both takes longer than everything else."""
        assert self.clusters is not None
        return [Pairs.of(of_feature, self.clusters, self.number) for of_feature in self.ids.T]


def _known(
    by_cluster: Numbers,
    by_image: npt.NDArray[Any],
    own: npt.NDArray[Any],
    n: npt.NDArray[Any],
    k: npt.NDArray[Any],
) -> Numbers:
    """The ratio of two variances; at least images by cluster where a group's own says nothing."""
    found = np.divide(by_cluster, by_image, out=np.ones(len(n)), where=by_image > 1e-12)
    nothing = (own <= 1e-12) | (k < FEWEST)
    each: Numbers = np.where(nothing, n / np.maximum(k, 1), 0.0)
    larger: Numbers = np.maximum(found, each)
    return larger
