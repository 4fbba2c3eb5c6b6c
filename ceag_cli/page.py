"""The audit as one self-contained HTML page. It opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ceag_cli.audit import AuditResult, GroupResult, Subject
from ceag_cli.report import CAVEAT, audit_headline, basis, percent, points, split_line, tolerance
from ceag_cli.shiftreport import shift_html
from ceag_cli.shifts import Shifts

WIDTH, LABELS, ROW = 860, 230, 20
"""Pixels of the plot: its width, the column of names in it, the height of a group."""


@dataclass(frozen=True)
class Dot:
    """One group in the plot of psi."""

    name: str
    title: str
    x: float
    y: float
    bad: bool


@dataclass(frozen=True)
class Plot:
    """psi of every group of a split, worst first, beside zero and eps."""

    height: int
    zero: float
    eps: float
    ticks: list[tuple[float, str]]
    dots: list[Dot]


def plot(result: AuditResult, split: str) -> Plot:
    """Place the groups of a split; one scale for all splits, so that they can be compared."""
    known = [group.excess_gap for group in result.groups if group.excess_gap is not None]
    low, high = min([*known, 0.0]), max([*known, result.eps])
    margin = 0.06 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return round(LABELS + (value - low) / (high - low) * (WIDTH - LABELS - 10), 1)

    steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    step = next((s for s in steps if (high - low) / s <= 12), 1.0)
    ticks = [i * step for i in range(int(low / step) - 1, int(high / step) + 2)]
    several = len({group.feature for group in result.groups}) > 1
    groups = [group for group in result.by_split(split) if group.excess_gap is not None]
    return Plot(
        height=ROW * len(groups) + 34,
        zero=x(0.0),
        eps=x(result.eps),
        ticks=[(x(t), f"{100 * t:+g}" if abs(t) > 1e-9 else "0") for t in ticks if low < t < high],
        dots=[
            Dot(
                _short(f"{group.feature}={group.value}" if several else group.value),
                f"{group.feature}={group.value}: psi {points(group.excess_gap, result.eps)} "
                f"points, n {group.n}",
                x(group.excess_gap or 0.0),
                round(ROW * (i + 0.5) + 6, 1),
                (group.excess_gap or 0.0) > result.eps,
            )
            for i, group in enumerate(groups)
        ],
    )


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"


def page(result: AuditResult, subject: Subject, version: str, more: Sequence[Shifts] = ()) -> str:
    """The whole page. Names from the CSV are escaped, so they stay inert."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "tolerance": tolerance}
    rows: dict[str, list[GroupResult]] = {
        split.split: result.by_split(split.split) for split in result.splits
    }
    # The split that the verdict rests on comes first.
    splits = sorted(result.splits, key=lambda split: not split.gated)
    return environment.get_template("page.html.jinja").render(
        result=result,
        subject=subject,
        version=version,
        headline=audit_headline(result),
        caveat=f"{basis(result)} {CAVEAT}",
        splits=splits,
        split_line=split_line,
        rows=rows,
        plots={split.split: plot(result, split.split) for split in splits},
        width=WIDTH,
        labels=LABELS,
        more={found.split: shift_html(found) for found in more},
    )
