"""Which columns of a table of answers are which, by their names.

docs/predictions.md describes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ceag_cli.errors import LabelsError, nearest
from ceag_cli.headers import (
    PATH_COLUMNS,
    features_of,
    header_problems,
    no_such_column,
    refuse_cluster,
)

OWN = "column:"
"""Before the name of a group column of the .npz whose plain name means something else there."""

ID_COLUMNS = ("id", *PATH_COLUMNS)
MODELS = ("dense", "sparse")
ALIASES = {"dense": "baseline", "sparse": "candidate"}
PROBABILITIES = ("dense_p", "sparse_p", "dense_p_label", "sparse_p_label")
"""Optional columns: the probability of the predicted label, and of the true one."""


@dataclass(frozen=True)
class Roles:
    """Which columns of a file are which."""

    id: str
    label: str
    split: str
    dense: str
    sparse: str
    probabilities: dict[str, str]
    features: list[list[str]]
    """Per feature, the names of its columns (several when crossed)."""
    cluster: str | None
    control: tuple[str, ...]
    header: list[str]

    def where(self, name: str) -> str:
        """The column of the file that a group column is in."""
        return OWN + name if OWN + name in self.header else name

    @property
    def words(self) -> list[str]:
        """Columns that are read as words."""
        parts = [part for parts in self.features for part in parts]
        found = [*parts, *([self.cluster] if self.cluster else []), *self.control]
        own = (self.label, self.split, self.dense, self.sparse)
        return list(dict.fromkeys([*own, *map(self.where, found)]))

    @property
    def numbers(self) -> list[str]:
        """Columns that are read as numbers."""
        return list(self.probabilities.values())

    @classmethod
    def find(
        cls,
        path: Path,
        place: str,
        header: list[str],
        label_column: str,
        groups_by: str | None,
        cluster_id: str | None,
        control: Sequence[str],
    ) -> Roles:
        """Tell the columns of a file apart by their names.

        Raises:
            LabelsError: With every column that is missing, there twice, or named in vain.
        """
        identity = next((name for name in ID_COLUMNS if name in header), "")
        unnamed = None
        if not identity:
            unnamed = (
                f"{place}: needs a column 'id' that names each image"
                f"{nearest('id', header)} (columns: {', '.join(header)})"
            )
        problems = header_problems(place, header, label_column, unnamed)
        found, wrong = _of_models(place, header)
        problems += wrong
        own = [name.removeprefix(OWN) for name in header]
        problems += no_such_column(place, own, cluster_id, control)
        reserved = {*ID_COLUMNS, "split", "label", label_column, cluster_id, *control}
        reserved |= set(found.values())
        others = [name for name in header if name and name not in reserved]
        features, wrong = features_of(place, own, groups_by, others, label_column)
        if groups_by is not None or not problems:
            problems += wrong
        problems += refuse_cluster(path, features, cluster_id)
        if problems:
            raise LabelsError(problems)
        models = {model: found.pop(model) for model in MODELS}
        return cls(
            id=identity,
            label=label_column,
            split="split",
            dense=models["dense"],
            sparse=models["sparse"],
            probabilities=found,
            features=features,
            cluster=cluster_id,
            control=tuple(control),
            header=header,
        )


def _of_models(place: str, header: list[str]) -> tuple[dict[str, str], list[str]]:
    """The columns of answers and probabilities by what they are, and what is wrong with them."""
    found: dict[str, str] = {}
    problems = []
    for name in (*MODELS, *PROBABILITIES):
        other = name
        for model, alias in ALIASES.items():
            other = other.replace(model, alias)
        present = [spelling for spelling in (name, other) if spelling in header]
        if len(present) > 1:
            problems.append(f"{place}: columns '{name}' and '{other}' mean the same")
        elif present:
            found[name] = present[0]
        elif name in MODELS:
            problems.append(
                f"{place}: needs a column '{name}' (or '{other}') with the answers of that "
                f"model{nearest(name, header)} (columns: {', '.join(header)})"
            )
    return found, problems
