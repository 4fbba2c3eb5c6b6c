from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import ceag, done, write_images

from ceag_cli.errors import OptionError, SweepError
from ceag_cli.lineage import sha256_of
from ceag_cli.progress import Quiet
from ceag_cli.sweep import Cell, Plan, Row, Sweep, as_csv, sweep, table

SMALL = {"batch_size": 8, "workers": 0}
RECIPE: dict[str, Any] = {
    "command": "sweep",
    "seeds": [0, 1],
    "sparsities": [0.5],
    "dense": {"groups": "labels.csv", "model": "test_resnet", "img_size": 16, "epochs": 1} | SMALL,
    "mitigate": {"epochs": 1, "eps": 0.25} | SMALL,
    "methods": {
        "naive": {"method": "naive"},
        "ceag": {"dual_speed": 3},
    },
}


def write(folder: Path, recipe: dict[str, Any], name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


class Hearing(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a whole sweep of two seeds and two methods."""
    folder = tmp_path_factory.mktemp("sweep")
    write_images(folder)
    write(folder, RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sweep(Path("small.yaml"))
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*.safetensors"))
    }


# What is run


def test_every_run_has_its_files(prepared: Path) -> None:
    found = {str(path.relative_to(prepared / "small")) for path in (prepared / "small").rglob("*")}
    for seed in (0, 1):
        assert f"seed-{seed}/model.safetensors" in found
        assert f"seed-{seed}/sparsity-0.5/model.pruned.safetensors" in found
        for method in ("naive", "ceag"):
            assert f"seed-{seed}/sparsity-0.5/{method}.safetensors" in found
            assert f"seed-{seed}/sparsity-0.5/{method}.run/audit.json" in found
    assert {"results.csv", "table.md"} <= found


def test_the_rows_are_what_the_audits_say(prepared: Path) -> None:
    with (prepared / "small/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2  # seeds, methods, splits
    for row in rows:
        assert row["task"] == "small"
        run = prepared / f"small/seed-{row['seed']}/sparsity-0.5/{row['method']}.run"
        document = json.loads((run / "audit.json").read_text())
        (split,) = [s for s in document["splits"] if s["split"] == row["split"]]
        for name in ("acc_dense", "acc_sparse", "max_excess_gap", "pairwise_disparity"):
            assert float(row[name]) == split[name]
        assert int(row["images"]) == split["n"]
        assert float(row["eps"]) == document["overall"]["eps"] == 0.25


def test_seeds_and_methods_give_different_models(prepared: Path) -> None:
    found = hashes(prepared / "small")
    assert len(set(found.values())) == len(found) == 2 + 2 + 4


def test_a_sweep_that_is_done_does_nothing_again(here: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (here / "small/seed-0").rglob("*")}
    hearing = Hearing()
    found = sweep(Path("small.yaml"), reporter=hearing)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(found.rows) == 8
    assert hearing.said == [
        "dense and pruned models of seed 0: was done already (1 of 2)",
        "dense and pruned models of seed 1: was done already (2 of 2)",
        "naive, sparsity 0.5, seed 0: was done already (1 of 4)",
        "ceag, sparsity 0.5, seed 0: was done already (2 of 4)",
        "naive, sparsity 0.5, seed 1: was done already (3 of 4)",
        "ceag, sparsity 0.5, seed 1: was done already (4 of 4)",
    ]


def test_a_method_that_is_added_is_all_that_is_run(here: Path) -> None:
    before = hashes(here / "small")
    more = RECIPE["methods"] | {"fairgrape": {"method": "fairgrape", "epochs": 2}}
    write(here, RECIPE | {"methods": more})
    found = sweep(Path("small.yaml"))
    after = hashes(here / "small")
    assert after | before == after
    assert len(after) == len(before) + 2
    assert {row.method for row in found.rows} == {"naive", "ceag", "fairgrape"}


def test_a_run_that_is_missing_is_run_again_to_the_same_result(here: Path) -> None:
    before = hashes(here / "small")
    lost = here / "small/seed-1/sparsity-0.5/ceag.safetensors"
    lost.unlink()
    shutil.rmtree(lost.with_name("ceag.run"))
    hearing = Hearing()
    rows = sweep(Path("small.yaml"), reporter=hearing).rows
    assert hearing.said[-2:] == [
        "naive, sparsity 0.5, seed 1: was done already (3 of 4)",
        "ceag, sparsity 0.5, seed 1: done (4 of 4)",
    ]
    assert hashes(here / "small").keys() == before.keys()
    assert len(rows) == 8


def test_an_audit_that_is_missing_is_made_again(here: Path) -> None:
    audit = here / "small/seed-1/sparsity-0.5/ceag.run/audit.json"
    text = audit.read_text()
    audit.unlink()
    hearing = Hearing()
    sweep(Path("small.yaml"), reporter=hearing)
    assert hearing.said[-1] == "ceag, sparsity 0.5, seed 1: done (4 of 4)"
    assert json.loads(audit.read_text())["splits"] == json.loads(text)["splits"]


def test_changed_options_are_refused_unless_to_be_overwritten(here: Path) -> None:
    write(here, RECIPE | {"methods": {"ceag": {"dual_speed": 5}}})
    with pytest.raises(SweepError) as caught:
        sweep(Path("small.yaml"))
    assert any("--dual-speed was 3.0 and is 5.0" in problem for problem in caught.value.problems)
    found = sweep(Path("small.yaml"), overwrite=True)
    assert len(found.rows) == 4
    recipe = (here / "small/seed-0/sparsity-0.5/ceag.run/recipe.yaml").read_text()
    assert "dual_speed: 5.0" in recipe


def test_a_run_that_fails_does_not_stop_the_others(here: Path) -> None:
    bad = {"bad": {"lr": 1e30, "sched": "constant"}}
    write(here, RECIPE | {"methods": bad | RECIPE["methods"]})
    hearing = Hearing()
    with pytest.raises(SweepError) as caught:
        sweep(Path("small.yaml"), reporter=hearing)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("bad, sparsity 0.5, seed 0: ")
    assert "warning: bad, sparsity 0.5, seed 0: failed (1 of 6)" in hearing.said
    assert "ceag, sparsity 0.5, seed 1: was done already (6 of 6)" in hearing.said
    assert "| naive | 2 |" in (here / "small/table.md").read_text()


def test_two_jobs_give_what_one_gives(here: Path) -> None:
    recipe = RECIPE | {"seeds": [0], "methods": {"ceag": RECIPE["methods"]["ceag"]}}
    write(here, recipe, "other.yaml")
    one = sweep(Path("other.yaml"), Path("one"))
    two = sweep(Path("other.yaml"), Path("two"), jobs=2)
    # Threads change sums in the last bits, so counts may differ by an image in principle.
    for a, b in zip(one.rows, two.rows, strict=True):
        assert (a.method, a.seed, a.split, a.images) == (b.method, b.seed, b.split, b.images)
        assert abs(a.acc_sparse - b.acc_sparse) <= 2 / 12


def test_the_command_prints_the_table_and_the_folder_can_be_chosen(here: Path) -> None:
    result = done("sweep", "small.yaml", "-o", "small")
    assert result.stdout == (here / "small/table.md").read_text()
    document = json.loads(done("sweep", "small.yaml", "--format", "json").stdout)
    assert document["command"] == "sweep"
    assert len(document["rows"]) == 8


# The recipe


def problems(folder: Path, **changes: Any) -> list[str]:
    path = write(folder, RECIPE | changes, "bad.yaml")
    with pytest.raises(OptionError) as caught:
        Plan.read(path)
    return [problem.removeprefix(f"{path}") for problem in caught.value.problems]


def test_all_problems_of_a_recipe_are_reported_together(tmp_path: Path) -> None:
    assert problems(
        tmp_path,
        sedes=[1],
        seeds=["a"],
        sparsities=[0.5, 1.5],
        dense={"epochz": 3, "seed": 1},
        methods={"x": {"method": "magic"}, "a/b": {}},
    ) == [
        ": unknown key 'sedes'; did you mean 'seeds'?",
        ": needs 'seeds', a list of numbers, e.g. seeds: [0, 1, 2]",
        ": sparsities: 1.5 must be at least 0 and less than 1",
        ", dense: 'seed' is set by the sweep; leave it out",
        ", dense: unknown key 'epochz'; did you mean 'epochs'?",
        ", methods, x: method: 'magic' is not one of ceag, naive, naive-es, equalized-loss, "
        "fairgrape, reweight, group-dro",
        ": methods: 'a/b' cannot be a file name",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seeds": [1, 1]}, ": seeds: a number is given twice"),
        ({"seeds": [1.5]}, ": needs 'seeds', a list of numbers, e.g. seeds: [0, 1, 2]"),
        ({"seeds": True}, ": needs 'seeds', a list of numbers, e.g. seeds: [0, 1, 2]"),
        (
            {"sparsities": []},
            ": needs 'sparsities', a list of numbers, e.g. sparsities: [0.9, 0.95]",
        ),
        ({"methods": None}, ": needs 'methods', name: {option: value}"),
        ({"methods": {"model": {}}}, ": methods: 'model' cannot be a file name"),
        ({"mitigate": [1]}, ": section 'mitigate' must hold 'name: value' lines"),
        ({"command": "dense"}, ": this recipe is not for 'ceag sweep'"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    assert problem in problems(tmp_path, **changes)


def test_one_number_is_a_list_of_one(tmp_path: Path) -> None:
    plan = Plan.read(write(tmp_path, RECIPE | {"seeds": 3, "sparsities": 0.9}))
    assert (plan.seeds, plan.sparsities) == ((3,), (0.9,))
    assert plan.cells() == [Cell(3, 0.9, "naive"), Cell(3, 0.9, "ceag")]


def test_a_bad_recipe_is_exit_2_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"command": "sweep"}, "x.yaml")
    result = ceag("sweep", "x.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


# The table


def row(method: str, seed: int, split: str, acc: float, psi: float) -> Row:
    return Row("t", 0.9, method, seed, split, 100, 1.0, acc, psi, "g=a", 2 * psi, 0.05)


def test_the_table_gives_mean_and_spread_over_seeds() -> None:
    plan = Plan("t", (0, 1), (0.9,), {}, {}, {}, {"ceag": {}, "naive": {}})
    rows = (
        row("ceag", 0, "train", 0.90, 0.04),
        row("ceag", 1, "train", 0.94, 0.06),
        row("ceag", 0, "test", 0.50, 0.05),
        row("ceag", 1, "test", 0.50, 0.05),
    )
    lines = table(Sweep(plan, rows, Path("t")))
    # 90 and 94: mean 92, standard deviation sqrt(8) = 2.8; 4 and 6: mean 5, sqrt(2) = 1.4.
    assert lines[2] == (
        "| 90 % | ceag | 2 | 92.0 ± 2.8 | 5.0 ± 1.4 | 10.0 ± 2.8 | 1 of 2 "
        "| 50.0 ± 0.0 | 5.0 ± 0.0 | 10.0 ± 0.0 | 2 of 2 |"
    )
    assert len(lines) == 3  # naive has no rows
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_one_seed_has_no_spread() -> None:
    plan = Plan("t", (0,), (0.9,), {}, {}, {}, {"ceag": {}})
    lines = table(Sweep(plan, (row("ceag", 0, "train", 0.9, 0.04),), Path("t")))
    assert lines[2] == "| 90 % | ceag | 1 | 90.0 | 4.0 | 8.0 | 1 of 1 |  |  |  |  |"


def test_csv_has_a_line_for_every_run_and_split() -> None:
    rows = [row("ceag", 0, "train", 0.9, 0.04), row("ceag", 0, "test", 0.5, 0.1)]
    found = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [line["split"] for line in found] == ["train", "test"]
    assert float(found[1]["max_excess_gap"]) == 0.1
    assert replace(rows[0], split="test") != rows[0]
