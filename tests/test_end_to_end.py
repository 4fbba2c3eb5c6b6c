"""The four real commands, each a process of its own, on real images: scikit-learn's digits."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent

INPUT = (
    *("--img-size", "16", "--in-chans", "1", "--mean", "0.5", "--std", "0.5"),
    *("--crop-pct", "1"),
)
TRAINING = ("--batch-size", "64", "--workers", "0", "--hflip", "0")


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Runs the pipeline once; what each command answered, by name, and the folder."""
    folder = tmp_path_factory.mktemp("digits")
    written = run(folder, str(REPOSITORY / "recipes/digits/write_digits.py"), ".")
    assert written.returncode == 0, written.stderr
    ceag = ("-m", "ceag_cli")
    answers: dict[str, Any] = {"folder": folder}
    commands = {
        "dense": (
            *("dense", "--groups", "labels.csv", "--groups-by", "label,ink"),
            *("--model", "test_resnet", "--epochs", "3", *INPUT, *TRAINING, "-o", "dense/"),
        ),
        "prune": (
            *("prune", "dense/model.safetensors", "--sparsity", "0.9"),
            *("-o", "digits.pruned.safetensors"),
        ),
        "mitigate": ("mitigate", "--epochs", "2", "--eps", "0.05", *TRAINING, "--format", "json"),
        "audit": ("audit", "--gate", "point", "--workers", "0", "--format", "json"),
    }
    for name, command in commands.items():
        answers[name] = run(folder, *ceag, *command)
    return answers


def test_the_stages_exit_with_0_and_the_audit_with_its_verdict(results: dict[str, Any]) -> None:
    for name in ("dense", "prune", "mitigate"):
        assert results[name].returncode == 0, results[name].stderr
    audit = results["audit"]
    assert audit.returncode in (0, 1), audit.stderr
    overall = json.loads(audit.stdout)["overall"]
    assert overall["exit_code"] == audit.returncode
    assert overall["verdict"] == {0: "PASS", 1: "FAIL"}[audit.returncode]


def test_no_command_warns_or_shows_a_traceback(results: dict[str, Any]) -> None:
    for name in ("dense", "prune", "mitigate", "audit"):
        assert "Traceback" not in results[name].stderr
        assert "Warning" not in results[name].stderr


def test_the_files_are_those_that_the_design_names(results: dict[str, Any]) -> None:
    folder = results["folder"]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    images = {path for path in found if path.startswith("images/")}
    assert len(images) == 1797
    assert found - images == {
        "labels.csv",
        "dense/model.safetensors",
        "dense/config.json",
        "dense/model.run/recipe.yaml",
        "dense/model.run/log.jsonl",
        "dense/model.run/answers.npz",
        "digits.pruned.safetensors",
        "digits.pruned.run/recipe.yaml",
        "digits.mitigated.safetensors",
        "digits.mitigated.run/recipe.yaml",
        "digits.mitigated.run/log.jsonl",
        "digits.mitigated.run/audit.json",
        "digits.mitigated.run/audit.html",
        "digits.mitigated.run/predictions.npz",
    }


def test_the_dense_model_has_learnt_something(results: dict[str, Any]) -> None:
    """A tenth would be chance."""
    match = re.search(r"accuracy: train ([\d.]+) %, test ([\d.]+) %", results["dense"].stdout)
    assert match is not None
    assert float(match[1]) > 50
    assert float(match[2]) > 50


def test_the_commands_say_what_they_took(results: dict[str, Any]) -> None:
    assert "took digits.pruned.safetensors, the newest pruned model" in results["mitigate"].stderr
    assert "took digits.mitigated.safetensors, the newest mitigated model" in (
        results["audit"].stderr
    )
    expected = "16x16, 1 channel, mean 0.5, std 0.5, bilinear, crop 1 center"
    for name in ("dense", "prune", "mitigate", "audit"):
        assert expected in results[name].stderr


def test_the_metadata_names_stage_parents_groups_eps_and_seed(results: dict[str, Any]) -> None:
    folder = results["folder"]
    _, metadata = tensors_of(folder / "digits.mitigated.safetensors")
    assert metadata["format"] == "pt"
    assert metadata["ceag.stage"] == "mitigated"
    assert metadata["ceag.eps"] == "0.05"
    assert metadata["ceag.seed"] == "42"
    parents = json.loads(metadata["ceag.parents"])
    assert parents["input"]["path"] == "digits.pruned.safetensors"
    assert parents["dense"]["path"] == "dense/model.safetensors"
    groups = json.loads(metadata["ceag.groups"])
    assert groups["path"] == "labels.csv"
    assert groups["groups_by"] == "label,ink"
    config = json.loads(metadata["ceag.timm"])
    assert config["architecture"] == "test_resnet"
    assert config["label_names"] == [str(digit) for digit in range(10)]


def test_zeros_are_exact_and_stay_where_they_are(results: dict[str, Any]) -> None:
    """``ceil(0.9 n)`` in every tensor that is listed, before and after mitigation."""
    folder = results["folder"]
    before, metadata = tensors_of(folder / "digits.pruned.safetensors")
    after, later = tensors_of(folder / "digits.mitigated.safetensors")
    listed = json.loads(metadata["ceag.sparsity"])["tensors"]
    assert json.loads(later["ceag.sparsity"])["tensors"] == listed
    assert len(listed) == 14
    for name, (zeros, total) in listed.items():
        assert total == before[name].numel()
        assert zeros == -(-9 * total // 10)
        assert int((before[name] == 0).sum()) == zeros
        assert torch.equal(before[name] == 0, after[name] == 0)
        assert not torch.equal(before[name], after[name])
        # +0.0 to the bit, so that files compress and zeros can be counted by anybody.
        assert int((after[name].view(torch.int32) == 0).sum()) == zeros


def test_the_first_layer_the_classifier_and_all_vectors_stay_dense(
    results: dict[str, Any],
) -> None:
    folder = results["folder"]
    dense, _ = tensors_of(folder / "dense/model.safetensors")
    pruned, metadata = tensors_of(folder / "digits.pruned.safetensors")
    listed = set(json.loads(metadata["ceag.sparsity"])["tensors"])
    kept = {name for name in dense if name not in listed}
    assert {name for name in kept if dense[name].ndim > 1} == {"conv1.0.weight", "fc.weight"}
    assert all(torch.equal(dense[name], pruned[name]) for name in kept)
    for name in listed:
        left = pruned[name] != 0
        assert torch.equal(pruned[name][left], dense[name][left])
        assert float(dense[name][left].abs().min()) >= float(dense[name][~left].abs().max())


def test_timm_itself_loads_the_output_folder(results: dict[str, Any]) -> None:
    folder = results["folder"] / "dense"
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.num_classes == 10
    assert model.pretrained_cfg["input_size"] == (1, 16, 16)
    state, _ = tensors_of(folder / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 10)


def test_the_json_of_the_mitigation_agrees_with_its_log(results: dict[str, Any]) -> None:
    document = json.loads(results["mitigate"].stdout)
    assert document["schema_version"] == 1
    assert document["output"] == "digits.mitigated.safetensors"
    assert document["method"] == "ceag"
    assert document["eps"] == 0.05
    assert document["satisfied"] == (document["train"]["max_excess_gap"] <= 0.05)
    log = (results["folder"] / "digits.mitigated.run/log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert {entry["sparsity"] for entry in entries} == {document["sparsity"]}


def test_the_audit_counts_the_rows_of_the_csv(results: dict[str, Any]) -> None:
    with (results["folder"] / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        expected[row["split"], "label", row["label"]] += 1
        expected[row["split"], "ink", row["ink"]] += 1
    document = json.loads(results["audit"].stdout)
    found = {(g["split"], g["feature"], g["value"]): g["n"] for g in document["groups"]}
    assert found == expected
    assert {split["split"]: split["n"] for split in document["splits"]} == Counter(
        row["split"] for row in rows
    )
    assert [split["gated"] for split in document["splits"]] == [False, True]


def test_the_numbers_of_the_audit_fit_together(results: dict[str, Any]) -> None:
    """Everything follows from the three counts of each group, and psi weighs to zero."""
    document = json.loads(results["audit"].stdout)
    assert document["overall"]["eps"] == 0.05
    splits = {split["split"]: split for split in document["splits"]}
    for group in document["groups"]:
        gap = (group["lost"] - group["gained"]) / group["n"]
        split = splits[group["split"]]
        overall = (split["lost"] - split["gained"]) / split["n"]
        assert group["gap"] == gap
        assert group["excess_gap"] == pytest.approx(gap - overall, abs=1e-12)
        assert group["acc_dense"] - group["acc_sparse"] == pytest.approx(gap, abs=1e-12)
    for name, split in splits.items():
        for feature in ("label", "ink"):
            groups = [
                group
                for group in document["groups"]
                if (group["split"], group["feature"]) == (name, feature)
            ]
            assert sum(group["n"] for group in groups) == split["n"]
            assert sum(group["lost"] for group in groups) == split["lost"]
            weighted = sum(group["n"] * group["excess_gap"] for group in groups)
            assert weighted == pytest.approx(0, abs=1e-9)
    failed = [group for group in document["groups"] if group["verdict"] == "FAIL"]
    assert bool(failed) == (splits["test"]["max_excess_gap"] > 0.05)
    assert all(group["split"] == "test" for group in failed)


def test_the_report_names_every_group(results: dict[str, Any]) -> None:
    page = (results["folder"] / "digits.mitigated.run/audit.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    for name in ("thin", "medium", "bold"):
        assert name in page
    saved = json.loads((results["folder"] / "digits.mitigated.run/audit.json").read_text())
    assert saved == json.loads(results["audit"].stdout)
