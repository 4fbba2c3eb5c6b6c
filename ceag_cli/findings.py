"""What an audit found, as plain data: groups, splits, further bounds, and the verdict on all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ceag_cli.data import Duplicate, of_duplicates
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
IDENTICAL = "identical_models"


@dataclass(frozen=True)
class GroupResult:
    """One group in one split. Fractions; ``None`` where there is nothing to say."""

    split: str
    feature: str
    value: str
    n: int
    n_effective: float | None
    """How many images of different clusters say as much; ``None`` without clusters."""
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
    """Corrected for the number of groups: FAIL, unless waived, where it is at most alpha."""
    verdict: str
    reason: str | None
    """Why it is INCONCLUSIVE or WAIVED, or PASS without a bound."""
    n_needed: int | None
    """How many more images of the group, with its rates, would decide it; ``None`` if no number
    would."""
    grows: str | None
    """What has to grow for that: the ``group``, all others as they are, or the whole ``split``,
    every group by as many times; that is where the group would else outgrow all others."""
    required: bool

    @property
    def beyond_by_itself(self) -> bool:
        """Whether it would be FAIL, were there no other groups to correct for."""
        lower = self.lower if self.verdict == INCONCLUSIVE else None
        return lower is not None and lower > self.eps


@dataclass(frozen=True)
class SplitResult:
    """One split as a whole."""

    split: str
    gated: bool
    """Whether the verdict depends on this split; train is only described."""
    n: int
    clusters: int | None
    """Number of persons or the like that the images are of, where that is known."""
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
    """Largest psi (gap against the rest, if that is gated) to be expected if there were no
    disparity at all; not known with clusters."""
    between_group_variance: float | None
    """Variance of psi between groups beyond sampling noise, weighted by size, the mean over the
    features; may be negative; not known with clusters."""
    omnibus_p: float | None
    """Of "there is no disparity at all"; not known with clusters."""
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
    """Number of distinct groups that the correction is over."""
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

    def gated_gap(self, group: GroupResult) -> float | None:
        """What is compared with eps: psi, or the gap against the rest where that is gated."""
        return group.gap_vs_rest if self.policy.against == "rest" else group.excess_gap

    def verdicts_by_group(self) -> dict[tuple[str, str], set[str]]:
        """Those of all gated splits, by feature and value."""
        gated = {split.split for split in self.splits if split.gated}
        found: dict[tuple[str, str], set[str]] = {}
        for group in self.groups:
            if group.split in gated:
                found.setdefault((group.feature, group.value), set()).add(group.verdict)
        return found

    def by_split(self, split: str) -> list[GroupResult]:
        """Groups of a split, worst first; groups without images last."""
        groups = [group for group in self.groups if group.split == split]
        return sorted(
            groups,
            key=lambda group: (
                group.excess_gap is None,
                {FAIL: 0, WAIVED: 1}.get(group.verdict, 2),
                -(self.gated_gap(group) or 0.0) if group.lower is None else -group.lower,
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
    dataset: Mapping[str, Any] | None = None
    """The data set of timm that the images come from, where that is not the CSV's own files."""
    pairing: tuple[str, ...] = ()
    """What a reader has to know of models and groups that do not belong together by their
    metadata, in sentences."""
    duplicates: tuple[Duplicate, ...] | None = None
    """Images that are byte for byte in an earlier split, too; ``None`` where nobody has looked."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was noticed about the files before anything was counted, in sentences."""
        return (*self.pairing, *of_duplicates(len(self.duplicates or ())))

    @property
    def files(self) -> list[Path]:
        """What the audit has read, as far as it is files."""
        images = self.dataset["root"] if self.dataset is not None else None
        named = (self.dense, self.sparse, self.groups, self.predictions, images)
        return [Path(name) for name in named if name is not None]
