"""What a sweep consists of: the recipe, and the runs that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ceag_cli.errors import OptionError
from ceag_cli.options import Command, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.recipe import checked, nearest, read_yaml

SECTIONS: dict[str, type[Command]] = {
    "dense": DenseOptions,
    "prune": PruneOptions,
    "mitigate": MitigateOptions,
}
SET_BY_THE_SWEEP = (
    *("seed", "output", "resume", "overwrite", "sparsity", "format", "strict", "dry_run"),
)


@dataclass(frozen=True)
class Plan:
    """What a sweep consists of."""

    name: str
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    dense: Mapping[str, Any]
    """Options of ``ceag dense``, the same for every seed."""
    prune: Mapping[str, Any]
    mitigate: Mapping[str, Any]
    """Options of ``ceag mitigate`` that all methods share."""
    methods: Mapping[str, Mapping[str, Any]]
    """Further options of ``ceag mitigate`` by the name that the table gives them."""
    compare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a method those that it is compared with."""

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the recipe of a sweep.

        Raises:
            OptionError: With every problem of the file.
        """
        content = read_yaml(path)
        problems: list[str] = []
        if content.pop("command", "sweep") != "sweep":
            problems.append(f"{path}: this recipe is not for 'ceag sweep'")
        keys = ("seeds", "sparsities", *SECTIONS, "methods", "compare")
        problems += [
            f"{path}: unknown key '{name}'{nearest(name, list(keys))}"
            for name in content
            if name not in keys
        ]
        seeds = _list(path, content, "seeds", int, "0, 1, 2", problems)
        sparsities = _list(path, content, "sparsities", float, "0.9, 0.95", problems)
        problems += [
            f"{path}: sparsities: {sparsity} must be at least 0 and less than 1"
            for sparsity in sparsities
            if not 0 <= sparsity < 1
        ]
        sections = {
            name: _options(path, content.get(name), name, name, problems) for name in SECTIONS
        }
        methods = content.get("methods")
        if not isinstance(methods, dict) or not methods:
            problems.append(f"{path}: needs 'methods', name: {{option: value}}")
            methods = {}
        named = {
            str(name): _options(path, given, "mitigate", f"methods, {name}", problems)
            for name, given in methods.items()
        }
        problems += [
            f"{path}: methods: '{name}' cannot be a file name"
            for name in named
            if Path(name).name != name or name in ("model", "model.pruned")
        ]
        compare = _compare(path, content.get("compare"), list(named), problems)
        if problems:
            raise OptionError(problems)
        return cls(path.stem, seeds, sparsities, methods=named, compare=compare, **sections)

    def cells(self) -> list[Cell]:
        """Every run of the plan."""
        return [
            Cell(seed, sparsity, method)
            for seed in self.seeds
            for sparsity in self.sparsities
            for method in self.methods
        ]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    seed: int
    sparsity: float
    method: str

    def __str__(self) -> str:
        return f"{self.method}, sparsity {self.sparsity:g}, seed {self.seed}"


def _list(
    path: Path,
    content: Mapping[str, Any],
    name: str,
    kind: type,
    example: str,
    problems: list[str],
) -> tuple[Any, ...]:
    """A list of numbers in a recipe, each of them once."""
    values = content.get(name)
    values = values if isinstance(values, list) else [values]
    numeric = [isinstance(v, (int, kind)) and not isinstance(v, bool) for v in values]
    if not numeric or not all(numeric):
        problems.append(f"{path}: needs '{name}', a list of numbers, e.g. {name}: [{example}]")
        return ()
    numbers = tuple(kind(value) for value in values)
    if len(set(numbers)) < len(numbers):
        problems.append(f"{path}: {name}: a number is given twice")
    return numbers


def _options(
    path: Path, given: Any, command: str, place: str, problems: list[str]
) -> dict[str, Any]:
    """Options of a command in a section of a recipe."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        problems.append(f"{path}: section '{place}' must hold 'name: value' lines")
        return {}
    for name in SET_BY_THE_SWEEP:
        if name in given:
            problems.append(f"{path}, {place}: '{name}' is set by the sweep; leave it out")
    try:
        return checked(given, SECTIONS[command], f"{path}, {place}")
    except OptionError as error:
        problems += error.problems
        return {}


def _compare(
    path: Path, given: Any, methods: list[str], problems: list[str]
) -> dict[str, tuple[str, ...]]:
    """Which methods are compared with which."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        problems.append(f"{path}: section 'compare' must hold 'method: [rival, ...]' lines")
        return {}
    found = {}
    for name, rivals in given.items():
        rivals = rivals if isinstance(rivals, list) else [rivals]
        found[str(name)] = tuple(dict.fromkeys(map(str, rivals)))
        problems += [
            f"{path}: compare: '{other}' is no method{nearest(other, methods)}"
            for other in (str(name), *found[str(name)])
            if other not in methods
        ]
        if str(name) in found[str(name)]:
            problems.append(f"{path}: compare: '{name}' is compared with itself")
    return found
