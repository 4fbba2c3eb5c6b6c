"""Files of every kind carry a number of their format: known ones are read, future ones refused.

The golden files are those of released versions (``write_golden.py``).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from toys import ceag, done, write_images
from write_golden import MITIGATE

from ceag_cli.info import describe_file
from ceag_cli.npzfiles import read_npz, write_npz
from ceag_cli.weightsfiles import identity_of, read_metadata

GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(params=["0.1.0"])
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The golden files of a version, with the images that they are about."""
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN / request.param, folder)
    write_images(folder)
    monkeypatch.chdir(folder)
    return folder


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_golden_files_are_small() -> None:
    assert size(GOLDEN) < 200_000


# What they hold


def test_the_dense_model_is_as_it_was_written(here: Path) -> None:
    found = describe_file(Path("model.safetensors"))
    assert found["stage"] == "dense"
    assert found["seed"] == 7
    assert found["written_by"] == "ceag 0.1.0"
    assert found["architecture"] == "test_vit"
    assert found["label_names"] == ["blue", "green", "red"]
    assert found["groups"]["path"] == "labels.csv"
    assert found["groups"]["groups_by"] == "group"
    assert found["versions"]["ceag"] == "0.1.0"
    weight = safetensors.torch.load_file("model.safetensors")["head.weight"]
    assert (weight.flatten()[:3] * 256).tolist() == [-50, -13, 24]  # 37 more, less 101 beyond 50


def test_the_pruned_model_is_as_it_was_written(here: Path) -> None:
    """Half of the weights of each matrix are zero, those nearest to zero."""
    found = describe_file(Path("model.pruned.safetensors"))
    assert found["sparsity"]["target"] == 0.5
    assert found["sparsity"]["criterion"] == "magnitude"
    assert found["parents"]["dense"]["path"] == "model.safetensors"
    assert found["parents"]["dense"]["sha256"] == identity_of(Path("model.safetensors"))
    weight = safetensors.torch.load_file("model.pruned.safetensors")["blocks.0.attn.qkv.weight"]
    assert weight.shape == (24, 8)
    assert int((weight == 0).sum()) == 96
    assert (weight.flatten()[:5] * 256).tolist() == [-50, 0, 0, -40, 0]  # -50 -13 24 -40 -3


def test_the_packed_model_gives_the_very_file(here: Path) -> None:
    before = Path("model.pruned.safetensors").read_bytes()
    Path("model.pruned.safetensors").unlink()
    done("unpack", "model.pruned.packed.safetensors")
    assert Path("model.pruned.safetensors").read_bytes() == before


def test_kept_answers_are_read(here: Path) -> None:
    arrays, about = read_npz(Path("model.pruned.run/predictions.npz"))
    assert about is not None
    assert about["format"] == 1
    assert about["models"]["dense"]["path"] == "model.safetensors"
    assert arrays["id"][:2].tolist() == [b"images/0.png", b"images/1.png"]
    assert arrays["label"].tolist() == [0, 1, 2] * 12
    assert len(arrays["sparse_p"]) == 36
    result = done("audit", "--predictions", "model.pruned.run/predictions.npz", "--gate", "point")
    assert "test (gated): 12 images" in result.stdout


def test_the_audit_document_is_as_it_was_written(here: Path) -> None:
    found = json.loads(Path("model.pruned.run/audit.json").read_text())
    assert found["schema_version"] == 2
    assert found["seed"] == 42
    assert [split["n"] for split in found["splits"]] == [24, 12]
    assert {group["value"]: group["n"] for group in found["groups"]} == {"even": 6, "odd": 6}
    assert found["models"]["sparse"]["sparsity"] == 0.5


def test_the_explanation_is_taken_by_the_next_audit(here: Path) -> None:
    found = json.loads(Path("model.pruned.run/explanation.json").read_text())
    assert found["schema_version"] == 1
    done("audit", "model.pruned.safetensors", "--eps", "1", "--gate", "point", "--workers", "0")
    again = json.loads(Path("model.pruned.run/audit.json").read_text())
    assert again["explanation"] == found["explanation"]


def test_the_interrupted_run_is_continued(here: Path) -> None:
    state = torch.load("model.mitigated.run/state.pt", weights_only=True)
    assert (state["format"], state["epoch"]) == (2, 1)
    result = done(*MITIGATE, "--resume")
    assert "continuing after epoch 1 of 2" in result.stderr
    lines = Path("model.mitigated.run/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert describe_file(Path("model.mitigated.safetensors"))["eps"] == 0.05


# Other numbers


def relabelled(path: str, key: str, value: str) -> None:
    """Change an entry of the metadata of a weights file."""
    tensors, metadata = safetensors.torch.load_file(path), read_metadata(Path(path))
    safetensors.torch.save_file(tensors, path, metadata | {key: value})


def refused(*command: str) -> str:
    result = ceag(*command)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def test_a_model_of_a_future_format_is_refused(here: Path) -> None:
    relabelled("model.safetensors", "ceag.format", "2")
    for command in (
        ("prune", "model.safetensors", "--sparsity", "0.5", "-o", "x.safetensors"),
        ("info", "model.safetensors"),
        ("audit", "model.pruned.safetensors", "--baseline", "model.safetensors"),
    ):
        assert refused(*command) == (
            "error: model.safetensors: written in format 2, this version of ceag reads format 1; "
            "install a newer ceag"
        )


def test_a_packed_model_of_a_future_format_is_refused(here: Path) -> None:
    path = "model.pruned.packed.safetensors"
    index = json.loads(read_metadata(Path(path))["ceag.packed"])
    assert index["version"] == 2
    relabelled(path, "ceag.packed", json.dumps(index | {"version": 3}))
    for command in (("unpack", path, "-o", "x.safetensors"), ("audit", path)):
        assert refused(*command) == (
            f"error: {path}: packed in format 3, this version of ceag reads format 2; install a "
            "newer ceag"
        )


@pytest.mark.parametrize("number", [1, 3])
def test_a_state_of_another_format_is_refused_and_left_alone(here: Path, number: int) -> None:
    """States of format 1 had no number when they were given other keys."""
    path = here / "model.mitigated.run/state.pt"
    torch.save(torch.load(path, weights_only=True) | {"format": number}, path)
    before = path.read_bytes()
    assert refused(*MITIGATE, "--resume") == (
        f"error: model.mitigated.run/state.pt: is written in format {number}, this version of ceag "
        "continues format 2; continue it with the ceag that has begun it, or start over with "
        "--overwrite"
    )
    assert path.read_bytes() == before
    done(*MITIGATE, "--overwrite")


def test_a_run_continued_with_other_versions_says_so(here: Path) -> None:
    path = here / "model.mitigated.run/state.pt"
    state = torch.load(path, weights_only=True)
    state["versions"]["torch"] = "1.0"
    torch.save(state, path)
    said = done(*MITIGATE, "--resume").stderr
    assert "warning: model.mitigated.run: torch was 1.0 and is " in said
    assert "the result may differ in its last digits" in said


def test_answers_of_a_future_format_are_refused_and_kept_ones_made_anew(here: Path) -> None:
    path = Path("model.pruned.run/predictions.npz")
    arrays, about = read_npz(path)
    assert about is not None
    write_npz(path, arrays, about | {"format": 2})
    assert refused("audit", "--predictions", str(path)) == (
        f"error: {path}: written in format 2, this version of ceag reads format 1; write it anew"
    )
    audit = ("audit", "model.pruned.safetensors", "--eps", "1", "--gate", "point")
    said = done(*audit, "--workers", "0").stderr
    assert "written in format 2, this version of ceag reads format 1" in said
    found = read_npz(path)
    assert found[1] is not None
    assert found[1]["format"] == 1
    assert np.array_equal(found[0]["label"], arrays["label"])


def test_an_explanation_of_a_future_format_is_not_taken(here: Path) -> None:
    path = Path("model.pruned.run/explanation.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    audit = ("audit", "model.pruned.safetensors", "--eps", "1", "--gate", "point")
    said = done(*audit, "--workers", "0").stderr
    assert (
        f"{path}: written with schema_version 2, this version of ceag reads 1; 'ceag explain' "
        "writes it anew"
    ) in said
    assert json.loads(Path("model.pruned.run/audit.json").read_text())["explanation"] is None
