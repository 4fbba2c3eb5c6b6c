"""What it takes to read a groups CSV, and to have pixels: decoded, by processes, from a folder.

    make bench-data      # the results are in docs/benchmarks.md

First: CSVs of 1.3 and of ten million rows, two features of three columns crossed and alone, through
everything that is done before an image is looked at: reading, checking, mapping labels to classes.
In a process of its own each; beside it, Python's csv module reading the same file and keeping
nothing. Second: JPEGs of photographs' size and small ones, decoded in the process itself, by worker
processes, decoded into a folder of pixels (``--cache``), and taken from there, all in turns.
Nothing here needs a data set; files are made in a temporary folder, which needs two gigabytes.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from ceag_cli.images import Images, cores
from ceag_cli.labels import read_labels
from ceag_cli.pixels import PixelCache
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.stores import Folder

RACES = ("Black", "East Asian", "Indian", "Latino", "Middle Eastern", "Southeast Asian", "White")
AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
SIZES = {"JPEGs of 500 by 375 at 224": (500, 375, 224), "JPEGs of 96 by 96 at 64": (96, 96, 64)}


def write_csv(path: Path, rows: int, before: str) -> None:
    """A CSV like that of ImageNet, with three sensitive columns."""
    draw = random.Random(0)
    with path.open("w") as file:
        file.write("path,label,split,race,gender,age\n")
        for i in range(rows):
            name = f"n{draw.randrange(1000):08d}"
            split = draw.choices(("train", "val", "test"), (8, 1, 1))[0]
            group = f"{draw.choice(RACES)},{draw.choice(('f', 'm'))},{draw.choice(AGES)}"
            file.write(f"{before}{split}/{name}/{name}_{i}.JPEG,{name},{split},{group}\n")


def check(path: Path) -> None:
    """All that is done with a CSV before an image is looked at."""
    labels = read_labels(path, groups_by="race*gender,age")
    labels.check_labels({name: i for i, name in enumerate(labels.label.names)}, "the model")
    labels.check_splits(("train", "test"), seen_in_train=True)
    labels.raise_problems()


def read_only(path: Path) -> None:
    with path.open(newline="") as file:
        for _ in csv.reader(file):
            pass


def in_a_process(task: str, path: Path) -> tuple[float, float]:
    """Seconds of a task, and the peak memory of its process in GB."""
    command = [sys.executable, __file__, "--task", task, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout is not None else ""
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{task} of {path} failed")
    return float(output), usage.ru_maxrss / 1e6


def tables(rounds: int, sizes: list[int]) -> None:
    print("| rows | paths | MB | seconds | rows a second | csv alone | ratio | peak GB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for rows in sizes:
            for before in ("", "./"):
                path = Path(name, "labels.csv")
                write_csv(path, rows, before)
                runs = [
                    (in_a_process("check", path), in_a_process("read", path)) for _ in range(rounds)
                ]
                seconds = [ours[0] for ours, _ in runs]
                ratios = [ours[0] / theirs[0] for ours, theirs in runs]
                print(
                    f"| {rows:,} | {before}train/... | {path.stat().st_size / 1e6:.0f} "
                    f"| {spread(seconds, 1)} | {rows / statistics.median(seconds):,.0f} "
                    f"| {spread([theirs[0] for _, theirs in runs], 1)} | {spread(ratios, 2)} "
                    f"| {max(ours[1] for ours, _ in runs):.2f} |",
                    flush=True,
                )


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[str]:
    draw = np.random.default_rng(1)
    for i in range(count):
        small = draw.integers(256, size=(24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.jpg", quality=90)
    return [f"{i}.jpg" for i in range(count)]


def decoding(rounds: int, count: int, what: str) -> None:
    width, height, size = SIZES[what]
    half = (0.5,) * 3
    preprocessing = Preprocessing((3, size, size), half, half, "bicubic", 0.875, "center")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        store = Folder(Path(name))
        names = write_jpegs(Path(name), count, width, height)

        def gone_through(workers: int | None, folder: str | None) -> Callable[[], None]:
            def go() -> None:
                cache = PixelCache.of(folder and f"{name}/{folder}", 20, Quiet())
                images = Images(store, names, preprocessing, workers, cache=cache)
                for _ in images.batches(order, 128):
                    pass

            return go

        gone_through(0, "hit")()
        ways = {"decoded by the process itself": gone_through(0, None)}
        ways |= {f"decoded by {n} worker processes": gone_through(n, None) for n in (1, 2, cores())}
        ways["decoded as by default"] = gone_through(None, None)
        ways["decoded into the folder"] = lambda: emptied(Path(name, "new"), gone_through(0, "new"))
        ways["from the folder"] = gone_through(0, "hit")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        turns = list(ways)
        for _ in range(rounds):
            for way in turns:
                seconds[way].append(timed(ways[way]))
            turns = turns[1:] + turns[:1]
    print(f"\n{count} {what}:\n\n| way | seconds | times as fast |\n|---|---|---|")
    reference = seconds["decoded by the process itself"]
    for way, each in seconds.items():
        ratios = [a / b for a, b in zip(reference, each, strict=True)]
        print(f"| {way} | {spread(each, 2)} | {spread(ratios, 2)} |", flush=True)


def emptied(folder: Path, action: Callable[[], None]) -> None:
    for path in folder.glob("*"):
        path.unlink()
    action()


def timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def spread(values: list[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_300_000, 10_000_000])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--only", choices=("tables", "images"))
    parser.add_argument("--task", choices=("check", "read"), help=argparse.SUPPRESS)
    parser.add_argument("path", type=Path, nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task is not None:
        task = check if given.task == "check" else read_only
        print(timed(lambda: task(given.path)))
        return
    print(
        f"torch {torch.__version__}, Pillow {PIL.__version__}, Python {platform.python_version()}, "
        f"{cores()} cores, {given.rounds} rounds; median (least to most).\n"
    )
    if given.only != "images":
        tables(given.rounds, given.rows)
    if given.only != "tables":
        for what in SIZES:
            decoding(given.rounds, given.images, what)


if __name__ == "__main__":
    main()
