import argparse
import json
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open
from torch import nn
from toys import tiny_model

from ceag_cli.checkpoints import Checkpoint, load, load_adapted, place, save, writes_config
from ceag_cli.errors import CheckpointError, OutputError
from ceag_cli.lineage import Lineage
from ceag_cli.models import describe
from ceag_cli.preprocessing import preprocessing_of
from ceag_cli.sharedoptions import ArchitectureOptions, PreprocessingOptions
from ceag_cli.statedicts import read_state, write_tensors
from ceag_cli.weightsfiles import read_metadata

LINEAGE = Lineage(stage="dense", version="1", seed=5, recipe={"command": "dense"})
PLAIN = ArchitectureOptions()

DEEP: dict[str, Any] = {"stem_type": "deep", "stem_width": 8, "channels": (8, 8, 8, 8)}


def written(
    path: Path, model: nn.Module, with_config: bool = False, names: str = "abc", **flags: Any
) -> Path:
    """A file as ceag writes it."""
    preprocessing = preprocessing_of(model, PreprocessingOptions(**flags))
    save(path, model, describe(model, preprocessing, list(names)), LINEAGE, with_config)
    return path


def bare(path: Path, model: nn.Module) -> Path:
    """Weights alone, as timm's own tools write them."""
    safetensors.torch.save_file(model.state_dict(), path)
    return path


def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether every tensor is equal to the bit."""
    ours, theirs = model.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def refused(path: Path, options: ArchitectureOptions = PLAIN) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        load(path, options)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


# Round trip


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"in_chans": 1}),
        ("test_vit", {"img_size": 32}),
        ("resnet18", DEEP),
    ],
)
def test_a_written_model_is_read_back_as_it_was(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    model = tiny_model(name, **arguments)
    path = written(tmp_path / "m.safetensors", model, in_chans=arguments.get("in_chans"))
    found = load(path, PLAIN)
    assert same(found.model, model)
    assert found.label_names == ["a", "b", "c"]
    assert found.lineage == LINEAGE
    assert found.architecture_from == "the file's metadata"
    assert found.preprocessing.input_size[0] == arguments.get("in_chans", 3)
    assert found.warnings == []
    assert found.config == json.loads(json.dumps(found.config))


def test_keys_are_timms_and_metadata_is_text(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    path = written(tmp_path / "m.safetensors", model)
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == sorted(model.state_dict())
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["ceag.stage"] == "dense"
    config = json.loads(metadata["ceag.timm"])
    assert config["architecture"] == "test_resnet"
    assert config["num_classes"] == 3
    assert config["label_names"] == ["a", "b", "c"]


def test_all_of_the_preprocessing_travels_with_the_weights(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.safetensors",
        tiny_model("test_resnet", in_chans=1),
        in_chans=1,
        img_size=20,
        mean=(0.25,),
        std=(0.125,),
        interpolation="lanczos",
        crop_pct=0.75,
    )
    found = load(path, PLAIN).preprocessing
    assert found.input_size == (1, 20, 20)
    assert found.mean == (0.25,)
    assert found.std == (0.125,)
    assert found.interpolation == "lanczos"
    assert found.crop_pct == 0.75


def test_flags_beat_the_preprocessing_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", tiny_model("test_resnet"), img_size=20)
    found = load(path, ArchitectureOptions(img_size=24, mean=(0.25,))).preprocessing
    assert found.input_size == (3, 24, 24)
    assert found.mean == (0.25, 0.25, 0.25)


def test_shared_weights_are_written_twice_and_read_back(tmp_path: Path) -> None:
    model: Any = tiny_model("test_vit", img_size=16)
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    found: Any = load(written(tmp_path / "m.safetensors", model), PLAIN).model
    assert torch.equal(found.blocks[1].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
    assert same(found, model)


def test_half_precision_weights_are_read_into_a_float32_model(tmp_path: Path) -> None:
    model = tiny_model("test_resnet").half()
    found = load(bare(tmp_path / "m.safetensors", model), ArchitectureOptions(model="test_resnet"))
    assert {tensor.dtype for tensor in found.model.parameters()} == {torch.float32}


# timm reads what we write


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("test_resnet", {}, (2, 3, 32, 32)),
        ("test_resnet", {"in_chans": 1}, (2, 1, 32, 32)),
        ("test_vit", {"img_size": 32}, (2, 3, 32, 32)),
        ("resnet18", DEEP, (2, 3, 32, 32)),
    ],
)
def test_timm_itself_loads_a_folder_and_gives_identical_outputs(
    tmp_path: Path, name: str, arguments: dict[str, Any], shape: tuple[int, ...]
) -> None:
    model = tiny_model(name, **arguments)
    channels = arguments.get("in_chans")
    path = written(tmp_path / "model.safetensors", model, with_config=True, in_chans=channels)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(inputs), model(inputs))
    assert again.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert load(path, PLAIN).architecture_from == "the file's metadata"


def test_timm_loads_the_file_by_itself_too(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    path = written(tmp_path / "m.safetensors", model)
    again = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(path)).eval()
    assert same(again, model)


# Files that ceag did not write


def test_a_bare_safetensors_file_needs_the_architecture(tmp_path: Path) -> None:
    path = bare(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    assert refused(path) == [
        "its architecture is not known; name it with --model, put timm's config.json beside the "
        "file, or use a file written by ceag"
    ]


@pytest.mark.parametrize("classes", [3, 11])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_bare_safetensors_file_is_read_with_a_model_name(
    tmp_path: Path, classes: int, channels: int
) -> None:
    """The numbers of classes and channels are those of the tensors."""
    model = tiny_model("test_resnet", num_classes=classes, in_chans=channels)
    path = bare(tmp_path / "m.safetensors", model)
    found = load(path, ArchitectureOptions(model="test_resnet", img_size=16))
    assert same(found.model, model)
    assert found.model.num_classes == classes
    assert found.preprocessing.input_size == (channels, 16, 16)
    assert len(found.preprocessing.mean) == channels
    assert found.label_names is None
    assert found.lineage is None
    assert found.architecture_from == "--model"


def test_a_bare_file_is_read_with_the_config_json_beside_it(tmp_path: Path) -> None:
    model = tiny_model("resnet18", **DEEP)
    path = written(tmp_path / "model.safetensors", model, with_config=True)
    bare(path, model)
    found = load(path, PLAIN)
    assert same(found.model, model)
    assert found.label_names == ["a", "b", "c"]
    assert found.architecture_from == str(tmp_path / "config.json")


def test_model_kwargs_complete_a_bare_file(tmp_path: Path) -> None:
    model = tiny_model("resnet18", **DEEP)
    path = bare(tmp_path / "m.safetensors", model)
    kwargs = ("stem_type=deep", "stem_width=8", "channels=8+8+8+8")
    found = load(path, ArchitectureOptions(model="resnet18", model_kwargs=kwargs))
    assert same(found.model, model)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_bare_pth_is_read_whatever_wrapped_the_model(tmp_path: Path, prefix: str) -> None:
    model = tiny_model("test_resnet")
    state = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "m.pth")
    assert same(load(tmp_path / "m.pth", ArchitectureOptions(model="test_resnet")).model, model)


def test_a_distilled_model_keeps_both_heads(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    model = tiny_model(name, num_classes=4, depth=1, img_size=32)
    path = bare(tmp_path / "m.safetensors", model)
    options = ArchitectureOptions(model=name, model_kwargs=("depth=1",), img_size=32)
    assert same(load(path, options).model, model)


def training_checkpoint(path: Path, model: nn.Module, averaged: nn.Module | None = None) -> Path:
    """As timm's ``train.py`` writes it."""
    content = {
        "epoch": 3,
        "arch": "test_resnet",
        "state_dict": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": argparse.Namespace(model="test_resnet", num_classes=3, lr=0.1, mean=None),
        "metric": 71.5,
    }
    if averaged is not None:
        content["state_dict_ema"] = averaged.state_dict()
    torch.save(content, path)
    return path


def test_a_training_checkpoint_of_timm_names_its_architecture(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    found = load(training_checkpoint(tmp_path / "last.pth.tar", model), PLAIN)
    assert same(found.model, model)
    assert found.architecture_from == "the name stored in the file"


def test_averaged_weights_are_taken_only_when_asked_for(tmp_path: Path) -> None:
    model, averaged = tiny_model("test_resnet", seed=1), tiny_model("test_resnet", seed=2)
    path = training_checkpoint(tmp_path / "last.pth.tar", model, averaged)
    assert same(load(path, PLAIN).model, model)
    assert same(load(path, ArchitectureOptions(use_ema=True)).model, averaged)


def test_averaged_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = training_checkpoint(tmp_path / "last.pth.tar", tiny_model("test_resnet"))
    assert refused(path, ArchitectureOptions(use_ema=True)) == [
        "holds no averaged weights; leave out --use-ema"
    ]


# Files that are refused


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_holds_code_is_refused_and_not_executed(tmp_path: Path, legacy: bool) -> None:
    trap = tmp_path / "executed"
    content = {"state_dict": tiny_model("test_resnet").state_dict(), "x": Malicious(trap)}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    problems = refused(tmp_path / "m.pth", ArchitectureOptions(model="test_resnet"))
    assert not trap.exists()
    assert problems == [
        "holds Python objects other than tensors, which are never executed; save the state dict "
        "alone, best as .safetensors"
    ]


def test_a_plain_pickle_that_holds_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    (tmp_path / "m.pth").write_bytes(pickle.dumps(Malicious(trap)))
    assert len(refused(tmp_path / "m.pth", ArchitectureOptions(model="test_resnet"))) == 1
    assert not trap.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_model("test_resnet"), tmp_path / "m.pth")
    (problem,) = refused(tmp_path / "m.pth", ArchitectureOptions(model="test_resnet"))
    assert problem.startswith("holds Python objects other than tensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
@pytest.mark.parametrize("kept", [0, 1, 100, -1000])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, kept: int) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"m{suffix}"
    model = tiny_model("test_resnet")
    if suffix == ".safetensors":
        bare(whole, model)
    else:
        torch.save(model.state_dict(), whole)
    path.write_bytes(whole.read_bytes()[:kept])
    (problem,) = refused(path, ArchitectureOptions(model="test_resnet"))
    if kept > 1:
        assert problem.startswith(("not a whole ", "holds Python objects other than tensors"))
        assert problem.endswith("; restore it from a copy, or write it anew")
    else:
        assert problem.startswith(("is empty; ", "is text; ", "not a whole "))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_text_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_text("this is no checkpoint at all, only a line of text\n")
    assert refused(path, ArchitectureOptions(model="test_resnet")) == [
        "is text; wanted are a model's weights: a .safetensors file or a PyTorch checkpoint (.pth)"
    ]


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name) == ["there is no such file"]


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), 3])
def test_a_pth_that_is_no_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pth")
    assert refused(tmp_path / "m.pth") == ["does not hold a state dict"]


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_a_pth_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pth")
    assert refused(tmp_path / "m.pth") == ["holds no tensors"]


def test_missing_unexpected_and_misshapen_tensors_are_reported_together(tmp_path: Path) -> None:
    state = dict(tiny_model("test_resnet").state_dict())
    state["extra.weight"] = torch.zeros(1)
    state["bn1.weight"] = torch.zeros(5)
    del state["bn1.bias"], state["layer1.0.conv1.weight"]
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(state, path)
    assert refused(path, ArchitectureOptions(model="test_resnet")) == [
        "lacks bn1.bias, layer1.0.conv1.weight",
        "has unexpected extra.weight",
        "'bn1.weight' has shape (5,), the model wants (32,)",
        "its tensors do not fit the architecture",
    ]


def test_of_many_missing_tensors_five_are_named(tmp_path: Path) -> None:
    path = bare(tmp_path / "m.safetensors", nn.Linear(2, 2))
    problems = refused(path, ArchitectureOptions(model="test_resnet"))
    names = sorted(n for n in tiny_model("test_resnet").state_dict() if "num_batches" not in n)
    assert problems[0] == f"lacks {', '.join(names[:5])} and {len(names) - 5} more"
    assert problems[1] == "has unexpected bias, weight"


def test_a_model_of_another_architecture_is_refused(tmp_path: Path) -> None:
    path = bare(tmp_path / "m.safetensors", tiny_model("test_vit", img_size=16))
    assert refused(path, ArchitectureOptions(model="test_resnet"))[-1] == (
        "its tensors do not fit the architecture"
    )


def test_input_channels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    assert refused(path, ArchitectureOptions(in_chans=1)) == [
        "the model takes 3 input channels, --in-chans says 1"
    ]


# Where the architecture comes from


def test_two_sources_that_disagree_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", tiny_model("test_resnet"))
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 3}')
    assert refused(path) == [
        "its architecture is said to be test_resnet (the file's metadata), resnet18 "
        f"({tmp_path / 'config.json'}); decide with --model"
    ]


def test_the_flag_decides_between_sources_and_says_so(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    path = written(tmp_path / "model.safetensors", model)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 3}')
    found = load(path, ArchitectureOptions(model="test_resnet"))
    assert same(found.model, model)
    assert found.label_names == ["a", "b", "c"]
    assert len(found.warnings) == 1
    assert "--model test_resnet overrides" in found.warnings[0]
    assert "resnet18" in found.warnings[0]


def test_a_config_json_of_another_program_is_not_a_source(tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", tiny_model("test_resnet"))
    (tmp_path / "config.json").write_text('{"colour": "blue"}')
    assert load(path, PLAIN).architecture_from == "the file's metadata"


@pytest.mark.parametrize("text", ["{", "[]", "3", ""])
def test_a_broken_config_json_is_named(tmp_path: Path, text: str) -> None:
    bare(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: not "):
        load(tmp_path / "m.safetensors", PLAIN)


def test_a_config_json_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    bare(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    (tmp_path / "config.json").write_bytes(b'{"architecture": "caf\xe9"}')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path / "m.safetensors", PLAIN)


def test_an_architecture_that_timm_has_not_is_named(tmp_path: Path) -> None:
    path = bare(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    with pytest.raises(CheckpointError, match="timm has no model 'test_resnot'; did you mean"):
        load(path, ArchitectureOptions(model="test_resnot"))


def test_a_tag_is_not_another_architecture(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    found = load(path, ArchitectureOptions(model="test_resnet.r160_in1k"))
    assert found.warnings == []
    assert found.label_names == ["a", "b", "c"]


# Adapting to other classes or another size


def test_a_new_classifier_keeps_all_other_weights(tmp_path: Path) -> None:
    model = tiny_model("test_resnet", num_classes=3)
    path = written(tmp_path / "m.safetensors", model)
    adapted = load_adapted(path, 5, PLAIN)
    ours, theirs = model.state_dict(), adapted.state_dict()
    assert theirs["fc.weight"].shape[0] == 5
    rest = [key for key in ours if not key.startswith("fc.")]
    assert len(rest) == len(ours) - 2
    assert all(torch.equal(ours[key], theirs[key]) for key in rest)


def test_a_new_classifier_of_a_bare_file(tmp_path: Path) -> None:
    model = tiny_model("test_resnet", num_classes=3)
    path = bare(tmp_path / "m.safetensors", model)
    adapted = load_adapted(path, 5, ArchitectureOptions(model="test_resnet"))
    theirs = adapted.state_dict()
    assert theirs["fc.bias"].shape == (5,)
    assert torch.equal(theirs["conv1.0.weight"], model.state_dict()["conv1.0.weight"])


def test_a_bare_file_for_grey_images_is_adapted(tmp_path: Path) -> None:
    model = tiny_model("test_resnet", num_classes=3, in_chans=1)
    path = bare(tmp_path / "m.safetensors", model)
    options = ArchitectureOptions(model="test_resnet", in_chans=1, img_size=64)
    theirs = load_adapted(path, 5, options).state_dict()
    assert torch.equal(theirs["conv1.0.weight"], model.state_dict()["conv1.0.weight"])


def test_a_transformer_is_adapted_to_another_image_size(tmp_path: Path) -> None:
    """4 patches become 16."""
    path = written(tmp_path / "m.safetensors", tiny_model("test_vit", img_size=32), img_size=32)
    adapted = load_adapted(path, 5, ArchitectureOptions(img_size=64))
    assert adapted.state_dict()["pos_embed"].shape[1] == 17
    assert adapted(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


# Where -o leads


@pytest.mark.parametrize(
    ("output", "expected", "config"),
    [
        (None, "default.safetensors", False),
        ("a.safetensors", "a.safetensors", False),
        ("out/", "out/model.safetensors", True),
        ("out/model.safetensors", "out/model.safetensors", False),
        ("there", "there/model.safetensors", True),
    ],
)
def test_an_output_is_a_file_or_a_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str | None,
    expected: str,
    config: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    assert place(output, Path("default.safetensors")) == Path(expected)
    assert writes_config(output) == config


@pytest.mark.parametrize("output", ["a.pth", "a"])
def test_an_output_of_another_kind_is_refused(output: str) -> None:
    with pytest.raises(OutputError, match=r"must end in \.safetensors, or in / for a folder"):
        place(output, Path("default.safetensors"))


# Writing


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield int(request.param)
    os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002], indirect=True)
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    written(tmp_path / "model.safetensors", tiny_model("test_resnet"), with_config=True)
    for name in ("model.safetensors", "config.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_folders_are_made(tmp_path: Path) -> None:
    assert written(tmp_path / "a/b/m.safetensors", tiny_model("test_resnet")).is_file()


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["write", "move"])
def test_a_failed_save_leaves_the_old_files_whole_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, moment: str
) -> None:
    """The folder is a whole old model, or a whole new one."""
    path = tmp_path / "model.safetensors"
    written(path, tiny_model("test_resnet", seed=1), with_config=True)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = tiny_model("test_vit", img_size=16)
    config = describe(other, preprocessing_of(other), None)

    real = os.replace

    def half_written(*_: Any) -> Iterator[bytes]:
        yield b"half"
        raise failure

    def not_moved(source: Any, target: Any) -> None:
        if Path(target).suffix == ".safetensors":
            raise failure
        real(source, target)

    if moment == "write":
        monkeypatch.setattr("ceag_cli.statedicts.content", half_written)
    else:
        monkeypatch.setattr(os, "replace", not_moved)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save(path, other, config, LINEAGE, with_config=True)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    """The library writes the metadata in another order every time."""
    digests = {
        written(tmp_path / f"{i}.safetensors", tiny_model("test_resnet")).read_bytes()
        for i in range(5)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    ],
)
def test_the_library_reads_every_type_that_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.arange(6).reshape(2, 3).to(dtype),
        "b": torch.ones((), dtype=torch.uint8),  # odd sizes between the others
        "c": torch.zeros((0, 4), dtype=dtype),
        "d": torch.arange(6).reshape(2, 3).to(dtype).mT,
    }
    write_tensors(tmp_path / "m.safetensors", tensors, {"é": "ü"})
    found = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert read_metadata(tmp_path / "m.safetensors") == {"é": "ü"}


def test_a_type_that_is_not_written_is_named(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(1, dtype=torch.complex128)}
    with pytest.raises(OutputError) as caught:
        write_tensors(tmp_path / "m.safetensors", tensors, {})
    assert caught.value.problems == [
        f"{tmp_path / 'm.safetensors'}: cannot be written: tensor 'w' is of type "
        "torch.complex128, which is not written"
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/m\.safetensors: cannot be written"):
        written(tmp_path / "file/m.safetensors", tiny_model("test_resnet"))


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", tiny_model("test_resnet"))
    before = path.read_bytes()
    found: Checkpoint = load(path, PLAIN)
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before
    state, name, _ = read_state(path)
    assert name is None
    assert bool(state["conv1.0.weight"].any())
