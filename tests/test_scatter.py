from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ceag_cli.experiment import Plan
from ceag_cli.scatter import COLOURS, MARKERS, as_svg, drawn
from ceag_cli.sweepfindings import Row, Sweep


def row(method: str, seed: int, split: str, acc: float, harm: float, sparsity: float = 0.9) -> Row:
    more = (0.0, 0.0, 0.0, 0.0, harm)
    return Row(
        "t", sparsity, "magnitude", method, seed, split, 9, 1.0, acc, harm, "g=a", 0.0, 0.05, *more
    )


def swept(
    rows: Sequence[Row], methods: Sequence[str], sparsities: Sequence[float] = (0.9,)
) -> Sweep:
    plan = Plan("t", (0, 1), tuple(sparsities), {}, {}, {}, {name: {} for name in methods})
    return Sweep(plan, tuple(rows), Path("t"))


TWO = [
    row(method, seed, split, acc + 0.02 * seed, harm + 0.01 * seed)
    for method, acc, harm in (("naive", 0.3, 0.04), ("ceag", 0.4, 0.01))
    for seed in (0, 1)
    for split in ("train", "test")
]


def panels(found: Sweep) -> list[Any]:
    return list(drawn(found).axes)


def errorbars(panel: Any) -> list[tuple[float, float]]:
    """Where the large points are."""
    found = [line for line in panel.get_lines() if line.get_markersize() == 7]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in found]


def test_every_panel_has_the_runs_of_its_sparsity_and_split() -> None:
    more = [replace(each, sparsity=0.95, acc_sparse=each.acc_sparse / 2) for each in TWO]
    axes = panels(swept([*TWO, *more], ["naive", "ceag"], [0.9, 0.95]))
    first, second, third, _ = axes
    assert [panel.get_title() for panel in axes] == [
        "sparsity 90 %",
        "sparsity 95 %",
        "",
        "",
    ]
    assert errorbars(first) == [pytest.approx((31, 4.5)), pytest.approx((41, 1.5))]
    assert errorbars(second) == [pytest.approx((15.5, 4.5)), pytest.approx((20.5, 1.5))]
    assert errorbars(third) == errorbars(first)  # the same numbers, on train
    points = [collection.get_offsets() for collection in first.collections]
    seeds = [p.tolist() for p in points if len(p) == 2]
    assert [30.0, 4.0] in [pytest.approx(p) for p in seeds[0]]
    assert first.get_ylabel() == "test: split-half harm, points"
    assert third.get_xlabel() == "train: accuracy, %"


def test_eps_and_zero_are_drawn_without_making_room_for_them() -> None:
    test, train = panels(swept(TWO, ["naive", "ceag"]))
    flat = [
        [line.get_ydata()[0] for line in panel.get_lines() if line.get_marker() == "None"]
        for panel in (test, train)
    ]
    assert set(flat[0]) >= {5.0, 0.0}
    assert 5.0 in flat[1]
    assert 0.0 not in flat[1]
    assert test.get_ylim()[0] > 0


def test_one_seed_has_a_point_and_nothing_known_has_none() -> None:
    one = row("ceag", 0, "test", 0.4, 0.01)
    test, train = panels(swept([one], ["ceag"]))
    assert errorbars(test) == [pytest.approx((40, 1))]
    assert errorbars(train) == []
    nothing, _ = panels(swept([replace(one, split_half_harm=None)], ["ceag"]))
    assert errorbars(nothing) == []
    assert "<svg" in as_svg(swept([], ["ceag"]))


def test_methods_differ_in_colour_and_marker() -> None:
    pairs = [(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(88)]
    assert len(set(pairs)) == 88
    assert len(set(MARKERS)) == len(MARKERS) == 11


def test_the_file_is_the_same_again_and_is_svg() -> None:
    found = swept(TWO, ["naive", "ceag"])
    text = as_svg(found)
    assert text == as_svg(found)
    assert ET.fromstring(text).tag.endswith("svg")
    assert "date" not in text.lower()
    assert not any(line.endswith(" ") for line in text.splitlines())


@pytest.mark.parametrize("name", ["$x", "_hidden", "a_b^2", "näive"])
def test_any_name_can_be_drawn(name: str) -> None:
    figure = drawn(swept([row(name, 0, "test", 0.4, 0.01)], [name]))
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 2
    assert labels[0].replace("\\$", "$").replace("\u200b", "") == name
    assert as_svg(swept([row(name, 0, "test", 0.4, 0.01)], [name]))
