"""Where results can go: files that are whole or not there, and streams, which just take text.

Streams are what is no file: pipes, terminals, ``/dev/null``, and what is open already under a
number (``/dev/stdout``, ``/dev/fd/3``, which is also what ``>(command)`` of a shell stands for).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path

from ceag_cli.atomic import temporary_beside
from ceag_cli.errors import OutputError

_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}
_NUMBERED = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")


def stream_number(name: str) -> int | None:
    """The number of an open stream that a name stands for, as 3 for ``/dev/fd/3``."""
    numbered = _NUMBERED.fullmatch(name)
    return int(numbered[1]) if numbered else _STANDARD.get(name)


def is_stream(path: Path) -> bool:
    """Whether text goes to a stream, and not to a file that is replaced."""
    if stream_number(str(path)) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def unwritable(path: Path) -> str | None:
    """Why nothing could be written to a file or a stream; tried, but for what is in it."""
    if is_stream(path):
        return _unwritable_stream(path)
    if os.path.lexists(path) and not path.is_file():
        return "cannot be written: there is a folder or a device of this name"
    # path.exists() would raise where a folder may not be looked into
    folder = next(parent for parent in path.parents if os.path.exists(parent))
    if not folder.is_dir():
        return f"cannot be written: {folder} is not a folder"
    # os.access() says that root may write to /proc, where no file can be made. The name is as long
    # as the one that is written to before it gets its own.
    name = path.name if folder == path.parent else "report"
    attempt = temporary_beside(folder / name)
    try:
        _make_and_remove(attempt)
    except OSError as error:
        return f"cannot be written: no file can be made in {folder} ({error.strerror or error})"
    return None


def _make_and_remove(path: Path) -> None:
    """Make a file and remove it; one without a name, where there are such, which no kill leaves.

    Raises:
        OSError: No file of that name can be made.
    """
    if len(os.fsencode(path.name)) > os.pathconf(path.parent, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with suppress(OSError, AttributeError):
        os.close(os.open(path.parent, os.O_TMPFILE | os.O_WRONLY))
        return
    path.touch()
    path.unlink(missing_ok=True)


def _unwritable_stream(path: Path) -> str | None:
    number = stream_number(str(path))
    try:
        if number is not None:
            os.write(number, b"")
    except OSError as error:
        closed = error.errno == errno.EBADF
        why = f"number {number} is not open for writing" if closed else error.strerror
        return f"cannot be written: {why}"
    if number is None and not os.access(path, os.W_OK):  # opening a pipe waits for its reader
        return "cannot be written: Permission denied"
    return None


def write_stream(path: Path, text: str) -> None:
    """Write text to a stream, after all that was printed before.

    Raises:
        OutputError: Nobody reads it, or it was closed.
    """
    number = stream_number(str(path))
    try:
        for printed in (sys.stdout, sys.stderr):
            if printed is not None:
                printed.flush()
        target = os.dup(number) if number is not None else os.open(path, os.O_WRONLY)
        with open(target, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
