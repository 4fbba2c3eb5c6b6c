"""`ceag exemplars` from kept answers of many models: time and memory.

    python recipes/benchmarks/exemplars.py
    python recipes/benchmarks/exemplars.py --images 50000 --models 30

makes answers of so many dense and sparse models, each pair in a table as `ceag audit` keeps it,
with the class as the group, and has the images found that they disagree on. A model of either kind
is right on about three quarters of the images, most of them the same ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from ceag_cli.columns import Column
from ceag_cli.identifying import exemplars
from ceag_cli.npzfiles import FORMAT, coded, encoded, write_npz
from ceag_cli.options import ExemplarsOptions


def main(images: int, models: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, classes, images)
    hard = generator.random(images)
    """From which strength on a model is right."""
    names = tuple(f"class {i}" for i in range(classes))
    ids = encoded([f"images/{i:07d}.jpg" for i in range(images)])

    def answers(strength: float) -> np.ndarray:
        right = hard + 0.2 * generator.normal(size=images) < strength
        return np.where(right, label, (label + generator.integers(1, 6, images)) % classes)

    with tempfile.TemporaryDirectory() as place:
        tables = []
        for i in range(models):
            arrays = {"id": ids}
            columns = {
                "split": Column(np.full(images, 2), ("train", "val", "test")),
                "label": Column(label, names),
                "dense": Column(answers(0.75), names),
                "sparse": Column(answers(0.73), names),
            }
            for name, column in columns.items():
                arrays |= coded(name, column)
            about = {
                "format": FORMAT,
                "models": {
                    role: {"path": f"{role}-{i}.safetensors", "sha256": f"{role}-{i}"}
                    for role in ("dense", "sparse")
                },
                "data": {"groups_by": "label", "missing": "error", "duplicates": []},
            }
            tables.append(Path(place) / f"{i}.npz")
            write_npz(tables[-1], arrays, about)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        found = exemplars(
            ExemplarsOptions(predictions=tuple(map(str, tables)), output=str(Path(place) / "out"))
        )
        seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    pies = found.pies
    print(
        json.dumps(
            {
                "images": images,
                "models of each kind": models,
                "classes": classes,
                "exemplars": pies.count,
                "by chance": round(pies.by_chance or 0.0),
                "deals": pies.deals,
                "seconds": round(seconds, 1),
                "seconds of the processor": round(
                    after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
                ),
                "peak GB": round(after.ru_maxrss / 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--classes", type=int, default=1000)
    given = parser.parse_args()
    main(given.images, given.models, given.classes)
