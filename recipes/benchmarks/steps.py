"""What a training step costs: plain PyTorch, masks, CEAG with many groups, equalised loss.

    make bench            # the results are in docs/benchmarks.md
    torchrun --nproc-per-node 2 recipes/benchmarks/steps.py --variants ranks    # as well

All variants are interleaved in one process, in a new random order every round; a round times a
few steps of each. Reported are medians over rounds of the *ratio* to a reference within the same
round, with the order-statistic interval of the median (at least 95 %), so that a machine that is
busy now and then does not decide the result.

The models are a CIFAR-sized ResNet by timm (18 layers, 16 to 128 channels, no pooling before the
first stage) and a small ViT (4 blocks of width 128, patches of 4) at batch 128, 90 % sparse. The
plain step is what one would write by hand: normalise, forward, cross-entropy, backward, SGD with
momentum. The others are epochs of `ceag mitigate`, as short as a round, with all that its loop does
besides.

Started by torchrun, every process has a share of the batch, the plain step is one with torch's
DistributedDataParallel, and the first process also takes the steps of a single process alone, with
the threads of all, while the others wait.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ceag_cli.distributed import ALONE, World
from ceag_cli.evaluation import Compute
from ceag_cli.fairgrape import preserve_shares
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.masks import Masks
from ceag_cli.methods import distill_share, measured_where, objective
from ceag_cli.options import MitigateOptions
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import magnitude_uniform
from ceag_cli.runs import Run
from ceag_cli.splits import Split
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


def small_vit() -> nn.Module:
    """A ViT of timm with 65 tokens."""
    model: Any = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=128, depth=4, num_heads=4, num_classes=CLASSES
    )
    cfg = {"architecture": "vit", "first_conv": "patch_embed.proj", "classifier": "head"}
    model.pretrained_cfg = cfg
    result: nn.Module = model
    return result


MODELS = {"resnet": cifar_resnet, "vit": small_vit}


class Pixels:
    """Images that are in memory already."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def batches(self, order: Tensor, batch_size: int | list[int]) -> Any:
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


def plain(model: nn.Module, split: Split, world: World = ALONE) -> Steps:
    """A step as one would write it by hand."""
    model.train().to(memory_format=torch.channels_last)
    parallel = DistributedDataParallel(model) if world.size > 1 else model
    share = world.share(BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    mean = torch.full((3, 1, 1), 0.5)
    std = torch.full((3, 1, 1), 0.5)

    def steps() -> float:
        start = time.perf_counter()
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
        own = torch.cat([share.of(rows) for rows in torch.split(order, BATCH)])
        for rows, pixels in split.images.batches(own, len(share)):
            inputs = ((pixels.float() / 255 - mean) / std).contiguous(
                memory_format=torch.channels_last
            )
            loss = functional.cross_entropy(parallel(inputs), split.targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (time.perf_counter() - start) * BATCH / len(split)

    return steps


def ours(
    model: nn.Module, masks: Masks, split: Split, groups: int, compute: Compute, **options: Any
) -> Steps:
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
        compute=compute,
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


@dataclass(frozen=True)
class Variant:
    """An epoch of the loop under some settings."""

    name: str
    groups: int
    options: dict[str, Any]
    amp: bool = False
    backend: str | None = None


ON_TRAIN: dict[str, Any] = {"measure": "matched", "distill": 0.0}
NAIVE: dict[str, Any] = {"method": "naive"}
LEAST = (
    Variant("(b) naive, with masks", 10, NAIVE),
    Variant("(c) CEAG on train, 100 groups", 100, ON_TRAIN),
    Variant("extra: CEAG, the default, 100 groups", 100, {}),
)
VARIANTS = {
    "groups": (
        LEAST[0],
        *(Variant(f"(c) CEAG on train, {g:,} groups", g, ON_TRAIN) for g in GROUPS),
        Variant("(c) CEAG as in the paper, 100 groups", 100, {"paper": True}),
        Variant("(d) equalised loss, 100 groups", 100, {"method": "equalized-loss"}),
        Variant(
            "extra: CEAG, --measure eval --distill 0, 100 groups",
            100,
            {"measure": "eval", "distill": 0.0},
        ),
        Variant("extra: naive, --distill 0.9", 10, NAIVE | {"distill": 0.9}),
        LEAST[2],
    ),
    "compute": (
        *LEAST,
        Variant("(e) naive, --amp", 10, NAIVE, amp=True),
        Variant("(e) naive, --torchcompile inductor", 10, NAIVE, backend="inductor"),
        Variant("(e) naive, both", 10, NAIVE, amp=True, backend="inductor"),
        Variant(
            "(e) naive, --grad-accum-steps 2 of half the batch", 10, NAIVE | {"grad_accum_steps": 2}
        ),
        Variant("(e) naive, --model-ema", 10, NAIVE | {"model_ema": True}),
    ),
    "ranks": (*LEAST, Variant("(c) CEAG on train, 100,000 groups", 100_000, ON_TRAIN)),
}
PLAIN, NAIVELY, SINGLE = "(a) plain PyTorch", LEAST[0].name, "one process alone: "


def alone(steps_of: Steps, world: World) -> Steps:
    """Steps that the first process takes, with the threads of all; the others wait."""

    def steps() -> float:
        seconds = 0.0
        if world.is_first:
            torch.set_num_threads(world.size)
            seconds = steps_of()
            torch.set_num_threads(1)
        dist.barrier()
        return seconds

    return steps


def steps_by_name(model: nn.Module, images: int, which: str, world: World) -> dict[str, Steps]:
    masks = magnitude_uniform(model, prunable_parameters(model), 0.9)

    def in_loop(variant: Variant, others: World) -> Steps:
        halved = variant.options.get("grad_accum_steps", 1)
        compute = Compute(
            torch.device("cpu"),
            amp=variant.amp,
            backend=variant.backend,
            batch_size=BATCH // halved,
            world=others,
        )
        split = random_images(images, variant.groups)
        return ours(copy.deepcopy(model), masks, split, variant.groups, compute, **variant.options)

    found = {PLAIN: plain(copy.deepcopy(model), random_images(images, 10), world)}
    found |= {each.name: in_loop(each, world) for each in VARIANTS[which]}
    if world.size > 1:
        single = plain(copy.deepcopy(model), random_images(images, 10))
        found[SINGLE + PLAIN] = alone(single, world)
        found |= {
            SINGLE + each.name: alone(in_loop(each, ALONE), world) for each in VARIANTS[which]
        }
    return found


def measure_steps(name: str, which: str, rounds: int, steps: int) -> None:
    torch.manual_seed(0)
    world = World.current()
    model = MODELS[name]()
    variants = steps_by_name(model, steps * BATCH, which, world)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for steps_of in variants.values():
        steps_of()
    turns = list(variants)
    draw = random.Random(0)  # the same turns on all processes
    for _ in range(rounds):
        draw.shuffle(turns)
        for each in turns:
            if world.size > 1:
                dist.barrier()
            seconds[each].append(variants[each]())
    if world.is_first:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"\n{name}, {parameters:,} parameters, batch {BATCH}, {world.size} process(es), "
            f"{rounds} rounds of {steps} steps"
        )
        print_table(seconds)


def print_table(seconds: dict[str, list[float]]) -> None:
    print("| step | median ms | ratio to (a) | ratio to (b) |")
    print("|---|---|---|---|")
    for name, times in seconds.items():
        cells = [name, f"{1000 * statistics.median(times):.1f}"]
        for reference in (PLAIN, NAIVELY):
            ratios = [one / other for one, other in zip(times, seconds[reference], strict=True)]
            middle, low, high = interval(ratios)
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        print(f"| {' | '.join(cells)} |", flush=True)


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
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["resnet"])
    parser.add_argument("--variants", choices=VARIANTS, default="groups")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    if World.current().is_first:
        print(
            f"torch {torch.__version__}, timm {timm.__version__}, Python "
            f"{platform.python_version()}, {torch.get_num_threads()} thread(s) on "
            f"{os.cpu_count()} cores"
        )
    for name in arguments.models:
        measure_steps(name, arguments.variants, arguments.rounds, arguments.steps)
    if World.current().size > 1:
        dist.destroy_process_group()
    elif arguments.variants == "groups":
        measure_selection()


if __name__ == "__main__":
    main()
