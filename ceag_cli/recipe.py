"""Recipes: the options of a command as a YAML file, and how they join with flags.

A flag beats the recipe given with ``--config``, which beats the command's section of ``ceag.yaml``
or of ``[tool.ceag]`` in ``pyproject.toml`` in the current folder, which beats the default. The two
files may share the work, but not contradict each other. Unknown keys are errors with the nearest
name, and all errors of a file are reported together.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from ceag_cli import strictyaml
from ceag_cli.clauses import Override, Waiver
from ceag_cli.declarations import EMPTY, Options, flag, parse
from ceag_cli.errors import OptionError, nearest
from ceag_cli.options import COMMANDS, Command
from ceag_cli.strictyaml import MOST_BYTES

PROJECT_FILE = "ceag.yaml"
PYPROJECT = "pyproject.toml"

C = TypeVar("C", bound=Command)

# What only concerns how a run is carried out or where it goes, not what comes out of it: changing
# these does not make a resumed run another run.
_NOT_IN_RECIPE = {
    *("resume", "overwrite", "output", "workers", "device", "cache", "cache_size"),
    *("allow_outside", "format", "strict", "dry_run", "plan", "plan_churn", "report", "gallery"),
}


# Reading


def _text_of(path: Path) -> str:
    """The text of a recipe or policy; of what never ends, or is too long, only that is said.

    Raises:
        OptionError: It is missing, too long, or no text in UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise OptionError(f"{path}: has more than {MOST_BYTES >> 10} kB; is it a recipe?")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise OptionError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file is an empty mapping.

    Raises:
        OptionError: The file is missing, is not YAML, or is not a mapping of names.
    """
    try:
        content = strictyaml.load(_text_of(path))
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise OptionError(f"{path}: expected 'name: value' lines")
    return content


def read_recipe(path: Path, command: str) -> dict[str, Any]:
    """Options of a recipe, checked.

    A recipe says which command it is for in its key ``command``.

    Raises:
        OptionError: With every problem of the file.
    """
    content = read_yaml(path)
    meant = content.pop("command", command)
    if meant != command:
        raise OptionError(f"{path}: this recipe is for 'ceag {meant}', not for 'ceag {command}'")
    return checked(content, COMMANDS[command], str(path))


def checked(
    values: Mapping[str, Any],
    command: type[Command],
    place: str,
    names: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Options of a command, each of the right type and within its limits.

    Args:
        values: As read from YAML or a command line.
        command: The command's options class.
        place: The file in which they stand, by their keys; empty for a command line.
        names: What an option is called on the command line where that is not its flag.

    Raises:
        OptionError: With every value that cannot be used and every unknown name.
    """
    usable: dict[str, Any] = {}
    problems: list[str] = []
    known = command.__dataclass_fields__
    prefix = f"{place}: " if place else ""
    for name, raw in values.items():
        if name not in known:
            problems.append(f"{prefix}unknown key '{name}'{nearest(name, known)}")
            continue
        try:
            usable[name] = parse(command, name, raw, name if place else names.get(name, ""))
        except OptionError as error:
            problems += [prefix + problem for problem in error.problems]
    if problems:
        raise OptionError(problems)
    return usable


# What holds in a folder: ceag.yaml and pyproject.toml


def _yaml_sections(path: Path) -> dict[str, Any]:
    """The sections of ``ceag.yaml``, one per command."""
    for other in (path.with_suffix(".yml"), path.with_name(f".{path.name}")):
        if other.is_file():
            raise OptionError(f"{other}: is not read by that name; rename it {path.name}")
    if not path.is_file():
        return {}
    content = read_yaml(path)
    if "command" in content:  # a recipe that happens to have this name, not a project file
        return {}
    return content


def _toml_sections(path: Path) -> dict[str, Any]:
    """The tables ``[tool.ceag.COMMAND]`` of ``pyproject.toml``."""
    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(_text_of(path))
    except RecursionError:
        raise OptionError(f"{path}: not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # tomllib.TOMLDecodeError is one, and a number too long another
        raise OptionError(f"{path}: not valid TOML: {error}") from None
    tool = content.get("tool")
    found = tool.get("ceag", {}) if isinstance(tool, dict) else {}
    if not isinstance(found, dict):
        raise OptionError(f"{path}: [tool.ceag] must hold one table per command")
    return found


def _section(content: Mapping[str, Any], command: str, path: Path, place: str) -> dict[str, Any]:
    unknown = [
        f"{path}: '{name}' is not a section{nearest(name, COMMANDS)} "
        f"(one section per command: {', '.join(COMMANDS)}; e.g. 'mitigate: {{eps: 0.02}}')"
        for name in content
        if name not in COMMANDS
    ]
    if unknown:
        raise OptionError(unknown)
    section = content.get(command) or {}
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise OptionError(f"{path}: section '{command}' must hold 'name: value' lines")
    return checked(section, COMMANDS[command], place)


def read_project(command: str, folder: Path = Path()) -> dict[str, tuple[Any, str]]:
    """The command's section of ``ceag.yaml`` or of ``[tool.ceag]`` in ``pyproject.toml``.

    Returns:
        Options of the command, each with the file that it comes from; nothing where there is
        neither file. An option that both files name has the same value in both.

    Raises:
        OptionError: With every problem of the files.
    """
    readers: list[tuple[str, str, Callable[[Path], dict[str, Any]]]] = [
        (PROJECT_FILE, f"section {command}", _yaml_sections),
        (PYPROJECT, f"[tool.ceag.{command}]", _toml_sections),
    ]
    found: dict[str, tuple[Any, str]] = {}
    problems: list[str] = []
    for name, where, read in readers:
        path = folder / name
        try:
            values = _section(read(path), command, path, f"{path}, {where}")
        except OptionError as error:
            problems += error.problems
            continue
        for key, value in values.items():
            was, place = found.setdefault(key, (value, str(path)))
            if was != value:
                problems.append(
                    f"{path}, {where}: {key} is {_shown(value)}, but {_shown(was)} in {place}; "
                    "say it in one of the two files"
                )
    if problems:
        raise OptionError(problems)
    return found


def _shown(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


# Joining


def resolve(
    command: type[C],
    given: Mapping[str, Any],
    config: str | None = None,
    *,
    folder: Path = Path(),
    names: Mapping[str, str] = MappingProxyType({}),
) -> C:
    """Join flags, recipe, project files and defaults into the options of a command.

    Args:
        command: The command's options class.
        given: Values from the command line or from Python; ``None`` means "not given".
        config: Path of a recipe.
        folder: Where the project files are.
        names: What an option is called on the command line where that is not its flag.

    Returns:
        The options, which know where each of them comes from (``origins``).

    Raises:
        OptionError: With every value that cannot be used.
    """
    name = _name_of(command)
    sources: list[Callable[[], Mapping[str, tuple[Any, str]]]] = [
        lambda: read_project(name, folder),
        lambda: _of_recipe(config, name),
        lambda: _of_flags(given, COMMANDS[name], names),
    ]
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for read in sources:
        try:
            for key, (value, origin) in read().items():
                values[key], origins[key] = value, origin
        except OptionError as error:
            problems += error.problems
    if problems:
        raise OptionError(problems)
    options = command(**values)
    options.come_from(origins)
    return options


def _of_recipe(config: str | None, command: str) -> dict[str, tuple[Any, str]]:
    """The options of a recipe, each with its file."""
    if config is None:
        return {}
    if not config.strip():
        raise OptionError(f"--config: {EMPTY}")
    found = read_recipe(Path(config), command)
    return {key: (value, config) for key, value in found.items()}


def _of_flags(
    given: Mapping[str, Any], command: type[Command], names: Mapping[str, str]
) -> dict[str, tuple[Any, str]]:
    """The options of a command line, each with its flag."""
    words = {key: value for key, value in given.items() if value is not None}
    return {key: (value, flag(key)) for key, value in checked(words, command, "", names).items()}


def _name_of(command: type[Options]) -> str:
    return next(name for name, known in COMMANDS.items() if known is command)


# Writing and comparing


def as_recipe(options: Command) -> dict[str, Any]:
    """The options that determine a run's result, as plain values.

    Two runs with equal recipes, inputs and versions give equal results on a CPU.
    """
    # A value of None is written only where leaving it out would mean something else.
    default = _defaults(type(options), getattr(options, "paper", False))
    values = {
        name: _plain(value)
        for name, value in vars(options).items()
        if name in default
        and name not in _NOT_IN_RECIPE
        and (value is not None or default[name] is not None)
    }
    return {"command": _name_of(type(options))} | values


def _plain(value: Any) -> Any:
    if isinstance(value, (Override, Waiver)):
        return value.as_mapping()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _defaults(command: type[Command], paper: bool) -> dict[str, Any]:
    """The defaults of a command's options, under ``--paper`` the published ones."""
    default = command(**({"paper": True} if paper else {}))  # type: ignore[arg-type]
    return {name: _plain(getattr(default, name)) for name in command.__dataclass_fields__}


def dump(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML that :func:`read_recipe` reads back."""
    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two recipes of a command, one line per option.

    An option that the first one lacks had its default: it may have been added since.
    """
    command = COMMANDS.get(str(before.get("command")))
    defaults = _defaults(command, bool(before.get("paper"))) if command is not None else {}
    had = {name: before.get(name, defaults.get(name)) for name in before.keys() | now.keys()}
    return [
        f"{flag(name)} was {json.dumps(had[name])} and is {json.dumps(now.get(name))}"
        for name in sorted(had)
        if had[name] != now.get(name)
    ]
