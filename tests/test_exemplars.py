"""``ceag exemplars`` from tables and from models to files, and what stands in them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_formats import wrong
from toys import TINY, ceag, done, folder_with, write_csv

import ceag_cli
from ceag_cli import ExemplarsOptions, atomic
from ceag_cli.errors import CeagError
from ceag_cli.findings import Subject
from ceag_cli.gallery import pictures_asked
from ceag_cli.identifying import exemplars
from ceag_cli.modes import identify
from ceag_cli.pies import GroupPies, Pies, kept_pies, pies_document, pies_from
from ceag_cli.populations import pairs_of
from ceag_cli.schemas import schema

# Three models of each population, five images, as in test_modes.
DENSE = ["aaaab", "aabbb", "abbcc"]
SPARSE = ["babcc", "baacc", "bbabb"]
LABEL = "aabcb"
GROUP = ["x", "x", "x", "y", "y"]
HEADER = ("id", "label", "split", "dense", "sparse", "group")


def table(
    path: str,
    dense: str,
    sparse: str,
    *,
    label: str = LABEL,
    group: Sequence[str] = GROUP,
    order: Sequence[int] = range(5),
) -> str:
    rows = [(f"{i}.png", label[i], "test", dense[i], sparse[i], group[i]) for i in order]
    rows.append(("0-train.png", "a", "train", "a", "a", "x"))
    write_csv(Path(path), rows, HEADER)
    return path


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for three tables; in the second the images come in another order."""
    monkeypatch.chdir(tmp_path)
    orders = [range(5), [4, 2, 0, 1, 3], range(5)]
    paths = [
        table(f"{i}.csv", dense, sparse, order=order)
        for i, (dense, sparse, order) in enumerate(zip(DENSE, SPARSE, orders, strict=True))
    ]
    return [argument for path in paths for argument in ("--predictions", path)]


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done("exemplars", *arguments, "--format", "json").stdout)
    return found


def test_from_tables_by_hand(tables: list[str]) -> None:
    said = document(*tables)
    found = said["exemplars"]
    assert (found["n"], found["count"], found["modal"]) == (5, 3, True)
    assert found["rate"]["value"] == 0.6
    assert [image["id"] for image in found["images"]] == ["0.png", "2.png", "4.png"]
    first = found["images"][0]
    assert (first["label"], first["dense"], first["sparse"]) == ("a", ["a"], ["b"])
    assert (first["votes_dense"], first["votes_sparse"], first["margin"]) == (3, 3, 1.0)
    assert first["groups"] == ["group=x"]
    # Image 2 is b: two dense models and one sparse one are right. Image 4 likewise.
    assert found["dense"]["on_identified"] == pytest.approx((3 + 2 + 2) / 9)
    assert found["sparse"]["on_identified"] == pytest.approx((0 + 1 + 1) / 9)
    assert found["dense"]["on_others"] == pytest.approx((2 + 1) / 6)  # images 1 and 3
    assert found["sparse"]["on_others"] == pytest.approx((2 + 2) / 6)
    assert found["dense"]["overall"] == pytest.approx(10 / 15)
    assert (found["dense_right"], found["sparse_right"], found["neither_right"]) == (3, 0, 0)
    assert (found["tied_dense"], found["tied_sparse"], found["count_largest_label"]) == (1, 0, 3)
    assert (found["within_pairs"], found["deals"]) == (True, 4)
    x, y = found["groups"]
    assert (x["value"], x["n"], x["count"], x["rate"]["value"]) == ("x", 3, 2, 2 / 3)
    assert x["excess"]["value"] == pytest.approx(2 / 3 - 3 / 5)
    assert (y["n"], y["count"]) == (2, 1)
    # Accuracies in x are 1, 2/3 and 2/3 (dense), 2/3, 1/3 and 0 (sparse).
    assert x["acc_dense"] == pytest.approx((3 - 1 + 3 + 2) / 9)


def test_psi_is_the_mean_over_models(tables: list[str]) -> None:
    found = document(*tables)["exemplars"]
    right = [
        np.array([[a == b for a, b in zip(answers, LABEL, strict=True)] for answers in population])
        for population in (DENSE, SPARSE)
    ]
    for group in found["groups"]:
        inside = np.array([g == group["value"] for g in GROUP])
        excess = [each[:, inside].mean(1) - each.mean(1) for each in right]
        assert group["excess_gap"]["value"] == pytest.approx(excess[0].mean() - excess[1].mean())
        assert group["acc_sparse"] == pytest.approx(right[1][:, inside].mean())
    # Two groups of one feature: what one gains the other loses, so that p is the same.
    one, two = found["groups"]
    assert one["p_welch"] == pytest.approx(two["p_welch"])
    assert one["p_welch_holm"] == pytest.approx(min(1.0, 2 * one["p_welch"]))
    assert found["groups_tested_welch"] == 2


def test_a_group_that_is_split_in_two_shares_its_images(tables: list[str]) -> None:
    whole = document(*tables)["exemplars"]
    halves = ["x1", "x2", "x2", "y", "y"]
    paths = [
        table(f"half-{i}.csv", DENSE[i], SPARSE[i], group=halves, order=range(5)) for i in range(3)
    ]
    found = document(*[a for path in paths for a in ("--predictions", path)])["exemplars"]
    assert found["count"] == whole["count"]
    assert found["images"][0]["margin"] == whole["images"][0]["margin"]
    by_name = {group["value"]: group for group in found["groups"]}
    x = next(group for group in whole["groups"] if group["value"] == "x")
    assert by_name["x1"]["count"] + by_name["x2"]["count"] == x["count"]
    assert by_name["x1"]["rate_by_chance"] + 2 * by_name["x2"]["rate_by_chance"] == pytest.approx(
        3 * x["rate_by_chance"]
    )


def test_the_order_of_tables_changes_nothing_but_names(tables: list[str]) -> None:
    whole, turned = document(*tables), document(*tables[4:], *tables[:4])
    for found in (whole, turned):
        found["exemplars"]["images"].sort(key=lambda image: image["id"])
    one, other = whole["exemplars"], turned["exemplars"]
    for group, turned_group in zip(one["groups"], other["groups"], strict=True):
        for name, value in group.items():
            nested = isinstance(value, dict)
            expected = pytest.approx(value) if nested or isinstance(value, float) else value
            assert turned_group[name] == expected, name
    assert [image["margin"] for image in other["images"]] == [
        pytest.approx(image["margin"]) for image in one["images"]
    ]


def test_one_pair_of_models_gives_disagreements(tables: list[str]) -> None:
    result = done("exemplars", *tables[:2])
    assert "2 disagreements" not in result.stdout
    assert "4 disagreements, 80.0" in result.stdout
    assert "pruning identified exemplars: other models would disagree" in result.stdout
    assert "1 dense and 1 sparse model." in result.stdout
    assert "No test of psi" in result.stdout
    found = document(*tables[:2])["exemplars"]
    assert not found["modal"]
    assert found["by_chance"] is found["p_by_chance"] is found["deals"] is None
    assert [group["excess_gap"]["lower"] for group in found["groups"]] == [None, None]
    page = Path("exemplars.run/exemplars.html").read_text()
    assert "Disagreements on test" in page
    assert "PIE" not in page


def test_a_model_in_several_tables_has_one_vote(tables: list[str]) -> None:
    """One dense model, and three sparse ones made of it."""
    paths = [table(f"same-{i}.csv", DENSE[0], SPARSE[i]) for i in range(3)]
    result = done("exemplars", *[a for p in paths for a in ("--predictions", p)])
    assert "3 tables have the answers of 1 dense model; each has one vote" in result.stderr
    assert "1 dense and 3 sparse models" in result.stdout
    # No pairs are known then, and no label is modal.
    assert "disagreements" in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "babcb"}, "1.csv: '0.png' has another label than in 0.csv (1 image in all)"),
        (
            {"group": ["x", "y", "y", "y", "y"]},
            "1.csv: '1.png' has another group than in 0.csv (2 images in all)",
        ),
        (
            {"order": [0, 1, 2, 3]},
            "1.csv: is not about the same images as 0.csv: it lacks '4.png'",
        ),
    ],
)
def test_tables_have_to_be_about_the_same_images(
    tables: list[str], change: dict[str, Any], message: str
) -> None:
    table("1.csv", DENSE[1], SPARSE[1], **change)
    result = ceag("exemplars", *tables)
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr
    assert not Path("exemplars.run").exists()


def test_what_makes_no_sense_is_refused(tables: list[str]) -> None:
    for arguments, message in (
        ([], "error: ceag exemplars needs the sparse models"),
        ([*tables, "a.safetensors"], "FILE would have no effect"),
        ([*tables, "--dense", "a.safetensors"], "--dense would have no effect"),
        ([*tables, "--split", "val"], "0.csv: no row has split 'val'"),
        ([*tables, "--gallery", "201"], "--gallery: 201 must be at most 200"),
        ([*tables, "--report", "junit=a.xml"], "'junit' is not one of text, json, markdown, csv"),
        ([*tables, "-o", "a.html"], "names the folder of the exemplars"),
        ([*tables, "--report", "csv=0.csv"], "is read by this exemplars and is not written over"),
    ):
        result = ceag("exemplars", *arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["0.csv", "1.csv", "2.csv"]


def test_a_recipe(tables: list[str]) -> None:
    Path("recipe.yaml").write_text(
        "command: exemplars\npredictions: [0.csv, 1.csv, 2.csv]\nalpha: 0.1\noutput: here\n"
    )
    found = json.loads(done("exemplars", "-c", "recipe.yaml", "--format", "json").stdout)
    assert found["exemplars"]["count"] == 3
    assert found["exemplars"]["alpha"] == 0.1
    assert Path("here/exemplars.html").is_file()


def test_no_image_is_identified(tables: list[str]) -> None:
    paths = [table(f"none-{i}.csv", DENSE[i], DENSE[i]) for i in range(3)]
    result = done("exemplars", *[a for p in paths for a in ("--predictions", p)])
    assert "0 pruning identified exemplars, 0.0" in result.stdout
    assert "The clearest" not in result.stdout
    found = document(*[a for p in paths for a in ("--predictions", p)])["exemplars"]
    assert found["images"] == []
    assert found["dense"]["on_identified"] is None


# Names


HOSTILE = ("<b>x</b>", "=1+1", "::error::x", "a|b", "\x1b[31m")


@pytest.mark.parametrize("name", ["text", "json", "markdown", "csv", "html"])
def test_names_are_text(tables: list[str], name: str) -> None:
    paths = [
        table(f"bad-{i}.csv", DENSE[i], SPARSE[i], group=HOSTILE, order=range(5)) for i in range(3)
    ]
    arguments = [a for p in paths for a in ("--predictions", p)]
    # The train row has a group of its own.
    text = done("exemplars", *arguments, "--format", name).stdout
    assert text.endswith("\n")
    assert "\x1b" not in text or name == "csv"
    if name in ("text", "markdown"):
        assert not [line for line in text.splitlines() if re.match(r"\s*(::|##\[)", line)]
    if name in ("html", "markdown"):
        assert "<b>" not in text
    if name == "csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert len(rows) == 4
        assert rows[1][:9] == ["0.png", "a", "a", "b", "3", "3", "3", "3", "1.0"]


def test_ties_are_listed(tables: list[str]) -> None:
    paths = [table(f"tied-{i}.csv", d * 5, "c" * 5) for i, d in enumerate("ab")]
    text = done(
        "exemplars", *[a for p in paths for a in ("--predictions", p)], "--format", "csv"
    ).stdout
    assert text.splitlines()[1].startswith("0.png,a,a|b,c,1,2,1,1,0.75")


# Documents


def test_the_document_is_as_its_schema_says(tables: list[str]) -> None:
    described = json.loads(schema("exemplars"))
    for arguments in (tables, tables[:2]):
        said = document(*arguments)
        assert wrong(said, described) == []
        assert sorted(said) == sorted(described["required"])
    for name, part in described["$defs"].items():
        if name.startswith("exemplar"):
            assert sorted(part["required"]) == sorted(part["properties"])
    assert wrong({**document(*tables), "exemplars": {}}, described) != []


def test_every_reference_of_a_schema_is_there() -> None:
    for command in ("audit", "explain", "exemplars", "sweep"):
        text = done("schema", command).stdout
        described = json.loads(text)
        named = set(re.findall(r'"#/\$defs/(\w+)"', text))
        assert named == set(described["$defs"])
        assert described["properties"]["command"]["const"] == command
    assert done("schema").stdout == done("schema", "audit").stdout
    result = ceag("schema", "exemplar")
    assert result.exit_code == 2
    assert "'exemplar' is not one of audit, explain, exemplars, sweep; did" in result.stderr


def found_in(arguments: list[str], **options: Any) -> Pies:
    return exemplars(ExemplarsOptions(predictions=tuple(arguments[1::2]), **options)).pies


def test_a_document_is_read_back(tables: list[str]) -> None:
    found = found_in(tables)
    plain = json.loads(json.dumps(pies_document(found), allow_nan=False))
    assert pies_from(plain) == found


def test_bounds_are_widened_for_images_that_belong_together(tables: list[str]) -> None:
    def with_person(persons: Sequence[str]) -> GroupPies:
        for i in range(3):
            answers = [DENSE[i] * 8, SPARSE[i] * 8]
            rows = [
                (f"{n}.png", LABEL[n % 5], "test", answers[0][n], answers[1][n], g, persons[n])
                for n, g in enumerate("xxxyy" * 8)
            ]
            write_csv(Path(f"{i}.csv"), rows, (*HEADER, "person"))
        return found_in(tables, cluster_id="person", groups_by="group").groups[0]

    alone = with_person([str(n) for n in range(40)])
    # Images of a person are of one image of the five, so they are identified together or not.
    together = with_person([str(n % 5 + 5 * (n // 20)) for n in range(40)])
    assert alone.rate is not None
    assert alone.excess is not None
    assert together.rate is not None
    assert together.excess is not None
    assert alone.rate.value == together.rate.value
    assert (together.rate.lower or 0) < (alone.rate.lower or 0)
    assert (together.excess.upper or 0) > (alone.excess.upper or 0)


def test_reports_that_cannot_be_written(tables: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic.write_text

    def full(path: Path, text: str) -> None:
        if path.suffix == ".html":
            raise ceag_cli.errors.OutputError(f"{path}: cannot be written: no space left")
        real(path, text)

    monkeypatch.setattr("ceag_cli.reportfiles.write_text", full)
    result = ceag("exemplars", *tables)
    assert result.exit_code == 2
    assert "no space left" in result.stderr
    assert "3 pruning identified exemplars" in result.stdout
    assert Path("exemplars.run/exemplars.json").is_file()


# Models


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dense models and the three that were pruned of them."""
    dense = ("dense", "--groups", "labels.csv", "--groups-by", "label,group", *TINY)
    return folder_with(
        tmp_path_factory,
        *((*dense, "--epochs", "1", "--seed", str(i), "-o", DENSE_FILES[i]) for i in range(3)),
        *(("prune", file, "--sparsity", "0.8") for file in DENSE_FILES),
    )


@pytest.fixture
def here(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CI", raising=False)
    return here


SPARSE_FILES = [f"seed-{seed}/model.pruned.safetensors" for seed in range(3)]
DENSE_FILES = [f"seed-{seed}/model.safetensors" for seed in range(3)]
FAST = ("--workers", "0")
SEEN = ("train", "test")


def test_from_models(here: Path, passes: list[list[str]]) -> None:
    said = document(*SPARSE_FILES, *FAST)
    assert [model["path"] for model in said["models"]["sparse"]] == SPARSE_FILES
    assert [model["path"] for model in said["models"]["dense"]] == DENSE_FILES
    assert said["models"]["sparse"][0]["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert said["exemplars"]["n"] == 12
    assert said["exemplars"]["within_pairs"] is True
    assert passes == [sorted(f"{file} on test" for file in (*SPARSE_FILES, *DENSE_FILES))]
    assert wrong(said, json.loads(schema("exemplars"))) == []
    # The answers are those of the audit.
    answers: dict[str, list[Any]] = {"dense": [], "sparse": []}
    for path in SPARSE_FILES:
        ceag("audit", path, *FAST)
        with np.load(Path(path).with_suffix(".run") / "predictions.npz") as archive:
            test = archive["split"] == list(archive["split/names"]).index(b"test")
            for role, found in answers.items():
                found.append(archive[role][test].astype(np.int64))
    expected = identify(np.array(answers["dense"]), np.array(answers["sparse"]))
    assert said["exemplars"]["count"] == int(expected.pies.sum())


def test_nothing_is_evaluated_twice(here: Path, passes: list[list[str]]) -> None:
    first = document(*SPARSE_FILES, *FAST)
    assert len(passes) == 1
    result = done("exemplars", *SPARSE_FILES, *FAST, "--overwrite")
    assert "answers of 6 models taken from their run folders" in result.stderr
    assert "--overwrite has no effect on exemplars" in result.stderr
    assert document(*SPARSE_FILES, *FAST, "--groups-by", "label") != first
    assert len(passes) == 1
    assert document(*SPARSE_FILES, *FAST) == first
    done("exemplars", *SPARSE_FILES, *FAST, "--reevaluate")
    assert len(passes) == 2
    assert document(*SPARSE_FILES, *FAST) == first


def test_answers_of_audits_are_taken(here: Path, passes: list[list[str]]) -> None:
    for path in SPARSE_FILES:
        ceag("audit", path, *FAST)
    passes.clear()
    by_models = document(*SPARSE_FILES, *FAST)["exemplars"]
    assert passes == []
    tables = [f"{path.removesuffix('.safetensors')}.run/predictions.npz" for path in SPARSE_FILES]
    said = document(*[a for path in tables for a in ("--predictions", path)])
    assert said["exemplars"] == by_models
    assert [model["path"] for model in said["models"]["dense"]] == DENSE_FILES
    assert [each["path"] for each in said["data"]["predictions"]] == tables


def test_answers_of_exemplars_are_taken_by_audits(here: Path, passes: list[list[str]]) -> None:
    """Of test, where exemplars have asked; train is evaluated, and both are kept together."""
    audit = ("audit", SPARSE_FILES[0], *FAST)
    assert ceag(*audit, "--format", "json").exit_code in (0, 1, 3)
    run, of_dense = Path("seed-0/model.pruned.run"), Path("seed-0/model.run/answers.npz")
    alone = [(run / "audit.json").read_bytes(), (run / "predictions.npz").read_bytes()]
    shutil.rmtree(run)
    of_dense.unlink()
    document(*SPARSE_FILES, *FAST)
    passes.clear()
    result = ceag(*audit)
    assert passes == [["dense on train", "sparse on train"]]
    assert (
        "answers taken from seed-0/model.run/answers.test.npz (dense on test) and "
        "seed-0/model.pruned.run/answers.test.npz (sparse on test): nothing that they depend on "
        "has changed; --reevaluate computes them anew"
    ) in result.stderr.splitlines()
    assert [(run / "audit.json").read_bytes(), (run / "predictions.npz").read_bytes()] == alone
    ceag(*audit)
    assert len(passes) == 1
    assert of_dense.is_file()
    ceag(*audit, "--reevaluate")
    assert passes[1:] == [[f"{role} on {split}" for role in ("dense", "sparse")] for split in SEEN]


def test_an_audit_after_exemplars_of_all_splits_evaluates_nothing(
    here: Path, passes: list[list[str]]
) -> None:
    for split in SEEN:
        document(*SPARSE_FILES, *FAST, "--split", split)
    passes.clear()
    result = ceag("audit", SPARSE_FILES[0], *FAST)
    assert passes == []
    assert (
        "answers taken from seed-0/model.run/answers.train.npz (dense on train), "
        "seed-0/model.run/answers.test.npz (dense on test), "
        "seed-0/model.pruned.run/answers.train.npz (sparse on train) and "
        "seed-0/model.pruned.run/answers.test.npz (sparse on test): nothing"
    ) in result.stderr


def other_image() -> None:
    """An image of test becomes another one."""
    shutil.copy("images/0.png", "images/33.png")


def other_answers() -> None:
    """The file of the sparse model's answers is that of another model."""
    shutil.copy("seed-1/model.pruned.run/answers.test.npz", "seed-0/model.pruned.run")


@pytest.mark.parametrize(
    ("change", "flags", "again"),
    [
        (other_image, (), ["dense on test", "sparse on test"]),
        (other_answers, (), ["sparse on test"]),
        (lambda: None, ("--mean", "0.4,0.4,0.4"), ["dense on test", "sparse on test"]),
        (lambda: None, ("--amp",), ["dense on test", "sparse on test"]),
    ],
    ids=["an image", "another model", "the preprocessing", "amp"],
)
def test_answers_of_exemplars_go_when_what_they_depend_on_changes(
    here: Path,
    passes: list[list[str]],
    change: Callable[[], None],
    flags: Sequence[str],
    again: list[str],
) -> None:
    document(*SPARSE_FILES, *FAST)
    change()
    passes.clear()
    assert ceag("audit", SPARSE_FILES[0], *FAST, *flags).exit_code in (0, 1, 3)
    assert passes == [["dense on train", "sparse on train"], again]


def test_few_models_at_a_time_make_no_difference(
    here: Path, passes: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = document(*SPARSE_FILES, *FAST, "--reevaluate")
    monkeypatch.setattr("ceag_cli.voting.AT_ONCE", 2)
    assert document(*SPARSE_FILES, *FAST, "--reevaluate") == whole
    assert [len(names) for names in passes] == [6, 2, 2, 2]


def test_a_glob_after_dense_is_noticed(here: Path) -> None:
    """A shell makes '--dense a --dense b' of nobody's glob, so b is taken for a sparse model."""
    result = ceag("exemplars", "--dense", *DENSE_FILES, "--sparse", SPARSE_FILES[0], *FAST)
    assert result.exit_code == 2
    assert "seed-1/model.safetensors: is a dense model, named among the sparse ones" in (
        result.stderr
    )
    assert "--dense a.safetensors --dense b.safetensors" in result.stderr


def test_each_model_has_one_vote(here: Path) -> None:
    shutil.copy(SPARSE_FILES[0], "copy.safetensors")
    result = ceag("exemplars", *SPARSE_FILES, "copy.safetensors", *FAST)
    assert result.exit_code == 2
    assert "copy.safetensors: is the same model as seed-0/model.pruned.safetensors" in result.stderr
    # Sparse models of one dense model name it several times, and it counts once.
    done("prune", DENSE_FILES[0], "--sparsity", "0.5", "-o", "other.safetensors")
    said = document(SPARSE_FILES[0], "other.safetensors", *FAST)
    assert [model["path"] for model in said["models"]["dense"]] == [DENSE_FILES[0]]
    assert not said["exemplars"]["modal"]


def test_sparse_and_dense_by_flags(here: Path) -> None:
    flags = [a for path in SPARSE_FILES for a in ("--sparse", path)]
    flags += [a for path in DENSE_FILES for a in ("--dense", path)]
    assert document(*flags, *FAST) == document(*SPARSE_FILES, *FAST)
    assert pairs_of(["x", "y", "z"], ["z", "x", "y"]) == (2, 0, 1)
    for made_of in (["x", "y"], ["x", "x", "y"], ["x", "y", None], ["x", "y", "other"]):
        assert pairs_of(["x", "y", "z"], made_of) is None


def test_a_sparse_model_that_names_no_dense_one(here: Path) -> None:
    result = ceag("exemplars", "nothing.safetensors", *FAST)
    assert result.exit_code == 2
    assert "nothing.safetensors" in result.stderr


# The page


def test_images_are_on_the_page_but_not_in_ci(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path("exemplars.run/exemplars.html")
    count = document(*SPARSE_FILES, *FAST)["exemplars"]["count"]
    assert count  # else this test says nothing
    assert page.read_text().count("<figure>") == min(count, 24)
    assert "http" not in re.sub(r"data:image[^\"]*", "", page.read_text())
    done("exemplars", *SPARSE_FILES, *FAST, "--gallery", "1")
    assert page.read_text().count("<figure>") == 1
    monkeypatch.setenv("CI", "true")
    done("exemplars", *SPARSE_FILES, *FAST)
    assert "<figure>" not in page.read_text()
    assert 'src="data:image' not in page.read_text()
    done("exemplars", *SPARSE_FILES, *FAST, "--gallery", "1")
    assert page.read_text().count("<figure>") == 1


@pytest.mark.parametrize(
    ("value", "expected"), [(None, 24), ("", 24), ("false", 24), ("1", 0), ("true", 0)]
)
def test_pictures_in_ci(value: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    if value is not None:
        monkeypatch.setenv("CI", value)
    assert pictures_asked(None) == expected
    assert pictures_asked(3) == 3


def test_an_audit_shows_exemplars_of_its_models(here: Path) -> None:
    run = Path("seed-0/model.pruned.run")
    done("exemplars", *SPARSE_FILES, *FAST, "-o", run)
    result = ceag("audit", SPARSE_FILES[0], *FAST, "--report", "markdown=a.md")
    said = "exemplars (ceag exemplars): test: 12 images, 3 dense and 3 sparse models."
    assert said in result.stdout
    assert said in Path("a.md").read_text()
    document = json.loads((run / "audit.json").read_text())
    assert document["exemplars"]["n"] == 12
    assert wrong(document, json.loads(schema("audit"))) == []
    page = (run / "audit.html").read_text()
    assert "identified exemplars on test (described only)" in page


def test_exemplars_of_other_models_are_not_shown(here: Path) -> None:
    done("exemplars", *SPARSE_FILES, *FAST, "-o", "run")
    document = json.loads(Path("run/exemplars.json").read_text())
    data, models = document["data"], document["models"]
    subject = Subject(
        dense="a",
        dense_sha256=models["dense"][2]["sha256"],
        sparse="b",
        sparse_sha256=models["sparse"][0]["sha256"],
        architecture=None,
        sparsity=None,
        method=None,
        groups=data["groups_file"],
        groups_sha256=data["groups_file_sha256"],
        label_column=data["label_column"],
        groups_by=data["groups_by"],
    )
    found, why = kept_pies(Path("run"), subject)
    assert why is None
    assert found is not None
    assert found.n == 12
    assert kept_pies(Path("nowhere"), subject) == (None, None)
    for change, what in (
        ({"dense_sha256": None}, "other dense models"),
        ({"sparse_sha256": "0"}, "other sparse models"),
        ({"groups_by": "label"}, "other groups"),
        ({"groups_sha256": "0"}, "another groups CSV"),
    ):
        found, why = kept_pies(Path("run"), replace(subject, **change))
        assert found is None
        assert why == f"run/exemplars.json: is about {what}; 'ceag exemplars' writes it anew"


def damaged(document: dict[str, Any], place: Sequence[str | int], value: Any) -> str:
    """A document of which one value is another one; without it where that is ``...``."""
    found = json.loads(json.dumps(document))
    inside = found
    for name in place[:-1]:
        inside = inside[name]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return json.dumps(found)


ANY = Subject("a", None, "b", None, None, None, None, "labels.csv", "0", "label", "group")
OF_IMAGE = ("exemplars", "images", 0)
OF_GROUP = ("exemplars", "groups", 0)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("exemplars",), ..., "exemplars is missing"),
        (("schema_version",), ..., "schema_version is missing"),
        (("exemplars",), [], "the exemplars is [], not a mapping"),
        (("exemplars", "n"), "12", "the exemplars, n is '12', not of the type int"),
        (("exemplars", "n"), 10**400, f"the exemplars, n is {10**56}..., not a number up to"),
        (("exemplars", "alpha"), True, "the exemplars, alpha is true, not of the type float"),
        (("exemplars", "more"), 1, "a key of the exemplars is 'more', not one of split, modal"),
        (("exemplars", "groups"), {}, "the exemplars, groups is {}, not a list"),
        (OF_GROUP, None, "the exemplars, groups is null, not a mapping"),
        ((*OF_GROUP, "p"), ..., "the exemplars, groups: p is missing"),
        ((*OF_GROUP, "rate"), 0.5, "the exemplars, groups, rate is 0.5, not a mapping"),
        ((*OF_GROUP, "rate", "value"), "x", "groups, rate, value is 'x', not of the type float"),
        ((*OF_IMAGE, "dense"), "cat", "the exemplars, images, dense is 'cat', not a list"),
        ((*OF_IMAGE, "dense"), [1], "images, dense is 1, not of the type str"),
        ((*OF_IMAGE, "margin"), None, "images, margin is null, not of the type float"),
        (("models",), 3, "models is 3, not a mapping"),
        (("models", "dense"), "all", "the dense models is 'all', not a list"),
        (("models", "sparse", 0), "one", "one of the sparse models is 'one', not a mapping"),
        (("models", "sparse", 0, "sha256"), ..., "sha256 is missing"),
        (("data",), [], "data is [], not a mapping"),
        (("data", "groups_by"), ..., "groups_by is missing"),
    ],
)
def test_a_damaged_document_is_not_taken(
    tables: list[str], place: Sequence[str | int], value: Any, reason: str
) -> None:
    """The message names the file and the place in it."""
    Path("exemplars.json").write_text(damaged(document(*tables), place, value))
    found, why = kept_pies(Path(), ANY)
    assert found is None
    assert why is not None
    assert why.startswith("exemplars.json: holds no exemplars: ")
    assert reason in why
    assert why.endswith("; 'ceag exemplars' writes it anew")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "it is [], not a mapping"),
        ('{"schema_version": 1, "schema_version": 1}', "'schema_version' is in it twice"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_no_document_is_not_taken(tmp_path: Path, text: str, reason: str) -> None:
    place = tmp_path / "exemplars.json"
    place.write_text(text)
    why = f"{place}: holds no exemplars: {reason}; 'ceag exemplars' writes it anew"
    assert kept_pies(tmp_path, ANY) == (None, why)
    place.write_text('{"schema_version": 2}')
    why = f"{place}: written with schema_version 2, this version of ceag reads 1; 'ceag exemplars'"
    assert kept_pies(tmp_path, ANY) == (None, f"{why} writes it anew")


def test_an_audit_goes_on_without_damaged_exemplars(here: Path) -> None:
    run = Path("seed-0/model.pruned.run")
    said = document(*SPARSE_FILES, *FAST, "-o", str(run))
    (run / "exemplars.json").write_text(damaged(said, ("exemplars", "rate"), "high"))
    result = ceag("audit", SPARSE_FILES[0], *FAST)
    assert result.exit_code in (0, 1, 3), result.stderr
    assert (
        f"{run}/exemplars.json: holds no exemplars: the exemplars, rate is 'high', not a mapping; "
        "'ceag exemplars' writes it anew"
    ) in result.stderr
    assert json.loads((run / "audit.json").read_text())["exemplars"] is None


def test_the_function_in_python(here: Path) -> None:
    found = ceag_cli.exemplars(ExemplarsOptions(files=tuple(SPARSE_FILES), workers=0))
    assert found.pies.n == 12
    assert found.page == Path("exemplars.run/exemplars.html")
    assert len(found.pies.images) == found.pies.count
    with pytest.raises(CeagError, match="needs the sparse models"):
        ceag_cli.exemplars(ExemplarsOptions())
