from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toys import TINY, ceag, done, folder_with, tiny_model

from ceag_cli import exports
from ceag_cli.errors import CeagError, ExportError
from ceag_cli.exports import export, zeros_left, zeros_of
from ceag_cli.options import ExportOptions
from ceag_cli.weightsfiles import read_metadata, sha256_of

onnx = pytest.importorskip("onnx", reason="pip install 'ceag[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'ceag[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'ceag[onnx]'")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, a pruned one and a packed one, in a folder with their images."""
    return folder_with(
        tmp_path_factory,
        ("dense", "--groups", "labels.csv", *TINY, "--epochs", "1"),
        ("prune", "model.safetensors", "--sparsity", "0.9"),
        ("pack", "model.pruned.safetensors"),
    )


def run(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def in_pytorch(path: Path, images: torch.Tensor) -> torch.Tensor:
    import safetensors.torch

    model = tiny_model()
    model.load_state_dict(safetensors.torch.load_file(path))
    with torch.inference_mode():
        outputs: torch.Tensor = model(images)
    return outputs


def zeros_in(path: Path) -> int:
    numbers = [onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
    return sum(int((array == 0).sum()) for array in numbers)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".tmp-" in path.name or "onnx" in path.name]


# The file


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_file_answers_as_the_model_does_for_any_number_of_images(
    here: Path, batch: int
) -> None:
    done("export", "model.pruned.safetensors")
    images = torch.randn(batch, 3, 16, 16)
    found = run(here / "model.pruned.onnx", images)
    assert found.shape == (batch, 3)
    expected = in_pytorch(here / "model.pruned.safetensors", images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_zero_survives(here: Path) -> None:
    result = export(ExportOptions(checkpoint="model.pruned.safetensors"))
    recorded = json.loads(read_metadata(here / "model.pruned.safetensors")["ceag.sparsity"])
    expected = sum(zeros for zeros, _ in recorded["tensors"].values())
    assert result.zeros_before == expected
    assert zeros_in(result.output) >= result.zeros == expected


def test_a_packed_file_gives_the_same_file_as_a_plain_one(here: Path) -> None:
    packed = export(ExportOptions(checkpoint="model.pruned.packed.safetensors"))
    assert packed.output == Path("model.pruned.onnx")
    plain = export(ExportOptions(checkpoint="model.pruned.safetensors", output="plain.onnx"))
    of_packed, of_plain = onnx.load(packed.output).graph, onnx.load(plain.output).graph
    assert of_packed == of_plain


def test_the_metadata_says_where_it_comes_from_and_what_it_takes(here: Path) -> None:
    done("export", "model.pruned.safetensors")
    found = {item.key: item.value for item in onnx.load("model.pruned.onnx").metadata_props}
    source = here / "model.pruned.safetensors"
    own = read_metadata(source)
    assert found.items() >= {k: v for k, v in own.items() if k.startswith("ceag.")}.items()
    assert json.loads(found["ceag.source"]) == {
        "path": "model.pruned.safetensors",
        "sha256": sha256_of(source),
    }
    config = json.loads(found["ceag.timm"])
    assert config["architecture"] == "test_resnet"
    assert config["label_names"] == ["blue", "green", "red"]
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]


def test_the_file_names_no_path_of_this_machine(here: Path) -> None:
    done("export", "model.pruned.safetensors")
    content = Path("model.pruned.onnx").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(here).encode() not in content


def test_the_same_model_gives_the_same_bytes(here: Path) -> None:
    done("export", "model.pruned.safetensors")
    done("export", "model.pruned.safetensors", "-o", "again.onnx")
    assert Path("model.pruned.onnx").read_bytes() == Path("again.onnx").read_bytes()


def test_the_newest_model_is_taken_by_default(here: Path) -> None:
    Path("model.pruned.packed.safetensors").unlink()
    result = done("export")
    assert "took model.pruned.safetensors, the newest pruned model" in result.output
    assert Path("model.pruned.onnx").is_file()


def test_a_dense_model_and_one_of_another_tool_are_exported_too(here: Path) -> None:
    assert export(ExportOptions(checkpoint="model.safetensors")).zeros_before < 10
    torch.save(tiny_model().state_dict(), "foreign.pth")
    result = export(ExportOptions(checkpoint="foreign.pth", model="test_resnet", img_size=32))
    assert result.output == Path("foreign.onnx")
    assert run(result.output, torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_other_architectures_answer_alike_and_keep_their_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_model(name).state_dict(), "x.pth")
    done("prune", "x.pth", "--model", name, "--sparsity", "0.9")
    result = export(ExportOptions(checkpoint="x.pruned.safetensors"))
    assert result.same_class == result.images == 16
    assert result.zeros == result.zeros_before > 0


@pytest.mark.parametrize("name", ["test_nfnet", "test_vit_relpos"])
def test_zeros_that_are_lost_in_what_is_computed_in_advance_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_model(name).state_dict(), "x.pth")
    done("prune", "x.pth", "--model", name, "--sparsity", "0.9")
    result = done("export", "x.pruned.safetensors")
    assert "or that do not meet the image, were computed in advance" in result.output
    assert "the same class as in PyTorch for 16 of 16" in result.output


def test_zeros_are_those_of_the_layers() -> None:
    model = tiny_model()
    assert sum(zeros for _, zeros in zeros_of(model)) == 0
    with torch.no_grad():
        model.get_parameter("fc.weight")[0, :5] = 0
        model.get_parameter("fc.bias").zero_()
    weight = model.get_parameter("fc.weight")
    assert zeros_of(model)[-1] == (weight.numel(), 5)


def test_zeros_of_another_tensor_do_not_stand_in_for_lost_ones() -> None:
    before = [(100, 90), (100, 50), (8, 0), (20, 3)]
    assert zeros_left(before, [(20, 3), (100, 50), (100, 90), (100, 100), (7, 7)]) == 143
    assert zeros_left(before, [(20, 20), (100, 60), (8, 8)]) == 60 + 3
    assert zeros_left(before, []) == 0


# What is said


def test_the_comparison_is_said(here: Path) -> None:
    said = done("export", "model.pruned.safetensors").stdout
    assert "wrote model.pruned.onnx: test_resnet" in said
    assert "normalised: 16x16, 3 channels, mean 0.5,0.5,0.5, std 0.5,0.5,0.5" in said
    assert "the same class as in PyTorch for 16 of 16 images of noise" in said
    assert "An audit is of the model in PyTorch" in said


def test_with_a_csv_it_is_on_the_test_images(here: Path) -> None:
    result = done(
        *("export", "model.pruned.safetensors", "--groups", "labels.csv"),
        *("--batch-size", "5", "--workers", "0", "--format", "json"),
    )
    found = json.loads(result.stdout)
    assert (found["checked_on"], found["images"], found["same_class"]) == ("test images", 12, 12)
    assert (found["command"], found["output"]) == ("export", "model.pruned.onnx")
    assert found["source_sha256"] == sha256_of(here / "model.pruned.safetensors")


def test_options_without_effect_are_warned_of(here: Path) -> None:
    result = done("export", "model.pruned.safetensors", "--amp")
    assert "--amp has no effect on export" in result.output


# What is refused


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_extra(
    here: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = ceag("export", "model.pruned.safetensors")
    assert result.exit_code == 2
    assert f"ceag export needs the package {package}: pip install 'ceag[onnx]'" in result.output
    assert left_over(here) == []


def test_an_output_that_exists_is_replaced_only_if_asked(here: Path) -> None:
    Path("model.pruned.onnx").write_text("precious")
    result = ceag("export", "model.pruned.safetensors")
    assert result.exit_code == 2
    assert "model.pruned.onnx: exists already" in result.output
    assert Path("model.pruned.onnx").read_text() == "precious"
    done("export", "model.pruned.safetensors", "--overwrite")
    assert zeros_in(Path("model.pruned.onnx")) > 0


def test_an_output_of_another_kind_is_refused(here: Path) -> None:
    result = ceag("export", "model.pruned.safetensors", "-o", "x.safetensors")
    assert result.exit_code == 2
    assert "-o x.safetensors: must end in .onnx, or in / for a folder" in result.output


def test_a_folder_is_made(here: Path) -> None:
    done("export", "model.pruned.safetensors", "-o", "new/")
    assert Path("new/model.onnx").is_file()


def test_a_file_that_was_changed_after_pruning_is_refused(here: Path) -> None:
    import safetensors.torch

    source = Path("model.pruned.safetensors")
    state = safetensors.torch.load_file(source)
    name = next(iter(json.loads(read_metadata(source)["ceag.sparsity"])["tensors"]))
    state[name] += 1
    safetensors.torch.save_file(state, "changed.safetensors", metadata=read_metadata(source))
    result = ceag("export", "changed.safetensors")
    assert result.exit_code == 2
    assert "the file was changed after pruning" in result.output


@pytest.mark.parametrize(
    "what", ["_session", "_compare", "_write"], ids=["at loading", "at comparing", "at writing"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ExportError, OSError])
def test_a_write_that_is_cut_off_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: type[BaseException]
) -> None:
    def cut_off(*_: Any) -> None:
        raise error("cut off")

    monkeypatch.setattr(exports, what, cut_off)
    expected = error if error is KeyboardInterrupt else CeagError
    with pytest.raises(expected):
        export(ExportOptions(checkpoint="model.pruned.safetensors"))
    assert left_over(here) == []


@pytest.mark.parametrize("change", [0.1, float("nan")])
def test_a_file_that_answers_otherwise_is_not_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    class Wrong:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, names: Any, inputs: Any) -> Any:
            return [output + change for output in self.session.run(names, inputs)]

    session = exports._session
    monkeypatch.setattr(exports, "_session", lambda *given: Wrong(session(*given)))
    Path("model.pruned.onnx").write_text("precious")
    result = ceag("export", "model.pruned.safetensors", "--overwrite")
    assert result.exit_code == 2
    assert "the exported file answers otherwise than the model" in result.output
    assert Path("model.pruned.onnx").read_text() == "precious"
    assert left_over(here) == ["model.pruned.onnx"]


def test_what_torch_cannot_export_is_said_with_the_reason(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("odd")

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Odd()(torch.zeros(1)))
    result = ceag("export", "model.pruned.safetensors")
    assert result.exit_code == 2
    assert "torch cannot export test_resnet as ONNX: odd" in result.output
    assert left_over(here) == []
