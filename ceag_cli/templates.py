"""The templates of the HTML page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from ceag_cli.inert import printable


def _inert(value: Any) -> Any:
    """Text without what would steer who shows it; what a template has made stays as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template of this package. What it is given is made inert and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_inert,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
