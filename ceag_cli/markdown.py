"""An audit as Markdown, for the summary of a GitHub step, a comment, or a model card."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ceag_cli import piereport
from ceag_cli.explanationreport import brief_lines
from ceag_cli.findings import DESCRIPTIVE, AuditResult, GroupResult, SplitResult
from ceag_cli.inert import printable
from ceag_cli.report import (
    CAVEAT,
    audit_headline,
    basis,
    check_lines,
    counted,
    interval,
    percent,
    points,
    split_line,
    tolerance,
    why,
)
from ceag_cli.results import Audit
from ceag_cli.shiftreport import shift_lines

MOST_BYTES = 1000 * 1024
"""GitHub throws away a summary of more than 1024 KiB, whole."""
WORST = 20
LONGEST_NAME = 120

_MARKUP = re.compile(
    r"[\\`*_\[\]<>&|~@#$]|:(?=//)|:(?=[\w+-]+:)|(?<=www)\.", flags=re.IGNORECASE | re.ASCII
)


def markdown(audit: Audit) -> str:
    """The verdict, how many groups have which, the worst of them, and all of them folded away."""
    result = audit.result
    lines = [f"## ceag audit: {result.verdict}", "", escaped(audit_headline(result)), ""]
    lines += [f"- {escaped(reason)}" for reason in result.reasons]
    lines += [f"- {escaped(line)}" for line in check_lines(result)]
    lines += [f"- warning: {escaped(warning)}" for warning in result.warnings]
    lines += ["", escaped(f"{basis(result)} {CAVEAT}")]
    # The splits that the verdict rests on come first.
    splits = sorted(result.splits, key=lambda split: not split.gated)
    for split in splits:
        lines += _summary(result, split)
        for found in audit.more:
            if found.split == split.split:
                lines += ["", *(f"- {escaped(line.strip())}" for line in shift_lines(found))]
    if audit.explanation is not None:
        lines += ["", *(f"- {escaped(line.strip())}" for line in brief_lines(audit.explanation))]
    if audit.exemplars is not None:
        found_images = piereport.brief_lines(audit.exemplars)
        lines += ["", *(f"- {escaped(line.strip())}" for line in found_images)]
    text = "\n".join(lines) + "\n"
    for split in splits:
        text += _folded(result, split, MOST_BYTES - len(text.encode()))
    return text + f"\nWritten by ceag {escaped(audit.version)}.\n"


def escaped(text: str) -> str:
    """Text that is nothing but text, in a line or in a cell of a table.

    Every character that could be markup, a mention or a link is written as a reference; breaks
    and what would steer a terminal are replaced.
    """
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))


def _name(group: GroupResult) -> str:
    name = f"{group.feature}={group.value}"
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return escaped(name)


def _summary(result: AuditResult, split: SplitResult) -> list[str]:
    groups = result.by_split(split.split)
    lines = ["", f"### {escaped(split.split)}", "", escaped(split_line(split)), ""]
    if not split.gated:
        return lines
    lines += _table(("verdict", "groups"), [(v, str(count)) for v, count in counted(groups)])
    if groups:
        which = f"The worst {WORST} of {len(groups)} groups" if len(groups) > WORST else "Groups"
        lines += ["", f"{which}, in points; bounds are one-sided:", ""]
        columns, row = _columns(result, groups)
        lines += _table(columns, map(row, groups[:WORST]))
    return lines


def _columns(
    result: AuditResult, groups: Sequence[GroupResult]
) -> tuple[Sequence[str], Callable[[GroupResult], Sequence[str]]]:
    """The columns of a table of groups, and the cells of one."""
    policy = result.policy
    gap = "gap against the rest" if policy.against == "rest" else "psi"
    judged = any(group.verdict != DESCRIPTIVE for group in groups)
    own_eps = any(group.eps != policy.eps for group in groups)
    columns = ["group", "n", "lost", "gained", "dense %", "sparse %", "gap", gap]
    columns += ["bounds"] * judged + ["eps"] * (judged and own_eps) + ["verdict", "why"] * judged

    def row(group: GroupResult) -> list[str]:
        cells = [
            _name(group),
            str(group.n),
            str(group.lost),
            str(group.gained),
            percent(group.acc_dense),
            percent(group.acc_sparse),
            points(group.gap),
            points(result.gated_gap(group), group.eps),
        ]
        if judged:
            cells.append(interval(group))
            cells += [tolerance(group.eps)] * own_eps
            cells += [group.verdict, escaped(why(group, result))]
        return cells

    return columns, row


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    sides = [":--" if name in ("group", "verdict", "why") else "--:" for name in columns]
    lines = [columns, sides, *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _folded(result: AuditResult, split: SplitResult, room: int) -> str:
    """All groups of a split behind a click, as many as there is room for."""
    groups = result.by_split(split.split)
    if not groups or (split.gated and len(groups) <= WORST):
        return ""
    columns, row = _columns(result, groups)
    title = f"All {len(groups)} groups of {escaped(split.split)}"
    start = f"\n<details><summary>{title}</summary>\n\n"
    end = "\n</details>\n"
    room -= len((start + end).encode()) + 300
    lines, shown = _table(columns, []), 0
    room -= sum(len(line.encode()) + 1 for line in lines)
    for group in groups:
        (line,) = _table(columns, [row(group)])[2:]
        room -= len(line.encode()) + 1
        if room < 0:
            break
        lines.append(line)
        shown += 1
    cut = ""
    if shown < len(groups):
        cut = (
            f"\nCut here: GitHub takes no summary above 1024 KiB. {len(groups) - shown} more "
            "groups are in the JSON and CSV reports.\n"
        )
    return start + "\n".join(lines) + "\n" + cut + end
