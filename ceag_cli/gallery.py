"""A few of the images that the sparse model loses, made small for the page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable

import numpy as np
from PIL import Image

from ceag_cli.decoding import decode
from ceag_cli.findings import DESCRIPTIVE, AuditResult, GroupResult
from ceag_cli.predictions import AnswerTable
from ceag_cli.results import Flip

SIZE = 96
"""Pixels of the longer side."""
PICTURES = 24
PER_GROUP = 6


def pictures_asked(given: int | None) -> int:
    """How many images a page shows.

    In CI reports are uploaded and mailed around by themselves, so that images, which may be of
    people, are copied into them only if somebody has asked for it.
    """
    if given is not None:
        return given
    return 0 if os.environ.get("CI", "").lower() not in ("", "0", "false") else PICTURES


def gallery(
    result: AuditResult, answers: AnswerTable, read: Callable[[str], bytes], most: int
) -> tuple[Flip, ...]:
    """Images that only the dense model gets right, of the groups with the largest lower bounds.

    An image that lies in several of the groups is shown once.

    Args:
        result: What the audit found.
        answers: What both models said, whose ids are the paths of the images.
        read: Gives the bytes of an image.
        most: Images in total; a group gives at most ``PER_GROUP`` of them.
    """
    numbers = {name: g for g, name in enumerate(answers.grouping.names)}
    found: list[Flip] = []
    taken: set[int] = set()
    for split in (split.split for split in result.splits if split.gated):
        part = answers.only(split) if most else None
        for group in result.by_split(split):
            if part is None or len(found) >= most:
                break
            if not group.lost or group.verdict == DESCRIPTIVE:
                continue
            inside = (part.groups == numbers.get((group.feature, group.value), -1)).any(axis=1)
            lost = inside & part.correct("dense") & ~part.correct("sparse")
            rows = [row for row in np.flatnonzero(lost).tolist() if row not in taken]
            rows = rows[: min(PER_GROUP, most - len(found))]
            taken.update(rows)
            shown = [_flip(group, part, row, read) for row in rows]
            found += [flip for flip in shown if flip is not None]
    return tuple(found)


def _flip(
    group: GroupResult, answers: AnswerTable, row: int, read: Callable[[str], bytes]
) -> Flip | None:
    path = answers.ids[row]
    thumbnail = shown(path, read)
    if thumbnail is None:
        return None
    return Flip(
        split=group.split,
        group=f"{group.feature}={group.value}",
        path=path,
        label=answers.classes[int(answers.label[row])],
        dense=answers.classes[int(answers.dense[row])],
        sparse=answers.classes[int(answers.sparse[row])],
        thumbnail=thumbnail,
    )


def shown(path: str, read: Callable[[str], bytes]) -> str | None:
    """An image as a data URI; ``None`` if it cannot be read, for the page does without it."""
    try:
        return data_uri(read(path))
    except Exception:  # Pillow and zipfile raise many kinds for damaged bytes
        return None


def data_uri(content: bytes) -> str:
    """An image as a data URI, at most ``SIZE`` pixels wide and high, without its metadata."""
    image = decode(content, 3)
    image.thumbnail((SIZE, SIZE))
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    file = io.BytesIO()
    kind = "png" if max(clean.size) <= 40 else "jpeg"  # small ones would be blurred by JPEG
    clean.save(file, kind, **({"quality": 80} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
