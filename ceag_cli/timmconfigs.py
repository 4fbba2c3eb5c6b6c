"""timm's configuration as a file has it, checked before a model is made of it.

It stands in the metadata of weights, or in ``config.json`` beside them, whoever wrote that. timm
would load further files that it names, from a disk or a network, and build what it asks for at any
size. So what says where weights come from is left out, and the rest has to be of the type and size
that it should be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ceag_cli import strictjson
from ceag_cli.errors import CheckpointError

TimmConfig = dict[str, Any]

MOST_OF_A_SIDE = 4096
"""Pixels of an image, high or wide, that a file may make the input of a model."""
MOST_CLASSES = 10_000_000

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")

NOT_OF_A_MODEL = (
    *("checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("pretrained_strict", "pretrained_filter_fn", "pretrained_custom_load"),
    *("pretrained_model_args", "scriptable", "exportable", "no_jit", "features_only"),
    *("feature_cfg", "device", "dtype"),
)
"""Arguments that timm takes for something else than the model: to read files, for one."""

_NAME = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_.-]{1,100})?", re.ASCII)


def is_name(architecture: str) -> bool:
    """Whether a name can be one of timm's own: no folder, no repository."""
    return _NAME.fullmatch(architecture) is not None


def checked_config(content: str | bytes, place: str) -> TimmConfig:
    """The configuration that JSON holds.

    Args:
        content: The JSON.
        place: Where it stands, for the message.

    Raises:
        CheckpointError: It is none.
    """
    try:
        config = strictjson.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{place}: not valid JSON: {error}") from None
    try:
        return _checked(config)
    except ValueError as error:
        raise CheckpointError(f"{place}: not a timm configuration: {error}") from None


def _checked(content: Any) -> TimmConfig:
    config = dict(strictjson.mapping(content, "it"))
    if "architecture" in config:
        name = strictjson.text(config["architecture"], "the architecture")
        if not is_name(name):
            raise ValueError(f"the architecture is '{name}', not a model of timm")
    if config.get("num_classes") is not None:
        strictjson.whole(config["num_classes"], "num_classes", MOST_CLASSES)
    arguments = strictjson.mapping(config.get("model_args") or {}, "model_args")
    refuse_arguments(arguments)
    classes = config.get("num_classes")
    if classes is not None and arguments.get("num_classes", classes) != classes:
        raise ValueError(f"num_classes is {classes}, and in model_args another")
    _bounded(arguments, "model_args")
    inner = strictjson.mapping(config.get("pretrained_cfg") or {}, "pretrained_cfg")
    config["pretrained_cfg"] = _of_pretrained(inner)
    if config.get("label_names") is not None:
        _names(config["label_names"], "label_names")
    return config


def refuse_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that are not about the model itself.

    Raises:
        ValueError: There is one.
    """
    for name in NOT_OF_A_MODEL:
        if name in arguments:
            raise ValueError(f"'{name}' is no argument of a model")


def _bounded(value: Any, what: str) -> None:
    """Whole numbers in arguments are sizes and counts."""
    if isinstance(value, dict):
        for name, item in value.items():
            most = MOST_OF_A_SIDE if name in ("img_size", "input_size") else MOST_CLASSES
            _bounded_by(item, f"{what}, {name}", most)
    else:
        _bounded_by(value, what, MOST_CLASSES)


def _bounded_by(value: Any, what: str, most: int) -> None:
    if isinstance(value, (int, float)) and not -most <= value <= most:
        raise ValueError(f"{what} is {strictjson.shown(value)}")
    if isinstance(value, dict):
        _bounded(value, what)
    for item in value if isinstance(value, list) else ():
        _bounded_by(item, what, most)


def _size(value: Any, what: str) -> None:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"{what} is {strictjson.shown(value)}, not channels, height and width")
    for item in value:
        if strictjson.whole(item, what, MOST_OF_A_SIDE) == 0:
            raise ValueError(f"{what} is {strictjson.shown(value)}")


def _crop(value: Any, what: str) -> None:
    strictjson.number(value, what, 0.05, 1)


def _numbers(low: float) -> Callable[[Any, str], None]:
    def check(value: Any, what: str) -> None:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{what} is {strictjson.shown(value)}, not a list of numbers")
        for item in value:
            strictjson.number(item, what, low, 1e6)

    return check


def _layers(value: Any, what: str) -> None:
    for item in value if isinstance(value, list) else [value]:
        strictjson.text(item, what)


def _names(value: Any, what: str) -> None:
    """Names of all outputs: a list, or by number."""
    items = value
    if isinstance(value, dict):
        numbers = sorted(strictjson.whole(_as_number(key), what) for key in value)
        if numbers != list(range(len(value))):
            raise ValueError(f"{what} does not name every output from 0 on")
        items = list(value.values())
    if not isinstance(items, list):
        raise ValueError(f"{what} is {strictjson.shown(value)}, not a list of names")
    for item in items:
        strictjson.text(item if isinstance(item, str) else str(item), what)


def _as_number(key: str) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 9:
        raise ValueError(f"'{key[:40]}' is not the number of an output")
    return int(key)


def _choice(known: tuple[str, ...]) -> Callable[[Any, str], None]:
    def check(value: Any, what: str) -> None:
        strictjson.one_of(value, what, known)

    return check


def _flag(value: Any, what: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {strictjson.shown(value)}, not true or false")


def _classes(value: Any, what: str) -> None:
    strictjson.whole(value, what, MOST_CLASSES)


def _pool(value: Any, what: str) -> None:
    for item in value if isinstance(value, list) else [value]:
        strictjson.whole(item, what, MOST_OF_A_SIDE)


def _anything(value: Any, what: str) -> None:
    """What nothing is made of, as a licence."""


_KEYS: dict[str, Callable[[Any, str], None]] = {
    **dict.fromkeys(("input_size", "test_input_size", "min_input_size"), _size),
    **dict.fromkeys(("crop_pct", "test_crop_pct"), _crop),
    **dict.fromkeys(("pool_size", "test_pool_size"), _pool),
    **dict.fromkeys(("first_conv", "classifier"), _layers),
    **dict.fromkeys(("tag", "license", "description", "origin_url"), _anything),
    **dict.fromkeys(("paper_name", "paper_ids", "notes"), _anything),
    "fixed_input_size": _flag,
    "interpolation": _choice(INTERPOLATIONS),
    "crop_mode": _choice(CROP_MODES),
    "mean": _numbers(-1e6),
    "std": _numbers(1e-9),
    "num_classes": _classes,
    "label_offset": _classes,
    "label_names": _names,
    "label_descriptions": _anything,
}
"""What is taken over from ``pretrained_cfg``, and how it is checked."""


def _of_pretrained(found: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in found.items() if name in _KEYS and value is not None}
    for name, value in kept.items():
        _KEYS[name](value, name)
    return kept
