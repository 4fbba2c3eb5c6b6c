"""The same quantities once more: slowly, with loops, and sharing no code with the package.

Counts and accuracies are rational numbers here, so a test compares counts with ``==``. ``None``
means "not known", where the package has NaN.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

Sample = tuple[bool, bool, Sequence[int]]
"""Whether the dense and the sparse model are right on an image, and its groups."""


def psi(samples: Sequence[Sample], num_groups: int) -> list[Fraction | None]:
    """[Acc(dense | g) - Acc(sparse | g)] - [Acc(dense) - Acc(sparse)], group after group."""

    def gap(of: Sequence[Sample]) -> Fraction:
        dense = Fraction(sum(1 for d, _, _ in of if d), len(of))
        sparse = Fraction(sum(1 for _, s, _ in of if s), len(of))
        return dense - sparse

    result: list[Fraction | None] = []
    for group in range(num_groups):
        members = [sample for sample in samples if group in sample[2]]
        result.append(gap(members) - gap(samples) if members else None)
    return result


class DequeReplay:
    """One ``deque(maxlen=k)`` per group, as in the paper's released code.

    Sizes are one number for all groups or one per group; outcomes are anything that adds up.
    """

    def __init__(
        self, num_groups: int, capacity: int | Sequence[int], min_count: int | Sequence[int]
    ) -> None:
        def each(size: int | Sequence[int]) -> list[int]:
            return [size] * num_groups if isinstance(size, int) else list(size)

        self.buffers: list[deque[Any]] = [deque(maxlen=size) for size in each(capacity)]
        self.min_count = each(min_count)

    def push(self, outcomes: Sequence[Any], groups: Sequence[Sequence[int]]) -> None:
        for outcome, of_sample in zip(outcomes, groups, strict=True):
            for group in of_sample:
                self.buffers[group].append(outcome)

    def mean(self) -> list[Fraction | None]:
        return [
            Fraction(sum(map(Fraction, buffer)), len(buffer)) if len(buffer) >= enough else None
            for buffer, enough in zip(self.buffers, self.min_count, strict=True)
        ]


def recent_psi(
    dense: Sequence[tuple[int, int]],
    recent: Sequence[Fraction | None],
    features: Sequence[Sequence[int]],
    *,
    macro: bool,
) -> list[Fraction | None]:
    """psi_g of buffers.

    Args:
        dense: ``(images, right ones)`` of each group for the dense model on the training split.
        recent: Accuracy over each group's buffer.
        features: The groups of each feature.
        macro: Take the sparse model's overall accuracy as the plain mean over known buffers, and
            the dense one's over all images; else both over the images of the known groups.
    """
    result: list[Fraction | None] = [None] * len(recent)
    for groups in features:
        gaps: dict[int, Fraction] = {}
        sparse: dict[int, Fraction] = {}
        for group in groups:
            accuracy = recent[group]
            if accuracy is not None:
                sparse[group] = accuracy
                gaps[group] = Fraction(dense[group][1], dense[group][0]) - accuracy
        if not gaps:
            continue
        if macro:
            everybody = Fraction(
                sum(dense[group][1] for group in groups), sum(dense[group][0] for group in groups)
            )
            overall = everybody - sum(sparse.values(), Fraction()) / len(sparse)
        else:
            images = sum(dense[group][0] for group in gaps)
            overall = sum((dense[g][0] * gap for g, gap in gaps.items()), Fraction()) / images
        for group, gap in gaps.items():
            result[group] = gap - overall
    return result


def k_smallest(scores: Sequence[float], count: int) -> list[bool]:
    """Which scores are the ``count`` smallest; among equals the first are kept, the last go."""
    pairs = sorted((score, -index) for index, score in enumerate(scores))
    gone = {-minus_index for _, minus_index in pairs[:count]}
    return [index in gone for index in range(len(scores))]


def lagrangian(
    losses: Tensor,
    groups: Sequence[Sequence[int]],
    multipliers: Sequence[float],
    *,
    detach_overall: bool = False,
) -> Tensor:
    """L + sum over the groups in the batch of lambda_g (L_g - L), written as it stands."""
    overall = losses.mean()
    value = overall
    taken_off = overall.detach() if detach_overall else overall
    for group, multiplier in enumerate(multipliers):
        members = [i for i, of_sample in enumerate(groups) if group in of_sample]
        if members:
            value = value + multiplier * (losses[members].mean() - taken_off)
    return value


def lagrangian_gradient(
    losses: Tensor,
    groups: Sequence[Sequence[int]],
    multipliers: Sequence[float],
    parameter: Tensor,
    *,
    detach_overall: bool = False,
) -> Tensor:
    """Gradient of :func:`lagrangian` with respect to a parameter of the losses' graph."""
    value = lagrangian(losses, groups, multipliers, detach_overall=detach_overall)
    return torch.autograd.grad(value, parameter, retain_graph=True)[0]


def known(values: Tensor) -> list[float | None]:
    """A tensor as a list, with ``None`` for NaN, so that it can be compared with ``==``."""
    return [None if value != value else value for value in values.tolist()]


def floats(values: Sequence[Fraction | None]) -> list[float | None]:
    """Rational numbers rounded to the nearest float64."""
    return [None if value is None else float(value) for value in values]


def greedy_shares(importance: Sequence[Sequence[int]], keep: int) -> list[int]:
    """FairGRAPE's selection to the letter: which weights are kept, in the order they are chosen.

    Args:
        importance: ``importance[group][weight]``, whole numbers so that nothing is rounded.
        keep: How many weights.
    """
    groups, weights = range(len(importance)), range(len(importance[0]))
    totals = [sum(of_group) for of_group in importance]
    target = [Fraction(total, sum(totals)) if sum(totals) else Fraction() for total in totals]
    kept: list[int] = []
    while len(kept) < keep:
        have = [sum(importance[g][w] for w in kept) for g in groups]
        share = [
            Fraction(held, sum(have)) if sum(have) else Fraction(1, len(have)) for held in have
        ]
        worst_off = min(groups, key=lambda g: share[g] - target[g])
        left = [w for w in weights if w not in kept]
        kept.append(max(left, key=lambda w: (importance[worst_off][w], -w)))
    return kept
