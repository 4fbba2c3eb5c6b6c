"""Prints the lowest version of every dependency that pyproject.toml allows, as constraints for pip.

python tests/lowest.py > constraints.txt
pip install -c constraints.txt -e '.[demo,test]'
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def lowest(requirements: list[str]) -> list[str]:
    """``numpy>=1.26`` becomes ``numpy==1.26``."""
    found = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement)
        if match is not None:
            found.append(f"{match[1]}=={match[2]}")
        elif not requirement.startswith("ceag["):
            raise SystemExit(f"{requirement}: has no lower bound")
    return found


def main() -> None:
    """Print those of the package and of everything that its tests need."""
    path = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = ("demo", "hfds", "onnx", "parquet", "wds", "test")
    wanted = [*project["dependencies"], *(one for name in names for one in extras[name])]
    print("\n".join(dict.fromkeys(lowest(wanted))))


if __name__ == "__main__":
    main()
