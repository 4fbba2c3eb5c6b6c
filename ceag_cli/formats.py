"""What an audit can be written as: one table of formats, all of them from the same result."""

from __future__ import annotations

from collections.abc import Callable

from ceag_cli.annotations import workflow_commands
from ceag_cli.jsontext import as_json
from ceag_cli.junit import junit
from ceag_cli.markdown import markdown
from ceag_cli.page import page
from ceag_cli.plaintext import audit_text
from ceag_cli.results import Audit
from ceag_cli.sheet import sheet


def _json(audit: Audit) -> str:
    return as_json(audit.document) + "\n"


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


def render(audit: Audit, name: str) -> str:
    """An audit in a format, ending with a line break."""
    return FORMATS[name](audit)
