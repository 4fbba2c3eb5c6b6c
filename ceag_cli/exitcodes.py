"""Errors as messages and exit codes; a crash never looks like a verdict.

0 satisfied or done, 1 violation shown, 2 bad usage, configuration or input, 3 nothing was audited,
4 internal error, 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ceag_cli.errors import CeagError, Ended, Interrupted
from ceag_cli.inert import as_line
from ceag_cli.interruptions import EXIT_CODE, was_told_to_end
from ceag_cli.launched import has_lost_others
from ceag_cli.terminal import say_problems

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota, a file that may grow no further."""

AFTER_INTERRUPTION = {
    "dense": "the same command with --resume continues",
    "prune": "the same command with --resume continues",
    "mitigate": "the same command with --resume continues",
    "sweep": "the same command continues",
    "audit": "there is no verdict; the same command begins anew",
    "exemplars": "the same command goes on with the models that are still to answer",
    "explain": "the same command begins anew",
    "export": "the same command begins anew",
    "pack": "the same command begins anew",
    "unpack": "the same command begins anew",
}
"""What to do when a command was interrupted, where there is anything to say."""


@contextmanager
def exit_codes(command: str = "") -> Iterator[None]:
    """Turn the errors of a command into messages and exit codes."""
    try:
        yield
    except CeagError as error:
        say_problems(error.problems)
        raise typer.Exit(2) from None
    except (KeyboardInterrupt, Interrupted) as error:
        raise _interrupted(str(error) or "interrupted", command) from None
    except Ended as error:
        raise _interrupted(as_line(f"error: {error}"), command) from None
    except typer.Exit:
        raise
    except Exception as error:
        if was_told_to_end():  # processes that decode may have been told so, too, and be missed
            raise _interrupted("interrupted", command) from None
        if has_lost_others(error):
            gone = "another process of the run has ended or cannot be reached"
            raise _interrupted(f"error: {gone}", command) from None
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            # What ceag writes says so by itself; libraries use files of their own for a moment.
            place = error.filename or f"a file of a moment in {tempfile.gettempdir()}"
            say_problems([f"{place}: cannot be written: {error.strerror}"])
            raise typer.Exit(2) from None
        for line in traceback.format_exc().splitlines():
            typer.echo(as_line(line), err=True)
        typer.echo("internal error of ceag; please report the lines above", err=True)
        raise typer.Exit(4) from None


def _interrupted(said: str, command: str) -> typer.Exit:
    """Say that a command has ended before its end, and what to do then; the exit to raise."""
    then = [AFTER_INTERRUPTION[command]] if command in AFTER_INTERRUPTION else []
    typer.echo("; ".join([said, *then]), err=True)
    return typer.Exit(EXIT_CODE)


@contextmanager
def exit_codes_of_process() -> Iterator[None]:
    """The same for what happens outside of a command, where Typer cannot be told to exit."""
    try:
        yield
    except CeagError as error:  # the processes of a run have not come together
        say_problems(error.problems)
        sys.exit(2)
    except Interrupted:  # said by who has begun the process
        raise
    except Ended as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(EXIT_CODE)
    except Exception:
        traceback.print_exc()
        sys.exit(4)
