"""What a policy says of single groups: an eps of its own, that it is required, that it is excused.

In ``ceag.yaml`` and ``pyproject.toml`` they are lists of mappings, and in Python either these or
the objects below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, TypeVar

from ceag_cli.errors import OptionError, nearest

Group = tuple[str, str]
"""Feature and value."""

T = TypeVar("T")


@dataclass(frozen=True)
class Override:
    """An eps that holds for one group alone."""

    group: Group
    eps: float

    def as_mapping(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"feature": self.group[0], "value": self.group[1], "eps": self.eps}


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

    def as_mapping(self) -> dict[str, Any]:
        """As it stands in a file."""
        found = {
            "feature": self.group[0],
            "value": self.group[1],
            "eps": self.eps,
            "reason": self.reason,
            "expires": self.expires.isoformat(),
        }
        return found if self.owner is None else found | {"owner": self.owner}


def read_overrides(raw: Any) -> tuple[Override, ...]:
    """The list ``overrides`` of a policy.

    Raises:
        OptionError: With every entry that cannot be used.
    """

    def read(entry: Mapping[str, Any]) -> Override:
        return Override(_group(entry), _eps(entry))

    return _entries("overrides", raw, ("feature", "value", "eps"), (), read)


def read_waivers(raw: Any) -> tuple[Waiver, ...]:
    """The list ``waivers`` of a policy.

    Raises:
        OptionError: With every entry that cannot be used.
    """

    def read(entry: Mapping[str, Any]) -> Waiver:
        owner = None if entry.get("owner") is None else _word(entry, "owner")
        return Waiver(_group(entry), _eps(entry), _word(entry, "reason"), _day(entry), owner)

    needed = ("feature", "value", "eps", "reason", "expires")
    return _entries("waivers", raw, needed, ("owner",), read)


def read_required(raw: Any) -> tuple[Group, ...]:
    """The list ``required_groups`` of a policy.

    Raises:
        OptionError: With every entry that cannot be used.
    """
    if isinstance(raw, (list, tuple)):  # a pair is the object of this kind
        raw = [
            {"feature": item[0], "value": item[1]}
            if isinstance(item, (list, tuple)) and len(item) == 2
            else item
            for item in raw
        ]
    return _entries("required_groups", raw, ("feature", "value"), (), _group)


def _entries(
    name: str,
    raw: Any,
    needed: Sequence[str],
    optional: Sequence[str],
    read: Callable[[Mapping[str, Any]], T],
) -> tuple[T, ...]:
    if raw is None:
        return ()
    shape = "{" + ", ".join(f"{key}: ..." for key in needed) + "}"
    if not isinstance(raw, (list, tuple)):
        raise OptionError(f"{name}: is not a list; write '- {shape}', one entry a line")
    known = [*needed, *optional]
    found: list[T] = []
    problems: list[str] = []
    entry_of: dict[Group, int] = {}
    for number, item in enumerate(raw, start=1):
        place = f"{name}, entry {number}"
        # An object is read as the mapping that it stands for, so that it is checked as one.
        entry = item.as_mapping() if isinstance(item, (Override, Waiver)) else item
        if not isinstance(entry, Mapping):
            problems.append(f"{place}: '{item}' is not of the form {shape}")
            continue
        wrong = [
            f"unknown key '{key}'{nearest(str(key), known)}" for key in entry if key not in known
        ]
        if not wrong:  # what is missing is mostly what was misspelt
            wrong = [
                f"'{key}' is missing; write {shape}" for key in needed if entry.get(key) is None
            ]
        if not wrong:
            try:
                value = read(entry)
            except OptionError as error:
                wrong += error.problems
            else:
                group = _group(entry)
                if group in entry_of:
                    wrong.append(f"{named(group)} is in entry {entry_of[group]} already")
                entry_of.setdefault(group, number)
                found.append(value)
        problems += [f"{place}: {problem}" for problem in wrong]
    if problems:
        raise OptionError(problems)
    return tuple(found)


def _group(entry: Mapping[str, Any]) -> Group:
    problems = []
    parts = []
    for key in ("feature", "value"):
        part = entry[key]
        if isinstance(part, (str, int, float)) and not isinstance(part, bool):
            parts.append(str(part).strip())
        else:  # YAML takes no, yes, on, off, and dates for something else than a word
            problems.append(f"{key}: '{part}' is not a word; write it in quotes, as in the CSV")
    if problems:
        raise OptionError(problems)
    return parts[0], parts[1]


def _eps(entry: Mapping[str, Any]) -> float:
    raw = entry["eps"]
    try:
        if isinstance(raw, bool):
            raise ValueError
        eps = float(raw)  # YAML 1.1 takes 1e-3 for a string
    except (TypeError, ValueError):
        raise OptionError(f"eps: '{raw}' is not a number") from None
    if not (math.isfinite(eps) and 0 <= eps <= 1):
        raise OptionError(f"eps: {raw} is not a fraction from 0 to 1; 0.02 is 2 points")
    return eps


def _word(entry: Mapping[str, Any], key: str) -> str:
    raw = entry[key]
    if not isinstance(raw, str) or not raw.strip():
        raise OptionError(f"{key}: '{raw}' says nothing; write some words")
    return raw.strip()


def _day(entry: Mapping[str, Any]) -> date:
    raw = entry["expires"]
    if isinstance(raw, date) and not isinstance(raw, datetime):
        return raw
    try:
        if isinstance(raw, str) and len(raw.strip()) == len("2026-12-31"):
            return date.fromisoformat(raw.strip())
    except ValueError:
        pass
    raise OptionError(f"expires: '{raw}' is not a date; write it as 2026-12-31")


def named(group: Group) -> str:
    """``race=Black``."""
    return "=".join(group)


def unknown(group: Group, names: Sequence[Group]) -> str | None:
    """What is wrong with the name of a group that is to be among some; ``None`` if it is."""
    if group in names:
        return None
    feature, value = group
    features = list(dict.fromkeys(name for name, _ in names))
    if feature not in features:
        return (
            f"there is no feature '{feature}'{nearest(feature, features)} "
            f"(features: {', '.join(features)})"
        )
    values = [other for name, other in names if name == feature]
    return f"'{feature}' has no value '{value}'{nearest(value, values)}"
