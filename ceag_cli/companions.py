"""What other commands have left beside an audit's reports, if it is of the same models and groups.

It may be of any age and from anyone, and only describes. So one that is of something else, or that
is damaged, is not taken, and the audit says why and goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ceag_cli import strictjson
from ceag_cli.findings import Subject

T = TypeVar("T")


def companion(
    place: Path,
    what: str,
    command: str,
    version: int,
    read: Callable[[Mapping[str, Any]], tuple[T, list[str]]],
) -> tuple[T | None, str | None]:
    """What the document of another command holds, if the audit can show it.

    Args:
        place: The file.
        what: It holds, for messages.
        command: That writes it.
        version: Its ``schema_version``.
        read: Takes the document; gives what it holds, and in what it is about something else than
            the audit. It may raise ``ValueError``, with the place in the document and the value,
            and ``KeyError`` for what is missing.

    Returns:
        What it holds, or ``None`` and, where there is a file all the same, why it is not taken.
    """
    if not place.is_file():
        return None, None
    remedy = f"'ceag {command}' writes it anew"
    try:
        document = strictjson.mapping(strictjson.loads(place.read_bytes()), "it")
        if document["schema_version"] != version:
            written = strictjson.shown(document["schema_version"])
            return None, (
                f"{place}: written with schema_version {written}, this version of ceag reads "
                f"{version}; {remedy}"
            )
        found, other = read(document)
    except KeyError as error:
        return None, f"{place}: holds no {what}: {error.args[0]} is missing; {remedy}"
    except OSError as error:
        return None, f"{place}: holds no {what}: {error.strerror}; {remedy}"
    except ValueError as error:
        return None, f"{place}: holds no {what}: {error}; {remedy}"
    if other:
        return None, f"{place}: is about {other[0]}; {remedy}"
    return found, None


def other_groups(document: Mapping[str, Any], subject: Subject) -> list[str]:
    """In what the images or groups of a document differ from those of an audit.

    Raises:
        ValueError, KeyError: It is no such document.
    """
    data = strictjson.mapping(document["data"], "data")
    pairs = {
        "another groups CSV": (data["groups_file_sha256"], subject.groups_sha256),
        "another label column": (data["label_column"], subject.label_column),
        "other groups": (data["groups_by"], subject.groups_by),
        "another treatment of missing groups": (data["missing"], subject.missing),
    }
    return [name for name, (one, two) in pairs.items() if one != two]
