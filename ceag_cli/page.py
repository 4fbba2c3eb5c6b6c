"""The audit as one self-contained HTML page. It opens without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ceag_cli.clauses import Waiver
from ceag_cli.explanationreport import explanation_html
from ceag_cli.explanations import Explanation
from ceag_cli.findings import (
    FAIL,
    HIGH,
    IDENTICAL,
    INCONCLUSIVE,
    LOW,
    TOO_SMALL,
    WAIVED,
    AuditResult,
    GroupResult,
    Subject,
)
from ceag_cli.groupplots import DRAWN, EDGE, LABELS, NUMBERS, SHAPES, SIDE, WIDTH, plot, scatter
from ceag_cli.inert import printable
from ceag_cli.piereport import pies_html
from ceag_cli.pies import Pies
from ceag_cli.report import (
    CAVEAT,
    audit_headline,
    basis,
    check_lines,
    counted,
    percent,
    points,
    quantity,
    split_line,
    tolerance,
)
from ceag_cli.results import Flip
from ceag_cli.shiftreport import shift_html
from ceag_cli.shifts import Shifts
from ceag_cli.templates import template


@dataclass(frozen=True)
class Pictures:
    """Images of a group that are lost."""

    group: str
    flips: list[Flip]


def _because(group: GroupResult) -> str:
    """The reason of a verdict in a word; that of a waiver as it was given."""
    if group.verdict == INCONCLUSIVE:
        return {HIGH: "high", LOW: "low", TOO_SMALL: "too small"}.get(group.reason or "", "")
    if group.reason == IDENTICAL:
        return "same file"
    return printable(group.reason or "")


def _pictures(flips: Iterable[Flip]) -> list[Pictures]:
    by_group: dict[str, list[Flip]] = {}
    for flip in flips:
        by_group.setdefault(flip.group, []).append(flip)
    return [Pictures(group, found) for group, found in by_group.items()]


def _waived(result: AuditResult, waiver: Waiver) -> str:
    """What became of a waiver."""
    verdicts = {g.verdict for g in result.groups if (g.feature, g.value) == waiver.group}
    if WAIVED in verdicts:
        return "in force"
    if FAIL in verdicts:
        return "does not hold: it has expired, or the violation is larger than accepted"
    return "not needed"


def page(
    result: AuditResult,
    subject: Subject,
    version: str,
    more: Sequence[Shifts] = (),
    flips: Sequence[Flip] = (),
    explanation: Explanation | None = None,
    exemplars: Pies | None = None,
) -> str:
    """The whole page. Names from the CSV are escaped, so they stay inert."""
    policy = result.policy
    # The split that the verdict rests on comes first.
    splits = sorted(result.splits, key=lambda split: not split.gated)
    rows = {split.split: result.by_split(split.split) for split in splits}
    gated = [split.split for split in splits if split.gated]
    described = [split.split for split in splits if not split.gated]
    scatters = [scatter(result, across, up) for across in described for up in gated]
    found = template(
        "page.html.jinja",
        percent=percent,
        points=points,
        tolerance=tolerance,
        printable=printable,
    )
    return found.render(
        result=result,
        policy=policy,
        subject=subject,
        version=version,
        headline=audit_headline(result),
        caveat=f"{basis(result)} {CAVEAT}",
        quantity=quantity(policy),
        column="gap against the rest" if policy.against == "rest" else "psi",
        splits=splits,
        split_line=split_line,
        rows=rows,
        counted=counted,
        because=_because,
        growing={group.grows for group in result.groups},
        reasons={_because(group) for group in result.groups if group.verdict == INCONCLUSIVE},
        own_reason=any(group.reason for group in result.groups),
        own_eps=any(group.eps != policy.eps for group in result.groups),
        checks=check_lines(result, most=10),
        waivers=[(waiver, _waived(result, waiver)) for waiver in policy.waivers],
        plots={split.split: plot(result, split.split) for split in splits},
        scatters=[found for found in scatters if found is not None],
        pictures=_pictures(flips),
        more={found.split: shift_html(found) for found in more},
        why="" if explanation is None else explanation_html(explanation),
        pies="" if exemplars is None else pies_html(exemplars),
        shapes=SHAPES,
        drawn=DRAWN,
        width=WIDTH,
        labels=LABELS,
        numbers=NUMBERS,
        side=SIDE,
        edge=EDGE,
    )
