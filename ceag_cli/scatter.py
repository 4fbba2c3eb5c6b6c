"""A sweep as a picture: accuracy against harm, for every approach, on test and on train.

One column of panels for each sparsity. Above test, where the harm is the split-half harm, which
chance alone does not raise; below train, where the largest psi is what training was to hold.
Approaches differ in colour and in marker, so that a black and white print can be read.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ceag_cli.sweepfindings import Row, Sweep

if TYPE_CHECKING:  # it takes a second to import, and most commands draw nothing
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
"""Of Okabe and Ito (2008) and, last, Tol: most colour-blind people tell them apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
"""As many as are not a multiple of the colours: the pairs repeat after 88 methods."""

STYLE: Any = {
    "svg.hashsalt": "ceag",  # names of the parts of the file, which are random otherwise
    "svg.fonttype": "path",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class _Panels:
    """One row of panels."""

    split: str
    harm: str
    """Name of the column of the rows."""
    label: str


ROWS = (
    _Panels("test", "split_half_harm", "test: split-half harm, points"),
    _Panels("train", "max_excess_gap", "train: max psi, points"),
)


def as_svg(found: Sweep) -> str:
    """The picture as SVG: the same rows give the same bytes, with one version of matplotlib."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        drawn(found).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def drawn(found: Sweep) -> Figure:
    """The picture as a figure of matplotlib.

    Small points are seeds, the large one is their mean, with bars of one standard deviation (n - 1)
    over seeds. The dashed line is eps, where it lies within what is shown; the grey one in the
    upper row is 0, which is what is to be expected where no group is harmed more than others.
    """
    from matplotlib.figure import Figure

    plan, sparsities = found.plan, found.plan.sparsities
    approaches = {(plan.criterion_of(a), a.method): str(a) for a in plan.approaches}
    legend = 0.25 + 0.2 * -(-len(approaches) // 4)
    size = (max(3.4 * len(sparsities), 5.6), 5.6 + legend)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(ROWS), len(sparsities), sharey="row", squeeze=False)
    for panels, of_row in zip(ROWS, axes, strict=True):
        for sparsity, panel in zip(sparsities, of_row, strict=True):
            own = [r for r in found.rows if (r.sparsity, r.split) == (sparsity, panels.split)]
            for number, approach in enumerate(approaches):
                rows = [r for r in own if (r.criterion, r.method) == approach]
                _points(panel, rows, panels.harm, number)
            panel.set_xlabel(f"{panels.split}: accuracy, %")
            panel.grid(color="0.92", linewidth=0.6)
            panel.set_axisbelow(True)
            if panels is ROWS[0]:
                panel.set_title(f"sparsity {100 * sparsity:g} %")
        of_row[0].set_ylabel(panels.label)
        _lines(of_row, [row.eps for row in found.rows], panels is ROWS[0])
    handles = [_handle(number, name) for number, name in enumerate(approaches.values())]
    figure.legend(handles=[*handles, *_keys()], loc="outside lower center", ncols=4, frameon=False)
    return figure


def _points(panel: Any, rows: Sequence[Row], harm: str, number: int) -> None:
    """The runs of one approach in one panel."""
    known = [(row.acc_sparse, getattr(row, harm)) for row in rows]
    known = [(100 * x, 100 * y) for x, y in known if y is not None]
    if not known:
        return
    x, y = (list(values) for values in zip(*known, strict=True))
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    panel.scatter(x, y, s=14, marker=marker, color=colour, alpha=0.45, linewidths=0, zorder=2)
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in (x, y)]
    panel.errorbar(
        statistics.mean(x),
        statistics.mean(y),
        xerr=spread[0],
        yerr=spread[1],
        marker=marker,
        markersize=7,
        color=colour,
        markeredgecolor="black",
        markeredgewidth=0.7,
        elinewidth=0.9,
        zorder=3,
    )


def _lines(panels: Sequence[Any], eps: Sequence[float], zero: bool) -> None:
    """The lines of eps and of 0, without making room for them."""
    low, high = panels[0].get_ylim()
    for panel in panels:
        for value in sorted(set(eps)):
            panel.axhline(100 * value, color="black", linestyle="--", linewidth=0.9, zorder=1)
        if zero:
            panel.axhline(0, color="0.6", linewidth=0.9, zorder=1)
    panels[0].set_ylim(low, high)


def _handle(number: int, name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        linestyle="none",
        marker=MARKERS[number % len(MARKERS)],
        markersize=7,
        color=COLOURS[number % len(COLOURS)],
        markeredgecolor="black",
        markeredgewidth=0.7,
        label=_plain(name),
    )


def _keys() -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="eps")]


def _plain(text: str) -> str:
    """A name as it is: a dollar sign would begin a formula, an underscore hide the entry."""
    escaped = text.replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped
