"""Half precision and compiled models: the same training, to within what they round."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import CPU, tiny_model, training

from ceag_cli.errors import OptionError
from ceag_cli.evaluation import Compute
from ceag_cli.optimizers import without_effect
from ceag_cli.options import DenseOptions, MitigateOptions
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import magnitude_uniform
from ceag_cli.runs import Run

FLOAT16 = Compute(CPU, amp=True, amp_dtype=torch.float16, batch_size=8)
COMPILED = Compute(CPU, backend="aot_eager", batch_size=8)


def trained(tmp_path: Path, compute: Compute, **changes: Any) -> nn.Module:
    model = tiny_model("test_vit")
    one = training(tmp_path, model, compute=compute, clip_grad=1.0, **changes)
    if compute.amp_dtype is torch.float16:
        # From 65536, where it begins, it falls until no gradient overflows, and leaves steps out.
        one._scaler.load_state_dict(one._scaler.state_dict() | {"scale": 256.0})
    one.fit(None)
    return model


def furthest(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    ("compute", "off_by"),
    [
        # float16 has 11 bits, bfloat16 8; what a compiler puts in another order rounds at 24.
        (FLOAT16, 0.01),
        (Compute(CPU, amp=True, batch_size=8), 0.1),
        (COMPILED, 1e-5),
    ],
)
def test_training_goes_the_same_way(tmp_path: Path, compute: Compute, off_by: float) -> None:
    plain = trained(tmp_path / "plain", Compute(CPU, batch_size=8))
    moved = furthest(tiny_model("test_vit"), plain)
    assert furthest(plain, trained(tmp_path / "other", compute)) < off_by * moved


class Vanishing(nn.Module):
    """Its gradient is too small for float16, whose smallest number is 6e-8."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(inputs.mean(dim=(2, 3))) * 1e-8
        return found


def test_gradients_too_small_for_float16_are_scaled_up(tmp_path: Path) -> None:
    model = Vanishing()
    before = model.linear.weight.detach().clone()
    one = training(tmp_path, model, compute=FLOAT16, epochs=1, lr=1e6, weight_decay=0.0)
    one.fit(None)
    assert float((model.linear.weight - before).detach().abs().max()) > 0
    assert one._scaler.get_scale() > 1


def test_a_run_in_float16_continues_bit_for_bit(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []

    class Remembering(Run):
        def save_state(self, state: Any, log: Any) -> None:
            states.append(copy.deepcopy(state | {"log": log}))

    run = Remembering(tmp_path / "m.safetensors", {"command": "dense"}, {})
    whole = trained(tmp_path, FLOAT16, run=run)
    continued = tiny_model("test_vit")
    one = training(tmp_path, continued, compute=FLOAT16, clip_grad=1.0)
    one.fit(states[0])
    assert one._scaler.state_dict() == states[1]["scaler"]
    assert furthest(whole, continued) == 0


def test_a_compiled_model_keeps_its_names_and_its_zeros(tmp_path: Path) -> None:
    model = tiny_model("test_vit")
    names = list(model.state_dict())
    masks = magnitude_uniform(model, prunable_parameters(model), 0.9)
    training(tmp_path, model, compute=COMPILED, epochs=1, masks=masks).fit(None)
    assert list(model.state_dict()) == names
    assert masks.sparsity == pytest.approx(0.9, abs=1e-3)
    for name, pruned in masks.pruned.items():
        assert int(model.get_parameter(name)[pruned].count_nonzero()) == 0


def test_an_unknown_backend_is_refused_before_anything_is_read() -> None:
    with pytest.raises(OptionError, match=r"--torchcompile nix: is not one of .*inductor"):
        Compute.of(DenseOptions(torchcompile="nix"))


def test_a_model_that_cannot_be_compiled_is_the_options_fault() -> None:
    class Relu(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.relu(inputs)

    compute, model = Compute(CPU, backend="relu_compile_error_TESTING_ONLY"), Relu()
    compute.place(model)
    with pytest.raises(OptionError, match=r"--torchcompile relu_compile.*leave it out"):
        compute.forward(model, torch.ones(2, 3))


def test_a_dtype_without_amp_has_no_effect() -> None:
    assert without_effect(MitigateOptions(amp_dtype="float16")) == [
        "--amp-dtype has no effect without --amp"
    ]
    assert without_effect(MitigateOptions(amp_dtype="float16", amp=True)) == []
