"""A sweep over criteria, through the command line: what is run, not run again, and said."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import escape
from pyarrow import parquet
from test_formats import SCHEMA, wrong
from test_locks import another_run
from toys import ceag, done, write_images

from ceag_cli import unittable
from ceag_cli.errors import OptionError
from ceag_cli.experiment import OWN, Approach, Cell, Plan
from ceag_cli.sweepfindings import UnitRow
from ceag_cli.training import Training
from ceag_cli.weightsfiles import read_metadata, sha256_of

SMALL = {"batch_size": 8, "workers": 0}
RECIPE: dict[str, Any] = {
    "command": "sweep",
    "seeds": [0],
    "sparsities": [0.5],
    "dense": {"groups": "labels.csv", "model": "test_resnet", "img_size": 16, "epochs": 1} | SMALL,
    "prune": SMALL,
    "criteria": {"layer": {"criterion": "magnitude"}, "random": {"criterion": "random"}},
    "mitigate": {"epochs": 1, "eps": 0.25} | SMALL,
    "methods": {"untrained": {"method": "none"}, "naive": {"method": "naive"}},
    "audit": {"eps": 0.3, "gallery": 0},
}


def write(folder: Path, **changes: Any) -> None:
    content = {name: value for name, value in (RECIPE | changes).items() if value is not None}
    (folder / "r.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("criteria")
    write_images(folder)
    write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done("sweep", "r.yaml")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_of(p) for p in folder.rglob("*.safetensors")}


def test_every_criterion_has_its_folder_and_its_pruning(prepared: Path) -> None:
    out = prepared / "r"
    assert sorted(hashes(out)) == sorted(
        [
            "seed-0/model.safetensors",
            *(
                f"seed-0/sparsity-0.5/{criterion}/{name}.safetensors"
                for criterion in ("layer", "random")
                for name in ("model.pruned", "naive")
            ),
        ]
    )
    assert len(set(hashes(out).values())) == 5
    at = out / "seed-0/sparsity-0.5"
    for folder, criterion in (("layer", "magnitude"), ("random", "random")):
        for name in ("model.pruned", "naive"):
            metadata = read_metadata(at / folder / f"{name}.safetensors")
            record = json.loads(metadata["ceag.sparsity"])
            assert (record["criterion"], record["target"]) == (criterion, 0.5)
        # Without fine-tuning, the pruned model itself is audited.
        document = json.loads((at / folder / "model.pruned.run/audit.json").read_text())
        assert document["overall"]["eps"] == 0.3


def test_the_table_of_classes_and_groups_is_that_of_the_audits(prepared: Path) -> None:
    out = prepared / "r"
    with (out / "accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # 2 criteria x 2 methods, 2 splits, 3 classes and 2 groups
    assert len(rows) == 4 * 2 * 5
    assert [r["value"] for r in rows[:5]] == ["blue", "green", "red", "even", "odd"]
    assert [r["kind"] for r in rows[:5]] == ["class"] * 3 + ["group"] * 2
    assert [r["train_images"] for r in rows[:5]] == ["8", "8", "8", "12", "12"]
    for row in rows:
        at = out / f"seed-0/sparsity-{float(row['sparsity']):g}/{row['criterion']}"
        run = at / ("model.pruned.run" if row["method"] == "untrained" else "naive.run")
        document = json.loads((run / "audit.json").read_text())
        if row["kind"] == "group":
            (group,) = [
                g
                for g in document["groups"]
                if (g["split"], g["value"]) == (row["split"], row["value"])
            ]
            for name in ("acc_dense", "acc_sparse", "gap", "excess_gap", "lower", "upper"):
                found = float(row[name]) if row[name] else None
                expected = group[name]
                assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))
            assert (int(row["images"]), int(row["lost"])) == (group["n"], group["lost"])
            assert row["verdict"] == group["verdict"]
        else:
            assert row["lower"] == row["verdict"] == ""
    assert [int(r["images"]) for r in rows[:5]] == [8, 8, 8, 12, 12]
    table = parquet.read_table(out / "accuracy.parquet").to_pylist()
    assert [str(r["value"]) for r in table] == [r["value"] for r in rows]
    assert [r["acc_sparse"] for r in table] == [float(r["acc_sparse"]) for r in rows]
    assert {type(r["sparsity"]) for r in table} == {float}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_sweeps_do_not_write_into_one_folder(here: Path) -> None:
    before = contents(here / "r")
    lock = here / "r" / "sweep.lock"
    with another_run(lock) as process:
        result = ceag("sweep", "r.yaml")
        assert result.exit_code == 2
        (error,) = result.stderr.splitlines()
        assert error.startswith(f"error: r: another run (process {process.pid} on ")
        assert error.endswith(
            ") writes there; wait for it, see with --collect how far it is, "
            "or name another folder with -o"
        )
        # One may look how far it is, which writes nothing.
        (here / "r/table.md").unlink()
        looked = ceag("sweep", "r.yaml", "--collect")
        assert looked.exit_code == 0
        assert "writes there; what is there so far is shown, and no file is written" in (
            looked.stderr.replace("\n", " ")
        )
        assert not (here / "r/table.md").exists()
    assert looked.stdout == done("sweep", "r.yaml", "--collect").stdout
    assert contents(here / "r") == before
    assert not lock.exists()


def test_what_is_there_is_collected_without_the_images(here: Path) -> None:
    before = hashes(here)
    written = (here / "r/sweep.json").read_text()
    shutil.rmtree(here / "images")
    (here / "labels.csv").unlink()
    text = done("sweep", "r.yaml", "--collect").stdout
    assert hashes(here) == before
    assert (here / "r/sweep.json").read_text() == written
    document = json.loads(written)
    schema = json.loads(done("schema", "sweep").stdout)
    assert wrong(document, schema, defs=schema) == []
    assert schema["$defs"]["policy"] == SCHEMA["properties"]["policy"]
    said = document["recommendation"]
    assert (said["policy"]["eps"], said["policy"]["alpha"]) == (0.3, 0.05)
    assert said["chosen_by"] == "alpha"
    assert [s["alpha"] for s in said["sequences"]] == [0.0125] * 4
    assert {(p["criterion"], p["method"]) for p in document["points"]} == {
        (criterion, method)
        for criterion in ("layer", "random")
        for method in ("untrained", "naive")
    }
    assert any(point["efficient"] for point in document["points"])
    assert len(document["limits"]) == 4 * 2
    page = (here / "r/sweep.html").read_text()
    for line in said["lines"]:
        assert str(escape(line)) in page
        assert line in text.splitlines()
    assert "://" not in page
    assert page.count("<svg") >= 2


def test_an_audit_that_was_asked_something_else_is_left_out_of_what_is_collected(
    here: Path,
) -> None:
    write(here, audit={"eps": 0.4, "gallery": 0})
    found = done("sweep", "r.yaml", "--collect")
    assert "warning: layer, naive, sparsity 0.5, seed 0: its audit is gone or was" in found.stderr
    assert found.stderr.count("warning") == 4
    assert "No run has been audited, so nothing can be recommended." in found.stdout


def test_lines_of_a_criterion_that_changed_are_noticed(here: Path) -> None:
    before = hashes(here / "r")
    changed = RECIPE["criteria"] | {"layer": {"criterion": "magnitude", "scope": "global"}}
    write(here, criteria=changed)
    refused = ceag("sweep", "r.yaml")
    assert refused.exit_code == 2
    assert "pruned by layer to 0.5, seed 0: " in refused.stderr
    assert '--scope was "layer" and is "global"' in refused.stderr
    assert "error: 2 runs that need these models were left out" in refused.stderr
    assert hashes(here / "r") == before
    found = done("sweep", "r.yaml", "--overwrite")
    after = hashes(here / "r")
    assert {name for name in after if after[name] != before[name]} == {
        name for name in after if "/layer/" in name
    }
    assert "dense model, seed 0: was done already (1 of 1)" in found.stderr
    assert "pruned by random to 0.5, seed 0: was done already" in found.stderr
    assert "pruned by layer to 0.5, seed 0: done" in found.stderr


def test_another_question_is_asked_of_the_same_models(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "fit", None)  # nothing is trained
    write(here, audit={"eps": 0.5, "gallery": 0})
    document = json.loads(done("sweep", "r.yaml", "--format", "json").stdout)
    assert {row["eps"] for row in document["rows"]} == {0.5}
    assert document["recommendation"]["policy"]["eps"] == 0.5
    page = here / "r/seed-0/sparsity-0.5/layer/naive.run/audit.json"
    assert json.loads(page.read_text())["overall"]["eps"] == 0.5


KILLED = """
import os, signal
from ceag_cli.cli import main
from ceag_cli.training import Training

one_epoch = Training._one_epoch

def one_epoch_or_none(training, update):
    if training.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return one_epoch(training, update)

Training._one_epoch = one_epoch_or_none
main()
"""


def test_a_killed_sweep_goes_on_and_redoes_nothing_that_is_finished(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real program is killed before the second epoch of fine-tuning, of two."""
    shutil.rmtree(here / "r")
    write(here, criteria=["magnitude"], methods={"naive": {"method": "naive", "epochs": 2}})
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "sweep", "r.yaml"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr.splitlines()[-1] == "pruned by magnitude to 0.5, seed 0: done (1 of 1)"
    state = here / "r/seed-0/sparsity-0.5/magnitude/naive.run/state.pt"
    assert state.is_file()
    made = {p: (p.stat().st_mtime_ns, sha256_of(p)) for p in (here / "r").rglob("*.safetensors")}
    assert {p.name for p in made} == {"model.safetensors", "model.pruned.safetensors"}

    one_epoch = Training._one_epoch
    trained: list[int] = []

    def counted(training: Training, update: Any) -> Any:
        trained.append(training.epoch)
        return one_epoch(training, update)

    monkeypatch.setattr(Training, "_one_epoch", counted)
    found = done("sweep", "r.yaml")
    assert trained == [1]  # the second epoch, and no other
    assert "dense model, seed 0: was done already (1 of 1)" in found.stderr
    assert "pruned by magnitude to 0.5, seed 0: was done already (1 of 1)" in found.stderr
    assert {p: (p.stat().st_mtime_ns, sha256_of(p)) for p in made} == made
    assert not state.exists()


def test_without_pyarrow_the_csv_is_there_and_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "accuracy.parquet").touch()  # of another time

    class Hearing:
        said: tuple[str, ...] = ()

        def say(self, text: str) -> None:
            self.said += (text,)

    hearing: Any = Hearing()
    row = UnitRow(
        *("t", 0.5, "layer", "naive", 0, "test", "class", "label", "=1+1", 5, 2, 1, 0),
        *(1.0, 0.5, 0.5, 0.25, None, None, None),
    )
    unittable.write(tmp_path, [row], hearing)
    (line,) = csv.DictReader((tmp_path / "accuracy.csv").read_text().splitlines())
    assert (line["value"], line["gap"], line["lower"]) == ("'=1+1", "0.5", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["accuracy.csv"]
    assert "pip install 'ceag[parquet]'" in hearing.said[0]


# The recipe


def read(folder: Path, **changes: Any) -> Plan:
    write(folder, **changes)
    return Plan.read(folder / "r.yaml")


def problems(folder: Path, **changes: Any) -> list[str]:
    with pytest.raises(OptionError) as caught:
        read(folder, **changes)
    return [problem.removeprefix(str(folder / "r.yaml")) for problem in caught.value.problems]


def test_a_method_that_prunes_by_itself_takes_part_once(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        methods={"naive": {"method": "naive"}, "fair": {"method": "fairgrape"}},
        compare={"naive": ["fair"]},
    )
    assert plan.approaches == (
        Approach("layer", "naive"),
        Approach("random", "naive"),
        Approach(OWN, "fair"),
    )
    assert len(plan.cells()) == 3
    assert Cell(0, 0.5, "fair", OWN) in plan.cells()


def test_criteria_may_be_a_list(tmp_path: Path) -> None:
    plan = read(tmp_path, criteria=["magnitude", "snip"])
    assert plan.criteria == {"magnitude": {"criterion": "magnitude"}, "snip": {"criterion": "snip"}}
    assert read(tmp_path, criteria=None).approaches == (
        Approach("", "untrained"),
        Approach("", "naive"),
    )


def test_candidates_are_named_by_method_and_criterion(tmp_path: Path) -> None:
    plan = read(tmp_path, recommend={"methods": "naive", "criteria": ["random"]})
    assert plan.recommendable == (Approach("random", "naive"),)
    assert len(read(tmp_path, recommend={"methods": ["naive"]}).recommendable) == 2
    assert len(read(tmp_path).recommendable) == 4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"criteria": ["magnitud"]}, ": criteria: 'magnitud' is not one of magnitude, random, "),
        ({"criteria": {}}, ": section 'criteria' must hold 'name: {option: value}' lines"),
        ({"criteria": {"own": {}}}, ": criteria: 'own' cannot be a file name"),
        ({"criteria": {"x": {"sparsity": 0.5}}}, ", criteria, x: 'sparsity' is set by the sweep"),
        ({"criteria": {"x": {"scop": "erk"}}}, ", criteria, x: unknown key 'scop'; did you mean"),
        ({"methods": {"x": {"method": "none", "lr": 1}}}, ", methods, x: without training lr has"),
        ({"audit": {"epsilon": 1}}, ", audit: unknown key 'epsilon'; did you mean 'eps'?"),
        ({"audit": {"report": ["x"]}}, ", audit: 'report' is set by the sweep"),
        ({"recommend": {"methods": ["naiv"]}}, ", recommend: 'naiv' is not among the methods; did"),
        ({"recommend": {"metods": ["x"]}}, ", recommend: unknown key 'metods'; did you mean"),
        ({"recommend": {"criteria": [OWN]}}, ", recommend: no approach has one of these methods"),
        ({"recommend": ["naive"]}, ": section 'recommend' must hold"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: Any, problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(tmp_path, **changes))
