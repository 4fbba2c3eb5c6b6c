"""What chance alone does: the largest psi to be expected without any disparity, and a test of it.

If losing or gaining an image had nothing to do with its groups, every way of dealing the losses and
gains out over the images would be as likely. Only counts matter, so they are dealt out over the
cells in which the features cross: an exact permutation test without permuting images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ceag_cli.arrays import Flags, Integers, Numbers

DRAWS = 2000
WORK = 1_000_000
"""Cells times draws; of many cells there are fewer draws, but at least ``FEWEST``."""
FEWEST = 100
MOST_IMAGES = 10**9
"""Of so many images or more, NumPy cannot draw."""
SPARSE = 20
"""Pairs of numbers are sorted, not counted, where they are so many times as many as images."""


@dataclass(frozen=True)
class Chance:
    """What dealing out at random gives."""

    noise_floor: float
    """Mean of the largest psi."""
    omnibus_p: float
    """How often the groups differ at least as much as they do: p of "there is no disparity"."""
    draws: int


def by_chance(
    groups: Integers,
    num_groups: int,
    lost: Flags,
    gained: Flags,
    seed: int,
    scale: Numbers | None = None,
) -> Chance | None:
    """Deal the losses and gains out over the images at random, many times.

    The statistic of the test is ``sum over g of n_g (d_g - d)^2``, over the groups of all features.

    Args:
        groups: Group ids of each image, shape ``(N, F)``.
        num_groups: G, over all features.
        lost: By image.
        gained: By image.
        seed: Of the random numbers.
        scale: What psi is multiplied by for the noise floor, by group: 1 / (1 - pi) makes it the
            gap against the rest.

    Returns:
        ``None`` without images, and for ``MOST_IMAGES`` or more: chance alone is no matter there.
    """
    if not 0 < len(groups) < MOST_IMAGES:
        return None
    cells, cell_of, sizes = _cells(groups)
    total, all_lost, all_gained = len(groups), int(lost.sum()), int(gained.sum())
    overall = (all_lost - all_gained) / total
    flat, features = cells.reshape(-1), cells.shape[1]
    n = np.bincount(flat, np.repeat(sizes, features), num_groups)
    known = n > 0
    sizes_known = n[known]
    scales = np.ones(len(sizes_known)) if scale is None else scale[known]

    def gaps(net: npt.NDArray[Any]) -> Numbers:
        """Psi by group, from lost less gained by cell."""
        by_group = np.bincount(flat, np.repeat(net, features), num_groups)
        found: Numbers = by_group[known] / sizes_known - overall
        return found

    measured = gaps(np.bincount(cell_of, lost.astype(float) - gained, len(cells)))
    as_large = float(sizes_known @ measured**2) * (1 - 1e-9)  # equal despite rounding
    draws = int(min(DRAWS, max(FEWEST, WORK // len(cells))))
    generator = np.random.default_rng(seed)
    floor, count = 0.0, 0
    for some_lost in generator.multivariate_hypergeometric(sizes, all_lost, draws, "marginals"):
        left = sizes - some_lost
        some_gained = generator.multivariate_hypergeometric(left, all_gained, method="marginals")
        psi = gaps(some_lost - some_gained)
        floor += float((scales * psi).max())
        count += bool(sizes_known @ psi**2 >= as_large)
    return Chance(floor / draws, (1 + count) / (1 + draws), draws)


def _cells(groups: Integers) -> tuple[Integers, Integers, Integers]:
    """The combinations of group ids that occur, that of each image, and how often each occurs."""
    code = np.zeros(len(groups), np.int64)
    for ids in groups.T:  # renumbered after every feature, so that the numbers stay small
        pair = code * (int(ids.max()) + 1) + ids
        if int(pair.max()) < SPARSE * len(pair):
            known = np.bincount(pair) > 0
            code = (np.cumsum(known) - 1)[pair]
        else:
            code = np.unique(pair, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(code)
    example = np.zeros(len(sizes), np.int64)
    example[code] = np.arange(len(code))
    return groups[example], code, sizes
