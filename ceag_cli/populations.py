"""Several dense and several sparse models, and what they answer to the same images of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ceag_cli.arrays import Integers
from ceag_cli.documents import subject_document
from ceag_cli.findings import Subject
from ceag_cli.groups import Grouping

DENSE, SPARSE = "dense", "sparse"


@dataclass(frozen=True)
class Member:
    """A model of a population."""

    path: str
    """Its file, or the table that its answers are in."""
    sha256: str | None
    """``None`` where only answers are at hand."""
    sparsity: float | None = None
    """Fraction removed; ``None`` where that is not known."""
    method: str | None = None
    """How it was fine-tuned, where that was done by ceag."""


@dataclass(frozen=True)
class Populations:
    """The models, and their answers to N images of a split in the order of the groups CSV."""

    dense: tuple[Member, ...]
    sparse: tuple[Member, ...]
    dense_answers: Integers
    """Classes, shape ``(M, N)``."""
    sparse_answers: Integers
    """Shape ``(L, N)``."""
    pairs: tuple[int, ...] | None
    """For each sparse model the number of the dense one that it was made of; ``None`` where that
    is not known, or where these are not all dense models, each once."""
    split: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    label: Integers
    """True class, shape ``(N,)``."""
    grouping: Grouping
    groups: Integers
    """Group ids, shape ``(N, F)``."""
    clusters: Integers | None
    architecture: str | None
    data: dict[str, Any]
    """What is said of the images in a document."""
    files: tuple[Path, ...]
    """Everything that was read."""
    read: Callable[[str], bytes] | None = None
    """Gives the bytes of an image, where images are at hand."""


def pairs_of(dense: Sequence[str | None], made_of: Sequence[str | None]) -> tuple[int, ...] | None:
    """For each sparse model the dense one that it was made of, where that is one to one."""
    numbers = {digest: number for number, digest in enumerate(dense) if digest is not None}
    found = [numbers[digest] for digest in made_of if digest is not None and digest in numbers]
    if len(found) < len(made_of) or sorted(found) != list(range(len(dense))):
        return None
    return tuple(found)


def data_document(subject: Subject, tables: Sequence[tuple[Path, str]]) -> dict[str, Any]:
    """What is said of the images, as JSON.

    Args:
        subject: Of any of the models.
        tables: Tables of answers with their sha256.
    """
    document: dict[str, Any] = subject_document(subject)["data"]
    del document["predictions_sha256"]
    predictions = [{"path": str(path), "sha256": digest} for path, digest in tables]
    return document | {"predictions": predictions}


def members_document(found: Populations) -> dict[str, Any]:
    """The models, as JSON."""
    return {
        "architecture": found.architecture,
        DENSE: [{"path": member.path, "sha256": member.sha256} for member in found.dense],
        SPARSE: [asdict(member) for member in found.sparse],
    }


def same_models(found: Populations) -> list[str]:
    """Models of different files that answer alike to all images, as sentences."""
    said = []
    for role, members, answers in (
        (DENSE, found.dense, found.dense_answers),
        (SPARSE, found.sparse, found.sparse_answers),
    ):
        for i in range(len(members)):
            alike = [j for j in range(i) if np.array_equal(answers[i], answers[j])]
            if alike:
                said.append(
                    f"{members[i].path} answers as {members[alike[0]].path} does to all images, "
                    f"but counts as another {role} model"
                )
    return said
