"""The parameters of a command, made of the declarations of its options."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ceag_cli.declarations import Declaration, Options, declared, flag, value_type

_CONFIG = typer.Option(
    "--config", "-c", help="YAML recipe with any of these options.", show_default=False
)


def signature_of(options: type[Options]) -> inspect.Signature:
    """The signature of a command that takes these options, and a recipe (``config``).

    The default of every parameter is "not given": what holds then is known once files are read.
    """
    own = options.__annotations__  # come first, then those that other commands have, too
    types = {
        name: Annotated[_type(options, name) | None, _info(options, name)]
        for name, about in sorted(declared(options).items(), key=lambda item: item[0] not in own)
        if about.read is None
    }
    return inspect.Signature(
        [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
            for name, annotation in (types | {"config": Annotated[str | None, _CONFIG]}).items()
        ]
    )


def _type(options: type[Options], name: str) -> Any:
    """What Typer makes of a word. Numbers are read where a recipe's are, with the same errors."""
    kind = value_type(options, name)
    if typing.get_origin(kind) is tuple:  # written a,b,c unless the flag is repeated
        return list[str] if declared(options)[name].repeatable else str
    return str if kind in (int, float) else kind


def _info(options: type[Options], name: str) -> Any:
    about = declared(options)[name]
    help_text = about.help
    if about.choices:
        help_text += f" One of {', '.join(about.choices)}."
    if about.positional:
        return typer.Argument(help=help_text, show_default=False, metavar="FILE")
    defaults = _defaults(about, "paper" in declared(options))
    if defaults:
        help_text += f" [default: {'; '.join(defaults)}]"
    kind = value_type(options, name)
    names = [flag(name), *about.flags]
    if kind is bool:  # so that a flag can also take back what a recipe says
        names = [f"{flag(name)}/--no-{flag(name)[2:]}"]
    return typer.Option(
        *names,
        help=help_text,
        show_default=False,
        rich_help_panel=about.panel,
        metavar=f"<{kind.__name__}>" if kind in (int, float) else None,
        autocompletion=one_of(*about.choices) if about.choices else None,
    )


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Completes a value in a shell."""

    def completed(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return completed


def _defaults(about: Declaration, has_paper: bool) -> list[str]:
    """The default in words, and that under ``--paper``, as far as there are any."""
    found = []
    if about.shown or not (about.default is False or about.default in (None, ())):
        found.append(about.shown or _written(about.default))
    if has_paper and about.paper not in (None, about.default):
        found.append(f"with --paper: {'on' if about.paper is True else _written(about.paper)}")
    return found


def _written(value: Any) -> str:
    """A default as it would be given."""
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
