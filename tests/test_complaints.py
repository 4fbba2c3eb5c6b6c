"""What users of other pruning tools complained about: the table of docs/pruning.md, held."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from toys import ceag, done, tiny_model

from ceag_cli.masks import Masks

ROOT = Path(__file__).parent.parent
HEADING = "## What people complained about in other tools"
SHAPE = ("--model", "test_resnet", "--img-size", "16")


@pytest.fixture
def dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The weights of ``dense.pth``, a bare checkpoint in the current folder."""
    monkeypatch.chdir(tmp_path)
    state: dict[str, torch.Tensor] = tiny_model("test_resnet").state_dict()
    torch.save(state, "dense.pth")
    return state


# The table


def rows() -> list[list[str]]:
    text = (ROOT / "docs/pruning.md").read_text()
    section = text[text.index(HEADING) :].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_names_tests_that_exist() -> None:
    assert len(rows()) == 14
    for complaint, behaviour, names in rows():
        assert complaint
        assert behaviour
        pointers = re.findall(r"`(tests/\w+\.py)::(test_\w+)`", names)
        assert pointers
        assert len(pointers) == names.count("`") / 2, names
        for file, name in pointers:
            assert name in names_in(file), f"{file}::{name}"


# What is held nowhere else


def test_the_sizes_that_are_said_are_those_of_the_files(dense: dict[str, torch.Tensor]) -> None:
    command = ("prune", "dense.pth", *SHAPE, "--sparsity", "0.9", "--format", "json")
    plain = json.loads(done(*command).stdout)
    packed = json.loads(done(*command, "--pack").stdout)
    assert plain["bytes"] == Path("dense.pruned.safetensors").stat().st_size
    assert packed["bytes"] == Path("dense.pruned.packed.safetensors").stat().st_size
    # Weights alone are estimated; the header with the metadata is the rest.
    assert plain["bytes_packed"] < packed["bytes"] < plain["bytes"] / 2
    text = done(*command[:-2], "--overwrite").stdout.splitlines()[-1]
    assert text == (
        f"size {plain['bytes'] / 1e6:.1f} MB, as before; {plain['bytes_packed'] / 1e3:.1f} kB with "
        "--pack. Zeros do not make the model faster in PyTorch."
    )


def test_a_pruned_file_has_the_keys_and_shapes_of_the_dense_one(
    dense: dict[str, torch.Tensor],
) -> None:
    """No masks, no renamed weights, and nothing but zeros has changed."""
    done("prune", "dense.pth", *SHAPE, "--sparsity", "0.9")
    with safe_open("dense.pruned.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(dense)
    after = safetensors.torch.load_file("dense.pruned.safetensors")
    for name, value in dense.items():
        assert (after[name].shape, after[name].dtype) == (value.shape, value.dtype)
        assert torch.equal(after[name], torch.where(after[name] == 0, after[name], value))


def test_every_process_prunes_the_same_weights(dense: dict[str, torch.Tensor]) -> None:
    """Among equal weights too, whatever the number of threads and the hashes of strings."""
    ties = {name: w.mul(20).round() if w.ndim > 1 else w for name, w in dense.items()}
    torch.save(ties, "dense.pth")
    for threads, output in (("1", "a.safetensors"), ("2", "b.safetensors")):
        subprocess.run(
            [
                *(sys.executable, "-m", "ceag_cli", "prune", "dense.pth", *SHAPE, "-o", output),
                *("--sparsity", "0.7", "--scope", "global"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            check=True,
            capture_output=True,
            timeout=120,
        )
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_the_sparsity_is_a_fraction_of_all_weights_however_often_one_prunes(
    dense: dict[str, torch.Tensor],
) -> None:
    """Not of those that are left."""
    first = ("prune", "dense.pth", *SHAPE, "--sparsity", "0.5", "-o", "one.safetensors")
    again = ("prune", "one.safetensors", "--sparsity", "0.75", "-o", "two.safetensors")
    done(*first)
    found = json.loads(done(*again, "--format", "json").stdout)
    for tensor in found["by_tensor"]:
        if tensor["dense_because"] is None:
            assert tensor["zeros"] == math.ceil(0.75 * math.prod(tensor["shape"]))
    once = safetensors.torch.load_file("one.safetensors")
    twice = safetensors.torch.load_file("two.safetensors")
    assert all(bool((twice[name][once[name] == 0] == 0).all()) for name in once)


def test_a_layer_without_weights_is_warned_of(dense: dict[str, torch.Tensor]) -> None:
    dense["layer3.0.conv2.weight"] *= 1e-9
    torch.save(dense, "dense.pth")
    command = ("prune", "dense.pth", *SHAPE, "--sparsity", "0.9", "--scope", "global")
    warning = "warning: no weight is left in layer3.0.conv2.weight"
    assert warning in done(*command).stderr.splitlines()
    capped = done(*command, "--max-layer-sparsity", "0.99", "--overwrite")
    assert "warning" not in capped.stderr


def test_what_was_pruned_is_zero_even_where_a_weight_became_infinite() -> None:
    """Zero times infinity would be NaN."""
    model = tiny_model("test_resnet")
    name = "layer1.0.conv1.weight"
    weight = model.get_parameter(name)
    masks = Masks(model, {name: torch.ones_like(weight, dtype=torch.bool)})
    with torch.no_grad():
        weight.view(-1)[0], weight.view(-1)[1] = math.inf, math.nan
    masks.apply_()
    assert int(weight.count_nonzero()) == 0


def test_a_classifier_of_another_size_is_named(dense: dict[str, torch.Tensor]) -> None:
    """The number of classes is that of the tensors; another one that was asked for is an error."""
    command = ("prune", "dense.pth", *SHAPE, "--sparsity", "0.9")
    result = ceag(*command, "--num-classes", "7")
    assert result.exit_code == 2
    assert "dense.pth: 'fc.weight' has shape (3, " in result.stderr
    done(*command)
    shown = json.loads(done("info", "dense.pruned.safetensors", "--format", "json").stdout)
    assert shown["num_classes"] == 3
