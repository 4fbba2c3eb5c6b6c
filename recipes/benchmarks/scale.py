"""What grows with what: images, groups, parameters.

    make bench-scale      # the results are in docs/scaling.md

Simulated images: what CEAG keeps and computes beside the model (the statistics of the dense model,
a step with a batch of 128 – push into the buffers, psi, multipliers, weights; median over the first
200 steps – and the buffers in memory), then an audit's intervals and verdicts from answers in
memory. ViTs of timm: `ceag dense --epochs 0`, `ceag prune` and, up to ViT-L, an epoch of one step
of `ceag mitigate` with accumulated gradients, each command in a process of its own: seconds and
peak memory. Every size has a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
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
from torch import Tensor

from ceag_cli.audit import audit
from ceag_cli.ceag import ConstrainedExcessAccuracyGap
from ceag_cli.groups import Grouping
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy

BATCH, STEPS = 128, 200
SIZES = (
    (100_000, 100),
    (1_000_000, 100),
    (1_000_000, 10_000),
    (10_000_000, 10_000),
    (10_000_000, 1_000_000),
    (14_197_122, 21_841),
    (100_000_000, 21_841),
)
"""Images and groups; last but one those of ImageNet-21k and its classes."""
PRUNED = ("vit_tiny_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224")
PRUNED += ("vit_huge_patch14_224", "vit_giant_patch14_224")
MITIGATED = PRUNED[:3]


def drawn(images: int, groups: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Groups of simulated images, and where the dense model is right."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(groups, (images,), generator=generator)
    return ids, torch.rand(images, generator=generator) < 0.9, generator


def constrained(images: int, groups: int) -> str:
    """What `ceag mitigate` does beside the model."""
    ids, right, generator = drawn(images, groups)
    begun = time.perf_counter()
    method = ConstrainedExcessAccuracyGap.against(
        right, ids, eps=0.02, steps_per_epoch=-(-images // BATCH), paired=True
    )
    start = time.perf_counter() - begun
    replay = method.replay
    assert replay is not None
    held = sum(tensor.nbytes for tensor in replay.state_dict().values())
    seconds = []
    for rows in torch.randint(images, (STEPS, BATCH), generator=generator):
        sparse_right = torch.rand(len(rows), generator=generator) < 0.8
        begun = time.perf_counter()
        method(sparse_right, ids[rows], right[rows])
        seconds.append(time.perf_counter() - begun)
    return f"{start:.2f} | {1e3 * statistics.median(seconds):.2f} | {held / 1e6:.1f}"


def audited(images: int, groups: int) -> str:
    """What `ceag audit` does once it has the answers of both models."""
    ids, dense, generator = drawn(images, groups)
    changed = torch.rand(images, generator=generator) < 0.06
    pair = Paired("test", dense, dense ^ changed, ids[:, None], changed)
    grouping = Grouping(("group",), (tuple(map(str, range(groups))),))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    audit([pair], grouping, Policy())
    seconds = time.perf_counter() - begun
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return f"{seconds:.2f} | {more / 1e6:.2f}"


TASKS = {"constrained": constrained, "audited": audited}


def simulated(task: str, columns: str) -> None:
    print(f"\n| images | groups | {columns} |\n|{'---|' * (3 + columns.count('|'))}")
    for images, groups in SIZES:
        command = [sys.executable, __file__, "--task", task, str(images), str(groups)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(f"| {images:,} | {groups:,} | {done.stdout.strip()} |", flush=True)


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


def timed(folder: Path, *arguments: str) -> str:
    """Seconds and peak memory of a command."""
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
    return f"{seconds:.0f} s, {usage.ru_maxrss / 2**20:.1f} GiB"


def models(names: list[str], images: int, batch: int, accumulated: int) -> None:
    print(f"\n{images} images of 224 by 224, one step of {accumulated} batches of {batch}:\n")
    columns = ("model", "parameters", "adopt", "prune", "mitigate", "on train", "with --amp")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            cells = commands(name, Path(folder), images, batch, accumulated)
            print(f"| {' | '.join(cells)} |", flush=True)


def commands(name: str, folder: Path, images: int, batch: int, accumulated: int) -> list[str]:
    """A model through the commands: adopt, prune, mitigate in three ways."""
    write_images(folder, images, 256)
    grown = timm.create_model(name, num_classes=2)
    size = sum(parameter.numel() for parameter in grown.parameters())
    save_file(grown.state_dict(), folder / "weights.safetensors")
    del grown
    data = ("--groups", "labels.csv", "--groups-by", "group", "--workers", "0")
    weights = ("--model", name, "--checkpoint", "weights.safetensors", "--epochs", "0")
    cells = [name, f"{size:,}", timed(folder, "dense", *data, *weights)]
    cells.append(timed(folder, "prune", "model.safetensors", "--sparsity", "0.9"))
    if name not in MITIGATED:
        return [*cells, "", "", ""]
    steps = ("--batch-size", str(batch), "--grad-accum-steps", str(accumulated))
    for more in ((), ("--measure", "matched", "--distill", "0"), ("--amp",)):
        training = ("--epochs", "1", "--lr", "0.001", *steps, *more, "--overwrite")
        cells.append(timed(folder, "mitigate", *data, *training))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(PRUNED))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulated", type=int, default=4)
    parser.add_argument("--only", choices=("simulated", "models"))
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("size", type=int, nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task is not None:
        print(TASKS[given.task](*given.size))
        return
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    )
    if given.only != "models":
        simulated("constrained", "dense statistics, s | a step, ms | buffers, MB")
        simulated("audited", "audit, s | GB more than the answers")
    if given.only != "simulated":
        models(given.models, given.images, given.batch_size, given.accumulated)


if __name__ == "__main__":
    main()
