"""Checking the policy files of a folder, and the groups that they name (``ceag check``)."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from ceag_cli.answers import refuse_seen
from ceag_cli.declarations import named_as_given
from ceag_cli.errors import CeagError, OptionError
from ceag_cli.options import COMMANDS, AuditOptions
from ceag_cli.policy import policy_of
from ceag_cli.progress import Reporter
from ceag_cli.recipe import PROJECT_FILE, PYPROJECT, read_project, read_yaml, resolve
from ceag_cli.sizes import Sizes, joined_by, read_sizes, sizes_of_answers
from ceag_cli.sources import dataset_of


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
