"""The runs and comparisons of a sweep as Markdown tables, and the lines that the terminal shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ceag_cli.heldout import Comparison
from ceag_cli.heterogeneity import signed_root
from ceag_cli.recommendationreport import recommendation_lines
from ceag_cli.sweepfindings import Row, Sweep
from ceag_cli.sweeptables import limit_rows, markdown_of, problems_of, regression_rows

SPLITS = ("train", "test")
MOST_ROWS = 25
"""So many regressions are shown one by one; the page has all of them."""


def lines(found: Sweep) -> list[str]:
    """What the terminal shows; what is recommended comes last, where it is seen."""
    named = bool(found.plan.criteria)
    said = [_sentence(each, named) for each in _gathered(found.comparisons, ("test",))]
    slopes = regression_rows(found)
    if len(slopes) > MOST_ROWS:  # those that sum up the others
        means = [each for each in found.regressions if each.sparsity is None]
        slopes = regression_rows(replace(found, regressions=tuple(means))) or slopes
    parts = [
        table(found),
        said,
        markdown_of(limit_rows(found)),
        markdown_of(slopes),
        problems_of(found),
        recommendation_lines(found),
    ]
    return [line for part in parts if part for line in ("", *part)][1:]


# Runs


def table(found: Sweep, splits: Sequence[str] = SPLITS) -> list[str]:
    """The sweep as two Markdown tables: mean and standard deviation (n - 1) over seeds, in percent.

    ``held`` counts the seeds for which every psi is at most eps. In the second, *spread* is the
    square root of the between-group variance, negative where that is.
    """
    first = ["accuracy", "max psi", "pairwise", "held"]
    second = ["split-half harm", "spread", "mean positive psi", "noise floor", "worst group"]
    return [
        *_table(found, splits, first, _cells),
        "",
        *_table(found, splits, second, _more_cells),
    ]


def _table(found: Sweep, splits: Sequence[str], names: Sequence[str], cells: Any) -> list[str]:
    plan = found.plan
    columns = ["sparsity", *["criterion"] * bool(plan.criteria), "method", "seeds"]
    for split in splits:
        columns += [f"{split}: {names[0]}", *names[1:]]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for sparsity in plan.sparsities:
        for approach in plan.approaches:
            key = (sparsity, plan.criterion_of(approach), approach.method)
            rows = [r for r in found.rows if (r.sparsity, r.criterion, r.method) == key]
            if not rows:
                continue
            seeds = len({row.seed for row in rows})
            line = [f"{100 * sparsity:g} %", *[key[1]] * bool(plan.criteria)]
            line += [approach.method, str(seeds)]
            for split in splits:
                of_split = [row for row in rows if row.split == split]
                line += cells(of_split) if of_split else [""] * len(names)
            lines.append(f"| {' | '.join(line)} |")
    return lines


def _cells(rows: Sequence[Row]) -> list[str]:
    held = sum(row.max_excess_gap <= row.eps for row in rows)
    return [
        _spread([row.acc_sparse for row in rows]),
        _spread([row.max_excess_gap for row in rows]),
        _spread([row.pairwise_disparity for row in rows]),
        f"{held} of {len(rows)}",
    ]


def _more_cells(rows: Sequence[Row]) -> list[str]:
    variances = [row.between_group_variance for row in rows]
    return [
        _spread([row.split_half_harm for row in rows]),
        _spread([None if v is None else float(signed_root(v)) for v in variances]),
        _spread([row.mean_positive_gap for row in rows]),
        _spread([row.noise_floor for row in rows]),
        _spread([row.worst_group_accuracy for row in rows]),
    ]


def _spread(fractions: Sequence[float | None]) -> str:
    known = [value for value in fractions if value is not None]
    if len(known) < len(fractions):
        return ""
    mean = f"{100 * statistics.mean(known):z.1f}"
    if len(known) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(known):.1f}"


# Comparisons

SHOWN = {
    "accuracy": ("accuracy", "points", 100.0),
    "between_group_variance": ("between-group variance", "points²", 10_000.0),
    "split_half_harm": ("split-half harm", "points", 100.0),
}
"""Statistics that the Markdown table has: heading, unit, and how many of it make one."""

Gathered = dict[str, Comparison]
"""The statistics of one pair at one sparsity on one split."""


def comparison_table(found: Sweep) -> list[str]:
    """The comparisons as a Markdown table: method less rival, with 95 % intervals."""
    heads = [f"{name}, {unit}" for name, unit, _ in SHOWN.values()]
    named = bool(found.plan.criteria)
    columns = ["split", "sparsity", *["criterion"] * named, "method", "less", "seeds", *heads]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for each in _gathered(found.comparisons, ("test", "val", "train")):
        first = each["accuracy"]
        seeds = str(first.difference.seeds)
        if first.difference.error_seeds is None:
            seeds += " (images only)"
        cells = [first.split, f"{100 * first.sparsity:g} %", *[first.criterion] * named]
        cells += [first.method, first.rival, seeds]
        cells += [_interval(each[name], scale) for name, (_, _, scale) in SHOWN.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Method less rival at the same seed on the same images, mean over seeds, with 95 % "
        "intervals over seeds and images,",
        "each by itself; * where it excludes zero. Of accuracy more is better, of the others less. "
        "Where there is one seed,",
        "other seeds may differ by more than the interval says.",
    ]


def _gathered(comparisons: Sequence[Comparison], splits: Sequence[str]) -> list[Gathered]:
    found: dict[tuple[Any, ...], Gathered] = {}
    for each in comparisons:
        key = (each.split, each.sparsity, each.criterion, each.method, each.rival)
        found.setdefault(key, {})[each.statistic] = each
    return [each for split in splits for key, each in found.items() if key[0] == split]


def _interval(comparison: Comparison, scale: float) -> str:
    found = comparison.difference
    values = [scale * value for value in (found.estimate, found.lower, found.upper)]
    if not all(map(math.isfinite, values)):
        return "" if math.isnan(values[0]) else f"{values[0]:+z.2f}"
    star = " *" if found.excludes_zero else ""
    return f"{values[0]:+z.2f} ({values[1]:+z.2f} to {values[2]:+z.2f}){star}"


def _sentence(each: Gathered, named: bool) -> str:
    """One pair on one split, for the terminal."""
    first = each["accuracy"]
    seeds = first.difference.seeds
    parts = [
        f"{name} {_interval(each[key], scale) or 'not known'} {unit}"
        for key, (name, unit, scale) in SHOWN.items()
    ]
    over = f"{seeds} seeds" if seeds > 1 else "1 seed, over images only"
    return (
        f"{first.method} less {first.rival}, {f'{first.criterion}, ' * named}"
        f"{100 * first.sparsity:g} %, {first.split} ({over}): "
        f"{'; '.join(parts)}"
    )
