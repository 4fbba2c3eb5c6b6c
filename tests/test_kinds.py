from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from toys import ceag

from ceag_cli.kinds import kind_of


def image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, kind)
    return stream.getvalue()


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("images/1.png", b"x")
    return stream.getvalue()


def checkpoint() -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, stream)
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
SAFE = safetensors.torch.save({"w": torch.zeros(3)})

KINDS = {
    "labels.csv": (b"path,label\n1.png,caf\xc3\xa9\n", "is a CSV file"),
    "long.txt": ("é".encode() * 5000, "is text"),
    "odd.txt": (b"x" + "é".encode() * 5000, "is text"),
    "m.pth": (b"these are no weights\n", "is text"),
    "empty.safetensors": (b"", "is empty"),
    "1.png": (image("PNG"), "is an image (PNG)"),
    "1.jpg": (image("JPEG"), "is an image (JPEG)"),
    "1.gif": (image("GIF"), "is an image (GIF)"),
    "1.webp": (image("WEBP"), "is an image (WebP)"),
    "1.tif": (image("TIFF"), "is an image (TIFF)"),
    "images.zip": (archive(), "is a .zip file"),
    "lfs.safetensors": (
        LFS,
        "is a pointer of Git LFS, not the file itself; fetch that with 'git lfs pull'",
    ),
    "renamed.pth": (SAFE, "is a .safetensors file under another name; rename it"),
    "renamed.safetensors": (
        checkpoint(),
        "is a PyTorch checkpoint under another name; rename it to .pth",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_given_for_a_model_is_named(tmp_path: Path, name: str) -> None:
    content, kind = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert kind_of(path) == kind
    message = (
        f"error: {path}: {kind}; wanted are a model's weights: a .safetensors file or a PyTorch "
        "checkpoint (.pth)\n"
    )
    for command in (
        ("info", path),
        ("audit", path),
        ("unpack", path),
        ("prune", path, "--sparsity", "0.5"),
        ("dense", "--checkpoint", path, "--epochs", "0", "-o", tmp_path / "x.safetensors"),
    ):
        result = ceag(*command)
        assert (result.exit_code, result.stderr) == (2, message), command


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.pth", checkpoint()),
        ("m.safetensors", SAFE),
        ("cut.safetensors", SAFE[:-1]),
        ("cut.pth", checkpoint()[:-1]),
        ("m.bin", b"\x80\x02\x8a\n"),
        ("m.bin", b"\xff\xfe\0\0"),
    ],
)
def test_what_may_be_weights_is_left_to_its_reader(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) is None


def test_bytes_of_no_kind_are_named_without_a_riddle(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x65\x00\xff\x01")
    (message,) = ceag("prune", path, "--sparsity", "0.5").stderr.splitlines()
    assert message.startswith(f"error: {path}: ")
    assert message.endswith(("write it anew", "a PyTorch checkpoint (.pth)"))
    assert ": 101" not in message


def test_a_folder_means_the_model_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "error: .: is a folder without model.safetensors; name the weights file in it\n"
    for command in (
        ("info", "."),
        ("pack", "."),
        ("audit", "."),
        ("prune", ".", "--sparsity", "0.5"),
        ("dense", "--checkpoint", ".", "--epochs", "0", "-o", "x.safetensors"),
    ):
        result = ceag(*command)
        assert (result.exit_code, result.stderr) == (2, message), command
    Path("model.safetensors").write_bytes(SAFE)
    assert ceag("info", ".").stdout.startswith("model.safetensors: not written by ceag")
    assert ceag("pack", ".").stdout.startswith("wrote model.packed.safetensors: ")


@pytest.mark.parametrize("name", ["1.png", "images.zip"])
def test_what_is_given_for_the_groups_csv_is_named(tmp_path: Path, name: str) -> None:
    content, kind = KINDS[name]
    (tmp_path / name).write_bytes(content)
    result = ceag("dense", "--model", "test_resnet", "--groups", tmp_path / name)
    assert result.stderr == (
        f"error: {tmp_path / name}: {kind}; wanted is a CSV with one row per image\n"
    )
