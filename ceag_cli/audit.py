"""The audit: a dense and a sparse model compared by group on the same images.

Everything follows from three integers per group, taken over the same images: how many there are
(n), how many the dense model got right and the sparse one wrong (lost), and how many the other way
round (gained).

    gap_g = (lost_g - gained_g) / n_g          psi_g = gap_g - gap

Of each group of a gated split it is asked whether ``psi_g <= eps``, with one-sided bounds at alpha
(``intervals``):

    PASS          the upper bound is at most eps: shown
    FAIL          the lower bound is above eps, after Holm's correction over all groups: shown
    INCONCLUSIVE  neither: ``high`` when psi is above eps, ``too_small`` when the group could not
                  pass even if no answer had changed, else ``low``
    WAIVED        it would be FAIL, and that is accepted for now
    NO_DATA       the group has no images
    REFERENCE     the group is everybody, so that psi is 0 by definition

PASS of all groups together needs no correction: all of them have to pass (intersection-union test,
Berger 1982). With the gate ``point`` the measured psi itself is compared, as the paper does.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.chance import Chance, by_chance
from ceag_cli.clauses import Group, Waiver
from ceag_cli.clusters import mean_effects, numbered, psi_effects
from ceag_cli.findings import (
    CONCLUSIVE,
    DESCRIPTIVE,
    FAIL,
    HIGH,
    IDENTICAL,
    INCONCLUSIVE,
    LOW,
    NO_DATA,
    PASS,
    REFERENCE,
    TOO_SMALL,
    WAIVED,
    AuditResult,
    Check,
    GroupResult,
    SplitResult,
)
from ceag_cli.groups import Grouping
from ceag_cli.heterogeneity import between_group_variance
from ceag_cli.intervals import Counts, clopper_pearson, exact, holm, quantile_of, tango
from ceag_cli.judging import Answers, Questions, answers, same_images
from ceag_cli.policy import Policy
from ceag_cli.verdict import corrected, overall, warnings_of


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
class _Counted:
    """A split, counted."""

    pair: Paired
    gated: bool
    ids: Integers
    lost: Flags
    gained: Flags
    n: Integers
    n_lost: Integers
    n_gained: Integers
    n_dense: Integers
    n_sparse: Integers
    n_lateral: Integers | None
    clusters: Integers | None
    effect: Numbers
    """By how much clusters make a group's images fewer than they look; 1 without clusters."""

    @cached_property
    def total(self) -> int:
        return len(self.lost)

    @cached_property
    def net(self) -> int:
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


@dataclass(frozen=True)
class _Judged:
    """The groups of which something is asked, by split and number, and their answers."""

    rows: dict[tuple[str, int], int]
    answers: Answers | None


def audit(
    pairs: Sequence[Paired],
    grouping: Grouping,
    policy: Policy,
    gated: Sequence[str] = ("test",),
    *,
    seed: int | None = 0,
    today: datetime.date | None = None,
    identical: bool = False,
) -> AuditResult:
    """Compare two models by group.

    Args:
        pairs: Both models' answers, one entry per split.
        grouping: The sensitive features and their groups.
        policy: What is asked.
        gated: The splits that the verdict depends on. A split that a model was fitted or chosen on
            is described, never gated.
        seed: Of the noise floor and the omnibus test; without one they are left out.
        today: For waivers; the present day.
        identical: Both models are one and the same file, so that psi is 0 on any images.
    """
    today = today or datetime.date.today()
    policy.check_groups(grouping.names)
    warnings = policy.warnings(grouping.names, today)
    pairs, grouping = _declared(pairs, grouping, policy)
    splits = [_counted(pair, grouping, pair.split in gated) for pair in pairs]
    found = {waiver.group: policy.waiver_of(waiver.group, today) for waiver in policy.waivers}
    waivers = {group: waiver for group, waiver in found.items() if waiver is not None}
    judged = _judged(splits, grouping, policy, waivers)
    groups: list[GroupResult] = []
    summaries = []
    for split in splits:
        of_split = _group_results(split, grouping, policy, judged, waivers, identical)
        groups += of_split
        summaries.append(_split_result(split, grouping, of_split, policy, seed))
    checks = _checks([split for split in splits if split.gated], grouping, policy)
    verdict, code, reasons = overall(policy, summaries, groups, checks, waivers)
    family_size = judged.answers.family_size if judged.answers is not None else 0
    reasons += corrected(groups, checks, family_size)
    return AuditResult(
        policy=policy,
        family_size=family_size,
        verdict=verdict,
        exit_code=code,
        reasons=tuple(reasons),
        warnings=(*warnings, *warnings_of(policy, summaries, groups, identical)),
        splits=tuple(summaries),
        groups=tuple(groups),
        checks=tuple(checks),
        clustered=any(pair.clusters is not None and pair.split in gated for pair in pairs),
    )


def _declared(
    pairs: Sequence[Paired], grouping: Grouping, policy: Policy
) -> tuple[Sequence[Paired], Grouping]:
    """With the required groups that no image belongs to as groups too."""
    new = policy.undeclared(grouping.names)
    if not new:
        return pairs, grouping
    added = [tuple(v for f, v in new if f == feature) for feature in grouping.features]
    before = torch.tensor([sum(map(len, added[:f])) for f in range(len(added))])
    values = tuple(old + more for old, more in zip(grouping.values, added, strict=True))
    shifted = [replace(pair, groups=pair.groups + before) for pair in pairs]
    return shifted, Grouping(grouping.features, values)


def _counted(pair: Paired, grouping: Grouping, gated: bool) -> _Counted:
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
    return _Counted(
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


def _judged(
    splits: Sequence[_Counted],
    grouping: Grouping,
    policy: Policy,
    waivers: Mapping[Group, Waiver],
) -> _Judged:
    """Put the question of every group of every gated split at once."""
    eps = np.array([policy.eps_of(name) for name in grouping.names], float)
    excused = [waivers[name].eps if name in waivers else 0.0 for name in grouping.names]
    accepted = np.maximum(np.array(excused, float), eps)
    rows: dict[tuple[str, int], int] = {}
    counts, chosen, same_as = [], [], []
    first: dict[tuple[str, int, float, float], int] = {}
    for split in splits:
        asked = split.decidable & split.gated
        if not asked.any():
            continue
        counts.append(split.counts(asked))
        chosen.append(np.flatnonzero(asked))
        images = same_images(split.ids, split.n).tolist()
        for g in np.flatnonzero(asked).tolist():
            row = rows[split.pair.split, g] = len(rows)
            key = (split.pair.split, images[g], eps[g], accepted[g])
            same_as.append(first.setdefault(key, row))
    if not rows:
        return _Judged(rows, None)
    everywhere = np.concatenate(chosen)
    questions = Questions(
        counts=Counts.of(counts),
        eps=eps[everywhere],
        accepted=accepted[everywhere],
        same_as=np.array(same_as),
    )
    return _Judged(rows, answers(questions, policy.alpha, policy.interval, policy.against))


def _group_results(
    split: _Counted,
    grouping: Grouping,
    policy: Policy,
    judged: _Judged,
    waivers: Mapping[Group, Waiver],
    identical: bool,
) -> list[GroupResult]:
    name, total, required = split.pair.split, split.total, set(policy.required)
    columns = (split.n, split.n_lost, split.n_gained, split.n_dense, split.n_sparse)
    counts = zip(*(column.tolist() for column in columns), strict=True)
    results = []
    for g, ((feature, value), (n, lost, gained, dense, sparse)) in enumerate(
        zip(grouping.names, counts, strict=True)
    ):
        eps = policy.eps_of((feature, value))
        psi, rest = split.exact(g, "overall"), split.exact(g, "rest")
        said = _Said(verdict=NO_DATA if split.gated else DESCRIPTIVE)
        row = judged.rows.get((name, g))
        if row is not None:
            assert judged.answers is not None
            waiver = waivers.get((feature, value))
            measured = rest if policy.against == "rest" else psi
            said = _said(measured, n, judged.answers, row, policy.gate, eps, waiver)
        elif split.gated and n:
            said = _Said(verdict=REFERENCE)
        if identical and row is not None:
            said = _Said(PASS, IDENTICAL, 0.0, 0.0, 1.0, 1.0)
        results.append(
            GroupResult(
                split=name,
                feature=feature,
                value=value,
                n=n,
                n_effective=n / float(split.effect[g]) if split.clusters is not None else None,
                lost=lost,
                gained=gained,
                lateral=None if split.n_lateral is None else int(split.n_lateral[g]),
                acc_dense=dense / n if n else None,
                acc_sparse=sparse / n if n else None,
                gap=(lost - gained) / n if n else None,
                excess_gap=psi[0] / psi[1] if n else None,
                gap_vs_rest=rest[0] / rest[1] if 0 < n < total else None,
                eps=eps,
                lower=said.lower,
                upper=said.upper,
                p_fail=said.p,
                p_fail_holm=said.p_holm,
                verdict=said.verdict,
                reason=said.reason,
                n_needed=said.n_needed,
                grows=said.grows,
                required=(feature, value) in required,
            )
        )
    return results


@dataclass
class _Said:
    """What is said of a group."""

    verdict: str
    reason: str | None = None
    lower: float | None = None
    upper: float | None = None
    p: float | None = None
    p_holm: float | None = None
    n_needed: int | None = None
    grows: str | None = None


def _said(
    measured: tuple[int, int],
    n: int,
    found: Answers,
    row: int,
    gate: str,
    eps: float,
    waiver: Waiver | None,
) -> _Said:
    said = _Said(
        verdict=INCONCLUSIVE,
        lower=float(found.lower[row]),
        upper=float(found.upper[row]),
        p=float(found.p[row]),
        p_holm=float(found.p_holm[row]),
    )
    if gate == "point":
        said.verdict = FAIL if _above(measured, eps) else PASS
        if said.verdict == FAIL and waiver is not None and not _above(measured, waiver.eps):
            said.verdict, said.reason = WAIVED, waiver.reason
    elif found.passes[row]:
        said.verdict = PASS
    elif found.fails[row]:
        said.verdict = FAIL
    elif found.waived[row]:
        assert waiver is not None
        said.verdict, said.reason = WAIVED, waiver.reason
    else:
        said.reason = LOW
        if _above(measured, eps):
            said.reason = HIGH
        elif found.too_small[row]:
            said.reason = TOO_SMALL
        if not np.isnan(found.times[row]):
            said.grows = "split" if found.grows[row] else "group"
            said.n_needed = max(1, math.ceil(n * (float(found.times[row]) - 1) + 1e-6))
    return said


def _split_result(
    split: _Counted,
    grouping: Grouping,
    groups: Sequence[GroupResult],
    policy: Policy,
    seed: int | None,
) -> SplitResult:
    psi = {g: found.excess_gap for g, found in enumerate(groups) if found.excess_gap is not None}
    worst = max(psi, key=lambda g: psi[g], default=None)
    chance = None
    if seed is not None and split.gated and split.clusters is None:
        chance = _chance(split, policy, seed)
    decided = np.array([group.verdict in CONCLUSIVE for group in groups], bool)
    coverage = float(decided[split.ids].any(axis=1).mean()) if split.gated and split.total else None
    accuracies = [group.acc_dense for group in groups if group.acc_dense is not None]
    sparse_accuracies = [group.acc_sparse for group in groups if group.acc_sparse is not None]
    changed = split.pair.changed
    lost, gained = int(split.lost.sum()), int(split.gained.sum())
    return SplitResult(
        split=split.pair.split,
        gated=split.gated,
        n=split.total,
        clusters=None if split.clusters is None else len(np.unique(split.clusters)),
        lost=lost,
        gained=gained,
        lateral=None if changed is None else int(changed.sum()) - lost - gained,
        acc_dense=int(split.pair.dense.sum()) / max(split.total, 1),
        acc_sparse=int(split.pair.sparse.sum()) / max(split.total, 1),
        gap=split.net / max(split.total, 1),
        max_excess_gap=None if worst is None else psi[worst],
        worst_group=None if worst is None else "=".join(grouping.names[worst]),
        pairwise_disparity=_pairwise(split, psi, grouping),
        worst_accuracy_dense=min(accuracies, default=None),
        worst_accuracy_sparse=min(sparse_accuracies, default=None),
        noise_floor=chance.noise_floor if chance else None,
        between_group_variance=_variance(split, grouping),
        omnibus_p=chance.omnibus_p if chance else None,
        coverage=coverage,
    )


def _chance(split: _Counted, policy: Policy, seed: int) -> Chance | None:
    scale = np.ones(len(split.n))
    if policy.against == "rest":
        scale = np.where(split.decidable, split.total / np.maximum(split.total - split.n, 1), 0.0)
    return by_chance(split.ids, len(split.n), split.lost, split.gained, seed, scale)


def _variance(split: _Counted, grouping: Grouping) -> float | None:
    """Between the groups of a feature beyond sampling noise, the mean over features."""
    if split.pair.clusters is not None:  # images that belong together have more noise than counted
        return None
    features = grouping.feature_of.numpy()
    own = [features == f for f in range(len(grouping.features))]
    found = [
        float(between_group_variance(split.n[of], split.n_lost[of], split.n_gained[of]))
        for of in own
    ]
    return None if np.isnan(found).any() else float(np.mean(found))


def _pairwise(split: _Counted, psi: dict[int, float], grouping: Grouping) -> float | None:
    """The largest difference of two psi within a feature, exactly."""
    by_feature: dict[str, list[int]] = {}
    for g in psi:
        by_feature.setdefault(grouping.names[g][0], []).append(g)
    spreads = []
    for found in by_feature.values():
        worst, best = max(found, key=lambda g: psi[g]), min(found, key=lambda g: psi[g])
        spreads.append(
            Fraction(*split.exact(worst, "overall")) - Fraction(*split.exact(best, "overall"))
        )
    return float(max(spreads)) if spreads else None


def _checks(splits: Sequence[_Counted], grouping: Grouping, policy: Policy) -> list[Check]:
    """What is asked beside psi: a pair of models that is equally bad everywhere has psi 0."""
    found = []
    if policy.max_drop is not None:
        found += [_drop(split, policy.max_drop, policy) for split in splits if split.total]
    if policy.min_accuracy is not None:
        found += _floors(splits, grouping, policy.min_accuracy, policy)
    return found


def _drop(split: _Counted, limit: float, policy: Policy) -> Check:
    lost, gained = int(split.lost.sum()), int(split.gained.sum())
    by = 1.0
    if split.clusters is not None:
        everybody = np.zeros((split.total, 1), np.int64)
        change = split.lost.astype(float) - split.gained
        by = float(mean_effects(change, everybody, split.clusters, 1, policy.alpha)[0])
    counts = (lost / by, gained / by, split.total / by)
    low, high = (
        exact(*counts, policy.alpha)
        if policy.interval == "exact"
        else tango(*counts, quantile_of(policy.alpha))
    )
    if policy.gate == "point":
        verdict = FAIL if _above((split.net, split.total), limit) else PASS
    else:
        verdict = PASS if high <= limit else FAIL if low > limit else INCONCLUSIVE
    return Check(
        name="max_drop",
        split=split.pair.split,
        group=None,
        value=split.net / split.total,
        lower=float(low),
        upper=float(high),
        limit=limit,
        verdict=verdict,
    )


def _floors(
    splits: Sequence[_Counted], grouping: Grouping, limit: float, policy: Policy
) -> list[Check]:
    """The accuracy of every group; PASS for each at alpha, FAIL after Holm's correction."""
    rows, n, right = [], [], []
    for split in splits:
        present = np.flatnonzero(split.n > 0)
        by = np.ones(len(split.n))
        if split.clusters is not None:
            answers_ = split.pair.sparse.numpy().astype(float)
            by = mean_effects(answers_, split.ids, split.clusters, len(split.n), policy.alpha)
        rows += [(split, g) for g in present.tolist()]
        n.append(split.n[present] / by[present])
        right.append(split.n_sparse[present] / by[present])
    if not rows:
        return []
    total: Numbers = np.concatenate(n)
    count: Numbers = np.concatenate(right)
    low, high = clopper_pearson(count, total, policy.alpha)
    # So few right ones or fewer, if the accuracy were what is asked.
    tail = special.betaincc(count + 1, np.maximum(total - count, 1e-300), limit)
    p = holm(np.asarray(tail, np.float64))
    found = []
    for i, (split, g) in enumerate(rows):
        if policy.gate == "point":
            measured = (-int(split.n_sparse[g]), int(split.n[g]))
            verdict = FAIL if _above(measured, -limit) else PASS
        else:
            verdict = PASS if low[i] >= limit else FAIL if p[i] <= policy.alpha else INCONCLUSIVE
        found.append(
            Check(
                name="min_accuracy",
                split=split.pair.split,
                group="=".join(grouping.names[g]),
                value=int(split.n_sparse[g]) / int(split.n[g]),
                lower=float(low[i]),
                upper=float(high[i]),
                limit=limit,
                verdict=verdict,
            )
        )
    return found


def _above(measured: tuple[int, int], limit: float) -> bool:
    """Whether a fraction is above a limit as it is written: 0.1 is a tenth."""
    exactly = _rational(limit)
    return measured[0] * exactly.denominator > exactly.numerator * measured[1]


@lru_cache
def _rational(limit: float) -> Fraction:
    return Fraction(repr(float(limit)))


def counted(pair: Paired, grouping: Grouping, gated: bool) -> tuple[Counts, Integers]:
    """The groups of a split that can be judged, as the bounds take them.

    Args:
        pair: Both models' answers.
        grouping: The sensitive features and their groups.
        gated: Whether images that belong together count as fewer, as they do for a verdict.

    Returns:
        The counts, and the numbers of the groups: those that have images and are not everybody.
    """
    split = _counted(pair, grouping, gated)
    return split.counts(split.decidable), np.flatnonzero(split.decidable)
