"""On which views of the training images two models differ by group as they do on unseen ones.

    python recipes/benchmarks/views.py SWEEP/seed-100/sparsity-0.9 naive distillation on-train

For every view of the train images: the dense model's accuracy, and how its accuracies by group
correlate with those on test; then for every model named how its psi by group correlates with psi
on test, and the standard deviation of psi over groups. The results are in docs/generalization.md;
take the folder of a `tuning-*` sweep, whose test images are of the train split.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.data import open_data
from ceag_cli.evaluation import Compute
from ceag_cli.inputs import check_targets, open_checkpoint
from ceag_cli.mixing import mixed
from ceag_cli.options import AuditOptions
from ceag_cli.pairing import find_dense
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.splits import Split

COMPUTE = Compute(torch.device("cpu"), batch_size=500)


def crops(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of 60 to 100 % of the area, scaled back, half of them mirrored."""
    number, (height, width) = len(pixels), pixels.shape[-2:]
    side = (0.6 + 0.4 * torch.rand(number, generator=generator)).sqrt()
    place = (2 * torch.rand(number, 2, generator=generator) - 1) * (1 - side)[:, None]
    sign = torch.where(torch.rand(number, generator=generator) < 0.5, -1.0, 1.0)
    affine = torch.zeros(number, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = side * sign, side, place
    grid = functional.affine_grid(affine, [number, 3, height, width], align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False, padding_mode="reflection")


def shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The crops of 32 pixels after padding with 4 that CIFAR is trained with."""
    size = pixels.shape[-1]
    padded = functional.pad(pixels, (4, 4, 4, 4))
    starts = torch.randint(9, (len(pixels), 2), generator=generator).tolist()
    cut = [p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, starts, strict=True)]
    return torch.stack(cut)


def noisy(pixels: Tensor, generator: torch.Generator) -> Tensor:
    return pixels + 25 * torch.randn(pixels.shape, generator=generator)


def mixing(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda pixels, _: mixed(pixels, share)


VIEWS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "as they are": lambda pixels, _: pixels,
    "mirrored": lambda pixels, _: pixels.flip(-1),
    "shifted by up to 4 pixels": shifted,
    "crops of 60 to 100 %": crops,
    "noise of 25 / 255": noisy,
    "mixed, share 0.85": mixing(0.85),
    "mixed, share 0.7": mixing(0.7),
    "mixed, share 0.55": mixing(0.55),
}


@torch.no_grad()
def right(
    model: nn.Module, pixels: Tensor, targets: Tensor, preprocessing: Preprocessing
) -> Tensor:
    answers = [
        COMPUTE.forward(model, COMPUTE.to_inputs(part, preprocessing)).argmax(1)
        for part in pixels.split(COMPUTE.batch_size)
    ]
    return (torch.cat(answers) == targets).double()


def by_group(values: Tensor, groups: Tensor, number: int) -> np.ndarray:
    """Means less the overall mean."""
    means = torch.bincount(groups, values, number) / torch.bincount(groups, minlength=number)
    return (means - values.mean()).numpy()


def whole(split: Split, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, targets and groups in random order, so that no image is mixed with its like."""
    order = torch.randperm(len(split), generator=generator)
    pixels = torch.cat([pixels for _, pixels in split.images.batches(order, 500)]).float()
    return pixels, split.targets[order], split.groups[order, 0]


def main(folder: Path, methods: list[str]) -> None:
    torch.set_num_threads(1)
    quiet = Quiet()
    options = AuditOptions(device="cpu")
    files = [folder / f"{method}.safetensors" for method in methods]
    sparse = [open_checkpoint(path, options, quiet) for path in files]
    dense = find_dense(sparse[0], options, quiet)
    preprocessing = dense.preprocessing
    data = open_data(options, [sparse[0], dense], quiet, "audit")
    check_targets(data, dense, None)
    number = data.labels.grouping.num_groups
    models = [checkpoint.model.eval() for checkpoint in (dense, *sparse)]
    for model in models:
        COMPUTE.place(model)
    train, test = (
        whole(data.split(name, preprocessing, options, quiet), torch.Generator().manual_seed(0))
        for name in ("train", "test")
    )
    unseen = [right(model, *test[:2], preprocessing) for model in models]
    level = by_group(unseen[0], test[2], number)
    psi = [by_group(unseen[0] - other, test[2], number) for other in unseen[1:]]
    print(f"test: dense {100 * float(unseen[0].mean()):.0f} %, sd of psi", end="")
    print(*(f", {m} {100 * p.std():.1f}" for m, p in zip(methods, psi, strict=True)), sep="")
    print(f"| train images | dense, % | r with test | {' | '.join(methods)} |")
    print("|---" * (3 + len(methods)) + "|")
    for name, view in VIEWS.items():
        pixels = view(train[0], torch.Generator().manual_seed(1))
        said = [right(model, pixels, train[1], preprocessing) for model in models]
        cells = [name, f"{100 * float(said[0].mean()):.0f}"]
        cells.append(f"{np.corrcoef(by_group(said[0], train[2], number), level)[0, 1]:.2f}")
        for other, expected in zip(said[1:], psi, strict=True):
            found = by_group(said[0] - other, train[2], number)
            r = np.corrcoef(found, expected)[0, 1] if found.std() else math.nan
            cells.append(f"{r:.2f}, {100 * found.std():.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
