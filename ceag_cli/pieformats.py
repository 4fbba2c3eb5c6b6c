"""What identified exemplars can be written as: one table of formats, from one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ceag_cli.grouptables import group_rows, harmless, markdown_table
from ceag_cli.inert import printable
from ceag_cli.jsontext import as_json
from ceag_cli.markdown import escaped
from ceag_cli.piereport import (
    CAVEAT,
    MOST_GROUPS,
    columns_of,
    headline,
    image_rows,
    kind,
    legend,
    lines,
    pies_html,
    voted,
)
from ceag_cli.pies import Exemplars
from ceag_cli.report import percent
from ceag_cli.sheet import line
from ceag_cli.templates import template
from ceag_cli.texttables import aligned

MOST_IMAGES = 10
"""Images of a text."""

COLUMNS = (
    *("id", "label", "modal_dense", "modal_sparse", "votes_dense", "models_dense"),
    *("votes_sparse", "models_sparse", "margin", "groups"),
)


def text(exemplars: Exemplars) -> str:
    """Plain text: what was found, a table of groups, and the clearest images."""
    found = exemplars.pies
    rows, left_out = group_rows(columns_of(found), found.worst_first(), MOST_GROUPS)
    said = [headline(found), *lines(found)]
    said += aligned([[printable(cell) for cell in row] for row in rows])
    said += [f"and {left_out} more groups"] * bool(left_out)
    said.append(legend(found))
    if found.images:
        images = image_rows(found.images[:MOST_IMAGES], found)
        said.append("The clearest of them (margin 1: each kind of models is of one mind):")
        said += aligned([[printable(cell) for cell in row] for row in images])
        rest = found.count - len(images) + 1
        said += [f"and {rest} more; --report csv=FILE lists all"] * bool(rest)
    said += [CAVEAT, f"report: {exemplars.page}"]
    return harmless(said)


def markdown(exemplars: Exemplars) -> str:
    """For a summary or a comment."""
    found = exemplars.pies
    rows, left_out = group_rows(columns_of(found), found.worst_first(), MOST_GROUPS)
    said = [f"## ceag exemplars: {found.count} {kind(found, found.count)}", ""]
    said += [escaped(headline(found)), "", *(f"- {escaped(x)}" for x in lines(found)), ""]
    said += markdown_table(rows)
    said += ["", f"{left_out} more groups are in exemplars.json."] * bool(left_out)
    said += ["", escaped(legend(found))]
    if found.images:
        images = image_rows(found.images[:MOST_IMAGES], found)
        said += ["", f"The {len(images) - 1} clearest images:", "", *markdown_table(images)]
    said += ["", escaped(CAVEAT), "", f"Written by ceag {escaped(exemplars.version)}."]
    return "\n".join(said) + "\n"


def sheet(exemplars: Exemplars) -> str:
    """A row per image, the clearest first; of tied labels all, with ``|`` between."""
    found = exemplars.pies
    rows: list[list[Any]] = [
        [
            image.id,
            image.label,
            voted(image.dense),
            voted(image.sparse),
            image.votes_dense,
            found.models_dense,
            image.votes_sparse,
            found.models_sparse,
            round(image.margin, 6),
            ", ".join(image.groups),
        ]
        for image in found.images
    ]
    return "".join(map(line, [list(COLUMNS), *rows]))


def page(exemplars: Exemplars) -> str:
    """As a self-contained page."""
    found = exemplars.populations
    return template("pies-page.html.jinja", percent=percent, printable=printable).render(
        models=[("dense", found.dense), ("sparse", found.sparse)],
        architecture=found.architecture,
        data=found.data,
        section=pies_html(exemplars.pies, exemplars.pictures),
        version=exemplars.version,
        side=0,
        drawn=len(exemplars.pies.groups),
    )


def _json(exemplars: Exemplars) -> str:
    return as_json(exemplars.document) + "\n"


FORMATS: dict[str, Callable[[Exemplars], str]] = {
    "text": text,
    "json": _json,
    "markdown": markdown,
    "csv": sheet,
    "html": page,
}


def render(exemplars: Exemplars, name: str) -> str:
    """Exemplars in a format, ending with a line break."""
    return FORMATS[name](exemplars)
