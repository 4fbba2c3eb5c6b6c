"""Files that are whole or not there, whatever ends the process or the machine meanwhile.

Everything is written under a name of its own, beside the file, and takes the file's name when it is
on the disk. What a killed process leaves behind has no lock any more and is removed by whoever
writes the same file next.
"""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ceag_cli.errors import OutputError
from ceag_cli.locks import lock

MARK = ".tmp-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that takes the place of another when the block is done.

    If the block raises, the temporary file is removed and the other stays as it is. The folder is
    made. The content is on the disk before it gets the name, and so is the name at the end, as far
    as the system can say.

    Args:
        path: The file to be written or replaced.

    Raises:
        OSError: Something cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path)
    temporary = temporary_beside(path)
    with os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+b") as held:
        try:
            with suppress(OSError):  # where nothing can be locked, nothing is removed either
                lock(held, shared=False, wait=False)
            yield temporary
            with temporary.open("rb") as written:  # it may be another file of that name by now
                os.fsync(written.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_names(path.parent)


def temporary_beside(path: Path) -> Path:
    """A name that no other process takes, for what is to become a file."""
    return path.with_name(f".{path.name}{MARK}{secrets.token_hex(4)}")


def write_text(path: Path, text: str) -> None:
    """Write a text file; it is whole or not there.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; it is whole or not there.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _remove_left_behind(path: Path) -> None:
    """Remove what killed processes have left of a file; what is being written is locked."""
    for name in glob.iglob(f".{glob.escape(path.name)}{MARK}*", root_dir=path.parent):
        with suppress(OSError), (path.parent / name).open("r+b") as file:
            if lock(file, shared=False, wait=False):
                (path.parent / name).unlink()


def _sync_names(folder: Path) -> None:
    """Have the names in a folder on the disk; not all systems can do that."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
