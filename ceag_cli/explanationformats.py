"""What an explanation can be written as: one table of formats, all of them from the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ceag_cli.explanationreport import CAVEAT, columns_of, explanation_html, explanation_lines
from ceag_cli.explanations import Explained
from ceag_cli.formats import as_json
from ceag_cli.markdown import escaped
from ceag_cli.report import percent, printable
from ceag_cli.templates import template

MOST_ROWS = 25
"""Groups of a text; the JSON document and the page have all."""


def text(explained: Explained) -> str:
    """Plain text: a table of groups, worst first, and what follows."""
    found = explained.explanation
    groups = found.worst_first()
    columns = columns_of(found)
    rows = [
        ["group", *(name for name, _ in columns)],
        *([printable(g.name), *(cell(g) for _, cell in columns)] for g in groups[:MOST_ROWS]),
    ]
    lines = _aligned(rows)
    if len(groups) > MOST_ROWS:
        lines.append(f"and {len(groups) - MOST_ROWS} more groups")
    said = explanation_lines(found)
    lines = [said[0], *lines, *said[1:], CAVEAT, f"report: {explained.page}"]
    # GitHub takes a line of a log that begins so for a command.
    safe = (f"| {x}" if x.lstrip().startswith(("::", "##[")) else x for x in lines)
    return "\n".join(safe) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]


def markdown(explained: Explained) -> str:
    """For a summary or a comment: the table of groups and what follows."""
    found = explained.explanation
    columns = columns_of(found)
    groups = found.worst_first()
    said = explanation_lines(found)
    rows = [
        ["group", *(escaped(name) for name, _ in columns)],
        [":--", *("--:" for _ in columns)],
        *(
            [escaped(g.name), *(escaped(cell(g)) for _, cell in columns)]
            for g in groups[:MOST_ROWS]
        ),
    ]
    lines = ["## ceag explain", "", escaped(said[0]), ""]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if len(groups) > MOST_ROWS:
        lines += ["", f"{len(groups) - MOST_ROWS} more groups are in explanation.json."]
    lines += ["", *(f"- {escaped(line.strip())}" for line in said[1:]), "", escaped(CAVEAT), ""]
    return "\n".join([*lines, f"Written by ceag {escaped(explained.version)}."]) + "\n"


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
