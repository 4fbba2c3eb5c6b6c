"""What the stages found and made, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ceag_cli.audit import AuditResult, SplitResult, Subject
from ceag_cli.iterates import Measured


@dataclass(frozen=True)
class DenseResult:
    """What ``dense`` made."""

    output: Path
    architecture: str
    num_classes: int
    accuracy: dict[str, float]
    """By split; empty when no groups CSV was given."""


@dataclass(frozen=True)
class PruneResult:
    """What ``prune`` made."""

    output: Path
    sparsity: float
    """Fraction removed over the prunable weights."""
    sparsity_of_all: float
    """Pruned weights over all parameters."""
    zeros: int
    weights: int
    tensors: int
    bytes: int
    bytes_compressed: int | None
    """Size after zlib; ``None`` for a file too large to measure in passing."""


@dataclass(frozen=True)
class MitigateResult:
    """What ``mitigate`` made, measured on train in evaluation mode."""

    output: Path
    method: str
    eps: float
    train: SplitResult
    satisfied: bool
    """Whether ``psi_g <= eps`` for every group on train."""
    sparsity: float
    epochs: int
    """Epochs trained."""
    kept: Measured | None
    """The iterate that was chosen, as measured there; ``None`` when it is simply the last."""
    judged_on: str | None
    """In words, the images that the choice rests on."""


@dataclass(frozen=True)
class Audit:
    """What ``audit`` found, about which files, and where the page is."""

    result: AuditResult
    subject: Subject
    document: dict[str, Any]
    """The JSON document."""
    page: Path
