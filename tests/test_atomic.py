from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ceag_cli import atomic
from ceag_cli.atomic import MARK, replacing, temporary_beside, write_text
from ceag_cli.errors import OutputError

REPOSITORY = Path(__file__).resolve().parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writing(path: Path) -> subprocess.Popen[str]:
    """A process that has written half of a file and waits; it has said so."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from ceag_cli.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_the_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_content_and_name_are_on_the_disk_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(number: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{number}") else "content")
        real_sync(number)

    def replace(source: Path, target: Path) -> None:
        done.append("name")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_text(tmp_path / "a.txt", "x")
    assert done == ["content", "name", "folder"]


def test_what_a_killed_process_leaves_behind_goes_with_the_next_writing(tmp_path: Path) -> None:
    path = tmp_path / "a[1].txt"  # a pattern by accident
    process = writing(path)
    kill(process)
    (left,) = names(tmp_path)
    assert left.startswith(f".a[1].txt{MARK}")
    other = tmp_path / f".b.txt{MARK}0"
    other.touch()
    write_text(path, "whole")
    assert names(tmp_path) == [other.name, "a[1].txt"]
    assert path.read_text() == "whole"


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    process = writing(path)
    try:
        write_text(path, "whole")
        assert len(names(tmp_path)) == 2
    finally:
        kill(process)
    assert path.read_text() == "whole"


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> bool:
        raise OSError("no locks available")

    monkeypatch.setattr(atomic, "lock", none)
    left = temporary_beside(tmp_path / "a.txt")
    left.touch()
    write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == [left.name, "a.txt"]


def test_temporary_names_are_never_those_of_another_process(tmp_path: Path) -> None:
    """Process numbers are, on machines that share a folder."""
    assert len({temporary_beside(tmp_path / "a.txt") for _ in range(1000)}) == 1000


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/a\.txt: cannot be written: "):
        write_text(tmp_path / "file" / "a.txt", "x")
