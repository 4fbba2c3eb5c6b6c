"""What Typer's commands do otherwise here: errors are one line, help begins with what matters."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ceag_cli.declarations import EMPTY
from ceag_cli.inert import as_line, shortened
from ceag_cli.launched import is_one_of_many
from ceag_cli.sharedoptions import DATA, METHOD, MODEL, OUTPUT, PRUNING, RUN, TRAINING

UsageError: type[Exception] = typing.cast(Any, typer.BadParameter.__base__)
"""Of click, or of the copy that newer versions of Typer have in its place."""

SHARED = ("dense", "prune", "mitigate", "audit")
"""The commands that several processes carry out together."""


@contextmanager
def usage_errors(context: Any = None) -> Iterator[None]:
    """Say a usage error of Typer in one line, and exit with 2."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            raise
        found: Any = error
        where = found.ctx or context
        command = f"ceag {where.info_name}" if where and where.parent else "ceag"
        text = shortened(as_line(found.format_message().rstrip(".")))
        typer.echo(
            f"error: {command}: {text[:1].lower()}{text[1:]}; '{command} --help' says what there "
            "is",
            err=True,
        )
        raise typer.Exit(2) from None


class Program(TyperGroup):
    """All commands."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read what stands before the command."""
        with usage_errors():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        """Read and carry out the command."""
        with usage_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; most of them are for one process only."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in SHARED and is_one_of_many():
            typer.echo(
                f"error: ceag {name} runs in one process; start it without torchrun (with it run "
                f"{', '.join(SHARED)})",
                err=True,
            )
            raise typer.Exit(2)
        return name, command, rest


HEADINGS = ("Arguments", METHOD, PRUNING, DATA, MODEL, TRAINING, RUN, OUTPUT, "Options")
"""The order in which options are listed: what the command is about comes first."""


def heading(parameter: Any) -> str:
    """What an option is listed under."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def by_heading(parameters: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Options in the order of their headings, those of a command alone last."""
    known = {name: place for place, name in enumerate(HEADINGS)}
    ordered = sorted(parameters, key=lambda p: (known.get(heading(p), len(known)), heading(p)))
    for name, members in itertools.groupby(ordered, heading):
        yield name, list(members)


class NoneEmpty(TyperCommand):
    """A command that refuses empty values, before anything is made of them.

    In CI they come from variables that are not set, and would count as not given.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the options for ``--help``, by heading."""
        for name, members in by_heading(self.get_params(ctx)):
            records = [record for p in members if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a command line."""
        with usage_errors(ctx):
            given, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order if not ctx.resilient_parsing else ():  # else it is completed
            values = given.get(parameter.name)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, str) and not value.strip():
                    name = next((o for o in parameter.opts if o.startswith("--")), "")
                    if parameter.param_type_name == "argument":
                        name = parameter.metavar or parameter.name.upper()
                    typer.echo(f"error: {name}: {EMPTY}", err=True)
                    raise typer.Exit(2)
        return list(super().parse_args(ctx, args))
