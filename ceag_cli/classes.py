"""Classes: which output of a model stands for which label of the CSV. Never a guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ceag_cli import strictjson
from ceag_cli.errors import OptionError

MOST_BYTES = 1 << 24
"""Of a class map."""


def class_order(labels: Iterable[str]) -> list[str]:
    """Names of the classes in the order of the model's outputs.

    Whole numbers are sorted as numbers (2 before 10), everything else as text.
    """
    names = set(labels)
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def read_class_map(path: Path) -> dict[str, int]:
    """Names of a model's outputs: a .txt with one name a line, or a .json of name to index.

    Raises:
        OptionError: The file cannot be read as either.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise OptionError(f"--class-map {path}: has more than {MOST_BYTES >> 20} MB")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--class-map {path}: cannot be read: {error}") from None
    if path.suffix != ".json":
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if len(set(names)) < len(names):
            raise OptionError(f"--class-map {path}: a name is given twice")
        return {name: index for index, name in enumerate(names)}
    try:
        found = strictjson.mapping(strictjson.loads(text), "it")
        return {name: _index(value) for name, value in found.items()}
    except ValueError as error:
        raise OptionError(f"--class-map {path}: expected JSON {{name: index}}: {error}") from None


def _index(value: Any) -> int:
    """A number that may be written as a word."""
    return strictjson.whole(int(value) if isinstance(value, str) else value, "an index")


def ordered_names(path: Path) -> list[str]:
    """Names of all outputs of a class map, in order.

    Raises:
        OptionError: The map does not name every output from 0 on exactly once.
    """
    mapping = read_class_map(path)
    names = sorted(mapping, key=lambda name: mapping[name])
    if [mapping[name] for name in names] != list(range(len(names))):
        raise OptionError(f"--class-map {path}: must name every output from 0 on exactly once")
    return names


def class_index(
    label_names: Sequence[str] | None, class_map: str | None, num_classes: int
) -> dict[str, int]:
    """Output of the model for each label of the CSV.

    From ``--class-map``, else the model's own label names; a model without names takes the whole
    numbers from 0 to its number of outputs less one.

    Raises:
        OptionError: The class map names an output that the model has not.
    """
    if class_map is not None:
        mapping = read_class_map(Path(class_map))
        beyond = {name: i for name, i in mapping.items() if not 0 <= i < num_classes}
        if beyond:
            name, index = next(iter(beyond.items()))
            raise OptionError(
                f"--class-map {class_map}: '{name}' is output {index}, the model has outputs 0 to "
                f"{num_classes - 1}"
            )
        return mapping
    names = label_names if label_names is not None else [str(i) for i in range(num_classes)]
    return {name: index for index, name in enumerate(names)}
