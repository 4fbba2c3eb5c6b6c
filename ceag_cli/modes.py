"""Images on which populations of models disagree: pruning identified exemplars.

Hooker, Courville, Clark, Dauphin and Frome, *What do compressed deep neural networks forget?*
(2019): several dense and several sparse models answer the same images. An image's *modal label* in
a population is the one that most of its models give. It is a pruning identified exemplar (PIE)
where the modal labels of both populations differ,

    PIE_i = 1{mode of dense answers to i != mode of sparse answers to i}

Whether any of them is right does not matter. Where several labels have the most votes, all of them
are modal, and an image is a PIE only if no label is modal in both populations: whatever label
wins a tie, the modal labels differ then. So nothing depends on how classes are numbered, or on
which population is called dense. The code of the paper takes the largest number among tied labels
(``Identified.largest`` counts by that rule).

Answers of a population have the shape ``(M, N)``: M models, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.means import summed

FEWEST = 3
"""Models of a population from which on a label can be modal: of two, either agrees or is tied."""

DRAWS = 200
"""Deals that are gone through at most."""
FEWEST_DRAWS = 20
WORK = 4_000_000_000
"""Comparisons of two answers that all deals together may take, roughly."""


def votes_for(answers: Integers, label: Integers) -> Integers:
    """How many models give each image a label, shape ``(N,)``; the label may differ by image."""
    found = np.zeros(answers.shape[1], np.int64)
    for row in answers:
        found += row == label
    return found


@dataclass(frozen=True)
class Modes:
    """The modal labels of a population. Every array has the shape ``(N,)``."""

    votes: Integers
    """Models that give the modal label."""
    smallest: Integers
    """The modal label; the one of the smallest number where several are tied."""
    largest: Integers
    """The one of the largest number."""

    @property
    def tied(self) -> Flags:
        """Whether several labels have the most votes."""
        found: Flags = self.smallest != self.largest
        return found


def modes(answers: Integers) -> Modes:
    """The modal label of each image, with its votes.

    Args:
        answers: Shape ``(M, N)``, M at least 1.
    """
    votes = np.zeros(answers.shape[1], np.int64)
    smallest, largest = answers[0].astype(np.int64), answers[0].astype(np.int64)
    for row in answers:
        own = votes_for(answers, row)
        more, as_many = own > votes, own == votes
        smallest = np.where(more | (as_many & (row < smallest)), row, smallest)
        largest = np.where(more | (as_many & (row > largest)), row, largest)
        votes = np.maximum(votes, own)
    return Modes(votes, smallest, largest)


@dataclass(frozen=True)
class Identified:
    """Where two populations disagree. Every array has the shape ``(N,)``."""

    pies: Flags
    margin: Numbers
    """By how much they do, from 0 to 1, for the PIEs; 0 for all others.

    With a and b the modal labels of dense and sparse and q(.) shares of votes, it is half of
    ``q_dense(a) - q_dense(b) + q_sparse(b) - q_sparse(a)``: what a loses and b gains, on average. 1
    where each population is of one mind. Of tied labels, those that give the least."""
    dense: Modes
    sparse: Modes

    @property
    def largest(self) -> Flags:
        """The PIEs if the largest number wins every tie, as in the code of the paper."""
        found: Flags = self.dense.largest != self.sparse.largest
        return found


def identify(dense: Integers, sparse: Integers) -> Identified:
    """Compare the modal labels of two populations.

    Args:
        dense: Answers, shape ``(M, N)``.
        sparse: Answers to the same images, shape ``(L, N)``.
    """
    a, b = modes(dense), modes(sparse)
    in_sparse, both = _support(dense, a, sparse, b)
    in_dense, _ = _support(sparse, b, dense, a)
    lead = (a.votes - in_dense) / len(dense) + (b.votes - in_sparse) / len(sparse)
    return Identified(~both, np.where(both, 0.0, lead / 2), a, b)


def _support(
    answers: Integers, own: Modes, others: Integers, of_others: Modes
) -> tuple[Integers, Flags]:
    """The most votes of the others for a modal label of one's own, and whether it is theirs too."""
    most = np.zeros(answers.shape[1], np.int64)
    shared = np.zeros(answers.shape[1], bool)
    for row in answers:
        modal = votes_for(answers, row) == own.votes
        votes = np.where(modal, votes_for(others, row), 0)
        most = np.maximum(most, votes)
        shared |= modal & (votes == of_others.votes)
    return most, shared


@dataclass(frozen=True)
class Dealt:
    """How many PIEs there would be if it made no difference which models are the sparse ones."""

    by_group: Numbers
    """Mean number over the deals, shape ``(G,)``."""
    overall: float
    p: float
    """How often there are at least as many as there are: p of "it makes no difference"."""
    deals: int
    within_pairs: bool
    """Whether only the models of a pair were exchanged."""


def by_dealing(
    dense: Integers,
    sparse: Integers,
    ids: Integers,
    number: int,
    pairs: Sequence[int] | None = None,
    seed: int = 0,
) -> Dealt:
    """Deal the models into two populations at random, and count PIEs again.

    Two populations of models that are trained alike disagree on images, too. If the sparse models
    were made by dense ones of the same population, a model and the one made of it resemble each
    other: then the two of a pair are exchanged, or not, each by a coin. Else all models are dealt
    anew. All ways of it, which the measured one is among, are gone through where they are few.

    Args:
        dense: Answers, shape ``(M, N)``.
        sparse: Answers, shape ``(L, N)``.
        ids: Groups of each image, shape ``(N, F)``.
        number: G, over all features.
        pairs: For each sparse model the number of the dense one that it was made of, every one of
            them once; ``None`` where that is not known or not so.
        seed: Of the random numbers, where there are too many ways.
    """
    every = np.concatenate([dense, sparse])
    moved = (every != every[0]).any(0)  # where all agree there never is a PIE
    every, ids = np.ascontiguousarray(every[:, moved]), ids[moved]
    measured = int(identify(every[: len(dense)], every[len(dense) :]).pies.sum())
    work = 4 * len(every) ** 2 * max(every.shape[1], 1)
    most = int(min(DRAWS, max(FEWEST_DRAWS, WORK // work)))
    ways = _within_pairs(pairs, most, seed) if pairs is not None else None
    chosen = _anew(len(every), len(dense), most, seed) if ways is None else ways
    by_group, total, as_many = np.zeros(number), 0, 0
    for first in chosen.of:
        inside = np.zeros(len(every), bool)
        inside[first] = True
        pies = identify(every[inside], every[~inside]).pies
        count = int(pies.sum())
        by_group += summed(ids, pies, number)
        total += count
        as_many += count >= measured
    deals = len(chosen.of)
    p = as_many / deals if chosen.all else (1 + as_many) / (1 + deals)
    return Dealt(by_group / deals, total / deals, p, deals, ways is not None)


@dataclass(frozen=True)
class _Deals:
    """Ways to choose the first population, and whether these are all there are."""

    of: list[list[int]]
    all: bool


def _anew(models: int, first: int, most: int, seed: int) -> _Deals:
    """Any models, as many as there are in the first population."""
    if comb(models, first) <= most:
        return _Deals([list(chosen) for chosen in combinations(range(models), first)], all=True)
    generator = np.random.default_rng(seed)
    drawn = (generator.permutation(models)[:first].tolist() for _ in range(most))
    return _Deals(list(drawn), all=False)


def _within_pairs(pairs: Sequence[int], most: int, seed: int) -> _Deals:
    """One model of each pair. Sparse ones have the numbers after those of the dense ones.

    To exchange all pairs but some is to exchange those, with the populations' names changed.
    """
    count = len(pairs)

    def chosen(swapped: Flags) -> list[int]:
        return [count + i if swapped[i] else dense for i, dense in enumerate(pairs)]

    if 2 ** (count - 1) <= most:
        ways = np.arange(2 ** (count - 1))  # the last pair stays as it is
        swaps = (ways[:, None] >> np.arange(count) & 1).astype(bool)
        return _Deals([chosen(each) for each in swaps], all=True)
    swaps = np.random.default_rng(seed).random((most, count)) < 0.5
    return _Deals([chosen(each) for each in swaps], all=False)
