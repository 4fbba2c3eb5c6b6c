"""How an option is declared, and how what is given for it is named, read and checked.

The options of a command are the fields of a class. A field (``groups_by``) is a flag of the
command line (``--groups-by``), a key of a recipe and an argument in Python, with one type, one
default, one sentence of help and the same limits everywhere.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, Union

from ceag_cli.errors import CeagError, OptionError

EMPTY = "is empty, as an unset variable makes it; give a value, or leave it out"
"""What is wrong with a text without letters. Taken for "not given" it would change what is done."""


# Declaring


@dataclass(frozen=True)
class Declaration:
    """What is declared of an option, besides its name and its type."""

    default: Any
    help: str
    """One sentence for ``--help`` and the documentation."""
    panel: str
    """The heading under which the documentation lists it."""
    _: dataclasses.KW_ONLY
    flags: tuple[str, ...] = ()
    """Spellings of the flag besides ``--`` and the field's name."""
    low: float | None = None
    """Smallest value allowed."""
    high: float | None = None
    """Largest value allowed."""
    below: float | None = None
    """The value must be smaller than this."""
    above: float | None = None
    """The value must be larger than this."""
    choices: tuple[str, ...] = ()
    """The values allowed."""
    positional: bool = False
    """The option is an argument of the command line, not a flag."""
    shown: str | None = None
    """The default in words, where the value does not explain itself."""
    paper: Any = None
    """The default under ``--paper``, where that is another one."""
    methods: tuple[str, ...] = ()
    """The methods of mitigation that it changes anything for; none means all of them."""
    read: Callable[[Any], Any] | None = None
    """Makes the value of what a file says, for what is no word or number. There is no flag for such
    an option."""
    repeatable: bool = False
    """The values of a list are given by repeating the flag, not as ``a,b``."""
    rule: Callable[[Any], str | None] | None = None
    """Says what is wrong with a value, if anything."""
    unit: str = ""
    """What a number means, for who takes it for another one."""


def option(default: Any, help: str, panel: str, **more: Any) -> Any:
    """Declare a field as an option; ``more`` is what else :class:`Declaration` has."""
    declaration = Declaration(default, help, panel, **more)
    return dataclasses.field(default=default, metadata={"declaration": declaration})


def declared(options: type[Options]) -> dict[str, Declaration]:
    """The options of a class by name, in the order in which ``--help`` has them."""
    return {
        field.name: field.metadata["declaration"] for field in options.__dataclass_fields__.values()
    }


def value_type(options: type[Options], name: str) -> Any:
    """Type of an option without its ``| None``, e.g. ``int`` or ``tuple[float, ...]``."""
    hint = _hints(options)[name]  # type: ignore[arg-type]  # mypy asks instances for their hash
    if typing.get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


@cache
def _hints(options: type[Options]) -> dict[str, Any]:
    """The types of all options; they are asked for one by one, and reading them takes long."""
    return typing.get_type_hints(options)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that check their values, and know where they come from."""

    def __post_init__(self) -> None:
        """Check values given in Python as those of a command line or a recipe are.

        Raises:
            OptionError: With every value that is out of its range.
        """
        problems: list[str] = []
        for name, about in declared(type(self)).items():
            value = getattr(self, name)
            if about.read is not None:
                try:
                    object.__setattr__(self, name, about.read(value))
                except OptionError as error:
                    problems += error.problems
                continue
            for item in value if isinstance(value, tuple) else (value,):
                try:
                    if item is not None:
                        _check(called(type(self), name), item, about)
                except OptionError as error:
                    problems += error.problems
                except TypeError:
                    problems.append(f"{flag(name)}: '{item}' is of the wrong type")
        if problems:
            raise OptionError(problems)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each option that was given comes from: a flag or a file. Empty in Python."""
        found: Mapping[str, str] = self.__dict__.get("_origins", {})
        return found

    def come_from(self, origins: Mapping[str, str]) -> None:
        """Note where the options come from; it does not make them other options."""
        object.__setattr__(self, "_origins", dict(origins))

    def file_of(self, name: str) -> str | None:
        """The file that an option comes from; ``None`` for a flag, for Python, or its default."""
        origin = self.origins.get(name, "--")
        return None if origin.startswith("--") else origin


Class = TypeVar("Class", bound=Options)


def with_paper_preset(options: type[Class]) -> type[Class]:
    """Let ``paper=True`` change the defaults of an options class to those declared with ``paper``.

    What is given explicitly stays, so that every published setting can still be varied.
    """
    preset = {
        name: about.paper for name, about in declared(options).items() if about.paper is not None
    }
    initialise = options.__init__

    def initialise_with_preset(self: Class, **given: Any) -> None:
        initialise(self, **(preset | given if given.get("paper") else given))

    setattr(options, "__init__", initialise_with_preset)  # noqa: B010 - mypy forbids the assignment
    return options


# Naming


def flag(name: str) -> str:
    """``groups_by`` → ``--groups-by``."""
    return "--" + name.replace("_", "-")


def called(options: type[Options], name: str) -> str:
    """What an option is called on the command line: its flag, or ``FILE``."""
    return "FILE" if declared(options)[name].positional else flag(name)


def as_given(options: Options, message: str) -> str:
    """A message that calls options which a file gives by their keys there, not by their flags.

    ``--lr has no effect`` → ``lr (in ceag.yaml) has no effect``.
    """
    for name in options.origins:
        file = options.file_of(name)
        if file is not None:
            told = f"{name} (in {file})".replace("\\", r"\\")
            message = re.sub(rf"(?<![\w-]){flag(name)}(?![\w-])", told, message)
    return message


@contextmanager
def named_as_given(options: Options) -> Iterator[None]:
    """Let errors call options as :func:`as_given` does.

    Raises:
        CeagError: What was raised.
    """
    try:
        yield
    except CeagError as error:
        error.problems = [as_given(options, problem) for problem in error.problems]
        raise


# What was given


def given(options: Options, names: Iterable[str]) -> list[str]:
    """Those of some options that are not at their default, under ``--paper`` the published one."""
    paper = getattr(options, "paper", False)
    found = []
    for name in names:
        about = declared(type(options))[name]
        published = about.paper if paper else None
        if getattr(options, name) != (about.default if published is None else published):
            found.append(name)
    return found


Idle = Mapping[str, tuple[bool, Iterable[str]]]
"""By the words that follow "has no effect", whether they apply, and to which options."""


def no_effect(options: Options, idle: Idle) -> list[str]:
    """Warnings of options that were given and change nothing."""
    return [
        as_given(options, f"{flag(name)} has no effect {where}")
        for where, (applies, names) in idle.items()
        if applies
        for name in given(options, names)
    ]


# Reading and checking


def parse(options: type[Options], name: str, raw: Any, place: str = "") -> Any:
    """Turn a value from a command line or a recipe into the option's type.

    YAML 1.1 reads ``1e-3`` as a string, and lists arrive as ``a,b`` from a command line, so
    numbers are accepted as strings and lists as comma-separated strings.

    Args:
        options: The command's options class.
        name: The option.
        raw: Its value as given.
        place: What the option is called where it was given; by default as on the command line.

    Raises:
        OptionError: The value cannot be used; the message names value, option and remedy.
    """
    wanted = value_type(options, name)
    about = declared(options)[name]
    if about.read is not None:
        return about.read(raw)
    place = place or called(options, name)
    if raw is None:
        if typing.get_type_hints(options)[name] == wanted:
            raise OptionError(f"{place}: needs a value")
        return None
    if typing.get_origin(wanted) is tuple:
        items = raw.split(",") if isinstance(raw, str) and not about.repeatable else raw
        items = items if isinstance(items, (list, tuple)) else [items]
        element = typing.get_args(wanted)[0]
        return tuple(_check(place, _convert(place, item, element), about) for item in items)
    return _check(place, _convert(place, raw, wanted), about)


def _convert(place: str, raw: Any, wanted: type) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    wrong = OptionError(f"{place}: '{raw}' is not {words[wanted]}")
    if wanted is bool:
        if not isinstance(raw, bool):
            raise wrong
        return raw
    if isinstance(raw, (bool, dict, list)):
        raise wrong
    if wanted is str:
        return str(raw).strip()
    if wanted is int and isinstance(raw, int):
        return raw
    try:
        number = float(raw)
        if wanted is int:
            if number != int(number):
                raise wrong
            return int(raw) if isinstance(raw, str) else int(number)
    except (ValueError, OverflowError, TypeError):  # a date is of another type
        raise wrong from None
    if not math.isfinite(number):
        raise wrong
    return number


_BOUNDS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("low", "at least", operator.ge),
    ("high", "at most", operator.le),
    ("below", "less than", operator.lt),
    ("above", "more than", operator.gt),
)


def _check(place: str, value: Any, about: Declaration) -> Any:
    if isinstance(value, str) and not value.strip():
        raise OptionError(f"{place}: {EMPTY}")
    if isinstance(value, str) and "\0" in value:  # which a YAML file can hold, and no path
        raise OptionError(f"{place}: {value!a} holds a NUL")
    for key, words, holds in _BOUNDS:
        bound = getattr(about, key)
        if bound is not None and not holds(value, bound):
            meant = f" ({about.unit})" if about.unit and key in ("high", "below") else ""
            raise OptionError(f"{place}: {value} must be {words} {bound}{meant}")
    if about.choices and value not in about.choices:
        raise OptionError(f"{place}: '{value}' is not one of {', '.join(about.choices)}")
    problem = about.rule(value) if about.rule else None
    if problem is not None:
        raise OptionError(f"{place}: {problem}")
    return value
