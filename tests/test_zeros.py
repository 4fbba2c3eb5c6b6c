"""Zeros stay zero, whatever the optimiser, and whatever else goes on while the model is trained."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from toys import CPU, PLAIN_DESCENT, Watching, a_split, tiny_model, training

from ceag_cli.evaluation import Compute
from ceag_cli.masks import Masks
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import GradualPruning, IterativePruning, magnitude_uniform
from ceag_cli.runs import Run
from ceag_cli.training import Training

EPOCHS = 4


def revived(model: nn.Module, masks: Masks) -> int:
    """Pruned weights with any bit set, that of -0.0 included."""
    return sum(
        int(model.get_parameter(name).detach()[mask].view(torch.int32).count_nonzero())
        for name, mask in masks.pruned.items()
    )


def by_magnitude(model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
    return magnitude_uniform(model, prunable_parameters(model), sparsity, on_the_way=on_the_way)


def a_training(folder: Path, schedule: str, look: Watching, changes: dict[str, Any]) -> Training:
    """Training of a model that is pruned already, or is pruned on the way to 80 %."""

    def a_model(seed: int) -> nn.Module:
        # On a CPU, torch 2.14 makes NaN gradients in bfloat16 of a 3x3 convolution with stride 2
        # on a single pixel, which is what the last stage of this ResNet sees.
        vit = changes["compute"].amp
        return tiny_model("test_vit", seed, img_size=16) if vit else tiny_model("test_resnet", seed)

    model = a_model(seed=0)
    given: dict[str, Any] = {}
    if schedule == "pruned":
        given["masks"] = by_magnitude(model, 0.8)
    elif schedule == "cubic":
        given["schedule"] = GradualPruning.of(model, prunable_parameters(model), 0.8, EPOCHS - 1)
    else:
        early = a_model(seed=9).state_dict() if schedule == "rewind" else None
        given["schedule"] = IterativePruning(by_magnitude, 0.8, 2, EPOCHS // 2, early=early)
        given["cycle"] = EPOCHS // 2
    return training(folder, model, epochs=EPOCHS, objective=look, **given, **changes)


OPTIMISERS = [
    {"opt": "sgd", "momentum": 0.9, "lr": 0.01},
    {"opt": "momentum", "momentum": 0.9, "lr": 0.01},
    {"opt": "adamw", "lr": 0.001},
    {"opt": "lamb", "lr": 0.001},
    {"opt": "rmsprop", "lr": 0.0001},
]


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.sampled_from(["pruned", "cubic", "iterative", "rewind"]),
    optimiser=st.sampled_from(OPTIMISERS),
    weight_decay=st.sampled_from([0.0, 0.1]),
    averages=st.booleans(),
    amp=st.booleans(),
    accumulated=st.integers(1, 4),
    clipped=st.booleans(),
    stopped_after=st.sampled_from([None, 1, 2, 3]),
)
def test_no_pruned_weight_ever_comes_back(
    schedule: str,
    optimiser: dict[str, Any],
    weight_decay: float,
    averages: bool,
    amp: bool,
    accumulated: int,
    clipped: bool,
    stopped_after: int | None,
) -> None:
    changes = optimiser | {
        "weight_decay": weight_decay,
        "model_ema": averages,
        "grad_accum_steps": accumulated,
        "clip_grad": 1.0 if clipped else None,
        "compute": Compute(CPU, amp=amp, batch_size=8),
    }
    found: list[int] = []
    current: list[Training] = []

    def look() -> None:  # in every batch, before the weights move again
        one = current[-1]
        assert one.masks is not None
        found.append(revived(one.model, one.masks))
        if one.averaged is not None:
            found.append(revived(one.averaged.module, one.masks))

    with tempfile.TemporaryDirectory() as folder:
        if stopped_after is not None:
            stopped: dict[str, Any] = {}

            def save_and_stop(self: Run, state: dict[str, Any], log: list[dict[str, Any]]) -> None:
                stopped.update(state, log=list(log))
                if state["epoch"] == stopped_after:
                    raise KeyboardInterrupt

            current.append(a_training(Path(folder), schedule, Watching(look), changes))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Run, "save_state", save_and_stop)
                with pytest.raises(KeyboardInterrupt):
                    current[-1].fit(None)
            for name in [None, "averaged"] if averages else [None]:
                kept = stopped["model" if name is None else name]
                for key, mask in stopped["masks"].items():
                    found.append(int(kept[key][mask].count_nonzero()))
            current.append(a_training(Path(folder), schedule, Watching(look), changes))
            current[-1].fit(stopped)
        else:
            current.append(a_training(Path(folder), schedule, Watching(look), changes))
            current[-1].fit(None)
    one = current[-1]
    assert one.masks is not None
    found.append(revived(one.model, one.masks))
    assert found == [0] * len(found)
    assert len(found) > 3
    assert one.masks.sparsity == pytest.approx(0.8, abs=0.01)
    # And the others did move.
    for name, mask in one.masks.pruned.items():
        assert bool((one.model.get_parameter(name)[~mask] != 0).all())


# Gradient accumulation


class Linear(nn.Module):
    """One layer without BatchNorm, so that a batch can be taken in parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(768, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("batch_size", "steps"), [(24, 1), (12, 2), (8, 3), (4, 6)])
def test_equal_batches_taken_together_are_one_batch(
    tmp_path: Path, batch_size: int, steps: int
) -> None:
    changes = PLAIN_DESCENT | {"lr": 0.1, "hflip": 0.0, "grad_accum_steps": steps}
    model = Linear()
    training(tmp_path, model, epochs=2, batch_size=batch_size, **changes).fit(None)
    expected = Linear()
    whole = PLAIN_DESCENT | {"lr": 0.1, "hflip": 0.0}
    training(tmp_path, expected, epochs=2, batch_size=24, **whole).fit(None)
    assert torch.allclose(model.fc.weight, expected.fc.weight, atol=1e-6)
    assert not torch.equal(expected.fc.weight, Linear().fc.weight)


def test_what_is_left_at_the_end_of_an_epoch_is_averaged_too(tmp_path: Path) -> None:
    """Five batches, three at a time: a step on the first three and one on the last two."""
    changes = PLAIN_DESCENT | {"lr": 0.1, "hflip": 0.0}
    model, split = Linear(), a_split(20)
    seen: list[int] = []
    watching = Watching()
    one = training(
        tmp_path,
        model,
        split=split,
        epochs=1,
        batch_size=4,
        grad_accum_steps=3,
        objective=watching,
        **changes,
    )
    step = one.optimizer.step

    def counted(*arguments: Any) -> Any:
        seen.append(len(watching.seen))
        return step(*arguments)

    one.optimizer.step = counted  # type: ignore[assignment,method-assign]
    one.fit(None)
    assert seen == [3, 5]

    order = torch.randperm(20, generator=torch.Generator().manual_seed((1 << 24) + 1))
    expected = Linear()
    pixels: Any = split.images
    for rows in (order[:12], order[12:]):
        inputs = (pixels.pixels[rows].float() / 255 - 0.5) / 0.5
        loss = functional.cross_entropy(expected(inputs), split.targets[rows])
        gradient, bias = torch.autograd.grad(loss, [expected.fc.weight, expected.fc.bias])
        with torch.no_grad():
            expected.fc.weight.sub_(0.1 * gradient)
            expected.fc.bias.sub_(0.1 * bias)
    assert torch.allclose(model.fc.weight, expected.fc.weight, atol=1e-6)


# Moving averages


def test_the_averages_by_hand(tmp_path: Path) -> None:
    """They start as a copy, and weigh the old ones by 1 - (1 + t)^(-2/3) at most the decay."""
    trace: list[Tensor] = []
    model = Linear()
    watching = Watching(lambda: trace.append(model.fc.weight.detach().clone()))
    given = {"lr": 0.1, "model_ema": True, "model_ema_decay": 0.5}
    one = training(tmp_path, model, epochs=2, objective=watching, **(PLAIN_DESCENT | given))
    step = one.optimizer.step

    def last(*arguments: Any) -> Any:
        step(*arguments)
        trace[-1] = model.fc.weight.detach().clone()

    one.optimizer.step = last  # type: ignore[assignment,method-assign]
    one.fit(None)
    assert len(trace) == 6  # the weights after each step
    expected = trace[0]
    for t, weights in enumerate(trace[1:], start=1):
        decay = min(0.5, 1 - (1 + t) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * weights
    assert torch.allclose(model.fc.weight, expected, atol=1e-6)
    assert not torch.equal(model.fc.weight, trace[-1])


def test_with_a_decay_of_zero_they_are_the_weights(tmp_path: Path) -> None:
    models = [tiny_model("test_resnet") for _ in range(2)]
    for model, more in zip(models, ({}, {"model_ema": True, "model_ema_decay": 0.0}), strict=True):
        training(tmp_path, model, **more).fit(None)
    plain, averaged = (model.state_dict() for model in models)
    assert all(torch.equal(plain[name], averaged[name]) for name in plain)


def test_a_new_round_begins_new_averages(tmp_path: Path) -> None:
    """Else weights from before the rewinding would be in them."""
    model = tiny_model("test_resnet")
    early = {name: torch.full_like(value, 7) for name, value in model.state_dict().items()}
    schedule = IterativePruning(by_magnitude, 0.75, 2, 1, early=early)
    seen: set[float] = set()

    def look() -> None:
        assert one.averaged is not None
        seen.update(one.averaged.module.get_parameter("layer1.0.conv1.weight").flatten().tolist())

    still = {"lr": 1e-30, "weight_decay": 0.0, "model_ema": True, "model_ema_decay": 0.999}
    one = training(
        tmp_path, model, epochs=2, cycle=1, schedule=schedule, objective=Watching(look), **still
    )
    one.fit(None)
    assert seen == {0.0, 7.0}
