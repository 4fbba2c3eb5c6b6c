"""What an audit asks of a model: tolerances, error levels, and what is excused for now.

One object, whether it comes from the command line, from ``ceag.yaml`` or ``pyproject.toml``, or
from Python, so that all of them give the same verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

GATES = ("evidence", "strict", "point")
AGAINST = ("overall", "rest")

Group = tuple[str, str]
"""Feature and value."""


@dataclass(frozen=True)
class Waiver:
    """A group whose violation is accepted for a while."""

    group: Group
    eps: float
    """The violation that is accepted; a demonstrably larger one is not."""
    reason: str
    expires: date
    """The last day on which it is accepted."""
    owner: str | None = None


@dataclass(frozen=True)
class Policy:
    """What is asked. Fractions, never percent."""

    eps: float = 0.02
    """Largest excess accuracy gap."""
    alpha: float = 0.05
    """Error level of each verdict PASS, and of all verdicts FAIL together."""
    interval: str = "score"
    """``score`` holds alpha nominally, ``exact`` never exceeds it."""
    gate: str = "evidence"
    """What makes the whole audit fail: a demonstrated violation (``evidence``), any group that is
    not demonstrated to satisfy (``strict``), or a measured value beyond eps (``point``, the
    paper's criterion)."""
    against: str = "overall"
    """What a group's gap is compared with: that of all images, or of all others (``rest``)."""
    eps_by_group: Mapping[Group, float] = field(default_factory=dict)
    """Where it is another one."""
    required: tuple[Group, ...] = ()
    """Groups that must PASS, whatever the gate."""
    waivers: tuple[Waiver, ...] = ()
    max_drop: float | None = None
    """Largest loss of accuracy over all images."""
    min_accuracy: float | None = None
    """Smallest accuracy of the sparse model in any group."""
    min_coverage: float = 0.5
    """Share of the images that must lie in groups with a verdict, or nothing is decided."""

    def eps_of(self, group: Group) -> float:
        """Largest excess accuracy gap of a group."""
        return self.eps_by_group.get(group, self.eps)

    def waiver_of(self, group: Group, today: date) -> Waiver | None:
        """The waiver of a group that has not expired."""
        return next((w for w in self.waivers if w.group == group and today <= w.expires), None)
