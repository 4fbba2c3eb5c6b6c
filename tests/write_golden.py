"""Writes the golden files of a version, which later versions have to read.

    python tests/write_golden.py tests/golden/0.1.0

One file of every kind that ceag writes and reads again, of 36 coloured images (``toys``) and a
vision transformer of one layer. Its weights are set here, so that what is in the files can be told
without having made them: the i-th weight of a tensor is ``((37 i) mod 101 - 50) / 256``.

Golden files are written once, for a version that is released, and never again: those of the present
version are written anew only if a format has changed before it was.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch
from test_runs import stopping_after
from toys import ceag, done, write_images

from ceag_cli.weightsfiles import read_metadata

TRAINED = (
    *("dense", "--groups", "labels.csv", "--model", "test_vit", "--img-size", "16"),
    *("--model-kwargs", "patch_size=8,embed_dim=8,depth=1,num_heads=2", "--epochs", "1"),
    *("--batch-size", "8", "--workers", "0", "-o", "trained.safetensors"),
)
MITIGATE = (
    *("mitigate", "model.pruned.safetensors", "--eps", "0.05", "--epochs", "2"),
    *("--batch-size", "8", "--workers", "0"),
)
"""The run that is interrupted after its first epoch."""


def with_known_weights(path: Path, other: Path) -> None:
    """Write a model once more, with numbers that anybody can tell."""
    known = {
        name: ((37 * torch.arange(tensor.numel()) % 101 - 50) / 256).reshape(tensor.shape).clone()
        for name, tensor in safetensors.torch.load_file(path).items()
    }
    safetensors.torch.save_file(known, other, metadata=read_metadata(path))


def write(folder: Path) -> None:
    """Write all of them."""
    os.chdir(folder)
    write_images(Path())
    done(*TRAINED)
    with_known_weights(Path("trained.safetensors"), Path("known.safetensors"))
    adopted = ("dense", "--checkpoint", "known.safetensors", "--epochs", "0", "--seed", "7")
    done(*adopted, "--groups", "labels.csv", "--workers", "0")
    done("prune", "model.safetensors", "--sparsity", "0.5", "--seed", "7")
    done("pack", "model.pruned.safetensors")
    done("audit", "model.pruned.safetensors", "--eps", "1", "--gate", "point", "--workers", "0")
    done("explain", "model.pruned.safetensors", "--workers", "0", "--max-iterations", "2")
    with stopping_after(1):
        assert ceag(*MITIGATE).exit_code == 130
    shutil.rmtree("images")
    shutil.rmtree("trained.run")
    for name in ("known.safetensors", "trained.safetensors", "labels.csv"):
        Path(name).unlink()
    for page in Path().rglob("*.html"):
        page.unlink()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    write(target)
