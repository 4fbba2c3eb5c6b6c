"""The parts of a data set that the benchmarks train, tune and test on."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "recipes/benchmarks/subset.py"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten train images of each of two classes, in turns, and one test image of each."""
    (tmp_path / "all").mkdir()
    lines = [f"{name}{k},train,{name}" for k in range(10) for name in "ab"]
    lines += ["a-test,test,a", "b-test,test,b"]
    path = tmp_path / "all/labels.csv"
    path.write_text("\n".join(["path,split,label", *lines]) + "\n")
    (tmp_path / "all/images.zip").touch()
    return path


def call(*arguments: object) -> None:
    subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], check=True, timeout=60)


def paths(path: Path, split: str) -> list[str]:
    with path.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file) if row["split"] == split]


@pytest.mark.parametrize(
    ("how_many", "expected"),
    [("2", ["a0", "b0", "a1", "b1"]), ("1/4", ["a0", "b0", "a4", "b4", "a8", "b8"])],
)
def test_a_part_of_train_and_all_of_test(
    source: Path, tmp_path: Path, how_many: str, expected: list[str]
) -> None:
    call(source, tmp_path / "part/labels.csv", "label", how_many)
    assert paths(tmp_path / "part/labels.csv", "train") == expected
    assert paths(tmp_path / "part/labels.csv", "test") == ["a-test", "b-test"]
    assert (tmp_path / "part/images.zip").resolve() == source.with_name("images.zip")
    assert not (tmp_path / "part/unseen.csv").exists()


@pytest.mark.parametrize(
    ("how_many", "train", "tuning", "unseen"),
    [("2+3", "01", "234", "56789"), ("1/3", "0369", "147", "258")],
)
def test_images_to_tune_by_and_images_that_nobody_has_seen(
    source: Path, tmp_path: Path, how_many: str, train: str, tuning: str, unseen: str
) -> None:
    folder = tmp_path / "part"
    call("--held-out", source, folder, "label", how_many)

    def both(numbers: str) -> list[str]:
        return [name + k for k in numbers for name in "ab"]

    assert sorted(path.name for path in folder.iterdir()) == [
        "images.zip",
        "tuning.csv",
        "unseen.csv",
    ]
    for name in ("tuning", "unseen"):
        assert paths(folder / f"{name}.csv", "train") == both(train)
    assert paths(folder / "tuning.csv", "test") == both(tuning)
    assert paths(folder / "unseen.csv", "test") == [*both(unseen), "a-test", "b-test"]


def test_a_long_tail_is_as_rare_as_it_is_said(source: Path, tmp_path: Path) -> None:
    """Of the more frequent class 4 train images, of the other 2; then 2 for val and 3 to test."""
    target = tmp_path / "part/labels.csv"
    call("--long-tail", "2", source, target, "label", "4+2+3")
    train, val, test = (paths(target, split) for split in ("train", "val", "test"))
    counts = {name: sum(path.startswith(name) for path in train) for name in "ab"}
    assert sorted(counts.values()) == [2, 4]
    for name, k in counts.items():
        own = [[p for p in split if p.startswith(name)] for split in (train, val, test)]
        assert own[0] == [f"{name}{i}" for i in range(k)]
        assert own[1] == [f"{name}{i}" for i in range(k, k + 2)]
        # The old test image comes before those of train that are left.
        assert set(own[2]) == {f"{name}-test", f"{name}{k + 2}", f"{name}{k + 3}"}
    assert (tmp_path / "part/images.zip").resolve() == source.with_name("images.zip")
