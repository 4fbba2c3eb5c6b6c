"""Models and groups that do not belong together: refused, or compared on purpose and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toys import HEADER, TINY, done, errors, folder_with, write_csv

SPARSE = "model.pruned.safetensors"
AUDIT = ("audit", SPARSE, "--eps", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, a sparse one, and two other dense ones: another seed, another image size."""
    dense = ("dense", "--groups", "labels.csv", "--groups-by", "group", *TINY, "--epochs", "1")
    return folder_with(
        tmp_path_factory,
        dense,
        ("prune", "model.safetensors", "--sparsity", "0.5"),
        (*dense, "--seed", "7", "-o", "other.safetensors"),
        (*dense, "--img-size", "24", "-o", "larger.safetensors"),
    )


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(*arguments, "--format", "json").stdout)
    return found


# Another dense model


@pytest.mark.parametrize("command", ["audit", "explain", "mitigate"])
def test_a_dense_model_that_is_not_the_parent_is_refused(here: Path, command: str) -> None:
    (problem,) = errors(command, SPARSE, "--dense", "other.safetensors")
    assert problem.startswith(
        f"--dense other.safetensors: is not the dense model that {SPARSE} was made from (sha256 "
    )
    assert problem.endswith(
        "leave it out, or compare with it on purpose by --baseline other.safetensors"
    )


def test_the_parent_may_lie_elsewhere_under_another_name(here: Path) -> None:
    Path("kept").mkdir()
    Path("model.safetensors").rename("kept/reference.safetensors")
    assert errors(*AUDIT)[0].endswith(
        "restore it, or say where it is with --dense, or compare with another one on purpose by "
        "--baseline"
    )
    found = document(*AUDIT, "--dense", "kept/reference.safetensors")
    assert found["models"]["remarks"] == []


def test_any_pair_is_compared_on_purpose_and_every_report_says_so(here: Path) -> None:
    result = done(*AUDIT, "--baseline", "other.safetensors")
    remark = (
        f"other.safetensors is not the dense model that {SPARSE} was made from; they were "
        "compared on purpose (--baseline), and the gaps are not those of the pruning alone"
    )
    assert remark in " ".join(result.stdout.split())
    found = json.loads(Path("model.pruned.run/audit.json").read_text())
    assert found["models"]["dense"]["path"] == "other.safetensors"
    assert found["models"]["remarks"] == [remark]
    assert remark in found["overall"]["warnings"]
    page = Path("model.pruned.run/audit.html").read_text()
    assert "compared on purpose (--baseline)" in page
    # The answers that were kept say it, too.
    again = document("audit", "--predictions", "model.pruned.run/predictions.npz", "--eps", "1")
    assert again["models"]["remarks"] == [remark]


def test_an_explanation_of_a_pair_on_purpose_says_so(here: Path) -> None:
    asked = ("explain", SPARSE, "--baseline", "other.safetensors", "--max-iterations", "2")
    remark = f"other.safetensors is not the dense model that {SPARSE} was made from; they were"
    for given in ((), ("--format", "markdown"), ("--format", "json")):
        assert remark in done(*asked, *given).stdout.replace("\\", "")
    assert remark in Path("model.pruned.run/explanation.html").read_text()


def test_an_audit_says_that_a_model_was_fine_tuned_against_another_one(here: Path) -> None:
    done("mitigate", SPARSE, "--baseline", "other.safetensors", "--epochs", "1", *TINY[4:])
    (remark,) = document("audit", "model.mitigated.safetensors", "--eps", "1")["models"]["remarks"]
    assert remark.startswith(
        "model.mitigated.safetensors was fine-tuned with --baseline other.safetensors: its psi was "
        "held against that model"
    )


def test_dense_and_baseline_together_are_refused(here: Path) -> None:
    two = ("--dense", "model.safetensors", "--baseline", "other.safetensors")
    assert errors(*AUDIT, *two) == [
        "--dense model.safetensors and --baseline other.safetensors both name the model to compare "
        "with; give one"
    ]


def test_models_that_see_other_inputs_are_compared_on_purpose_each_by_its_own(here: Path) -> None:
    (problem,) = errors(*AUDIT, "--candidate", "larger.safetensors")
    assert "both name the sparse model" in problem
    found = document(*AUDIT, "--baseline", "larger.safetensors")
    _, inputs = found["models"]["remarks"]
    assert inputs.startswith("the models see different inputs: larger.safetensors 24")
    # The dense model's accuracy is what it has among images of its own size.
    alone = document(
        *("audit", "--candidate", "larger.safetensors", "--baseline", "larger.safetensors"),
        *("--eps", "1", "--groups", "labels.csv"),
    )
    by_group = [
        [(group["split"], group["value"], group["acc_dense"]) for group in each["groups"]]
        for each in (found, alone)
    ]
    assert by_group[0] == by_group[1]


# Another groups CSV


def rewritten(change: dict[int, tuple[str, ...]], path: str = "labels.csv") -> None:
    """labels.csv with some rows (counted from 0) replaced."""
    rows = [tuple(line.split(",")) for line in Path("labels.csv").read_text().splitlines()[1:]]
    write_csv(Path(path), [change.get(i, row) for i, row in enumerate(rows)], HEADER)


def test_bad_rows_come_before_the_hash_of_a_csv_that_has_changed(here: Path) -> None:
    rewritten({3: ("images/3.png", "blue", "tset", "odd")})
    (problem,) = errors(*AUDIT)
    assert problem.startswith("labels.csv row 5: split 'tset' is not one of train, val, test")
    rewritten({3: ("images/3.png", "blue", "train", "even")})
    (problem,) = errors(*AUDIT)
    assert problem.startswith(f"{SPARSE}: its groups CSV 'labels.csv' has changed since")


def test_another_csv_is_the_word_of_the_user_and_said_in_the_report(here: Path) -> None:
    rewritten({30: ("images/30.png", "blue", "test", "odd")}, "new.csv")
    found = document(*AUDIT, "--groups", "new.csv", "--groups-by", "group")
    (remark,) = found["models"]["remarks"]
    assert remark.startswith(f"new.csv is not the groups CSV that {SPARSE} names ('labels.csv', ")
    assert remark in found["overall"]["warnings"]


def test_images_that_were_trained_on_bear_no_verdict_under_another_csv(here: Path) -> None:
    rewritten({5: ("./images/5.png", "red", "test", "odd")}, "new.csv")
    new = ("--groups", "new.csv", "--groups-by", "group")
    assert errors(*AUDIT, *new) == [
        f"new.csv row 7: {SPARSE} was made with the image './images/5.png' (split 'train' of "
        "labels.csv), so that it says nothing about others"
    ]
    # Where the CSV of the model is gone that cannot be told.
    Path("labels.csv").unlink()
    assert "so whether model.pruned.safetensors was trained on any of these images is not" in (
        " ".join(done(*AUDIT, *new).stderr.split())
    )


# Images in several splits


def test_images_in_several_splits_are_counted_listed_warned_of_and_refused(here: Path) -> None:
    shutil.copy("images/4.png", "images/28.png")
    shutil.copy("images/4.png", "images/34.png")
    found = document(*AUDIT)
    assert found["data"]["duplicates"] == 2
    assert found["data"]["duplicate_images"] == [
        {
            "path": f"images/{i}.png",
            "split": "test",
            "same_as": "images/4.png",
            "of_split": "train",
        }
        for i in (28, 34)
    ]
    warning = (
        "2 images are byte for byte in more than one split; accuracies on val or test are a "
        "little too good"
    )
    assert warning in found["overall"]["warnings"]
    forbidden = [
        f"labels.csv: image 'images/{i}.png' (split test) is byte for byte 'images/4.png' (split "
        "train), and --forbid-duplicates is set"
        for i in (28, 34)
    ]
    assert errors(*AUDIT, "--forbid-duplicates") == forbidden
    kept = ("audit", "--predictions", "model.pruned.run/predictions.npz", "--eps", "1")
    assert document(*kept)["data"]["duplicates"] == 2
    assert len(errors(*kept, "--forbid-duplicates")) == 2


def test_a_table_without_images_cannot_be_searched_for_duplicates(here: Path) -> None:
    rows = [(f"{i}", "a", "test", "a", "a", "x" if i % 2 else "y") for i in range(8)]
    write_csv(Path("p.csv"), rows, ("id", "label", "split", "dense", "sparse", "group"))
    table = ("audit", "--predictions", "p.csv", "--eps", "1")
    assert document(*table)["data"]["duplicates"] is None
    assert errors(*table, "--forbid-duplicates") == [
        "--forbid-duplicates: p.csv holds answers and no images, so that equal ones cannot be found"
    ]
