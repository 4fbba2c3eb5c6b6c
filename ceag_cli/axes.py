"""Axes of the plots on pages: where a fraction stands, and the ticks, in percent or points."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A line along which fractions are placed."""

    low: float
    high: float
    start: float
    """Pixels of ``low``."""
    end: float
    """Pixels of ``high``, less than ``start`` for an axis that goes up."""

    @classmethod
    def around(cls, values: list[float], start: float, end: float, margin: float = 0.05) -> Axis:
        """An axis that has room for all values and a little more."""
        low, high = min(values), max(values)
        room = margin * (high - low or 1.0)
        return cls(low - room, high + room, start, end)

    def place(self, value: float) -> float:
        """Pixels of a value; what is beyond the ends stands at the end."""
        inside = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + inside * (self.end - self.start), 1)

    def ticks(self, most: int = 10, sign: bool = True) -> list[tuple[float, str]]:
        """Places and texts of at most about so many round values."""
        return [(self.place(value), text) for value, text in ticks(self.low, self.high, most, sign)]


def ticks(low: float, high: float, most: int = 10, sign: bool = True) -> list[tuple[float, str]]:
    """Round values between two fractions, with their text in hundredths.

    >>> ticks(-0.012, 0.031, 5)
    [(-0.01, '-1'), (0.0, '0'), (0.01, '+1'), (0.02, '+2'), (0.03, '+3')]
    """
    steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    step = next((s for s in steps if (high - low) / s <= most), 1.0)
    found = [i * step for i in range(int(low / step) - 1, int(high / step) + 2)]
    return [
        (t, "0" if abs(t) <= 1e-9 else f"{100 * t:+g}" if sign else f"{100 * t:g}")
        for t in found
        if low < t < high
    ]
