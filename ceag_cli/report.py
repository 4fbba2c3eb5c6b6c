"""Results as text and as JSON. Everything here returns; nothing prints.

Fractions become percentage points here and nowhere earlier.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ceag_cli.audit import (
    FAIL,
    NO_DATA,
    PASS,
    SCHEMA_VERSION,
    AuditResult,
    GroupResult,
    SplitResult,
    Subject,
)
from ceag_cli.results import (
    DenseResult,
    ExportResult,
    MitigateResult,
    PruneResult,
    TensorResult,
)

MEANING = {
    PASS: "every audited group of the gated split has psi <= eps",
    FAIL: "at least one group of the gated split loses more than eps beyond the rest",
    NO_DATA: "no group could be audited, so nothing is shown",
}

CAVEAT = (
    "The verdict compares measured values with eps, as the paper does; it has no confidence "
    "interval, and with few images per group psi is mostly sampling noise. It says nothing about "
    "whether the dense model itself is fair."
)


def percent(fraction: float | None) -> str:
    """``0.1234`` → ``12.3``; nothing known → ``–``."""
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def points(gap: float | None, eps: float | None = None) -> str:
    """A gap in points with its sign: ``0.0312`` → ``+3.1``.

    With ``eps``, as many digits as it takes to see on which side of it the gap lies.
    """
    if gap is None:
        return "–"
    text = f"{100 * gap:+.1f}"
    if eps is None:
        return text
    limit = 100 * Decimal(repr(eps))
    for digits in range(1, 17):
        text = f"{100 * gap:+.{digits}f}"
        shown = Decimal(text)
        if (shown > limit, shown < limit) == (gap > eps, gap < eps):
            break
    return text


def tolerance(eps: float) -> str:
    """Eps in points, exactly: ``0.0206`` → ``2.06``."""
    return f"{(100 * Decimal(repr(eps))).normalize():f}"


def printable(name: str) -> str:
    """A name from the CSV without what would steer a terminal (escapes, line breaks)."""
    return "".join(c if c.isprintable() else "�" for c in name)


def audit_headline(result: AuditResult) -> str:
    """The verdict in one sentence."""
    gated = [split for split in result.splits if split.gated]
    where = ", ".join(split.split for split in gated)
    sentence = f"{result.verdict}: {MEANING[result.verdict]}"
    worst = max(
        (split for split in gated if split.max_excess_gap is not None),
        key=lambda split: split.max_excess_gap or 0.0,
        default=None,
    )
    if worst is None:
        return f"{sentence} ({where or 'no split is gated'})."
    return (
        f"{sentence} (split {where}, eps {tolerance(result.eps)} points; largest psi "
        f"{points(worst.max_excess_gap, result.eps)}, {printable(worst.worst_group or '')})."
    )


def split_line(split: SplitResult) -> str:
    """A split as a whole, in one line."""
    role = "gated" if split.gated else "described only"
    return (
        f"{split.split} ({role}): {split.n} images, accuracy {percent(split.acc_dense)} % dense, "
        f"{percent(split.acc_sparse)} % sparse, gap {points(split.gap)}; max psi "
        f"{points(split.max_excess_gap)}, pairwise disparity {percent(split.pairwise_disparity)}"
    )


def audit_table(result: AuditResult, split: str, most: int | None = 25) -> Table:
    """Groups of a split, worst first; the rest is counted when there are more than ``most``."""
    table = Table(box=None, pad_edge=False, expand=False, header_style="bold")
    table.add_column("group", overflow="fold", min_width=12)
    for name in ("n", "dense %", "sparse %", "gap", "psi"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    several = len({group.feature for group in result.groups}) > 1
    groups = result.by_split(split)
    shown = groups if most is None else groups[:most]
    for group in shown:
        style = {"FAIL": "red", "PASS": "green"}.get(group.verdict, "")
        table.add_row(
            Text(_name(group, several)),
            str(group.n),
            percent(group.acc_dense),
            percent(group.acc_sparse),
            points(group.gap),
            points(group.excess_gap, result.eps),
            Text("" if group.verdict == "DESCRIPTIVE" else group.verdict, style=style),
        )
    if len(groups) > len(shown):
        table.add_row(Text(f"and {len(groups) - len(shown)} more groups"), "", "", "", "", "", "")
    return table


def _name(group: GroupResult, with_feature: bool) -> str:
    name = f"{group.feature}={group.value}" if with_feature else group.value
    return printable(name)


def audit_document(
    result: AuditResult, subject: Subject, version: str, seed: int
) -> dict[str, Any]:
    """An audit as one JSON document; fractions, never percent; ``null`` where nothing is known."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": "ceag",
        "version": version,
        "command": "audit",
        "seed": seed,
        "models": {
            "architecture": subject.architecture,
            "dense": {"path": subject.dense, "sha256": subject.dense_sha256},
            "sparse": {
                "path": subject.sparse,
                "sha256": subject.sparse_sha256,
                "sparsity": subject.sparsity,
                "method": subject.method,
            },
        },
        "data": {
            "groups_file": subject.groups,
            "groups_file_sha256": subject.groups_sha256,
            "label_column": subject.label_column,
            "groups_by": subject.groups_by,
        },
        "overall": {
            "verdict": result.verdict,
            "exit_code": result.exit_code,
            "gate": result.gate,
            "eps": result.eps,
        },
        "splits": [dataclasses.asdict(split) for split in result.splits],
        "groups": [dataclasses.asdict(group) for group in result.groups],
    }


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
        "schema_version": SCHEMA_VERSION,
        "tool": "ceag",
        "version": version,
        "command": command,
        "seed": seed,
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
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]}"
        for row in rows
    ]


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
    """What ``mitigate`` prints: whether the constraints hold on train, and by how much."""
    split: SplitResult = result.train
    worst = (
        f"{points(split.max_excess_gap, result.eps)} points ({printable(split.worst_group or '')})"
    )
    lines = [
        f"wrote {result.output} ({result.method}, sparsity {result.sparsity:.2%})",
        *_kept_line(result),
        f"train accuracy {percent(split.acc_dense)} % dense, {percent(split.acc_sparse)} % sparse",
    ]
    if result.satisfied:
        lines.append(
            f"The constraints hold on train: the largest psi is {worst}, eps is "
            f"{tolerance(result.eps)}."
        )
    else:
        lines.append(
            f"NOT SATISFIED ON TRAIN: the largest psi is {worst}, more than eps "
            f"{tolerance(result.eps)}."
        )
    return lines
