"""Writing a first ``ceag.yaml`` (``ceag init``).

What is written parses and changes nothing but eps, so that no model sets its own gate, and the
names of the files that were found: every other line is a comment that shows a key with its default.
"""

from __future__ import annotations

import csv
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

from ceag_cli.atomic import write_text
from ceag_cli.clauses import Group
from ceag_cli.declarations import declared
from ceag_cli.errors import LabelsError, LineageError, OptionError, OutputError, first
from ceag_cli.groupcolumns import MISSING
from ceag_cli.headers import PATH_COLUMNS
from ceag_cli.kinds import has_answers
from ceag_cli.lineage import newest
from ceag_cli.options import AuditOptions
from ceag_cli.policy import DEFAULT_EPS
from ceag_cli.progress import Reporter
from ceag_cli.recipe import PROJECT_FILE, read_project
from ceag_cli.sizes import Sizes, read_sizes, sizes_of_answers

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
"""Of the audit, in the file as comments."""

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
    def tables(self) -> tuple[Path, ...]:
        """Those that could be named: groups CSVs, or without any the tables of answers."""
        return self.csvs or self.answers

    @property
    def key(self) -> str:
        """The option that names one of them."""
        return "predictions" if self.answers and not self.csvs else "groups"

    @property
    def table(self) -> Path | None:
        """The one that is named, where it is clear which."""
        return self.tables[0] if len(self.tables) == 1 else None


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
            groups = _smallest_first(sizes)
    return Found(csvs, model, groups, problems, answers)


def _smallest_first(sizes: Sizes) -> tuple[Group, ...]:
    """Named groups, those with the fewest images in the test split first, without any last."""
    n = sizes.by_group.get("test")
    order = list(range(sizes.grouping.num_groups))
    if n is not None:
        order.sort(key=lambda g: (n[g] == 0, n[g]))
    names = (sizes.grouping.names[g] for g in order)
    return tuple(name for name in names if MISSING not in name[1].split("*"))


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
    if len(found.tables) > 1:
        names = ", ".join(table.name for table in found.tables)
        what = "groups CSV" if found.csvs else "answers"
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
    return [
        "# What 'ceag audit' asks of a model in this folder, and what the other commands take for",
        "# their flags: one section per command (dense, prune, mitigate, audit), and in it the",
        "# flags by name, with _ for -. A flag beats this file, this file beats the model's",
        "# metadata, that beats the default. [tool.ceag.audit] in pyproject.toml does as well.",
        "#",
        "# ceag groups    which groups can be decided at this eps",
        "# ceag check     whether this file can be used",
        "",
        "audit:",
        *_what_is_audited(found),
        "",
        "  # Largest excess accuracy gap, a fraction: 0.02 is 2 points. Without it the eps that a",
        "  # model was made for would be asked for, so that a model would set its own gate.",
        f"  eps: {eps:g}",
        "",
        *_defaults(),
        *_clauses(found),
    ]


def _what_is_audited(found: Found) -> list[str]:
    """The table and the model, the model and what is not clear as comments."""
    text = []
    if found.table is not None:
        text.append(f"  {found.key}: {_quoted(found.table.name)}")
    elif found.tables:
        text.append("  # Name one of them:")
        text += [f"  # {found.key}: {_quoted(path.name)}" for path in found.tables]
    else:
        text.append("  # groups: labels.csv    # else the CSV that the model names")
    if found.model is not None:
        text += [
            "  # The newest model is taken by default; as of now that is",
            f"  # checkpoint: {_quoted(found.model.name)}",
        ]
    return text


def _defaults() -> list[str]:
    """Keys of the audit as comments, each with what it means and its default."""
    text = []
    for name in SHOWN_KEYS:
        about = declared(AuditOptions)[name]
        text += [f"  # {line}" for line in textwrap.wrap(about.help, 96)]
        if about.choices and name != "gate_splits":
            text.append(f"  # One of {', '.join(about.choices)}.")
        shown = "null" if about.default is None else _plain(about.default)
        text += [f"  # {name}: {shown}", ""]
    return text


def _clauses(found: Found) -> list[str]:
    """What can be said of single groups, as comments that show it of groups of the CSV."""
    examples = [*found.groups[:2], *_EXAMPLES[len(found.groups) :]]
    group, waived = (f"feature: {_quoted(f)}, value: {_quoted(v)}" for f, v in examples)
    return [
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


def _plain(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else f"{value}"


def _quoted(name: str) -> str:
    """A name as YAML: as it is where nothing in it could mean something else, else in quotes."""
    words = {"no", "yes", "on", "off", "true", "false", "null", "y", "n"}
    plain = name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum()
    if plain and name.isascii() and name[0].isalpha() and name.casefold() not in words:
        return name
    return json.dumps(name, ensure_ascii=not name.isprintable())
