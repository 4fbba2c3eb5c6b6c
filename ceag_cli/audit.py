"""The audit: a dense and a sparse model compared by group on the same images.

Everything follows from three integers per group, taken over the same images: how many there are
(n), how many the dense model got right and the sparse one wrong (lost), and how many the other way
round (gained).

    gap_g = (lost_g - gained_g) / n_g          psi_g = gap_g - gap

The verdict is the paper's criterion, ``max_g psi_g <= eps`` on the measured values (the policy
``point``). It carries no confidence interval, so ``lower`` and ``upper`` are not filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ceag_cli.groups import Grouping

SCHEMA_VERSION = 1

PASS, FAIL, NO_DATA, DESCRIPTIVE, REFERENCE = (
    "PASS",
    "FAIL",
    "NO_DATA",
    "DESCRIPTIVE",
    "REFERENCE",
)
EXIT_CODES = {PASS: 0, FAIL: 1, NO_DATA: 3}


@dataclass(frozen=True)
class Paired:
    """Correctness of both models on the images of a split, in the same order."""

    split: str
    dense: Tensor
    """bool, shape ``(N,)``."""
    sparse: Tensor
    """bool, shape ``(N,)``."""
    groups: Tensor
    """Group ids, int64, shape ``(N, F)``."""


@dataclass(frozen=True)
class GroupResult:
    """One group in one split. Fractions; ``None`` where there are no images."""

    split: str
    feature: str
    value: str
    n: int
    lost: int
    gained: int
    acc_dense: float | None
    acc_sparse: float | None
    gap: float | None
    excess_gap: float | None
    lower: float | None
    upper: float | None
    verdict: str


@dataclass(frozen=True)
class SplitResult:
    """One split as a whole."""

    split: str
    gated: bool
    """Whether the verdict depends on this split; train is only described."""
    n: int
    lost: int
    gained: int
    acc_dense: float
    acc_sparse: float
    gap: float
    max_excess_gap: float | None
    worst_group: str | None
    """``feature=value`` of the group with the largest psi."""
    pairwise_disparity: float | None
    """Largest psi minus smallest psi within a feature."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found."""

    eps: float
    gate: str
    verdict: str
    splits: tuple[SplitResult, ...]
    groups: tuple[GroupResult, ...]

    @property
    def exit_code(self) -> int:
        """0 satisfied, 1 violation, 3 nothing was audited."""
        return EXIT_CODES[self.verdict]

    def by_split(self, split: str) -> list[GroupResult]:
        """Groups of a split, worst first; groups without images last."""
        groups = [group for group in self.groups if group.split == split]
        return sorted(
            groups,
            key=lambda group: (
                group.excess_gap is None,
                -(group.excess_gap or 0.0),
                group.feature,
                group.value,
            ),
        )


@dataclass(frozen=True)
class Subject:
    """Which files an audit is about."""

    dense: str
    dense_sha256: str
    sparse: str
    sparse_sha256: str
    architecture: str
    sparsity: float | None
    """Fraction removed; ``None`` where the file does not say."""
    method: str | None
    """How the sparse model was fine-tuned; ``None`` when it was not, or not by ceag."""
    groups: str
    groups_sha256: str
    label_column: str
    groups_by: str


def audit(
    pairs: Sequence[Paired], grouping: Grouping, eps: float, gated: Sequence[str] = ("test",)
) -> AuditResult:
    """Compare two models by group.

    Args:
        pairs: Both models' correctness, one entry per split.
        grouping: The sensitive features and their groups.
        eps: Largest psi_g allowed, as a fraction.
        gated: The splits that the verdict depends on. A split that a model was fitted or chosen on
            is described, never gated.

    Returns:
        PASS when every audited group has ``psi_g <= eps`` in every gated split; FAIL when one has
        not; NO_DATA when no group could be audited. Comparisons are exact (rational numbers).
    """
    splits, groups = [], []
    for pair in pairs:
        split, of_split = _audit_split(pair, grouping, eps, pair.split in gated)
        splits.append(split)
        groups += of_split
    verdicts = {group.verdict for group in groups}
    verdict = FAIL if FAIL in verdicts else PASS if PASS in verdicts else NO_DATA
    return AuditResult(eps, "point", verdict, tuple(splits), tuple(groups))


def _audit_split(
    pair: Paired, grouping: Grouping, eps: float, gated: bool
) -> tuple[SplitResult, list[GroupResult]]:
    lost, gained = pair.dense & ~pair.sparse, pair.sparse & ~pair.dense
    total = len(pair.dense)
    overall = Fraction(int(lost.sum()) - int(gained.sum()), max(total, 1))
    features = pair.groups.shape[1]
    ids = pair.groups.reshape(-1)

    def count(flags: Tensor) -> list[int]:
        repeated = flags.long().repeat_interleave(features)
        zeros = torch.zeros(grouping.num_groups, dtype=torch.int64)
        return list(map(int, zeros.index_add(0, ids, repeated).tolist()))

    n, n_lost, n_gained = count(torch.ones_like(lost)), count(lost), count(gained)
    n_dense, n_sparse = count(pair.dense), count(pair.sparse)
    results: list[GroupResult] = []
    exact: dict[int, Fraction] = {}
    limit = Fraction(repr(eps))
    for g, (feature, value) in enumerate(grouping.names):
        verdict = NO_DATA if gated else DESCRIPTIVE
        if n[g]:
            exact[g] = Fraction(n_lost[g] - n_gained[g], n[g]) - overall
            if gated:
                verdict = PASS if exact[g] <= limit else FAIL
            if gated and n[g] == total:  # psi of everybody is 0 by definition
                verdict = REFERENCE
        results.append(
            GroupResult(
                split=pair.split,
                feature=feature,
                value=value,
                n=n[g],
                lost=n_lost[g],
                gained=n_gained[g],
                acc_dense=n_dense[g] / n[g] if n[g] else None,
                acc_sparse=n_sparse[g] / n[g] if n[g] else None,
                gap=(n_lost[g] - n_gained[g]) / n[g] if n[g] else None,
                excess_gap=float(exact[g]) if n[g] else None,
                lower=None,
                upper=None,
                verdict=verdict,
            )
        )
    worst = max(exact, key=lambda g: exact[g], default=None)
    return (
        SplitResult(
            split=pair.split,
            gated=gated,
            n=total,
            lost=int(lost.sum()),
            gained=int(gained.sum()),
            acc_dense=int(pair.dense.sum()) / max(total, 1),
            acc_sparse=int(pair.sparse.sum()) / max(total, 1),
            gap=float(overall),
            max_excess_gap=None if worst is None else float(exact[worst]),
            worst_group=None if worst is None else "=".join(grouping.names[worst]),
            pairwise_disparity=_pairwise(exact, grouping),
        ),
        results,
    )


def _pairwise(exact: dict[int, Fraction], grouping: Grouping) -> float | None:
    by_feature: dict[str, list[Fraction]] = {}
    for g, psi in exact.items():
        by_feature.setdefault(grouping.names[g][0], []).append(psi)
    spreads = [max(values) - min(values) for values in by_feature.values()]
    return float(max(spreads)) if spreads else None
