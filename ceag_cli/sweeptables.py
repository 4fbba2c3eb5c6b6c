"""The tables of a sweep beside its runs: settings, limits and regressions, head first.

Each is a list of rows of text, which Markdown and the page show alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ceag_cli.inert import printable
from ceag_cli.recommendationreport import named, sparsity_of
from ceag_cli.regression import DIFFICULTY, FREQUENCY, Slope
from ceag_cli.report import percent, points
from ceag_cli.sweepfindings import ClassRegression, Limit, Point, Sweep

Rows = list[list[str]]


def markdown_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as a Markdown table, as plain as the terminal shows it."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]] if lines else []


def plus_minus(mean: float, spread: float | None, shown: Callable[[float | None], str]) -> str:
    """A mean with its standard deviation."""
    return shown(mean) if spread is None else f"{shown(mean)} ± {percent(spread)}"


# Accuracy, fairness and sparsity

POINTS = (
    "Means and standard deviations (n − 1) over seeds. Efficient: no other setting is at least as "
    "sparse, as accurate and as even, and in one respect more so; by the means alone, which are "
    "measured with noise. It describes and recommends nothing."
)


def point_rows(found: Sweep) -> Rows:
    """Settings with sparsity, accuracy and largest psi."""
    if not found.points:
        return []
    head = ["sparsity", "approach", "seeds", "accuracy %", "max psi", "efficient"]
    return [head, *(_point(found, point) for point in found.points)]


def _point(found: Sweep, point: Point) -> list[str]:
    return [
        sparsity_of(point.sparsity),
        named(found, point.criterion, point.method),
        str(point.seeds),
        plus_minus(point.accuracy, point.accuracy_spread, percent),
        plus_minus(point.max_excess_gap, point.max_excess_gap_spread, points),
        "yes" if point.efficient else "",
    ]


# Feasibility


def limit_note(found: Sweep) -> str:
    """What the columns of the limits mean."""
    said = found.recommendation
    alpha = said.policy.alpha if said is not None else 0.05
    return (
        "In points. Measured: the largest psi of any seed, the smallest eps that all models keep "
        "on these very images; on train, where constraints are about just these, that is all there "
        "is to ask. Shown: the smallest eps at which the audits of all seeds would pass at "
        f"{alpha:g}, for a setting that was chosen before; of all: the same for all settings "
        "together, so that one may be picked by it. Refuted: at every smaller eps a violation "
        "would be shown."
    )


def limit_rows(found: Sweep) -> Rows:
    """Which eps each setting keeps, on the splits that are described and on those gated."""
    if not found.limits:
        return []
    gated = list(dict.fromkeys(x.split for x in found.limits if x.shown is not None))
    described = list(dict.fromkeys(x.split for x in found.limits if x.split not in gated))
    head = ["sparsity", "approach", "seeds"]
    head += [f"{split}: measured" for split in described]
    for split in gated:
        head += [f"{split}: measured", "shown", "of all", "refuted below", "widest group"]
    by_setting: dict[tuple[float, str, str], dict[str, Limit]] = {}
    for limit in found.limits:
        key = (limit.sparsity, limit.criterion, limit.method)
        by_setting.setdefault(key, {})[limit.split] = limit
    rows = [head]
    for (sparsity, criterion, method), by_split in by_setting.items():
        seeds = max(limit.seeds for limit in by_split.values())
        row = [sparsity_of(sparsity), named(found, criterion, method), str(seeds)]
        for split in described:
            row.append(points(by_split[split].measured) if split in by_split else "–")
        for split in gated:
            row += _limit(by_split[split]) if split in by_split else ["–"] * 5
        rows.append(row)
    return rows


def _limit(limit: Limit) -> list[str]:
    below = limit.refuted is not None and limit.refuted > 0
    return [
        points(limit.measured),
        percent(limit.shown),
        percent(limit.shown_of_all),
        percent(limit.refuted) if below else "–",
        printable(f"{limit.shown_group} (seed {limit.shown_seed})"),
    ]


# Regressions

REGRESSIONS = (
    "By how many points more a class or group loses, per doubling of its training images and per "
    "10 points of the dense model's error; each by itself (alone) and with the other held fixed "
    "(both). 95 % intervals over classes and seeds, each by itself; * where zero is excluded. "
    "Difficulty is taken from other images, and with several seeds from other seeds, than the "
    "drop, and its noise is taken out, so that luck of the dense model is no effect; in brackets "
    "what plain least squares finds. It is no cause: what else rare or difficult classes share is "
    "in it."
)

SCALES = {FREQUENCY: ("per doubling", 100.0), DIFFICULTY: ("per 10 points of error", 10.0)}
"""Of a slope: what it is per, and how many points of drop one is."""


def regression_rows(found: Sweep) -> Rows:
    """A row for each setting: slopes on frequency and difficulty, alone and together."""
    if not found.regressions:
        return []
    head = ["by", "sparsity", "approach", "number"]
    head += [f"{term} {SCALES[term][0]}, alone" for term in SCALES]
    head += [f"{term}, both" for term in SCALES]
    groups: dict[tuple[str, ...], dict[tuple[str, ...], ClassRegression]] = {}
    for each in found.regressions:
        approach = "mean of all settings"
        if each.sparsity is not None:
            approach = named(found, each.criterion or "", each.method or "")
        sparsity = "" if each.sparsity is None else sparsity_of(each.sparsity)
        by = f"{'class' if each.kind == 'class' else 'group'} {printable(each.feature)}"
        groups.setdefault((by, sparsity, approach), {})[each.terms] = each
    fitted = {n: fits for n, fits in groups.items() if any(f.found.slopes for f in fits.values())}
    return [head, *(_regression(n, fits) for n, fits in fitted.items())] if fitted else []


def _regression(names: tuple[str, ...], fits: dict[tuple[str, ...], ClassRegression]) -> list[str]:
    number = str(max(each.found.classes for each in fits.values()))
    cells = [_slope(fits.get((term,)), term) for term in SCALES]
    cells += [_slope(fits.get((FREQUENCY, DIFFICULTY)), term) for term in SCALES]
    return [*names, number, *cells]


def _slope(each: ClassRegression | None, term: str) -> str:
    if each is None:
        return "–"
    slopes = {slope.term: slope for slope in each.found.slopes}
    return slope_text(slopes[term]) if term in slopes else "–"


def slope_text(slope: Slope) -> str:
    """``-0.42 (-0.80 to -0.04) * [-0.61]``."""
    scale = SCALES[slope.term][1]
    low, mean, high, naive = (
        f"{scale * value:+z.2f}"
        for value in (slope.lower, slope.estimate, slope.upper, slope.naive)
    )
    return f"{mean} ({low} to {high}){' *' if slope.excludes_zero else ''} [{naive}]"


def problems_of(found: Sweep) -> list[str]:
    """Why regressions were not fitted, each reason once."""
    said = {
        f"{each.kind} {printable(each.feature)}, {' and '.join(each.terms)}: not fitted, "
        f"{each.found.problem}"
        for each in found.regressions
        if each.found.problem is not None
    }
    return sorted(said)
