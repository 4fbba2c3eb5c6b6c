"""An audit as text, for a terminal or a log."""

from __future__ import annotations

import io
import unicodedata
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ceag_cli import piereport
from ceag_cli.explanationreport import brief_lines
from ceag_cli.findings import (
    DESCRIPTIVE,
    FAIL,
    HIGH,
    INCONCLUSIVE,
    LOW,
    PASS,
    TOO_SMALL,
    AuditResult,
    GroupResult,
)
from ceag_cli.inert import as_line, printable
from ceag_cli.report import (
    CAVEAT,
    WHY,
    audit_headline,
    basis,
    check_lines,
    counted_line,
    interval,
    percent,
    points,
    split_line,
)
from ceag_cli.results import Audit
from ceag_cli.shiftreport import shift_lines

ROOMY = 90
"""Characters that most tables of an audit take with two between columns."""

SHORT = {HIGH: "high", LOW: "low", TOO_SMALL: "small"}
"""Why a group is INCONCLUSIVE, in a word."""


def console_of(**options: Any) -> Console:
    """A console that takes names for nothing but names."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def print_audit(audit: Audit, console: Console) -> None:
    """An audit as ``ceag audit`` prints it: the splits, then what follows from them."""
    result = audit.result
    more = {found.split: shift_lines(found) for found in audit.more}
    for split in result.splits:
        console.print(split_line(split), style="bold")
        console.print(audit_table(result, split.split, width=console.width))
        for line in more.get(split.split, ()):
            console.print(line)
        console.print()
    if audit.explanation is not None:
        for line in brief_lines(audit.explanation):
            console.print(line)
        console.print()
    if audit.exemplars is not None:
        for line in piereport.brief_lines(audit.exemplars):
            console.print(line)
        console.print()
    for line in check_lines(result):
        console.print(line)
    for warning in result.warnings:
        console.print(f"warning: {printable(warning)}")
    console.print(audit_headline(result), style="bold")
    for reason in result.reasons:
        console.print(f"  {printable(reason)}")
    console.print(f"{basis(result)} {CAVEAT}")
    console.print(f"report: {printable(str(audit.page))}")


def audit_text(audit: Audit) -> str:
    """An audit as plain text for a log or a file, which have no width.

    Names from a CSV give no commands to who reads the log (``inert``).
    """
    console = console_of(file=io.StringIO(), width=200, soft_wrap=True)
    print_audit(audit, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return "".join(f"{as_line(line.rstrip())}\n" for line in lines)


def audit_table(
    result: AuditResult, split: str, most: int | None = 25, width: int | None = None
) -> Table:
    """Groups of a split, worst first; the rest is counted when there are more than ``most``.

    With a ``width`` below ``ROOMY`` columns stand closer, and from 80 on a verdict is one line.
    """
    tight = width is not None and width < ROOMY
    padding = (0, 1, 0, 0) if tight else (0, 1)
    table = Table(box=None, pad_edge=False, expand=False, header_style="bold", padding=padding)
    table.add_column("group", overflow="fold", min_width=12)
    groups = result.by_split(split)
    judged = any(group.verdict != DESCRIPTIVE for group in groups)
    gap = "gap" if result.policy.against == "rest" else "psi"
    for name in ("n", "dense", "sparse", gap, *(["bounds"] if judged else [])):
        table.add_column(name, justify="right", no_wrap=True)
    open_ = any(group.verdict == INCONCLUSIVE for group in groups)
    if judged:
        one_line = width is not None and 80 <= width < ROOMY
        table.add_column("verdict", min_width=12, no_wrap=one_line)
    if open_:
        table.add_column("needs", justify="right", no_wrap=True)
    several = len({group.feature for group in result.groups}) > 1
    shown = groups if most is None else groups[:most]
    for group in shown:
        whole = several or not group.value
        name = printable(f"{group.feature}={group.value}" if whole else group.value)
        style = {FAIL: "red", PASS: "green", INCONCLUSIVE: "yellow"}.get(group.verdict, "")
        reason = SHORT.get(group.reason or "", "") if group.verdict == INCONCLUSIVE else ""
        cells: list[str | Text] = [
            # After a name from right to left, a mark keeps the numbers in their order.
            ("\u200e" if _right_to_left(name) else "") + str(group.n),
            percent(group.acc_dense),
            percent(group.acc_sparse),
            points(result.gated_gap(group), group.eps),
        ]
        if judged:
            verdict = f"{group.verdict} {reason}".strip()
            cells += [interval(group), Text(verdict, style=style)]
        if open_:
            cells.append("–" if reason and group.n_needed is None else _needs(group))
        table.add_row(Text(name), *cells)
    rest = groups[len(shown) :]
    notes = []
    if rest:
        counts = counted_line(rest) if judged else ""
        notes.append(f"and {len(rest)} more groups{': ' if counts else ''}{counts}")
    if open_ and any(group.n_needed is not None for group in shown):
        notes.append("needs: further images of the group")
        if any(group.grows == "split" for group in shown):
            notes[-1] += "; *: with all others growing alike"
    for reason, short in SHORT.items():
        if any(group.verdict == INCONCLUSIVE and group.reason == reason for group in shown):
            notes.append(f"{short}: {WHY[reason].format(quantity=gap)}")
    if notes:
        text = Text("\n".join(notes))
        table.caption, table.caption_justify, table.caption_style = text, "left", ""
    return table


def _right_to_left(name: str) -> bool:
    return any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in name)


def _needs(group: GroupResult) -> str:
    """How many further images decide a group: ``+1240``, ``+195k``, ``+1.2M``.

    A ``*`` follows where that takes all other groups growing alike.
    """
    number = group.n_needed
    if number is None:
        return ""
    shown = f"{number / 1e6:.1f}M"
    if number < 100_000:
        shown = str(number)
    elif number < 999_500:
        shown = f"{number / 1e3:.0f}k"
    return f"+{shown}{'*' if group.grows == 'split' else ''}"
