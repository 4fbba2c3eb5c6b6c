"""JSON that somebody else may have written, read without surprises, and values of known types.

The standard library keeps the last of two equal names, takes ``NaN``, makes infinity of
``1e999``, and stops with a ``RecursionError`` at what is nested deeply. Here each of these is a
``ValueError``, and so is a value of another type or beyond its limits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Collection
from typing import Any, TypeVar

T = TypeVar("T")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHA256 = re.compile(r"[0-9a-f]{64}")

MOST_OF_A_NAME = 4096
"""Characters of a name or path; no file system takes longer ones."""

MOST = 2**63 - 1
"""Of whole numbers."""


def loads(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is none, or holds a name twice in one object, a number that is not finite,
            half of a surrogate pair, or so many levels that it cannot be read.
    """
    try:
        found = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite
        )
        if _SURROGATE.search(text if isinstance(text, str) else text.decode("latin-1")):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"'{twice[:MOST_OF_A_NAME]}' is in it twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


# Values of a known type. ``what`` is their name, for the message.


def text(value: Any, what: str) -> str:
    """A word: not empty, of a bounded length, and without what no path can hold."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} is {shown(value)}, not a word")
    if len(value) > MOST_OF_A_NAME:
        raise ValueError(f"{what} has {len(value)} characters")
    if "\0" in value:
        raise ValueError(f"{what} {shown(value)} holds a NUL")
    return value


def whole(value: Any, what: str, high: int = MOST) -> int:
    """A whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise ValueError(f"{what} is {shown(value)}, not a whole number from 0 to {high}")
    return value


def number(value: Any, what: str, low: float, high: float) -> float:
    """A number between two others, which are allowed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{what} is {shown(value)}, not a number from {low:g} to {high:g}")
    return float(value)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """A mapping; that its names are words follows from its being JSON."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shown(value)}, not a mapping")
    return value


def listed(value: Any, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise ValueError(f"{what} is {shown(value)}, not a list")
    return value


def one_of(value: Any, what: str, known: Collection[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{what} is {shown(value)}, not one of {', '.join(known)}")
    return value


def sha256(value: Any, what: str) -> str:
    """A hash in hexadecimal digits."""
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise ValueError(f"{what} is {shown(value)}, not a sha256")
    return value


def shown(value: Any) -> str:
    """The beginning of a value, as a message quotes it."""
    words = isinstance(value, str)
    said = value if words else json.dumps(value, ensure_ascii=False, default=str)
    said = said if len(said) <= 60 else f"{said[:57]}..."
    return f"'{said}'" if words else said


def record(kind: type[T], value: Any, what: str) -> T:
    """A dataclass of what ``dataclasses.asdict`` has made of one, every field of its own type.

    Raises:
        ValueError: A field is missing, is unknown, or is of another type.
    """
    found = mapping(value, what)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in found:
        one_of(name, f"a key of {what}", fields)
    values = {}
    for name, field in fields.items():
        if name in found:
            values[name] = _of_type(hints[name], found[name], f"{what}, {name}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{what}: {name} is missing")
    return kind(**values)


def _of_type(hint: Any, value: Any, what: str) -> Any:
    """A value of a type as the fields of records have them."""
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):  # of something and None
        return None if value is None else _of_type(parts[0], value, what)
    if typing.get_origin(hint) is tuple:
        return tuple(_of_type(parts[0], item, what) for item in listed(value, what))
    if dataclasses.is_dataclass(hint):
        return record(typing.cast(Any, hint), value, what)
    known = (int, float) if hint is float else hint
    if not isinstance(value, known) or isinstance(value, bool) != (hint is bool):
        raise ValueError(f"{what} is {shown(value)}, not of the type {hint.__name__}")
    if isinstance(value, int) and abs(value) > MOST:  # no float, perhaps, and no count
        raise ValueError(f"{what} is {shown(value)}, not a number up to {MOST}")
    return value
