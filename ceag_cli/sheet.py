"""The groups as CSV, one row per group and split, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

from ceag_cli.findings import GroupResult
from ceag_cli.inert import printable
from ceag_cli.results import Audit

COLUMNS = tuple(field.name for field in dataclasses.fields(GroupResult))

_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠']")
_WITHIN = re.compile(r";(?=\s*[=+\-@＝＋－＠])")
"""Where a formula would begin for a spreadsheet whose lists are separated by semicolons."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def sheet(audit: Audit) -> str:
    """Every field of every group; fractions, and nothing where nothing is known."""
    rows = [[getattr(group, name) for name in COLUMNS] for group in audit.result.groups]
    return "".join(line(row) for row in [list(COLUMNS), *rows])


def line(row: Sequence[Any]) -> str:
    """A row of the file."""
    # A cell with either break is quoted only if both of them end the lines that the writer writes.
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(map(cell, row))
    return file.getvalue().removesuffix("\r\n") + "\n"


def cell(value: Any) -> Any:
    """A value as it stands in the file.

    A spreadsheet runs a text that begins with ``=``, ``+``, ``-`` or ``@`` as a formula, unless it
    is a number. Such a text gets a leading ``'``; so does one that begins with ``'``, so that the
    names are those of the CSV again when one leading ``'`` is taken away. So that a spreadsheet
    which separates by semicolons runs nothing either, a ``'`` stands after a ``;`` before such a
    character, too. What would steer a terminal is replaced; JSON has the names to the letter.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    shown = _WITHIN.sub(";'", printable(value))
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown
