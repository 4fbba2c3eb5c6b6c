"""What the stages found and made, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ceag_cli.errors import OutputError
from ceag_cli.explanations import Explanation
from ceag_cli.findings import AuditResult, SplitResult, Subject
from ceag_cli.iterates import Measured
from ceag_cli.pies import Pies
from ceag_cli.shifts import Shifts


@dataclass(frozen=True)
class DenseResult:
    """What ``dense`` made."""

    output: Path
    architecture: str
    num_classes: int
    accuracy: dict[str, float]
    """By split; empty when no groups CSV was given."""
    early: Path | None = None
    """The file with the weights of ``early_epoch``."""


@dataclass(frozen=True)
class TensorResult:
    """What became of one parameter."""

    name: str
    shape: tuple[int, ...]
    zeros: int
    dense_because: str | None
    """Why it was not pruned; ``None`` for a tensor that was."""

    @property
    def sparsity(self) -> float | None:
        """Zeros over weights; ``None`` where there are none."""
        weights = math.prod(self.shape)
        return self.zeros / weights if weights else None


@dataclass(frozen=True)
class PruneResult:
    """What ``prune`` made, or with ``dry_run`` would make."""

    output: Path
    dry_run: bool
    criterion: str
    scope: str
    pattern: str
    schedule: str
    rounds: int | None
    """Rounds of an iterative schedule."""
    sparsity: float
    """Fraction removed over the prunable weights."""
    sparsity_of_all: float
    """Pruned weights over all parameters."""
    zeros: int
    weights: int
    tensors: int
    unfit: int
    """Tensors that would be pruned too, if the pattern fitted them."""
    by_tensor: tuple[TensorResult, ...]
    """Every parameter in the model's order."""
    recalibrated: int | None
    """Train images on which BatchNorm statistics were measured anew."""
    bytes: int | None
    """Size of the file; ``None`` when none was written."""
    packed: bool
    """Whether the file is a packed one."""
    bytes_packed: int | None
    """Size of a plain file's weights if they were packed; ``None`` for one too large to try."""


@dataclass(frozen=True)
class MitigateResult:
    """What ``mitigate`` made, measured in evaluation mode."""

    output: Path
    method: str
    eps: float
    train: SplitResult
    mixed: SplitResult | None
    """The same images mixed with others, where the constraints were measured there."""
    satisfied: bool
    """Whether ``psi_g <= eps`` for every group where the constraints were measured."""
    sparsity: float
    epochs: int
    """Epochs trained."""
    kept: Measured | None
    """The iterate that was chosen, as measured there; ``None`` when it is simply the last."""
    judged_on: str | None
    """In words, the images that the choice rests on."""


@dataclass(frozen=True)
class Flip:
    """An image that the dense model gets right and the sparse model wrong."""

    split: str
    group: str
    """``feature=value``."""
    path: str
    label: str
    dense: str
    """The label that the dense model gives."""
    sparse: str
    """The label that the sparse model gives."""
    thumbnail: str
    """The image, made small, as a data URI."""


@dataclass(frozen=True)
class ExportResult:
    """What ``export`` made, and how it compares with the model in PyTorch."""

    output: Path
    source: Path
    source_sha256: str
    architecture: str
    preprocessing: str
    bytes: int
    zeros: int
    """Those in the weights of the model's layers that the file has too."""
    zeros_before: int
    """All of them."""
    checked_on: str
    """In words, the images that both have answered."""
    images: int
    same_class: int
    """Images for which both give the same class."""
    largest_difference: float
    largest_output: float


@dataclass(frozen=True)
class Audit:
    """What ``audit`` found, about which files, and where the page is."""

    result: AuditResult
    subject: Subject
    document: dict[str, Any]
    """The JSON document."""
    page: Path
    more: tuple[Shifts, ...] = ()
    """What changed beyond accuracy, one entry per split."""
    version: str = ""
    """Of ceag."""
    flips: tuple[Flip, ...] = ()
    """A few of the images that are lost, of the worst groups."""
    explanation: Explanation | None = None
    """What ``ceag explain`` has left in the folder about the same files."""
    exemplars: Pies | None = None
    """What ``ceag exemplars`` has left in the folder about populations of such models."""


class NotWritten(OutputError):
    """Reports could not be written, though what they are about was found.

    Args:
        problems: What is wrong with each of them.
        found: What was found all the same: an audit, an explanation, or exemplars.
    """

    def __init__(self, problems: Sequence[str], found: Any) -> None:
        super().__init__(problems)
        self.found = found
