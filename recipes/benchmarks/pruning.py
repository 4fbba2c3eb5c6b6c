"""What pruning itself costs: ours against torch.nn.utils.prune, on ViT-B/16 and ViT-L/16.

    make bench            # the results are in docs/benchmarks.md

Every measurement has a process of its own, since torch's masks stay in memory: build the model with
random weights, set back the process's peak memory, prune to 90 %, read time and peak. The two sides
take turns; reported are medians, and the ratio of every round. `--command` measures whole commands:
`ceag prune` on ViT-L/16 against a script that imports torch and timm, loads the file and saves it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from ceag_cli.budgets import pooled, uniform
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import prune
from ceag_cli.scores import magnitude

MODELS = ("vit_base_patch16_224", "vit_large_patch16_224")
SPARSITY = 0.9
PAIRS = (("ours global", "torch global_unstructured"), ("ours layer", "torch l1_unstructured"))


def layers(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (model.get_submodule(name.rpartition(".")[0]), "weight")
        for name in prunable_parameters(model)
    ]


def torch_global(model: nn.Module) -> None:
    torch_prune.global_unstructured(layers(model), torch_prune.L1Unstructured, amount=SPARSITY)


def torch_layer(model: nn.Module) -> None:
    for module, name in layers(model):
        torch_prune.l1_unstructured(module, name, amount=SPARSITY)


def ours(model: nn.Module, budget: Callable[..., dict[str, int]]) -> None:
    prune(model, prunable_parameters(model), SPARSITY, magnitude, budget)


SIDES: dict[str, Callable[[nn.Module], None]] = {
    "ours global": partial(ours, budget=pooled),
    "ours layer": partial(ours, budget=uniform),
    "torch global_unstructured": torch_global,
    "torch l1_unstructured": torch_layer,
}


def status(key: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(side: str, name: str) -> None:
    """In a process of its own: print seconds, extra peak memory and what came of it."""
    SIDES[side](timm.create_model("vit_tiny_patch16_224", pretrained=False))  # first-call costs
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    pruned = layers(model)
    sizes = [module.weight.numel() for module, _ in pruned]  # type: ignore[operator,union-attr]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before = status("VmRSS")
    start = time.perf_counter()
    SIDES[side](model)
    seconds = time.perf_counter() - start
    extra = status("VmHWM") - before
    zeros = sum(int((module.weight == 0).sum()) for module, _ in pruned)  # type: ignore[arg-type]
    print(json.dumps(Measured(seconds, extra, 4 * max(sizes), sum(sizes), zeros)._asdict()))


class Measured(NamedTuple):
    seconds: float
    extra: int
    """Bytes at the peak beyond what the process had before."""
    largest: int
    """Bytes of the largest tensor."""
    weights: int
    """Prunable weights: as many bytes as one bool mask of each."""
    zeros: int


def in_a_process(side: str, name: str) -> Measured:
    command = [sys.executable, __file__, "--measure", side, name]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Measured(**json.loads(printed))


def compare(rounds: int) -> None:
    print("| model | side | seconds | extra peak MB | less masks, in largest tensors |")
    print("|---|---|---|---|---|")
    ratios = []
    for name in MODELS:
        for us, them in PAIRS:
            found: dict[str, list[Measured]] = {us: [], them: []}
            for _ in range(rounds):
                for side in found:
                    found[side].append(in_a_process(side, name))
            for side, runs in found.items():
                median = statistics.median(run.seconds for run in runs)
                extra = statistics.median(run.extra for run in runs)
                beyond = (extra - runs[0].weights) / runs[0].largest
                print(f"| {name} | {side} | {median:.2f} | {extra / 1e6:.0f} | {beyond:.1f} |")
            # Both prune as much; torch rounds where we round up, tensor by tensor or once.
            assert abs(found[us][0].zeros - found[them][0].zeros) <= 100
            times = [b.seconds / a.seconds for a, b in zip(found[us], found[them], strict=True)]
            ratios.append(
                f"| {name} | {them} / {us} | {statistics.median(times):.0f} "
                f"({min(times):.0f} to {max(times):.0f}) |"
            )
    print("\n| model | ratio of the times | median (least to most) |\n|---|---|---|")
    print("\n".join(ratios))


PLAIN = """
import sys, torch, timm
from safetensors.torch import load_file, save_file
model = timm.create_model("vit_large_patch16_224", pretrained=False)
model.load_state_dict(load_file(sys.argv[1]))
save_file(model.state_dict(), sys.argv[2])
"""


def whole_command(rounds: int) -> None:
    """``ceag prune`` on ViT-L/16 against loading and saving the file by hand."""
    from safetensors.torch import save_file

    seconds: dict[str, list[float]] = {"ceag prune": [], "plain load and save": []}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "vit.safetensors"), Path(folder, "out.safetensors")
        save_file(timm.create_model(MODELS[1], pretrained=False).state_dict(), source)
        ceag = [sys.executable, "-m", "ceag_cli", "prune", str(source), "--model", MODELS[1]]
        ceag += ["--sparsity", str(SPARSITY), "-o", str(target), "--overwrite"]
        plain = [sys.executable, "-c", PLAIN, str(source), str(target)]
        for _ in range(rounds):
            for name, command in zip(seconds, (ceag, plain), strict=True):
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print("\n| whole command, ViT-L/16 | seconds, median |\n|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.1f} |")
    print(f"| ratio | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, sparsity {SPARSITY:g}, "
        f"{arguments.rounds} rounds"
    )
    compare(arguments.rounds)
    whole_command(arguments.rounds)


if __name__ == "__main__":
    main()
