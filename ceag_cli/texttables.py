"""Tables as lines of text, their columns under each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """A line a row, two spaces between columns.

    Args:
        rows: Cells, as many in every row; the head is a row as well. None at all are no lines.
        left: The columns of words, -1 for the last one; those of numbers are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = {column % len(widths) for column in left} if widths else set()
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
