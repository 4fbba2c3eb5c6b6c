"""A sweep as JSON, as ``sweep.schema.json`` describes it, and its runs as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ceag_cli.documents import policy_document
from ceag_cli.heldout import Comparison
from ceag_cli.recommendationreport import recommendation_lines, verdict_of
from ceag_cli.sheet import cell
from ceag_cli.sweepfindings import ClassRegression, Recommendation, Row, Sweep

SWEEP_SCHEMA_VERSION = 2

COMPARED = [
    *("task", "sparsity", "criterion", "split", "method", "rival", "statistic"),
    *("mean_method", "mean_rival"),
    *("estimate", "lower", "upper", "excludes_zero", "over", "seeds"),
    *("error_seeds", "error_images", "degrees_of_freedom"),
]
"""Columns of ``comparisons.csv``."""


def as_csv(rows: Iterable[Row]) -> str:
    """Every run on every split, one line each; fractions."""
    return _csv(list(Row.__dataclass_fields__), [asdict(row) for row in rows])


def comparisons_as_csv(comparisons: Iterable[Comparison]) -> str:
    """Every comparison of every statistic on every split, one line each; fractions."""
    return _csv(COMPARED, [_flat(each) for each in comparisons])


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(row[name]) for name in columns} for row in rows)
    return text.getvalue()


def _flat(comparison: Comparison) -> dict[str, Any]:
    """A comparison as one row; ``None`` for what is no number."""
    found = comparison.difference
    values = vars(comparison) | vars(found)
    values |= {"over": found.over, "excludes_zero": found.excludes_zero}
    return {name: _finite(values[name]) for name in COMPARED}


def _finite(value: Any) -> Any:
    """A value, ``None`` for what is no number, for JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_document(found: Sweep) -> dict[str, Any]:
    """Everything as one JSON document; fractions, never percent."""
    plan = found.plan
    return {
        "schema_version": SWEEP_SCHEMA_VERSION,
        "tool": "ceag",
        "version": version("ceag"),
        "command": "sweep",
        "folder": str(found.folder),
        "recipe": {
            "name": plan.name,
            "seeds": list(plan.seeds),
            "sparsities": list(plan.sparsities),
            "criteria": list(plan.criteria),
            "methods": list(plan.methods),
        },
        "missing": found.missing,
        "recommendation": _recommendation(found),
        "points": [asdict(point) for point in found.points],
        "limits": [asdict(limit) for limit in found.limits],
        "regressions": [_regression(each) for each in found.regressions],
        "rows": [{k: _finite(v) for k, v in asdict(row).items()} for row in found.rows],
        "comparisons": [_flat(each) for each in found.comparisons],
    }


def _recommendation(found: Sweep) -> dict[str, Any] | None:
    said: Recommendation | None = found.recommendation
    if said is None:
        return None
    names = ("seeds", "chosen_by", "criterion", "method", "sparsity", "seeds_lower")
    return {
        "verdict": verdict_of(said),
        "lines": recommendation_lines(found),
        **{name: getattr(said, name) for name in names},
        "gated": list(said.gated),
        "policy": policy_document(said.policy),
        "sequences": [
            asdict(each) | {"steps": [asdict(step) for step in each.steps]}
            for each in said.sequences
        ],
    }


def _regression(each: ClassRegression) -> dict[str, Any]:
    names = ("split", "kind", "feature", "sparsity", "criterion", "method")
    fit = each.found
    return {
        **{name: getattr(each, name) for name in names},
        "terms": list(each.terms),
        "classes": fit.classes,
        "seeds": fit.seeds,
        "reliability": _finite(fit.reliability),
        "problem": fit.problem,
        "slopes": [
            {name: _finite(value) for name, value in vars(slope).items()}
            | {"excludes_zero": slope.excludes_zero}
            for slope in fit.slopes
        ],
    }
