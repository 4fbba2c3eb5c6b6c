"""What an explanation can be written as: one table of formats, all of them from the same result."""

from __future__ import annotations

from collections.abc import Callable

from ceag_cli.explanationreport import (
    CAVEAT,
    columns_of,
    correlation_rows,
    explanation_html,
    feature_lines,
    few,
    headline,
    notes,
)
from ceag_cli.explanations import Explained
from ceag_cli.grouptables import group_rows, harmless, markdown_table
from ceag_cli.inert import printable
from ceag_cli.jsontext import as_json
from ceag_cli.markdown import escaped
from ceag_cli.report import percent
from ceag_cli.templates import template
from ceag_cli.texttables import aligned

MOST_ROWS = 25
"""Groups of a text; the JSON document and the page have all."""


def text(explained: Explained) -> str:
    """Plain text: a table of groups, worst first, and what follows."""
    found = explained.explanation
    rows, left_out = group_rows(columns_of(found), found.worst_first(), MOST_ROWS)
    lines = [headline(found), *aligned([[printable(cell) for cell in row] for row in rows])]
    if left_out:
        lines.append(f"and {left_out} more groups")
    lines += notes(found)
    lines += [f"warning: {printable(remark)}" for remark in explained.subject.remarks]
    for feature in found.features:
        first, *others = feature_lines(feature)
        table = correlation_rows(feature)
        lines += [first, *(f"  {line}" for line in [*others, *aligned(table)])]
        lines += [f"  {few(feature)}"] * bool(table)
    lines += [CAVEAT, f"report: {explained.page}"]
    return harmless(lines)


def markdown(explained: Explained) -> str:
    """For a summary or a comment: the table of groups and what follows."""
    found = explained.explanation
    rows, left_out = group_rows(columns_of(found), found.worst_first(), MOST_ROWS)
    lines = ["## ceag explain", "", escaped(headline(found)), "", *markdown_table(rows)]
    if left_out:
        lines += ["", f"{left_out} more groups are in explanation.json."]
    lines += ["", *(f"- {escaped(note)}" for note in notes(found))]
    lines += [f"- warning: {escaped(remark)}" for remark in explained.subject.remarks]
    for feature in found.features:
        lines += [f"- {escaped(line)}" for line in feature_lines(feature)]
        table = correlation_rows(feature)
        if table:
            lines += ["", *markdown_table(table), "", escaped(f"{few(feature)}."), ""]
    return "\n".join([*lines, "", escaped(CAVEAT), "", _written_by(explained)]) + "\n"


def _written_by(explained: Explained) -> str:
    return f"Written by ceag {escaped(explained.version)}."


def page(explained: Explained) -> str:
    """An explanation as a self-contained page of its own."""
    return template("explanation-page.html.jinja", percent=percent, printable=printable).render(
        subject=explained.subject,
        section=explanation_html(explained.explanation),
        version=explained.version,
        side=0,
        drawn=len(explained.explanation.groups),
    )


def _json(explained: Explained) -> str:
    return as_json(explained.document) + "\n"


FORMATS: dict[str, Callable[[Explained], str]] = {
    "text": text,
    "json": _json,
    "markdown": markdown,
    "html": page,
}


def render(explained: Explained, name: str) -> str:
    """An explanation in a format, ending with a line break."""
    return FORMATS[name](explained)
