"""Where a model comes from: the metadata of its file, and how the next command finds it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ceag_cli import strictjson
from ceag_cli.declarations import parse
from ceag_cli.errors import CeagError, CheckpointError, LineageError
from ceag_cli.options import COMMANDS
from ceag_cli.references import GroupsReference, Reference
from ceag_cli.stageoptions import CRITERIA, SCOPES
from ceag_cli.weightsfiles import SUFFIX, other_format, read_metadata

FORMAT = "1"
"""Version of our metadata. A file with another one is refused."""

Found = TypeVar("Found")

STAGES = ("early", "dense", "pruned", "mitigated")

_PATTERN = re.compile(r"[1-9]\d{0,3}:[1-9]\d{0,3}", re.ASCII)


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

    def to_json(self) -> dict[str, Any]:
        """As the metadata has it."""
        return {
            "target": self.target,
            "achieved": self.achieved,
            "scope": self.scope,
            "criterion": self.criterion,
            "pattern": self.pattern,
            "tensors": {name: list(pair) for name, pair in self.tensors.items()},
        }

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
            "ceag.parents": json.dumps({role: asdict(r) for role, r in self.parents.items()}),
        }
        if self.groups is not None:
            metadata["ceag.groups"] = json.dumps(self.groups.to_json())
        if self.sparsity is not None:
            metadata["ceag.sparsity"] = json.dumps(self.sparsity.to_json())
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

        def mapping(key: str) -> dict[str, Any]:
            return strictjson.mapping(strictjson.loads(metadata[key]), key)

        def if_there(key: str, read: Callable[[str], Found]) -> Found | None:
            return read(key) if key in metadata else None

        try:
            return cls(
                stage=strictjson.one_of(metadata["ceag.stage"], "the stage", STAGES),
                version=strictjson.text(metadata["ceag.version"], "the version"),
                versions={
                    strictjson.text(name, "a package"): strictjson.text(version, "a version")
                    for name, version in (if_there("ceag.versions", mapping) or {}).items()
                },
                seed=strictjson.whole(int(metadata["ceag.seed"]), "the seed"),
                recipe=_recipe(strictjson.loads(metadata["ceag.recipe"])),
                parents={
                    strictjson.text(role, "a parent's role"): Reference.from_json(item, role)
                    for role, item in mapping("ceag.parents").items()
                },
                groups=if_there("ceag.groups", lambda k: GroupsReference.from_json(mapping(k))),
                sparsity=if_there("ceag.sparsity", lambda k: SparsityRecord.from_json(mapping(k))),
                eps=if_there(
                    "ceag.eps", lambda k: strictjson.number(float(metadata[k]), "eps", 0, 1)
                ),
                recalibrated=if_there(
                    "ceag.recalibrated",
                    lambda k: strictjson.whole(int(metadata[k]), "recalibrated"),
                ),
            )
        except KeyError as error:
            raise CheckpointError(
                f"{path}: its ceag metadata is damaged: {error} is missing"
            ) from None
        except (ValueError, CeagError) as error:
            raise CheckpointError(f"{path}: its ceag metadata is damaged: {error}") from None


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
