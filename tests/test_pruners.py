from __future__ import annotations

from typing import Any

import pytest

from ceag_cli.options import PruneOptions
from ceag_cli.pruners import check_options

WITH_DATA = {"sparsity": 0.9, "groups": "labels.csv"}


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({}, []),
        ({"prune_epochs": 3}, ["--prune-epochs has no effect with --schedule one-shot"]),
        (
            {"lr": 0.01, "opt": "adamw", "hflip": 0.0},
            [
                "--opt has no effect without --epochs",
                "--lr has no effect without --epochs",
                "--hflip has no effect without --epochs",
            ],
        ),
        (WITH_DATA | {"lr": 0.01, "prune_epochs": 3, "epochs": 5}, []),
        (
            {"batch_size": 8, "data_dir": "images", "amp": True},
            [
                "--data-dir has no effect without --groups",
                "--batch-size has no effect without --groups",
                "--amp has no effect without --groups",
            ],
        ),
        (WITH_DATA | {"batch_size": 8, "data_dir": "images"}, []),
        (
            WITH_DATA | {"epochs": 5, "model_ema_decay": 0.9},
            ["--model-ema-decay has no effect without --model-ema"],
        ),
        (
            {"pack": True, "dry_run": True},
            ["--pack has no effect with --dry-run, which writes nothing"],
        ),
        (
            WITH_DATA | {"recalibrate": 8, "epochs": 5},
            ["--recalibrate has no effect with --epochs: training measures BatchNorm statistics"],
        ),
    ],
)
def test_options_without_effect_are_named(options: dict[str, Any], warnings: list[str]) -> None:
    assert check_options(PruneOptions(**({"sparsity": 0.9} | options))) == warnings
