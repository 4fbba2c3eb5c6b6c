"""Files that other files refer to: by relative path and sha256.

A reference is looked for at its path and then, in case things were moved, by hash beside the file
that names it. A packed file counts as the plain one that it stands for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ceag_cli import strictjson
from ceag_cli.datasetnames import not_a_dataset
from ceag_cli.errors import LineageError
from ceag_cli.groupcolumns import POLICIES
from ceag_cli.headers import SPLITS
from ceag_cli.weightsfiles import identity_of


@dataclass(frozen=True)
class Reference:
    """A file that another file names."""

    path: str
    """Relative to the folder of the file that names it, with ``/``."""
    sha256: str

    @classmethod
    def from_json(cls, found: Any, what: str) -> Reference:
        """What a file says of another one.

        Raises:
            KeyError, ValueError: Something is missing, or is no path or hash.
        """
        item = strictjson.mapping(found, what)
        return cls(
            strictjson.text(item["path"], f"the path of {what}"),
            strictjson.sha256(item["sha256"], f"the sha256 of {what}"),
        )

    @classmethod
    def to(cls, target: Path, sha256: str, named_by: Path) -> Reference:
        """Refer to ``target`` from the file ``named_by``."""
        relative = os.path.relpath(target.resolve(), named_by.resolve().parent)
        return cls(Path(relative).as_posix(), sha256)

    def find(self, named_by: Path, what: str, remedy: str) -> Path:
        """The file referred to.

        Args:
            named_by: The file that names it.
            what: Its role, for the message.
            remedy: What else to do than to restore it.

        Raises:
            LineageError: No file of that hash is at the path or beside ``named_by``.
        """
        expected = named_by.parent / self.path
        if os.path.isfile(expected) and identity_of(expected) == self.sha256:
            return Path(os.path.relpath(expected))
        suffix = Path(self.path).suffix
        for candidate in sorted(named_by.parent.iterdir()):
            alike = candidate.suffix == suffix and os.path.isfile(candidate)
            if alike and identity_of(candidate) == self.sha256:
                return candidate
        state = "has changed since" if os.path.isfile(expected) else "is not there"
        raise LineageError(
            f"{named_by}: its {what} '{self.path}' {state} (sha256 {self.sha256[:12]}…), and no "
            f"file beside it is the same; restore it, or {remedy}"
        )


@dataclass(frozen=True)
class DatasetReference:
    """A data set of timm that the images come from, and how the groups CSV joins it."""

    name: str
    """As timm's ``--dataset``: ``tar``, ``torch/cifar10``, ``hfds/PATH``."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """The data set's name of each split of the CSV; empty where all of it is one."""
    labels: str = "check"
    """Whether the CSV's labels have to agree with the data set's classes: check or ignore."""
    unlisted: str = "error"
    """What becomes of an image without a row: error or drop."""
    input_key: str | None = None
    target_key: str | None = None
    sha256: str | None = None
    """Of the names and classes of all its images; ``None`` before it was opened."""

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> DatasetReference:
        """What ``dataclasses.asdict`` has made.

        Raises:
            KeyError, ValueError: Something is missing, is too much, or is not what it should be.
        """
        known = cls.__dataclass_fields__
        values = dict(found)
        for name, value in values.items():
            strictjson.one_of(name, "a key of the data set", known)
            if name == "splits":
                for key, split in strictjson.mapping(value, "the data set's splits").items():
                    strictjson.one_of(key, "a split", SPLITS)
                    strictjson.text(split, f"the data set's split for {key}")
            elif value is not None:
                strictjson.text(value, f"the data set's {name}")
        problem = not_a_dataset(strictjson.text(values["name"], "the data set's name"))
        if problem is not None:
            raise ValueError(f"its data set {problem}")
        labels, unlisted = values.get("labels", "check"), values.get("unlisted", "error")
        strictjson.one_of(labels, "the data set's labels", ("check", "ignore"))
        strictjson.one_of(unlisted, "the data set's unlisted", ("error", "drop"))
        return cls(**values)

    @property
    def kind(self) -> str:
        """What comes before the first ``/`` of the name: ``tar``, ``torch``, ``hfds``."""
        return self.name.partition("/")[0]

    def moved(self, start: Path, folder: Path) -> DatasetReference:
        """The same, its path relative to ``folder`` and no longer to ``start``."""
        path = self.name.partition("/")[2]
        if self.kind != "hfds" or os.path.isabs(path):
            return self
        place = os.path.relpath((start / path).resolve(), folder.resolve())
        return replace(self, name=f"{self.kind}/{place}")


@dataclass(frozen=True)
class GroupsReference:
    """The groups CSV that a model was trained or mitigated with, and how it was read."""

    csv: Reference
    data_dir: str | None
    """Relative to the folder of the file that names it; ``None`` for the default."""
    label_column: str
    groups_by: str
    missing: str = "error"
    """What was done with images that have no group."""
    dataset: DatasetReference | None = None
    """Where the images come from, if not from files that the CSV names; a path in its name is
    relative to the folder of the file that names it, too."""

    def to_json(self) -> dict[str, Any]:
        """As the metadata has it; what is as usual is left out."""
        return {
            "path": self.csv.path,
            "sha256": self.csv.sha256,
            "data_dir": self.data_dir,
            "label_column": self.label_column,
            "groups_by": self.groups_by,
            **({"missing": self.missing} if self.missing != "error" else {}),
            **({"dataset": asdict(self.dataset)} if self.dataset is not None else {}),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> GroupsReference:
        """What ``to_json`` has made.

        Raises:
            KeyError, ValueError: Something is missing, or is not what it should be.
        """
        data_dir, dataset = found["data_dir"], found.get("dataset")
        return cls(
            Reference.from_json(found, "the groups CSV"),
            None if data_dir is None else strictjson.text(data_dir, "the data_dir"),
            strictjson.text(found["label_column"], "the label column"),
            strictjson.text(found["groups_by"], "groups_by"),
            strictjson.one_of(found.get("missing", "error"), "missing", POLICIES),
            None
            if dataset is None
            else DatasetReference.from_json(strictjson.mapping(dataset, "the data set")),
        )
