"""The page of a sweep, and its sentences and tables, from made-up findings."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ceag_cli.axes import Axis, ticks
from ceag_cli.experiment import Plan
from ceag_cli.policy import Policy
from ceag_cli.recommendationreport import recommendation_lines, verdict_of
from ceag_cli.regression import Regression, Slope
from ceag_cli.sweepfindings import (
    BY_ALPHA,
    BY_VAL,
    ClassRegression,
    Limit,
    Point,
    Recommendation,
    Sequence,
    Step,
    Sweep,
)
from ceag_cli.sweeppage import DASHES, MARKS, fronts, limits_plot, sweep_page
from ceag_cli.sweeptables import limit_rows, point_rows, regression_rows, slope_text

PLAN = Plan(
    *("t", (0, 1, 2), (0.8, 0.95), {}, {}, {}, {"naive": {}, "ceag": {}}, {}),
    {"layer": {}},
    {"eps": 0.05},
)
PASSED = Step(0.8, "PASS")
STOPPED = Step(0.95, "FAIL", "race=<b>x</b>", 1, 0.081, 0.056, 0.102)


def sequence(method: str, *steps: Step, alpha: float | None = 0.05) -> Sequence:
    passing = [step.sparsity for step in steps if step.verdict == "PASS"]
    return Sequence("layer", method, alpha, steps, max(passing, default=None), 1, 0.04)


def recommendation(*sequences: Sequence, **changes: Any) -> Recommendation:
    best = max(sequences, key=lambda s: s.passes_up_to or 0)
    found = best.passes_up_to is not None
    given: dict[str, Any] = {
        "policy": Policy(eps=0.05),
        "seeds": 3,
        "gated": ("test",),
        "chosen_by": BY_VAL,
        "sequences": sequences,
        "criterion": best.criterion if found else None,
        "method": best.method if found else None,
        "sparsity": best.passes_up_to,
        "seeds_lower": 0.37 if found else None,
    }
    return Recommendation(**(given | changes))


def swept(said: Recommendation | None, **changes: Any) -> Sweep:
    return Sweep(PLAN, (), Path("t"), recommendation=said, **changes)


UNTESTED = sequence("naive", Step(0.8, "NOT_TESTED"), Step(0.95, "NOT_TESTED"), alpha=None)
FOUND = swept(recommendation(UNTESTED, sequence("ceag", PASSED, STOPPED)))


def test_the_recommendation_is_a_sentence() -> None:
    first, basis, meaning = recommendation_lines(FOUND)
    assert first == (
        "80 % passes at eps 5 points in all 3 seeds (layer, ceag); 95 % does not: first violated "
        "group: race=<b>x</b> (seed 1: psi +8.1, shown to be above eps)."
    )
    assert basis.startswith("The approach was chosen on val among 2, and alone is tested on test")
    assert meaning.endswith("that at least 37 % of them would pass.")
    assert verdict_of(FOUND.recommendation) == "PASS"


def test_what_is_not_shown_is_not_called_a_violation() -> None:
    open_ = replace(STOPPED, verdict="INCONCLUSIVE", excess_gap=0.041, upper=0.062)
    first = recommendation_lines(swept(recommendation(sequence("ceag", PASSED, open_))))[0]
    assert first.endswith(
        "95 % does not: not shown for race=<b>x</b> (seed 1: psi +4.1, which may be up to +6.2)."
    )


def test_where_nothing_passes_the_smallest_eps_is_named() -> None:
    fails = replace(STOPPED, sparsity=0.8)
    one, two = sequence("naive", fails, alpha=0.025), sequence("ceag", fails, alpha=0.025)
    said = recommendation(one, two, chosen_by=BY_ALPHA)
    lines = recommendation_lines(swept(said, limits=LIMITS))
    assert lines[0] == (
        "No setting passes at eps 5 points. The smallest eps that any setting is shown to keep is "
        "7.1 points (80 %, layer, naive)."
    )
    assert lines[1].startswith("layer, naive: 80 % does not: first violated group")
    assert lines[3].startswith("Each of 2 approaches is tested on test at 0.05 / 2: ")
    assert verdict_of(said) == "FAIL"


def test_everything_passes_and_nothing_is_there() -> None:
    all_pass = sequence("ceag", PASSED, Step(0.95, "PASS"))
    first = recommendation_lines(swept(recommendation(all_pass)))[0]
    assert first == (
        "95 % passes at eps 5 points in all 3 seeds (layer, ceag), the sparsest setting there is."
    )
    assert recommendation_lines(swept(None)) == [
        "No run has been audited, so nothing can be recommended."
    ]
    assert verdict_of(None) == "NO_DATA"
    assert "<svg" not in sweep_page(swept(None))


def limit(sparsity: float, shown: float | None, refuted: float, split: str = "test") -> Limit:
    bounds = (shown, "g=a", 1, None if shown is None else shown + 0.01, refuted)
    return Limit(sparsity, "layer", "naive", split, 3, 0.04, 0.03, "g=a", 1, *bounds)


LIMITS = (
    limit(0.8, 0.061, -0.01),
    limit(0.95, 0.12, 0.052),
    replace(limit(0.8, None, 0, "train"), measured=0.1, shown_of_all=None, refuted=None),
)


def test_limits_are_in_points_and_train_is_only_measured() -> None:
    assert limit_rows(swept(FOUND.recommendation, limits=LIMITS)) == [
        [
            *("sparsity", "approach", "seeds", "train: measured", "test: measured", "shown"),
            *("of all", "refuted below", "widest group"),
        ],
        ["80 %", "layer, naive", "3", "+10.0", "+4.0", "6.1", "7.1", "–", "g=a (seed 1)"],
        ["95 %", "layer, naive", "3", "–", "+4.0", "12.0", "13.0", "5.2", "g=a (seed 1)"],
    ]


def test_the_mark_of_a_limit_is_the_verdict_that_eps_would_get() -> None:
    within = (limit(0.5, 0.049, -0.01), *LIMITS)
    plot = limits_plot(swept(FOUND.recommendation, limits=within))
    assert plot is not None
    assert [dot.verdict for dot in plot.dots] == ["PASS", "INCONCLUSIVE", "FAIL"]
    (eps, _, _) = plot.eps[0]
    assert plot.dots[0].high is not None
    assert plot.dots[2].low is not None
    assert plot.dots[0].high < eps < plot.dots[2].low
    assert limits_plot(swept(FOUND.recommendation)) is None


def point(method: str, sparsity: float, accuracy: float, gap: float, efficient: bool) -> Point:
    spread = None if method == "ceag" else 0.01
    own = (3, accuracy, spread, gap, spread, efficient)
    return Point(sparsity, "layer", method, "test", *own)


POINTS = (
    point("naive", 0.8, 0.6, 0.02, True),
    point("naive", 0.95, 0.5, 0.08, False),
    point("ceag", 0.8, 0.59, 0.01, True),
    point("ceag", 0.95, 0.52, 0.04, True),
)


def test_settings_are_placed_by_accuracy_and_psi() -> None:
    found = fronts(swept(FOUND.recommendation, points=POINTS))
    assert found is not None
    naive, ceag = found.curves
    assert naive.marks[0].x > naive.marks[1].x  # less accurate, further to the left
    assert naive.marks[0].y > naive.marks[1].y  # more psi, further up
    assert found.eps is not None
    assert naive.marks[1].y < found.eps < ceag.marks[1].y
    assert (naive.marks[0].bars != "", ceag.marks[0].bars) == (True, "")
    assert [mark.label for mark in naive.marks] == ["80", "95"]
    assert (naive.style.mark, naive.style.dash) != (ceag.style.mark, ceag.style.dash)
    rows = point_rows(swept(FOUND.recommendation, points=POINTS))
    assert rows[1] == ["80 %", "layer, naive", "3", "60.0 ± 1.0", "+2.0 ± 1.0", "yes"]
    assert rows[4] == ["95 %", "layer, ceag", "3", "52.0", "+4.0", "yes"]


def test_approaches_can_be_told_without_colours() -> None:
    pairs = {(MARKS[i % len(MARKS)], DASHES[i % len(DASHES)]) for i in range(30)}
    assert len(pairs) == 30


SLOPE = Slope("difficulty", 0.2, 0.05, 0.35, -0.1, 0.05, 0.02, 9.0)
FITS = (
    ClassRegression(
        *("test", "class", "label", 0.8, "layer", "naive", ("difficulty",)),
        Regression(100, 3, (SLOPE,), 0.9),
    ),
    ClassRegression(
        *("test", "group", "race", 0.8, "layer", "naive", ("difficulty",)),
        Regression(7, 3, (), None, "7 are too few, it takes 8"),
    ),
)


def test_slopes_are_per_ten_points_of_error_with_a_star_and_the_naive_one() -> None:
    assert slope_text(SLOPE) == "+2.00 (+0.50 to +3.50) * [-1.00]"
    frequency = replace(SLOPE, term="frequency", estimate=-0.01, lower=-0.02, upper=0.0)
    assert slope_text(frequency) == "-1.00 (-2.00 to +0.00) [-10.00]"
    rows = regression_rows(swept(FOUND.recommendation, regressions=FITS))
    assert len(rows) == 2
    assert rows[1] == [
        *("class label", "80 %", "layer, naive", "100"),
        *("–", "+2.00 (+0.50 to +3.50) * [-1.00]", "–", "–"),
    ]


def test_the_page_is_whole_and_names_are_inert() -> None:
    found = replace(FOUND, points=POINTS, limits=LIMITS, regressions=FITS, missing=2)
    page = sweep_page(found)
    assert "<b>x</b>" not in page
    assert "race=&lt;b&gt;x&lt;/b&gt;" in page
    assert "2 runs of the recipe are missing" in page
    assert "group race, difficulty: not fitted, 7 are too few, it takes 8" in page
    assert "://" not in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2 + 2 + 3  # two plots, and their legends
    for picture in pictures:
        ET.fromstring(picture)
    assert page == sweep_page(found)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (-0.012, 0.031, 5, ["-1", "0", "+1", "+2", "+3"]),
        (0.1, 0.9, 5, ["+20", "+40", "+60", "+80"]),
        (0.0, 0.0101, 12, ["+0.1", "+0.2", "+0.3", "+0.4", "+0.5"]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, expected: list[str]) -> None:
    assert [text for _, text in ticks(low, high, most)][: len(expected)] == expected


def test_an_axis_may_go_up() -> None:
    axis = Axis.around([0.0, 0.1], 100, 0, margin=0)
    assert [axis.place(v) for v in (0.0, 0.05, 0.1, 0.2)] == [100, 50, 0, 0]
    assert Axis.around([0.3], 0, 10).place(0.3) == 5
