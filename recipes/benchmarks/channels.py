"""What half the channels cost in accuracy, beside as many zeros anywhere and beside more of them.

    make bench-speed      # the results are in docs/pruning.md

The handwritten digits of the demo, where the digit 8 is rare in train. A small ResNet-18 is
trained, then half of its channels are removed with torch-pruning (a quarter of its weights are
left), or weights anywhere by magnitude; all are fine-tuned alike, without regard to groups. psi of
a digit is the accuracy that it loses on test, less what all images lose.
"""

from __future__ import annotations

import copy
import statistics
import warnings

import numpy
import timm
import torch
from sklearn.datasets import load_digits
from speed import half_of_the_channels
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.masks import Masks
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import magnitude_uniform

SEEDS = range(5)
DENSE_EPOCHS, EPOCHS = 30, 10
RARE_DIGIT = 8


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and targets of train and of test: halves, but for a twelfth of the rare digit."""
    content = load_digits()
    random = numpy.random.default_rng(seed)
    train = numpy.zeros(len(content.target), dtype=bool)
    for digit in range(10):
        rows = random.permutation(numpy.flatnonzero(content.target == digit))
        train[rows[: round(len(rows) * (1 / 12 if digit == RARE_DIGIT else 0.5))]] = True
    images = torch.from_numpy(content.images).float()[:, None] / 8 - 1
    images = functional.interpolate(images, size=32, mode="bilinear")
    targets = torch.from_numpy(content.target)
    return images[train], targets[train], images[~train], targets[~train]


def fit(
    model: nn.Module, images: Tensor, targets: Tensor, epochs: int, masks: Masks | None
) -> None:
    steps = -(-len(images) // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).tensor_split(steps):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
            if masks is not None:
                masks.apply_()
    model.eval()


@torch.no_grad()
def accuracies(model: nn.Module, images: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Of all images, and of each digit, in percent."""
    correct = 100 * (model(images).argmax(1) == targets).float()
    return float(correct.mean()), torch.stack([correct[targets == i].mean() for i in range(10)])


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        torch.manual_seed(seed)
        images, targets, test, answers = digits(seed)
        dense = timm.create_model(
            "resnet18", num_classes=10, in_chans=1, channels=(16, 32, 64, 128), layers=(1, 1, 1, 1)
        )
        fit(dense, images, targets, DENSE_EPOCHS, None)
        before, by_digit_before = accuracies(dense, test, answers)
        found.setdefault("dense", []).append((before, 0.0))
        for way in ("half the channels", "75 % zeros", "90 % zeros"):
            torch.manual_seed(seed)
            masks = None
            if way == "half the channels":
                model = half_of_the_channels(dense, torch.zeros(1, 1, 32, 32))
            else:
                model = copy.deepcopy(dense)
                sparsity = float(way.split()[0]) / 100
                masks = magnitude_uniform(model, prunable_parameters(model), sparsity)
            fit(model, images, targets, EPOCHS, masks)
            after, by_digit = accuracies(model, test, answers)
            psi = float(((by_digit_before - by_digit) - (before - after)).max())
            found.setdefault(way, []).append((after, psi))
    print(f"\ndigits, {len(SEEDS)} seeds, test, mean ± standard deviation:\n")
    print("| weights | accuracy | largest psi |\n|---|---|---|")
    for way, runs in found.items():
        cells = [
            f"{statistics.mean(column):.1f} ± {statistics.stdev(column):.1f}"
            for column in zip(*runs, strict=True)
        ]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
