"""What `ceag audit --predictions` costs as a whole, and what evaluating two models costs.

    make bench-audit      # the results are in docs/benchmarks.md

First: a table of a million rows and ten thousand groups as CSV, .parquet and .npz through the whole
command, in a process of its own each time: seconds from start to exit code, seconds of processor,
peak memory. Second: two ResNet-18 over JPEGs in three ways that take turns: the bare forward passes
over batches that are in memory already; the same images through `evaluate_together`, decoded
before; and decoded while the models run, by one process beside them. On a machine that others use,
the least of several rounds says what each way takes; seconds of processor are compared within each
round.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from ceag_cli.evaluation import Compute, evaluate_together
from ceag_cli.images import Images
from ceag_cli.npzfiles import FORMAT, write_npz
from ceag_cli.predictions import as_arrays, read_answers
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.splits import Split

ROWS, GROUPS, CLASSES = 1_000_000, 10_000, 100


def write_tables(folder: Path) -> list[Path]:
    """Two models of nine tenths accuracy that differ in 7 % of their answers."""
    random = np.random.default_rng(0)
    label = random.integers(CLASSES, size=ROWS)
    anything = random.integers(CLASSES, size=(2, ROWS))
    dense = np.where(random.random(ROWS) < 0.9, label, anything[0])
    sparse = np.where(random.random(ROWS) < 0.93, dense, anything[1])
    group = random.integers(GROUPS, size=ROWS)
    path = folder / "preds.csv"
    with path.open("w") as file:
        file.write("id,label,split,group,dense,sparse\n")
        columns = (label.tolist(), group.tolist(), dense.tolist(), sparse.tolist())
        for i, (a, g, d, s) in enumerate(zip(*columns, strict=True)):
            file.write(f"images/{i:07d}.png,{a},test,g{g},{d},{s}\n")
    table = read_answers(path)
    write_npz(folder / "preds.npz", as_arrays(table), {"format": FORMAT})
    written = [path, folder / "preds.npz"]
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return written
    words = {name: getattr(table, name) for name in ("label", "dense", "sparse")}
    names = np.array(table.classes)
    content = {"id": list(table.ids), "split": ["test"] * ROWS, "group": [f"g{g}" for g in group]}
    content |= {name: names[codes] for name, codes in words.items()}
    parquet.write_table(pyarrow.table(content), folder / "preds.parquet")
    return [*written, folder / "preds.parquet"]


def audited(path: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processor, peak memory in MB of the whole command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ceag_cli", "audit", "--predictions", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in (0, 1, 3):
        raise SystemExit(f"ceag audit --predictions {path} failed")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


class Jpegs:
    """Images whose bytes are in memory, so that no disk is measured."""

    root = Path()

    def __init__(self, count: int, size: int) -> None:
        random = np.random.default_rng(1)
        self.content = []
        for _ in range(count):
            small = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG")
            self.content.append(file.getvalue())

    def read(self, path: str) -> bytes:
        return self.content[int(path)]

    def has(self, path: str) -> bool:
        return True

    def beginning(self, path: str) -> bytes:
        return self.content[int(path)]

    def mark(self, path: str) -> tuple[int, ...]:
        return ()

    def state(self, path: str) -> tuple[int, ...]:
        return ()


def evaluation(
    count: int, size: int, rounds: int, threads: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each way by round, and seconds of processor of the process with the models."""
    torch.set_num_threads(threads)
    preprocessing = Preprocessing(
        (3, size, size), (0.5,) * 3, (0.5,) * 3, "bilinear", 0.875, "center"
    )
    store = Jpegs(count, size + size // 2)
    names = [str(i) for i in range(count)]
    compute = Compute(torch.device("cpu"), batch_size=64)
    models = {name: timm.create_model("resnet18", num_classes=10).eval() for name in ("a", "b")}
    targets, groups = torch.zeros(count, dtype=torch.int64), torch.zeros(count, 1).long()

    def images(keep: bool) -> Split:
        found = Images(store, names, preprocessing, 1, keep=keep)
        return Split("test", found, targets, groups)

    kept, streamed = images(True), images(False)
    for model in models.values():
        compute.place(model)
    batches = [
        compute.to_inputs(pixels, preprocessing)
        for _, pixels in kept.images.batches(torch.arange(count), compute.batch_size)
    ]

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                for model in models.values():
                    model(batch)

    def evaluated(split: Split) -> None:
        evaluate_together(models, split, preprocessing, compute, Quiet(), "test")

    ways = {
        "bare forward passes": bare,
        "evaluated, decoded before": lambda: evaluated(kept),
        "evaluated, decoded meanwhile": lambda: evaluated(streamed),
    }
    bare()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(timed(ways[name]))
        order = order[1:] + order[:1]

    def decoded() -> None:
        for _ in streamed.images.batches(torch.arange(count), compute.batch_size):
            pass

    seconds["decoding alone, in its process"] = [timed(decoded)]
    return seconds


def timed(action: Callable[[], None]) -> tuple[float, float]:
    started, worked = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - started, time.process_time() - worked


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1088)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of the models")
    parser.add_argument("--only", choices=("table", "models"))
    given = parser.parse_args()
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {given.rounds} rounds.\n"
    )
    if given.only != "models":
        print(
            "| table | MB | least seconds | seconds of processor | peak MB |\n|---|---|---|---|---|"
        )
        with tempfile.TemporaryDirectory() as name:
            for path in write_tables(Path(name)):
                runs = [audited(path) for _ in range(given.rounds)]
                seconds, processor, peak = (min(run) for run in zip(*runs, strict=True))
                size = path.stat().st_size / 1e6
                print(
                    f"| {path.suffix} | {size:.0f} | {seconds:.1f} | {processor:.1f} | {peak:.0f} |"
                )
        print()
    if given.only != "table":
        found = evaluation(given.images, given.size, given.rounds, given.threads)
        reference = found["bare forward passes"]
        print(f"{given.images} JPEGs at {given.size}×{given.size}, {given.threads} thread(s):\n")
        print("| way | least seconds | ratio of these | ratio of seconds of processor |")
        print("|---|---|---|---|")
        least = min(wall for wall, _ in reference)
        for name, runs in found.items():
            seconds = min(wall for wall, _ in runs)
            ratios = ["–", "–"]
            if len(runs) == len(reference):
                worked = [a / b for (_, a), (_, b) in zip(runs, reference, strict=True)]
                ratios = [f"{seconds / least:.3f}", spread(worked)]
            print(f"| {name} | {seconds:.2f} | {ratios[0]} | {ratios[1]} |")


if __name__ == "__main__":
    main()
