"""ceag init and ceag check."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from toys import ceag, done, write_csv

from ceag_cli.errors import OutputError
from ceag_cli.options import COMMANDS, AuditOptions
from ceag_cli.policy import Policy, policy_of, read_policy
from ceag_cli.progress import Quiet
from ceag_cli.recipe import resolve
from ceag_cli.starting import Found, policy_text, write_policy

HEADER = ("path", "label", "split", "race", "gender")


pytestmark = pytest.mark.usefixtures("empty_folder")


def labels(name: str = "labels.csv", races: tuple[str, ...] = ("Black", "White", "White")) -> None:
    rows = [
        (f"{split}{i}.png", "cat", split, race, "F")
        for split in ("train", "test")
        for i, race in enumerate(races)
    ]
    write_csv(Path(name), rows, HEADER)


def uncommented(text: str) -> str:
    """The file with every key that it shows taken out of its comment."""
    return re.sub(r"^  # (?=[a-z_]+: |[a-z_]+:$|  )", "  ", text, flags=re.MULTILINE)


# Writing


def test_what_is_written_gives_the_defaults() -> None:
    result = done("init")
    assert result.stdout == (
        "wrote ceag.yaml, eps 0.02; 'ceag groups' shows which groups can be decided\n"
    )
    for command, options in COMMANDS.items():
        default = AuditOptions(eps=0.02) if command == "audit" else options()
        assert resolve(options, {}) == default, command
    assert read_policy() == Policy()


def test_no_model_sets_its_own_gate_once_there_is_a_policy() -> None:
    made_for = ("model.mitigated.safetensors", 0.2)
    assert policy_of(resolve(AuditOptions, {}), made_for).eps == 0.2
    done("init")
    assert policy_of(resolve(AuditOptions, {}), made_for).eps == 0.02
    done("init", "--overwrite", "--eps", "0.03")
    policy = policy_of(resolve(AuditOptions, {}), made_for)
    assert (policy.eps, policy.sources["eps"]) == (0.03, "ceag.yaml")
    assert ceag("init", "--overwrite", "--eps", "2").stderr == (
        "error: --eps: 2.0 must be at most 1 (a fraction: 0.02 is 2 points)\n"
    )


def test_what_is_found_is_filled_in() -> None:
    labels()
    assert done("init").stdout.startswith("wrote ceag.yaml, with labels.csv, eps 0.02;")
    assert resolve(AuditOptions, {}) == AuditOptions(groups="labels.csv", eps=0.02)
    text = Path("ceag.yaml").read_text()
    assert "{feature: race, value: Black, eps: 0.01}" in text  # the smallest group


def test_every_key_that_is_shown_can_be_used_as_it_is() -> None:
    labels()
    done("init")
    Path("ceag.yaml").write_text(uncommented(Path("ceag.yaml").read_text()))
    shown = yaml.safe_load(Path("ceag.yaml").read_text())["audit"]
    assert set(shown) >= {"eps", "gate", "alpha", "overrides", "required_groups", "waivers"}
    policy = read_policy()
    assert (policy.eps, policy.alpha, policy.gate) == (0.02, 0.05, "evidence")
    assert policy.required == (("race", "Black"),)
    assert policy.waivers[0].owner == "vision team"
    options = resolve(AuditOptions, {})
    for name in shown:
        if name not in ("groups", "eps", "overrides", "required_groups", "waivers"):
            assert getattr(options, name) == AuditOptions.__dataclass_fields__[name].default


@pytest.mark.parametrize("name", ["no", "0123", "a: b", "x # y", "{z}", "'", '"', "é", "\x1b[31m"])
def test_names_that_yaml_takes_for_something_else_are_quoted(name: str) -> None:
    found = Found((Path(f"{name}.csv"),), None, ((name, name),))
    text = uncommented("\n".join(policy_text(found)))
    assert yaml.safe_load(text)["audit"]["required_groups"] == [{"feature": name, "value": name}]
    assert yaml.safe_load(text)["audit"]["groups"] == f"{name}.csv"
    assert "\x1b" not in text


def test_nothing_is_overwritten_unasked() -> None:
    Path("ceag.yaml").write_text("audit: {eps: 0.5}\n")
    result = ceag("init")
    assert result.exit_code == 2
    assert result.stderr == "error: ceag.yaml: exists already; replace it with --overwrite\n"
    assert read_policy().eps == 0.5
    done("init", "--overwrite")
    assert read_policy() == Policy()
    with pytest.raises(OutputError):
        write_policy(Path(), False, Quiet())


def test_several_tables_are_named_and_none_is_taken() -> None:
    labels("a.csv")
    labels("b.csv")
    Path("other.csv").write_text("x,y\n1,2\n")
    result = done("init")
    assert result.stderr == (
        "warning: several tables could be the groups CSV (a.csv, b.csv); name one in ceag.yaml\n"
    )
    assert resolve(AuditOptions, {}).groups is None
    assert "  # groups: b.csv" in Path("ceag.yaml").read_text()


def test_a_csv_with_problems_is_named_all_the_same() -> None:
    write_csv(Path("labels.csv"), [("a.png", "", "test", "x", "F")], HEADER)
    result = done("init")
    assert "warning: labels.csv row 2: the label is empty" in result.stderr
    assert resolve(AuditOptions, {}).groups == "labels.csv"


def test_a_pyproject_that_says_otherwise_is_warned_of() -> None:
    labels()
    Path("pyproject.toml").write_text('[tool.ceag.audit]\ngroups = "other.csv"\n')
    assert (
        'warning: pyproject.toml, [tool.ceag.audit]: groups is "other.csv"' in done("init").stderr
    )


# Checking


def test_a_good_policy_is_checked_in_sentences() -> None:
    labels()
    Path("ceag.yaml").write_text("audit: {groups: labels.csv, eps: 0.1}\nprune: {sparsity: 0.5}\n")
    result = done("check")
    assert result.stdout.splitlines() == [
        "ceag.yaml: section prune can be used",
        "ceag.yaml: section audit can be used",
        "labels.csv: 3 train, 3 test images, 3 groups",
    ]


def test_nothing_to_check_is_said() -> None:
    assert done("check").stdout == (
        "no section of ceag.yaml or [tool.ceag] in pyproject.toml, and no CSV\n"
    )


def test_every_section_is_checked_and_the_groups_against_the_csv() -> None:
    labels()
    Path("ceag.yaml").write_text("dense: {epoch: 3}\naudit: {gate: lax}\n")
    result = ceag("check")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: ceag.yaml, section dense: unknown key 'epoch'; did you mean 'epochs'?",
        "error: ceag.yaml, section audit: gate: 'lax' is not one of evidence, strict, point",
    ]
    Path("ceag.yaml").write_text("audit: {overrides: [{feature: race, value: black, eps: 0.1}]}\n")
    assert ceag("check").exit_code == 0  # no CSV is named
    result = ceag("check", "labels.csv")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: ceag.yaml: overrides, entry 1: 'race' has no value 'black'; did you mean 'Black'?\n"
    )


def test_an_unknown_section_is_said_once() -> None:
    Path("ceag.yaml").write_text("audits: {}\n")
    assert len(ceag("check").stderr.splitlines()) == 1


def test_waivers_that_expire_are_spoken_of() -> None:
    today = date.today()
    entry = "{{feature: race, value: {}, eps: 0.3, reason: known, expires: {}}}"
    gone = entry.format("Black", today - timedelta(days=1))
    soon = entry.format("White", today + timedelta(days=3))
    Path("ceag.yaml").write_text(f"audit: {{waivers: [{gone}, {soon}]}}\n")
    result = done("check")
    assert "warning: the waiver of race=Black expired on" in result.stderr
    assert "the waiver of race=White expires in 3 days" in result.stderr


def test_a_split_that_is_gated_and_not_there_is_an_error() -> None:
    labels()
    Path("ceag.yaml").write_text("audit: {groups: labels.csv, gate_splits: [val]}\n")
    result = ceag("check")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: labels.csv: no row has split 'val', which is to be gated\n",
    )


def test_a_recipe_in_place_of_a_project_file_is_warned_of() -> None:
    Path("ceag.yaml").write_text("command: audit\neps: 0.5\n")
    assert "warning: ceag.yaml: is a recipe for 'ceag audit'" in done("check").stderr
    assert read_policy() == Policy()


def test_the_groups_of_a_table_of_answers_are_checked() -> None:
    entry = "{feature: race, value: Blck, eps: 0.1}"
    Path("ceag.yaml").write_text(f"audit: {{predictions: preds.csv, overrides: [{entry}]}}\n")
    assert "preds.csv: is not there, so its groups were not checked" in done("check").stderr
    answers()
    assert "did you mean 'Black'" in ceag("check").stderr


# A policy in an audit, by the command


def answers(lost: int = 120) -> None:
    """400 images of each of two races, of which Black loses some."""
    rows = [
        (
            str(i),
            "cat",
            "test",
            "Black" if i < 400 else "White",
            "cat",
            "dog" if i < lost else "cat",
        )
        for i in range(800)
    ]
    write_csv(Path("preds.csv"), rows, ("id", "label", "split", "race", "dense", "sparse"))


def audited(*arguments: str) -> tuple[int, dict[str, object], str]:
    result = ceag("audit", "--predictions", "preds.csv", "--format", "json", *arguments)
    assert result.exit_code != 2, result.output
    return result.exit_code, json.loads(result.stdout), result.stderr


def test_an_audit_goes_by_the_policy_and_says_so() -> None:
    answers()
    assert audited("--eps", "0.05")[0] == 1
    Path("ceag.yaml").write_text(
        "audit:\n  eps: 0.05\n  waivers:\n"
        "  - {feature: race, value: Black, eps: 0.3, reason: known, expires: 2999-01-01}\n"
    )
    code, document, said = audited()
    assert code == 0
    verdicts = {g["value"]: g["verdict"] for g in document["groups"]}  # type: ignore[attr-defined]
    assert verdicts == {"Black": "WAIVED", "White": "PASS"}
    assert document["policy"]["sources"] == {"eps": "ceag.yaml", "waivers": "ceag.yaml"}  # type: ignore[index]
    assert "eps 0.05 (from ceag.yaml), waivers 1 (from ceag.yaml)" in said.splitlines()
    Path("ceag.yaml").write_text(Path("ceag.yaml").read_text().replace("2999", "2020"))
    code, _, said = audited()
    assert code == 1
    assert "warning: the waiver of race=Black expired on 2020-01-01" in said


def test_a_waiver_that_is_needed_no_more_is_spoken_of() -> None:
    answers(lost=0)
    entry = "{feature: race, value: Black, eps: 0.3, reason: known, expires: 2999-01-01}"
    Path("ceag.yaml").write_text(f"audit: {{eps: 0.05, waivers: [{entry}]}}\n")
    code, _, said = audited()
    assert code == 0
    assert "race=Black passes, so its waiver can be removed" in said.splitlines()


def test_a_plan_has_two_formats() -> None:
    answers()
    result = ceag("audit", "--plan", "--predictions", "preds.csv", "--format", "csv")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --format: 'csv' is not one of text, json for a plan\n",
    )


def test_a_required_group_that_is_misspelt_is_never_green() -> None:
    answers(lost=0)
    assert audited("--eps", "0.05")[0] == 0
    Path("pyproject.toml").write_text(
        '[tool.ceag.audit]\nrequired_groups = [{feature = "race", value = "Blck"}]\n'
    )
    code, document, said = audited("--eps", "0.05")
    assert code == 3
    assert "did you mean 'Black'" in said
    missing = [g for g in document["groups"] if g["value"] == "Blck"]  # type: ignore[attr-defined]
    assert [(g["n"], g["verdict"], g["required"]) for g in missing] == [(0, "NO_DATA", True)]


def test_a_policy_for_groups_that_are_not_there_exits_with_2() -> None:
    answers(lost=0)
    Path("ceag.yaml").write_text("audit: {overrides: [{feature: rase, value: Black, eps: 0.1}]}\n")
    result = ceag("audit", "--predictions", "preds.csv")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: ceag.yaml: overrides, entry 1: there is no feature 'rase'; did you mean 'race'? "
        "(features: race)\n"
    )


def a_table_of_answers(identity: str) -> None:
    rows = [
        (f"{split}{i}", "cat", split, "Black" if i else "White", "cat", "cat")
        for split in ("train", "test")
        for i in range(3)
    ]
    write_csv(Path("answers.csv"), rows, (identity, "label", "split", "race", "dense", "sparse"))


# Tables that are no groups CSV


@pytest.mark.parametrize("identity", ["id", "path"])
def test_a_table_of_answers_is_found_and_named(identity: str) -> None:
    a_table_of_answers(identity)
    assert done("init").stdout.startswith("wrote ceag.yaml, with answers.csv, eps 0.02;")
    assert resolve(AuditOptions, {}) == AuditOptions(predictions="answers.csv", eps=0.02)
    assert "{feature: race, value: White, eps: 0.01}" in Path("ceag.yaml").read_text()
    assert done("check").stdout.splitlines()[-1] == (
        "answers.csv: 3 train, 3 test images, 2 groups"
    )
    assert done("groups").stdout.startswith("answers.csv: 3 train, 3 test images\n")
    # A file that is named comes before the policy's.
    labels()
    assert done("groups", "labels.csv").stdout.startswith("labels.csv: 3 train, 3 test images\n")


@pytest.mark.parametrize("command", ["groups", "check"])
@pytest.mark.parametrize("identity", ["id", "path"])
def test_a_table_of_answers_is_no_groups_csv(command: str, identity: str) -> None:
    a_table_of_answers(identity)
    result = ceag(command, "answers.csv")
    assert result.exit_code == 2
    taken = (
        "; a table of answers is given with --predictions: 'ceag audit --plan --predictions FILE' "
        "shows its groups, and 'ceag check' reads the one that ceag.yaml names (predictions)\n"
    )
    assert result.stderr == (
        "error: answers.csv: holds the answers of two models (columns dense and sparse), no "
        f"groups CSV{taken}"
    )
    np.savez("answers.npz", id=np.arange(3))
    assert ceag(command, "answers.npz").stderr == (
        "error: answers.npz: is a NumPy archive (.npz); wanted is a CSV with one row per image"
        f"{taken}"
    )
    done("audit", "--plan", "--predictions", "answers.csv")


@pytest.mark.parametrize("command", [("groups",), ("check",), ("audit", "--predictions")])
@pytest.mark.parametrize(
    ("separator", "seems", "more"),
    [
        (";", "semicolons", ""),
        (
            "\t",
            "tabs",
            " (a table of answers that is called .tsv has tabs, all others have commas)",
        ),
        ("|", "'|'", ""),
    ],
)
def test_other_separators_are_named(
    command: tuple[str, ...], separator: str, seems: str, more: str
) -> None:
    labels()
    lines = Path("labels.csv").read_text().splitlines()
    for quote in ("", '"'):
        joined = f"{quote}{separator}{quote}"
        rows = [f"{quote}{joined.join(line.split(','))}{quote}\n" for line in lines]
        Path("labels.csv").write_text("".join(rows))
        result = ceag(*command, "labels.csv")
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: labels.csv row 1: seems to be separated by {seems}; save it with commas"
            f"{more}\n"
        )


def test_an_archive_has_arrays_and_no_rows() -> None:
    names = ("id", "label", "dense", "sparse", "race")
    np.savez("a.npz", **{name: np.arange(3) for name in names})  # type: ignore[arg-type]
    assert ceag("audit", "--predictions", "a.npz").stderr == (
        "error: a.npz (each array is a column): needs a column 'split' with train, val, test in "
        "its rows\n"
    )


# What a file says is called as it is there


def test_errors_name_the_key_of_the_file_that_an_option_comes_from() -> None:
    labels()
    Path("ceag.yaml").write_text("audit: {groups: labels.csv, groups_by: rce}\n")
    problem = (
        "labels.csv row 1: groups_by (in ceag.yaml) names 'rce', which is not a column; did you "
        "mean 'race'? (columns: path, label, split, race, gender)\n"
    )
    assert ceag("groups").stderr == f"error: {problem}"
    assert ceag("check").stderr == f"error: {problem}"
    by_flag = ceag("groups", "--groups-by", "rce").stderr
    assert by_flag.startswith("error: labels.csv row 1: --groups-by names 'rce'")
    Path("ceag.yaml").write_text("audit: {gate_splits: [train]}\n")
    for command in (("check",), ("groups", "labels.csv"), ("audit", "--plan")):
        assert ceag(*command).stderr == (
            "error: gate_splits (in ceag.yaml) train: the models were trained on it, so it is "
            "described only and no verdict can rest on it; name another split\n"
        )
