"""A sweep as one self-contained HTML page, in the manner of an audit's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from ceag_cli.axes import Axis
from ceag_cli.findings import FAIL, INCONCLUSIVE, PASS
from ceag_cli.groupplots import DRAWN, LABELS, NUMBERS, ROW, SHAPES, WIDTH, Dot, Plot
from ceag_cli.recommendationreport import (
    named,
    recommendation_lines,
    sequence_rows,
    sparsity_of,
    verdict_of,
)
from ceag_cli.report import percent, points, tolerance
from ceag_cli.scatter import COLOURS
from ceag_cli.sweepfindings import Limit, Point, Sweep
from ceag_cli.sweeptables import (
    POINTS,
    REGRESSIONS,
    limit_note,
    limit_rows,
    plus_minus,
    point_rows,
    problems_of,
    regression_rows,
)
from ceag_cli.templates import template

HEIGHT, EDGE = 420, 60
"""Pixels of the plot of accuracy and psi: its height, and its margin at the left and below."""

MARKS = (
    *("m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "m-5-5h10v10h-10z", "m0-6.5l6 11h-12z"),
    *("m0-6.5l6.5 6.5-6.5 6.5-6.5-6.5z", "m0 6.5l6-11h-12z"),
    "m-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
)
"""Shapes of approaches; with the dashes they repeat after 30, with the colours much later."""
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 4")
PLACES = ((9, -6, "start"), (-9, -6, "end"), (9, 15, "start"), (-9, 15, "end"))
"""Where the numbers of an approach stand beside its marks, so that few cover each other."""


@dataclass(frozen=True)
class Style:
    """How an approach is drawn: by shape, dash and colour, any one of which tells it."""

    name: str
    colour: str
    dash: str
    mark: str
    place: tuple[int, int, str]
    """Of its numbers: to the right, down, and the anchor of the text."""


@dataclass(frozen=True)
class Mark:
    """A setting in the plot of accuracy and psi."""

    title: str
    label: str
    x: float
    y: float
    bars: str
    """Standard deviations over seeds, as the path of an SVG."""
    efficient: bool


@dataclass(frozen=True)
class Curve:
    """The settings of an approach, from the lightest sparsity on."""

    style: Style
    path: str
    marks: list[Mark]


@dataclass(frozen=True)
class Fronts:
    """The plot of accuracy, largest psi and sparsity."""

    ticks_x: list[tuple[float, str]]
    ticks_y: list[tuple[float, str]]
    eps: float | None
    """Its height, where it lies within the plot."""
    curves: list[Curve]


def fronts(found: Sweep) -> Fronts | None:
    """Place every setting by its accuracy and largest psi; ``None`` without any."""
    if not found.points:
        return None

    def around(mean: float, spread: float | None) -> list[float]:
        return [mean - (spread or 0.0), mean + (spread or 0.0)]

    x_values = [v for p in found.points for v in around(p.accuracy, p.accuracy_spread)]
    y_values = [v for p in found.points for v in around(p.max_excess_gap, p.max_excess_gap_spread)]
    x = Axis.around(x_values, EDGE, WIDTH - 24)
    y = Axis.around([*y_values, 0.0], HEIGHT - EDGE, 10)
    by_approach: dict[tuple[str, str], list[Point]] = {}
    for point in found.points:
        by_approach.setdefault((point.criterion, point.method), []).append(point)
    curves = []
    for number, (approach, own) in enumerate(by_approach.items()):
        marks = [_mark(found, point, x, y) for point in own]
        path = "L".join(f"{mark.x} {mark.y}" for mark in marks)
        curves.append(Curve(_style(number, named(found, *approach)), f"M{path}", marks))
    eps = found.recommendation.policy.eps if found.recommendation is not None else found.plan.eps
    return Fronts(
        ticks_x=x.ticks(sign=False),
        ticks_y=y.ticks(8),
        eps=y.place(eps) if y.low <= eps <= y.high else None,
        curves=curves,
    )


def _style(number: int, name: str) -> Style:
    colours = ["var(--ink)" if colour == "#000000" else colour for colour in COLOURS]
    return Style(
        name=name,
        colour=colours[number % len(colours)],
        dash=DASHES[number % len(DASHES)],
        mark=MARKS[number % len(MARKS)],
        place=PLACES[number % len(PLACES)],
    )


def _mark(found: Sweep, point: Point, x: Axis, y: Axis) -> Mark:
    across, up = x.place(point.accuracy), y.place(point.max_excess_gap)
    bars = ""
    if point.accuracy_spread is not None and point.max_excess_gap_spread is not None:
        ends = [
            axis.place(mean + sign * spread)
            for axis, mean, spread in (
                (x, point.accuracy, point.accuracy_spread),
                (y, point.max_excess_gap, point.max_excess_gap_spread),
            )
            for sign in (-1, 1)
        ]
        bars = f"M{ends[0]} {up}H{ends[1]}M{across} {ends[2]}V{ends[3]}"
    accuracy = plus_minus(point.accuracy, point.accuracy_spread, percent)
    gap = plus_minus(point.max_excess_gap, point.max_excess_gap_spread, points)
    return Mark(
        title=f"{sparsity_of(point.sparsity)}, {named(found, point.criterion, point.method)}: "
        f"accuracy {accuracy} %, max psi {gap}{', efficient' if point.efficient else ''}",
        label=f"{100 * point.sparsity:g}",
        x=across,
        y=up,
        bars=bars,
        efficient=point.efficient,
    )


def limits_plot(found: Sweep) -> Plot | None:
    """Place the eps that every setting keeps, on the first gated split; ``None`` without any.

    The mark is what was measured, the bar goes from what is refuted to what is shown. Its shape is
    the verdict that an audit of all seeds would have at the sweep's eps.
    """
    gated = [limit for limit in found.limits if limit.shown is not None]
    limits = [limit for limit in gated if limit.split == gated[0].split]
    if not limits or found.recommendation is None:
        return None
    eps = found.recommendation.policy.eps
    values = [v for x in limits for v in (x.measured, x.shown or 0.0, max(x.refuted or 0.0, 0.0))]
    axis = Axis.around([0.0, eps, *values], LABELS, WIDTH - NUMBERS, 0.03)
    rows = limits[:DRAWN]
    height = ROW * len(rows)
    return Plot(
        height=height + 34,
        zero=axis.place(0.0),
        eps=[(axis.place(eps), 4, height + 8)],
        ticks=axis.ticks(sign=False),
        dots=[_dot(found, limit, axis, ROW * (i + 0.5) + 6, eps) for i, limit in enumerate(rows)],
        left_out=len(limits) - len(rows),
    )


def _dot(found: Sweep, limit: Limit, axis: Axis, y: float, eps: float) -> Dot:
    assert limit.shown is not None
    verdict = INCONCLUSIVE
    if limit.shown <= eps:
        verdict = PASS
    elif limit.refuted is not None and limit.refuted > eps:
        verdict = FAIL
    name = f"{sparsity_of(limit.sparsity)}, {named(found, limit.criterion, limit.method)}"
    text = f"{points(limit.measured)}, shown {percent(limit.shown)}"
    return Dot(
        name=name if len(name) <= 32 else name[:31] + "…",
        title=f"{name}: largest psi of {limit.seeds} seeds {text} points",
        text=text,
        x=axis.place(limit.measured),
        y=round(y, 1),
        low=axis.place(max(limit.refuted or 0.0, 0.0)),
        high=axis.place(limit.shown),
        cut=(False, False),
        verdict=verdict,
    )


def sweep_page(found: Sweep) -> str:
    """The whole page. Names from the recipe and the CSV are escaped, so they stay inert."""
    headline, *others = recommendation_lines(found)
    said = found.recommendation
    plan = found.plan
    tables = [
        ("How far each approach passes", "", sequence_rows(found)),
        ("", POINTS, point_rows(found)),
        ("", limit_note(found), limit_rows(found)),
        ("", REGRESSIONS, regression_rows(found)),
    ]
    return template("sweep.html.jinja", tolerance=tolerance).render(
        headline=headline,
        lines=others,
        verdict=verdict_of(said),
        plan=plan,
        approaches=[str(approach) for approach in plan.approaches],
        sparsities=[sparsity_of(sparsity) for sparsity in plan.sparsities],
        missing=found.missing,
        eps=said.policy.eps if said is not None else plan.eps,
        gated=", ".join(said.gated) if said is not None else "",
        sequences=tables[0],
        points=tables[1],
        limits=tables[2],
        regressions=tables[3],
        problems=problems_of(found),
        fronts=fronts(found),
        plot=limits_plot(found),
        shapes={verdict: SHAPES[verdict] for verdict in (PASS, INCONCLUSIVE, FAIL)},
        version=version("ceag"),
        width=WIDTH,
        height=HEIGHT,
        edge=EDGE,
        labels=LABELS,
        numbers=NUMBERS,
        drawn=DRAWN,
        side=0,
    )
