"""What the numbers beside psi cost: churn, calibration, confusion and strata of a large split.

    make bench-audit      # the results are in docs/benchmarks.md

Answers are drawn at random: 80 % right, every tenth image answered differently by the sparse model,
groups and control levels of equal size. Each case runs in a process of its own, so that its peak of
memory is its own; the arrays that it is given, and torch, are in it. The fastest of three times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ceag_cli.shiftreport import shift_html, shift_lines
from ceag_cli.shifts import Answers, Said, document, shifts

CASES = (
    # images, groups, features, classes, control levels, share changed
    (10_000, 100, 1, 100, 0, 0.1),
    (1_000_000, 10_000, 1, 1_000, 0, 0.1),
    (1_000_000, 10_000, 1, 1_000, 10, 0.1),
    (1_000_000, 10_000, 1, 1_000, 1_000, 0.1),
    (1_000_000, 10_000, 3, 1_000, 10, 0.1),
    (1_000_000, 10_000, 1, 1_000, 10, 0.9),
)


def drawn(
    images: int, groups: int, features: int, classes: int, levels: int, changed: float
) -> Answers:
    rng = np.random.default_rng(0)
    label = rng.integers(classes, size=images)
    dense = np.where(rng.random(images) < 0.8, label, rng.integers(classes, size=images))
    sparse = np.where(rng.random(images) < changed, rng.integers(classes, size=images), dense)

    def said(predicted: np.ndarray) -> Said:
        return Said(predicted, 1 - rng.random(images) ** 2, rng.exponential(0.5, images))

    each = groups // features
    return Answers(
        split="test",
        label=label,
        dense=said(dense),
        sparse=said(sparse),
        groups=rng.integers(each, size=(images, features)) + each * np.arange(features),
        names=[(f"feature{f}", f"group{g}") for f in range(features) for g in range(each)],
        classes=[f"class{k}" for k in range(classes)],
        control="level" if levels else None,
        strata=rng.integers(levels, size=images) if levels else None,
        levels=[f"level{k}" for k in range(levels)],
    )


def fastest(what: Callable[[], Any]) -> tuple[Any, float]:
    """Of three times, since a machine may be busy now and then."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = what()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def measured(number: int) -> dict[str, float]:
    answers = drawn(*CASES[number])
    found, numbers = fastest(lambda: shifts(answers))
    text, written = fastest(lambda: json.dumps(document(found)))
    _, shown = fastest(lambda: (shift_lines(found), shift_html(found)))
    return {
        "numbers": numbers,
        "json": written,
        "page": shown,
        "megabytes of json": len(text) / 1e6,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=int, help="one of the cases, here; prints JSON")
    case = parser.parse_args().case
    if case is not None:
        print(json.dumps(measured(case)))
        return
    print(
        "| images | groups | features | classes | control levels | changed | numbers | as JSON "
        "| lines, page | peak of memory |\n|" + "---|" * 10
    )
    for number, (images, groups, features, classes, levels, changed) in enumerate(CASES):
        line = [sys.executable, __file__, "--case", str(number)]
        output = subprocess.run(
            line, check=True, capture_output=True, text=True, env=os.environ
        ).stdout
        found = json.loads(output)
        print(
            f"| {images:,} | {groups:,} | {features} | {classes:,} | {levels:,} | {changed:.0%} "
            f"| {found['numbers']:.2f} s | {found['json']:.2f} s, "
            f"{found['megabytes of json']:.0f} MB | {found['page']:.2f} s "
            f"| {found['peak']:.2f} GB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
