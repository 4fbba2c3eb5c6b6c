"""Writing a first ``ceag.yaml``, and checking one that is there.

What is written parses and changes nothing but eps, so that no model sets its own gate, and the
names of the files that were found: every other line is a comment that shows a key with its default.
"""

from __future__ import annotations

import csv
import json
import textwrap
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ceag_cli.answers import refuse_seen
from ceag_cli.atomic import write_text
from ceag_cli.clauses import Group
from ceag_cli.errors import CeagError, LabelsError, LineageError, OptionError, OutputError, first
from ceag_cli.groupcolumns import MISSING
from ceag_cli.headers import PATH_COLUMNS
from ceag_cli.kinds import has_answers
from ceag_cli.lineage import newest
from ceag_cli.options import COMMANDS, AuditOptions
from ceag_cli.policy import DEFAULT_EPS, policy_of
from ceag_cli.progress import Reporter
from ceag_cli.recipe import (
    PROJECT_FILE,
    PYPROJECT,
    named_as_given,
    read_project,
    read_yaml,
    resolve,
)
from ceag_cli.sizes import Sizes, joined_by, read_sizes, sizes_of_answers
from ceag_cli.sources import dataset_of

SHOWN_KEYS = (
    "gate",
    "alpha",
    "interval",
    "against",
    "max_drop",
    "min_accuracy",
    "min_coverage",
    "gate_splits",
)


_EXAMPLES = (("race", "Black"), ("gender", "Female"))
"""Groups that stand for those of a CSV that was not found. A required one cannot be waived."""


@dataclass(frozen=True)
class Found:
    """What there is in a folder that a policy can name."""

    csvs: tuple[Path, ...]
    """Tables that look like a groups CSV."""
    model: Path | None
    """The model that an audit would take."""
    groups: tuple[Group, ...]
    """Some groups of the CSV, the smallest of the test split first."""
    problems: tuple[str, ...] = ()
    """What is wrong with the CSV."""
    answers: tuple[Path, ...] = ()
    """Tables that look like the answers of two models."""

    @property
    def table(self) -> Path | None:
        """The one that is named: the groups CSV, or without any the table of answers."""
        tables = self.csvs or self.answers
        return tables[0] if len(tables) == 1 else None


def look_around(folder: Path) -> Found:
    """Look for groups CSVs and models in a folder."""
    headers = {path: _header(path) for path in sorted(folder.glob("*.csv"))}
    tables = {path: header for path, header in headers.items() if "split" in header}
    answers = tuple(path for path, header in tables.items() if has_answers(header))
    csvs = tuple(
        path
        for path, header in tables.items()
        if path not in answers and any(name in header for name in PATH_COLUMNS)
    )
    try:
        model: Path | None = newest(("mitigated", "pruned"), folder, "init")[0]
    except LineageError:
        model = None
    groups: tuple[Group, ...] = ()
    problems: tuple[str, ...] = ()
    if len(csvs) == 1 or (not csvs and len(answers) == 1):
        try:
            sizes = read_sizes(csvs[0]) if csvs else sizes_of_answers(answers[0], AuditOptions())
        except LabelsError as error:
            problems = tuple(error.problems)
        else:
            n = sizes.by_group.get("test")
            order = list(range(sizes.grouping.num_groups))
            if n is not None:
                order.sort(key=lambda g: (n[g] == 0, n[g]))
            names = (sizes.grouping.names[g] for g in order)
            groups = tuple(name for name in names if MISSING not in name[1].split("*"))
    return Found(csvs, model, groups, problems, answers)


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def write_policy(
    folder: Path, overwrite: bool, reporter: Reporter, eps: float = DEFAULT_EPS
) -> list[str]:
    """Write a commented ``ceag.yaml``.

    Args:
        folder: Where it goes, and where files are looked for that it can name.
        overwrite: Replace one that is there.
        reporter: Hears what is wrong with what was found.
        eps: The largest excess accuracy gap that it asks for, a fraction.

    Returns:
        What was written, in sentences.

    Raises:
        OutputError: There is one already, and it is not to be replaced.
    """
    path = folder / PROJECT_FILE
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; replace it with --overwrite")
    found = look_around(folder)
    for problem in first(found.problems):
        reporter.warn(problem)
    tables, what = (found.csvs, "groups CSV") if found.csvs else (found.answers, "answers")
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        reporter.warn(f"several tables could be the {what} ({names}); name one in {path}")
    write_text(path, "\n".join(policy_text(found, eps)) + "\n")
    try:
        read_project("audit", folder)
    except OptionError as error:  # for example pyproject.toml names another CSV
        for problem in error.problems:
            reporter.warn(problem)
    table = found.table
    named = "" if table is None else f", with {table.name}"
    return [f"wrote {path}{named}, eps {eps:g}; 'ceag groups' shows which groups can be decided"]


def policy_text(found: Found, eps: float = DEFAULT_EPS) -> list[str]:
    """The lines of a ``ceag.yaml`` that says no more than eps and what was found."""
    examples = [*found.groups[:2], *_EXAMPLES[len(found.groups) :]]
    group, waived = (f"feature: {_quoted(f)}, value: {_quoted(v)}" for f, v in examples)
    text = [
        "# What 'ceag audit' asks of a model in this folder, and what the other commands take for",
        "# their flags: one section per command (dense, prune, mitigate, audit), and in it the",
        "# flags by name, with _ for -. A flag beats this file, this file beats the model's",
        "# metadata, that beats the default. [tool.ceag.audit] in pyproject.toml does as well.",
        "#",
        "# ceag groups    which groups can be decided at this eps",
        "# ceag check     whether this file can be used",
        "",
        "audit:",
    ]
    tables, key = (found.csvs, "groups") if found.csvs else (found.answers, "predictions")
    if found.table is not None:
        text.append(f"  {key}: {_quoted(found.table.name)}")
    elif tables:
        text.append("  # Name one of them:")
        text += [f"  # {key}: {_quoted(path.name)}" for path in tables]
    else:
        text.append("  # groups: labels.csv    # else the CSV that the model names")
    if found.model is not None:
        text += [
            "  # The newest model is taken by default; as of now that is",
            f"  # checkpoint: {_quoted(found.model.name)}",
        ]
    text += [
        "",
        "  # Largest excess accuracy gap, a fraction: 0.02 is 2 points. Without it the eps that a",
        "  # model was made for would be asked for, so that a model would set its own gate.",
        f"  eps: {eps:g}",
        "",
    ]
    for name in SHOWN_KEYS:
        field = AuditOptions.__dataclass_fields__[name]
        choices = field.metadata["choices"]
        text += [f"  # {line}" for line in textwrap.wrap(field.metadata["help"], 96)]
        if choices and name != "gate_splits":
            text.append(f"  # One of {', '.join(choices)}.")
        shown = "null" if field.default is None else _plain(field.default)
        text += [f"  # {name}: {shown}", ""]
    text += [
        "  # Groups with an eps of their own.",
        "  # overrides:",
        f"  #   - {{{group}, eps: 0.01}}",
        "",
        "  # Groups that have to PASS, whatever the gate. One without images fails the audit.",
        "  # required_groups:",
        f"  #   - {{{group}}}",
        "",
        "  # Violations that are accepted until a day, and no larger than said.",
        "  # waivers:",
        f"  #   - {{{waived}, eps: 0.05,",
        "  #      reason: retraining is under way, expires: 2026-12-31, owner: vision team}",
    ]
    return text


def _plain(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else f"{value}"


def _quoted(name: str) -> str:
    """A name as YAML: as it is where nothing in it could mean something else, else in quotes."""
    words = {"no", "yes", "on", "off", "true", "false", "null", "y", "n"}
    plain = name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum()
    if plain and name.isascii() and name[0].isalpha() and name.casefold() not in words:
        return name
    return json.dumps(name, ensure_ascii=not name.isprintable())


def check(folder: Path, groups: str | None, config: str | None, reporter: Reporter) -> list[str]:
    """Check the policy files of a folder, and the groups they name against the CSV.

    Args:
        folder: Where the files are.
        groups: The groups CSV, if it is not the one that they name.
        config: A recipe of the audit, if that is to be checked too.
        reporter: Hears of waivers that expire and the like.

    Returns:
        What was checked, in sentences.

    Raises:
        OptionError, LabelsError: With everything that is wrong.
    """
    problems: list[str] = []
    said: list[str] = []
    for command in COMMANDS:
        try:
            section = read_project(command, folder)
        except OptionError as error:
            problems += error.problems
        else:
            places = sorted({place for _, place in section.values()})
            if places:
                said.append(f"{' and '.join(places)}: section {command} can be used")
        problems = list(dict.fromkeys(problems))
    recipe_of = _recipe_of(folder / PROJECT_FILE) if not problems else None
    if recipe_of is not None:
        reporter.warn(
            f"{folder / PROJECT_FILE}: is a recipe for 'ceag {recipe_of}', which is read with "
            "--config alone; put its options into a section to have them read always"
        )
    if not problems:
        try:
            options = resolve(AuditOptions, {"groups": groups}, config, folder=folder)
            with named_as_given(options):
                said += _check_groups(options, folder, reporter)
        except CeagError as error:
            problems += error.problems
    if problems:
        raise OptionError(problems)
    if not said:
        said.append(f"no section of {PROJECT_FILE} or [tool.ceag] in {PYPROJECT}, and no CSV")
    return said


def _recipe_of(path: Path) -> str | None:
    """The command that a file is a recipe for, where it is one in place of a project file."""
    command = read_yaml(path).get("command") if path.is_file() else None
    return None if command is None else str(command)


def _check_groups(options: AuditOptions, folder: Path, reporter: Reporter) -> list[str]:
    refuse_seen(options.gate_splits, None)
    policy, today = policy_of(options), date.today()
    tables: list[Sizes] = []
    if options.groups is not None:
        columns = (options.label_column or "label", options.groups_by, options.missing or "error")
        more = (options.cluster_id, options.control)
        csv, dataset = folder / options.groups, dataset_of(options)
        joined = joined_by(options, csv, dataset, options.data_dir, options.label_column)
        tables.append(read_sizes(csv, *columns, *more, joined, allow_outside=options.allow_outside))
    if options.predictions is not None:
        path = folder / options.predictions
        if path.is_file():
            tables.append(sizes_of_answers(path, options))
        else:
            reporter.say(f"{path}: is not there, so its groups were not checked")
    said, names = [], list(policy.names)
    for sizes in tables:
        names = list(sizes.grouping.names)
        policy.check_groups(names)
        for split in options.gate_splits:
            if split not in sizes.total:
                raise OptionError(f"{sizes.file}: no row has split '{split}', which is to be gated")
        total = ", ".join(f"{n} {split}" for split, n in sizes.total.items())
        said.append(f"{sizes.file}: {total} images, {len(names)} groups")
    for warning in policy.warnings(names, today):
        reporter.warn(warning)
    for note in policy.notes(today):
        reporter.say(note)
    return said
