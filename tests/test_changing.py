"""Files that change or go away under a running command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import TINY, ceag, done, folder_with

from ceag_cli import checkpoints, images, kept
from ceag_cli.contents import Stretches
from ceag_cli.evaluation import evaluate_together
from ceag_cli.pixels import PixelCache
from ceag_cli.progress import Quiet
from ceag_cli.runs import Run
from ceag_cli.stores import Zip
from ceag_cli.weightsfiles import identity_of, read_metadata

DENSE = ("dense", "--groups", "labels.csv", *TINY, "--epochs", "3", "-o", "x.safetensors")
AUDIT = ("audit", "model.pruned.safetensors", "--eps", "1", "--gate", "point", "--workers", "0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with(
        tmp_path_factory,
        ("dense", "--groups", "labels.csv", *TINY, "--epochs", "1"),
        ("prune", "model.safetensors", "--sparsity", "0.5"),
    )


def after_epoch(epoch: int, action: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Do something to files while a command trains."""
    save = Run.save_state

    def save_and_act(self: Run, state: dict[str, Any], log: list[dict[str, Any]]) -> None:
        save(self, state, log)
        if state["epoch"] == epoch:
            action()

    patch.setattr(Run, "save_state", save_and_act)


def test_images_that_vanish_are_named_and_the_run_goes_on_when_they_are_back(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(*DENSE, "-o", "whole.safetensors")
    monkeypatch.setattr(images, "KEPT_IN_MEMORY", 0)
    with monkeypatch.context() as patch:
        after_epoch(1, lambda: Path("images").rename("elsewhere"), patch)
        result = ceag(*DENSE)
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 21  # twenty of 24, and how many more
    assert errors[0].startswith("error: labels.csv row ")
    assert "cannot be read: " in errors[0]
    assert "No such file or directory" in errors[0]
    assert errors[-1] == "error: and 4 more images that cannot be read"
    assert not Path("x.safetensors").exists()
    Path("elsewhere").rename("images")
    assert "continuing after epoch 1 of 3" in done(*DENSE, "--resume").stderr
    assert Path("x.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


def test_a_csv_that_changes_meanwhile_is_named_as_it_was_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = Path("labels.csv")
    digest = hashlib.sha256(csv.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        after_epoch(1, lambda: csv.write_text("nonsense"), patch)
        done(*DENSE)
    assert json.loads(read_metadata(Path("x.safetensors"))["ceag.groups"])["sha256"] == digest


@pytest.mark.parametrize("how", ["written over", "replaced"])
def test_a_model_that_changes_while_it_is_read_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its weights would be of one file, and the hash that stands for them of another."""
    path, other = Path("model.safetensors"), Path("other.safetensors")
    shutil.copy2(path, other)
    real = identity_of

    def change(asked: Path) -> str:
        if how == "replaced":
            os.replace(other, path)
        else:
            with path.open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\0\0\0\0")
            os.utime(path, ns=(0, 0))
        return real(asked)

    monkeypatch.setattr(checkpoints, "identity_of", change)
    result = ceag("prune", "model.safetensors", "--sparsity", "0.9", "-o", "y.safetensors")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: model.safetensors: was changed while it was read; start again when it is done"
    )
    assert not Path("y.safetensors").exists()


@pytest.mark.parametrize("change", ["touched", "removed"])
def test_images_that_change_under_an_audit_are_no_ground_for_a_verdict(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    real = evaluate_together

    def evaluate(*arguments: Any) -> Any:
        found = real(*arguments)
        image = Path("images/30.png")
        if change == "touched":
            Image.new("RGB", (16, 16)).save(image)
        elif arguments[1].name == "test":  # which it is in
            image.unlink()
        return found

    monkeypatch.setattr(kept, "evaluate_together", evaluate)
    result = ceag(*AUDIT)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith(
        "images were changed while the models looked at them; start again when nothing writes there"
    )
    assert not Path("model.pruned.run/audit.json").exists()
    assert not Path("model.pruned.run/predictions.npz").exists()


def archive(path: Path, colour: int) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", bytes([colour]) * 100)


def test_a_zip_that_is_replaced_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", 1)
    store = Zip(tmp_path / "a.zip")
    archive(tmp_path / "a.zip", 2)
    with pytest.raises(OSError, match=r"a\.zip was replaced by another \.zip while it was read"):
        store.read("a.png")


def test_a_tar_that_is_written_over_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    (tmp_path / "a.png").write_bytes(b"a" * 100)
    with tarfile.open(path, "w") as file:
        file.add(tmp_path / "a.png", "a.png")
    with tarfile.open(path) as file:
        begin = file.getmember("a.png").offset_data
    one = np.array([0])
    stretches = Stretches([str(path)], one, np.array([begin]), np.array([100]))
    assert stretches.read(0) == b"a" * 100
    os.utime(path, ns=(0, 0))
    with pytest.raises(OSError, match=r"a\.tar was changed while it was read"):
        stretches.read(0)


def test_kept_pixels_that_are_cut_short_are_decoded_anew(tmp_path: Path) -> None:
    """The system ends a process that looks at a mapped file beyond its end."""
    cache = PixelCache(tmp_path, 10**9, Quiet())
    pixels = torch.arange(24 * 3 * 4 * 4, dtype=torch.int64).remainder(251).to(torch.uint8)
    decoded = pixels.reshape(24, 3, 4, 4)
    found = cache.open("ab" * 32, (24, 3, 4, 4), lambda: iter([decoded]))
    assert found is not None
    taken, damaged = found.take(torch.arange(24))
    assert (damaged, torch.equal(taken, decoded)) == ([], True)
    (path,) = tmp_path.glob("*.npy")
    os.truncate(path, 128 + 10 * 48)
    taken, damaged = found.take(torch.tensor([3, 10, 9, 23]))
    assert damaged == [1, 3]
    assert torch.equal(taken[[0, 2]], decoded[[3, 9]])
