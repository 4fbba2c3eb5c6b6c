"""How unequally pruning harms groups, as numbers that chance alone does not make large.

The largest psi of a hundred groups of a hundred images is above ten points where nobody is harmed
more than others: it picks the largest error of measurement. Two quantities here expect zero then.
With c_i = dense_i - sparse_i of each image (1 lost, -1 gained, 0 else), c_g its mean over a group,
p_g the group's share of the images, and psi_g = c_g - c:

*The variance between groups*, beyond what sampling adds (method of moments),

    tau2 = sum_g p_g psi_g^2 - sum_g p_g (1 - p_g) s_g^2 / n_g

with s_g^2 the variance of c within the group (over n_g - 1). For groups of fixed sizes, images
drawn independently within each, its expectation is exactly sum_g p_g psi_g^2 of the true psi: the
first sum expects that plus sum_g p_g Var(c_g - c), and

    Var(c_g - c) = (1 - 2 p_g) V_g + sum_h p_h^2 V_h,  V_g = Var(c_g),

of which the mean by p is sum_g p_g (1 - p_g) V_g. So it is negative about half of the time where
there is nothing, and is never clipped: clipped values would have a mean above zero.

*The split-half harm*: which groups are harmed most is read off one half of the images, how much off
the other half, so that choosing them does not flatter or blame anybody.

Both are of one feature, whose groups share no image; of several features the mean is meant.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ceag_cli.arrays import Flags, Integers, Numbers

WORST = 0.1
"""Share of the groups whose harm is the split-half harm, at least one group."""
SPLITS = 50
"""Random ways to halve the images, of which the mean is taken."""


def between_group_variance(n: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike) -> Numbers:
    """Variance of psi between the groups of one feature, weighted by size, less sampling noise.

    As c is -1, 0 or 1, three integers of each group suffice: ``(n - 1) s^2`` is ``lost + gained -
    (lost - gained)^2 / n``.

    Args:
        n: Images by group, shape ``(..., G)``. Groups of fewer than two, whose noise is not known,
            are left out, and so are their images.
        lost: Those that only the dense model gets right, by group.
        gained: Those that only the sparse one does.

    Returns:
        Shape ``(...)``, a variance of fractions: 0.0004 is a spread of 2 points. It may be
        negative. 0 for one group, NaN without any of two images.
    """
    size = np.asarray(n, np.float64)
    kept = size >= 2
    size = np.where(kept, size, 0.0)
    net = np.where(kept, np.asarray(lost, np.float64) - np.asarray(gained, np.float64), 0.0)
    changed = np.where(kept, np.asarray(lost, np.float64) + np.asarray(gained, np.float64), 0.0)
    with np.errstate(invalid="ignore"):
        share = size / size.sum(-1, keepdims=True)
        overall = net.sum(-1, keepdims=True) / size.sum(-1, keepdims=True)
    mean = net / np.maximum(size, 1)
    noise = (changed - net * mean) / np.maximum(size - 1, 1) / np.maximum(size, 1)
    found = (share * ((mean - overall) ** 2 - (1 - share) * noise)).sum(-1)
    return np.where(kept.any(-1), found, np.nan)


def signed_root(variance: npt.ArrayLike) -> Numbers:
    """A variance as a spread that can be read, ``sign(v) sqrt(|v|)``: -0.0001 is -0.01."""
    value = np.asarray(variance, np.float64)
    return np.sign(value) * np.sqrt(np.abs(value))


def excess_gaps(n: npt.ArrayLike, net: npt.ArrayLike) -> Numbers:
    """Psi of the groups of one feature, from the images lost less those gained.

    Args:
        n: Images by group, shape ``(..., G)``.
        net: Lost less gained, by group.

    Returns:
        Shape ``(..., G)``; NaN for a group without images.
    """
    size, lost = np.asarray(n, np.float64), np.asarray(net, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Numbers = lost / size - lost.sum(-1, keepdims=True) / size.sum(-1, keepdims=True)
    return found


def mean_positive_gap(psi: Numbers) -> Numbers:
    """The mean over groups of ``max(psi, 0)``: every group counts alike, whatever its size.

    Unlike the two quantities above it is above zero by chance alone.

    Args:
        psi: Shape ``(..., G)``; NaN marks a group without images, which does not count.

    Returns:
        Shape ``(...)``; NaN without any group.
    """
    known = ~np.isnan(psi)
    total = np.where(known, np.maximum(psi, 0.0), 0.0).sum(-1)
    with np.errstate(invalid="ignore"):
        found: Numbers = total / known.sum(-1)
    return found


def halves(ids: Integers, splits: int, seed: int) -> Iterator[Flags]:
    """Deal the images of every group at random into two halves, again and again.

    Of an odd number one half has one more, by a coin for each group.

    Args:
        ids: Group of each image, shape ``(N,)``.
        splits: How often.
        seed: The same seed and groups give the same halves, whatever the models answer.

    Yields:
        Bool, shape ``(N,)``: which images are in the first half.
    """
    generator = np.random.default_rng(seed)
    sizes = np.bincount(ids)
    small = ids.astype(np.uint16) if len(sizes) <= 1 << 16 else ids  # sorted by counting
    by_group = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(ids)) - (np.cumsum(sizes) - sizes)[by_group]
    for _ in range(splits):
        shuffled = generator.permutation(len(ids))
        order = shuffled[np.argsort(small[shuffled], kind="stable")]
        coin = generator.integers(0, 2, len(sizes))
        first = np.zeros(len(ids), bool)
        first[order] = (rank + coin[by_group]) % 2 == 0
        yield first


def split_half_harm(
    net: npt.NDArray[np.signedinteger],
    ids: Integers,
    *,
    folds: Integers | None = None,
    splits: int = SPLITS,
    seed: int = 0,
) -> Numbers:
    """Mean psi on one half of the images of the groups that are worst on the other half.

    The images of each group are dealt into halves A and B. The k = max(1, round(G / 10)) groups of
    the largest psi on A are taken, and the mean of their psi on B; the mean of both directions and
    of all ways to halve. Where all true psi are 0 the expectation is 0, since A and B share no
    image: whatever A chooses, the chosen groups' psi on B expects 0. It grows with the true psi of
    the worst groups, and with how surely they are found.

    Among equal psi the group of the lower number is taken.

    Args:
        net: For each of M pairs of models dense less sparse, each 1 where right: -1, 0 or 1;
            shape ``(M, N)``.
        ids: Group of each image, shape ``(N,)``. Groups of fewer than two images are left out, and
            so are their images.
        folds: Number of the part that each image belongs to, shape ``(N,)``, to have it without
            each part also. Of groups that lack a half then, nothing is asked.
        splits: Ways to halve.
        seed: See :func:`halves`.

    Returns:
        Shape ``(M, 1)``: with all images; with P parts ``(M, 1 + P)``: and without each. Fractions;
        NaN where no group has two halves.
    """
    kept = np.bincount(ids)[ids] >= 2 if len(ids) else np.zeros(0, bool)
    _, group = np.unique(ids[kept], return_inverse=True)
    group, net = group.reshape(-1), net[:, kept]
    parts = 0 if folds is None else int(folds.max(initial=-1)) + 1
    found = np.zeros((len(net), 1 + parts))
    if not len(group):
        return np.full_like(found, np.nan)
    number = int(group.max()) + 1
    code = group if folds is None else folds[kept] * number + group
    cells = max(parts, 1) * number

    def without_each(by_cell: Numbers | Integers) -> Numbers:
        """Of all images, and of all but each part; shape ``(1 + P, G)``."""
        by_part = by_cell.astype(np.float64).reshape(-1, number)
        total = by_part.sum(0, keepdims=True)
        return np.concatenate([total, total - by_part]) if parts else total

    n = without_each(np.bincount(code, minlength=cells))
    nets = [without_each(np.bincount(code, each, cells)) for each in net]
    for first in halves(group, splits, seed):
        own = code[first]
        n_a = without_each(np.bincount(own, minlength=cells))
        for m, each in enumerate(net):
            net_a = without_each(np.bincount(own, each[first], cells))
            a, b = (n_a, net_a), (n - n_a, nets[m] - net_a)
            found[m] += _harm(a, b) + _harm(b, a)
    return found / (2 * splits)


def _harm(chosen_on: tuple[Numbers, Numbers], seen_on: tuple[Numbers, Numbers]) -> Numbers:
    """The mean psi on one half of the groups that are worst on the other, for each row."""
    usable = (chosen_on[0] > 0) & (seen_on[0] > 0)
    here, there = (
        excess_gaps(np.where(usable, n, 0.0), np.where(usable, net, 0.0))
        for n, net in (chosen_on, seen_on)
    )
    order = np.argsort(np.where(usable, -here, np.inf), axis=-1, kind="stable")
    groups = usable.sum(-1, keepdims=True)
    k = np.maximum(np.rint(WORST * groups), 1)
    taken = np.arange(usable.shape[-1]) < k
    worst = np.take_along_axis(there, order, -1)
    found: Numbers = np.where(taken, worst, 0.0).sum(-1) / k[..., 0]
    return found
