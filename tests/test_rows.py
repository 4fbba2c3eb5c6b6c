from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from toys import tiny_model

from ceag_cli.masks import Masks
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import magnitude_uniform
from ceag_cli.rows import RowsConv2d, RowsLinear, compress_rows


def pruned(name: str, sparsity: float = 0.9) -> nn.Module:
    model = tiny_model(name)
    masks: Masks = magnitude_uniform(model, prunable_parameters(model), sparsity)
    assert masks.sparsity >= sparsity
    return model


def replaced(model: nn.Module) -> int:
    return sum(isinstance(module, (RowsLinear, RowsConv2d)) for module in model.modules())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_outputs_are_the_same_up_to_rounding(name: str) -> None:
    model = pruned(name)
    images = torch.randn(3, 3, 64, 64) if name != "test_vit" else torch.randn(3, 3, 160, 160)
    fast = compress_rows(model, images)
    assert replaced(fast) > 0
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(fast(images), expected, rtol=1e-4, atol=1e-6)


def test_the_model_stays_as_it_is() -> None:
    model = pruned("test_resnet")
    before = copy.deepcopy(model.state_dict())
    compress_rows(model, torch.zeros(1, 3, 32, 32))
    assert replaced(model) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_with_few_zeros_stay_dense() -> None:
    model, images = pruned("test_resnet", 0.5), torch.zeros(1, 3, 32, 32)
    assert replaced(compress_rows(model, images)) == 0
    assert replaced(compress_rows(model, images, from_sparsity=0.5)) > 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)},
    ],
)
def test_a_convolution_of_any_shape(options: dict[str, Any], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, bias=bias, **options)
    images = torch.randn(2, 4, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(RowsConv2d(layer)(images), layer(images))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 300, 5), (2, 3, 4, 5)])
def test_a_linear_layer_of_any_input(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 7, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(RowsLinear(layer)(x), layer(x))


class Odd(nn.Module):
    """Layers that cannot be replaced: grouped, padded otherwise, a variant, used by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.padded = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.variant = Doubling(4, 4)
        self.by_weight = nn.Linear(4, 4)
        self.usual = nn.Linear(4, 4)
        for parameter in self.parameters():
            parameter.data.view(-1)[1:] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.same(self.padded(self.grouped(x))).mean((2, 3))
        x = nn.functional.linear(self.variant(x), self.by_weight.weight)
        out: torch.Tensor = self.usual(x)
        return out


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_what_cannot_be_replaced_stays() -> None:
    torch.manual_seed(0)
    model, images = Odd().eval(), torch.randn(2, 4, 6, 6)
    fast = compress_rows(model, images)
    kinds = [name for name, m in fast.named_modules() if isinstance(m, (RowsLinear, RowsConv2d))]
    assert kinds == ["model.usual"]
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images))
