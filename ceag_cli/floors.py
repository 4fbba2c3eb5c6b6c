"""What an audit asks beside psi: how far accuracy may drop, and how low a group's may be.

A pair of models that is equally bad everywhere has a psi of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from ceag_cli.arrays import Numbers
from ceag_cli.clusters import mean_effects
from ceag_cli.findings import FAIL, INCONCLUSIVE, PASS, Check
from ceag_cli.groups import Grouping
from ceag_cli.intervals import clopper_pearson, exact, holm, quantile_of, tango
from ceag_cli.judging import above
from ceag_cli.paired import Counted
from ceag_cli.policy import Policy


def checks_of(splits: Sequence[Counted], grouping: Grouping, policy: Policy) -> list[Check]:
    """Put what a policy asks beside psi to the gated splits."""
    found = []
    if policy.max_drop is not None:
        found += [_drop(split, policy.max_drop, policy) for split in splits if split.total]
    if policy.min_accuracy is not None:
        found += _floors(splits, grouping, policy.min_accuracy, policy)
    return found


def _drop(split: Counted, limit: float, policy: Policy) -> Check:
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
        verdict = FAIL if above((split.net, split.total), limit) else PASS
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
    splits: Sequence[Counted], grouping: Grouping, limit: float, policy: Policy
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
            verdict = FAIL if above(measured, -limit) else PASS
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
