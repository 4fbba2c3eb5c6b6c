"""Headers of tables of images: the columns that are needed, and those that make groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ceag_cli.errors import nearest
from ceag_cli.groups import crossed

PATH_COLUMNS = ("path", "file_name", "filename")
SPLITS = ("train", "val", "test")


def header_problems(
    place: str, header: Sequence[str], label_column: str, unnamed: str | None
) -> list[str]:
    """What is wrong with the columns that every table has to have.

    Args:
        place: Where the header is, for the messages.
        header: Its columns.
        label_column: The column with the target class.
        unnamed: The problem with the column that names the image, if there is one.
    """
    problems = []
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        problems.append(f"{place}: column given twice: {', '.join(twice)}")
    if unnamed is not None:
        problems.append(unnamed)
    if "split" not in header:
        problems.append(
            f"{place}: needs a column 'split' with {', '.join(SPLITS)} in its rows"
            f"{nearest('split', header)}"
        )
    if label_column not in header:
        problems.append(
            f"{place}: there is no label column '{label_column}'; name one with "
            f"--label-column (columns: {', '.join(header)})"
        )
    return problems


def no_such_column(
    place: str, header: Sequence[str], cluster_id: str | None, control: Sequence[str]
) -> list[str]:
    """What is wrong when ``--cluster-id`` or ``--control`` names no column."""
    named = [("--control", name) for name in control]
    if cluster_id is not None:
        named = [("--cluster-id", cluster_id), *named]
    return [_no_such(place, header, flag, name) for flag, name in named if name not in header]


def _no_such(place: str, header: Sequence[str], flag: str, name: str) -> str:
    return (
        f"{place}: {flag} names '{name}', which is not a column"
        f"{nearest(name, list(header))} (columns: {', '.join(header)})"
    )


def features_of(
    place: str,
    header: Sequence[str],
    groups_by: str | None,
    others: Sequence[str],
    label_column: str,
) -> tuple[list[list[str]], list[str]]:
    """The columns of each feature, several where they are crossed, and what is wrong with them.

    Args:
        place: Where the header is, for the messages.
        header: Its columns.
        groups_by: What ``--groups-by`` names, if anything.
        others: The columns that make groups, one by one, where it names nothing.
        label_column: The column with the target class.
    """
    if groups_by is None:
        if others:
            return [[name] for name in others], []
        return [], [
            f"{place}: no column is left to make groups of; name one with "
            f"--groups-by ('--groups-by {label_column}' takes the class as the group)"
        ]
    features = [[part.strip() for part in item.split("*")] for item in groups_by.split(",")]
    problems = [
        _no_such(place, header, "--groups-by", name)
        for parts in features
        for name in parts
        if name not in header
    ]
    names = [crossed(parts) for parts in features]
    problems += [
        f"--groups-by names '{name}' twice"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    return features, problems


def refuse_cluster(
    path: Path, features: Sequence[Sequence[str]], cluster_id: str | None
) -> list[str]:
    """What is wrong when a group is made of the column that tells images apart by cluster."""
    if not any(cluster_id in parts for parts in features):
        return []
    return [f"{path}: column '{cluster_id}' is both in --groups-by and --cluster-id; name one"]
