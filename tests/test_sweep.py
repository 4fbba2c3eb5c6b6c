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

from ceag_cli.comparing import STATISTICS, Difference
from ceag_cli.errors import OptionError, SweepError
from ceag_cli.experiment import Cell, Plan
from ceag_cli.heldout import Comparison, comparisons, not_comparable, replicates_of, same_images
from ceag_cli.progress import Quiet
from ceag_cli.sweep import run_sweep
from ceag_cli.sweepdocument import as_csv, comparisons_as_csv
from ceag_cli.sweepfindings import Row, Sweep
from ceag_cli.sweepreport import comparison_table, lines, table
from ceag_cli.weightsfiles import sha256_of

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
        run_sweep(Path("small.yaml"))
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
    files = ("results.csv", "table.md", "results.svg", "sweep.json", "sweep.html")
    assert {*files, "accuracy.csv", "accuracy.parquet"} <= found


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
        assert float(row["worst_group_accuracy"]) == split["worst_accuracy_sparse"]
        variance = split["between_group_variance"]
        assert float(row["between_group_variance"]) == pytest.approx(variance, abs=1e-12)
        if split["gated"]:
            assert float(row["noise_floor"]) == split["noise_floor"]
        groups = [g for g in document["groups"] if g["split"] == row["split"] and g["n"]]
        positive = sum(max(g["excess_gap"], 0) for g in groups) / len(groups)
        assert float(row["mean_positive_gap"]) == pytest.approx(positive)
        assert -2 <= float(row["split_half_harm"]) <= 2


def test_seeds_and_methods_give_different_models(prepared: Path) -> None:
    found = hashes(prepared / "small")
    assert len(set(found.values())) == len(found) == 2 + 2 + 4


def test_a_sweep_that_is_done_does_nothing_again(here: Path) -> None:
    there = [path for path in (here / "small/seed-0").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in there}
    hearing = Hearing()
    found = run_sweep(Path("small.yaml"), reporter=hearing)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(found.rows) == 8
    assert hearing.said == [
        "dense model, seed 0: was done already (1 of 2)",
        "dense model, seed 1: was done already (2 of 2)",
        "pruned to 0.5, seed 0: was done already (1 of 2)",
        "pruned to 0.5, seed 1: was done already (2 of 2)",
        "naive, sparsity 0.5, seed 0: was done already (1 of 4)",
        "ceag, sparsity 0.5, seed 0: was done already (2 of 4)",
        "naive, sparsity 0.5, seed 1: was done already (3 of 4)",
        "ceag, sparsity 0.5, seed 1: was done already (4 of 4)",
    ]


def test_a_method_that_is_added_is_all_that_is_run(here: Path) -> None:
    before = hashes(here / "small")
    more = RECIPE["methods"] | {"fairgrape": {"method": "fairgrape", "epochs": 2}}
    write(here, RECIPE | {"methods": more})
    found = run_sweep(Path("small.yaml"))
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
    rows = run_sweep(Path("small.yaml"), reporter=hearing).rows
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
    run_sweep(Path("small.yaml"), reporter=hearing)
    assert hearing.said[-1] == "ceag, sparsity 0.5, seed 1: done (4 of 4)"
    assert json.loads(audit.read_text())["splits"] == json.loads(text)["splits"]


def test_an_audit_without_its_answers_is_made_again(here: Path) -> None:
    kept = here / "small/seed-1/sparsity-0.5/ceag.run/predictions.npz"
    kept.unlink()
    hearing = Hearing()
    run_sweep(Path("small.yaml"), reporter=hearing)
    assert hearing.said[-1] == "ceag, sparsity 0.5, seed 1: done (4 of 4)"
    assert kept.is_file()


def test_changed_options_are_refused_unless_to_be_overwritten(here: Path) -> None:
    write(here, RECIPE | {"methods": {"ceag": {"dual_speed": 5}}})
    with pytest.raises(SweepError) as caught:
        run_sweep(Path("small.yaml"))
    assert any("--dual-speed was 3.0 and is 5.0" in problem for problem in caught.value.problems)
    found = run_sweep(Path("small.yaml"), overwrite=True)
    assert len(found.rows) == 4
    recipe = (here / "small/seed-0/sparsity-0.5/ceag.run/recipe.yaml").read_text()
    assert "dual_speed: 5.0" in recipe


def test_a_run_that_fails_does_not_stop_the_others(here: Path) -> None:
    bad = {"bad": {"lr": 1e30, "sched": "constant"}}
    write(here, RECIPE | {"methods": bad | RECIPE["methods"]})
    hearing = Hearing()
    with pytest.raises(SweepError) as caught:
        run_sweep(Path("small.yaml"), reporter=hearing)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("bad, sparsity 0.5, seed 0: ")
    assert "warning: bad, sparsity 0.5, seed 0: failed (1 of 6)" in hearing.said
    assert "ceag, sparsity 0.5, seed 1: was done already (6 of 6)" in hearing.said
    assert "| naive | 2 |" in (here / "small/table.md").read_text()


def test_two_jobs_give_what_one_gives(here: Path) -> None:
    recipe = RECIPE | {"seeds": [0], "methods": {"ceag": RECIPE["methods"]["ceag"]}}
    write(here, recipe, "other.yaml")
    one = run_sweep(Path("other.yaml"), Path("one"))
    two = run_sweep(Path("other.yaml"), Path("two"), jobs=2)
    # Threads change sums in the last bits, so counts may differ by an image in principle.
    for a, b in zip(one.rows, two.rows, strict=True):
        assert (a.method, a.seed, a.split, a.images) == (b.method, b.seed, b.split, b.images)
        assert abs(a.acc_sparse - b.acc_sparse) <= 2 / 12


def test_the_command_prints_the_table_and_the_folder_can_be_chosen(here: Path) -> None:
    result = done("sweep", "small.yaml", "-o", "small")
    assert result.stdout.startswith((here / "small/table.md").read_text())
    assert result.stdout.endswith("nothing is known.\n") or "No setting passes" in result.stdout
    document = json.loads(done("sweep", "small.yaml", "--format", "json").stdout)
    assert document["command"] == "sweep"
    assert len(document["rows"]) == 8


# Comparisons


def test_methods_are_compared_without_another_run(here: Path) -> None:
    before = hashes(here)
    write(here, RECIPE | {"compare": {"ceag": ["naive"]}})
    result = done("sweep", "small.yaml", "--format", "json")
    assert hashes(here) == before
    document = json.loads(result.stdout)
    with (here / "small/comparisons.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document["comparisons"]) == 2 * len(STATISTICS)  # splits
    for row, same in zip(rows, document["comparisons"], strict=True):
        assert list(row) == list(same)
        assert (row["method"], row["rival"], row["seeds"]) == ("ceag", "naive", "2")
        runs = {
            (run["method"], run["seed"]): run
            for run in document["rows"]
            if run["split"] == row["split"]
        }
        name = {"accuracy": "acc_sparse"}.get(row["statistic"], row["statistic"])
        expected = [runs["ceag", seed][name] - runs["naive", seed][name] for seed in (0, 1)]
        assert float(row["estimate"]) == pytest.approx(sum(expected) / 2)
        assert float(row["error_seeds"]) == pytest.approx(abs(expected[0] - expected[1]) / 2)
        assert float(row["lower"]) <= float(row["estimate"]) <= float(row["upper"])
        assert same["over"] == "seeds and images"
    text = (here / "small/comparisons.md").read_text()
    assert "| test | 50 % | ceag | naive | 2 | " in text
    said = done("sweep", "small.yaml").stdout
    assert said.startswith((here / "small/table.md").read_text())
    assert "ceag less naive, 50 %, test (2 seeds): accuracy " in said
    assert "train (2 seeds)" not in said


def test_without_compare_nothing_is_compared(prepared: Path) -> None:
    assert not list((prepared / "small").glob("comparisons.*"))


def test_runs_on_other_images_are_not_compared(here: Path) -> None:
    folder = here / "small/seed-0/sparsity-0.5"
    rows = (here / "labels.csv").read_text().splitlines()
    (here / "fewer.csv").write_text("\n".join(rows[:-1]) + "\n")
    files = {}
    for method, groups in (("naive", "labels.csv"), ("ceag", "fewer.csv")):
        ceag("audit", str(folder / f"{method}.safetensors"), "--groups", groups, "-o", method)
        files[Cell(0, 0.5, method)] = here / method / "predictions.npz"
    plan = Plan("t", (0,), (0.5,), {}, {}, {}, {"naive": {}, "ceag": {}}, {"ceag": ("naive",)})
    images = same_images(files)
    last = rows[-1].split(",")
    (split,) = {name for name in ("train", "test") if name in last}
    assert sorted(each.split for each in images) == sorted(["train", "test", split])
    assert not_comparable(plan, images) == [
        f"ceag and naive were audited on different images or groups of {split}, so they are not "
        "compared there"
    ]
    compared = [c for each in images for c in comparisons(plan, each.split, replicates_of(each))]
    assert {c.split for c in compared} == {"train", "test"} - {split}
    assert {c.difference.over for c in compared} == {"images only"}


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
        ({"compare": ["ceag"]}, ": section 'compare' must hold 'method: [rival, ...]' lines"),
        (
            {"compare": {"ceg": ["naive"]}},
            ": compare: 'ceg' is no method; did you mean 'ceag'?",
        ),
        (
            {"compare": {"ceag": ["naiv"]}},
            ": compare: 'naiv' is no method; did you mean 'naive'?",
        ),
        ({"compare": {"ceag": "ceag"}}, ": compare: 'ceag' is compared with itself"),
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


def test_one_rival_is_a_list_of_one(tmp_path: Path) -> None:
    plan = Plan.read(write(tmp_path, RECIPE | {"compare": {"ceag": "naive"}}))
    assert plan.compare == {"ceag": ("naive",)}
    assert Plan.read(write(tmp_path, RECIPE)).compare == {}


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
    more = (psi / 2, acc - 0.1, 0.03, -(psi**2), psi / 4)
    return Row(
        "t", 0.9, "magnitude", method, seed, split, 100, 1.0, acc, psi, "g=a", 2 * psi, 0.05, *more
    )


def test_the_table_gives_mean_and_spread_over_seeds() -> None:
    plan = Plan("t", (0, 1), (0.9,), {}, {}, {}, {"ceag": {}, "naive": {}})
    rows = (
        row("ceag", 0, "train", 0.90, 0.04),
        row("ceag", 1, "train", 0.94, 0.06),
        row("ceag", 0, "test", 0.50, 0.05),
        row("ceag", 1, "test", 0.50, 0.05),
    )
    found = table(Sweep(plan, rows, Path("t")))
    # 90 and 94: mean 92, standard deviation sqrt(8) = 2.8; 4 and 6: mean 5, sqrt(2) = 1.4.
    assert found[2] == (
        "| 90 % | ceag | 2 | 92.0 ± 2.8 | 5.0 ± 1.4 | 10.0 ± 2.8 | 1 of 2 "
        "| 50.0 ± 0.0 | 5.0 ± 0.0 | 10.0 ± 0.0 | 2 of 2 |"
    )
    # Harm 1 and 1.5, a variance of -0.0016 and -0.0036, mean psi 2 and 3, accuracy less 10.
    assert found[6] == (
        "| 90 % | ceag | 2 | 1.2 ± 0.4 | -5.0 ± 1.4 | 2.5 ± 0.7 | 3.0 ± 0.0 | 82.0 ± 2.8 "
        "| 1.2 ± 0.0 | -5.0 ± 0.0 | 2.5 ± 0.0 | 3.0 ± 0.0 | 40.0 ± 0.0 |"
    )
    assert (found[3], len(found)) == ("", 7)  # naive has no rows
    for part in (found[:3], found[4:]):
        assert len({line.count("|") for line in part}) == 1


def test_one_seed_has_no_spread() -> None:
    plan = Plan("t", (0,), (0.9,), {}, {}, {}, {"ceag": {}})
    found = table(Sweep(plan, (row("ceag", 0, "train", 0.9, 0.04),), Path("t")))
    assert found[2] == "| 90 % | ceag | 1 | 90.0 | 4.0 | 8.0 | 1 of 1 |  |  |  |  |"


def test_csv_has_a_line_for_every_run_and_split() -> None:
    rows = [row("ceag", 0, "train", 0.9, 0.04), row("ceag", 0, "test", 0.5, 0.1)]
    found = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [line["split"] for line in found] == ["train", "test"]
    assert float(found[1]["max_excess_gap"]) == 0.1
    assert replace(rows[0], split="test") != rows[0]


def test_what_is_not_known_is_an_empty_cell() -> None:
    plan = Plan("t", (0,), (0.9,), {}, {}, {}, {"ceag": {}})
    one = replace(row("ceag", 0, "test", 0.9, 0.04), between_group_variance=None)
    assert table(Sweep(plan, (one,), Path("t")), ["test"])[6] == (
        "| 90 % | ceag | 1 | 1.0 |  | 2.0 | 3.0 | 80.0 |"
    )
    (line,) = csv.DictReader(as_csv([one]).splitlines())
    assert line["between_group_variance"] == ""


def compared(
    statistic: str,
    estimate: float,
    lower: float,
    upper: float,
    error_seeds: float | None = 0.1,
) -> Comparison:
    found = Difference(
        estimate, lower, upper, 1 if error_seeds is None else 5, error_seeds, 0.1, 7.0
    )
    return Comparison("t", 0.9, "magnitude", "test", "ceag", "naive", statistic, 0.5, 0.4, found)


def sentence(found: Sweep) -> str:
    (line,) = [line for line in lines(found) if line.startswith("ceag less naive")]
    return line


def test_comparisons_have_their_units_and_a_star_where_they_exclude_zero() -> None:
    plan = Plan("t", (0,), (0.9,), {}, {}, {}, {"ceag": {}, "naive": {}}, {"ceag": ("naive",)})
    found = Sweep(
        plan,
        (),
        Path("t"),
        (
            compared("accuracy", 0.004, -0.001, 0.009),
            compared("between_group_variance", -0.0002, -0.0003, -0.0001),
            compared("split_half_harm", 0.01, 0.005, 0.015),
            compared("max_excess_gap", 0.01, 0.005, 0.015),
        ),
    )
    assert comparison_table(found)[2] == (
        "| test | 90 % | ceag | naive | 5 | +0.40 (-0.10 to +0.90) | -2.00 (-3.00 to -1.00) * "
        "| +1.00 (+0.50 to +1.50) * |"
    )
    assert sentence(found) == (
        "ceag less naive, 90 %, test (5 seeds): accuracy +0.40 (-0.10 to +0.90) points; "
        "between-group variance -2.00 (-3.00 to -1.00) * points²; "
        "split-half harm +1.00 (+0.50 to +1.50) * points"
    )
    rows = list(csv.DictReader(comparisons_as_csv(found.comparisons).splitlines()))
    assert [line["excludes_zero"] for line in rows] == ["false", "true", "true", "true"]
    assert (rows[0]["mean_method"], rows[0]["seeds"], rows[0]["upper"]) == ("0.5", "5", "0.009")


def test_one_seed_is_marked_and_bounds_that_are_not_known_are_left_out() -> None:
    nan = float("nan")
    plan = Plan("t", (0,), (0.9,), {}, {}, {}, {"ceag": {}, "naive": {}}, {"ceag": ("naive",)})
    each = (
        compared("accuracy", 0.004, nan, nan, error_seeds=None),
        compared("between_group_variance", nan, nan, nan, error_seeds=None),
        compared("split_half_harm", 0.01, 0.005, 0.015, error_seeds=None),
    )
    found = Sweep(plan, (), Path("t"), each)
    assert comparison_table(found)[2] == (
        "| test | 90 % | ceag | naive | 1 (images only) | +0.40 |  | +1.00 (+0.50 to +1.50) * |"
    )
    assert "test (1 seed, over images only): accuracy +0.40 points; between" in sentence(found)
    assert "between-group variance not known points²" in sentence(found)
    row_of_csv = next(iter(csv.DictReader(comparisons_as_csv(each).splitlines())))
    assert (row_of_csv["lower"], row_of_csv["error_seeds"]) == ("", "")
