"""What changed beyond accuracy, as a few lines of text and as a part of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ceag_cli.confusion import Cell
from ceag_cli.inert import printable
from ceag_cli.means import FEWEST, Bounded
from ceag_cli.report import bounded_percent, bounded_points, percent, points
from ceag_cli.shifts import GroupShift, Shifts, Worst
from ceag_cli.strata import PARTS, GroupOverLevels, Strata
from ceag_cli.templates import template

Item = TypeVar("Item")

MOST_ROWS = 25
"""Rows of a table on the page; the JSON document has all."""
MOST_CELLS = 10
"""Cells of the confusion matrix on the page."""


def shift_lines(found: Shifts) -> list[str]:
    """The most telling numbers of a split, a few lines; none for a split without images."""
    overall = found.overall
    if not overall.n:
        return []
    lost, gained, lateral = (
        percent(count / overall.n) for count in (overall.lost, overall.gained, overall.lateral)
    )
    churn = (
        f"besides psi (described only): churn {percent(_value(overall.churn))} % "
        f"(lost {lost}, gained {gained}, lateral {lateral})"
    )
    if found.worst_churn is not None:
        churn += (
            f"; most in {_who(found.worst_churn)}: {bounded_percent(found.worst_churn.share)} %"
        )
    lines = [churn]
    worst = found.worst_accuracy_dense, found.worst_accuracy_sparse
    if worst[0] is not None and worst[1] is not None:
        lines.append(
            f"worst accuracy {percent(worst[0].share.value)} % dense ({_who(worst[0])}), "
            f"{percent(worst[1].share.value)} % sparse ({_who(worst[1])})"
        )
    if overall.overconfidence is not None:
        over = overall.overconfidence
        lines.append(
            f"over-confidence {points(over.dense)} points dense, {points(over.sparse)} sparse"
        )
    if found.confusion.cells:
        moved = "; ".join(cell_words(cell) for cell in found.confusion.cells[:3])
        lines.append(f"most moved: {moved} (q: corrected for {found.confusion.tested} cells)")
    for strata in (found.control, found.by_confidence):
        lines += [] if strata is None else strata_lines(strata)
    if found.clustered:
        lines.append(
            "images that belong together count as fewer here; within strata and for q they are "
            "taken as independent, so that these are too sure"
        )
    return lines


def cell_words(cell: Cell) -> str:
    """``8 as 3: 12 to 31, q 0.004``."""
    return (
        f"{printable(cell.label)} as {printable(cell.predicted)}: {cell.dense} to {cell.sparse}, "
        f"q {cell.q:.2g}"
    )


def strata_lines(strata: Strata) -> list[str]:
    """Where churn is, and how much of the worst group's psi its mix of levels explains."""
    lines = []
    if len(strata.levels) > 1:
        high = max(strata.levels, key=lambda level: level.churn)
        low = min(strata.levels, key=lambda level: level.churn)
        lines.append(
            f"by {printable(strata.by)}: churn {percent(high.churn)} % at "
            f"{printable(high.value)}, {percent(low.churn)} % at {printable(low.value)}"
        )
        # A feature that is the control feature itself is all of its levels.
        beside = [g for g in strata.groups if g.psi.within.lower != g.psi.within.upper]
        worst = max(beside, key=lambda group: _lower(group.psi.within), default=None)
        if worst is not None:
            psi = worst.psi
            lines.append(
                f"  psi of {_group(worst)} {points(psi.total)}, of which {points(psi.explained)} "
                f"by its mix and {points(psi.within.value)} within "
                f"({points(psi.within.lower)} to {points(psi.within.upper)})"
            )
    return lines


def shift_html(found: Shifts) -> str:
    """The part of the page about a split; names are escaped. Empty for a split without images."""
    if not found.overall.n:
        return ""
    groups = [group for group in found.groups if group.n]
    strata = [strata for strata in (found.control, found.by_confidence) if strata is not None]
    part = template(
        "shifts.html.jinja",
        percent=percent,
        points=points,
        bounds=bounded_percent,
        share=_share,
        gap=bounded_points,
    )
    return part.render(
        found=found,
        lines=shift_lines(found),
        groups=_first(groups, lambda group: -_lower(group.excess_churn)),
        left_out=max(len(groups) - MOST_ROWS, 0),
        left_out_classes=max(len(found.confusion.by_class) - MOST_ROWS, 0),
        cells=found.confusion.cells[:MOST_CELLS],
        classes=_first(found.confusion.by_class, lambda c: -abs(c.n * (c.recall_drop or 0.0))),
        strata=strata,
        rows=[_first(s.groups, lambda group: -_lower(group.psi.within)) for s in strata],
        fewest=FEWEST,
        parts=PARTS,
        most=MOST_ROWS,
    )


def _first(items: Sequence[Item], key: Callable[[Item], Any]) -> list[Item]:
    return sorted(items, key=key)[:MOST_ROWS]


def _share(share: Bounded | None) -> str:
    return percent(_value(share))


def _value(share: Bounded | None) -> float | None:
    return None if share is None else share.value


def _lower(share: Bounded | None) -> float:
    return -2.0 if share is None or share.lower is None else share.lower


def _who(worst: Worst) -> str:
    return printable(f"{worst.feature}={worst.value}")


def _group(group: GroupShift | GroupOverLevels) -> str:
    return printable(f"{group.feature}={group.value}")
