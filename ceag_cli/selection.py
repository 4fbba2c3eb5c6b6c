"""The smallest of many scores: exactly, uniquely, without sorting, over many tensors at once.

A sample tells between which two scores the k-th smallest lies, almost surely; one pass over the
scores counts those below and collects the few in between, among which it is then found (after Floyd
and Rivest 1975, *Expected time bounds for selection*). Should the sample mislead, or too many be
equal, two histograms over the bits of the floats find it instead. Beyond the scores of one tensor,
that takes memory for about a hundredth of them all.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ceag_cli.arrays import Flags

_Floats = npt.NDArray[np.float32]
_Keys = npt.NDArray[np.int32]

Part = Callable[[], Tensor]
"""Gives some of the scores, float32 without NaN; the same ones each time it is called."""

FEW = 2**16
"""So many scores are looked at all together."""

CHUNK = 2**17
"""So many are compared at a time, that they and what is made of them fit in a processor's cache."""


@dataclass(frozen=True)
class Kth:
    """The k-th smallest of the scores in some parts."""

    score: float
    below: tuple[int, ...]
    """Number of scores below it in each part."""
    equal: tuple[int, ...]
    """Number of scores equal to it in each part."""


def kth_smallest(parts: Sequence[Part], k: int, total: int) -> Kth:
    """The k-th smallest of many scores, without sorting or copying them.

    Args:
        parts: Called one after the other, and more than once, so that no more than one has to be in
            memory.
        k: Counted from 1, at most ``total``.
        total: Number of scores in all parts.

    >>> parts = [lambda: torch.tensor([3.0, -1.0]), lambda: torch.tensor([2.0])]
    >>> kth_smallest(parts, 2, total=3)
    Kth(score=2.0, below=(1, 0), equal=(0, 1))
    """
    if total <= FEW:
        together = np.concatenate([_flat(part()) for part in parts])
        return _counted(parts, float(np.partition(together, k - 1)[k - 1]))
    found = _between(parts, k, total, *_bracket(parts, k, total))
    return found or _counted(parts, _by_histograms(parts, k))


def _bracket(parts: Sequence[Part], k: int, total: int) -> tuple[float, float]:
    """Two scores between which the k-th smallest lies, unless the sample misleads."""
    stride = round(total ** (1 / 3))
    sample, size = np.empty(total // stride + len(parts), np.float32), 0
    for part in parts:
        some = _flat(part())[::stride]
        sample[size : size + len(some)] = some
        size += len(some)
    share = k / total
    margin = 4 * math.sqrt(size * share * (1 - share)) + 1  # four standard deviations
    first, last = (math.floor(share * size + side) for side in (-margin, margin))
    sample[:size].partition([max(first, 0), min(last, size - 1)])
    return (
        float(sample[first]) if first >= 0 else -math.inf,
        float(sample[last]) if last < size else math.inf,
    )


def _between(parts: Sequence[Part], k: int, total: int, low: float, high: float) -> Kth | None:
    """The k-th smallest if it lies between two scores with not too many others."""
    # Room made beforehand: small things kept in between would take what a part has given back.
    room = np.empty(FEW + total // 128, np.float32)
    below, ends = [], [0]
    for part in parts:
        under, end = 0, ends[-1]
        for chunk in _chunks(part()):
            less = chunk < np.float32(low)
            under += _count(less)
            some = chunk[(chunk <= np.float32(high)) ^ less]
            if end + len(some) > len(room):
                return None
            room[end : end + len(some)] = some
            end += len(some)
        below.append(under)
        ends.append(end)
    rank = k - sum(below)
    if not 1 <= rank <= ends[-1]:
        return None
    collected = torch.from_numpy(room)
    inside = [partial(collected.narrow, 0, start, end - start) for start, end in pairwise(ends)]
    kth = kth_smallest(inside, rank, ends[-1])
    total_below = (under + more for under, more in zip(below, kth.below, strict=True))
    return Kth(kth.score, tuple(total_below), kth.equal)


def _counted(parts: Sequence[Part], score: float) -> Kth:
    below, equal = [], []
    for part in parts:
        chunks = list(_chunks(part()))
        below.append(sum(_count(chunk < np.float32(score)) for chunk in chunks))
        equal.append(sum(_count(chunk == np.float32(score)) for chunk in chunks))
    return Kth(score + 0.0, tuple(below), tuple(equal))  # of the zeros the positive one


def _count(marks: Flags) -> int:
    return int(np.count_nonzero(marks))


def _chunks(scores: Tensor) -> Iterator[_Floats]:
    flat = _flat(scores)
    for first in range(0, len(flat), CHUNK):
        yield flat[first : first + CHUNK]


def _flat(scores: Tensor) -> _Floats:
    """As numpy's array, which is compared and counted several times faster on one core."""
    array: _Floats = scores.detach().reshape(-1).cpu().numpy()
    return array


def _by_histograms(parts: Sequence[Part], k: int) -> float:
    """The k-th smallest, whatever the scores.

    The bits of a float, with those after the sign flipped where it is negative, are a whole number
    in the same order. So two histograms of 65,536 bins find it: of the upper 16 bits, and of the
    lower 16 among the scores with the upper ones that it has.
    """
    upper, k = _digit_of_kth(parts, k, _upper_half)
    low, high = _ends(upper)

    def lower_half(chunk: _Floats) -> _Keys:
        return _keys(chunk[(chunk >= np.float32(low)) & (chunk <= np.float32(high))]) & 0xFFFF

    lower, _ = _digit_of_kth(parts, k, lower_half)
    return _float_of((upper - 2**15) << 16 | lower)


def _digit_of_kth(
    parts: Sequence[Part], k: int, digits: Callable[[_Floats], _Keys]
) -> tuple[int, int]:
    """The 16-bit digit of the k-th smallest, and its rank among the scores with that digit."""
    counts = np.zeros(2**16, dtype=np.int64)
    for part in parts:
        for chunk in _chunks(part()):
            counts += np.bincount(digits(chunk), minlength=2**16)
    up_to = counts.cumsum()
    digit = int(np.searchsorted(up_to, k))
    return digit, k - int(up_to[digit] - counts[digit])


def _upper_half(chunk: _Floats) -> _Keys:
    return (_keys(chunk) >> 16) + 2**15


def _keys(chunk: _Floats) -> _Keys:
    """Whole numbers in the order of some floats; both zeros are 0."""
    bits = (chunk + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)  # a float below zero has its sign bit set


def _float_of(key: int) -> float:
    """The float that has a key."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    value: float = struct.unpack("f", struct.pack("i", bits))[0]
    return value


def _ends(upper: int) -> tuple[float, float]:
    """The smallest and the largest float whose keys have an upper half."""
    first = (upper - 2**15) << 16
    last = first | 0xFFFF
    low, high = _float_of(first), _float_of(last if first >= 0 else min(last, -2))  # -1 is -0.0
    # Beyond the infinities lie NaNs.
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def smallest(
    scores: Tensor, count: int, out: Tensor | None = None, threshold: float | None = None
) -> Tensor:
    """Mark exactly the ``count`` smallest scores.

    Among equal scores the first in memory order are kept, so the result is unique.

    Args:
        scores: Any shape, without NaN; taken in single precision.
        count: In [0, number of scores].
        out: Contiguous bool tensor of the same shape to write to.
        threshold: What may be the ``count``-th smallest score; the search is spared if it is.

    Returns:
        Bool tensor of the same shape with exactly ``count`` True.

    >>> smallest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 1)
    tensor([False, False, False,  True])
    """
    pruned = out
    if pruned is None:  # in plain memory order, whatever that of the scores is
        pruned = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if count <= 0 or count >= scores.numel():
        return pruned.fill_(count > 0)
    scores = scores.float()
    if threshold is None or not _mark(scores, count, threshold, pruned):
        found = kth_smallest([lambda: scores], count, scores.numel())
        _mark(scores, count, found.score, pruned)
    return pruned


def _mark(scores: Tensor, count: int, threshold: float, pruned: Tensor) -> bool:
    """Mark the smallest scores; False if the threshold is not the ``count``-th smallest."""
    torch.le(scores, threshold, out=pruned)
    surplus = int(pruned.count_nonzero()) - count
    if surplus < 0:
        return False
    marks, flat = pruned.view(-1), scores.reshape(-1)
    for first in range(0, len(flat), CHUNK):
        if surplus == 0:
            break
        ties = torch.nonzero(flat[first : first + CHUNK] == threshold).reshape(-1)[:surplus]
        marks[first + ties] = False
        surplus -= len(ties)
    return surplus == 0
