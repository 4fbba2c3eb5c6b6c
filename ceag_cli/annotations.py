"""An audit as annotations of a GitHub workflow, written to its log.

GitHub shows ten of a type per step and drops the rest without a word, so there are nine and a
count. The lines are commands that the runner reads from the log of a step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ceag_cli.findings import FAIL, INCONCLUSIVE, NO_DATA, PASS, WAIVED, AuditResult, GroupResult
from ceag_cli.inert import printable
from ceag_cli.report import (
    audit_headline,
    check_line,
    interval,
    points,
    quantity,
    tolerance,
    why,
    worst_checks,
)
from ceag_cli.results import Audit

MOST = 9
"""Annotations of a type that are written out."""
NAMED = 5
"""Groups that are named in an annotation that speaks of many."""


def workflow_commands(audit: Audit) -> str:
    """One line per annotation: what is wrong as errors, what is open as one warning."""
    result = audit.result
    gated = [split.split for split in result.splits if split.gated]
    groups = [group for name in gated for group in result.by_split(name) if group.split in gated]
    checks = worst_checks(result)
    several = len(gated) > 1
    kind = "notice" if result.verdict == PASS else "error" if result.exit_code else "warning"
    found: dict[str, list[tuple[str, str]]] = {"error": [], "warning": [], "notice": []}
    reasons = "".join(f"\n{printable(reason)}" for reason in result.reasons)
    found[kind].append((f"ceag audit: {result.verdict}", audit_headline(result) + reasons))
    found["error"] += [
        ("ceag audit: more than eps", _line(group, result, several))
        for group in groups
        if group.verdict == FAIL
    ]
    found["error"] += [
        ("ceag audit: bound exceeded", check_line(check))
        for check in checks
        if check.verdict == FAIL
    ]
    open_ = [group for group in groups if group.verdict == INCONCLUSIVE]
    if open_:
        text = _listed([_line(group, result, several) for group in open_])
        title = f"ceag audit: {len(open_)} group{'s' if len(open_) > 1 else ''} not decided"
        found["warning"].append((title, text))
    undecided = [check_line(check) for check in checks if check.verdict == INCONCLUSIVE]
    if undecided:
        found["warning"].append(("ceag audit: bounds not decided", _listed(undecided)))
    empty = [_name(group, several) for group in groups if group.verdict == NO_DATA]
    if empty:
        found["warning"].append(("ceag audit: groups without images", _listed(empty)))
    found["warning"] += [("ceag audit", printable(warning)) for warning in result.warnings]
    found["notice"] += [
        ("ceag audit: waived", _line(group, result, several))
        for group in groups
        if group.verdict == WAIVED
    ]
    file = _file(audit.subject.groups)
    lines = []
    for kind, items in found.items():
        lines += [_command(kind, file, title, text) for title, text in items[:MOST]]
        if len(items) > MOST:
            more = f"and {len(items) - MOST} more; the other reports have all of them"
            lines.append(_command(kind, file, "ceag audit", more))
    return "".join(f"{line}\n" for line in lines)


def _line(group: GroupResult, result: AuditResult, with_split: bool) -> str:
    what = quantity(result.policy).removeprefix("the ")
    gap = points(result.gated_gap(group), group.eps)
    reason = why(group, result)
    return (
        f"{_name(group, with_split)}: {what} {gap} points ({interval(group)}), eps "
        f"{tolerance(group.eps)}, {group.n} images{f'; {reason}' if reason else ''}"
    )


def _name(group: GroupResult, with_split: bool) -> str:
    name = printable(f"{group.feature}={group.value}")
    return f"{name} ({group.split})" if with_split else name


def _listed(lines: Sequence[str]) -> str:
    rest = len(lines) - NAMED
    return "\n".join([*lines[:NAMED], *([f"and {rest} more"] if rest > 0 else [])])


def _file(path: str) -> str:
    """The groups CSV as GitHub knows it: relative to the checkout."""
    root = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    found = os.path.relpath(path, root) if path else ""
    return printable(path if found.startswith("..") else found.replace(os.sep, "/"))


def _command(kind: str, file: str, title: str, text: str) -> str:
    where = f"file={_property(file)}," if file else ""
    return f"::{kind} {where}title={_property(title)}::{_message(text)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
