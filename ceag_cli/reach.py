"""Which tolerance some groups can be shown to keep: the other way round from a verdict.

A verdict asks whether psi_g <= eps for a given eps. Here eps is what is asked for:

    measured   the largest psi_g: the smallest eps that these very images satisfy
    shown      the largest upper bound: the smallest eps for which all groups would be PASS
    refuted    the largest lower bound, corrected: for every smaller eps some group would be FAIL

An eps between the last two is INCONCLUSIVE. All groups have to pass, so that ``shown`` takes no
correction: it is at least the largest true psi except with probability alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ceag_cli.intervals import Counts, psi_bounds, quantile_of


@dataclass(frozen=True)
class Reach:
    """Tolerances of some groups, as fractions; each with the number of the group that it is of."""

    measured: float
    """May be negative for a few of several groups."""
    shown: float
    """At least 0, the smallest eps there is."""
    refuted: float
    """May be negative: no eps is shown to be violated."""
    worst: int
    """Group of the largest psi."""
    widest: int
    """Group of the largest upper bound."""


def reach(
    counts: Counts, alpha: float, interval: str = "score", against: str = "overall"
) -> Reach | None:
    """Which eps groups keep, and are shown to keep; ``None`` without any group.

    Args:
        counts: The groups that are judged.
        alpha: Error level, as of an audit.
        interval: As for :func:`~ceag_cli.intervals.psi_bounds`.
        against: Likewise.
    """
    if not len(counts.n):
        return None
    psi, _, upper = psi_bounds(counts, quantile_of(alpha), interval, against)
    corrected = quantile_of(alpha / len(counts.n))
    _, lower, _ = psi_bounds(counts, corrected, interval, against)
    return Reach(
        measured=float(psi.max()),
        shown=max(float(upper.max()), 0.0),
        refuted=float(lower.max()),
        worst=int(np.argmax(psi)),
        widest=int(np.argmax(upper)),
    )
