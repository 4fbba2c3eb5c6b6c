"""Documents as JSON text, which people can read, too."""

from __future__ import annotations

import json
from typing import Any

from ceag_cli.inert import escaped_json

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
INDENTED = 4
"""Levels of the JSON document that have a line for each entry; what is deeper is on one line."""


def as_json(document: Any) -> str:
    """A document of any length, without a line break at its end, and harmless to terminals."""
    return escaped_json(_lines(document, INDENTED))


def _lines(value: Any, levels: int, indent: str = "") -> str:
    """JSON, indented down to some depth.

    The encoder of the standard library is faster in whole lines, and what is beside psi is long.
    """
    if not levels or not value or not isinstance(value, dict | list):
        return _ENCODER.encode(value)
    inner = indent + "  "
    if isinstance(value, dict):
        each = [f"{_ENCODER.encode(k)}: {_lines(v, levels - 1, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inner + item for item in each) + "\n" + indent + "}"
    lines = ",\n".join(inner + _lines(item, levels - 1, inner) for item in value)
    return "[\n" + lines + "\n" + indent + "]"
