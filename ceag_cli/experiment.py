"""What a sweep consists of: the recipe, and the runs that it asks for.

Of a run the *approach* says how its sparse model is made, whatever the sparsity: the criterion that
chooses the weights, and the method that trains what is left. An approach at one sparsity is a
*setting*; a setting with one seed is a *cell*, which is one run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ceag_cli.errors import OptionError, nearest
from ceag_cli.options import AuditOptions, Command, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.policy import DEFAULT_EPS
from ceag_cli.recipe import checked, read_yaml
from ceag_cli.stageoptions import CRITERIA

_NO_FILE_NAME = re.compile(r"""[\\/:*?"<>|`]|^[.=+@-]|^$""")
"""What a name must not have that becomes one of a file, a row of tables and an entry of a plot."""
MOST_OF_A_NAME = 100

SECTIONS: dict[str, type[Command]] = {
    "dense": DenseOptions,
    "prune": PruneOptions,
    "mitigate": MitigateOptions,
    "audit": AuditOptions,
}
SET_BY_THE_SWEEP = (
    *("seed", "output", "resume", "overwrite", "sparsity", "format", "strict", "dry_run"),
)
NOT_OF_AUDITS = (
    *("checkpoint", "candidate", "dense", "baseline", "predictions", "groups", "report"),
    *("plan", "plan_churn"),
)
"""Options of ``ceag audit`` that a sweep's audits have from their models, or no use for."""

NONE = "none"
"""In place of a method: the pruned model as it is, without fine-tuning."""
OWN = "own"
"""Criterion of a method that prunes by itself, whatever criteria the recipe names."""


@dataclass(frozen=True)
class Approach:
    """How a sparse model is made, whatever its sparsity."""

    criterion: str
    """Name in the recipe; empty where it names none, ``own`` of a method that prunes by itself."""
    method: str

    def __str__(self) -> str:
        return f"{self.criterion}, {self.method}" if self.criterion else self.method


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    seed: int
    sparsity: float
    method: str
    criterion: str = ""

    @property
    def approach(self) -> Approach:
        """How the model is made."""
        return Approach(self.criterion, self.method)

    def __str__(self) -> str:
        return f"{self.approach}, sparsity {self.sparsity:g}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a sweep consists of."""

    name: str
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    dense: Mapping[str, Any]
    """Options of ``ceag dense``, the same for every seed."""
    prune: Mapping[str, Any]
    """Options of ``ceag prune`` that all criteria share."""
    mitigate: Mapping[str, Any]
    """Options of ``ceag mitigate`` that all methods share."""
    methods: Mapping[str, Mapping[str, Any]]
    """Further options of ``ceag mitigate`` by the name that the table gives them."""
    compare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of a method those that it is compared with."""
    criteria: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further options of ``ceag prune`` by the name that the table gives them; empty where the
    recipe names no criteria, so that section ``prune`` says it all."""
    audit: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``ceag audit``, the same for every run."""
    candidates: tuple[Approach, ...] | None = None
    """The approaches of which one is recommended; ``None`` for all."""

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
        keys = ("seeds", "sparsities", *SECTIONS, "criteria", "methods", "compare", "recommend")
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
        criteria = _criteria(path, content.get("criteria"), problems)
        methods = _methods(path, content.get("methods"), problems)
        compare = _compare(path, content.get("compare"), list(methods), problems)
        plan = cls(
            path.stem,
            seeds,
            sparsities,
            dense=sections["dense"],
            prune=sections["prune"],
            mitigate=sections["mitigate"],
            methods=methods,
            compare=compare,
            criteria=criteria,
            audit=sections["audit"],
        )
        candidates = _candidates(path, content.get("recommend"), plan, problems)
        if problems:
            raise OptionError(problems)
        return replace(plan, candidates=candidates)

    @property
    def approaches(self) -> tuple[Approach, ...]:
        """Every way to make a sparse model, in the order of the recipe."""
        every = [
            self.approach(method, criterion)
            for criterion in self.criteria or ("",)
            for method in self.methods
        ]
        return tuple(sorted(dict.fromkeys(every), key=lambda approach: approach.criterion == OWN))

    def cells(self) -> list[Cell]:
        """Every run of the plan."""
        return [
            Cell(seed, sparsity, approach.method, approach.criterion)
            for seed in self.seeds
            for sparsity in self.sparsities
            for approach in self.approaches
        ]

    def approach(self, method: str, criterion: str) -> Approach:
        """A method after pruning by a criterion, which one that prunes by itself does not take."""
        own = self.criteria and self.prunes_itself(method)
        return Approach(OWN if own else criterion, method)

    def prunes_itself(self, method: str) -> bool:
        """Whether a method takes the dense model and prunes it in its own way."""
        given = dict(self.mitigate) | dict(self.methods[method])
        return given.get("method") == "fairgrape" or "prune_epochs" in given

    def trains(self, method: str) -> bool:
        """Whether a method fine-tunes at all."""
        return self.methods[method].get("method") != NONE

    def criterion_of(self, approach: Approach) -> str:
        """What the weights of an approach are chosen by, by name."""
        if self.prunes_itself(approach.method):
            return OWN
        return approach.criterion or str(self.prune.get("criterion", CRITERIA[0]))

    @property
    def eps(self) -> float:
        """Largest excess accuracy gap that a setting is judged by."""
        return float(self.audit.get("eps", self.mitigate.get("eps", DEFAULT_EPS)))

    @property
    def recommendable(self) -> tuple[Approach, ...]:
        """The approaches of which one is recommended."""
        return self.approaches if self.candidates is None else self.candidates


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
    forbidden = SET_BY_THE_SWEEP + (NOT_OF_AUDITS if command == "audit" else ())
    for name in forbidden:
        if name in given:
            problems.append(f"{path}, {place}: '{name}' is set by the sweep; leave it out")
    try:
        return checked(given, SECTIONS[command], f"{path}, {place}")
    except OptionError as error:
        problems += error.problems
        return {}


def _methods(path: Path, given: Any, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Options of mitigation by the name of the method."""
    if not isinstance(given, dict) or not given:
        problems.append(f"{path}: needs 'methods', name: {{option: value}}")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, options in given.items():
        place = f"methods, {name}"
        if isinstance(options, dict) and options.get("method") == NONE:
            found[str(name)] = {"method": NONE}
            others = ", ".join(map(str, options.keys() - {"method"}))
            if others:
                problems.append(f"{path}, {place}: without training {others} has no effect")
        else:
            found[str(name)] = _options(path, options, "mitigate", place, problems)
    problems += _no_names(path, "methods", found, ("model", "model.pruned"))
    return found


def _criteria(path: Path, given: Any, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Options of pruning by the name of the criterion; a list names them as ``ceag prune`` does."""
    if given is None:
        return {}
    if isinstance(given, list):
        wrong = [name for name in given if name not in CRITERIA]
        problems += [
            f"{path}: criteria: '{name}' is not one of {', '.join(CRITERIA)}"
            f"{nearest(str(name), CRITERIA)}"
            for name in wrong
        ]
        given = {name: {"criterion": name} for name in given if name not in wrong}
    if not isinstance(given, dict) or not (given or problems):
        problems.append(
            f"{path}: section 'criteria' must hold 'name: {{option: value}}' lines of ceag prune, "
            "or a list of criteria"
        )
        return {}
    found = {
        str(name): _options(path, options, "prune", f"criteria, {name}", problems)
        for name, options in given.items()
    }
    problems += _no_names(path, "criteria", found, (OWN,))
    return found


def _no_names(path: Path, place: str, names: Mapping[str, Any], taken: Sequence[str]) -> list[str]:
    """Names that cannot be those of files or folders."""
    return [
        f"{path}: {place}: '{name}' cannot be a file name"
        for name in names
        if name in taken
        or _NO_FILE_NAME.search(name)
        or not name.isprintable()
        or len(name) > MOST_OF_A_NAME
    ]


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


def _candidates(
    path: Path, given: Any, plan: Plan, problems: list[str]
) -> tuple[Approach, ...] | None:
    """The approaches among which the recommendation is sought."""
    if given is None:
        return None
    known = {"methods": tuple(plan.methods), "criteria": (*plan.criteria, OWN)}
    if not isinstance(given, dict) or not given:
        problems.append(
            f"{path}: section 'recommend' must hold 'methods: [...]', 'criteria: [...]'"
        )
        return None
    before = len(problems)
    chosen: dict[str, list[str]] = {}
    for name, values in given.items():
        if name not in known:
            problems.append(f"{path}, recommend: unknown key '{name}'{nearest(name, known)}")
            continue
        chosen[name] = [str(v) for v in (values if isinstance(values, list) else [values])]
        problems += [
            f"{path}, recommend: '{value}' is not among the {name}{nearest(value, known[name])}"
            for value in chosen[name]
            if value not in known[name]
        ]
    found = tuple(
        approach
        for approach in plan.approaches
        if approach.method in chosen.get("methods", known["methods"])
        and (not plan.criteria or approach.criterion in chosen.get("criteria", known["criteria"]))
    )
    if not found and len(problems) == before:
        problems.append(f"{path}, recommend: no approach has one of these methods and criteria")
    return found
