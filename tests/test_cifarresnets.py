"""ResNets for CIFAR: the architecture, timm's interface, and files in the layouts of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models._manipulate import group_parameters
from torch import Tensor, nn
from toys import done, write_images

from ceag_cli import cifarresnets
from ceag_cli.statedicts import read_state

NAMES = [f"cifar_resnet{depth}{option}" for depth in (20, 32, 44, 56) for option in "ab"]
Array = np.ndarray[Any, np.dtype[np.float64]]


def made(name: str = "cifar_resnet20a", seed: int = 0, **arguments: Any) -> nn.Module:
    """A model whose BatchNorm has seen something, in evaluation mode."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model.eval()


def as_akamaster(model: nn.Module) -> dict[str, Tensor]:
    """The layout of akamaster/pytorch_resnet_cifar10, from DataParallel and an old PyTorch."""
    return {
        "module." + key.replace("fc.", "linear.").replace("downsample", "shortcut"): value
        for key, value in model.state_dict().items()
        if "num_batches_tracked" not in key
    }


def test_they_are_in_timms_namespace_under_names_of_their_own() -> None:
    assert sorted(timm.list_models("cifar_*")) == NAMES
    assert sorted(timm.list_models(module="cifarresnets")) == NAMES
    assert all(timm.is_model(name) for name in NAMES)


# The convolutions of ResNet-20 by hand: 3*16*9 + 6*16*16*9 + (16*32 + 5*32*32)*9 +
# (32*64 + 5*64*64)*9 = 267,696; two numbers for each of 7*16 + 6*32 + 6*64 channels; 64*10 + 10.
@pytest.mark.parametrize(
    ("layers", "count", "paper"),
    [
        (20, 267_696 + 1_376 + 650, "0.27"),
        (32, 464_154, "0.46"),
        (44, 658_586, "0.66"),
        (56, 853_018, "0.85"),
    ],
)
def test_they_have_as_many_weights_as_the_paper_says(layers: int, count: int, paper: str) -> None:
    def weights(option: str) -> int:
        model = timm.create_model(f"cifar_resnet{layers}{option}", num_classes=10)
        assert sum(
            isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()
        ) == (layers - 1)
        return sum(parameter.numel() for parameter in model.parameters())

    assert weights("a") == count
    assert f"{count / 1e6:.2f}" == paper
    # Option B has two 1x1 convolutions and two numbers for each of their outputs.
    assert weights("b") == count + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_shortcuts_of_option_a_are_the_input_among_zeros() -> None:
    shortcut = cifarresnets.PaddedIdentity(2, 4, 2)
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    zero = torch.zeros(2, 2)
    expected = torch.stack([zero, torch.tensor([[0.0, 2], [6, 8]]), x[0, 1, ::2, ::2], zero])
    assert torch.equal(shortcut(x)[0], expected)
    assert list(shortcut.parameters()) == []


# The whole network once more, in numpy, by the names of akamaster's files.


def convolved(x: Array, weight: Array, stride: int) -> Array:
    size = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
    height, width = ((length - 1) // stride + 1 for length in x.shape[1:])
    out = np.zeros((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            seen = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.tensordot(weight, seen, 3)
    return out


def answers(state: Mapping[str, Array], x: Array, blocks: int) -> Array:
    def conv(x: Array, name: str, stride: int = 1) -> Array:
        return convolved(x, state[f"module.{name}.weight"], stride)

    def norm(x: Array, name: str) -> Array:
        parts = ("weight", "bias", "running_mean", "running_var")
        scale, shift, mean, variance = (state[f"module.{name}.{p}"][:, None, None] for p in parts)
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift

    x = np.maximum(norm(conv(x, "conv1"), "bn1"), 0)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = np.maximum(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"), 0)
            inner = norm(conv(inner, f"{name}.conv2"), f"{name}.bn2")
            if f"module.{name}.shortcut.0.weight" in state:
                x = norm(conv(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
            elif stride == 2:
                quarter = len(inner) // 4
                x = np.pad(x[:, ::2, ::2], ((quarter, quarter), (0, 0), (0, 0)))
            x = np.maximum(inner + x, 0)
    pooled = x.mean(axis=(1, 2))
    logits: Array = state["module.linear.weight"] @ pooled + state["module.linear.bias"]
    return logits


@pytest.mark.parametrize("name", ["cifar_resnet20a", "cifar_resnet20b"])
def test_they_compute_what_the_paper_describes(name: str) -> None:
    model = made(name, num_classes=5).double()
    state = {key: value.numpy() for key, value in as_akamaster(model).items()}
    image = torch.randn(3, 10, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = model(image[None])[0].numpy()
    np.testing.assert_allclose(found, answers(state, image.numpy(), 3), rtol=1e-9)


# timm's interface.


def preprocessing(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return found


def test_preprocessing_and_classes_go_by_the_tag() -> None:
    for name in ("cifar_resnet56a", "cifar_resnet56b", "cifar_resnet56b.cifar100"):
        model = timm.create_model(name)
        config = preprocessing(model)
        assert model.num_classes == 100
        assert config["input_size"] == (3, 32, 32)
        assert config["mean"] == (0.5070, 0.4865, 0.4409)
        assert config["std"] == (0.2673, 0.2564, 0.2761)
        assert config["crop_pct"] == 1.0
    ten = timm.create_model("cifar_resnet56b.cifar10")
    assert ten.num_classes == 10
    assert preprocessing(ten)["mean"] == (0.4914, 0.4822, 0.4465)
    # The only ones of option A that are published were trained with ImageNet's statistics.
    other = preprocessing(timm.create_model("cifar_resnet56a.cifar10"))
    assert other["mean"] == (0.485, 0.456, 0.406)
    # No star, no weights: nothing is published for option A and CIFAR-100.
    assert timm.list_models("cifar_resnet20*", pretrained=True) == [
        "cifar_resnet20a.cifar10",
        "cifar_resnet20b.cifar10",
        "cifar_resnet20b.cifar100",
    ]


@torch.inference_mode()
def test_features_and_head_come_apart() -> None:
    model: Any = made("cifar_resnet20a", in_chans=1, num_classes=7)
    images = torch.randn(2, 1, 33, 32)
    features = model.forward_features(images)
    assert features.shape == (2, 64, 9, 8)
    assert model.num_features == model.head_hidden_size == 64
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.equal(pooled, features.mean((2, 3)))
    assert torch.equal(model(images), model.get_classifier()(pooled))
    model.reset_classifier(0)
    assert torch.equal(model(images), pooled)
    model.reset_classifier(3, "catavgmax")
    assert model(images).shape == (2, 3)
    assert model.head_hidden_size == 128
    model.reset_classifier(0, "")
    assert torch.equal(model(images), features)
    assert [x.shape[1:] for x in made(features_only=True)(torch.randn(1, 3, 32, 32))] == [
        (16, 32, 32),
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
    ]


def test_dropout_is_before_the_classifier_and_off_in_evaluation() -> None:
    model: Any = made("cifar_resnet20a", drop_rate=1.0, num_classes=4)
    features = torch.randn(2, 64, 8, 8)
    assert not torch.equal(model.forward_head(features)[0], model.fc.bias)
    assert torch.equal(model.train().forward_head(features)[0], model.fc.bias)


def test_parameters_belong_to_the_stem_a_block_or_the_rest() -> None:
    model: Any = made("cifar_resnet20b")
    for coarse, groups in ((False, 1 + 9 + 1), (True, 1 + 3 + 1)):
        found = group_parameters(model, model.group_matcher(coarse))
        assert len(found) == groups
        names = [name for group in found.values() for name in group]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    first, *_, last = found.values()
    assert sorted(first) == ["bn1.bias", "bn1.weight", "conv1.weight"]
    assert sorted(last) == ["fc.bias", "fc.weight"]


def test_gradients_are_the_same_when_activations_are_computed_twice() -> None:
    images, gradients = torch.randn(2, 3, 16, 16), []
    for checkpointing in (False, True):
        model: Any = made("cifar_resnet20b", num_classes=3)
        model.set_grad_checkpointing(checkpointing)
        model(images).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other)


# Files of others.


@pytest.mark.parametrize("name", ["cifar_resnet20a", "cifar_resnet20b"])
def test_timm_itself_reads_the_layout_of_akamaster(name: str, tmp_path: Path) -> None:
    model = made(name, num_classes=10)
    torch.save({"state_dict": as_akamaster(model), "best_prec1": 91.7}, tmp_path / "resnet20.th")
    source = {"file": str(tmp_path / "resnet20.th")}
    read = timm.create_model(f"{name}.cifar10", pretrained=True, pretrained_cfg_overlay=source)
    for key, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[key], value), key


def adopted(file: Path, name: str, folder: Path) -> dict[str, Tensor]:
    """The weights after ``ceag dense --epochs 0``, and then through prune and audit."""
    write_images(folder, size=32)
    (folder / "names.txt").write_text("blue\ngreen\nred\n")
    data = ("--groups", folder / "labels.csv", "--class-map", folder / "names.txt")
    dense = folder / "model.safetensors"
    done("dense", "--checkpoint", file, "--model", name, "--epochs", "0", *data, "-o", dense)
    done("prune", dense, "--sparsity", "0.5")
    result = done("audit", folder / "model.pruned.safetensors", "--gate", "point", "--eps", "1")
    assert "PASS" in result.output
    return read_state(dense)[0]


def test_a_file_of_akamaster_is_adopted_pruned_and_audited(tmp_path: Path) -> None:
    model = made("cifar_resnet20a", num_classes=3)
    file = tmp_path / "resnet20-12fca82f.th"
    torch.save({"state_dict": as_akamaster(model), "best_prec1": torch.tensor(91.7)}, file)
    found = adopted(file, "cifar_resnet20a", tmp_path)
    assert found.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value), key


def test_a_file_of_chenyaofo_is_adopted_pruned_and_audited(tmp_path: Path) -> None:
    model = made("cifar_resnet20b", num_classes=3)
    assert model.state_dict()["layer2.0.downsample.0.weight"].shape == (32, 16, 1, 1)
    file = tmp_path / "cifar100_resnet20-23dac2f1.pt"
    torch.save(model.state_dict(), file)
    found = adopted(file, "cifar_resnet20b", tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value), key
    pruned, _, _ = read_state(tmp_path / "model.pruned.safetensors")
    for key in ("conv1.weight", "fc.weight"):
        assert torch.equal(pruned[key], found[key])
    assert int((pruned["layer3.0.downsample.0.weight"] == 0).sum()) == 32 * 64 // 2


def test_the_dense_model_of_an_audit_may_be_such_a_file(tmp_path: Path) -> None:
    """A pruned model says of what file it was made, and that one is read as it was then."""
    write_images(tmp_path, size=32)
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n")
    file = tmp_path / "resnet20.th"
    torch.save({"state_dict": as_akamaster(made("cifar_resnet20a", num_classes=3))}, file)
    pruned = tmp_path / "pruned.safetensors"
    done("prune", file, "--model", "cifar_resnet20a", "--sparsity", "0.5", "-o", pruned)
    data = ("--groups", tmp_path / "labels.csv", "--class-map", tmp_path / "names.txt")
    done("audit", pruned, *data, "--gate", "point", "--eps", "1")


def test_such_a_file_is_fine_tuned_with_another_classifier(tmp_path: Path) -> None:
    model = made("cifar_resnet20a", num_classes=10)
    file = tmp_path / "resnet20.th"
    torch.save({"state_dict": as_akamaster(model)}, file)
    data = ("--groups", write_images(tmp_path, size=32), "--lr", "1e-9", "--weight-decay", "0")
    start = ("--checkpoint", file, "--model", "cifar_resnet20a", "--num-classes", "3")
    done("dense", *start, *data, "--epochs", "1", "-o", tmp_path / "model.safetensors")
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert found["fc.weight"].shape == (3, 64)
    torch.testing.assert_close(
        found["layer3.2.conv2.weight"], model.state_dict()["layer3.2.conv2.weight"]
    )


def test_counters_that_old_files_lack_start_at_zero(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    torch.save(old, tmp_path / "old.pth")
    start = ("dense", "--checkpoint", tmp_path / "old.pth", "--model", "test_resnet")
    done(*start, "--epochs", "0", "-o", tmp_path / "model.safetensors")
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    assert int(found["bn1.num_batches_tracked"]) == 0
