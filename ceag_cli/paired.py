"""The answers of a dense and a sparse model to the same images, and counts of them by group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.clusters import numbered, psi_effects
from ceag_cli.groups import Grouping
from ceag_cli.intervals import Counts


@dataclass(frozen=True)
class Paired:
    """The answers of both models to the images of a split, in the same order."""

    split: str
    dense: Tensor
    """Whether the dense model is right, bool, shape ``(N,)``."""
    sparse: Tensor
    """Whether the sparse model is right, bool, shape ``(N,)``."""
    groups: Tensor
    """Group ids, int64, shape ``(N, F)``."""
    changed: Tensor | None = None
    """Whether they answer differently, bool, shape ``(N,)``; ``None`` where that is not known."""
    clusters: Tensor | None = None
    """Number of the person or the like that an image belongs to, int64, shape ``(N,)``."""


@dataclass
class Counted:
    """A split, counted by group. Arrays of one number a group have shape ``(G,)``."""

    pair: Paired
    gated: bool
    ids: Integers
    lost: Flags
    """Whether the dense model alone is right, by image."""
    gained: Flags
    """Whether the sparse model alone is right, by image."""
    n: Integers
    """Images of each group."""
    n_lost: Integers
    n_gained: Integers
    n_dense: Integers
    """Images that the dense model gets right."""
    n_sparse: Integers
    n_lateral: Integers | None
    """Images that both get wrong in different ways; ``None`` where that is not known."""
    clusters: Integers | None
    """Numbered from 0 on; ``None`` where they do not count."""
    effect: Numbers
    """By how much clusters make a group's images fewer than they look; 1 without clusters."""

    @classmethod
    def of(cls, pair: Paired, grouping: Grouping, gated: bool) -> Counted:
        """Count a split.

        Args:
            pair: Both models' answers.
            grouping: The sensitive features and their groups.
            gated: Whether images that belong together count as fewer, as they do for a verdict.
        """
        dense, sparse = pair.dense.numpy(), pair.sparse.numpy()
        ids = pair.groups.numpy()
        features, number = ids.shape[1], grouping.num_groups
        flat = ids.reshape(-1)

        def count(flags: Flags) -> Integers:
            chosen = flat if flags.all() else flat[np.repeat(flags, features)]
            return np.bincount(chosen, minlength=number).astype(np.int64)

        lost, gained = dense & ~sparse, sparse & ~dense
        lateral = None if pair.changed is None else pair.changed.numpy() & ~dense & ~sparse
        clusters = None
        if pair.clusters is not None and gated:
            clusters = numbered(pair.clusters.numpy())
        effect = np.ones(number)
        if clusters is not None and len(ids):
            effect = psi_effects(lost.astype(float) - gained, ids, clusters, number)
        return cls(
            pair=pair,
            gated=gated,
            ids=ids,
            lost=lost,
            gained=gained,
            n=count(np.ones(len(dense), bool)),
            n_lost=count(lost),
            n_gained=count(gained),
            n_dense=count(dense),
            n_sparse=count(sparse),
            n_lateral=None if lateral is None else count(lateral),
            clusters=clusters,
            effect=effect,
        )

    @cached_property
    def total(self) -> int:
        """Images."""
        return len(self.lost)

    @cached_property
    def net(self) -> int:
        """Images lost less images gained."""
        return int(self.lost.sum()) - int(self.gained.sum())

    @property
    def decidable(self) -> Flags:
        """Groups that have images and are not everybody."""
        found: Flags = (self.n > 0) & (self.n < self.total)
        return found

    def counts(self, chosen: Flags) -> Counts:
        """As the intervals take them."""
        by = self.effect[chosen]
        total, lost, gained = self.total, int(self.lost.sum()), int(self.gained.sum())
        return Counts(
            self.n[chosen] / by,
            self.n_lost[chosen] / by,
            self.n_gained[chosen] / by,
            total / by,
            lost / by,
            gained / by,
        )

    def exact(self, g: int, against: str) -> tuple[int, int]:
        """Psi of a group, or its gap less that of the rest, as a fraction."""
        n, net = int(self.n[g]), int(self.n_lost[g] - self.n_gained[g])
        if against == "rest":
            others = self.total - n
            return net * others - (self.net - net) * n, n * others
        return net * self.total - self.net * n, n * self.total


def counted(pair: Paired, grouping: Grouping, gated: bool) -> tuple[Counts, Integers]:
    """The groups of a split that can be judged, as the bounds take them.

    Args:
        pair: Both models' answers.
        grouping: The sensitive features and their groups.
        gated: Whether images that belong together count as fewer, as they do for a verdict.

    Returns:
        The counts, and the numbers of the groups: those that have images and are not everybody.
    """
    split = Counted.of(pair, grouping, gated)
    return split.counts(split.decidable), np.flatnonzero(split.decidable)
