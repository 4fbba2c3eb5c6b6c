"""The groups as CSV, one row per group and split, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from typing import Any

from ceag_cli.audit import GroupResult
from ceag_cli.results import Audit

COLUMNS = tuple(field.name for field in dataclasses.fields(GroupResult))

_FORMULA = re.compile("[=+\\-@＝＋－＠\t\r']")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def sheet(audit: Audit) -> str:
    """Every field of every group; fractions, and nothing where nothing is known."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in audit.result.groups:
        writer.writerow([cell(getattr(group, name)) for name in COLUMNS])
    return file.getvalue()


def cell(value: Any) -> Any:
    """A value as it stands in the file.

    A spreadsheet runs a text that begins with ``=``, ``+``, ``-`` or ``@`` as a formula, unless it
    is a number. Such a text gets a leading ``'``; so does one that begins with ``'``, so that the
    names are those of the CSV again when one leading ``'`` is taken away.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
