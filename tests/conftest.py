from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-family",
        action="store_true",
        help="prune a model of every family of timm instead of a few (make families)",
    )
    parser.addoption(
        "--follow-docs",
        action="store_true",
        help="run the commands of the tutorial and of the pages after it (make docs-test)",
    )
    parser.addoption(
        "--thorough",
        action="store_true",
        help="kill and disturb commands hundreds of times instead of a few (make reliability)",
    )


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder as the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the tests of a file start from, as the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)  # with the times of writing, as cp -p does
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which models are evaluated on test, one entry per pass over the images."""
    from ceag_cli import evaluation, kept  # which take their seconds to be imported

    real = evaluation.evaluate_together
    passes: list[list[str]] = []

    def watched(models: Mapping[str, Any], split: Any, *arguments: Any) -> Any:
        if split.name == "test":
            passes.append([title.removesuffix(" on test") for title in models])
        return real(models, split, *arguments)

    monkeypatch.setattr(kept, "evaluate_together", watched)
    return passes
