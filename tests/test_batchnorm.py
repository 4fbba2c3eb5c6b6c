from __future__ import annotations

import pytest
import torch
from torch import nn

from ceag_cli.batchnorm import norms_of, recalibrate


def column(*values: float) -> torch.Tensor:
    return torch.tensor([[value] for value in values], dtype=torch.float32)


def test_statistics_are_the_mean_over_the_batches() -> None:
    model = nn.BatchNorm1d(1)
    with torch.no_grad():
        model.running_mean.fill_(100.0)  # type: ignore[union-attr]
    # Means 1 and 5, variances (n - 1) 2 and 8; their means are 3 and 5.
    recalibrate(model, [column(0, 2), column(3, 7)])
    assert model.running_mean.tolist() == [3.0]  # type: ignore[union-attr]
    assert model.running_var.tolist() == [5.0]  # type: ignore[union-attr]
    assert model.momentum == 0.1


def test_statistics_behind_pruned_weights_are_those_of_the_pruned_model() -> None:
    layer, norm = nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)
    model = nn.Sequential(layer, norm)
    nn.init.constant_(layer.weight, 2.0)
    recalibrate(model, [column(1, 3)])
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [4.0]
    nn.init.constant_(layer.weight, 0.0)
    recalibrate(model, [column(1, 3)])
    assert norm.running_mean.tolist() == [0.0]


@pytest.mark.parametrize("training", [True, False])
def test_weights_and_mode_stay_and_dropout_is_off(training: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1)).train(training)
    recalibrate(model, [column(1, 3)] * 4)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [2.0]
    assert norm.weight.tolist() == [1.0]
    assert [module.training for module in model.modules()] == [training] * 3


def test_a_model_without_statistics_has_nothing_to_measure() -> None:
    model = nn.Sequential(nn.LayerNorm(1), nn.BatchNorm1d(1, track_running_stats=False))
    assert norms_of(model) == []
    recalibrate(model, [column(1, 3)])
