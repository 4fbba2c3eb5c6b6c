"""What ceag dense refuses and warns of before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from ceag_cli.initial import check_options
from ceag_cli.options import DenseOptions


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({"model": "resnet18", "groups": "labels.csv", "lr": 0.1}, []),
        (
            {"model": "resnet18", "groups": "labels.csv", "decay_milestones": (3,)},
            ["--decay-milestones has no effect with --sched cosine"],
        ),
        (
            {"model": "resnet18", "groups": "labels.csv", "use_ema": True},
            ["--use-ema has no effect without --checkpoint"],
        ),
        (
            {"checkpoint": "w.pth", "epochs": 0, "lr": 0.1, "model_ema_decay": 0.9},
            [
                "--lr has no effect with --epochs 0",
                "--model-ema-decay has no effect with --epochs 0",
            ],
        ),
        (
            {"checkpoint": "w.pth", "epochs": 0, "data_dir": "images", "batch_size": 8},
            [
                "--data-dir has no effect without --groups",
                "--batch-size has no effect without --groups",
            ],
        ),
        ({"checkpoint": "w.pth", "epochs": 0, "groups": "labels.csv", "batch_size": 8}, []),
    ],
)
def test_options_of_dense_without_effect_are_named(
    options: dict[str, Any], warnings: list[str]
) -> None:
    assert check_options(DenseOptions(**options)) == warnings
