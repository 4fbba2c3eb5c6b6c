"""Every error that ceag raises on purpose, in one tree.

CeagError
├── OptionError        a flag, a recipe key or an entry of ceag.yaml cannot be used
├── LabelsError        rows of the groups CSV cannot be used
├── ImageError         an image cannot be read
├── CheckpointError    a weights file cannot be read, or its architecture is not known
├── LineageError       a parent, a groups CSV or a default input is missing, changed or ambiguous
├── OutputError        an output exists already or cannot be written
│   └── InUse          another run writes there
├── PruningError       the sparsity asked for cannot be reached
├── EvaluationError    a model's outputs cannot be counted
├── ExportError        a model cannot be exported, or the export answers otherwise
├── TrainingError      training cannot start, cannot be resumed, or has diverged
└── SweepError         some runs of a sweep failed

All of them mean "what was given cannot be used": the command line prints the message and
exits with 2. ``Ended`` is no error of ours: something outside ended the run, which exits with 130.
Anything else that escapes is a defect of ceag and exits with 4.
"""

import difflib
from collections.abc import Iterable, Sequence


class CeagError(Exception):
    """Base of every error raised on purpose.

    Args:
        problems: What is wrong, as one message or several. Each names the value, the place and
            the remedy, and is printed on a line of its own.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class OptionError(CeagError):
    """A flag, a recipe key or an entry of ceag.yaml cannot be used."""


class LabelsError(CeagError):
    """Rows of the groups CSV cannot be used; carries one problem per row."""


class ImageError(CeagError):
    """An image cannot be read."""


class CheckpointError(CeagError):
    """A weights file cannot be read, or its architecture is not known."""


class LineageError(CeagError):
    """A parent, a groups CSV or a default input is missing, changed or ambiguous."""


class OutputError(CeagError):
    """An output exists already or cannot be written."""


class InUse(OutputError):
    """Another run writes there, and has not ended."""


class PruningError(CeagError):
    """The sparsity asked for cannot be reached."""


class EvaluationError(CeagError):
    """A model's outputs cannot be counted."""


class ExportError(CeagError):
    """A model cannot be exported, or the exported file answers otherwise than the model."""


class TrainingError(CeagError):
    """Training cannot start, cannot be resumed, or has diverged."""


class SweepError(CeagError):
    """Some runs of a sweep failed; carries the problems of each."""


class Ended(BaseException):
    """Something outside ended the run: a signal, or another of its processes that has gone.

    Like ``KeyboardInterrupt`` it is no ``Exception``, so that nothing on its way takes it for a
    failure of its own.
    """


class Interrupted(Ended):
    """The user, or who runs the machine, has told the command to end."""


def first(problems: Sequence[str], most: int = 5, what: str = "") -> list[str]:
    """The first of many problems of one kind, and how many more there are."""
    rest = len(problems) - most
    return [*problems[:most], *([f"and {rest} more{what}"] if rest > 0 else [])]


LONGEST_COMPARED = 200
"""Characters; a longer name is not misspelt, and comparing takes the time of its square."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name nearest to one not known, else nothing."""
    if len(name) > LONGEST_COMPARED:
        return ""
    names = [other for other in known if len(other) <= LONGEST_COMPARED]
    found = difflib.get_close_matches(name, names, n=1)
    if not found:  # difflib takes other cases for other letters
        lower = {other.casefold(): other for other in names}
        found = [lower[near] for near in difflib.get_close_matches(name.casefold(), lower, n=1)]
    return f"; did you mean '{found[0]}'?" if found else ""
