"""What a training step costs: plain PyTorch, masks, CEAG with many groups, equalised loss.

    make bench            # the results are in docs/benchmarks.md

All variants are interleaved in one process, in a new random order every round; a round times a
few steps of each. Reported are medians over rounds of the *ratio* to a reference within the same
round, with the order-statistic interval of the median (at least 95 %), so that a machine that is
busy now and then does not decide the result.

The model is a CIFAR-sized ResNet by timm (18 layers, 16 to 128 channels, no pooling before the
first stage) at batch 128, 90 % sparse. The plain step is what one would write by hand: normalise,
forward, cross-entropy, backward, SGD with momentum. The others are epochs of `ceag mitigate`, as
short as a round, with all that its loop does besides.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.evaluation import Compute
from ceag_cli.fairgrape import preserve_shares
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.images import Split
from ceag_cli.masks import Masks
from ceag_cli.methods import distill_share, measured_where, objective
from ceag_cli.models import Preprocessing
from ceag_cli.options import MitigateOptions
from ceag_cli.progress import Quiet
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import magnitude_uniform
from ceag_cli.runs import Run
from ceag_cli.training import Training

BATCH, CLASSES = 128, 100
HALF = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
GROUPS = (10, 100, 1_000, 10_000, 100_000)


def cifar_resnet() -> nn.Module:
    """timm's ResNet-18, a quarter as wide, with a stem that keeps 32x32."""
    model: Any = ResNet(
        BasicBlock,
        layers=(2, 2, 2, 2),
        channels=(16, 32, 64, 128),
        num_classes=CLASSES,
        stem_type="deep",
        stem_width=8,
    )
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    model.pretrained_cfg = {"architecture": "resnet", "first_conv": "conv1.0", "classifier": "fc"}
    result: nn.Module = model
    return result


class Pixels:
    """Images that are in memory already."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def batches(self, order: Tensor, batch_size: int) -> Any:
        """As of a split."""
        for rows in torch.split(order, batch_size):
            yield rows, self.pixels[rows]


def random_images(count: int, groups: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    ids = torch.randint(groups, (count, 1), generator=generator)
    return Split("train", Pixels(pixels), targets, ids)


Steps = Callable[[], float]
"""Takes the steps of a round and returns the seconds that one took."""


def plain(model: nn.Module, split: Split) -> Steps:
    """A step as one would write it by hand."""
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    mean = torch.full((3, 1, 1), 0.5)
    std = torch.full((3, 1, 1), 0.5)

    def steps() -> float:
        start = time.perf_counter()
        for rows, pixels in split.images.batches(torch.randperm(len(split)), BATCH):
            inputs = ((pixels.float() / 255 - mean) / std).contiguous(
                memory_format=torch.channels_last
            )
            loss = functional.cross_entropy(model(inputs), split.targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (time.perf_counter() - start) * BATCH / len(split)

    return steps


def ours(model: nn.Module, masks: Masks, split: Split, groups: int, **options: Any) -> Steps:
    """The step of ``ceag mitigate``."""
    given = MitigateOptions(lr=1e-4, weight_decay=1e-4, hflip=0.0, sched="constant", **options)
    zeros = torch.zeros(len(split), dtype=torch.float64)
    right = torch.ones(len(split), dtype=torch.bool)
    dense = GroupStats.of(BatchOutcome(zeros, right, split.groups), groups)
    where = measured_where(given)
    training = Training(
        model=model,
        split=split,
        preprocessing=HALF,
        compute=Compute(torch.device("cpu"), batch_size=BATCH),
        options=given,
        epochs=1,
        seed=0,
        num_groups=groups,
        run=Run(Path(tempfile.gettempdir(), "bench.safetensors"), {}, {}),
        reporter=Quiet(),
        title="bench",
        masks=Masks(model, masks.pruned),
        measure="train" if where == "matched" else where,
        dense_model=copy.deepcopy(model).eval(),
        distill=distill_share(given),
    )
    grouping = Grouping(("group",), (tuple(map(str, range(groups))),))
    training.objective = objective(given, grouping, dense, training.steps)

    def steps() -> float:
        start = time.perf_counter()
        training._one_epoch(lambda done, words: None)
        return (time.perf_counter() - start) * BATCH / len(split)

    return steps


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median and an interval that has the true median with a probability of at least 95 %."""
    ordered = sorted(values)
    n = len(ordered)
    # The k-th smallest and k-th largest miss it with twice the binomial tail below k.
    k = 0
    while 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= 0.05:
        k += 1
    k = max(k, 1)
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def measure_steps(rounds: int, steps: int) -> None:
    torch.manual_seed(0)
    model = cifar_resnet()
    masks = magnitude_uniform(model, prunable_parameters(model), 0.9)
    images = steps * BATCH
    variants: dict[str, Steps] = {
        "(a) plain PyTorch": plain(copy.deepcopy(model), random_images(images, 10)),
    }

    def add(name: str, groups: int, **options: Any) -> None:
        split = random_images(images, groups)
        variants[name] = ours(copy.deepcopy(model), masks, split, groups, **options)

    add("(b) naive, with masks", 10, method="naive")
    on_train: dict[str, Any] = {"measure": "matched", "distill": 0.0}
    for groups in GROUPS:
        add(f"(c) CEAG on train, {groups:,} groups", groups, **on_train)
    add("(c) CEAG as in the paper, 100 groups", 100, paper=True)
    add("(d) equalised loss, 100 groups", 100, method="equalized-loss")
    add("extra: CEAG, --measure eval --distill 0, 100 groups", 100, measure="eval", distill=0.0)
    add("extra: naive, --distill 0.9", 10, method="naive", distill=0.9)
    add("extra: CEAG, the default, 100 groups", 100)

    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for steps_of in variants.values():
        steps_of()
    names = list(variants)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            seconds[name].append(variants[name]())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, batch {BATCH}, {rounds} rounds of {steps} steps")
    print("| step | median ms | ratio to (a) | ratio to (b) |")
    print("|---|---|---|---|")
    for name, times in seconds.items():
        cells = [name, f"{1000 * statistics.median(times):.1f}"]
        for reference in ("(a) plain PyTorch", "(b) naive, with masks"):
            ratios = [one / other for one, other in zip(times, seconds[reference], strict=True)]
            middle, low, high = interval(ratios)
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        print(f"| {' | '.join(cells)} |")


def measure_selection() -> None:
    """FairGRAPE's choice of weights for a ResNet-18, ten groups."""
    model = timm.create_model("resnet18", pretrained=False)
    sizes = [model.get_parameter(name).numel() for name in prunable_parameters(model)]
    generator = torch.Generator().manual_seed(0)
    print(f"\nFairGRAPE's selection: resnet18, {sum(sizes):,} prunable weights, 10 groups")
    print("| keep | seconds |")
    print("|---|---|")
    for keep in (0.9, 0.5, 0.1):
        total = 0.0
        for size in sizes:
            # Correlated over groups and heavy-tailed, as squares of weight times gradient are.
            shared = torch.randn(1, size, generator=generator)
            importance = (shared * torch.randn(10, size, generator=generator)).square()
            start = time.perf_counter()
            preserve_shares(importance, int(keep * size))
            total += time.perf_counter() - start
        print(f"| {keep:.0%} | {total:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    )
    measure_steps(arguments.rounds, arguments.steps)
    measure_selection()


if __name__ == "__main__":
    main()
