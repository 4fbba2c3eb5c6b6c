"""What commands print: results on stdout, progress, warnings and errors on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ceag_cli.errors import OutputError
from ceag_cli.inert import as_line, shortened
from ceag_cli.progress import Update

SECONDS_BETWEEN_LINES = 10.0
"""How often a log without a terminal hears of progress."""


class Terminal:
    """Reporter on stderr: plain lines, and bars where there is a terminal."""

    def say(self, text: str) -> None:
        """A line of information."""
        typer.echo(as_line(text), err=True)

    def warn(self, text: str) -> None:
        """A line that the user should not miss."""
        typer.echo(as_line(f"warning: {text}"), err=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Update]:
        """A progress bar; without a terminal, a line now and then."""
        title = as_line(title)
        if not sys.stderr.isatty():
            yield self._lines(title, total)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Remaining(compact=True),
            TextColumn("{task.fields[words]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=total, words="")
            yield lambda done, words: progress.update(task, completed=done, words=words)

    def _lines(self, title: str, total: int) -> Update:
        last = time.monotonic()

        def update(done: int, words: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                typer.echo(f"{title}: {done} of {total} {words}".rstrip(), err=True)

        return update


def say_problems(problems: Sequence[str]) -> None:
    """One line for each, whatever names and values it quotes."""
    for problem in problems:
        typer.echo(f"error: {shortened(as_line(problem))}", err=True)


def print_result(text: str) -> None:
    """Write a result to stdout.

    Raises:
        OutputError: It cannot be written, so that what a gate rests on would be lost.
    """
    if sys.stdout is None:  # closed by who called: nobody wants it
        return
    try:
        typer.echo(text, nl=False)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be tried once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # as of head(1), which has seen enough
            raise OutputError(f"stdout: cannot be written: {error.strerror or error}") from None


def print_lines(lines: Sequence[str]) -> None:
    """Write a result to stdout, line by line."""
    print_result("".join(f"{as_line(line)}\n" for line in lines))


def print_document(document: Any) -> None:
    """Write a result to stdout, as one JSON document."""
    from ceag_cli.jsontext import as_json

    print_result(f"{as_json(document)}\n")
