"""Tables of groups as rows and as Markdown, and text that no log takes for commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from ceag_cli.markdown import escaped


class Named(Protocol):
    """A group, as tables of groups have them."""

    @property
    def name(self) -> str:
        """``feature=value``."""


G = TypeVar("G", bound=Named)

Rows = Sequence[Sequence[str]]
"""A table, its head first."""


def group_rows(
    columns: Sequence[tuple[str, Callable[[G], str]]], groups: Sequence[G], most: int
) -> tuple[Rows, int]:
    """A table of the first groups, and how many there are more.

    Args:
        columns: Names and contents of the columns beside the group's name.
        groups: In the order of the rows.
        most: So many are shown.
    """
    head = ["group", *(name for name, _ in columns)]
    rows = [[group.name, *(cell(group) for _, cell in columns)] for group in groups[:most]]
    return [head, *rows], len(groups) - len(rows)


def markdown_table(rows: Rows) -> list[str]:
    """A table in Markdown; names are inert."""
    head, *others = [[escaped(cell) for cell in row] for row in rows]
    sides = [":--", *("--:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, sides, *others)]


def harmless(lines: Iterable[str]) -> str:
    """Lines as a text whose lines GitHub does not take for commands of a log."""
    safe = (f"| {x}" if x.lstrip().startswith(("::", "##[")) else x for x in lines)
    return "\n".join(safe) + "\n"
