"""A bound on the memory that reading a file may take.

Files that somebody else has made can claim or unfold to any size: an archive of zeros, a shape,
the depth of a model. Where a file is read that could, the process may take a multiple of the file's
size and no more, so that it is the reading that fails, and not whatever runs beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ALWAYS = 2 * 1024**3
"""Bytes that any file may take: libraries set room aside in large pieces."""
TIMES = 128
"""So many times its own size a file may take besides."""


@contextmanager
def bounded_by(path: Path) -> Iterator[None]:
    """Let the process take so much more memory than it has as a file of this size may need.

    Beyond it ``MemoryError`` is raised, by torch a ``RuntimeError``. Only Linux can be asked for
    this; elsewhere nothing is bounded here.
    """
    with at_most(ALWAYS + TIMES * path.stat().st_size):
        yield


@contextmanager
def at_most(extra: int) -> Iterator[None]:
    """The same for a number of bytes."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + extra
    if soft != resource.RLIM_INFINITY and soft <= wanted:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
