"""How many images an audit needs, before any model is run: from the groups CSV alone.

For each group of a gated split two questions are asked of the very bounds that the audit uses, the
other images included:

    smallest   how many images it needs to PASS if nothing changed
    needed     how many it needs to PASS four times in five, if its psi is 0 and the models
               disagree about what is right on a given share of the images (the churn)

Only the group grows and all other images stay as they are, as in the audit's own "images needed".
Where it would outgrow all others together, so that psi is near 0 by its weight alone, the numbers
are for a split in which all groups grow alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ceag_cli.answers import refuse_seen
from ceag_cli.arrays import Flags, Integers, Numbers
from ceag_cli.declarations import flag, given
from ceag_cli.errors import LabelsError, LineageError, OptionError
from ceag_cli.findings import NO_DATA, REFERENCE
from ceag_cli.groupcolumns import MISSING
from ceag_cli.groups import look_alikes
from ceag_cli.intervals import Counts, psi_bounds, quantile_of
from ceag_cli.lineage import Lineage, newest
from ceag_cli.options import AuditOptions
from ceag_cli.policy import Policy, policy_of
from ceag_cli.predictions import read_as_asked
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.reading import Reading
from ceag_cli.recipe import resolve
from ceag_cli.sizes import Sizes, joined_by, read_sizes
from ceag_cli.sources import refuse_without_dataset
from ceag_cli.weightsfiles import read_metadata, weights_in

POWER = 0.8

CHURN = (0.02, 0.05, 0.1)

DECIDABLE, PARTLY, HARDLY, TOO_SMALL = "decidable", "partly", "hardly", "too_small"

LARGEST = 1e9
"""More images than this are as good as no number of them."""


@dataclass(frozen=True)
class Need:
    """How many images one group needs for one thing."""

    n: int | None
    """``None`` where no number suffices."""
    grows: str
    """``group``, or ``split`` where all groups have to grow alike."""


@dataclass(frozen=True)
class GroupPlan:
    """One group in one gated split."""

    split: str
    feature: str
    value: str
    n: int
    eps: float
    required: bool
    smallest: Need
    needed: tuple[Need, ...]
    """By churn, in the order of the plan's list."""
    status: str
    """``decidable`` at every churn of the list, ``partly`` at some, ``hardly`` at none,
    ``too_small`` to pass at all, ``NO_DATA``, ``REFERENCE``."""
    decidable_to: float | None
    """The largest churn of the list at which it is decidable."""


@dataclass(frozen=True)
class Plan:
    """What an audit of some groups could decide."""

    sizes: Sizes
    policy: Policy
    gated: tuple[str, ...]
    churn: tuple[float, ...]
    groups: tuple[GroupPlan, ...]
    notes: tuple[str, ...]


def plan_audit(options: AuditOptions, reporter: Reporter | None = None) -> Plan:
    """What an audit with these options could decide. No model is run, and no image is read.

    Args:
        options: Of the audit. The CSV is the one given, else the one that the model names.
        reporter: Hears where the CSV comes from, and what has no effect.

    Raises:
        CeagError: Something given cannot be used.
    """
    reporter = reporter or Quiet()
    refuse_seen(options.gate_splits, None)
    for name in given(options, ("report", "output", "gallery", "reevaluate")):
        if options.file_of(name) is None:  # a file says it for all audits
            reporter.warn(f"{flag(name)} has no effect with --plan, which judges nothing")
    if options.predictions is not None:
        table = read_as_asked(Path(options.predictions), options)
        about = table.about or {}
        named = about.get("models", {}).get("sparse", {}).get("path", options.predictions)
        sizes, policy = Sizes.of_answers(table), policy_of(options, (named, about.get("eps")))
    else:
        sizes, model = _sizes_of_csv(options, reporter)
        policy = policy_of(options, model)
    policy.check_groups(sizes.grouping.names)
    lacking = [split for split in options.gate_splits if split not in sizes.total]
    if lacking:
        raise LabelsError(f"{sizes.file}: no row has split '{lacking[0]}'")
    found = plan(sizes, policy, options.gate_splits, options.plan_churn)
    if options.cluster_id is not None:
        note = (
            f"every image counts for itself here; those of one {options.cluster_id} count for less "
            "in the audit, so that more are needed"
        )
        found = replace(found, notes=(*found.notes, note))
    return found


def options_of_plan(
    csv: str | None,
    given: Mapping[str, str | None],
    churn: str | None = None,
    config: str | None = None,
    output_format: str = "text",
) -> AuditOptions:
    """What ``ceag groups`` asks: the options of the audit in this folder, from words.

    Args:
        csv: The groups CSV, in place of it and of the answers that the policy may name.
        given: Further options of an audit by name; ``None`` means "not given".
        churn: Shares of the images, ``a,b``.
        config: Path of a recipe of an audit.
        output_format: What is printed.

    Raises:
        OptionError: With every value that cannot be used.
    """
    words = {"groups": csv, **given, "plan_churn": churn, "format": output_format}
    names = {"groups": "FILE", "plan_churn": "--churn"}
    options = resolve(AuditOptions, words, config, names=names)
    if csv is None:
        return options
    found = replace(options, predictions=None)
    found.come_from(options.origins)
    return found


def _sizes_of_csv(
    options: AuditOptions, reporter: Reporter
) -> tuple[Sizes, tuple[str, float | None] | None]:
    """The sizes of a groups CSV, and the eps of the model that would be audited."""
    path, lineage = _model(options)
    reading = Reading.of(options, [(path, lineage)], reporter, needs_images=False)
    if reading.csv is None:
        raise OptionError(
            "no groups CSV is named, and no model here names one: say 'ceag groups FILE', 'ceag "
            "audit --plan --groups FILE', or --predictions FILE for a table of answers"
        )
    if reading.dataset is None:
        refuse_without_dataset(options)
    sizes = read_sizes(
        reading.csv,
        reading.label_column or "label",
        reading.groups_by,
        reading.missing or "error",
        options.cluster_id,
        options.control,
        joined_by(options, reading.csv, reading.dataset, reading.data_dir, reading.label_column),
        allow_outside=options.allow_outside,
    )
    return sizes, None if lineage is None else (str(path), lineage.eps)


def _model(options: AuditOptions) -> tuple[Path, Lineage | None]:
    """The sparse model that would be audited, if there is one."""
    given = options.checkpoint or options.candidate
    if given is not None:
        path = weights_in(Path(given))
    else:
        try:
            path, _ = newest(("mitigated", "pruned"), Path(), "audit")
        except LineageError:
            return Path(), None
    return path, Lineage.from_metadata(read_metadata(path), path)


def plan(
    sizes: Sizes, policy: Policy, gated: Sequence[str] = ("test",), churn: Sequence[float] = CHURN
) -> Plan:
    """What an audit of groups of some sizes could decide.

    Args:
        sizes: The groups.
        policy: What is asked of them.
        gated: The splits that the verdict rests on.
        churn: Shares of the images, in (0, 1], on which one of the models alone is right.
    """
    names = [*sizes.grouping.names, *policy.undeclared(sizes.grouping.names)]
    eps = np.array([policy.eps_of(name) for name in names], float)
    found = []
    for split in gated:
        total = sizes.total.get(split, 0)
        n = np.zeros(len(names), np.int64)
        n[: sizes.grouping.num_groups] = sizes.by_group.get(split, 0)
        arguments = (n, total, eps, policy)
        smallest = _needs(*arguments, None)
        needed = [_needs(*arguments, share) for share in churn]
        for g, (feature, value) in enumerate(names):
            by_churn = tuple(column[g] for column in needed)
            enough = [c for c, need in zip(churn, by_churn, strict=True) if _reached(n[g], need)]
            found.append(
                GroupPlan(
                    split=split,
                    feature=feature,
                    value=value,
                    n=int(n[g]),
                    eps=float(eps[g]),
                    required=(feature, value) in policy.required,
                    smallest=smallest[g],
                    needed=by_churn,
                    status=_status(int(n[g]), total, smallest[g], len(enough) / len(churn)),
                    decidable_to=max(enough, default=None),
                )
            )
    return Plan(
        sizes, policy, tuple(gated), tuple(churn), tuple(found), tuple(_notes(sizes, policy, found))
    )


def _status(n: int, total: int, smallest: Need, enough: float) -> str:
    if n == 0:
        return NO_DATA
    if n == total:
        return REFERENCE
    if not _reached(n, smallest):
        return TOO_SMALL
    return DECIDABLE if enough == 1 else PARTLY if enough else HARDLY


def _reached(n: int, need: Need) -> bool:
    return need.n is not None and n >= need.n


def _needs(
    n: Integers, total: int, eps: Numbers, policy: Policy, churn: float | None
) -> list[Need]:
    """How many images each group needs; ``churn`` is None for no change at all, for certain."""
    # Groups of equal size need equally many.
    _, first, same = np.unique(
        np.stack([n.astype(float), eps]), axis=1, return_index=True, return_inverse=True
    )
    found = _needs_of(n[first], total, eps[first], policy, churn)
    return [found[i] for i in same.reshape(-1).tolist()]


def _needs_of(
    n: Integers, total: int, eps: Numbers, policy: Policy, churn: float | None
) -> list[Need]:
    # A group that has no images yet is one that will be small beside all others.
    size = np.maximum(n, 1).astype(float)
    all_n = np.maximum(np.full(len(n), float(total)), size + (n == 0))
    z, z_power = quantile_of(policy.alpha), quantile_of(1 - POWER)

    def upper(times: Numbers, with_rest: bool) -> Numbers:
        """The bound that has to be at most eps, where the group (or all) is so many times larger.

        With churn it is the bound of a sample as bad as one in five, so that it holds in the other
        four: psi lies as far above 0 as the standard error says, and each side of the difference,
        the group and the rest, takes its part of that.
        """
        group, others = size * times, (all_n - size) * (times if with_rest else 1.0)
        share = churn or 0.0
        rest = np.maximum(others, 1e-9)
        error = np.sqrt(share / group + share / rest) if share else np.ones(len(n))
        above, below = (z_power * share / part / error for part in (group, rest))
        lost, gained = _changes(group, share, above)
        rest_lost, rest_gained = _changes(others, share, -below)
        counts = Counts(
            group,
            lost,
            gained,
            group + others,
            lost + rest_lost,
            gained + rest_gained,
        )
        return psi_bounds(counts, z, policy.interval, policy.against)[2]

    alone = _smallest(lambda times: upper(times, False) <= eps, size)
    alike = _smallest(lambda times: upper(times, True) <= eps, size)
    # Larger than all others together it would pass since the others hardly count, and leave them
    # undecided.
    split_grows = np.isnan(alone) | (alone > np.maximum(all_n - size, size))
    split_grows &= ~np.isnan(alike)
    return [
        Need(None if np.isnan(number) else int(number), "split" if grows else "group")
        for number, grows in zip(
            np.where(split_grows, alike, alone).tolist(), split_grows.tolist(), strict=True
        )
    ]


def _changes(n: Numbers, churn: float, shift: Numbers) -> tuple[Numbers, Numbers]:
    """Lost and gained images where their rates add up to the churn and differ by a shift."""
    lost, gained = np.maximum(churn + shift, 0) / 2, np.maximum(churn - shift, 0) / 2
    return n * np.minimum(lost, 1), n * np.minimum(gained, 1)


def _smallest(enough: Callable[[Numbers], Flags], size: Numbers) -> Numbers:
    """The smallest whole number of images, as a multiple of the sizes, that is enough; else NaN."""
    low, top = np.zeros(len(size)), np.full(len(size), np.log(LARGEST))
    never = ~enough(np.exp(top) / size)
    for _ in range(40):
        middle = (low + top) / 2
        yes = enough(np.exp(middle) / size)
        low, top = np.where(yes, low, middle), np.where(yes, middle, top)
    number = np.ceil(np.exp(top) - 1e-6)
    return np.where(never, np.nan, number)


def _notes(sizes: Sizes, policy: Policy, groups: Sequence[GroupPlan]) -> list[str]:
    notes = look_alikes(sizes.grouping.names)
    for feature, counts in sizes.missing.items():
        where = ", ".join(f"{count} of {split}" for split, count in counts.items() if count)
        fate = {
            "error": "an audit refuses them without --missing group or --missing drop",
            "group": f"they are the group {MISSING}",
            "drop": "they are left out",
        }[sizes.policy]
        notes.append(f"images without a {feature}: {where or 'none'}; {fate}")
    decided: dict[str, int] = {}
    for group in groups:
        if group.status not in (NO_DATA, REFERENCE):
            decided.setdefault(group.split, 0)
            decided[group.split] += group.status != TOO_SMALL
    for split, count in decided.items():
        number = sum(g.split == split and g.status not in (NO_DATA, REFERENCE) for g in groups)
        notes.append(f"{split}: {count} of {number} groups have enough images to pass at all")
    if policy.eps == 0:
        notes.append("eps is 0: no number of images can show that psi is at most 0")
    return notes
