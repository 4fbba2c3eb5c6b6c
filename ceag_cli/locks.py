"""Locks on files. The system drops them when the process that holds them ends, however it does.

Two kinds: those of an open file, for files that come and go (``lock``), and those of a process, for
what one run at a time may write (``claimed``). The latter is not inherited by the processes that a
run starts, so that what is left of a killed run holds nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from ceag_cli.errors import Interrupted, InUse, OutputError
from ceag_cli.progress import Reporter

_MINE: set[str] = set()
"""What this process has claimed: the locks of a process are none to itself."""


def lock(file: BinaryIO, *, shared: bool, wait: bool = True) -> bool:
    """Lock an open file, or change its lock; whether that was possible.

    Raises:
        OSError: Files cannot be locked here.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("files cannot be locked on this system") from None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def claimed(path: Path, remedy: str, reporter: Reporter) -> Iterator[None]:
    """Be the only run that writes somewhere, by a lock on a file there.

    The file says who has it. It is removed at the end; one that a killed run has left behind is
    taken over. On network folders that keep no locks, that is said and nothing is locked.

    Args:
        path: The file. Its folder is made, and removed again if nothing else comes into it.
        remedy: What to do while another run has it.
        reporter: Hears where nothing can be locked.

    Raises:
        InUse: Another run has it.
        OutputError: The folder cannot be written.
    """
    name = os.path.realpath(path)
    if name in _MINE:
        raise InUse(f"{path.parent}: another run of this process writes there; {remedy}")
    try:
        file = _taken(path, remedy)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    if file is None:
        reporter.say(
            f"{path.parent}: files cannot be locked there; make sure that no other run writes to it"
        )
    _MINE.add(name)
    try:
        yield
    finally:
        try:
            _drop(path, name, file)
        except Interrupted:  # told to end in the middle of it, which is once
            _drop(path, name, file)
            raise


def _drop(path: Path, name: str, file: BinaryIO | None) -> None:
    """Give a lock back; what is given back already stays so."""
    _MINE.discard(name)
    with suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()  # which leaves a folder that holds anything
    if file is not None:
        file.close()


def _taken(path: Path, remedy: str) -> BinaryIO | None:
    """The file, open and locked; ``None`` where nothing can be locked.

    Raises:
        InUse: Another run has it.
        OSError: It cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        except FileNotFoundError:  # a run that has ended has just removed the folder
            continue
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = file.read().decode("utf-8", "replace").strip() or "just started"
            file.close()
            raise InUse(f"{path.parent}: another run ({holder}) writes there; {remedy}") from None
        except (ImportError, OSError):
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                began = datetime.now().astimezone().isoformat(" ", "seconds")
                with suppress(OSError):  # a full disk is noticed where it matters
                    file.write(
                        f"process {os.getpid()} on {socket.gethostname()}, begun {began}".encode()
                    )
                return file
        file.close()  # the run that had it has just removed it
