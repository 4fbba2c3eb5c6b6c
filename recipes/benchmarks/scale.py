"""What grows with what: the statistics of `ceag mitigate` by images and groups, and a large model.

    make bench-scale      # the results are in docs/scaling.md

First: what CEAG keeps and computes beside the model, for simulated images: the statistics of the
dense model, a step with a batch of 128 (push into the buffers, psi, multipliers, weights; median
over the steps of an epoch's beginning), the buffers in memory. Second: a model of timm through
`ceag dense --epochs 0`, `ceag prune` and an epoch of one step of `ceag mitigate` with accumulated
gradients, each command in a process of its own: seconds and peak memory.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from ceag_cli.ceag import ConstrainedExcessAccuracyGap

BATCH, STEPS = 128, 200
SIZES = (
    (10_000, 100),
    (100_000, 100),
    (1_000_000, 100),
    (1_000_000, 10_000),
    (10_000_000, 10_000),
    (10_000_000, 1_000_000),
)
"""Images and groups."""


def statistics_of(images: int, groups: int) -> str:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(groups, (images,), generator=generator)
    right = torch.rand(images, generator=generator) < 0.9
    steps_per_epoch = -(-images // BATCH)
    begun = time.perf_counter()
    method = ConstrainedExcessAccuracyGap.against(
        right, ids, eps=0.02, steps_per_epoch=steps_per_epoch, paired=True
    )
    start = time.perf_counter() - begun
    replay = method.replay
    assert replay is not None
    held = sum(tensor.nbytes for tensor in replay.state_dict().values())
    seconds = []
    for rows in torch.randperm(images, generator=generator)[: STEPS * BATCH].split(BATCH):
        sparse_right = torch.rand(len(rows), generator=generator) < 0.8
        begun = time.perf_counter()
        method(sparse_right, ids[rows], right[rows])
        seconds.append(time.perf_counter() - begun)
    return (
        f"| {images:,} | {groups:,} | {start:.2f} | {1e3 * statistics.median(seconds):.2f} | "
        f"{held / 1e6:.1f} |"
    )


def write_images(folder: Path, count: int, size: int) -> Path:
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        for i in range(count):
            small = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
            name = f"images/{i}.jpg"
            Image.fromarray(small).resize((size, size)).save(folder / name)
            writer.writerow([name, str(i % 2), "train", f"group {i // 2 % 2}"])
    return path


def timed(name: str, folder: Path, *arguments: str) -> None:
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ceag_cli", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(said)
    print(f"| {name} | {seconds:.0f} | {usage.ru_maxrss / 2**20:.1f} |", flush=True)


def large_model(model: str, images: int, batch: int, accumulated: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, images, 256)
        grown = timm.create_model(model, num_classes=2)
        print(f"{sum(p.numel() for p in grown.parameters()):,} parameters", file=sys.stderr)
        data = ("--groups", "labels.csv", "--groups-by", "group", "--workers", "0")
        save_file(grown.state_dict(), folder / "weights.safetensors")
        weights = ("--model", model, "--checkpoint", "weights.safetensors", "--epochs", "0")
        timed("adopt (`dense --epochs 0`)", folder, "dense", *data, *weights)
        timed("prune, 90 %", folder, "prune", "model.safetensors", "--sparsity", "0.9")
        options = ("--batch-size", str(batch), "--grad-accum-steps", str(accumulated))
        training = ("--epochs", "1", "--lr", "0.001", *options)
        for words, given in (
            ("mitigate, the default", ()),
            (
                "mitigate, on train from the labels alone",
                ("--measure", "matched", "--distill", "0"),
            ),
            ("mitigate, the default, --amp", ("--amp",)),
        ):
            timed(words, folder, "mitigate", *data, *training, *given, "--overwrite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_large_patch16_224")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulated", type=int, default=4)
    arguments = parser.parse_args()
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    )
    print("| images | groups | dense statistics, s | a step, ms | buffers, MB |")
    print("|---" * 5 + "|")
    for images, groups in SIZES:
        print(statistics_of(images, groups), flush=True)
    steps = f"{arguments.images} images, batch {arguments.batch_size} x {arguments.accumulated}"
    print(f"\n| {arguments.model}, {steps} | seconds | peak GiB |\n|---|---|---|")
    large_model(arguments.model, arguments.images, arguments.batch_size, arguments.accumulated)


if __name__ == "__main__":
    main()
