"""The files that reports are written to: which they are, and that none of them is anything else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ceag_cli.atomic import write_text
from ceag_cli.destinations import is_stream, unwritable, write_stream
from ceag_cli.errors import OutputError
from ceag_cli.results import NotWritten

Found = TypeVar("Found")

NO_REPORTS = (
    *(".yaml", ".yml", ".toml", ".npz", ".parquet", ".safetensors", ".pth", ".pt", ".bin"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".zip", ".py"),
)
"""Endings of policies, recipes, tables, models and images: a report is never written over one."""


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
