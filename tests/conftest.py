from __future__ import annotations

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
