"""What an audit can be written as: one table of formats, all of them from the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ceag_cli.annotations import workflow_commands
from ceag_cli.atomic import write_text
from ceag_cli.destinations import is_stream, unwritable, write_stream
from ceag_cli.errors import OutputError
from ceag_cli.inert import escaped_json
from ceag_cli.junit import junit
from ceag_cli.markdown import markdown
from ceag_cli.page import page
from ceag_cli.plaintext import audit_text
from ceag_cli.results import Audit, NotWritten
from ceag_cli.sheet import sheet

Found = TypeVar("Found")

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
INDENTED = 4
"""Levels of the JSON document that have a line for each entry; what is deeper is on one line."""


def _json(audit: Audit) -> str:
    return as_json(audit.document) + "\n"


def as_json(document: Any) -> str:
    """JSON that people can read, too, of documents of any length, and terminals without harm."""
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


def _html(audit: Audit) -> str:
    return page(
        audit.result,
        audit.subject,
        audit.version,
        audit.more,
        audit.flips,
        audit.explanation,
        audit.exemplars,
    )


FORMATS: dict[str, Callable[[Audit], str]] = {
    "text": audit_text,
    "json": _json,
    "markdown": markdown,
    "github": workflow_commands,
    "junit": junit,
    "csv": sheet,
    "html": _html,
}


NO_REPORTS = (
    *(".yaml", ".yml", ".toml", ".npz", ".parquet", ".safetensors", ".pth", ".pt", ".bin"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".zip", ".py"),
)
"""Endings of policies, recipes, tables, models and images: a report is never written over one."""


def render(audit: Audit, name: str) -> str:
    """An audit in a format, ending with a line break."""
    return FORMATS[name](audit)


def refuse_file(folder: Path, stem: str = "audit") -> None:
    """Refuse a file where the folder of all reports is to be named.

    Raises:
        OutputError: With the option that means a file.
    """
    names = {".json": "json", ".html": "html", ".htm": "html", ".md": "markdown"}
    names |= {".csv": "csv", ".xml": "junit", ".txt": "text"}
    name = names.get(folder.suffix.lower())
    if name is not None and not folder.is_dir():
        raise OutputError(
            f"-o {folder}: names the folder of the {stem}; for a file say --report {name}={folder}"
        )


def report_files(
    reports: Sequence[str],
    folder: Path | None = None,
    inputs: Sequence[Path] = (),
    stem: str = "audit",
) -> dict[Path, str]:
    """The files to write, with their formats: those of the run folder, then those asked for.

    Args:
        reports: As ``FORMAT=FILE``.
        folder: The run folder, once it is known.
        inputs: What the audit reads; it is not written over.
        stem: Name of the files in the run folder, without what tells the format.

    Raises:
        OutputError: With every file that cannot be written.
    """
    asked = [(name, file) for name, _, file in (report.partition("=") for report in reports)]
    if folder is not None:
        own = [(kind, str(folder / f"{stem}.{kind}")) for kind in ("json", "html")]
        asked = own + asked
    read = {os.path.realpath(path) for path in inputs}
    files: dict[Path, str] = {}
    problems = []
    for name, file in asked:
        named = Path(file).expanduser()
        real = named if is_stream(named) else Path(os.path.realpath(named))
        problem = unwritable(real)
        if file.endswith(("/", os.sep)):
            problem = "names a folder; name a file in it"
        elif str(real) in read:
            problem = f"is read by this {stem} and is not written over"
        elif real.is_file() and real.suffix.lower() in NO_REPORTS:
            problem = "is there already and is no report; it is not written over"
        elif files.get(real, name) != name:
            problem = f"cannot hold both {files[real]} and {name}"
        if problem is not None:
            problems.append(f"{file}: {problem}")
        files[real] = name
    if problems:
        raise OutputError(problems)
    if folder is not None:  # the document comes last: where it is, all reports are there
        document = Path(os.path.realpath(folder / f"{stem}.json"))
        files[document] = files.pop(document)
    return files


def write_reports(
    found: Found, files: Mapping[Path, str], render: Callable[[Found, str], str]
) -> None:
    """Write every file; one that fails does not keep the others from being written.

    Args:
        found: An audit, or what another command has found.
        files: The format of each file.
        render: Makes a text of what was found, in a format.

    Raises:
        NotWritten: With every file that could not be written.
    """
    problems: list[str] = []
    for file, name in files.items():
        try:
            write = write_stream if is_stream(file) else write_text
            write(file, render(found, name))
        except OutputError as error:
            problems += error.problems
    if problems:
        raise NotWritten(problems, found)
