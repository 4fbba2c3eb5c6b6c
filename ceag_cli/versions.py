"""The versions that a result depends on, to be written with it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version

PACKAGES = ("ceag", "torch", "torchvision", "timm", "numpy", "scipy", "pillow", "safetensors")


@cache
def versions() -> dict[str, str]:
    """Of the packages that numbers or files come from and of Python, by name."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def changed_since(before: Mapping[str, str]) -> list[str]:
    """What is of another version now, one sentence each."""
    return [
        f"{name} was {before.get(name, 'not known')} and is {now}"
        for name, now in versions().items()
        if before.get(name) != now
    ]
