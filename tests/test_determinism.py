"""The same command on the same machine writes the same bytes, however it is carried out.

Every command runs twice, in processes with other hash seeds: once as it is, and once with two
processes that decode and a folder of kept pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_interruption import DATA, DENSE, Commands, files
from toys import write_images

from ceag_cli.stageoptions import CRITERIA, METHODS
from ceag_cli.versions import PACKAGES, versions
from ceag_cli.weightsfiles import read_metadata

TRAIN = ("--batch-size", "8", "--lr", "0.01")
PRUNE = ("prune", "../model.safetensors", "--sparsity", "0.8", "-o", "x.safetensors")
MITIGATE = ("mitigate", "../model.pruned.safetensors", "--eps", "0", "--epochs", "2", *TRAIN)
REPORTS = [
    part
    for kind in ("text", "json", "markdown", "github", "junit", "csv", "html")
    for part in ("--report", f"{kind}=report.{kind}")
]

COMMANDS: dict[str, tuple[str, ...]] = {
    "dense": (*DENSE, "-o", "x/"),
    **{f"prune by {name}": (*PRUNE, "--criterion", name, *DATA) for name in CRITERIA},
    "prune gradually": (*PRUNE, *DATA, "--epochs", "2", *TRAIN),
    **{
        f"mitigate by {name}": (*MITIGATE, "--method", name, "-o", "x.safetensors")
        for name in METHODS
        if name not in ("fairgrape", "naive-es")
    },
    "mitigate by naive-es": (
        *MITIGATE,
        *("--method", "naive-es", "--val-share", "0.25", "-o", "x.safetensors"),
    ),
    "mitigate by fairgrape": (
        *("mitigate", "../model.safetensors", "--eps", "0", "--epochs", "2", *TRAIN),
        *("--method", "fairgrape", "--sparsity", "0.8", "--prune-epochs", "1"),
        *("--epochs-between", "1", "-o", "x.safetensors"),
    ),
    "mitigate as published": (
        *("mitigate", "../model.safetensors", "--paper", "--sparsity", "0.8", "--epochs", "2"),
        *("--prune-epochs", "1", "--batch-size", "8", "-o", "x.safetensors"),
    ),
    "audit": ("audit", "../model.pruned.safetensors", "--reevaluate", "-o", "x", *REPORTS),
    "explain": ("explain", "../model.pruned.safetensors", "-o", "x", "--max-iterations", "3"),
    "export": ("export", "../model.pruned.safetensors", *DATA, "-o", "x.onnx"),
}
QUICKLY = ("prune by taylor", "mitigate by ceag", "audit", "explain")
"""In ``make test``; ``make reliability`` has all."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Commands, Commands, Path]]:
    folder = tmp_path_factory.mktemp("determinism")
    write_images(folder)
    one, two = Commands(PYTHONHASHSEED="1"), Commands(PYTHONHASHSEED="2")
    inside = folder / "inside"
    inside.mkdir()
    for command in (
        (*DENSE, "-o", "../model.safetensors"),
        ("prune", "../model.safetensors", "--sparsity", "0.8", "-o", "../model.pruned.safetensors"),
    ):
        answer = one(inside, *command)
        assert answer["code"] == 0, answer["said"]
    yield one, two, folder
    one.close()
    two.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_writes_the_same_bytes(
    both: tuple[Commands, Commands, Path], name: str, request: pytest.FixtureRequest
) -> None:
    if not (request.config.getoption("--thorough") or name in QUICKLY):
        pytest.skip("make reliability")
    one, two, folder = both
    (folder / f"{name} 1").mkdir()
    (folder / f"{name} 2").mkdir()
    allowed = (0, 1, 3) if name == "audit" else (0,)
    first = one(folder / f"{name} 1", *COMMANDS[name], "--workers", "0")
    assert first["code"] in allowed, first["said"]
    others = ("--workers", "2", "--cache", "../pixels")
    second = two(folder / f"{name} 2", *COMMANDS[name], *others)
    assert second["code"] == first["code"], second["said"]
    expected, found = files(folder / f"{name} 1"), files(folder / f"{name} 2")
    assert expected
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []
    # The seed and the versions are in whatever a command has made.
    for path in (folder / f"{name} 1").rglob("*.safetensors"):
        metadata = read_metadata(path)
        assert metadata["ceag.seed"] == "42"
        assert json.loads(metadata["ceag.versions"]) == versions()
    for path in (folder / f"{name} 1" / "x").glob("*.json"):
        if path.name in ("audit.json", "explanation.json"):
            document = json.loads(path.read_text())
            assert document["seed"] == 42
            assert document["versions"] == versions()


def test_versions_are_of_all_that_numbers_come_from() -> None:
    assert set(versions()) == {"python", *PACKAGES}
    assert {"torch", "timm", "numpy", "scipy", "pillow"} <= set(PACKAGES)
