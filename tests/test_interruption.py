"""Commands that are killed or told to end, at any moment, and then continued.

Whatever the moment: no file is half there, no finished epoch is lost, nothing is left lying about
at the end, and every file is bit for bit that of a run which nobody has disturbed. ``make
reliability`` does it several hundred times, ``make test`` a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from pyarrow import parquet
from toys import write_images

from ceag_cli.npzfiles import read_npz

HERE = Path(__file__).resolve().parent

COMMON = ("--batch-size", "8", "--workers", "0", "--format", "json")
DATA = ("--groups", "../labels.csv", "--groups-by", "label,group")
MODEL = (
    *("--model", "test_vit", "--img-size", "16"),
    *("--model-kwargs", "patch_size=8,embed_dim=16,depth=1,num_heads=2,drop_rate=0.1"),
)
DENSE = ("dense", *DATA, *MODEL, "--epochs", "3", "--lr", "0.01", *COMMON)

COMMANDS: dict[str, tuple[str, ...]] = {
    "dense": (*DENSE, "--early-epoch", "1", "--model-ema", "-o", "out/"),
    "adopt": ("dense", "--checkpoint", "../model.safetensors", "--epochs", "0", "-o", "out/"),
    "one-shot": ("prune", "../model.safetensors", "--sparsity", "0.8", "-o", "out/"),
    "gradual": (
        *("prune", "../model.safetensors", "--sparsity", "0.8", *DATA, "--epochs", "3"),
        *("--prune-epochs", "2", "--opt", "adamw", *COMMON, "-o", "out/model.safetensors"),
    ),
    "mitigate": (
        *("mitigate", "../model.pruned.safetensors", "--eps", "0", "--epochs", "3", *COMMON),
        *("--min-count", "1", "--buffer", "5", "--dual-lr", "0.1", "--lr", "0.01", "--keep", "val"),
        *("--val-share", "0.25", "-o", "mitigated.safetensors"),
    ),
    "overwrite": (
        *("mitigate", "../model.safetensors", "--sparsity", "0.8", "--prune-epochs", "1"),
        *("--epochs", "2", "--eps", "0", *COMMON, "-o", "old.safetensors", "--overwrite"),
    ),
    "audit": (
        *("audit", "../model.pruned.safetensors", "--eps", "1", "--gate", "point", "-o", "out"),
        *(
            "--workers",
            "0",
            "--reevaluate",
            "--report",
            "junit=audit.xml",
            "--report",
            "csv=audit.csv",
        ),
    ),
    "explain": (
        *("explain", "../model.pruned.safetensors", "--workers", "0", "-o", "out"),
        *("--max-iterations", "3"),
    ),
    "pack": ("pack", "../model.pruned.safetensors", "-o", "packed.safetensors"),
    "unpack": ("unpack", "../packed.safetensors", "-o", "plain.safetensors"),
    "export": ("export", "../model.pruned.safetensors", "-o", "model.onnx"),
    "sweep": ("sweep", "../sweep.yaml", "-o", "swept"),
}
RESUMED = ("dense", "adopt", "one-shot", "gradual", "mitigate", "overwrite")
"""Commands that are continued with ``--resume``; the others are given again as they are."""

SWEEP: dict[str, Any] = {
    "seeds": [1],
    "sparsities": [0.8],
    "dense": {
        "groups": "../labels.csv",
        "groups_by": "label,group",
        "model": "test_vit",
        "img_size": 16,
        "model_kwargs": "patch_size=8,embed_dim=16,depth=1,num_heads=2",
        "epochs": 1,
        "batch_size": 8,
        "workers": 0,
    },
    "mitigate": {"epochs": 1, "batch_size": 8, "workers": 0, "eps": 0.1},
    "methods": {"ceag": {}, "naive": {"method": "naive"}},
}


class Commands:
    """Carries out command lines, and ends them as asked (``crashing``)."""

    def __init__(self, **environment: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "crashing.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, "the process that carries out commands has ended"
        return json.loads(line)

    def __call__(self, folder: Path, *argv: str, **how: Any) -> Any:
        assert self.server.stdin is not None
        asked = {"argv": argv, "cwd": str(folder)} | how
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def run() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


class Whole:
    """Each command carried out once without any disturbance: its files, steps and seconds."""

    def __init__(self, folder: Path, run: Commands) -> None:
        self.folder, self.run = folder, run
        self.found: dict[str, tuple[dict[str, bytes], int, float]] = {}

    def start(self, name: str, trial: str) -> Path:
        """A new folder for a command, with what it begins with."""
        folder = self.folder / f"{name}-{trial}"
        folder.mkdir()
        if name == "overwrite":  # a finished run of other options
            shutil.copy2(self.folder / "old.safetensors", folder)
            shutil.copytree(self.folder / "old.run", folder / "old.run")
        return folder

    def of(self, name: str) -> tuple[dict[str, bytes], int, float]:
        if name not in self.found:
            folder = self.start(name, "whole")
            began = time.monotonic()
            answer = self.run(folder, *COMMANDS[name])
            assert answer["code"] == 0, answer["said"]
            self.found[name] = (files(folder), answer["steps"], time.monotonic() - began)
        return self.found[name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: Commands) -> Whole:
    folder = tmp_path_factory.mktemp("interruption")
    write_images(folder)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    inside = folder / "inside"
    inside.mkdir()  # commands name their inputs from a folder like those of the trials
    for command in (
        (*DENSE, "-o", "../model.safetensors"),
        ("prune", "../model.safetensors", "--sparsity", "0.8", "-o", "../model.pruned.safetensors"),
        ("pack", "../model.pruned.safetensors", "-o", "../packed.safetensors"),
        (*COMMANDS["overwrite"], "--eps", "0.5", "-o", "../old.safetensors"),
    ):
        answer = run(inside, *command)
        assert answer["code"] == 0, answer["said"]
    return Whole(folder, run)


def files(folder: Path) -> dict[str, bytes]:
    """All files but locks, of which a killed process leaves one and which is in nobody's way."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def read(path: Path) -> None:
    """Read a file to its end; an error if it is not whole."""
    text: Callable[[], str] = path.read_text
    if path.name.endswith(".lock"):
        return
    readers: dict[str, Callable[[], Any]] = {
        ".safetensors": lambda: safetensors.torch.load_file(path),
        ".pt": lambda: torch.load(path, weights_only=True),
        ".json": lambda: json.loads(text()),
        ".jsonl": lambda: [json.loads(line) for line in text().splitlines()],
        ".npz": lambda: read_npz(path),
        ".yaml": lambda: yaml.safe_load(text()),
        ".html": lambda: text().rstrip().endswith("</html>") or 1 / 0,
        ".xml": lambda: text().rstrip().endswith("</testsuites>") or 1 / 0,
        ".svg": lambda: text().rstrip().endswith("</svg>") or 1 / 0,
        ".csv": lambda: text().endswith("\n") or 1 / 0,
        ".md": lambda: text().endswith("\n") or 1 / 0,
        ".parquet": lambda: parquet.read_table(path),
        ".onnx": lambda: path.stat().st_size > 1000 or 1 / 0,
    }
    readers[path.suffix]()


def epochs(folder: Path) -> int | None:
    """Finished epochs by the state that a run has left, where it has left one."""
    states = [torch.load(path, weights_only=True) for path in folder.rglob("state.pt")]
    return int(states[0]["epoch"]) if states else None


def look(folder: Path) -> None:
    """Nothing is half there."""
    for path in folder.rglob("*"):
        if path.is_file() and ".tmp-" not in path.name:
            read(path)


def continued(name: str) -> tuple[str, ...]:
    return (*COMMANDS[name], "--resume") if name in RESUMED else again(name)


def again(name: str) -> tuple[str, ...]:
    """Commands that are not continued are given again, and replace what is there."""
    return COMMANDS[name] + (("--overwrite",) if name in ("export", "pack", "unpack") else ())


def check(whole: Whole, run: Commands, name: str, folder: Path, kills: list[dict[str, Any]]) -> int:
    """Kill a command again and again, then let it end; how often it was killed."""
    killed, before = 0, None
    expected = whole.of(name)[0]
    for i, kill in enumerate(kills):
        answer = run(folder, *(continued(name) if i else COMMANDS[name]), **kill)
        assert answer["code"] in (0, -9), answer["said"]
        killed += answer["code"] == -9
        look(folder)
        after = epochs(folder)
        if before is not None and name in RESUMED:  # nothing is lost, unless it is done
            weights = [path for path in expected if path.endswith(".safetensors")]
            assert (
                all((folder / path).read_bytes() == expected[path] for path in weights)
                if after is None
                else after >= before
            )
        before = after
    answer = run(folder, *continued(name))
    assert answer["code"] == 0, answer["said"]
    found = files(folder)
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []
    return killed


# Killed


def step_kills(name: str, steps: int, every: bool) -> list[int]:
    """Steps at which to kill: every one, or three of them that another seed changes."""
    if every:
        return list(range(1, steps + 1))
    return sorted(random.Random(name).sample(range(1, steps + 1), min(2, steps)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_before_it_touches_a_file_can_be_continued(
    whole: Whole, run: Commands, name: str, request: pytest.FixtureRequest, record_property: Any
) -> None:
    steps = whole.of(name)[1]
    assert steps > 3
    chosen = step_kills(name, steps, request.config.getoption("--thorough"))
    killed = 0
    for step in chosen:
        folder = whole.start(name, f"step-{step}")
        killed += check(whole, run, name, folder, [{"at": {str(step): "KILL"}}])
        shutil.rmtree(folder)
    assert killed == len(chosen)
    record_property("killed", killed)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_at_random_moments_can_be_continued(
    whole: Whole, run: Commands, name: str, request: pytest.FixtureRequest, record_property: Any
) -> None:
    """Three times in a row, and the third time perhaps in what continues it."""
    thorough = request.config.getoption("--thorough")
    if not thorough and name not in ("mitigate", "audit"):
        pytest.skip("make reliability")
    seconds, chance = whole.of(name)[2], random.Random(f"{name} 1")
    killed = 0
    for trial in range(12 if thorough else 1):
        folder = whole.start(name, f"random-{trial}")
        kills = [{"seconds": chance.uniform(0, seconds)} for _ in range(3)]
        killed += check(whole, run, name, folder, kills)
        shutil.rmtree(folder)
    record_property("killed", killed)


# Told to end


WHAT_THEN = {
    **dict.fromkeys(RESUMED, "the same command with --resume continues"),
    **dict.fromkeys(COMMANDS.keys() - set(RESUMED), "the same command begins anew"),
    "audit": "there is no verdict; the same command begins anew",
    "sweep": "the same command continues",
}


@pytest.mark.parametrize("signal", ["INT", "TERM"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_told_to_end_says_how_to_continue(
    whole: Whole,
    run: Commands,
    name: str,
    signal: str,
    request: pytest.FixtureRequest,
    record_property: Any,
) -> None:
    thorough = request.config.getoption("--thorough")
    if not thorough and (name, signal) not in {("mitigate", "TERM"), ("audit", "INT")}:
        pytest.skip("make reliability")
    chance, told = random.Random(f"{name} {signal}"), 0
    steps, seconds = whole.of(name)[1:]
    # At a file that is written, and anywhere.
    plans: list[dict[str, Any]] = [{"at": {str(chance.randint(1, steps)): signal}}]
    if thorough:
        plans += [{"signals": [[signal, chance.uniform(0.02, seconds)]]} for _ in range(6)]
    for trial, plan in enumerate(plans):
        folder = whole.start(name, f"{signal}-{trial}")
        answer = run(folder, *COMMANDS[name], **plan)
        if answer["code"] != 0:  # else it was done before
            told += 1
            assert answer["code"] == 130, answer["said"]
            by = "interrupted by SIGTERM" if signal == "TERM" else "interrupted"
            lines = answer["said"].splitlines()
            assert f"{by}; {WHAT_THEN[name]}" in lines or lines == [by]  # before there was any
            assert "Traceback" not in answer["said"]
            assert not list(folder.rglob("*.tmp-*"))
            assert not list(folder.rglob("*.lock"))
        check(whole, run, name, folder, [])
        shutil.rmtree(folder)
    assert told
    record_property("told", told)


def test_a_command_that_is_told_twice_ends_at_once(
    whole: Whole, run: Commands, request: pytest.FixtureRequest
) -> None:
    """The second time while it removes what it was about to write."""
    steps = whole.of("mitigate")[1]
    for step in range(2, steps - 2, 1 if request.config.getoption("--thorough") else 12):
        folder = whole.start("mitigate", f"twice-{step}")
        at = {str(step): "INT", str(step + 1): "INT"}
        answer = run(folder, *COMMANDS["mitigate"], at=at)
        assert answer["code"] == 130
        assert answer["said"].splitlines()[-1].startswith("interrupted")
        assert "Traceback" not in answer["said"]
        check(whole, run, "mitigate", folder, [])
        shutil.rmtree(folder)


# A full disk, a folder that cannot be written


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_finds_no_room_says_so_and_can_be_continued(
    whole: Whole, run: Commands, name: str, request: pytest.FixtureRequest, record_property: Any
) -> None:
    """No file may be larger than some of those that are written."""
    sizes = sorted({len(content) for content in whole.of(name)[0].values()})
    thorough = request.config.getoption("--thorough")
    if not thorough and name not in ("mitigate", "audit"):
        pytest.skip("make reliability")
    limits = [size - 1 for size in sizes if size > 1] if thorough else [sizes[-1] - 1]
    failed = 0
    for limit in limits:
        folder = whole.start(name, f"room-{limit}")
        before = files(folder)
        answer = run(folder, *COMMANDS[name], most=limit)
        assert answer["code"] == 2, answer["said"]
        errors = [line for line in answer["said"].splitlines() if line.startswith("error: ")]
        assert errors, answer["said"]
        # A sweep also says what could not be done for it.
        told = any if name == "sweep" else all
        assert told("cannot be written: " in line for line in errors), answer["said"]
        assert "Traceback" not in answer["said"]
        assert "internal" not in answer["said"]
        look(folder)
        assert not list(folder.rglob("*.tmp-*"))
        assert not list(folder.rglob("*.lock"))
        if name != "overwrite":
            assert {path: files(folder)[path] for path in before} == before
        check(whole, run, name, folder, [])
        shutil.rmtree(folder)
        failed += 1
    record_property("failed", failed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of its own, of a certain kind."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True
        )
        if done.returncode:
            pytest.skip("file systems cannot be mounted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_up_leaves_what_was_there(
    whole: Whole,
    run: Commands,
    small_disk: Callable[[str], Path],
    request: pytest.FixtureRequest,
    record_property: Any,
) -> None:
    if not request.config.getoption("--thorough"):
        pytest.skip("make reliability")
    command = COMMANDS["dense"]
    inputs = 4 * (len(list((whole.folder / "images").iterdir())) + 4)  # a page each, and folders
    needed = sum(len(content) for content in whole.of("dense")[0].values())
    failed = 0
    for kilobytes in range(4, needed // 500, 12):
        disk = small_disk(f"size={inputs + kilobytes}k")
        shutil.copy2(whole.folder / "labels.csv", disk)
        shutil.copytree(whole.folder / "images", disk / "images")
        folder = disk / "dense"
        folder.mkdir()
        answer = run(folder, *command)
        if answer["code"] == 0:
            break
        failed += 1
        assert answer["code"] == 2, answer["said"]
        assert "cannot be written: " in answer["said"]
        assert "No space left on device" in answer["said"]
        look(folder)
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        check(whole, run, "dense", folder, [])
    assert failed > 3
    record_property("failed", failed)


def test_a_folder_that_can_only_be_read_is_named(
    whole: Whole,
    run: Commands,
    small_disk: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> None:
    if not request.config.getoption("--thorough"):
        pytest.skip("make reliability")
    folder = whole.folder / "reading-only"
    folder.mkdir()
    disk = small_disk("ro")
    for name, command in COMMANDS.items():
        place = command.index("-o") + 1
        output = f"{disk}/{command[place]}"
        answer = run(folder, *command[:place], output, *command[place + 1 :])
        assert answer["code"] == 2, (name, answer["said"])
        assert f"{disk}/" in answer["said"]
        assert "Read-only file system" in answer["said"]
        assert "Traceback" not in answer["said"]
    # What was beside it could be written: reports that were asked for by name.
    assert {path.name for path in folder.rglob("*")} <= {"audit.xml", "audit.csv"}
