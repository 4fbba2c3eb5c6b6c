from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from toys import TINY, ceag, done, folder_with

from ceag_cli.errors import OutputError
from ceag_cli.locks import claimed
from ceag_cli.progress import Quiet

REPOSITORY = Path(__file__).resolve().parent.parent


class Hearing(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@contextmanager
def another_run(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has claimed something, and a child of its own, as those that decode are."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from ceag_cli.locks import claimed\n"
        "from ceag_cli.progress import Quiet\n"
        "with claimed(Path(sys.argv[1]), 'wait', Quiet()):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        print(child, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def claim(path: Path, reporter: Any = None) -> None:
    with claimed(path, "wait for it", reporter or Quiet()):
        assert path.exists()


def test_nothing_is_left_of_a_claim(tmp_path: Path) -> None:
    claim(tmp_path / "new" / "run.lock")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    claim(tmp_path / "old" / "run.lock")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["file"]


def test_nothing_is_left_of_a_claim_that_ends_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "a" / "x.lock", "wait", Quiet()):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    claim(tmp_path / "a" / "x.lock")


def test_what_another_process_has_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "m.run" / "run.lock"
    with another_run(path) as process:
        expected = rf"m\.run: another run \(process {process.pid} on .*, begun .*\) writes there"
        with pytest.raises(OutputError, match=expected):
            claim(path)
        assert path.exists()


def test_a_killed_run_holds_nothing_though_its_children_live(tmp_path: Path) -> None:
    path = tmp_path / "m.run" / "run.lock"
    with another_run(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert path.exists()
        claim(path)
        assert not path.exists()


def test_a_process_does_not_claim_twice(tmp_path: Path) -> None:
    """Its own locks would not stop it."""
    path = tmp_path / "m.run" / "run.lock"
    with claimed(path, "wait", Quiet()):
        (tmp_path / "link").symlink_to(tmp_path / "m.run")
        with pytest.raises(OutputError, match="another run of this process writes there; wait"):
            claim(tmp_path / "link" / "run.lock")
    claim(path)


def test_where_there_are_no_locks_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    hearing = Hearing()
    claim(tmp_path / "m.run" / "run.lock", hearing)
    assert hearing.said == [
        f"{tmp_path / 'm.run'}: files cannot be locked there; make sure that no other run writes "
        "to it"
    ]


# The commands


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with(
        tmp_path_factory,
        ("dense", "--groups", "labels.csv", *TINY, "--epochs", "1"),
        ("prune", "model.safetensors", "--sparsity", "0.5"),
    )


COMMANDS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "dense": (
        ("dense", "--groups", "labels.csv", *TINY, "--epochs", "1", "--overwrite"),
        "model.run/run.lock",
        "wait until it has written model.safetensors, or write elsewhere with -o",
    ),
    "prune": (
        ("prune", "model.safetensors", "--sparsity", "0.5", "--resume"),
        "model.pruned.run/run.lock",
        "wait until it has written model.pruned.safetensors, or write elsewhere with -o",
    ),
    "mitigate": (
        ("mitigate", "model.pruned.safetensors", "--workers", "0"),
        "model.mitigated.run/run.lock",
        "wait until it has written model.mitigated.safetensors, or write elsewhere with -o",
    ),
    "audit": (
        ("audit", "model.pruned.safetensors", "--workers", "0"),
        "model.pruned.run/audit.lock",
        "wait for it, or name another folder with -o",
    ),
    "explain": (
        ("explain", "model.pruned.safetensors", "--workers", "0"),
        "model.pruned.run/explanation.lock",
        "wait for it, or name another folder with -o",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_two_runs_that_would_write_the_same_files_do_not_mix(
    prepared: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    command, lock, remedy = COMMANDS[name]
    before = {path: path.read_bytes() for path in prepared.rglob("*.*") if path.is_file()}
    with another_run(Path(lock)) as process:
        result = ceag(*command)
        assert result.exit_code == 2
        error = result.stderr.splitlines()[-1]
        place = lock.rpartition("/")[0]
        assert error.startswith(f"error: {place}: another run (process {process.pid} on ")
        assert error.endswith(f") writes there; {remedy}")
        after = {path: path.read_bytes() for path in prepared.rglob("*.*") if path.is_file()}
        assert after.keys() - before.keys() == {prepared / lock}
        assert {path: after[path] for path in before} == before
    (prepared / lock).unlink()


def test_a_dry_run_waits_for_nobody(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    with another_run(Path("model.pruned.run/run.lock")):
        done("prune", "model.safetensors", "--sparsity", "0.5", "--dry-run")
