"""More than psi: what else changed between two models, by group. All of it descriptive.

psi compares accuracies. Two models of equal accuracy may still answer every tenth image
differently, be surer of it than before, or mistake another class for the one they used to. None of
these numbers decides anything; they say where to look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.clusters import Effects, numbered
from ceag_cli.confusion import Confusion, confusion, total_variation
from ceag_cli.errors import LabelsError
from ceag_cli.groupcolumns import grouped
from ceag_cli.groups import crossed
from ceag_cli.means import (
    FEWEST,
    Bounded,
    bounded,
    divided,
    excess_share,
    known,
    mean_shift,
    share_bounds,
    summed,
)
from ceag_cli.predictions import SMALLEST, AnswerTable
from ceag_cli.strata import Strata, confidence_strata, stratified

MOST_SHOWN_CLASSES = 50
"""Matrices of more classes are not written to JSON."""


@dataclass(frozen=True)
class Said:
    """What one model says about each image."""

    predicted: Integers
    """Class, shape ``(N,)``; it need not occur as a label."""
    confidence: Numbers | None = None
    """Probability of the predicted class, shape ``(N,)``."""
    loss: Numbers | None = None
    """Minus the logarithm of the true label's probability, shape ``(N,)``."""


@dataclass(frozen=True)
class Answers:
    """The answers of both models to the images of a split, in the same order."""

    split: str
    label: Integers
    """True class, shape ``(N,)``."""
    dense: Said
    sparse: Said
    groups: Integers
    """Group ids, shape ``(N, F)``."""
    names: Sequence[tuple[str, str]]
    """Feature and value of each group."""
    classes: Sequence[str] = ()
    """Names of the classes, by number."""
    control: str | None = None
    """Control features, crossed."""
    strata: Integers | None = None
    """Level of the control features of each image, shape ``(N,)``."""
    levels: Sequence[str] = ()
    """Names of these levels."""
    clusters: Integers | None = None
    """Number of the person or the like that each image is of, from 0 on, shape ``(N,)``."""


def answers_of(table: AnswerTable, split: str, control: Sequence[str] = ()) -> Answers:
    """A split of a table.

    Args:
        table: Both models' answers.
        split: One that has rows.
        control: Columns of its cells within whose levels groups are to be compared, crossed.
    """
    part = table.only(split)

    def said(model: str) -> Said:
        label = part.probabilities.get(f"{model}_p_label")
        return Said(
            predicted=getattr(part, model),
            confidence=part.probabilities.get(f"{model}_p"),
            loss=None if label is None else -np.log(np.maximum(label, SMALLEST)),
        )

    levels: Sequence[str] = ()
    strata = None
    if control:
        found = grouped(part.cells, [control])
        if found.ambiguous:
            raise LabelsError([f"{table.source}: {problem}" for problem in found.ambiguous])
        levels, strata = found.values[0], found.ids[:, 0]
    return Answers(
        split=split,
        label=part.label,
        dense=said("dense"),
        sparse=said("sparse"),
        groups=part.groups,
        names=part.grouping.names,
        classes=part.classes,
        control=crossed(control) if control else None,
        strata=strata,
        levels=levels,
        clusters=None if part.clusters is None else numbered(part.clusters),
    )


@dataclass(frozen=True, slots=True)
class ScoreShift:
    """A mean over images of something that is no mere yes or no."""

    dense: float
    sparse: float
    shift: Bounded
    """Sparse less dense. No bounds for fewer than 100 images (``means.FEWEST``)."""
    excess: Bounded
    """The shift less that of all images."""


@dataclass(frozen=True, slots=True)
class GroupShift:
    """One group of a split, or all of its images. ``None``: there is nothing to say."""

    feature: str | None
    """``None`` for all images."""
    value: str | None
    n: int
    lost: int
    gained: int
    lateral: int
    """Images that both get wrong, each in its own way."""
    churn: Bounded | None
    """Share of the images that the models answer differently: lost, gained and lateral."""
    excess_churn: Bounded | None
    """Churn less that of all images."""
    flips: float | None
    """Share lost or gained."""
    negative_flips: Bounded | None
    """Share lost."""
    backward_compatibility: Bounded | None
    """Share of what the dense model gets right that the sparse one gets right, too."""
    acc_dense: Bounded | None
    acc_sparse: Bounded | None
    total_variation: float | None
    """How differently the two models answer, whatever is right (``confusion.total_variation``)."""
    overconfidence: ScoreShift | None
    """Mean of confidence less being right."""
    loss: ScoreShift | None
    """Mean of minus the logarithm of the true label's probability (NLL)."""
    label_brier: ScoreShift | None
    """Mean of (1 - the true label's probability)²: one term of the Brier score, which also needs
    the probabilities of all other classes."""


@dataclass(frozen=True, slots=True)
class Worst:
    """The group that a number is worst of. Bounds know nothing of its having been picked."""

    feature: str
    value: str
    n: int
    share: Bounded


@dataclass(frozen=True)
class Shifts:
    """What else changed in a split."""

    split: str
    alpha: float
    """Error of each bound."""
    interval: str
    min_images_for_means: int
    """Groups of fewer images have no bounds of means (``ScoreShift``)."""
    clustered: bool
    """Whether bounds are widened for images that belong together. Those within strata, and p and
    q, never are."""
    overall: GroupShift
    worst_accuracy_dense: Worst | None
    worst_accuracy_sparse: Worst | None
    worst_churn: Worst | None
    """By its lower bound, so that it is not simply the smallest group."""
    groups: tuple[GroupShift, ...]
    confusion: Confusion
    control: Strata | None
    """Within the levels of the control features; ``None`` without any."""
    by_confidence: Strata | None
    """Within strata of equal confidence of the dense model; ``None`` without probabilities."""


def shifts(answers: Answers, alpha: float = 0.05, interval: str = "score") -> Shifts:
    """Compare two models beyond accuracy.

    Args:
        answers: What both say about each image of a split.
        alpha: Error of each one-sided bound.
        interval: ``score`` or ``exact``, as for psi, for what is compared with all images. Shares
            by themselves have exact bounds either way.
    """
    label, dense, sparse = answers.label, answers.dense.predicted, answers.sparse.predicted
    number, total = len(answers.names), len(label)
    right = dense == label, sparse == label
    lost, gained, changed = right[0] & ~right[1], right[1] & ~right[0], dense != sparse
    # Everybody is one group more, the last.
    ids = np.column_stack([answers.groups, np.full(total, number)])
    effects = Effects(ids, number + 1, answers.clusters, alpha)
    groups = _group_shifts(
        effects,
        [*answers.names, (None, None)],
        (lost, gained, changed, *right),
        total_variation(ids, number + 1, dense, sparse),
        [None if pair is None else _score(*pair, effects) for pair in _scores(answers, right)],
        interval,
    )
    arguments = (ids[:, :-1], answers.names, lost, gained, changed, alpha, interval)
    control = by_confidence = None
    if answers.control is not None and answers.strata is not None:
        control = stratified(answers.control, answers.strata, answers.levels, *arguments)
    if answers.dense.confidence is not None:
        strata, levels = confidence_strata(answers.dense.confidence)
        by_confidence = stratified("confidence of the dense model", strata, levels, *arguments)
    overall, by_group = groups[-1], groups[:-1]
    return Shifts(
        split=answers.split,
        alpha=alpha,
        interval=interval,
        min_images_for_means=FEWEST,
        clustered=answers.clusters is not None,
        overall=overall,
        worst_accuracy_dense=_worst(by_group, "acc_dense", lambda share: -share.value),
        worst_accuracy_sparse=_worst(by_group, "acc_sparse", lambda share: -share.value),
        worst_churn=_worst(by_group, "churn", lambda share: share.lower or 0.0),
        groups=tuple(by_group),
        confusion=confusion(label, dense, sparse, answers.classes),
        control=control,
        by_confidence=by_confidence,
    )


Pair = tuple[Numbers, Numbers]


def _scores(answers: Answers, right: tuple[Flags, Flags]) -> list[Pair | None]:
    """Over-confidence, loss and Brier term of each image, dense and sparse."""
    models = answers.dense, answers.sparse
    sure = [said.confidence for said in models]
    loss = [said.loss for said in models]
    over = losses = brier = None
    if sure[0] is not None and sure[1] is not None:
        over = (sure[0] - right[0], sure[1] - right[1])
    if loss[0] is not None and loss[1] is not None:
        losses = (np.asarray(loss[0], np.float64), np.asarray(loss[1], np.float64))
        brier = (np.expm1(-losses[0]) ** 2, np.expm1(-losses[1]) ** 2)
    return [over, losses, brier]


def _score(before: Numbers, after: Numbers, effects: Effects) -> list[ScoreShift | None]:
    ids, number = effects.ids, effects.number
    n = summed(ids, None, number)
    means = [divided(summed(ids, numbers, number), n).tolist() for numbers in (before, after)]
    by = effects.of_mean(after - before), effects.of_excess(after - before)
    shift, excess = mean_shift(before, after, ids, number, effects.alpha, by)
    return [
        None if a is None or b is None else ScoreShift(x, y, a, b)
        for x, y, a, b in zip(*means, bounded(*shift), bounded(*excess), strict=True)
    ]


def _group_shifts(
    effects: Effects,
    names: Sequence[tuple[str, str] | tuple[None, None]],
    flags: tuple[Flags, ...],
    variation: Numbers,
    scores: Sequence[list[ScoreShift | None] | None],
    interval: str,
) -> list[GroupShift]:
    ids, number, alpha = effects.ids, effects.number, effects.alpha
    n = summed(ids, None, number)
    lost, gained, changed, dense, sparse = (summed(ids, flag, number) for flag in flags)
    by = effects.of_excess(flags[2])
    excess = excess_share(
        changed / by, n / by, changed[-1] / by, max(n[-1], 1) / by, alpha, interval
    )

    def share(
        of: Numbers, among: Numbers, flag: Flags, rows: Flags | None = None
    ) -> list[Bounded | None]:
        return share_bounds(of, among, alpha, effects.of_mean(flag, rows))

    nothing: list[ScoreShift | None] = [None] * number
    overconfidence, loss, brier = (nothing if column is None else column for column in scores)
    columns: dict[str, Sequence[Any]] = {
        "feature": [feature for feature, _ in names],
        "value": [value for _, value in names],
        "n": n.astype(np.int64).tolist(),
        "lost": lost.astype(np.int64).tolist(),
        "gained": gained.astype(np.int64).tolist(),
        "lateral": (changed - lost - gained).astype(np.int64).tolist(),
        "churn": share(changed, n, flags[2]),
        "excess_churn": bounded(*excess),
        "flips": known(divided(lost + gained, n)),
        "negative_flips": share(lost, n, flags[0]),
        "backward_compatibility": share(dense - lost, dense, flags[4], flags[3]),
        "acc_dense": share(dense, n, flags[3]),
        "acc_sparse": share(sparse, n, flags[4]),
        "total_variation": known(variation),
        "overconfidence": overconfidence,
        "loss": loss,
        "label_brier": brier,
    }
    rows = zip(*columns.values(), strict=True)
    return [GroupShift(**dict(zip(columns, row, strict=True))) for row in rows]


def _worst(
    groups: Sequence[GroupShift], field: str, badness: Callable[[Bounded], float]
) -> Worst | None:
    found: list[tuple[GroupShift, Bounded]] = [
        (group, getattr(group, field)) for group in groups if getattr(group, field) is not None
    ]
    if not found:
        return None
    group, share = max(found, key=lambda item: badness(item[1]))
    return Worst(str(group.feature), str(group.value), group.n, share)


def document(found: Shifts) -> dict[str, Any]:
    """As JSON; fractions, never percent; ``null`` where nothing is known."""
    few = found.confusion.classes <= MOST_SHOWN_CLASSES
    plain: dict[str, Any] = _plain(found)
    for model in ("dense", "sparse"):
        counts = getattr(found.confusion, model)
        plain["confusion"][model] = counts.tolist() if few and counts is not None else None
    return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
