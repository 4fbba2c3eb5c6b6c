from __future__ import annotations

import shutil
from pathlib import Path

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
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the tests of a file start from, as the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)  # with the times of writing, as cp -p does
    monkeypatch.chdir(folder)
    return folder
