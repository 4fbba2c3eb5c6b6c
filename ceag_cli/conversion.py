"""Writing a groups CSV from a data set as it is published (``ceag groups --from``)."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ceag_cli.atomic import write_text
from ceag_cli.cifarbatches import write_archive
from ceag_cli.declarations import flag, parse
from ceag_cli.destinations import unwritable
from ceag_cli.errors import LabelsError, OptionError, OutputError, first, nearest
from ceag_cli.groupcolumns import POLICIES
from ceag_cli.groups import set_aside, set_aside_whole
from ceag_cli.headers import SPLITS
from ceag_cli.layouts import Table, read_layout
from ceag_cli.options import AuditOptions
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.stores import open_store

ARCHIVE = "images.zip"
"""Where images go that are in no files of their own, beside the CSV."""

TEST_SHARE = 0.2
"""Of a data set that has no test split."""

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Written:
    """A groups CSV that was written."""

    output: Path
    columns: tuple[str, ...]
    images: dict[str, int]
    """How many, by split."""
    left_out: int
    """Images of which something is not known (``--missing drop``)."""
    data_dir: Path | None
    """What later commands have to be told with ``--data-dir``."""
    archive: Path | None
    """Where the images were written to, if they were."""
    target: str | None
    """What ``label`` is; without one, later commands name the target."""
    groups: tuple[str, ...]
    notes: tuple[str, ...]
    """How splits came about, in sentences."""


def write_groups(
    layout: str,
    folder: str | Path,
    output: str | Path = "labels.csv",
    *,
    label_column: str | None = None,
    groups_by: str | None = None,
    missing: str = "error",
    val_share: float = 0.0,
    test_share: float | None = None,
    seed: int = 42,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Written:
    """Write a groups CSV from a data set's own files.

    Official splits are kept. Without any, ``test`` is drawn, the same share of every combination
    of label and groups; where it is known who is in an image, whole people are drawn.

    Args:
        layout: A key of ``layouts.LAYOUTS``.
        folder: Where the data set was unpacked.
        output: The CSV. Images that are in no files of their own go to ``images.zip`` beside it.
        label_column: What of an image becomes the column ``label``; by default the data set's own
            classes, where it has any.
        groups_by: Further columns to write, ``a,b``; by default those usual for the data set.
        missing: ``error`` refuses images of which something is not known, ``drop`` leaves them
            out, ``group`` leaves the cells of groups empty, for ``--missing group`` later.
        val_share: Fraction of the images without an official split that become ``val``.
        test_share: Fraction that becomes ``test``, 0.2 by default.
        seed: Of the draws.
        overwrite: Replace what is there.
        reporter: Hears of progress.

    Raises:
        OptionError: An argument cannot be used.
        LabelsError: The data set cannot be read, with everything that is wrong in it.
        OutputError: The output exists, or cannot be written.
    """
    target = Path(output)
    seed = parse(AuditOptions, "seed", seed)
    _check_output(target, overwrite)
    table = read_layout(layout, Path(folder))
    if table.pixels is not None:
        _check_output(target.with_name(ARCHIVE), overwrite)
    label, groups = _chosen(table, layout, label_column, groups_by)
    rows = _usable(table, [*([label] if label else []), *groups], label, missing)
    splits, notes = _with_splits(table, rows, [label, *groups], val_share, test_share, seed)
    prefix, data_dir = _place(table, target)
    columns = ["path", *(["label"] if label else []), "split", *groups]
    if table.person is not None and table.person not in columns:
        columns.append(table.person)
    text = _csv_of(table, rows, splits, columns, label, prefix)
    archive = None
    if table.pixels is not None:
        archive = target.with_name(ARCHIVE)
        _write_images(archive, table, reporter or Quiet())
    write_text(target, text)
    if archive is not None and open_store(target, None, table.paths[:1]).root != archive:
        data_dir = archive
    count = Counter(splits)
    return Written(
        output=target,
        columns=tuple(columns),
        images={name: count[name] for name in SPLITS if count[name]},
        left_out=len(table.paths) - len(rows),
        data_dir=data_dir,
        archive=archive,
        target=label,
        groups=tuple(groups),
        notes=tuple(notes),
    )


def write_as_asked(
    layout: str,
    folder: str | None,
    given: Mapping[str, str | bool | None],
    reporter: Reporter | None = None,
) -> Written:
    """:func:`write_groups` with the words of a command line.

    Args:
        layout: A key of ``layouts.LAYOUTS``.
        folder: Where the data set was unpacked; ``None`` if that was not said.
        given: The other arguments as words, by name; ``None`` means "not given".
        reporter: Hears of progress.

    Raises:
        CeagError: As :func:`write_groups`, or a word is no number where one is needed.
    """
    if folder is None:
        raise OptionError(f"--from {layout} needs the folder of the data set")
    known: dict[str, Any] = {name: word for name, word in given.items() if word is not None}
    for name in [name for name in ("test_share", "val_share") if name in known]:
        try:
            known[name] = float(known[name])
        except ValueError:
            raise OptionError(f"{flag(name)}: '{known[name]}' is not a number") from None
    return write_groups(layout, folder, reporter=reporter, **known)


def _check_output(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path}: exists already; replace it with --overwrite, or name another CSV with -o"
        )
    reason = unwritable(path)
    if reason is not None:
        raise OutputError(f"{path}: {reason}")


def _chosen(
    table: Table, layout: str, label_column: str | None, groups_by: str | None
) -> tuple[str | None, list[str]]:
    """The column of the target, if one is chosen, and those of the groups."""
    label = label_column or table.label
    groups = list(table.groups)
    if groups_by is not None:
        parts = [part.strip() for item in groups_by.split(",") for part in item.split("*")]
        groups = list(dict.fromkeys(part for part in parts if part != "label"))
    known = table.columns
    problems = [
        f"{option}: {layout} has no '{name}'{nearest(name, known)} (it has {', '.join(known)})"
        for option, names in (("--label-column", [label] if label else []), ("--groups-by", groups))
        for name in names
        if name not in known
    ]
    if label is None and layout == "celeba":
        problems.append(
            "--label-column: name the attribute that is the target, for example Smiling (there are "
            f"{', '.join(known)})"
        )
    if problems:
        raise OptionError(problems)
    return label, groups


def _usable(table: Table, columns: Sequence[str], label: str | None, missing: str) -> list[int]:
    """The rows to write; raises with everything that is wrong with the others."""
    if missing not in POLICIES:
        raise OptionError(f"--missing: '{missing}' is not one of {', '.join(POLICIES)}")
    problems = list(table.problems)
    number = {name: table.columns.index(name) for name in columns}
    first_with: dict[str, int] = {}
    rows = []
    for row, (path, cells) in enumerate(zip(table.paths, table.cells, strict=True)):
        if first_with.setdefault(path, row) != row:
            problems.append(f"{table.root / path}: is listed twice")
            continue
        if path != path.strip() or not path.isprintable():
            problems.append(
                f"{str(table.root / path)!r}: its name cannot stand in a CSV, since it has control "
                "characters or spaces around; rename it"
            )
            continue
        lacking = [name for name, i in number.items() if not cells[i]]
        if lacking and missing == "drop":
            continue
        if lacking and (missing == "error" or label in lacking):
            why = table.reasons.get(row)
            problems.append(
                f"{table.root / path}: {' and '.join(lacking)} not known"
                + (f", since {why}" if why else "")
                + "; leave such images out with --missing drop"
            )
            continue
        rows.append(row)
    if problems:
        raise LabelsError(first(problems, SHOWN_PROBLEMS, " of the kind"))
    if not rows:
        raise LabelsError(f"{table.root}: no image is left (--missing drop)")
    return rows


def _with_splits(
    table: Table,
    rows: Sequence[int],
    columns: Sequence[str | None],
    val_share: float,
    test_share: float | None,
    seed: int,
) -> tuple[list[str], list[str]]:
    """The split of each row, and how it came about."""
    splits = [table.splits[row] for row in rows]
    notes = []
    if "test" not in splits and "val" in splits:
        splits = ["test" if split == "val" else split for split in splits]
        notes.append("its val is test here, since it has no other test split")
    if "test" in splits and test_share is not None:
        raise OptionError(f"--test-share {test_share:g}: the data set has a test split already")
    if "val" in splits and val_share:
        raise OptionError(f"--val-share {val_share:g}: the data set has a val split already")
    share = 0.0 if "test" in splits else TEST_SHARE if test_share is None else test_share
    if not 0 <= share < 1 or not 0 <= val_share < 1 or share + val_share >= 1:
        raise OptionError(
            f"--val-share {val_share:g} and --test-share {share:g} have to be fractions from 0 on "
            "that leave something to train on"
        )
    known = [table.columns.index(name) for name in columns if name is not None]
    pool = [i for i, split in enumerate(splits) if split in ("", "train")]
    generator = torch.Generator().manual_seed(seed)
    for name, part in (("test", share), ("val", val_share / (1 - share))):
        if not part or not pool:
            continue
        chosen = _drawn(table, [rows[i] for i in pool], known, part, generator)
        for i, is_chosen in zip(pool, chosen, strict=True):
            splits[i] = name if is_chosen else splits[i]
        pool = [i for i, is_chosen in zip(pool, chosen, strict=True) if not is_chosen]
        what = "images" if table.person is None else f"people ('{table.person}')"
        notes.append(
            f"{name} is drawn: {part * (1 if name == 'test' else 1 - share):g} of the {what}, "
            f"stratified by {', '.join(table.columns[i] for i in known) or 'nothing'}, seed {seed}"
        )
    splits = [split or "train" for split in splits]
    if table.person is not None:
        person = table.columns.index(table.person)
        sides = {(table.cells[row][person], split) for row, split in zip(rows, splits, strict=True)}
        several = len(sides) - len({who for who, _ in sides})
        if several:
            notes.append(f"people of '{table.person}' are in more than one split: {several} times")
    return splits, notes


def _drawn(
    table: Table,
    rows: Sequence[int],
    columns: Sequence[int],
    share: float,
    generator: torch.Generator,
) -> list[bool]:
    def numbers(words: Sequence[str]) -> Tensor:
        return torch.from_numpy(np.unique(words, return_inverse=True)[1])

    words = [[table.cells[row][i] for row in rows] for i in columns] or [[""] * len(rows)]
    strata = torch.stack([numbers(column) for column in words], dim=1)
    if table.person is None:
        chosen = set_aside(strata, share, generator)
    else:
        person = table.columns.index(table.person)
        persons = numbers([table.cells[row][person] for row in rows])
        chosen = set_aside_whole(strata, persons, share, generator)
    found: list[bool] = chosen.tolist()
    return found


def _place(table: Table, target: Path) -> tuple[str, Path | None]:
    """What paths begin with, and the folder that they are relative to if that is not the CSV's."""
    if table.pixels is not None:
        return "", None
    root, beside = table.root.resolve(), target.parent.resolve()
    if not root.is_relative_to(beside):
        return "", table.root
    inside = root.relative_to(beside).as_posix()
    return ("" if inside == "." else f"{inside}/"), None


def _csv_of(
    table: Table,
    rows: Sequence[int],
    splits: Sequence[str],
    columns: Sequence[str],
    label: str | None,
    prefix: str,
) -> str:
    """The CSV: of each row the path after ``prefix``, the column ``label``, its split, the rest."""
    of_label = [table.columns.index(label)] if label else []
    shown = [table.columns.index(c) for c in columns if c not in ("path", "label", "split")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row, split in zip(rows, splits, strict=True):
        cells = table.cells[row]
        path = prefix + table.paths[row]
        writer.writerow([path, *(cells[i] for i in of_label), split, *(cells[i] for i in shown)])
    return text.getvalue()


def _write_images(path: Path, table: Table, reporter: Reporter) -> None:
    """Write the images; the file is whole or not there."""
    assert table.pixels is not None
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with reporter.bar(f"writing {path}", len(table.paths)) as update:
                for done in write_archive(temporary, table.paths, table.pixels()):
                    update(done, "images")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def lines(found: Written) -> list[str]:
    """What was written, and what comes next."""
    total = sum(found.images.values())
    by_split = ", ".join(f"{count} {name}" for name, count in found.images.items())
    text = [
        f"wrote {found.output}: {total} images ({by_split}), columns {', '.join(found.columns)}"
    ]
    if found.archive is not None:
        text.append(f"wrote {found.archive}")
    text += found.notes
    if found.left_out:
        text.append(f"left out, since not all is known of them: {found.left_out} (--missing drop)")
    more = "" if found.data_dir is None else f" --data-dir {found.data_dir}"
    label = "" if found.target else f" --label-column {(found.groups or ('COLUMN',))[0]}"
    groups = found.groups[0] if found.groups else "label"
    text += [
        "next:",
        f"    ceag groups {found.output}{label} --groups-by {groups}",
        f"    ceag dense --groups {found.output}{more}{label} --groups-by {groups} --model NAME",
    ]
    return text


def document(found: Written) -> dict[str, Any]:
    """The same for programs."""
    return {
        "output": str(found.output),
        "columns": list(found.columns),
        "images": found.images,
        "left_out": found.left_out,
        "data_dir": None if found.data_dir is None else str(found.data_dir),
        "archive": None if found.archive is None else str(found.archive),
        "label": found.target,
        "groups": list(found.groups),
        "notes": list(found.notes),
    }
