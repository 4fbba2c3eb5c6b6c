"""Plots of groups on the page of an audit: psi with its bounds, and one split against another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from ceag_cli.axes import ticks
from ceag_cli.findings import (
    DESCRIPTIVE,
    FAIL,
    INCONCLUSIVE,
    PASS,
    REFERENCE,
    WAIVED,
    AuditResult,
    GroupResult,
)
from ceag_cli.inert import printable
from ceag_cli.report import interval, points, quantity

WIDTH, LABELS, NUMBERS, ROW = 960, 230, 200, 20
"""Pixels of the plot: its width, the columns of names and of numbers in it, a group's height."""
SIDE, EDGE = 420, 44
"""Pixels of the plot of one split against another: its width and height, and its margin."""
DRAWN = 60
"""Groups that are drawn; the table has all of them."""

_CIRCLE = "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z"
SHAPES = {
    FAIL: "m0-6.5l6.5 6.5-6.5 6.5-6.5-6.5z",
    WAIVED: "m0-6l6 10.5h-12z",
    INCONCLUSIVE: _CIRCLE,
    PASS: _CIRCLE,
    REFERENCE: "m-4-4h8v8h-8z",
    DESCRIPTIVE: _CIRCLE,
}
"""What stands for a verdict, so that it is known without its colour."""


@dataclass(frozen=True)
class Dot:
    """One group in a plot."""

    name: str
    title: str
    text: str
    """What stands beside it."""
    x: float
    y: float
    low: float | None
    """Left end of the bar, cut off where the plot ends."""
    high: float | None
    cut: tuple[bool, bool]
    """Whether the bar goes on to the left, to the right."""
    verdict: str

    @property
    def shape(self) -> str:
        """The mark, as the path of an SVG."""
        return f"M{self.x} {self.y}{SHAPES.get(self.verdict, _CIRCLE)}"


@dataclass(frozen=True)
class Plot:
    """The worst groups of a split with their bounds, beside zero and eps."""

    height: int
    zero: float
    eps: list[tuple[float, float, float]]
    """Its place and the rows it is for, as ``(x, y1, y2)``."""
    ticks: list[tuple[float, str]]
    dots: list[Dot]
    left_out: int
    """Groups that are not drawn."""


@dataclass(frozen=True)
class Scatter:
    """What is compared with eps, in one split against another."""

    across: str
    """The split from left to right."""
    up: str
    ticks: list[tuple[float, float, str]]
    """Places from left to right and from top to bottom, and the text."""
    zero: tuple[float, float]
    eps: tuple[float, float]
    dots: list[Dot]
    others: str
    """All other groups, as the path of an SVG."""
    left_out: int


def plot(result: AuditResult, split: str) -> Plot:
    """Place the worst groups of a split; one scale for all splits, so that they can be compared."""
    low, high = _range(result)

    def x(value: float) -> float:
        inside = (min(max(value, low), high) - low) / (high - low)
        return round(LABELS + inside * (WIDTH - LABELS - NUMBERS), 1)

    several = len({group.feature for group in result.groups}) > 1
    known = [g for g in result.by_split(split) if result.gated_gap(g) is not None]
    dots, eps = [], []
    for i, group in enumerate(known[:DRAWN]):
        y = round(ROW * (i + 0.5) + 6, 1)
        bar = group.lower is not None and group.upper is not None
        dots.append(
            Dot(
                name=_short(_name(group) if several or not group.value else group.value),
                title=_title(result, group),
                text=_text(result, group),
                x=x(result.gated_gap(group) or 0.0),
                y=y,
                low=x(group.lower or 0.0) if bar else None,
                high=x(group.upper or 0.0) if bar else None,
                cut=(bar and (group.lower or 0) < low, bar and (group.upper or 0) > high),
                verdict=group.verdict,
            )
        )
        eps.append(group.eps)
    rows = [list(row) for _, row in groupby(range(len(eps)), key=lambda i: eps[i])]
    return Plot(
        height=ROW * len(dots) + 34,
        zero=x(0.0),
        eps=[(x(eps[row[0]]), ROW * row[0] + 4, ROW * (row[-1] + 1) + 8) for row in rows],
        ticks=[(x(t), text) for t, text in ticks(low, high)],
        dots=dots,
        left_out=len(known) - len(dots),
    )


def _range(result: AuditResult) -> tuple[float, float]:
    """What the axis shows: every value drawn, and of the bounds what does not dwarf those."""
    drawn = [g for s in result.splits for g in result.by_split(s.split)[:DRAWN]]
    found = [(g, result.gated_gap(g)) for g in drawn]
    values = [value for _, value in found if value is not None]
    low = min([*values, 0.0])
    high = max([*values, *(group.eps for group in drawn), result.eps])
    room = 0.75 * (high - low) or 0.01
    lowest = min([low, *(g.lower for g in drawn if g.lower is not None)])
    highest = max([high, *(g.upper for g in drawn if g.upper is not None)])
    low, high = max(lowest, low - room), min(highest, high + room)
    margin = 0.04 * (high - low or 1.0)
    return low - margin, high + margin


def scatter(result: AuditResult, across: str, up: str) -> Scatter | None:
    """Place every group of two splits; ``None`` where they have none in common.

    The worst are drawn one by one, all others as small dots.
    """
    there = {(g.feature, g.value): result.gated_gap(g) for g in result.by_split(across)}
    pairs = [
        (group, there.get((group.feature, group.value)), result.gated_gap(group))
        for group in result.by_split(up)
    ]
    both = [(g, a, b) for g, a, b in pairs if a is not None and b is not None]
    if not both:
        return None
    values = [value for _, a, b in both for value in (a, b)]
    low, high = min([*values, 0.0]), max([*values, result.eps])
    margin = 0.05 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return round(EDGE + (value - low) / (high - low) * (SIDE - EDGE - 8), 1)

    def y(value: float) -> float:
        return round(SIDE - EDGE - (value - low) / (high - low) * (SIDE - EDGE - 8), 1)

    dots = [
        Dot(
            name="",
            title=f"{printable(_name(group))}: {points(a, group.eps)} on {across}, "
            f"{points(b, group.eps)} on {up}",
            text="",
            x=x(a),
            y=y(b),
            low=None,
            high=None,
            cut=(False, False),
            verdict=group.verdict,
        )
        for group, a, b in both[:DRAWN]
    ]
    return Scatter(
        across=across,
        up=up,
        ticks=[(x(t), y(t), text) for t, text in ticks(low, high, 8)],
        zero=(x(0.0), y(0.0)),
        eps=(x(result.eps), y(result.eps)),
        dots=dots,
        others="".join(f"M{x(a):g} {y(b):g}h0" for _, a, b in both[DRAWN:]),
        left_out=max(len(both) - DRAWN, 0),
    )


def _name(group: GroupResult) -> str:
    return f"{group.feature}={group.value}"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 32 else name[:31] + "…"


def _text(result: AuditResult, group: GroupResult) -> str:
    """``+3.1 (+0.3 to +5.9)``."""
    bounds = f" ({interval(group)})" if group.lower is not None else ""
    return f"{points(result.gated_gap(group), group.eps)}{bounds}"


def _title(result: AuditResult, group: GroupResult) -> str:
    verdict = "" if group.verdict == DESCRIPTIVE else f", {group.verdict}"
    what = quantity(result.policy).removeprefix("the ")
    return f"{printable(_name(group))}: {what} {_text(result, group)} points, n {group.n}{verdict}"
