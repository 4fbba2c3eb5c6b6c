"""Any timm model can be pruned: a small model of every family goes through the whole of it.

`make families` takes the smallest variant of each of timm's modules, which takes long; `make test`
takes some that are small.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from ceag_cli import PruneOptions, prune
from ceag_cli.inputs import open_checkpoint
from ceag_cli.masks import Masks
from ceag_cli.options import AuditOptions
from ceag_cli.progress import Quiet
from ceag_cli.prunable import classifier_names, first_layer_names, layer_weights
from ceag_cli.pruned import masks_of

SAMPLE = (
    *("test_byobnet", "test_coatnet", "test_convnext", "test_efficientnet", "test_mambaout"),
    *("test_maxvit", "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos"),
    *("mobilenetv3_small_050", "levit_128s", "ghostnet_050", "xcit_nano_12_p16_224"),
)
SIZES = (32, 64, 96, 128, 160, 192, 224, 256)


def smallest_of(module: str) -> str:
    """The model of a timm module with the fewest parameters, counted without memory."""
    counts = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
    return min(counts, key=lambda name: counts[name])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--every-family")
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", timm.list_modules() if every else SAMPLE)


def built(name: str) -> tuple[nn.Module, int, dict[str, int]]:
    """A model with random weights, the smallest input that it takes, and its argument for that."""
    failure: Exception = AssertionError("no size was tried")
    own = int(timm.get_pretrained_cfg(name).input_size[-1])  # type: ignore[union-attr]
    for size in sorted({*(size for size in SIZES if size < own), own}):
        given: tuple[dict[str, int], ...] = ({"img_size": size}, {})
        for arguments in given:
            try:
                model: nn.Module = timm.create_model(
                    name,
                    num_classes=10,
                    **arguments,  # type: ignore[arg-type]
                )
                model.eval()(torch.zeros(1, 3, size, size))
                return model, size, arguments
            except Exception as error:
                failure = error
    raise failure


@torch.inference_mode()
def test_a_model_of_every_family_is_pruned_saved_and_loaded(family: str, tmp_path: Path) -> None:
    name = smallest_of(family) if family in timm.list_modules() else family
    torch.manual_seed(0)
    model, size, arguments = built(name)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # some start at zero, which no trained weight is
            nn.init.normal_(parameter, std=0.02)
    dense = model.state_dict()
    source = tmp_path / "dense.safetensors"
    safetensors.torch.save_file({k: v.clone().contiguous() for k, v in dense.items()}, source)
    options = PruneOptions(
        checkpoint=str(source),
        model=name,
        num_classes=10,
        **arguments,
        sparsity=0.9,
        output=f"{tmp_path}/pruned/",
    )
    result = prune(options)

    after = safetensors.torch.load_file(result.output)
    assert after.keys() == dense.keys()
    pruned = {t.name: t.zeros for t in result.by_tensor if t.dense_because is None}
    assert pruned
    shared = {dense[key].data_ptr() for key in pruned}
    for key, value in dense.items():
        if key in pruned:
            zeros = int((after[key] == 0).sum())
            assert zeros == pruned[key] == math.ceil(Fraction(9, 10) * value.numel()), key
        elif value.data_ptr() not in shared:  # else it is another name of a pruned one
            assert torch.equal(after[key], value), key
    weights = layer_weights(model)
    assert set(pruned) == {key for key, role in weights.items() if role is None}
    for kept in classifier_names(model) | first_layer_names(model):
        assert not any(key == f"{kept}.weight" for key in pruned)
    assert all(after[key].ndim > 1 for key in pruned)

    # Plain timm loads it, and it gives finite answers.
    plain = timm.create_model(f"local-dir:{tmp_path}/pruned", pretrained=True).eval()
    assert all(torch.equal(value, after[key]) for key, value in plain.state_dict().items())
    answer: Any = plain(torch.rand(2, 3, size, size))
    assert answer.shape == (2, 10)
    assert bool(answer.isfinite().all())

    # The mask is in the file.
    reread = masks_of(open_checkpoint(result.output, AuditOptions(), Quiet()))
    assert reread.sha256() == Masks.from_zeros(plain, pruned).sha256()
