"""assert_no_excess_gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import write_csv

import ceag_cli
from ceag_cli import Policy, assert_no_excess_gap, read_policy
from ceag_cli.errors import CeagError, LabelsError, OptionError

N = 800
RACE = np.where(np.arange(N) < 400, "Black", "White")
GENDER = ["F", "M"] * (N // 2)
RIGHT = np.ones(N, bool)
WORSE = np.arange(N) >= 120
"""Black loses 30 points, White none."""


def test_what_passes_returns_what_was_found() -> None:
    result = assert_no_excess_gap((RIGHT, RIGHT), {"race": RACE, "gender": GENDER}, eps=0.05)
    assert (result.verdict, result.exit_code) == ("PASS", 0)
    assert [(g.feature, g.value, g.n) for g in result.groups] == [
        ("race", "Black", 400),
        ("race", "White", 400),
        ("gender", "F", 400),
        ("gender", "M", 400),
    ]


def test_a_violation_is_an_assertion_with_a_table() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_no_excess_gap((RIGHT, WORSE), {"race": RACE, "gender": GENDER}, eps=0.05)
    text = str(caught.value)
    assert text.startswith("FAIL: ")
    assert "race=Black" in text
    table = text.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["group", "n", "dense", "%", "sparse", "%", "psi", "bounds"]
    assert table[1].split()[:5] == ["race=Black", "400", "100.0", "70.0", "+15.0"]
    assert table[1].split()[-1] == "FAIL"
    assert all(len(line) < 100 for line in table)


def test_many_groups_are_cut() -> None:
    sizes = np.repeat(np.arange(40), 20)
    with pytest.raises(AssertionError) as caught:
        assert_no_excess_gap((RIGHT, WORSE), {"n": sizes}, gate="point")
    assert str(caught.value).splitlines()[-1] == "and 20 more groups"


def test_an_audit_that_decides_nothing_is_no_success() -> None:
    with pytest.raises(AssertionError, match="no group has a verdict"):
        assert_no_excess_gap((RIGHT[:20], RIGHT[:20]), {"race": GENDER[:20]})


def test_options_are_those_of_the_audit() -> None:
    groups = {"race": RACE}
    assert assert_no_excess_gap((RIGHT, WORSE), groups, eps=0.4).policy.eps == 0.4
    waiver = {
        "feature": "race",
        "value": "Black",
        "eps": 0.4,
        "reason": "known",
        "expires": "2999-01-01",
    }
    result = assert_no_excess_gap((RIGHT, WORSE), groups, eps=0.05, waivers=[waiver])
    assert [group.verdict for group in result.groups] == ["WAIVED", "PASS"]
    with pytest.raises(AssertionError, match="max-drop"):
        assert_no_excess_gap((RIGHT, WORSE), groups, eps=0.4, max_drop=0.01)


def test_the_policy_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ceag.yaml").write_text("audit: {eps: 0.4}\n")
    policy = read_policy(tmp_path)
    assert assert_no_excess_gap((RIGHT, WORSE), {"race": RACE}, policy=policy).eps == 0.4
    with pytest.raises(AssertionError):
        assert_no_excess_gap((RIGHT, WORSE), {"race": RACE}, policy=Policy(eps=0.05))


@pytest.mark.parametrize(
    "kind", [np.asarray, list, torch.tensor, lambda flags: np.asarray(flags, int)]
)
def test_flags_of_any_kind(kind: Any) -> None:
    result = assert_no_excess_gap((kind(RIGHT), kind(WORSE)), {"race": list(RACE)}, eps=0.4)
    assert result.groups[0].lost == 120


def test_a_table_of_answers(tmp_path: Path) -> None:
    rows = [
        (str(i), "cat", "test", RACE[i], "x", "cat", "cat" if WORSE[i] else "dog") for i in range(N)
    ]
    header = ("id", "label", "split", "race", "other", "dense", "sparse")
    path = write_csv(tmp_path / "preds.csv", rows, header)
    result = assert_no_excess_gap(path, "race", eps=0.4)
    assert [(g.value, g.n, g.lost) for g in result.groups] == [
        ("Black", 400, 120),
        ("White", 400, 0),
    ]
    assert {g.feature for g in assert_no_excess_gap(str(path), eps=0.4).groups} == {"race", "other"}
    with pytest.raises(AssertionError, match="race=Black"):
        assert_no_excess_gap(path, "race", eps=0.05)
    with pytest.raises(LabelsError, match="no row has split 'val'"):
        assert_no_excess_gap(path, "race", split="val")
    with pytest.raises(OptionError, match="name the columns"):
        assert_no_excess_gap(path, {"race": RACE})


@pytest.mark.parametrize(
    ("predictions", "groups", "options", "problem"),
    [
        ((RIGHT, RIGHT[1:]), {"race": RACE}, {}, "dense 800, sparse 799, race 800"),
        ((RIGHT, RIGHT), {"race": RACE[1:]}, {}, "not about the same images"),
        ((RIGHT, np.arange(N)), {"race": RACE}, {}, "sparse: holds 2; wanted is whether"),
        ((RIGHT, ["cat"] * N), {"race": RACE}, {}, "sparse: give one true or false per image"),
        ((RIGHT[:, None], RIGHT), {"race": RACE}, {}, "dense: give one true or false per image"),
        ((RIGHT,), {"race": RACE}, {}, "predictions: give two arrays"),
        (3, {"race": RACE}, {}, "predictions: give two arrays"),
        ((RIGHT, RIGHT), {}, {}, "groups: give the groups of each image"),
        ((RIGHT, RIGHT), RACE, {}, "groups: give the groups of each image"),
        ((RIGHT, RIGHT), {"race": [None, *RACE[1:]]}, {}, "image 0 .* has no group"),
        ((RIGHT, RIGHT), {"race": [float("nan")] * N}, {}, "image 0 .* has no group"),
        (([], []), {"race": []}, {}, "there are no images"),
        ((RIGHT, RIGHT), {"race": RACE}, {"eps": float("nan")}, "--eps: nan"),
        ((RIGHT, RIGHT), {"race": RACE}, {"eps": -1}, "--eps: -1 must be at least 0"),
        ((RIGHT, RIGHT), {"race": RACE}, {"epsilon": 1}, "not options of an audit: epsilon"),
        (
            (RIGHT, RIGHT),
            {"race": RACE},
            {"policy": Policy(), "eps": 0.1},
            r"give a policy, or options \(eps\), not both",
        ),
        (
            (RIGHT, RIGHT),
            {"race": RACE},
            {"overrides": [{"feature": "race", "value": "black", "eps": 0.1}]},
            "did you mean 'Black'",
        ),
    ],
)
def test_what_cannot_be_used_is_no_assertion(
    predictions: Any, groups: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(CeagError, match=problem):
        assert_no_excess_gap(predictions, groups, **options)


def test_the_names_are_public() -> None:
    for name in ("AuditResult", "Override", "Policy", "Waiver", "assert_no_excess_gap"):
        assert name in ceag_cli.__all__
