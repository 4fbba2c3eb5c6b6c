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
                  pass even if nothing had changed, else ``low``
    WAIVED        it would be FAIL, and that is accepted for now
    NO_DATA       the group has no images
    REFERENCE     the group is everybody, so that psi is 0 by definition

PASS of all groups together needs no correction: all of them have to pass (intersection-union test,
Berger 1982). With the gate ``point`` the measured psi itself is compared, as the paper does.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ceag_cli.chance import by_chance
from ceag_cli.groups import Grouping
from ceag_cli.intervals import (
    Counts,
    clopper_pearson,
    holm,
    p_values,
    psi_bounds,
    quantile_of,
    tango,
)
from ceag_cli.policy import Policy

SCHEMA_VERSION = 2

PASS, FAIL, INCONCLUSIVE, WAIVED, NO_DATA, DESCRIPTIVE, REFERENCE = (
    "PASS",
    "FAIL",
    "INCONCLUSIVE",
    "WAIVED",
    "NO_DATA",
    "DESCRIPTIVE",
    "REFERENCE",
)
CONCLUSIVE = (PASS, FAIL, WAIVED)

HIGH, LOW, TOO_SMALL = "high", "low", "too_small"

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


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


@dataclass(frozen=True)
class GroupResult:
    """One group in one split. Fractions; ``None`` where there is nothing to say."""

    split: str
    feature: str
    value: str
    n: int
    lost: int
    gained: int
    lateral: int | None
    """Images that both get wrong, each in its own way."""
    acc_dense: float | None
    acc_sparse: float | None
    gap: float | None
    excess_gap: float | None
    gap_vs_rest: float | None
    """Its gap less that of all other images."""
    eps: float
    """What is allowed of this group."""
    lower: float | None
    """One-sided bound at alpha, of psi (of the gap against the rest, if that is gated)."""
    upper: float | None
    p_fail: float | None
    """Of "psi is at most eps"."""
    p_fail_holm: float | None
    """Corrected for the number of groups."""
    verdict: str
    reason: str | None
    """Why it is INCONCLUSIVE or WAIVED."""
    n_needed: int | None
    """How many more images, with the same rates, would decide it; ``None`` if no number would."""
    required: bool


@dataclass(frozen=True)
class SplitResult:
    """One split as a whole."""

    split: str
    gated: bool
    """Whether the verdict depends on this split; train is only described."""
    n: int
    lost: int
    gained: int
    lateral: int | None
    acc_dense: float
    acc_sparse: float
    gap: float
    max_excess_gap: float | None
    worst_group: str | None
    """``feature=value`` of the group with the largest psi."""
    pairwise_disparity: float | None
    """Largest psi minus smallest psi within a feature."""
    worst_accuracy_dense: float | None
    """Smallest accuracy in any group."""
    worst_accuracy_sparse: float | None
    noise_floor: float | None
    """Largest psi to be expected if there were no disparity at all."""
    omnibus_p: float | None
    """Of "there is no disparity at all"."""
    coverage: float | None
    """Share of the images that lie in a group with a verdict."""


@dataclass(frozen=True)
class Check:
    """A bound on something else than psi, in a gated split."""

    name: str
    """``max_drop`` or ``min_accuracy``."""
    split: str
    group: str | None
    """``feature=value``; ``None`` for all images."""
    value: float
    lower: float
    upper: float
    limit: float
    verdict: str


@dataclass(frozen=True)
class AuditResult:
    """What an audit found."""

    policy: Policy
    family_size: int
    """Number of distinct groups that Holm's correction is over."""
    verdict: str
    exit_code: int
    """0 satisfied, 1 violation, 3 not decided where that counts as failure."""
    reasons: tuple[str, ...]
    """Why the verdict is what it is, in sentences."""
    warnings: tuple[str, ...]
    splits: tuple[SplitResult, ...]
    groups: tuple[GroupResult, ...]
    checks: tuple[Check, ...] = ()
    clustered: bool = False
    """Whether the bounds are widened for images that belong together, and so are approximate."""

    @property
    def eps(self) -> float:
        """Largest excess accuracy gap, where no group has its own."""
        return self.policy.eps

    @property
    def gate(self) -> str:
        """The gate."""
        return self.policy.gate

    def by_split(self, split: str) -> list[GroupResult]:
        """Groups of a split, worst first; groups without images last."""
        groups = [group for group in self.groups if group.split == split]
        return sorted(
            groups,
            key=lambda group: (
                group.excess_gap is None,
                {FAIL: 0, WAIVED: 1}.get(group.verdict, 2),
                -(group.excess_gap or 0.0) if group.lower is None else -group.lower,
                group.feature,
                group.value,
            ),
        )


@dataclass(frozen=True)
class Subject:
    """Which files an audit is about."""

    dense: str
    """A file, or what else the answers come from."""
    dense_sha256: str | None
    """``None`` where only answers are at hand."""
    sparse: str
    sparse_sha256: str | None
    architecture: str | None
    sparsity: float | None
    """Fraction removed; ``None`` where the file does not say."""
    method: str | None
    """How the sparse model was fine-tuned; ``None`` when it was not, or not by ceag."""
    groups: str
    groups_sha256: str
    label_column: str
    groups_by: str
    missing: str = "error"
    """What was done with images that have no group: error, group or drop."""
    dropped: int = 0
    """Images that were left out since they have none."""
    cluster_id: str | None = None
    """Column that tells which images belong together."""
    predictions: str | None = None
    """The table of answers, where no model was at hand."""
    predictions_sha256: str | None = None

    @property
    def files(self) -> list[Path]:
        """What the audit has read, as far as it is files."""
        named = (self.dense, self.sparse, self.groups, self.predictions)
        return [Path(name) for name in named if name is not None]


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
    effect: Numbers
    """By how much clusters make a group's images fewer than they look; 1 without clusters."""

    @property
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

    def exact(self, g: int, against: str) -> Fraction:
        """Psi of a group, or its gap less that of the rest, as a rational number."""
        n, net = int(self.n[g]), int(self.n_lost[g] - self.n_gained[g])
        if against == "rest":
            return Fraction(net, n) - Fraction(self.net - net, self.total - n)
        return Fraction(net, n) - Fraction(self.net, self.total)


def audit(
    pairs: Sequence[Paired],
    grouping: Grouping,
    policy: Policy,
    gated: Sequence[str] = ("test",),
    *,
    seed: int = 0,
    today: datetime.date | None = None,
) -> AuditResult:
    """Compare two models by group.

    Args:
        pairs: Both models' answers, one entry per split.
        grouping: The sensitive features and their groups.
        policy: What is asked.
        gated: The splits that the verdict depends on. A split that a model was fitted or chosen on
            is described, never gated.
        seed: Of the noise floor and the omnibus test.
        today: For waivers; the present day.
    """
    today = today or datetime.date.today()
    policy.check_groups(grouping.names)
    warnings = policy.warnings(grouping.names, today)
    pairs, grouping = _declared(pairs, grouping, policy)
    splits = [_counted(pair, grouping, pair.split in gated) for pair in pairs]
    judged = _Judged.of(splits, grouping, policy)
    groups = [
        result
        for split in splits
        for result in _group_results(split, grouping, policy, judged, today)
    ]
    checks = tuple(
        check for split in splits if split.gated for check in _checks(split, grouping, policy)
    )
    summaries = tuple(
        _split_result(split, grouping, [g for g in groups if g.split == split.pair.split], seed)
        for split in splits
    )
    verdict, code, reasons = _overall(policy, summaries, groups, checks)
    return AuditResult(
        policy=policy,
        family_size=judged.family_size,
        verdict=verdict,
        exit_code=code,
        reasons=tuple(reasons),
        warnings=(*warnings, *_warnings(policy, summaries, groups)),
        splits=summaries,
        groups=tuple(groups),
        checks=checks,
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
    counted = _Counted(
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
        effect=np.ones(number),
    )
    if pair.clusters is not None and gated:
        counted.effect = _design_effects(counted, pair.clusters.numpy(), number)
    return counted


def _design_effects(split: _Counted, clusters: Integers, number: int) -> Numbers:
    """How many times larger the variance of psi is because images come in clusters; at least 1.

    Variance of the mean of psi's influence function over clusters, over that over images. Counts
    divided by it go through the same intervals (Rao and Scott 1992). A group in which nothing
    changed has no variance to compare; its images count as one a cluster.
    """
    change = split.lost.astype(float) - split.gained
    _, cluster = np.unique(clusters, return_inverse=True)
    cluster = cluster.reshape(-1)
    deviation = change - change.mean()
    whole = np.bincount(cluster, deviation)
    k = len(whole)
    effect = np.ones(number)
    for ids in split.ids.T:
        key, where = np.unique(cluster * number + ids, return_inverse=True)
        group_of, cluster_of = key % number, key // number
        sums = np.bincount(where.reshape(-1), change)
        sizes = np.bincount(where.reshape(-1))
        n = np.bincount(ids, minlength=number)
        mean = np.bincount(ids, change, number) / np.maximum(n, 1)
        share = np.maximum(n, 1) / split.total
        inside = sums - sizes * mean[group_of]
        crossed = inside * whole[cluster_of]
        by_cluster = (
            np.bincount(group_of, inside**2, number) / share**2
            - 2 * np.bincount(group_of, crossed, number) / share
            + (whole**2).sum()
        ) * (k / max(k - 1, 1))
        own = np.bincount(ids, (change - mean[ids]) ** 2, number)
        by_image = own / share**2 - 2 * own / share + (deviation**2).sum()
        ratio = np.divide(by_cluster, by_image, out=np.ones(number), where=by_image > 1e-12)
        still = own <= 1e-12
        per_cluster = n / np.maximum(np.bincount(group_of, minlength=number), 1)
        ratio = np.where(still, np.maximum(ratio, per_cluster), ratio)
        present = n > 0
        effect[present] = np.maximum(ratio, 1.0)[present]
    return effect


@dataclass
class _Judged:
    """Bounds and p-values of the groups of all gated splits."""

    family_size: int
    lower: dict[str, Numbers]
    upper: dict[str, Numbers]
    p: dict[str, Numbers]
    p_holm: dict[str, Numbers]
    too_small: dict[str, Flags]
    needed: dict[str, Numbers]

    @classmethod
    def of(cls, splits: Sequence[_Counted], grouping: Grouping, policy: Policy) -> _Judged:
        judged = cls(0, {}, {}, {}, {}, {}, {})
        z = quantile_of(policy.alpha)
        number = grouping.num_groups
        eps = np.array([policy.eps_of(name) for name in grouping.names], float)
        required = np.array([name in policy.required for name in grouping.names], bool)
        tested: list[tuple[str, int]] = []
        seen: set[tuple[str, bool, int, int]] = set()
        same_as: dict[tuple[str, int], tuple[str, int]] = {}
        for split in splits:
            name, chosen = split.pair.split, split.decidable & split.gated
            bounds = np.full((2, number), np.nan)
            p = np.ones(number)
            small = np.zeros(number, bool)
            if chosen.any():
                counts = split.counts(chosen)
                arguments = (policy.interval, policy.against)
                _, bounds[0, chosen], bounds[1, chosen] = psi_bounds(counts, z, *arguments)
                p[chosen] = p_values(counts, eps[chosen], *arguments)
                _, _, best = psi_bounds(counts.without_change(), z, *arguments)
                small[chosen] = best > eps[chosen]
                members = _memberships(split, number)
                first: dict[tuple[bool, int, int], tuple[str, int]] = {}
                for g in np.flatnonzero(chosen).tolist():
                    # Groups of the same images are one test.
                    key = (bool(required[g]), int(split.n[g]), int(members[g]))
                    same_as[name, g] = first.setdefault(key, (name, g))
                    if (name, *key) not in seen:
                        seen.add((name, *key))
                        tested.append((name, g))
            judged.lower[name], judged.upper[name] = bounds
            judged.p[name], judged.too_small[name] = p, small
            judged.p_holm[name] = np.ones(number)
        # Groups that must pass are a family of their own.
        for family in (True, False):
            some = [(name, g) for name, g in tested if bool(required[g]) is family]
            adjusted = holm(np.array([judged.p[name][g] for name, g in some]))
            found = dict(zip(some, adjusted.tolist(), strict=True))
            judged.family_size = max(judged.family_size, len(some))
            for (name, g), original in same_as.items():
                if original in found:
                    judged.p_holm[name][g] = found[original]
        for split in splits:
            judged.needed[split.pair.split] = _needed(split, judged, policy, eps)
        return judged


def _memberships(split: _Counted, number: int) -> Integers:
    """A number for the set of images of each group: equal for equal sets."""
    random = np.random.default_rng(0).integers(2**62, size=split.total)
    found = np.zeros(number, np.int64)
    for ids in split.ids.T:
        np.bitwise_xor.at(found, ids, random)
    return found


def _needed(split: _Counted, judged: _Judged, policy: Policy, eps: Numbers) -> Numbers:
    """How many times its images each undecided group would need for a verdict, as things stand.

    The rates of the group, its weight in psi, and the rest of the images stay as they are: towards
    PASS where psi is at most eps, else towards FAIL. NaN where no number would do.
    """
    name, number = split.pair.split, len(eps)
    times = np.full(number, np.nan)
    open_ = (
        split.decidable
        & split.gated
        & ~(judged.upper[name] <= eps)
        & ~(judged.p_holm[name] <= policy.alpha)
    )
    if not open_.any():
        return times
    counts, limit = split.counts(open_), eps[open_]
    arguments = (policy.interval, policy.against)
    psi = psi_bounds(counts, 0.0, *arguments)[0]
    high = psi > limit
    corrected = quantile_of(policy.alpha / max(judged.family_size, 1))
    z = np.where(high, corrected, quantile_of(policy.alpha))

    def undecided(log_times: Numbers) -> Flags:
        _, lower, upper = psi_bounds(counts, z, *arguments, grown=np.exp(log_times))
        found: Flags = np.where(high, lower <= limit, upper > limit)
        return found

    low, top = np.zeros(len(limit)), np.full(len(limit), np.log(1e6))
    never = undecided(top)
    for _ in range(30):
        middle = (low + top) / 2
        still = undecided(middle)
        low, top = np.where(still, middle, low), np.where(still, top, middle)
    times[open_] = np.where(never, np.nan, np.exp(top))
    return times


def _group_results(
    split: _Counted, grouping: Grouping, policy: Policy, judged: _Judged, today: datetime.date
) -> list[GroupResult]:
    name = split.pair.split
    lower, upper = judged.lower[name], judged.upper[name]
    p, p_holm = judged.p[name], judged.p_holm[name]
    needed, small = judged.needed[name], judged.too_small[name]
    decidable = split.decidable
    results = []
    for g, (feature, value) in enumerate(grouping.names):
        n, eps = int(split.n[g]), policy.eps_of((feature, value))
        tested = split.gated and bool(decidable[g])
        verdict, reason, more = NO_DATA if split.gated else DESCRIPTIVE, None, None
        psi = split.exact(g, "overall") if n else None
        if tested:
            measured = split.exact(g, policy.against)
            limit = Fraction(repr(eps))
            if policy.gate == "point":
                verdict = PASS if measured <= limit else FAIL
            elif upper[g] <= eps:
                verdict = PASS
            elif p_holm[g] <= policy.alpha:
                verdict = FAIL
            else:
                verdict = INCONCLUSIVE
                reason = HIGH if measured > limit else TOO_SMALL if small[g] else LOW
                if not np.isnan(needed[g]):
                    more = max(1, int(np.ceil(n * (needed[g] - 1) - 1e-6)))
            waiver = policy.waiver_of((feature, value), today)
            if waiver is not None and verdict == FAIL:
                beyond = measured > Fraction(repr(waiver.eps))
                if policy.gate != "point":
                    beyond = bool(lower[g] > waiver.eps)
                if not beyond:
                    verdict, reason = WAIVED, waiver.reason
        elif split.gated and n:
            verdict = REFERENCE
        whole = n == split.total
        results.append(
            GroupResult(
                split=name,
                feature=feature,
                value=value,
                n=n,
                lost=int(split.n_lost[g]),
                gained=int(split.n_gained[g]),
                lateral=None if split.n_lateral is None else int(split.n_lateral[g]),
                acc_dense=int(split.n_dense[g]) / n if n else None,
                acc_sparse=int(split.n_sparse[g]) / n if n else None,
                gap=(int(split.n_lost[g]) - int(split.n_gained[g])) / n if n else None,
                excess_gap=None if psi is None else float(psi),
                gap_vs_rest=float(split.exact(g, "rest")) if n and not whole else None,
                eps=eps,
                lower=float(lower[g]) if tested else None,
                upper=float(upper[g]) if tested else None,
                p_fail=float(p[g]) if tested else None,
                p_fail_holm=float(p_holm[g]) if tested else None,
                verdict=verdict,
                reason=reason,
                n_needed=more,
                required=(feature, value) in policy.required,
            )
        )
    return results


def _split_result(
    split: _Counted, grouping: Grouping, groups: Sequence[GroupResult], seed: int
) -> SplitResult:
    exact = {g: split.exact(g, "overall") for g in range(len(groups)) if split.n[g]}
    worst = max(exact, key=lambda g: exact[g], default=None)
    chance = None
    if split.gated:
        chance = by_chance(split.ids, grouping.num_groups, split.lost, split.gained, seed)
    decided = np.array([group.verdict in CONCLUSIVE for group in groups], bool)
    coverage = float(decided[split.ids].any(axis=1).mean()) if split.gated and split.total else None
    accuracies = [group.acc_dense for group in groups if group.acc_dense is not None]
    sparse_accuracies = [group.acc_sparse for group in groups if group.acc_sparse is not None]
    changed = split.pair.changed
    return SplitResult(
        split=split.pair.split,
        gated=split.gated,
        n=split.total,
        lost=int(split.lost.sum()),
        gained=int(split.gained.sum()),
        lateral=None
        if changed is None
        else int(changed.sum()) - int(split.lost.sum()) - int(split.gained.sum()),
        acc_dense=int(split.pair.dense.sum()) / max(split.total, 1),
        acc_sparse=int(split.pair.sparse.sum()) / max(split.total, 1),
        gap=float(Fraction(split.net, max(split.total, 1))),
        max_excess_gap=None if worst is None else float(exact[worst]),
        worst_group=None if worst is None else "=".join(grouping.names[worst]),
        pairwise_disparity=_pairwise(exact, grouping),
        worst_accuracy_dense=min(accuracies, default=None),
        worst_accuracy_sparse=min(sparse_accuracies, default=None),
        noise_floor=chance.noise_floor if chance else None,
        omnibus_p=chance.omnibus_p if chance else None,
        coverage=coverage,
    )


def _pairwise(exact: dict[int, Fraction], grouping: Grouping) -> float | None:
    by_feature: dict[str, list[Fraction]] = {}
    for g, psi in exact.items():
        by_feature.setdefault(grouping.names[g][0], []).append(psi)
    spreads = [max(values) - min(values) for values in by_feature.values()]
    return float(max(spreads)) if spreads else None


def _checks(split: _Counted, grouping: Grouping, policy: Policy) -> list[Check]:
    """What is asked beside psi: a pair of models that is equally bad everywhere has psi 0."""
    found = []
    z = quantile_of(policy.alpha)
    if policy.max_drop is not None and split.total:
        low, high = tango(int(split.lost.sum()), int(split.gained.sum()), split.total, z)
        found.append(
            Check(
                name="max_drop",
                split=split.pair.split,
                group=None,
                value=split.net / split.total,
                lower=float(low),
                upper=float(high),
                limit=policy.max_drop,
                verdict=_judge(
                    split.net / split.total, float(low), float(high), policy.max_drop, policy.gate
                ),
            )
        )
    if policy.min_accuracy is not None and (split.n > 0).any():
        present = split.n > 0
        share = policy.alpha / int(present.sum())  # some group is below: any of them may be
        accuracy = split.n_sparse[present] / split.n[present]
        low, _ = clopper_pearson(split.n_sparse[present], split.n[present], policy.alpha)
        _, high = clopper_pearson(split.n_sparse[present], split.n[present], share)
        for i, g in enumerate(np.flatnonzero(present).tolist()):
            # Errors in place of accuracies, so that both kinds of check have an upper limit.
            verdict = _judge(
                1 - accuracy[i], 1 - high[i], 1 - low[i], 1 - policy.min_accuracy, policy.gate
            )
            found.append(
                Check(
                    name="min_accuracy",
                    split=split.pair.split,
                    group="=".join(grouping.names[g]),
                    value=float(accuracy[i]),
                    lower=float(low[i]),
                    upper=float(high[i]),
                    limit=policy.min_accuracy,
                    verdict=verdict,
                )
            )
    return found


def _judge(value: float, lower: float, upper: float, limit: float, gate: str) -> str:
    if gate == "point":
        return PASS if value <= limit + 1e-12 else FAIL
    if upper <= limit:
        return PASS
    return FAIL if lower > limit else INCONCLUSIVE


def _overall(
    policy: Policy,
    splits: Sequence[SplitResult],
    groups: Sequence[GroupResult],
    checks: Sequence[Check],
) -> tuple[str, int, list[str]]:
    """The verdict on everything, the exit code, and why."""
    gated = {split.split for split in splits if split.gated}
    counted = [g for g in groups if g.split in gated and g.verdict != REFERENCE]

    def some(verdict: str) -> list[str]:
        names = [_name(g, gated) for g in counted if g.verdict == verdict]
        return names + [_check_name(c) for c in checks if c.verdict == verdict]

    failed, open_ = some(FAIL), some(INCONCLUSIVE)
    missing = [_name(g, gated) for g in counted if g.required and g.verdict == NO_DATA]
    undecided = [_name(g, gated) for g in counted if g.required and g.verdict == INCONCLUSIVE]
    decided = [g for g in counted if g.verdict in CONCLUSIVE]
    reasons = []
    if failed:
        kind = "psi is above eps" if policy.gate == "point" else "a violation is shown"
        return FAIL, 1, [f"{kind} for {_listed(failed)}"]
    if missing:
        reasons.append(f"required, but without images: {_listed(missing)}")
    if undecided:
        reasons.append(f"required, but not decided: {_listed(undecided)}")
    if not decided:
        reasons.append("no group has a verdict, so nothing is shown")
        return (INCONCLUSIVE if open_ else NO_DATA), 3, reasons
    if reasons:
        return INCONCLUSIVE, 3, reasons
    thin = [s for s in splits if s.gated and s.coverage is not None]
    for split in thin:
        assert split.coverage is not None
        if split.coverage < policy.min_coverage:
            reasons.append(
                f"groups with a verdict hold {split.coverage:.0%} of the images of {split.split}, "
                f"less than {policy.min_coverage:.0%}"
            )
    if reasons:
        return INCONCLUSIVE, 3, reasons
    if open_:
        reasons.append(f"not decided: {_listed(open_)}")
        return INCONCLUSIVE, 3 if policy.gate == "strict" else 0, reasons
    waived = some(WAIVED)
    if waived:
        reasons.append(f"accepted for now: {_listed(waived)}")
    empty = some(NO_DATA)
    if empty:
        reasons.append(f"without images: {_listed(empty)}")
        if policy.gate == "strict":
            return INCONCLUSIVE, 3, reasons
    return PASS, 0, reasons


def _name(group: GroupResult, gated: set[str]) -> str:
    name = f"{group.feature}={group.value}"
    return f"{name} ({group.split})" if len(gated) > 1 else name


def _check_name(check: Check) -> str:
    return f"--{check.name.replace('_', '-')}" + (f" of {check.group}" if check.group else "")


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _warnings(
    policy: Policy, splits: Sequence[SplitResult], groups: Sequence[GroupResult]
) -> list[str]:
    found = []
    for split in splits:
        if split.gated and policy.gate == "point" and (split.noise_floor or 0) > policy.eps:
            found.append(
                f"{split.split}: without any disparity the largest psi would be about "
                f"{100 * (split.noise_floor or 0):.1f} points, which is more than eps: the verdict "
                "is mostly noise"
            )
    small = [g for g in groups if g.reason == TOO_SMALL]
    if small:
        names = _listed([f"{g.feature}={g.value}" for g in small])
        found.append(f"too few images to pass at this eps, whatever the models do: {names}")
    if policy.eps == 0 and policy.gate != "point":
        found.append("eps is 0: no number of images can show that psi is at most 0 by a margin")
    return found
