"""References in docstrings as names: ``:func:`scores.taylor``` becomes ```taylor```."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Called by mkdocstrings for everything that it reads."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change an object's docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r":[a-z]+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text)
