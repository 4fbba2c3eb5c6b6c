"""An audit as one JSON document, as ``audit.schema.json`` describes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ceag_cli.findings import SCHEMA_VERSION, AuditResult, Check, GroupResult, SplitResult, Subject
from ceag_cli.policy import Policy
from ceag_cli.versions import versions

LISTED = 1000
"""How many of the images that are in several splits a document lists at most."""


def audit_document(
    result: AuditResult,
    subject: Subject,
    version: str,
    seed: int,
    more: Sequence[Mapping[str, Any]] = (),
    explanation: Mapping[str, Any] | None = None,
    exemplars: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An audit as one JSON document: fractions, never percent; ``null`` for what is not known."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": "ceag",
        "version": version,
        "command": "audit",
        "seed": seed,
        "versions": versions(),
        **subject_document(subject),
        "overall": overall_document(result),
        "policy": policy_document(result.policy),
        "inference": {
            "alpha": result.policy.alpha,
            "bounds": "one-sided",
            "interval": result.policy.interval,
            "multiplicity": "holm",
            "family_size": result.family_size,
        },
        "splits": [_fields(split) for split in result.splits],
        "groups": [_fields(group) for group in result.groups],
        "checks": [_fields(check) for check in result.checks],
        "more": [dict(found) for found in more],
        "explanation": None if explanation is None else dict(explanation),
        "exemplars": None if exemplars is None else dict(exemplars),
    }


def subject_document(subject: Subject) -> dict[str, Any]:
    """The files that a result is about, as the entries ``models`` and ``data``."""
    duplicates = subject.duplicates
    return {
        "models": {
            "architecture": subject.architecture,
            "dense": {"path": subject.dense, "sha256": subject.dense_sha256},
            "sparse": {
                "path": subject.sparse,
                "sha256": subject.sparse_sha256,
                "sparsity": subject.sparsity,
                "method": subject.method,
            },
            "remarks": list(subject.pairing),
        },
        "data": {
            "groups_file": subject.groups,
            "groups_file_sha256": subject.groups_sha256,
            "label_column": subject.label_column,
            "groups_by": subject.groups_by,
            "missing": subject.missing,
            "dropped": subject.dropped,
            "cluster_id": subject.cluster_id,
            "predictions": subject.predictions,
            "predictions_sha256": subject.predictions_sha256,
            "dataset": subject.dataset and dict(subject.dataset),
            "duplicates": None if duplicates is None else len(duplicates),
            "duplicate_images": [each._asdict() for each in (duplicates or ())[:LISTED]],
        },
    }


def _fields(result: SplitResult | GroupResult | Check) -> dict[str, Any]:
    """The fields of a result; what is no number becomes ``null``, for JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in vars(result).items()
    }


def overall_document(result: AuditResult) -> dict[str, Any]:
    """The verdict and the gated images as a whole, over all gated splits if there are several.

    Accuracies, gap and coverage are those of all images together; of the largest psi and the noise
    floor it is the largest; the p-value is the smallest, times the number of splits.
    """
    gated = [split for split in result.splits if split.gated and split.n]
    n = sum(split.n for split in gated)

    def together(name: str) -> float | None:
        values: list[float | None] = [getattr(split, name) for split in gated]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        if len(known) == 1:
            return known[0]
        return sum(split.n * value for split, value in zip(gated, known, strict=True)) / n

    def largest(name: str) -> float | None:
        values = [getattr(split, name) for split in gated]
        known = [float(value) for value in values if value is not None]
        return max(known) if known else None

    p = [split.omnibus_p for split in gated if split.omnibus_p is not None]
    return {
        "verdict": result.verdict,
        "gate": result.gate,
        "eps": result.eps,
        "exit_code": result.exit_code,
        "n": n,
        "acc_dense": together("acc_dense"),
        "acc_sparse": together("acc_sparse"),
        "gap": together("gap"),
        "max_excess_gap": largest("max_excess_gap"),
        "noise_floor": largest("noise_floor"),
        "omnibus_p": min(1.0, len(p) * min(p)) if p else None,
        "coverage": together("coverage"),
        "reasons": list(result.reasons),
        "warnings": list(result.warnings),
    }


def policy_document(policy: Policy) -> dict[str, Any]:
    """A policy as JSON."""
    return {
        "eps": policy.eps,
        "alpha": policy.alpha,
        "interval": policy.interval,
        "gate": policy.gate,
        "against": policy.against,
        "max_drop": policy.max_drop,
        "min_accuracy": policy.min_accuracy,
        "min_coverage": policy.min_coverage,
        "eps_by_group": [
            {"feature": feature, "value": value, "eps": eps}
            for (feature, value), eps in policy.eps_by_group.items()
        ],
        "required": [{"feature": feature, "value": value} for feature, value in policy.required],
        "waivers": [
            {
                "feature": waiver.group[0],
                "value": waiver.group[1],
                "eps": waiver.eps,
                "reason": waiver.reason,
                "expires": waiver.expires.isoformat(),
                "owner": waiver.owner,
            }
            for waiver in policy.waivers
        ],
        "sources": dict(policy.sources),
    }
