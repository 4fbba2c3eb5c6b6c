"""What is kept with the answers of two models: where they come from, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ceag_cli import strictjson

Check = Callable[[Any, str], object]


def _text(value: Any, what: str) -> None:
    if value is not None:
        strictjson.text(value, what)


def _fraction(value: Any, what: str) -> None:
    if value is not None:
        strictjson.number(value, what, 0, 1)


def _hash(value: Any, what: str) -> None:
    if value is not None:
        strictjson.sha256(value, what)


def _splits(value: Any, what: str) -> None:
    for name, split in strictjson.mapping(value, what).items():
        _text(split, f"{what}, {name}")


def _texts(value: Any, what: str) -> None:
    for item in strictjson.listed(value, what):
        strictjson.text(item, what)


def _duplicates(value: Any, what: str) -> None:
    """Four words each; another version has their number, which the reader of it says."""
    for item in value if isinstance(value, list) else ():
        _texts(item, what)
        if len(item) != 4:
            raise ValueError(f"{what} is {strictjson.shown(item)}, not an image of two splits")


def _models(value: Any, what: str) -> None:
    for name, model in strictjson.mapping(value, what).items():
        _all(_OF_MODEL, model, f"{what}, {name}")


def _data(value: Any, what: str) -> None:
    _all(_OF_DATA, value, what)


def _dataset(value: Any, what: str) -> None:
    if value is None:
        return
    _all(_OF_DATASET, value, what)
    for name in ("name", "root", "splits", "sha256"):  # a report shows them
        if value.get(name) is None:
            raise ValueError(f"{what}: {name} is missing")


_OF_MODEL: dict[str, Check] = {"path": _text, "sha256": _hash}

_OF_DATASET: dict[str, Check] = {
    **dict.fromkeys(("name", "root", "labels", "unlisted", "input_key", "target_key"), _text),
    "left_out": strictjson.whole,
    "splits": _splits,
    "sha256": _hash,
}

_OF_DATA: dict[str, Check] = {
    **dict.fromkeys(("groups_file", "images", "label_column", "groups_by"), _text),
    **dict.fromkeys(("missing", "cluster_id"), _text),
    "dropped": strictjson.whole,
    "duplicates": _duplicates,
    "groups_file_sha256": _hash,
    "dataset": _dataset,
}

_KEYS: dict[str, Check] = {
    **dict.fromkeys(("architecture", "method", "chosen_on"), _text),
    **dict.fromkeys(("sparsity", "eps"), _fraction),
    "models": _models,
    "pairing": _texts,
    "data": _data,
    "keys": strictjson.mapping,
}


def check_about(about: Mapping[str, Any]) -> None:
    """Refuse what no audit has kept with answers.

    Raises:
        ValueError: A value is of another type.
    """
    _all(_KEYS, about, "about")


def _all(checks: Mapping[str, Check], value: Any, what: str) -> None:
    for name, item in strictjson.mapping(value, what).items():
        if name in checks:
            checks[name](item, name)
