"""Words that others have written, made inert: for a terminal, the log of a CI job, and JSON.

Names of groups, classes, columns and files come from a CSV, a model or a folder, whoever made it.
What is printed or written goes through here, so that such a name is shown and never acted upon.
"""

from __future__ import annotations

import re

_JOINERS = "\u200c\u200d\u200e\u200f"
"""Not printable for Python, but part of names in Persian, of emoji, and of mixed directions."""

_LOG_COMMAND = re.compile(r"##(?=\[|vso\[|teamcity\[)", re.IGNORECASE)
"""What GitHub, Azure Pipelines and TeamCity take for a command anywhere in a line of a log."""

MOST_OF_A_LINE = 2000
"""Characters of a message that are shown; a cell of a CSV may hold as many as it likes."""


def printable(name: str) -> str:
    """A name without what would steer a terminal: escapes, line breaks, overrides of direction.

    Half of a surrogate pair, which no text in UTF-8 can hold, goes as well.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() or c in _JOINERS else "�" for c in name)


def as_line(text: str) -> str:
    """Text as a line of a terminal or of a log that a CI system reads commands from.

    GitHub takes a line that begins with ``::`` for one, and ``##[`` wherever it is.
    """
    line = _LOG_COMMAND.sub("# #", printable(text))
    return f"| {line}" if line.lstrip().startswith("::") else line


def shortened(text: str, most: int = MOST_OF_A_LINE) -> str:
    """A message of a bounded length: its beginning, its end, and how much was left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... ({len(text) - 2 * half} characters) ... {text[-half:]}"


def escaped_json(text: str) -> str:
    """JSON in which all that is not printable is an escape, so that it means the same.

    Args:
        text: JSON whose strings hold no control characters any more; line breaks stand between
            values alone.
    """
    strange = [c for c in set(text) if not c.isprintable() and c not in f"{_JOINERS}\n"]
    return text.translate({ord(c): _escape(c) for c in strange})


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
