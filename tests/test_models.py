import json
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from toys import tiny_model

from ceag_cli.distributed import device_of
from ceag_cli.errors import CheckpointError, OptionError
from ceag_cli.models import create, describe, from_config, model_kwargs
from ceag_cli.preprocessing import preprocessing_of
from ceag_cli.prunable import classifier_names, first_layer_names, prunable_parameters
from ceag_cli.sharedoptions import ArchitectureOptions, PreprocessingOptions

SMALL: dict[str, Any] = {"channels": (8, 8, 8, 8)}
"""Arguments that make a resnet18 of 12,000 parameters."""


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


# What pruning may touch


def test_convolutions_and_linear_layers_are_prunable_but_for_the_first_and_the_classifier() -> None:
    model = tiny_model("resnet18", **SMALL)
    assert prunable_parameters(model) == [
        "layer1.0.conv1.weight",
        "layer1.0.conv2.weight",
        "layer1.0.downsample.0.weight",
        "layer1.1.conv1.weight",
        "layer1.1.conv2.weight",
        "layer2.0.conv1.weight",
        "layer2.0.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.1.conv1.weight",
        "layer2.1.conv2.weight",
        "layer3.0.conv1.weight",
        "layer3.0.conv2.weight",
        "layer3.0.downsample.0.weight",
        "layer3.1.conv1.weight",
        "layer3.1.conv2.weight",
        "layer4.0.conv1.weight",
        "layer4.0.conv2.weight",
        "layer4.0.downsample.0.weight",
        "layer4.1.conv1.weight",
        "layer4.1.conv2.weight",
    ]
    assert first_layer_names(model) == {"conv1"}
    assert classifier_names(model) == {"fc"}


def test_of_a_deep_stem_only_the_first_convolution_stays_dense() -> None:
    """timm calls the first layer ``conv1``, which is a sequence of three convolutions here."""
    model = tiny_model("resnet18", stem_type="deep", stem_width=8, **SMALL)
    assert first_layer_names(model) == {"conv1.0"}
    stem = [name for name in prunable_parameters(model) if name.startswith("conv1.")]
    assert stem == ["conv1.3.weight", "conv1.6.weight"]


def test_a_transformer_keeps_its_patches_tokens_positions_norms_and_biases() -> None:
    """Six blocks of four linear layers each."""
    model = tiny_model("test_vit", img_size=16)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert prunable_parameters(model) == [
        f"blocks.{block}.{layer}.weight" for block in range(6) for layer in layers
    ]
    left = {name for name, tensor in parameters(model).items() if tensor.ndim > 1}
    assert left - set(prunable_parameters(model)) == {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "head.weight",
    }


def test_both_heads_of_a_distilled_model_stay_dense() -> None:
    model = tiny_model("deit_tiny_distilled_patch16_224", depth=1, img_size=32)
    assert classifier_names(model) == {"head", "head_dist"}
    assert prunable_parameters(model) == [
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
    ]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", SMALL),
        ("test_resnet", {}),
        ("test_vit", {"img_size": 32}),
        ("test_vit2", {"img_size": 32}),
        ("test_efficientnet", {}),
        ("test_convnext", {}),
        ("test_byobnet", {}),
        ("test_mambaout", {}),
    ],
)
def test_of_every_family_exactly_the_first_layer_the_classifier_and_no_vector_are_kept(
    name: str, arguments: dict[str, Any]
) -> None:
    model = timm.create_model(name, num_classes=3, **arguments)
    modules = dict(model.named_modules())
    layers = [
        f"{path}.weight"
        for path, module in modules.items()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    chosen = prunable_parameters(model)
    kept = [layer for layer in layers if layer not in chosen]
    assert len(kept) == 2
    assert kept[0] == layers[0]
    assert parameters(model)[kept[1]].shape[0] == 3
    assert all(parameters(model)[layer].ndim > 1 for layer in chosen)
    assert chosen == [layer for layer in layers if layer in chosen]


def test_a_weight_shared_by_two_layers_is_listed_once() -> None:
    model = tiny_model("test_vit", img_size=16)
    before = prunable_parameters(model)
    blocks: Any = model.blocks
    blocks[1].mlp.fc1.weight = blocks[0].mlp.fc1.weight
    assert prunable_parameters(model) == [
        name for name in before if name != "blocks.1.mlp.fc1.weight"
    ]


def test_a_model_of_one_layer_has_nothing_to_prune() -> None:
    model = tiny_model("test_resnet")
    one = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    one.pretrained_cfg = model.pretrained_cfg | {"first_conv": None, "classifier": "1"}  # type: ignore[operator]
    assert prunable_parameters(one) == []


# Building


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stem_width=8", {"stem_width": 8}),
        ("stem_type=deep", {"stem_type": "deep"}),
        ("channels=8+16+32+64", {"channels": [8, 16, 32, 64]}),
        ("drop_rate=0.5", {"drop_rate": 0.5}),
        ("qkv_bias=false", {"qkv_bias": False}),
        ("norm_layer=null", {"norm_layer": None}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_model_kwargs_are_read_as_yaml(text: str, expected: dict[str, Any]) -> None:
    assert model_kwargs(ArchitectureOptions(model_kwargs=(text,))) == expected


def test_several_model_kwargs_are_joined() -> None:
    options = ArchitectureOptions(model_kwargs=("a=1", "b=two"))
    assert model_kwargs(options) == {"a": 1, "b": "two"}
    assert model_kwargs(ArchitectureOptions()) == {}


@pytest.mark.parametrize("item", ["depth", "=3", ""])
def test_what_is_not_name_and_value_is_refused(item: str) -> None:
    with pytest.raises(OptionError, match=f"--model-kwargs: '{item}' is not of the form"):
        model_kwargs(ArchitectureOptions(model_kwargs=(item,)))


@pytest.mark.parametrize("value", ["[1", "'x", "{a"])
def test_a_value_that_is_not_yaml_is_refused(value: str) -> None:
    with pytest.raises(OptionError, match="--model-kwargs"):
        model_kwargs(ArchitectureOptions(model_kwargs=(f"depth={value}",)))


def test_arguments_reach_the_model() -> None:
    model = create("resnet18", num_classes=5, arguments={"channels": [8, 8, 8, 16]})
    assert parameters(model)["fc.weight"].shape == (5, 16)


def test_grey_input_makes_a_first_layer_of_one_channel() -> None:
    model = create("test_resnet", num_classes=3, in_chans=1)
    assert parameters(model)["conv1.0.weight"].shape[1] == 1
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


def test_an_image_size_sets_a_transformers_positions_and_leaves_others_alone() -> None:
    """16 patches of 16 pixels and the class token."""
    model = create("test_vit", num_classes=3, img_size=64)
    assert parameters(model)["pos_embed"].shape[1] == 17
    create("test_resnet", num_classes=3, img_size=64)


def test_a_model_that_timm_has_not_is_named_with_near_ones() -> None:
    with pytest.raises(CheckpointError, match=r"timm has no model 'resnet81'; did you mean resnet"):
        create("resnet81", num_classes=3)


@pytest.mark.parametrize("img_size", [None, 32])
def test_an_argument_that_the_model_does_not_take_is_named(img_size: int | None) -> None:
    with pytest.raises(CheckpointError, match=r"timm cannot build 'test_resnet' with .*colour"):
        create("test_resnet", num_classes=3, img_size=img_size, arguments={"colour": 1})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_resnet", {"in_chans": 1}),
        ("test_vit", {"img_size": 32}),
        ("resnet18", {"stem_type": "deep", "stem_width": 8, **SMALL}),
    ],
)
def test_a_described_model_is_built_again_the_same(name: str, arguments: dict[str, Any]) -> None:
    model = tiny_model(name, num_classes=7, **arguments)
    preprocessing = preprocessing_of(
        model, PreprocessingOptions(in_chans=arguments.get("in_chans"))
    )
    config = json.loads(json.dumps(describe(model, preprocessing, list("abcdefg"))))
    assert config["architecture"] == name
    assert config["num_classes"] == 7
    assert config["label_names"] == list("abcdefg")
    again = from_config(config)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == shapes
    assert preprocessing_of(again) == preprocessing
    assert prunable_parameters(again) == prunable_parameters(model)


# Preprocessing


def test_without_flags_the_preprocessing_is_the_models() -> None:
    found = preprocessing_of(tiny_model("test_resnet"))
    assert found.input_size == (3, 160, 160)
    assert found.mean == (0.5, 0.5, 0.5)
    assert found.std == (0.5, 0.5, 0.5)
    assert found.interpolation == "bilinear"
    assert found.crop_pct == 0.95


def test_flags_change_the_preprocessing_one_by_one() -> None:
    model = tiny_model("test_resnet")
    options = PreprocessingOptions(
        img_size=32, mean=(0.1, 0.2, 0.3), std=(0.4,), interpolation="bicubic", crop_pct=1.0
    )
    found = preprocessing_of(model, options)
    assert found.input_size == (3, 32, 32)
    assert found.mean == (0.1, 0.2, 0.3)
    assert found.std == (0.4, 0.4, 0.4)
    assert found.interpolation == "bicubic"
    assert found.crop_pct == 1.0
    assert preprocessing_of(model, PreprocessingOptions(img_size=32)).mean == (0.5, 0.5, 0.5)


def test_the_preprocessing_of_grey_input_is_the_average_over_the_colours() -> None:
    model = tiny_model("resnet18", in_chans=1, **SMALL)
    found = preprocessing_of(model, PreprocessingOptions(in_chans=1))
    assert found.input_size == (1, 224, 224)
    assert found.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert found.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))


def test_channels_survive_an_image_size() -> None:
    found = preprocessing_of(
        tiny_model("test_resnet", in_chans=1), PreprocessingOptions(img_size=16, in_chans=1)
    )
    assert found.input_size == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PreprocessingOptions(mean=(0.5, 0.5)), "--mean: 2 values for 3 input channels"),
        (PreprocessingOptions(std=(0.5,) * 4), "--std: 4 values for 3 input channels"),
        (PreprocessingOptions(mean=()), "--mean: 0 values for 3 input channels"),
        (
            PreprocessingOptions(in_chans=1, mean=(0.1, 0.2, 0.3)),
            "--mean: 3 values for 1 input channels",
        ),
        (PreprocessingOptions(in_chans=4), "--in-chans: images have 1 or 3 channels, not 4"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(
    options: PreprocessingOptions, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        preprocessing_of(tiny_model("test_resnet"), options)


def test_the_transform_gives_pixels_of_the_size_asked_for() -> None:
    found = preprocessing_of(tiny_model("test_resnet"), PreprocessingOptions(img_size=24))
    pixels = found.transform()(Image.new("RGB", (50, 40), (10, 20, 30)))
    pixels = torch.as_tensor(pixels)
    assert pixels.shape == (3, 24, 24)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 12, 12].tolist() == [10, 20, 30]


def test_preprocessing_is_said_in_one_line() -> None:
    options = PreprocessingOptions(img_size=16, in_chans=1, mean=(0.5,), std=(0.25,), crop_pct=1)
    model = tiny_model("test_resnet", in_chans=1)
    assert str(preprocessing_of(model, options)) == (
        "16x16, 1 channel, mean 0.5, std 0.25, bilinear, crop 1 center"
    )


# Devices


def test_the_device_is_the_one_asked_for() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(OptionError, match=f"--device: '{name}' cannot be used"):
        device_of(name)
