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

import numpy as np
import torch

from ceag_cli.chance import Chance, by_chance
from ceag_cli.clauses import Group, Waiver
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
    GroupResult,
    SplitResult,
)
from ceag_cli.floors import checks_of
from ceag_cli.groups import Grouping
from ceag_cli.heterogeneity import between_group_variance
from ceag_cli.intervals import Counts
from ceag_cli.judging import Answers, Questions, above, answers, same_images
from ceag_cli.paired import Counted, Paired
from ceag_cli.policy import Policy
from ceag_cli.verdict import corrected, overall, warnings_of


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
    splits = [Counted.of(pair, grouping, pair.split in gated) for pair in pairs]
    found = {waiver.group: policy.waiver_of(waiver.group, today) for waiver in policy.waivers}
    waivers = {group: waiver for group, waiver in found.items() if waiver is not None}
    judged = _judged(splits, grouping, policy, waivers)
    groups: list[GroupResult] = []
    summaries = []
    for split in splits:
        of_split = _group_results(split, grouping, policy, judged, waivers, identical)
        groups += of_split
        summaries.append(_split_result(split, grouping, of_split, policy, seed))
    checks = checks_of([split for split in splits if split.gated], grouping, policy)
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


def _judged(
    splits: Sequence[Counted],
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
    split: Counted,
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
        said.verdict = FAIL if above(measured, eps) else PASS
        if said.verdict == FAIL and waiver is not None and not above(measured, waiver.eps):
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
        if above(measured, eps):
            said.reason = HIGH
        elif found.too_small[row]:
            said.reason = TOO_SMALL
        if not np.isnan(found.times[row]):
            said.grows = "split" if found.grows[row] else "group"
            said.n_needed = max(1, math.ceil(n * (float(found.times[row]) - 1) + 1e-6))
    return said


def _split_result(
    split: Counted,
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


def _chance(split: Counted, policy: Policy, seed: int) -> Chance | None:
    scale = np.ones(len(split.n))
    if policy.against == "rest":
        scale = np.where(split.decidable, split.total / np.maximum(split.total - split.n, 1), 0.0)
    return by_chance(split.ids, len(split.n), split.lost, split.gained, seed, scale)


def _variance(split: Counted, grouping: Grouping) -> float | None:
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


def _pairwise(split: Counted, psi: dict[int, float], grouping: Grouping) -> float | None:
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
