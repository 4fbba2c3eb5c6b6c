"""An audit as text, for a terminal or a log."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from ceag_cli import piereport
from ceag_cli.explanationreport import brief_lines
from ceag_cli.inert import as_line, printable
from ceag_cli.report import (
    CAVEAT,
    audit_headline,
    audit_table,
    basis,
    check_lines,
    split_line,
)
from ceag_cli.results import Audit
from ceag_cli.shiftreport import shift_lines


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
