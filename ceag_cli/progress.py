"""What a running command tells its user, apart from its result.

Stages speak through a reporter, so that the command line can draw progress bars on stderr and a
Python caller hears nothing unless asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Update = Callable[[int, str], None]
"""Called with the steps done and a few words on how it goes."""


class Reporter(Protocol):
    """Receives notes, warnings and progress."""

    def say(self, text: str) -> None:
        """A line of information."""

    def warn(self, text: str) -> None:
        """A line that the user should not miss."""

    def bar(self, title: str, total: int) -> AbstractContextManager[Update]:
        """A progress bar for ``total`` steps, as a context manager that yields its update."""


class Quiet:
    """A reporter that says nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Update]:
        """Draw nothing."""
        yield lambda done, text: None
