"""Small things that the tests are made of: coloured images, tiny timm models, the CLI."""

from __future__ import annotations

import csv
import dataclasses
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from ceag_cli.audit import audit
from ceag_cli.baselines import NaiveFineTuning
from ceag_cli.cli import app
from ceag_cli.evaluation import Compute
from ceag_cli.findings import AuditResult, Subject
from ceag_cli.groups import BatchOutcome, Grouping
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet, Update
from ceag_cli.runs import Run
from ceag_cli.sharedoptions import TrainingOptions
from ceag_cli.splits import Split
from ceag_cli.training import Training

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
"""Classes in the order of the model's outputs."""

ROWS = 36
TRAIN = 24
"""The first rows are train, the others test."""

HEADER = ("path", "label", "split", "group")

TINY = ("--model", "test_resnet", "--img-size", "16", "--batch-size", "8", "--workers", "0")
"""Flags with which ``ceag dense`` trains in a second."""


def write_images(folder: Path, *, size: int = 16, archive: bool = False) -> Path:
    """Write 36 images whose colour tells their class, and ``labels.csv``; returns the CSV.

    Row i (from 0) is ``images/i.png``: class number i modulo 3, split train for i < 24 and test
    for the others, group ``odd`` or ``even`` by i. So train has 8 images of each class and 12 of
    each group; test has 4 and 6. The right half is the pure colour, the left half i darker, so no
    two images are equal and none is its own mirror image (but the first). With ``archive`` the
    images are in ``images.zip``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    rows = []
    for i in range(ROWS):
        label = names[i % 3]
        image = Image.new("RGB", (size, size), COLOURS[label])
        darker = tuple(max(channel - i, 0) for channel in COLOURS[label])
        image.paste(darker, (0, 0, size // 2, size))
        path = folder / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        split = "train" if i < TRAIN else "test"
        rows.append((f"images/{i}.png", label, split, "odd" if i % 2 else "even"))
    write_csv(folder / "labels.csv", rows)
    if archive:
        with zipfile.ZipFile(folder / "images.zip", "w") as file:
            for path in sorted((folder / "images").iterdir()):
                file.write(path, f"images/{path.name}")
                path.unlink()
        (folder / "images").rmdir()
    return folder / "labels.csv"


def write_csv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def tiny_model(name: str = "test_resnet", seed: int = 0, **arguments: Any) -> nn.Module:
    """A timm model with random weights, in evaluation mode; three classes unless told otherwise."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name, pretrained=False, **({"num_classes": 3} | arguments))
    return model.eval()


def ceag(*arguments: str | Path) -> Result:
    """Run a command in this process, as a user would type it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> Result:
    """The same for a command that has to succeed."""
    result = ceag(*arguments)
    assert result.exit_code == 0, result.output
    return result


def folder_with(paths: pytest.TempPathFactory, *commands: Sequence[str]) -> Path:
    """A new folder with images, in which some commands were carried out."""
    folder = paths.mktemp("prepared")
    write_images(folder)
    with chdir(folder):
        for command in commands:
            done(*command)
    return folder


def errors(*arguments: str | Path) -> list[str]:
    """The error lines of a command that was given something unusable."""
    result = ceag(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    found = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert found
    # Nothing follows the errors, and none is spread over lines.
    assert result.stderr.splitlines()[-len(found) :] == found
    return [line.removeprefix("error: ") for line in found]


class Interrupting:
    """A reporter that presses Ctrl-C when a bar has come to a number of steps."""

    def __init__(self, title: str, step: int) -> None:
        self.title, self.step = title, step
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Update]:
        def update(done: int, words: str) -> None:
            if title == self.title and done >= self.step:
                raise KeyboardInterrupt

        yield update


HALF = Preprocessing((3, 16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
CPU = torch.device("cpu")


class Pixels:
    """Images that are in memory already."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def batches(self, order: Tensor, sizes: int | list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.split(order, sizes):
            yield rows, self.pixels[rows]


def a_split(count: int = 24) -> Split:
    """Image i has class i modulo 3, which its colour tells, and group i modulo 2."""
    rows = torch.arange(count)
    pixels = torch.randint(0, 50, (count, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    pixels[rows, rows % 3] += 200
    images: Any = Pixels(pixels.to(torch.uint8))
    return Split("train", images, rows % 3, (rows % 2)[:, None])


class Watching:
    """Naive fine-tuning that looks on."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self.look = look
        self.seen: list[BatchOutcome] = []

    def weights(self, batch: BatchOutcome) -> Tensor:
        self.look()
        self.seen.append(batch)
        return NaiveFineTuning().weights(batch)

    def status(self) -> dict[str, float]:
        return {"max_multiplier": 0.5}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def training(folder: Path, model: nn.Module | None = None, **changes: Any) -> Training:
    """Three steps of eight images an epoch; ``changes`` go to the options or to Training."""
    options = {name: changes.pop(name) for name in list(changes) if name in OPTIONS}
    batch_size = changes.pop("batch_size", 8)
    arguments: dict[str, Any] = {
        "model": model if model is not None else tiny_model("test_resnet"),
        "split": a_split(),
        "preprocessing": HALF,
        "compute": Compute(CPU, batch_size=batch_size),
        "options": TrainingOptions(**options),
        "epochs": 2,
        "seed": 1,
        "num_groups": 2,
        "run": Run(folder / "m.safetensors", {"command": "dense"}, {}),
        "reporter": Quiet(),
        "title": "test",
    }
    return Training(**(arguments | changes))


PLAIN_DESCENT: dict[str, Any] = {
    "opt": "momentum",  # timm's sgd is Nesterov's, which cannot do without momentum
    "momentum": 0.0,
    "weight_decay": 0.0,
    "sched": "constant",
}

OPTIONS = {field.name for field in dataclasses.fields(TrainingOptions)}


def measured(
    pairs: Sequence[Paired], grouping: Grouping, eps: float, gated: Sequence[str] = ("test",)
) -> AuditResult:
    """An audit that compares the measured values with eps, as the paper does."""
    return audit(pairs, grouping, Policy(eps=eps, gate="point", min_coverage=0.0), gated)


SUBJECT = Subject(
    dense="model.safetensors",
    dense_sha256="d" * 64,
    sparse="model.pruned.safetensors",
    sparse_sha256="e" * 64,
    architecture="resnet18",
    sparsity=0.9,
    method=None,
    groups="labels.csv",
    groups_sha256="f" * 64,
    label_column="label",
    groups_by="letter",
)
"""Files that an audit may be about."""
