"""Where a file comes from: its parents, its groups CSV, and how the next command finds them.

Files refer to each other by relative path and sha256. A reference is looked for at its path and
then, in case things were moved, by hash beside the file that names it. A packed file counts as the
plain one that it stands for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ceag_cli import strictjson
from ceag_cli.errors import CeagError, CheckpointError, LineageError
from ceag_cli.groupcolumns import POLICIES
from ceag_cli.headers import SPLITS
from ceag_cli.kinds import kind_of
from ceag_cli.options import COMMANDS, CRITERIA, SCOPES, not_a_dataset, parse
from ceag_cli.tensorfiles import check_names

FORMAT = "1"
"""Version of our metadata. A file with another one is refused."""

_PATTERN = re.compile(r"[1-9]\d{0,3}:[1-9]\d{0,3}", re.ASCII)

SUFFIX = ".safetensors"
WEIGHTS_NAME = f"model{SUFFIX}"
WANTED = "wanted are a model's weights: a .safetensors file or a PyTorch checkpoint (.pth)"
STAGES = ("early", "dense", "pruned", "mitigated")

PACKED = "ceag.packed"
"""Key of the metadata of a packed file."""


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of(path: Path) -> str:
    """The hash that references name a file by: of the plain file where this one is packed."""
    try:
        index = strictjson.mapping(strictjson.loads(read_metadata(path)[PACKED]), PACKED)
        return strictjson.sha256(index["sha256"], "the sha256 of the plain file")
    except (CheckpointError, KeyError, ValueError):
        return sha256_of(path)


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


@dataclass(frozen=True)
class SparsityRecord:
    """What was pruned."""

    target: float
    scope: str
    criterion: str
    tensors: Mapping[str, tuple[int, int]]
    """``(zeros, weights)`` of each pruned tensor."""
    pattern: str = "unstructured"
    """Or N:M."""

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SparsityRecord:
        """What the metadata says.

        Raises:
            KeyError, ValueError: Something is missing, or is not what it should be.
        """
        tensors = {}
        for name, pair in strictjson.mapping(found["tensors"], "the pruned tensors").items():
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError(f"of tensor '{name}' it is not said how many zeros it has")
            weights = strictjson.whole(pair[1], f"the weights of '{name}'")
            zeros = strictjson.whole(pair[0], f"the zeros of '{name}'", weights)
            tensors[name] = (zeros, weights)
        pattern = strictjson.text(found.get("pattern", "unstructured"), "the pattern")
        if pattern != "unstructured" and _PATTERN.fullmatch(pattern) is None:
            raise ValueError(f"the pattern is '{pattern}', not unstructured or N:M")
        return cls(
            strictjson.number(found["target"], "the target sparsity", 0, 1),
            strictjson.one_of(found["scope"], "the scope", SCOPES),
            strictjson.one_of(found["criterion"], "the criterion", CRITERIA),
            tensors,
            pattern,
        )

    @property
    def achieved(self) -> float:
        """Fraction removed over the prunable weights."""
        weights = sum(total for _, total in self.tensors.values())
        return sum(zeros for zeros, _ in self.tensors.values()) / weights if weights else 0.0


@dataclass(frozen=True)
class Lineage:
    """The ``ceag.*`` metadata of a weights file."""

    stage: str
    """early, dense, pruned or mitigated."""
    version: str
    seed: int
    recipe: Mapping[str, Any]
    parents: Mapping[str, Reference] = field(default_factory=dict)
    """``dense``: the dense model it descends from; ``input``: the file it was made from; ``early``:
    the weights of early in the training of a dense model, which lottery tickets are rewound to."""
    groups: GroupsReference | None = None
    sparsity: SparsityRecord | None = None
    eps: float | None = None
    recalibrated: int | None = None
    """Train images on which BatchNorm statistics were measured anew after pruning."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python and the packages that made it (``versions``)."""

    def to_metadata(self) -> dict[str, str]:
        """As the string-to-string metadata of a .safetensors file."""
        metadata = {
            "ceag.format": FORMAT,
            "ceag.version": self.version,
            "ceag.versions": json.dumps(dict(self.versions)),
            "ceag.stage": self.stage,
            "ceag.seed": str(self.seed),
            "ceag.recipe": json.dumps(self.recipe),
            "ceag.parents": json.dumps(
                {role: {"path": r.path, "sha256": r.sha256} for role, r in self.parents.items()}
            ),
        }
        if self.groups is not None:
            metadata["ceag.groups"] = json.dumps(self.groups.to_json())
        if self.sparsity is not None:
            metadata["ceag.sparsity"] = json.dumps(
                {
                    "target": self.sparsity.target,
                    "achieved": self.sparsity.achieved,
                    "scope": self.sparsity.scope,
                    "criterion": self.sparsity.criterion,
                    "pattern": self.sparsity.pattern,
                    "tensors": {name: list(pair) for name, pair in self.sparsity.tensors.items()},
                }
            )
        if self.eps is not None:
            metadata["ceag.eps"] = repr(self.eps)
        if self.recalibrated is not None:
            metadata["ceag.recalibrated"] = str(self.recalibrated)
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> Lineage | None:
        """Read our metadata; ``None`` for a file that is not ours.

        Raises:
            CheckpointError: The metadata is of another format or is damaged.
        """
        if "ceag.format" not in metadata:
            return None
        if metadata["ceag.format"] != FORMAT:
            raise other_format(path, "written", metadata["ceag.format"], FORMAT)
        try:
            return cls(
                stage=strictjson.one_of(metadata["ceag.stage"], "the stage", STAGES),
                version=strictjson.text(metadata["ceag.version"], "the version"),
                versions={
                    strictjson.text(name, "a package"): strictjson.text(version, "a version")
                    for name, version in (
                        _mapping(metadata, "ceag.versions") if "ceag.versions" in metadata else {}
                    ).items()
                },
                seed=strictjson.whole(int(metadata["ceag.seed"]), "the seed"),
                recipe=_recipe(strictjson.loads(metadata["ceag.recipe"])),
                parents={
                    strictjson.text(role, "a parent's role"): Reference.from_json(item, role)
                    for role, item in _mapping(metadata, "ceag.parents").items()
                },
                groups=(
                    GroupsReference.from_json(_mapping(metadata, "ceag.groups"))
                    if "ceag.groups" in metadata
                    else None
                ),
                sparsity=(
                    SparsityRecord.from_json(_mapping(metadata, "ceag.sparsity"))
                    if "ceag.sparsity" in metadata
                    else None
                ),
                eps=(
                    strictjson.number(float(metadata["ceag.eps"]), "eps", 0, 1)
                    if "ceag.eps" in metadata
                    else None
                ),
                recalibrated=(
                    strictjson.whole(int(metadata["ceag.recalibrated"]), "recalibrated")
                    if "ceag.recalibrated" in metadata
                    else None
                ),
            )
        except KeyError as error:
            raise CheckpointError(
                f"{path}: its ceag metadata is damaged: {error} is missing"
            ) from None
        except (ValueError, CeagError) as error:
            raise CheckpointError(f"{path}: its ceag metadata is damaged: {error}") from None


def _mapping(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    return strictjson.mapping(strictjson.loads(metadata[key]), key)


def _recipe(found: Any) -> dict[str, Any]:
    """A recipe whose values are those that its command could have had.

    Raises:
        ValueError, OptionError: One is none of them.
    """
    recipe = strictjson.mapping(found, "the recipe")
    if "command" in recipe:
        command = COMMANDS[strictjson.one_of(recipe["command"], "the recipe's command", COMMANDS)]
        for name in recipe.keys() & command.__dataclass_fields__.keys():
            parse(command, name, recipe[name], f"the recipe's {name}")
    return recipe


def other_format(path: Path, how: str, found: object, known: object) -> CheckpointError:
    """The error for a file of a format that this version does not read.

    Args:
        path: The file.
        how: ``written`` or ``packed``.
        found: The number of its format.
        known: The one that is read.
    """
    said = str(found)
    later = said.isdecimal() and (len(said) > 9 or int(said) > int(str(known)))
    remedy = "install a newer ceag" if later else "write it anew with this version"
    return CheckpointError(
        f"{path}: {how} in format {found}, this version of ceag reads format {known}; {remedy}"
    )


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a .safetensors file; empty for other files and files without any.

    Raises:
        CheckpointError: The file is missing, is no weights file, or is damaged.
    """
    if os.path.isdir(path):
        raise CheckpointError(
            f"{path}: is a folder without {WEIGHTS_NAME}; name the weights file in it"
        )
    if not os.path.isfile(path):
        exists = os.path.lexists(path)
        what = "is no file that can be read" if exists else "there is no such file"
        raise CheckpointError(f"{path}: {what}")
    kind = kind_of(path)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}; {WANTED}")
    if path.suffix != SUFFIX:
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            check_names(path)
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise not_whole(path, "a whole .safetensors file", error) from None


def not_whole(path: Path, what: str, error: Exception) -> CheckpointError:
    """The error for a file that is damaged or cut short."""
    reason = ""
    if not isinstance(error, (KeyError, IndexError)):  # which say nothing to a user
        reason = f": {(str(error).splitlines() or [type(error).__name__])[0]}"
    return CheckpointError(f"{path}: not {what}{reason}; restore it from a copy, or write it anew")


def weights_in(path: Path) -> Path:
    """The weights file that a path means: the file, or ``model.safetensors`` in the folder."""
    return path / WEIGHTS_NAME if (path / WEIGHTS_NAME).is_file() else path


def derived(source: Path, stage: str) -> Path:
    """Name of the file that a stage makes of another, beside it.

    ``model.safetensors`` → ``model.pruned.safetensors`` → ``model.mitigated.safetensors``.
    """
    stem = source.name
    for suffix in (SUFFIX, ".tar", ".pth", ".pt", ".bin"):
        stem = stem.removesuffix(suffix)
    for earlier in STAGES:
        stem = stem.removesuffix(f".{earlier}")
    return source.with_name(f"{stem}.{stage}{SUFFIX}")


def newest(stages: tuple[str, ...], folder: Path, command: str) -> tuple[Path, str]:
    """The newest file of the first stage that has any, among those in a folder.

    Args:
        stages: In order of preference.
        folder: Searched without its sub-folders.
        command: For the message.

    Returns:
        The file and its stage.

    Raises:
        LineageError: There is none, or two equally new ones.
    """
    found: dict[str, list[Path]] = {stage: [] for stage in STAGES}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            lineage = Lineage.from_metadata(read_metadata(path), path)
        except CheckpointError:
            continue  # somebody else's file, or a damaged one: not ours to take by default
        if lineage is not None:
            found[lineage.stage].append(path)
    for stage in stages:
        if not found[stage]:
            continue
        latest = max(path.stat().st_mtime_ns for path in found[stage])
        candidates = [path for path in found[stage] if path.stat().st_mtime_ns == latest]
        if len(candidates) > 1:
            names = ", ".join(path.name for path in candidates)
            raise LineageError(f"ceag {command}: {names} are equally new; name one of them")
        return candidates[0], stage
    wanted = " or ".join(stages)
    answers = ", or answers of two models with --predictions" if command == "audit" else ""
    raise LineageError(
        f"ceag {command}: there is no {wanted} model in the current folder; name the file{answers}"
    )
