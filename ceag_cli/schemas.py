"""The JSON schemas of what commands print with ``--format json``.

Those of the audit and of the sweep are files. Those of the commands whose results the audit shows
are made of its parts, so that nothing is described twice; so is what a sweep has of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ceag_cli.errors import OptionError, nearest
from ceag_cli.explanations import SCHEMA_VERSION as EXPLAIN_VERSION
from ceag_cli.pies import SCHEMA_VERSION as EXEMPLARS_VERSION

AUDIT = Path(__file__).with_name("audit.schema.json")
SWEEP = Path(__file__).with_name("sweep.schema.json")
COMMANDS = ("audit", "explain", "exemplars", "sweep")


def schema(command: str) -> str:
    """The schema of a command's document, as text.

    Raises:
        OptionError: There is none of that command.
    """
    text = AUDIT.read_text(encoding="utf-8")
    if command == "audit":
        return text
    if command not in COMMANDS:
        raise OptionError(
            f"COMMAND: '{command}' is not one of {', '.join(COMMANDS)}{nearest(command, COMMANDS)}"
        )
    audit = json.loads(text)
    made = {"explain": _explain, "exemplars": _exemplars, "sweep": _sweep}[command](audit)
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _explain(audit: Mapping[str, Any]) -> dict[str, Any]:
    return _envelope(
        audit,
        "explain",
        EXPLAIN_VERSION,
        {name: audit["properties"][name] for name in ("models", "data")}
        | {"explanation": {"$ref": "#/$defs/explanation"}},
    )


def _exemplars(audit: Mapping[str, Any]) -> dict[str, Any]:
    models, data = (audit["properties"][name] for name in ("models", "data"))
    files = {
        kind: {"type": "array", "items": models["properties"][kind]} for kind in ("dense", "sparse")
    }
    table = {
        "type": "object",
        "required": ["path", "sha256"],
        "properties": {"path": {"type": "string"}, "sha256": {"type": "string"}},
    }
    of_data = {k: v for k, v in data["properties"].items() if k != "predictions_sha256"}
    of_data["predictions"] = {
        "description": "The tables that answers were read from; none where models were given.",
        "type": "array",
        "items": table,
    }
    return _envelope(
        audit,
        "exemplars",
        EXEMPLARS_VERSION,
        {
            "models": models
            | {
                "required": ["architecture", *files],
                "properties": {"architecture": models["properties"]["architecture"], **files},
            },
            "data": data
            | {
                "required": [k for k in data["required"] if k != "predictions_sha256"],
                "properties": of_data,
            },
            "exemplars": {"$ref": "#/$defs/exemplars"},
        },
    )


def _sweep(audit: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SWEEP.read_text(encoding="utf-8"))
    found["$defs"]["policy"] = audit["properties"]["policy"]
    return found


def _envelope(
    audit: Mapping[str, Any], command: str, number: int, properties: Mapping[str, Any]
) -> dict[str, Any]:
    """A document of a command: what all have, and the properties of its own."""
    common = {
        "schema_version": {"const": number},
        "tool": {"const": "ceag"},
        "version": {"type": "string"},
        "command": {"const": command},
        "seed": {"type": "integer"},
        "versions": audit["properties"]["versions"],
    }
    everything = common | dict(properties)
    return {
        "$schema": audit["$schema"],
        "$id": f"urn:ceag:{command}:{number}",
        "title": f"ceag {command}",
        "description": (
            f"What `ceag {command} --format json` prints. Rates, gaps and bounds are fractions, "
            "never percent; null is where nothing is known, and there is no NaN. Fields may be "
            "added without another schema_version; none is removed or changes its meaning."
        ),
        "type": "object",
        "required": list(everything),
        "properties": everything,
        "$defs": _used(everything, audit["$defs"]),
    }


def _used(properties: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that are referred to, and those that these refer to."""
    found: dict[str, Any] = {}
    open_ = _named(properties)
    while open_:
        name = open_.pop()
        if name not in found:
            found[name] = known[name]
            open_ |= _named(known[name])
    return {name: found[name] for name in known if name in found}


def _named(value: Any) -> set[str]:
    return set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(value)))
