"""Groups of images, and counts by group.

An image belongs to one group of every *sensitive feature* (``race``, or the crossed
``race*gender``). Groups of all features are numbered together, so that a batch carries one
tensor of group ids of shape ``(B, F)`` and every statistic one vector of length G.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from unicodedata import normalize

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grouping:
    """The sensitive features and their groups, in the order of the group ids."""

    features: tuple[str, ...]
    """One name per feature, e.g. ``("race", "race*gender")``."""

    values: tuple[tuple[str, ...], ...]
    """Per feature, the name of each of its groups."""

    @classmethod
    def numbered(cls, ids: Tensor) -> Grouping:
        """The grouping of ids that stand for themselves: features and groups are called by number.

        Args:
            ids: Group ids of some samples, int64, shape ``(N, F)``.

        Raises:
            ValueError: There are no samples, an id is negative, or one occurs in two features.
        """
        if len(ids) == 0 or int(ids.min()) < 0:
            raise ValueError("group ids must be whole numbers from 0 on")
        values: list[tuple[str, ...]] = []
        first = 0
        for column in ids.T:
            if int(column.min()) < first:
                raise ValueError(
                    "groups of several features are numbered together, feature by feature: the ids "
                    "of each column must lie above those of the column before"
                )
            last = int(column.max())
            values.append(tuple(str(group) for group in range(first, last + 1)))
            first = last + 1
        return cls(tuple(f"feature {f}" for f in range(len(values))), tuple(values))

    @property
    def num_groups(self) -> int:
        """G, over all features."""
        return sum(len(values) for values in self.values)

    @cached_property
    def feature_of(self) -> Tensor:
        """The feature's number for each group, shape ``(G,)``."""
        counts = torch.tensor([len(values) for values in self.values])
        return torch.repeat_interleave(torch.arange(len(self.features)), counts)

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """``(feature, value)`` of each group, in id order."""
        return tuple(
            (feature, value)
            for feature, values in zip(self.features, self.values, strict=True)
            for value in values
        )


@dataclass(frozen=True)
class BatchOutcome:
    """What a method sees of one batch: no images, no model, no graph."""

    loss: Tensor
    """Loss of each sample, shape ``(B,)``."""

    correct: Tensor
    """Whether each sample was classified correctly, bool, shape ``(B,)``."""

    groups: Tensor
    """Group ids of each sample, int64, shape ``(B, F)``."""

    dense_correct: Tensor | None = None
    """Whether the dense model is right on the very inputs that ``correct`` is about, bool, shape
    ``(B,)``; ``None`` where it was measured once, before training."""


@dataclass(frozen=True)
class GroupStats:
    """Counts and sums by group and overall; means are derived, merging is adding.

    Counts are integers and the loss is summed in float64, so that the statistics do not depend
    on the order or the size of the batches beyond float64 rounding of the loss.
    """

    count: Tensor
    """Samples by group, int64, shape ``(G,)``."""

    correct: Tensor
    """Correctly classified samples by group, int64, shape ``(G,)``."""

    loss: Tensor
    """Summed loss by group, float64, shape ``(G,)``."""

    total_count: Tensor
    """Samples overall, int64 scalar. An image in two groups counts once."""

    total_correct: Tensor
    """Correctly classified samples overall, int64 scalar."""

    total_loss: Tensor
    """Summed loss overall, float64 scalar."""

    @classmethod
    def zeros(cls, num_groups: int, device: torch.device | str = "cpu") -> GroupStats:
        """Statistics of no samples."""
        integer = torch.zeros(num_groups, dtype=torch.int64, device=device)
        real = torch.zeros(num_groups, dtype=torch.float64, device=device)
        return cls(integer, integer.clone(), real, integer.sum(), integer.sum(), real.sum())

    @classmethod
    def of(cls, batch: BatchOutcome, num_groups: int) -> GroupStats:
        """Count one batch (or a whole split)."""
        stats = cls.zeros(num_groups, batch.correct.device)
        stats.add_(batch)
        return stats

    def add_(self, batch: BatchOutcome) -> None:
        """Count one more batch, in place; costs O(B) whatever the number of groups."""
        features = batch.groups.shape[1]
        ids = batch.groups.reshape(-1)
        correct = batch.correct.long()
        loss = batch.loss.detach().double()
        self.count.index_add_(0, ids, torch.ones_like(ids))
        self.correct.index_add_(0, ids, correct.repeat_interleave(features))
        self.loss.index_add_(0, ids, loss.repeat_interleave(features))
        self.total_count.add_(len(correct))
        self.total_correct.add_(correct.sum())
        self.total_loss.add_(loss.sum())

    def __add__(self, other: GroupStats) -> GroupStats:
        return GroupStats(
            self.count + other.count,
            self.correct + other.correct,
            self.loss + other.loss,
            self.total_count + other.total_count,
            self.total_correct + other.total_correct,
            self.total_loss + other.total_loss,
        )

    def to(self, device: torch.device | str) -> GroupStats:
        """The same statistics on another device."""
        return GroupStats(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    @property
    def accuracy(self) -> Tensor:
        """Accuracy by group, float64 in [0, 1], shape ``(G,)``; NaN for a group of no samples."""
        return self.correct.double() / self.count.double()

    @property
    def overall_accuracy(self) -> Tensor:
        """Accuracy overall, float64 scalar; NaN for no samples."""
        return self.total_correct.double() / self.total_count.double()

    @property
    def mean_loss(self) -> Tensor:
        """Mean loss by group, float64, shape ``(G,)``; NaN for a group of no samples."""
        return self.loss / self.count.double()

    @property
    def overall_loss(self) -> Tensor:
        """Mean loss overall, float64 scalar; NaN for no samples."""
        return self.total_loss / self.total_count.double()

    @property
    def prevalence(self) -> Tensor:
        """Share of the samples that belong to each group, float64, shape ``(G,)``."""
        return self.count.double() / self.total_count.double()


def crossed(names: Sequence[str]) -> str:
    """Name of a crossed feature or of one of its groups: ``race*gender``, ``Black*Female``."""
    return "*".join(names)


def ambiguous(columns: Sequence[str], values: Iterable[Sequence[str]]) -> list[str]:
    """What is wrong with crossed groups: those of other values that have the same name.

    Only values with a ``*`` can: ``a*b`` with ``c`` is called as ``a`` with ``b*c`` is.

    Args:
        columns: Of the crossed feature.
        values: Of each group, one per column.
    """
    first: dict[str, tuple[str, ...]] = {}
    found: dict[str, str] = {}
    for each in map(tuple, values):
        other = first.setdefault(crossed(each), each)
        if other != each:
            one, two = (" with ".join(f"'{part}'" for part in parts) for parts in (other, each))
            found[crossed(each)] = (
                f"groups of {crossed(columns)}: {one} and {two} would have one name, "
                f"'{crossed(each)}'; rename a value so that it has no '*'"
            )
    return list(found.values())


def look_alikes(names: Iterable[tuple[str, str]]) -> list[str]:
    """Groups that a reader takes for one, as sentences.

    An ``é`` can be one character, or an ``e`` and an accent (Unicode's forms NFC and NFD; systems
    of files differ in which one they take). Names of groups are compared as they are written.

    Args:
        names: Feature and value of each group.
    """
    by_text: dict[tuple[str, str], list[str]] = {}
    for feature, value in names:
        by_text.setdefault((feature, normalize("NFC", value)), []).append(value)
    return [
        f"{feature} has {len(values)} groups that look like '{text}', written "
        f"{' and '.join(map(ascii, values))}: they are judged apart; write them in one Unicode form"
        for (feature, text), values in by_text.items()
        if len(values) > 1
    ]


def set_aside(strata: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Choose a stratified part of some samples.

    One sample of every stratum, drawn at random, always stays, so that nothing is set aside of
    strata of one and no stratum ends up without samples. The others are drawn systematically:
    ordered by stratum, at random within each, and picked at equal distances. So each stratum gives
    its share but for rounding, and very small strata give theirs together.

    Args:
        strata: What makes samples alike (target, groups), integers, shape ``(N, S)``.
        share: Fraction of the samples to set aside, in (0, 1).
        generator: Draws within the strata.

    Returns:
        Bool, shape ``(N,)``: True for about ``share * N`` samples, fewer where the strata are so
        small that too few may leave.
    """
    _, stratum = torch.unique(strata, dim=0, return_inverse=True)
    shuffled = torch.randperm(len(strata), generator=generator)
    order = shuffled[torch.sort(stratum[shuffled], stable=True).indices]
    is_first = torch.ones(len(order), dtype=torch.bool)
    is_first[1:] = stratum[order[1:]] != stratum[order[:-1]]
    free = order[~is_first]
    count = min(round(share * len(strata)), len(free))
    chosen = torch.zeros(len(strata), dtype=torch.bool)
    picks = ((torch.arange(count).double() + 0.5) * len(free) / max(count, 1)).long()
    chosen[free[picks]] = True
    return chosen


def set_aside_whole(
    strata: Tensor, clusters: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """Choose a stratified part of some clusters, with all of their samples.

    For images of people, so that nobody is on both sides. A cluster counts as one of the stratum
    that most of its samples are in.

    Args:
        strata: As for ``set_aside``.
        clusters: Which samples belong together, integers, shape ``(N,)``.
        share: Fraction of the clusters to set aside, in (0, 1).
        generator: Draws within the strata.

    Returns:
        Bool, shape ``(N,)``.
    """
    _, stratum = torch.unique(strata, dim=0, return_inverse=True)
    _, cluster = torch.unique(clusters, return_inverse=True)
    pairs, size = torch.unique(torch.stack([cluster, stratum], 1), dim=0, return_counts=True)
    order = torch.argsort(size, stable=True)  # so that the largest is written last
    main = torch.empty(int(cluster.max()) + 1, dtype=torch.int64)
    for number, of_number in pairs[order].tolist():
        main[number] = of_number
    return set_aside(main[:, None], share, generator)[cluster]
