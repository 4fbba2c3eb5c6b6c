"""Policies as files: what they may say, how they join, and what becomes of it in an audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ceag_cli.audit import audit
from ceag_cli.clauses import Override, Waiver, read_overrides, read_required, read_waivers
from ceag_cli.documents import policy_document
from ceag_cli.errors import OptionError, nearest
from ceag_cli.findings import AuditResult
from ceag_cli.groups import Grouping
from ceag_cli.options import AuditOptions, DenseOptions
from ceag_cli.paired import Paired
from ceag_cli.policy import DEFAULT_EPS, Policy, policy_of, read_policy
from ceag_cli.recipe import as_recipe, dump, read_yaml, resolve

TODAY = date(2026, 3, 1)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a policy that it did not write."""
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "ceag.yaml") -> None:
    Path(name).write_text(text, encoding="utf-8")


def problems(text: str, name: str = "ceag.yaml") -> list[str]:
    write(text, name)
    with pytest.raises(OptionError) as caught:
        read_policy()
    return caught.value.problems


FULL_YAML = """
audit:
  eps: 0.03
  alpha: 0.01
  interval: exact
  gate: strict
  against: rest
  max_drop: 0.05
  min_accuracy: 0.4
  min_coverage: 0.7
  gate_splits: [val, test]
  overrides:
    - {feature: race, value: Black, eps: 0.01}
    - {feature: age, value: 70, eps: 1e-2}
  required_groups:
    - {feature: race, value: Black}
  waivers:
    - feature: race
      value: White
      eps: 0.06
      reason: retraining is under way
      expires: 2026-12-31
      owner: vision team
"""

FULL_TOML = """
[project]
name = "other"

[tool.ceag.audit]
eps = 0.03
alpha = 0.01
interval = "exact"
gate = "strict"
against = "rest"
max_drop = 0.05
min_accuracy = 0.4
min_coverage = 0.7
gate_splits = ["val", "test"]
overrides = [
  {feature = "race", value = "Black", eps = 0.01},
  {feature = "age", value = 70, eps = 1e-2},
]
required_groups = [{feature = "race", value = "Black"}]

[[tool.ceag.audit.waivers]]
feature = "race"
value = "White"
eps = 0.06
reason = "retraining is under way"
expires = 2026-12-31
owner = "vision team"
"""

BLACK, WHITE = ("race", "Black"), ("race", "White")
WAIVER = Waiver(WHITE, 0.06, "retraining is under way", date(2026, 12, 31), "vision team")
FULL = Policy(
    eps=0.03,
    alpha=0.01,
    interval="exact",
    gate="strict",
    against="rest",
    eps_by_group={BLACK: 0.01, ("age", "70"): 0.01},
    required=(BLACK,),
    waivers=(WAIVER,),
    max_drop=0.05,
    min_accuracy=0.4,
    min_coverage=0.7,
)


@pytest.mark.parametrize(
    ("text", "name"), [(FULL_YAML, "ceag.yaml"), (FULL_TOML, "pyproject.toml")]
)
def test_a_full_policy_from_either_file(text: str, name: str) -> None:
    write(text, name)
    policy = read_policy()
    assert policy == FULL
    assert set(policy.sources.values()) == {name}
    assert resolve(AuditOptions, {}).gate_splits == ("val", "test")


def test_the_same_in_python() -> None:
    options = AuditOptions(
        eps=0.03,
        alpha=0.01,
        interval="exact",
        gate="strict",
        against="rest",
        max_drop=0.05,
        min_accuracy=0.4,
        min_coverage=0.7,
        overrides=(Override(BLACK, 0.01), {"feature": "age", "value": "70", "eps": 0.01}),  # type: ignore[arg-type]
        required_groups=(BLACK,),
        waivers=(WAIVER,),
    )
    assert policy_of(options) == FULL


def test_without_a_file_the_defaults_hold() -> None:
    assert read_policy() == Policy()
    assert policy_of(AuditOptions()) == Policy()
    assert Policy().eps == DEFAULT_EPS == 0.02


def test_what_is_said_in_one_file_may_be_repeated_and_completed_in_the_other() -> None:
    write("audit: {eps: 0.01, required_groups: [{feature: race, value: Black}]}\n")
    write(
        '[tool.ceag.audit]\neps = 0.01\nalpha = 0.1\n[tool.ceag.dense]\nmodel = "resnet18"\n',
        "pyproject.toml",
    )
    policy = read_policy()
    assert (policy.eps, policy.alpha, policy.required) == (0.01, 0.1, (BLACK,))
    assert policy.sources == {
        "eps": "ceag.yaml",
        "alpha": "pyproject.toml",
        "required_groups": "ceag.yaml",
    }
    assert resolve(DenseOptions, {}).model == "resnet18"


def test_two_files_that_contradict_each_other_are_refused() -> None:
    """Which of them a gate goes by must not be a guess."""
    write("audit: {eps: 0.01, overrides: [{feature: race, value: Black, eps: 0.01}]}\n")
    found = problems(
        '[tool.ceag.audit]\neps = 0.02\noverrides = [{feature="race", value="Black", eps=0.03}]\n',
        "pyproject.toml",
    )
    assert found == [
        "pyproject.toml, [tool.ceag.audit]: eps is 0.02, but 0.01 in ceag.yaml; say it in one of "
        "the two files",
        'pyproject.toml, [tool.ceag.audit]: overrides is [{"feature": "race", "value": "Black", '
        '"eps": 0.03}], but [{"feature": "race", "value": "Black", "eps": 0.01}] in ceag.yaml; '
        "say it in one of the two files",
    ]


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1\n", "[project]\nname = 'x'\n"])
def test_a_pyproject_that_says_nothing_of_ceag_says_nothing(text: str) -> None:
    write(text, "pyproject.toml")
    assert read_policy() == Policy()


# Precedence


@pytest.mark.parametrize(
    ("flag", "config", "in_file", "of_model", "expected"),
    [
        (0.1, 0.2, 0.3, 0.4, (0.1, "--eps")),
        (None, 0.2, 0.3, 0.4, (0.2, "r.yaml")),
        (None, None, 0.3, 0.4, (0.3, "ceag.yaml")),
        (None, None, None, 0.4, (0.4, "m.safetensors")),
        (None, None, None, None, (0.02, "the default")),
        (0, None, 0.3, 0.4, (0, "--eps")),
        (None, None, None, 0.0, (0.0, "m.safetensors")),
    ],
)
def test_a_flag_beats_a_recipe_beats_the_file_beats_the_model_beats_the_default(
    flag: float | None,
    config: float | None,
    in_file: float | None,
    of_model: float | None,
    expected: tuple[float, str],
) -> None:
    if config is not None:
        write(f"eps: {config}\n", "r.yaml")
    if in_file is not None:
        write(f"audit:\n  eps: {in_file}\n")
    options = resolve(AuditOptions, {"eps": flag}, "r.yaml" if config is not None else None)
    policy = policy_of(options, ("m.safetensors", of_model))
    assert (policy.eps, policy.sources["eps"]) == expected


def test_a_groups_own_eps_beats_even_the_flag() -> None:
    write("audit: {overrides: [{feature: race, value: Black, eps: 0.01}]}\n")
    policy = read_policy(eps=0.05)
    assert (policy.eps_of(BLACK), policy.eps_of(WHITE)) == (0.01, 0.05)


def test_what_was_taken_from_where_is_one_line_and_in_the_document() -> None:
    write("audit: {gate: strict, alpha: 0.1, waivers: []}\n")
    policy = policy_of(resolve(AuditOptions, {"alpha": "0.01"}), ("m.safetensors", 0.04))
    assert policy.origin_line() == (
        "eps 0.04 (from m.safetensors), gate strict (from ceag.yaml), alpha 0.01 (from --alpha), "
        "waivers 0 (from ceag.yaml)"
    )
    document = policy_document(policy)
    assert document["sources"] == policy.sources
    assert json.loads(json.dumps(policy_document(FULL)))["waivers"][0]["expires"] == "2026-12-31"


def test_a_policy_that_is_said_in_python_says_so() -> None:
    assert policy_of(AuditOptions(gate="strict")).origin_line() == (
        "eps 0.02 (from the default), gate strict (from the options)"
    )


def test_options_with_a_policy_are_written_as_a_recipe_and_read_back() -> None:
    write(FULL_YAML)
    options = resolve(AuditOptions, {})
    recipe = as_recipe(options)
    write("", "ceag.yaml")
    write(dump(recipe), "r.yaml")
    read = resolve(AuditOptions, {}, "r.yaml")
    assert (read, as_recipe(read)) == (options, recipe)
    assert policy_of(read) == FULL
    json.dumps(recipe)
    assert replace(read, seed=1).origins == {}


# What is refused


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("epsilon: 0.1", "unknown key 'epsilon'; did you mean 'eps'?"),
        ("required: []", "unknown key 'required'; did you mean 'required_groups'?"),
        ("eps: -0.1", "eps: -0.1 must be at least 0"),
        ("eps: .nan", "eps: 'nan' is not a number"),
        ("eps: .inf", "eps: 'inf' is not a number"),
        ("eps: [0.1]", "eps: '[0.1]' is not a number"),
        ("gate: lenient", "gate: 'lenient' is not one of evidence, strict, point"),
        ("gate_splits: [tset]", "gate_splits: 'tset' is not one of train, val, test"),
        (
            "overrides: {feature: race, value: Black, eps: 0.1}",
            "overrides: is not a list; write '- {feature: ..., value: ..., eps: ...}', one entry a "
            "line",
        ),
        (
            "overrides: [race=Black]",
            "overrides, entry 1: 'race=Black' is not of the form {feature: ..., value: ..., "
            "eps: ...}",
        ),
        (
            "overrides: [{feature: race, value: Black, esp: 0.1}]",
            "overrides, entry 1: unknown key 'esp'; did you mean 'eps'?",
        ),
        (
            "overrides: [{feature: race, value: Black, eps: -1}]",
            "overrides, entry 1: eps: -1 is not a fraction from 0 to 1; 0.02 is 2 points",
        ),
        (
            "overrides: [{feature: race, value: Black, eps: .nan}]",
            "overrides, entry 1: eps: nan is not a fraction from 0 to 1; 0.02 is 2 points",
        ),
        (
            "overrides: [{feature: race, value: Black, eps: .inf}]",
            "overrides, entry 1: eps: inf is not a fraction from 0 to 1; 0.02 is 2 points",
        ),
        (
            "overrides: [{feature: race, value: Black, eps: two}]",
            "overrides, entry 1: eps: 'two' is not a number",
        ),
        (
            "overrides: [{feature: race, value: Black, eps: true}]",
            "overrides, entry 1: eps: 'True' is not a number",
        ),
        (
            "overrides: [{feature: race, value: no, eps: 0.1}]",
            "overrides, entry 1: value: 'False' is not a word; write it in quotes, as in the CSV",
        ),
        (
            "required_groups: [{feature: race, value: Black}, {feature: race, value: Black}]",
            "required_groups, entry 2: race=Black is in entry 1 already",
        ),
        (
            "required_groups: [{feature: race}]",
            "required_groups, entry 1: 'value' is missing; write {feature: ..., value: ...}",
        ),
        (
            "waivers: [{feature: r, value: B, eps: 0.1, reason: x, expires: soon}]",
            "waivers, entry 1: expires: 'soon' is not a date; write it as 2026-12-31",
        ),
        (
            "waivers: [{feature: r, value: B, eps: 0.1, reason: x, expires: 2026-12-31T10:00:00}]",
            "waivers, entry 1: expires: '2026-12-31 10:00:00' is not a date; write it as "
            "2026-12-31",
        ),
        (
            "waivers: [{feature: r, value: B, eps: 0.1, reason: x, expires: '2026-02-30'}]",
            "waivers, entry 1: expires: '2026-02-30' is not a date; write it as 2026-12-31",
        ),
        (
            "waivers: [{feature: r, value: B, eps: 0.1, reason: '  ', expires: 2026-12-31}]",
            "waivers, entry 1: reason: '  ' says nothing; write some words",
        ),
        (
            "waivers: [{feature: r, value: B, eps: 0.1, expires: 2026-12-31}]",
            "waivers, entry 1: 'reason' is missing; write {feature: ..., value: ..., eps: ..., "
            "reason: ..., expires: ...}",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_file_and_place(lines: str, problem: str) -> None:
    assert problems(f"audit:\n  {lines}\n") == [f"ceag.yaml, section audit: {problem}"]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    write(
        "[tool.ceag.audit]\nepss = 1\noverrides = [{feature = 'race', value = 'x', eps = 7}]\n",
        "pyproject.toml",
    )
    assert problems("audit:\n  gate: no\n  waivers: 3\n") == [
        "ceag.yaml, section audit: gate: 'False' is not a word",
        "ceag.yaml, section audit: waivers: is not a list; write '- {feature: ..., value: ..., "
        "eps: ..., reason: ..., expires: ...}', one entry a line",
        "pyproject.toml, [tool.ceag.audit]: unknown key 'epss'; did you mean 'eps'?",
        "pyproject.toml, [tool.ceag.audit]: overrides, entry 1: eps: 7 is not a fraction from 0 to "
        "1; 0.02 is 2 points",
    ]


def test_an_expiry_that_no_calendar_has_is_named_with_its_line() -> None:
    (problem,) = problems("audit:\n  waivers:\n  - expires: 2026-13-01\n")
    assert problem.startswith("ceag.yaml: not valid YAML: line 3: '2026-13-01' is not a date")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("audit: {eps: 1, eps: 2}\n", "ceag.yaml", "key given twice: ['eps']"),
        ("[tool.ceag.audit]\neps = 1\neps = 2\n", "pyproject.toml", "not valid TOML"),
        (
            "[tool.ceag]\naudits = {}\n",
            "pyproject.toml",
            "'audits' is not a section; did you mean 'audit'?",
        ),
        ("[tool.ceag]\neps = 1\n", "pyproject.toml", "'eps' is not a section"),
        ("[tool]\nceag = 3\n", "pyproject.toml", "[tool.ceag] must hold one table per command"),
        ("[tool.ceag\n", "pyproject.toml", "not valid TOML"),
        ("audit: {eps: 1}\n", "ceag.yml", "is not read by that name; rename it ceag.yaml"),
    ],
)
def test_a_file_of_the_wrong_shape_is_named(text: str, name: str, said: str) -> None:
    (problem,) = problems(text, name)
    assert problem.startswith(name)
    assert said in problem


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"eps": float("nan")}, "policy: eps: 'nan' is not a number"),
        ({"eps": -0.1}, "policy: eps: -0.1 must be at least 0"),
        ({"alpha": 0.0}, "policy: alpha: 0.0 must be more than 0"),
        ({"gate": "lax"}, "policy: gate: 'lax' is not one of evidence, strict, point"),
        (
            {"eps_by_group": {BLACK: float("inf")}},
            "overrides, entry 1: eps: inf is not a fraction from 0 to 1; 0.02 is 2 points",
        ),
        ({"waivers": (WAIVER, WAIVER)}, "waivers, entry 2: race=White is in entry 1 already"),
        ({"waivers": (replace(WAIVER, reason=""),)}, "waivers, entry 1: reason: '' says nothing"),
    ],
)
def test_a_policy_made_in_python_is_checked_too(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        Policy(**values)
    (found,) = caught.value.problems
    assert found.startswith(problem)


@pytest.mark.parametrize("read", [read_overrides, read_required, read_waivers])
def test_nothing_is_an_empty_list(read: Any) -> None:
    assert read(None) == read([]) == ()


def test_the_nearest_name_may_differ_in_case() -> None:
    assert nearest("BLACK", ["White", "Black"]) == "; did you mean 'Black'?"


# The groups of the data

GROUPING = Grouping(("age", "race"), (("old", "young"), ("Black", "White")))


def pair(lost: Sequence[int], sizes: Sequence[int] = (400, 400), split: str = "test") -> Paired:
    """Two races of as many images each, of which the sparse model loses some; ages by turns."""
    sparse = torch.cat([torch.arange(n) >= k for n, k in zip(sizes, lost, strict=True)])
    race = torch.repeat_interleave(torch.tensor([2, 3]), torch.tensor(sizes))
    age = torch.arange(len(race)) % 2
    return Paired(split, torch.ones_like(sparse), sparse, torch.stack([age, race], 1))


def judged(policy: Policy, lost: Sequence[int] = (0, 0), today: date = TODAY) -> AuditResult:
    return audit([pair(lost)], GROUPING, policy, today=today)


def verdict_of(result: AuditResult, group: tuple[str, str]) -> str:
    return next(g.verdict for g in result.groups if (g.feature, g.value) == group)


def test_a_group_that_the_data_lacks_is_named_with_the_nearest() -> None:
    write(
        "audit:\n"
        "  overrides: [{feature: race, value: Blak, eps: 0.1}]\n"
        "  required_groups: [{feature: rase, value: Black}]\n"
        "  waivers: [{feature: age, value: x, eps: 1, reason: y, expires: 2027-01-01}]\n"
    )
    with pytest.raises(OptionError) as caught:
        judged(read_policy())
    assert caught.value.problems == [
        "ceag.yaml: required_groups, entry 1: there is no feature 'rase'; did you mean 'race'? "
        "(features: age, race)",
        "ceag.yaml: overrides, entry 1: 'race' has no value 'Blak'; did you mean 'Black'?",
        "ceag.yaml: waivers, entry 1: 'age' has no value 'x'",
    ]


def test_a_required_group_without_images_fails_the_audit() -> None:
    policy = Policy(eps=0.05, required=(("age", "Old"), ("race", "Black")))
    result = judged(policy, (1, 1))
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    assert result.reasons == ("required, but without images: age=Old",)
    assert verdict_of(result, ("age", "Old")) == "NO_DATA"
    assert result.warnings == (
        "required group age=Old is not in the data: 'age' has no value 'Old'; did you mean 'old'?",
    )
    # The groups that there are keep their images.
    assert {(g.value, g.n) for g in result.groups} == {
        *(("old", 400), ("young", 400), ("Old", 0), ("Black", 400), ("White", 400))
    }
    assert all(g.required == (g.value in ("Old", "Black")) for g in result.groups)


def test_a_declared_group_may_have_an_eps_of_its_own() -> None:
    policy = Policy(required=(("race", "Asian"),), eps_by_group={("race", "Asian"): 0.1})
    assert verdict_of(judged(policy), ("race", "Asian")) == "NO_DATA"


def test_a_groups_own_eps_decides() -> None:
    assert verdict_of(judged(Policy(eps=0.03)), BLACK) == "PASS"
    strict = Policy(eps=0.03, eps_by_group={BLACK: 0.0005})
    assert verdict_of(judged(strict), BLACK) == "INCONCLUSIVE"
    assert verdict_of(judged(strict), WHITE) == "PASS"
    result = judged(Policy(eps=0.03, eps_by_group={BLACK: 0.3}), (80, 0))
    assert verdict_of(result, BLACK) == "PASS"
    assert judged(Policy(eps=0.03), (80, 0)).exit_code == 1


def test_a_required_group_that_is_not_decided_fails_the_audit() -> None:
    undecided = Policy(eps=0.03, min_coverage=0.0, eps_by_group={BLACK: 0.0005})
    assert judged(undecided).exit_code == 0
    result = judged(replace(undecided, required=(BLACK,)))
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    assert result.reasons == ("required, but not decided: race=Black",)


# Waivers


def waived(eps: float = 0.15, expires: date = TODAY) -> Policy:
    return Policy(eps=0.03, waivers=(Waiver(BLACK, eps, "known", expires),))


def test_a_waived_violation_shows_as_waived_and_does_not_fail() -> None:
    lost = (80, 0)  # psi of Black is 0.1
    assert verdict_of(judged(Policy(eps=0.03), lost), BLACK) == "FAIL"
    result = judged(waived(), lost)
    assert (verdict_of(result, BLACK), result.exit_code) == ("WAIVED", 0)
    assert result.verdict == "PASS"
    assert "above eps, but accepted for now: race=Black" in result.reasons
    (group,) = [g for g in result.groups if g.verdict == "WAIVED"]
    assert group.reason == "known"


def test_a_group_that_has_to_pass_cannot_be_waived() -> None:
    """Which of the two a gate goes by must not be a guess, nor depend on the day."""
    accepted = "eps: 0.1, reason: x, expires: 2020-01-01"
    assert problems(
        "audit:\n"
        "  required_groups: [{feature: race, value: White}, {feature: race, value: Black}]\n"
        f"  waivers: [{{feature: race, value: Black, {accepted}}}]\n"
    ) == [
        "ceag.yaml: required_groups, entry 2: race=Black has to PASS, but its violation is "
        "accepted in ceag.yaml: waivers, entry 1; remove one of the two"
    ]


def test_an_expired_waiver_returns_as_failure_and_is_warned_of() -> None:
    policy = waived(expires=TODAY - timedelta(days=1))
    result = judged(policy, (80, 0))
    assert (verdict_of(result, BLACK), result.exit_code) == ("FAIL", 1)
    assert result.warnings[0] == (
        "the waiver of race=Black expired on 2026-02-28 and counts no more; renew it with a "
        "reason, or remove it"
    )
    assert judged(policy, (80, 0), today=TODAY - timedelta(days=1)).exit_code == 0


def test_a_waived_violation_that_grew_returns_as_failure() -> None:
    result = judged(waived(), (200, 0))  # psi is 0.25, demonstrably more than 0.15
    assert (verdict_of(result, BLACK), result.exit_code) == ("FAIL", 1)


def test_a_waiver_excuses_its_own_group_alone() -> None:
    assert judged(waived(), (0, 80)).exit_code == 1


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (-1, []),
        (0, ["the waiver of race=Black expires today, on 2026-03-01"]),
        (1, ["the waiver of race=Black expires tomorrow, on 2026-03-02"]),
        (14, ["the waiver of race=Black expires in 14 days, on 2026-03-15"]),
        (15, []),
    ],
)
def test_a_waiver_that_is_about_to_expire_is_spoken_of(days: int, said: list[str]) -> None:
    assert waived(expires=TODAY + timedelta(days=days)).notes(TODAY) == said


def test_a_waiver_that_excuses_nothing_is_warned_of() -> None:
    assert waived(eps=0.03).warnings(GROUPING.names, TODAY) == [
        "the waiver of race=Black accepts 0.03, which is no more than its eps 0.03: it excuses "
        "nothing"
    ]


def test_the_file_reads_as_documented() -> None:
    write(FULL_YAML)
    assert read_yaml(Path("ceag.yaml"))["audit"]["waivers"][0]["expires"] == date(2026, 12, 31)
