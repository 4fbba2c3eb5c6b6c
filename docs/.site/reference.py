"""The pages of the reference that are made of the code: one a command, and the Python API.

Commands are read from the command line itself, so that a page says what ``--help`` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main

import ceag_cli
from ceag_cli.cli import app
from ceag_cli.declarations import declared
from ceag_cli.options import COMMANDS
from ceag_cli.usage import by_heading

_DEFAULT = re.compile(r"\s*\[default: (.*)\]$", re.DOTALL)


def commands() -> dict[str, Any]:
    """Every command by its name, in the order of ``ceag --help``."""
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def pages() -> dict[str, str]:
    """Markdown by path, relative to the folder of the pages."""
    found = {f"reference/{name}.md": command_page(name) for name in commands()}
    return {"reference/commands.md": overview(), **found, "reference/python.md": python_page()}


def overview() -> str:
    """The table of all commands."""
    rows = [
        f"| [`ceag {name}`]({name}.md) | {_cell(_paragraphs(command)[0])} |"
        for name, command in commands().items()
    ]
    return "\n".join(
        [
            "# Commands",
            "",
            "What each of them takes, as `ceag COMMAND --help` says it. Options of "
            f"{', '.join(COMMANDS)} can also stand in a YAML file (`--config`), in `ceag.yaml` and "
            "in `pyproject.toml`, by the name of the flag with `_` for `-`; a flag beats a file.",
            "",
            "| command | |",
            "|---|---|",
            *rows,
            "",
            "Exit codes: 0 the gate is satisfied, or the command is done; 1 a violation; 2 "
            "something given cannot be used; 3 not enough is decided; 4 a defect of ceag; 130 "
            "interrupted.",
            "",
        ]
    )


def command_page(name: str) -> str:
    """One command: what it does, an example, and its options by group."""
    command = commands()[name]
    lines = [f"# ceag {name}", ""]
    for paragraph in _paragraphs(command):
        if paragraph.startswith("Example: "):
            call, _, remark = paragraph.removeprefix("Example: ").partition(" (")
            lines += ["```bash", call, "```", ""]
            lines += [f"({remark}", ""] if remark else []
        else:
            lines += [_escaped(paragraph), ""]
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    for panel, members in by_heading(parameters):
        lines += [f"## {panel}", "", "| | | default |", "|---|---|---|"]
        lines += [_row(name, parameter) for parameter in members]
        lines.append("")
    lines += _only_in_files(name)
    return "\n".join(lines)


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(part.split()) for part in command.help.split("\n\n")]


def _row(command: str, parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        spelling = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = [*parameter.opts, *parameter.secondary_opts]
        spelling = ", ".join(f"`{name}`" for name in sorted(names, key=lambda n: n[:2] != "--"))
    text = parameter.help or ""
    default = _DEFAULT.search(text)
    text = _DEFAULT.sub("", text)
    limits = _limits(command, parameter.name)
    said = default[1] if default else ""
    if parameter.secondary_opts and (not said or said.startswith("with --paper")):
        said = f"off; {said}" if said else "off"
    return f"| {spelling} | {_cell(text)}{_cell(limits)} | {_cell(said)} |"


def _limits(command: str, name: str) -> str:
    """The range of a number, and the methods that an option is of."""
    if command not in COMMANDS or name not in COMMANDS[command].__dataclass_fields__:
        return ""
    said = declared(COMMANDS[command])[name]
    words = {"low": "at least", "above": "more than", "high": "at most", "below": "less than"}
    limits = [(word, getattr(said, key)) for key, word in words.items()]
    bounds = [f"{word} {_number(limit)}" for word, limit in limits if limit is not None]
    found = f" {', '.join(bounds).capitalize()}." if bounds else ""
    if said.unit and said.unit not in said.help:
        found = f"{found.removesuffix('.')}; {said.unit}." if found else f" {said.unit}."
    if said.methods:
        found += f" Of --method {', '.join(said.methods)}."
    return found


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _only_in_files(command: str) -> list[str]:
    options = declared(COMMANDS[command]) if command in COMMANDS else {}
    rows = [
        f"| `{name}` | {_cell(about.help)} |"
        for name, about in options.items()
        if about.read is not None
    ]
    return ["## Only in a file", "", "| | |", "|---|---|", *rows, ""] if rows else []


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")


def _cell(text: str) -> str:
    """Text for a table, in which flags are set as code."""
    escaped = _escaped(" ".join(text.split())).replace("|", r"\|")
    flags = re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", escaped)
    return f" {flags}" if text.startswith(" ") else flags


def python_page() -> str:
    """The public names, from which mkdocstrings makes the page."""
    homes: dict[str, str] = ceag_cli._HOMES
    options = [name for name in ceag_cli.__all__ if name.endswith("Options")]
    functions = [name for name in ceag_cli.__all__ if name.islower()]
    classes = [name for name in ceag_cli.__all__ if name not in {*options, *functions}]

    def entries(names: list[str]) -> Iterator[str]:
        for name in names:
            yield from (f"::: ceag_cli.{homes[name]}.{name}", "")

    return "\n".join(
        [
            "# Python",
            "",
            "All of it is imported from `ceag_cli`: `from ceag_cli import mitigate`. How to use it "
            "in another training loop is in [Your own training loop](../own-loop.md).",
            "",
            "## Functions",
            "",
            *entries(functions),
            "## Options",
            "",
            "A command's options are a dataclass with keyword arguments, by the names of the flags "
            "with `_` for `-`; the file is `checkpoint`. What is out of range raises "
            "`OptionError`, as it ends a command with 2.",
            "",
            "| | options |",
            "|---|---|",
            *(f"| `{name}` | [{_command_of(name)}]({_command_of(name)}.md) |" for name in options),
            "",
            "## Classes",
            "",
            *entries(classes),
        ]
    )


def _command_of(options: str) -> str:
    return next(name for name, known in COMMANDS.items() if known.__name__ == options)
