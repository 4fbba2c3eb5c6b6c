"""What an audit asks of a model: tolerances, error levels, and what is excused for now.

One object, whether it comes from the command line, from ``ceag.yaml`` or ``pyproject.toml``, or
from Python, so that all of them give the same verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ceag_cli.clauses import (
    Group,
    Override,
    Waiver,
    named,
    read_overrides,
    read_required,
    read_waivers,
    unknown,
)
from ceag_cli.declarations import flag
from ceag_cli.errors import OptionError
from ceag_cli.options import AuditOptions
from ceag_cli.recipe import checked, resolve

DEFAULT_EPS = 0.02

_SIMPLE = ("alpha", "interval", "gate", "against", "max_drop", "min_accuracy", "min_coverage")
"""Keys that a policy has from the options as they are."""

WARNED_DAYS = 14
"""So many days before a waiver expires it is spoken of."""


@dataclass(frozen=True)
class Policy:
    """What is asked. Fractions, never percent."""

    eps: float = 0.02
    """Largest excess accuracy gap."""
    alpha: float = 0.05
    """Error level of each verdict PASS, and of all verdicts FAIL together."""
    interval: str = "score"
    """``score`` holds alpha nominally, ``exact`` never exceeds it."""
    gate: str = "evidence"
    """What makes the whole audit fail: a demonstrated violation (``evidence``), any group that is
    not demonstrated to satisfy (``strict``), or a measured value beyond eps (``point``, the
    paper's criterion)."""
    against: str = "overall"
    """What a group's gap is compared with: that of all images, or of all others (``rest``)."""
    eps_by_group: Mapping[Group, float] = field(default_factory=dict)
    """Where it is another one."""
    required: tuple[Group, ...] = ()
    """Groups that must PASS, whatever the gate."""
    waivers: tuple[Waiver, ...] = ()
    max_drop: float | None = None
    """Largest loss of accuracy over all images."""
    min_accuracy: float | None = None
    """Smallest accuracy of the sparse model in any group."""
    min_coverage: float = 0.5
    """Share of the images that must lie in groups with a verdict, or nothing is decided."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where what is not at its default was said, by key."""

    def __post_init__(self) -> None:
        """Check a policy made in Python as one from a file is.

        Raises:
            OptionError: With everything that cannot be used.
        """
        own = [Override(group, eps) for group, eps in self.eps_by_group.items()]
        readers: list[tuple[Callable[[Any], Any], Any]] = [
            (_check_values, {name: getattr(self, name) for name in ("eps", *_SIMPLE)}),
            (read_overrides, own),
            (read_required, self.required),
            (read_waivers, self.waivers),
        ]
        problems: list[str] = []
        for read, value in readers:
            try:
                read(value)
            except OptionError as error:
                problems += error.problems
        problems += self._contradictions()
        if problems:
            raise OptionError(problems)

    def _contradictions(self) -> list[str]:
        """Groups that have to PASS, and whose violation is to be accepted all the same."""
        entries = {waiver.group: i for i, waiver in enumerate(self.waivers, start=1)}
        places = [self.sources.get(key, "policy") for key in ("required_groups", "waivers")]
        return [
            f"{places[0]}: required_groups, entry {number}: {named(group)} has to PASS, but its "
            f"violation is accepted in {places[1]}: waivers, entry {entries[group]}; remove one of "
            "the two"
            for number, group in enumerate(self.required, start=1)
            if group in entries
        ]

    def eps_of(self, group: Group) -> float:
        """Largest excess accuracy gap of a group."""
        return self.eps_by_group.get(group, self.eps)

    def waiver_of(self, group: Group, today: date) -> Waiver | None:
        """The waiver of a group that has not expired."""
        return next((w for w in self.waivers if w.group == group and today <= w.expires), None)

    @property
    def names(self) -> tuple[Group, ...]:
        """Groups that it speaks of."""
        waived = (waiver.group for waiver in self.waivers)
        return tuple(dict.fromkeys((*self.eps_by_group, *self.required, *waived)))

    def check_groups(self, names: Sequence[Group]) -> None:
        """That the groups which the policy speaks of are among those of an audit.

        A required group may be one without images, which fails the audit; its feature is known.

        Raises:
            OptionError: With every group that is not.
        """
        declared = [*names, *self.undeclared(names)]
        problems = []
        for key, groups in (
            ("required_groups", self.required),
            ("overrides", self.eps_by_group),
            ("waivers", [waiver.group for waiver in self.waivers]),
        ):
            place = self.sources.get(key, "policy")
            for number, group in enumerate(groups, start=1):
                wrong = unknown(group, declared)
                if wrong is not None:
                    problems.append(f"{place}: {key}, entry {number}: {wrong}")
        if problems:
            raise OptionError(problems)

    def undeclared(self, names: Sequence[Group]) -> list[Group]:
        """Required groups that an audit's features lack a value for."""
        features = {feature for feature, _ in names}
        known = set(names)
        return [group for group in self.required if group not in known and group[0] in features]

    def warnings(self, names: Sequence[Group], today: date) -> list[str]:
        """What of the policy does not do what it seems to."""
        found = [
            f"required group {named(group)} is not in the data: {unknown(group, names)}"
            for group in self.undeclared(names)
        ]
        for waiver in self.waivers:
            who = f" (owner: {waiver.owner})" if waiver.owner else ""
            if waiver.expires < today:
                found.append(
                    f"the waiver of {named(waiver.group)} expired on {waiver.expires} and counts "
                    f"no more{who}; renew it with a reason, or remove it"
                )
            elif waiver.eps <= self.eps_of(waiver.group):
                found.append(
                    f"the waiver of {named(waiver.group)} accepts {waiver.eps:g}, which is no more "
                    f"than its eps {self.eps_of(waiver.group):g}: it excuses nothing"
                )
        return found

    def notes(self, today: date, verdicts: Mapping[Group, set[str]] | None = None) -> list[str]:
        """Waivers that are about to expire, and those that are needed no more.

        Args:
            today: The day.
            verdicts: Of each group, those of all gated splits.
        """
        found = []
        for waiver in self.waivers:
            if waiver.expires >= today and (verdicts or {}).get(waiver.group) == {"PASS"}:
                found.append(f"{named(waiver.group)} passes, so its waiver can be removed")
                continue
            days = (waiver.expires - today).days
            if 0 <= days <= WARNED_DAYS:
                when = {0: "today", 1: "tomorrow"}.get(days, f"in {days} days")
                who = f" (owner: {waiver.owner})" if waiver.owner else ""
                found.append(
                    f"the waiver of {named(waiver.group)} expires {when}, on {waiver.expires}{who}"
                )
        return found

    def origin_line(self, also: Sequence[str] = ()) -> str:
        """What was taken from where, in one line; what is not named is at its default.

        Args:
            also: Keys that are named even there.
        """
        values = {
            "gate": self.gate,
            "alpha": f"{self.alpha:g}",
            "interval": self.interval,
            "against": self.against,
            "max_drop": f"{self.max_drop}",
            "min_accuracy": f"{self.min_accuracy}",
            "min_coverage": f"{self.min_coverage:g}",
            "overrides": f"of {len(self.eps_by_group)}",
            "required_groups": f"{len(self.required)}",
            "waivers": f"{len(self.waivers)}",
            "gate_splits": "",
        }
        said = [f"eps {self.eps:g} (from {self.sources.get('eps', 'the default')})"]
        for name, value in values.items():
            if name in self.sources:
                said.append(f"{name} {value}".rstrip() + f" (from {self.sources[name]})")
            elif name in also:
                said.append(f"{name} {value}")
        return ", ".join(said)


def _check_values(values: Mapping[str, Any]) -> None:
    checked(values, AuditOptions, "policy")


def policy_of(options: AuditOptions, model: tuple[str, float | None] | None = None) -> Policy:
    """The policy that some options ask for: the only place where one is made of them.

    Args:
        options: Of the audit, however they came about: flags, a recipe, ``ceag.yaml``,
            ``pyproject.toml``, or Python.
        model: Name of the sparse model and the eps that its metadata names, which holds where the
            options name none.
    """
    origins = dict(options.origins)
    for name in ("overrides", "required_groups", "waivers", *_SIMPLE):
        changed = getattr(options, name) != AuditOptions.__dataclass_fields__[name].default
        if changed:  # in Python, where nobody has taken note of it
            origins.setdefault(name, "the options")
    eps = options.eps
    if eps is not None:
        origins.setdefault("eps", flag("eps"))
    elif model is not None and model[1] is not None:
        eps, origins["eps"] = model[1], model[0]
    else:
        eps, origins["eps"] = DEFAULT_EPS, "the default"
    kept = ("eps", "overrides", "required_groups", "waivers", "gate_splits", *_SIMPLE)
    return Policy(
        eps=eps,
        eps_by_group={override.group: override.eps for override in options.overrides},
        required=options.required_groups,
        waivers=options.waivers,
        sources={name: origins[name] for name in kept if name in origins},
        **{name: getattr(options, name) for name in _SIMPLE},
    )


def read_policy(folder: str | Path = ".", config: str | None = None, **given: Any) -> Policy:
    """The policy of a folder, for tests and scripts.

    Args:
        folder: Where ``ceag.yaml`` or ``pyproject.toml`` is; without either the defaults hold.
        config: A recipe of the audit, which beats them.
        given: Options of the audit by name, which beat both.

    Raises:
        OptionError: With everything that cannot be used.
    """
    return policy_of(resolve(AuditOptions, given, config, folder=Path(folder)))
