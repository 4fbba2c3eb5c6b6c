from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
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


def _watch(patch: pytest.MonkeyPatch, noted: Callable[[list[str]], None]) -> None:
    """Note which models are evaluated, at each pass over a split, by the titles of their bars."""
    from ceag_cli import evaluation, kept  # which take their seconds to be imported

    real = evaluation.evaluate_together

    def watched(models: Mapping[str, Any], *arguments: Any) -> Any:
        noted(list(models))
        return real(models, *arguments)

    patch.setattr(kept, "evaluate_together", watched)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which models are evaluated on which split, one entry per pass over the images."""
    found: list[list[str]] = []
    _watch(monkeypatch, lambda titles: found.append(sorted(titles)))
    return found


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which models are evaluated on test, one entry per pass over the images."""
    found: list[list[str]] = []

    def noted(titles: list[str]) -> None:
        if titles[0].endswith(" on test"):
            found.append([title.removesuffix(" on test") for title in titles])

    _watch(monkeypatch, noted)
    return found
