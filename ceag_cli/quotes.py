"""Quotes of a CSV, which have to stand around whole cells and to close in their line.

A quote that is there by mistake takes all that follows into one cell, up to the next quote, and the
csv module says nothing. So a row is one line here, a cell holds no line break, and a quote means
something only around a cell and, written twice, inside of one. ``"a ""b"" c",d`` is read;
``"a,d``, ``5" a,d`` and ``"a"b,d`` are refused.
"""

from __future__ import annotations

import codecs
import io
import re

import numpy as np
import numpy.typing as npt

from ceag_cli.arrays import Flags

AT_ONCE = 1 << 17
"""So many bytes are looked at together; so few that they stay in the cache."""
QUOTED = re.compile(r'"(?:[^"]|"")*"')
REMEDY = "remove it, or put the whole cell into quotes and write each quote in it twice"


def stray_quotes(content: bytes, delimiter: str = ",") -> dict[int, list[str]]:
    """What is wrong with the quotes of a CSV, by line. Empty if nothing is.

    Args:
        content: The file, UTF-8.
        delimiter: What separates its cells.
    """
    if b'"' not in content or _all_in_place(content, delimiter):
        return {}
    found = {}
    # Lines as the csv module has them: no other character ends one.
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    for number, line in enumerate(text, start=1):
        wrong = _wrong_in(line.rstrip("\r\n"), delimiter) if '"' in line else None
        if wrong is not None:
            found[number] = [wrong]
    return found


def _all_in_place(content: bytes, delimiter: str) -> bool:
    """Whether quotes open at the beginning of a cell and close at its end, in the same line.

    Of many rows at once, for large files. Spaces after a closing quote, which mean nothing, are out
    of place here: False says only that each line has to be looked at.
    """
    border = np.zeros(256, bool)  # of a cell; a quote is there where it is written twice
    border[list(f'\r\n"{delimiter}'.encode())] = True
    everything = np.frombuffer(content, np.uint8)
    begin = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    while begin < len(content):
        end = content.rfind(b"\n", begin, begin + AT_ONCE) + 1
        end = end if end > begin else len(content)
        if not _in_place(everything[begin:end], border):
            return False
        begin = end
    return True


def _in_place(read: npt.NDArray[np.uint8], border: Flags) -> bool:
    """The same for some whole lines."""
    is_quote = read == ord('"')
    quotes = is_quote.nonzero()[0]
    if not len(quotes):
        return True
    if len(quotes) % 2:
        return False
    # By turns, if two in a row within a cell are taken for a closing and an opening one.
    opening, closing = quotes[::2], quotes[1::2]
    before = opening[int(opening[0] == 0) :] - 1
    after = closing[: len(closing) - int(closing[-1] == len(read) - 1)] + 1
    if not (border.take(read.take(before)).all() and border.take(read.take(after)).all()):
        return False
    # None is open at the end of a line if there is an even number in each.
    ends = ((read == ord("\n")) | (read == ord("\r"))).nonzero()[0]
    odd = np.bitwise_xor.reduceat(is_quote.view(np.uint8), ends) if len(ends) else ends
    return not odd.any()


def _wrong_in(line: str, delimiter: str) -> str | None:
    """What is wrong with the first quote of a line that is out of place."""
    place, number = 0, 0
    while place <= len(line):
        number += 1
        if line.startswith('"', place):
            whole = QUOTED.match(line, place)
            if whole is None:
                return (
                    f"cell {number} begins with a quote that is not closed in its line, and would "
                    f"take what follows into this cell; {REMEDY}"
                )
            end = _end(line, delimiter, whole.end())
            after = line[whole.end() : end].strip()
            if after:
                return (
                    f"cell {number} goes on with '{after}' after the quote that closes it; {REMEDY}"
                )
        else:
            end = _end(line, delimiter, place)
            cell = line[place:end]
            if '"' in cell:
                return (
                    f"cell {number}, '{cell.strip()}', has a quote but does not begin with it; "
                    f"{REMEDY}"
                )
        place = end + len(delimiter)
    return None


def _end(line: str, delimiter: str, place: int) -> int:
    """Where the cell ends that a place is in."""
    end = line.find(delimiter, place)
    return len(line) if end < 0 else end
