"""Ctrl-C and SIGTERM end a command in order, a second one ends it at once.

Nothing needs to be saved then: every file is whole at every moment, and a finished epoch is on the
disk before the next one begins.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ceag_cli.errors import Interrupted

EXIT_CODE = 130

HANDLED = {signal.SIGINT: "interrupted", signal.SIGTERM: "interrupted by SIGTERM"}

_told: list[int] = []
"""Signals by which this process was told to end."""

AT_ONCE = b"interrupted again: ended at once; what was written before is whole\n"


def was_told_to_end() -> bool:
    """Whether whatever goes wrong now is because the command was told to end."""
    return bool(_told)


@contextmanager
def in_order() -> Iterator[None]:
    """Raise :class:`Interrupted` where the command is when it is told to end.

    What is ignored from the beginning, as by ``nohup``, stays so. After the block there is nothing
    left to interrupt.
    """
    owner = os.getpid()

    def end(number: int, _: Any) -> None:
        if os.getpid() != owner:  # it decodes for its parent, which hears of Ctrl-C and ends it
            if number == signal.SIGTERM:
                os._exit(EXIT_CODE)
            return
        if _told:
            os.write(2, AT_ONCE)
            os._exit(EXIT_CODE)
        _told.append(number)
        raise Interrupted(HANDLED[signal.Signals(number)])

    for number in HANDLED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    except Interrupted as interrupted:  # before there was a command, or after it
        print(interrupted, file=sys.stderr)
        sys.exit(EXIT_CODE)
    finally:
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)
