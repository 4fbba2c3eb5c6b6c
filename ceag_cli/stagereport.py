"""What the commands that write models say of their results: lines, and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ceag_cli.archives import Archived
from ceag_cli.findings import SplitResult
from ceag_cli.inert import printable
from ceag_cli.report import percent, points, tolerance
from ceag_cli.results import DenseResult, ExportResult, MitigateResult, PruneResult, TensorResult
from ceag_cli.texttables import aligned
from ceag_cli.versions import versions

STAGE_SCHEMA_VERSION = 1
"""Of what ``dense``, ``prune`` and ``mitigate`` say with ``--format json``."""


def result_document(
    command: str,
    version: str,
    seed: int,
    result: DenseResult | PruneResult | MitigateResult | ExportResult,
) -> dict[str, Any]:
    """The result of ``dense``, ``prune``, ``mitigate`` or ``export`` as one JSON document."""
    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(result).items()
    }
    return {
        "schema_version": STAGE_SCHEMA_VERSION,
        "tool": "ceag",
        "version": version,
        "command": command,
        "seed": seed,
        "versions": versions(),
    } | values


def megabytes(size: int) -> str:
    """``46837000`` → ``46.8 MB``; small files in kB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def dense_lines(result: DenseResult) -> list[str]:
    """What ``dense`` prints."""
    accuracy = ", ".join(f"{name} {percent(a)} %" for name, a in result.accuracy.items())
    lines = [f"wrote {result.output}: {result.architecture}, {result.num_classes} classes"]
    if result.early is not None:
        lines.append(f"wrote {result.early}: the weights to rewind lottery tickets to")
    return lines + ([f"accuracy: {accuracy}"] if accuracy else [])


def prune_lines(result: PruneResult) -> list[str]:
    """What ``prune`` prints; for a dry run with a line for every tensor."""
    amount = (
        f"sparsity {result.sparsity:.4%} of the prunable weights ({result.zeros} of "
        f"{result.weights} in {result.tensors} tensors), {result.sparsity_of_all:.1%} of all "
        "parameters"
    )
    amounts = [amount]
    if result.unfit:
        they, stay = ("tensor does", "stays") if result.unfit == 1 else ("tensors do", "stay")
        amounts.append(f"{result.unfit} {they} not fit {result.pattern} and {stay} dense")
    if result.bytes is None:
        return [*tensor_lines(result.by_tensor), *amounts, "dry run: nothing was written"]
    size = f"{megabytes(result.bytes)}, {'packed' if result.packed else 'as before'}"
    if result.bytes_packed is not None:
        size += f"; {megabytes(result.bytes_packed)} with --pack"
    lines = [f"wrote {result.output}", *amounts]
    if result.rounds is not None:
        rewound = ", each from the early weights on" if result.schedule == "rewind" else ""
        lines.append(f"rounds of pruning: {result.rounds}{rewound}")
    if result.recalibrated is not None:
        lines.append(f"BatchNorm statistics measured anew on {result.recalibrated} train images")
    return [*lines, f"size {size}. Zeros do not make the model faster in PyTorch."]


def tensor_lines(tensors: Sequence[TensorResult]) -> list[str]:
    """A table of tensors, one a line: name, shape, weights, zeros and sparsity."""
    rows = [("tensor", "shape", "weights", "zeros", "sparsity")]
    for tensor in tensors:
        weights = math.prod(tensor.shape)
        fate = "empty" if tensor.sparsity is None else f"{tensor.sparsity:.2%}"
        if tensor.dense_because is not None:
            fate = f"dense: {tensor.dense_because}"
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        rows.append((tensor.name, shape, str(weights), str(tensor.zeros), fate))
    return aligned(rows, left=(0, 1, -1))


def _kept_line(result: MitigateResult) -> list[str]:
    """Which iterate was kept and what it was chosen on; nothing when it is simply the last."""
    if result.kept is None:
        return []
    kept = result.kept
    return [
        f"kept the iterate after epoch {kept.epoch} of {result.epochs}, chosen on "
        f"{result.judged_on}: accuracy {percent(kept.accuracy)} %, max psi "
        f"{points(kept.max_excess_gap)}"
    ]


def mitigate_lines(result: MitigateResult) -> list[str]:
    """What ``mitigate`` prints: whether the constraints hold where they were measured."""
    lines = [
        f"wrote {result.output} ({result.method}, sparsity {result.sparsity:.2%})",
        *_kept_line(result),
        _accuracies("train", result.train),
    ]
    where, split = "train", result.train
    if result.mixed is not None:
        lines[-1] += f", largest psi {_worst(result.train, result.eps)}"
        where, split = "mixed train images", result.mixed
        lines.append(_accuracies("train images mixed with others, in place of unseen ones:", split))
    worst, eps = _worst(split, result.eps), tolerance(result.eps)
    if result.satisfied:
        line = f"The constraints hold on {where}: the largest psi is {worst}, eps is {eps} points."
    else:
        line = (
            f"NOT SATISFIED ON {where.upper()}: the largest psi is {worst}, more than the {eps} "
            "points of eps."
        )
    return [*lines, line]


def _accuracies(what: str, split: SplitResult) -> str:
    dense, sparse = percent(split.acc_dense), percent(split.acc_sparse)
    return f"{what} accuracy {dense} % dense, {sparse} % sparse"


def _worst(split: SplitResult, eps: float) -> str:
    return f"{points(split.max_excess_gap, eps)} points ({printable(split.worst_group or '')})"


def archived_lines(found: Archived) -> list[str]:
    """What ``pack`` and ``unpack`` print."""
    before, after = megabytes(found.bytes_before), megabytes(found.bytes)
    return [f"wrote {found.output}: {after} ({found.source}: {before})"]
