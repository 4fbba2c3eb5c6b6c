from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from toys import SUBJECT, measured

from ceag_cli.audit import audit
from ceag_cli.documents import audit_document
from ceag_cli.findings import HIGH, AuditResult, GroupResult, SplitResult
from ceag_cli.groups import Grouping
from ceag_cli.paired import Paired
from ceag_cli.plaintext import audit_table
from ceag_cli.policy import Policy
from ceag_cli.report import (
    CAVEAT,
    MEANING,
    MEASURED,
    audit_headline,
    percent,
    points,
    split_line,
    why,
)
from ceag_cli.results import DenseResult, MitigateResult, PruneResult
from ceag_cli.stagereport import (
    dense_lines,
    megabytes,
    mitigate_lines,
    prune_lines,
    result_document,
)
from ceag_cli.versions import versions

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "back\rFAIL",
    "two\nlines",
    "bell\x07 and \x9b31m",
    "\u202etxt.exe",
    "tab\there",
    "\u2028line",
]
"""Names that a terminal would act upon."""


def audit_by_bounds(names: Sequence[str], lost: Sequence[int], n: int, **more: Any) -> AuditResult:
    """As the bounds have it, not as measured."""
    return audit([paired(names, lost, n)], grouping_of(names), Policy(eps=0.02, **more))


def table_at(width: int, result: AuditResult) -> list[str]:
    """A table as a terminal of that width has it, without what is written below."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(audit_table(result, "test", width=width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_verdict_is_one_line_in_a_terminal_of_80_columns() -> None:
    # 10 and 2 of 145 are lost: psi is 6.9 - 4.1 = 2.8 points, more than 2, but not shown to be.
    lines = table_at(80, audit_by_bounds(["camera=old camera", "camera=phone"], [10, 2], 145))
    assert all(len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if line.startswith("camera=old camera")]
    assert "+2.8" in row
    assert "INCONCLUSIVE high" in row
    assert "high: psi is above eps, but not shown to be" in lines


def test_reasons_are_explained_below_the_table() -> None:
    # At 2 points a group of 20 images cannot pass if nothing changes.
    few = table_at(120, audit_by_bounds(["a", "b"], [0, 0], 20))
    assert "small: too few images to pass even if no answer had changed" in few
    assert not any(line.startswith("high: ") for line in few)


def audited(
    names: Sequence[str],
    lost: Sequence[int],
    n: int = 100,
    eps: float = 0.02,
    split: str = "test",
) -> AuditResult:
    """Groups of ``n`` images each, all of them right in the dense model, ``lost`` in the sparse."""
    return measured([paired(names, lost, n, split)], grouping_of(names), eps)


def paired(names: Sequence[str], lost: Sequence[int], n: int, split: str = "test") -> Paired:
    ids = torch.arange(len(names)).repeat_interleave(n)
    rank = torch.arange(n).repeat(len(names))
    sparse = rank >= torch.tensor(lost).repeat_interleave(n)
    return Paired(split, torch.ones_like(sparse), sparse, ids[:, None])


def grouping_of(names: Sequence[str]) -> Grouping:
    return Grouping(("letter",), (tuple(names),))


def rendered(result: AuditResult, split: str = "test", most: int | None = 25) -> list[str]:
    """The table as ``ceag audit`` prints it on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False, soft_wrap=True)
    console.print(audit_table(result, split, most))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


# ---------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------


def test_percent() -> None:
    assert [percent(x) for x in (0.0, 0.1234, 0.1236, 1.0)] == ["0.0", "12.3", "12.4", "100.0"]
    assert percent(None) == "–"


def test_points() -> None:
    assert [points(x) for x in (0.0312, -0.0312, 0.0, 1.5)] == ["+3.1", "-3.1", "+0.0", "+150.0"]
    assert points(None) == points(None, 0.02) == "–"


@given(st.floats(-1, 1) | st.sampled_from([-0.0, -0.0004, -1e-9, -1e-300]))
def test_zero_has_no_minus(number: float) -> None:
    shown = [percent(number), points(number), points(number, 0.02), points(number, 0.0)]
    assert [text for text in shown if text.startswith("-") and float(text) == 0] == []
    assert points(number, 0.0).startswith("-") == (number < 0) or abs(number) < 1e-17


def test_holms_correction_is_said_to_be_why_a_group_is_not_decided() -> None:
    """Of 80 images 6 are lost, and none of 1520 others: 20 times p is above .05."""
    names, lost = [*"abcdefghijklmnopqrst"], [6, *[0] * 19]
    result = audit_by_bounds(names, lost, 80)
    group = result.groups[0]
    assert (group.verdict, group.reason) == ("INCONCLUSIVE", "high")
    assert why(group, result).startswith(
        "psi is shown to be above eps by itself, but not after correcting for 20 groups; needs "
    )
    assert result.reasons[-1] == (
        "shown to be above eps by itself, but not after correcting for 20 groups: letter=a"
    )
    worse = audit_by_bounds(names, [12, *[0] * 19], 80)
    assert worse.reasons == ("psi is shown to be above eps: letter=a",)


def test_the_headline_says_that_the_gate_is_strict() -> None:
    open_ = audit_by_bounds(["a", "b"], [6, 0], 200, gate="strict")
    assert (open_.verdict, open_.exit_code) == ("INCONCLUSIVE", 3)
    assert audit_headline(open_).startswith(
        "INCONCLUSIVE: neither psi <= eps for every group nor psi > eps for any is shown; the gate "
        "strict lets pass only what is shown to satisfy (split test, "
    )
    assert "strict" not in audit_headline(audit_by_bounds(["a", "b"], [6, 0], 200))


@pytest.mark.parametrize(
    ("gap", "eps", "expected"),
    [
        (0.02, 0.02, "+2.0"),  # equal: nothing to be shown
        (0.05, 0.02, "+5.0"),  # far away
        (0.0204, 0.02, "+2.04"),
        (0.0196, 0.02, "+1.96"),
        (0.020004, 0.02, "+2.0004"),
        (0.0199996, 0.02, "+1.99996"),
        (-0.0004, 0.0, "-0.04"),
        (0.07004, 0.07, "+7.004"),  # 100 * 0.07 is 7.000000000000001 in float64
        (0.14004, 0.14, "+14.004"),
        (0.02144, 0.0214, "+2.144"),  # +2.1 would look like less than 2.14
        (0.02136, 0.0214, "+2.1"),
        (0.020000004, 0.02, "+2.0000004"),
    ],
)
def test_points_shows_on_which_side_of_eps_a_gap_lies(
    gap: float, eps: float, expected: str
) -> None:
    assert points(gap, eps) == expected


@settings(max_examples=300)
@given(
    st.integers(0, 3000).map(lambda x: x / 10_000),
    st.integers(1, 500),
    st.integers(501, 60_000),
    st.integers(-40, 40),
)
def test_the_psi_printed_is_on_the_same_side_of_eps_as_the_psi_measured(
    eps: float, n: int, total: int, offset: int
) -> None:
    # A possible psi, a / n - b / total, near eps.
    limit = Fraction(repr(eps))
    a = -(-(limit.numerator * n) // limit.denominator)
    b = round((Fraction(a, n) - limit) * total) + offset
    psi = float(Fraction(a, n) - Fraction(b, total))
    shown = Fraction(points(psi, eps))
    assert (shown > 100 * limit) == (psi > eps)
    assert (shown < 100 * limit) == (psi < eps)


def test_megabytes() -> None:
    assert megabytes(46_837_000) == "46.8 MB"
    assert megabytes(1_000_000) == "1.0 MB"
    assert megabytes(12_340) == "12.3 kB"


# ---------------------------------------------------------------------------------------------
# Sentences
# ---------------------------------------------------------------------------------------------


def test_the_headline_of_a_violation() -> None:
    # a loses 10 of 100, b 0 of 100: psi 5 points.
    headline = audit_headline(audited("ab", [10, 0]))
    assert re.sub(r"eps \+?2(\.0)? points", "eps 2 points", headline) == (
        "FAIL: the measured psi of at least one group is beyond eps "
        "(split test, eps 2 points; largest psi +5.0, letter=a)."
    )


def test_the_headline_of_a_pass_at_the_limit() -> None:
    headline = audit_headline(audited("ab", [4, 0]))
    assert headline.startswith("PASS: every audited group has a measured psi <= eps")
    assert "largest psi +2.0, letter=a" in headline


def test_the_headline_says_when_nothing_was_audited() -> None:
    headline = audit_headline(audited(["a"], [10]))
    assert headline.startswith("NO_DATA: no group could be audited, so nothing is shown")
    assert "test" in headline


def test_the_headline_without_a_gated_split() -> None:
    headline = audit_headline(audited("ab", [10, 0], split="train"))
    assert headline.startswith("NO_DATA: ")
    assert "()" not in headline


def test_the_headline_takes_the_worst_of_the_gated_splits_only() -> None:
    train, val, test = (
        Paired(
            name,
            torch.ones(20, dtype=torch.bool),
            torch.arange(20) >= lost,
            (torch.arange(20) >= 10).long()[:, None],
        )
        for name, lost in (("train", 10), ("val", 5), ("test", 2))
    )
    grouping = Grouping(("letter",), (("a", "b"),))
    headline = audit_headline(measured([train, val, test], grouping, 0.02, gated=("val", "test")))
    assert "split val, test" in headline
    assert "largest psi +25.0, letter=a" in headline


@pytest.mark.parametrize(
    ("eps", "shown"), [(0.02, "2"), (0.0206, "2.06"), (0.0005, "0.05"), (0.0125, "1.25")]
)
def test_eps_itself_is_never_rounded(eps: float, shown: str) -> None:
    # With eps 2.06 points and psi 2.08 a headline "eps +2.1, largest psi +2.1: FAIL" says nothing.
    text = audit_headline(audited("ab", [10, 0], eps=eps))
    number = text.split("eps ")[-1].split(" points")[0]
    assert Fraction(number) == Fraction(shown)


def test_no_sentence_calls_a_model_fair() -> None:
    for text in (*MEANING.values(), *MEASURED.values(), CAVEAT.replace("is fair", "")):
        assert "fair" not in text
    assert "says nothing about whether the dense model itself is fair" in CAVEAT


def test_the_line_of_a_split() -> None:
    split = audited("ab", [10, 0]).splits[0]
    assert split_line(split) == (
        "test (gated): 200 images, accuracy 100.0 % dense, 95.0 % sparse, gap +5.0; "
        "max psi +5.0 (+1.2 by chance alone), pairwise disparity 10.0; p 0.003 for no disparity at "
        "all"
    )
    assert split_line(dataclasses.replace(split, gated=False)).startswith("test (described only)")


# ---------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------


def test_a_small_table() -> None:
    lines = rendered(audited(["a", "b"], [10, 4], n=100))
    assert [line.split() for line in lines] == [
        ["group", "n", "dense", "sparse", "psi", "bounds", "verdict"],
        ["a", "100", "100.0", "90.0", "+3.0", "+0.0", "to", "+6.3", "FAIL"],
        ["b", "100", "100.0", "96.0", "-3.0", "-6.3", "to", "+0.0", "PASS"],
    ]


def test_the_feature_is_named_where_there_are_several() -> None:
    pair = Paired(
        "test",
        torch.ones(2, dtype=torch.bool),
        torch.tensor([True, False]),
        torch.tensor([[0, 2], [1, 3]]),
    )
    result = measured([pair], Grouping(("race", "age"), (("x", "y"), ("old", "young"))), 0.02)
    assert [line.split()[0] for line in rendered(result)[1:]] == [
        "age=young",
        "race=y",
        "age=old",
        "race=x",
    ]


def test_a_group_without_images_has_dashes() -> None:
    grouping = Grouping(("letter",), (("a", "b", "c"),))
    pair = Paired(
        "test",
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, dtype=torch.bool),
        torch.tensor([[0], [1]]),
    )
    lines = rendered(measured([pair], grouping, 0.02))
    assert lines[-1].split() == ["c", "0", "–", "–", "–", "NO_DATA"]


def test_a_described_split_has_no_verdicts() -> None:
    lines = rendered(audited("ab", [10, 0], split="train"), "train")
    assert [line.split()[-1] for line in lines[1:]] == ["+5.0", "-5.0"]


def test_three_hundred_groups_at_a_width_of_eighty() -> None:
    names = [f"group number {g:03}" for g in range(300)]
    result = audited(names, [g % 7 for g in range(300)], n=10)
    lines = rendered(result)
    assert len(lines) == 1 + 25 + 1
    assert " ".join(lines[-1].split()) == "and 275 more groups: 103 FAIL, 172 PASS"
    assert max(len(line) for line in lines) <= 80
    # The worst come first: those that lose 6 of 10, in order of their names.
    assert [line[:16] for line in lines[1:4]] == [
        "group number 006",
        "group number 013",
        "group number 020",
    ]

    lines = rendered(result, most=None)
    assert len(lines) == 301
    assert [line[:16] for line in lines[1:]] == [group.value for group in result.by_split("test")]
    for line in lines[1:]:
        assert len(line) <= 80
        n, dense, sparse, psi, lower, _, upper, verdict = line[16:].split()
        assert float(lower) < float(psi) < float(upper)
        assert (n, dense) == ("10", "100.0")
        assert float(sparse) in (100, 90, 80, 70, 60, 50, 40)
        assert verdict == ("FAIL" if float(psi) > 2 else "PASS")
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("needed", "grows", "shown"),
    [
        (581, "split", "+581*"),
        (99_999, "group", "+99999"),
        (195_432, "split", "+195k*"),
        (999_499, "group", "+999k"),
        (999_500, "group", "+1.0M"),
        (12_340_000, "split", "+12.3M*"),
    ],
)
def test_what_a_group_needs_is_a_short_number_that_the_last_line_explains(
    needed: int, grows: str, shown: str
) -> None:
    result = audited("ab", [10, 0])
    open_: dict[str, Any] = {"verdict": "INCONCLUSIVE", "reason": HIGH}
    open_ |= {"n_needed": needed, "grows": grows}
    groups = tuple(dataclasses.replace(group, **open_) for group in result.groups)
    head, *rows, legend, reason = rendered(dataclasses.replace(result, groups=groups))
    assert head.split()[-1] == "needs"
    assert [row.split()[-1] for row in rows] == [shown, shown]
    alike = "; *: with all others growing alike" if grows == "split" else ""
    assert legend.rstrip() == f"needs: further images of the group{alike}"
    assert reason.rstrip() == "high: psi is above eps, but not shown to be"


def test_exactly_as_many_groups_as_are_shown() -> None:
    lines = rendered(audited([str(g) for g in range(25)], [0] * 25, n=2))
    assert len(lines) == 26
    assert "more" not in lines[-1]


@pytest.mark.parametrize("width", [80, 73])
def test_long_names_are_folded_and_numbers_stay_whole(width: int) -> None:
    name = "x" * 100
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(audit_table(audited([name, "b"], [10, 0]), "test"))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    assert sum(line.count("x") for line in lines) == 100
    (numbers,) = [line for line in lines if "FAIL" in line]
    assert numbers.replace("x", "").split() == [
        *("100", "100.0", "90.0", "+5.0", "+2.6", "to", "+8.3", "FAIL"),
    ]


@pytest.mark.parametrize("name", [*HOSTILE, "[red]not red[/red]", "[/]", ":smile:"])
def test_names_in_the_table_are_inert(name: str) -> None:
    lines = rendered(audited([name, "b"], [10, 0]))
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    if name.isprintable():
        assert lines[1].startswith(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_sentences_are_inert(name: str) -> None:
    result = audited([name, "b"], [10, 0])
    assert audit_headline(result).isprintable()
    assert split_line(result.splits[0]).isprintable()
    for line in mitigate_lines(mitigated(result, satisfied=False)):
        assert line.isprintable()


# ---------------------------------------------------------------------------------------------
# Documents
# ---------------------------------------------------------------------------------------------


def test_the_audit_document() -> None:
    document = audit_document(audited("ab", [10, 0]), SUBJECT, version="1.2.3", seed=7)
    assert list(document) == [
        "schema_version",
        "tool",
        "version",
        "command",
        "seed",
        "versions",
        "models",
        "data",
        "overall",
        "policy",
        "inference",
        "splits",
        "groups",
        "checks",
        "more",
        "explanation",
        "exemplars",
    ]
    assert [document[key] for key in list(document)[:5]] == [2, "ceag", "1.2.3", "audit", 7]
    assert document["models"] == {
        "architecture": "resnet18",
        "dense": {"path": "model.safetensors", "sha256": "d" * 64},
        "sparse": {
            "path": "model.pruned.safetensors",
            "sha256": "e" * 64,
            "sparsity": 0.9,
            "method": None,
        },
        "remarks": [],
    }
    assert document["data"] == {
        "groups_file": "labels.csv",
        "groups_file_sha256": "f" * 64,
        "label_column": "label",
        "groups_by": "letter",
        "missing": "error",
        "dropped": 0,
        "cluster_id": None,
        "predictions": None,
        "predictions_sha256": None,
        "dataset": None,
        "duplicates": None,
        "duplicate_images": [],
    }
    overall = dict(document["overall"])
    assert overall.pop("noise_floor") == document["splits"][0]["noise_floor"]
    assert overall.pop("omnibus_p") == document["splits"][0]["omnibus_p"]
    assert overall == {
        "verdict": "FAIL",
        "gate": "point",
        "eps": 0.02,
        "exit_code": 1,
        "n": 200,
        "acc_dense": 1.0,
        "acc_sparse": 0.95,
        "gap": 0.05,
        "max_excess_gap": 0.05,
        "coverage": 1.0,
        "reasons": ["psi is above eps: letter=a"],
        "warnings": [],
    }
    assert document["inference"] == {
        "alpha": 0.05,
        "bounds": "one-sided",
        "interval": "score",
        "multiplicity": "holm",
        "family_size": 2,
    }
    (split,) = document["splits"]
    assert 0 < split.pop("noise_floor") < 0.05
    assert 0 < split.pop("omnibus_p") < 0.05
    # psi is 0.05 and -0.05; of a's 100 images, 10 lost, s^2 is 9 / 99.
    assert split.pop("between_group_variance") == pytest.approx(0.0025 - 1 / 4400)
    assert document["splits"] == [
        {
            "split": "test",
            "gated": True,
            "n": 200,
            "clusters": None,
            "lost": 10,
            "gained": 0,
            "lateral": None,
            "acc_dense": 1.0,
            "acc_sparse": 0.95,
            "gap": 0.05,
            "max_excess_gap": 0.05,
            "worst_group": "letter=a",
            "pairwise_disparity": 0.1,
            "worst_accuracy_dense": 1.0,
            "worst_accuracy_sparse": 0.9,
            "coverage": 1.0,
        }
    ]
    a, b = document["groups"]
    # Of two groups of one size one bound mirrors the other.
    assert (a["lower"], a["upper"]) == pytest.approx((-b["upper"], -b["lower"]))
    assert 0 < a.pop("lower") < 0.05 < a.pop("upper")
    assert a.pop("p_fail_holm") == 2 * a.pop("p_fail") < 0.1
    assert a == {
        "split": "test",
        "feature": "letter",
        "value": "a",
        "n": 100,
        "n_effective": None,
        "lost": 10,
        "gained": 0,
        "lateral": None,
        "acc_dense": 1.0,
        "acc_sparse": 0.9,
        "gap": 0.1,
        "excess_gap": 0.05,
        "gap_vs_rest": 0.1,
        "eps": 0.02,
        "verdict": "FAIL",
        "reason": None,
        "n_needed": None,
        "grows": None,
        "required": False,
    }


def test_the_audit_document_is_strict_json_also_without_values() -> None:
    grouping = Grouping(("letter",), (("a", "b\n\x1b[31m"),))
    flags = torch.tensor([True, False])
    result = measured([Paired("test", flags, flags, torch.tensor([[0], [0]]))], grouping, 0.02)
    document = audit_document(result, SUBJECT, "1", 0)
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again == document
    assert again["overall"]["verdict"] == "NO_DATA"
    assert again["groups"][1]["excess_gap"] is None
    # Data keep their names as they are; JSON escapes them.
    assert again["groups"][1]["value"] == "b\n\x1b[31m"


def test_field_names_are_those_of_the_results() -> None:
    document = audit_document(audited("ab", [1, 0]), SUBJECT, "1", 0)
    assert set(document["groups"][0]) == {f.name for f in dataclasses.fields(GroupResult)}
    assert set(document["splits"][0]) == {f.name for f in dataclasses.fields(SplitResult)}


def test_the_document_of_a_stage() -> None:
    result = DenseResult(Path("a") / "model.safetensors", "resnet18", 2, {"train": 0.5})
    document = result_document("dense", "1.2.3", 7, result)
    assert document == {
        "schema_version": 1,
        "tool": "ceag",
        "version": "1.2.3",
        "command": "dense",
        "seed": 7,
        "versions": versions(),
        "output": str(Path("a") / "model.safetensors"),
        "architecture": "resnet18",
        "num_classes": 2,
        "accuracy": {"train": 0.5},
        "early": None,
    }
    json.dumps(document)


# ---------------------------------------------------------------------------------------------
# What the stages say
# ---------------------------------------------------------------------------------------------


def mitigated(
    result: AuditResult, satisfied: bool, mixed: SplitResult | None = None
) -> MitigateResult:
    return MitigateResult(
        output=Path("model.mitigated.safetensors"),
        method="ceag",
        sparsity=0.9,
        eps=result.eps,
        train=result.splits[0],
        mixed=mixed,
        satisfied=satisfied,
        epochs=30,
        kept=None,
        judged_on=None,
    )


def test_mitigate_says_loudly_when_the_constraints_do_not_hold() -> None:
    lines = mitigate_lines(mitigated(audited("ab", [10, 0]), satisfied=False))
    assert lines[0] == "wrote model.mitigated.safetensors (ceag, sparsity 90.00%)"
    assert lines[1] == "train accuracy 100.0 % dense, 95.0 % sparse"
    assert lines[2].startswith("NOT SATISFIED ON TRAIN: the largest psi is +5.0 points (letter=a)")
    assert len(lines) == 3


def test_mitigate_names_the_mixed_images_where_the_constraints_were_measured_on_them() -> None:
    on_train, mixed = audited("ab", [10, 0]), audited("ab", [0, 20])
    lines = mitigate_lines(mitigated(on_train, satisfied=False, mixed=mixed.splits[0]))
    assert lines[1:3] == [
        "train accuracy 100.0 % dense, 95.0 % sparse, largest psi +5.0 points (letter=a)",
        "train images mixed with others, in place of unseen ones: accuracy 100.0 % dense, "
        "90.0 % sparse",
    ]
    assert lines[3].startswith(
        "NOT SATISFIED ON MIXED TRAIN IMAGES: the largest psi is +10.0 points (letter=b)"
    )


@pytest.mark.parametrize("satisfied", [True, False])
def test_mitigate_does_not_round_eps(satisfied: bool) -> None:
    line = mitigate_lines(mitigated(audited("ab", [10, 0], eps=0.0206), satisfied))[2]
    assert "2.06" in line


def test_mitigate_says_when_they_hold() -> None:
    lines = mitigate_lines(mitigated(audited("ab", [2, 0]), satisfied=True))
    assert lines[2].startswith(
        "The constraints hold on train: the largest psi is +1.0 points (letter=a)"
    )
    assert "NOT" not in lines[2]


def test_prune_promises_no_speed() -> None:
    result = PruneResult(
        output=Path("model.pruned.safetensors"),
        dry_run=False,
        criterion="magnitude",
        scope="layer",
        pattern="unstructured",
        schedule="one-shot",
        rounds=None,
        by_tensor=(),
        recalibrated=None,
        bytes=46_837_000,
        packed=False,
        bytes_packed=9_000_000,
        sparsity=0.9,
        zeros=900,
        weights=1000,
        tensors=20,
        unfit=0,
        sparsity_of_all=0.856,
    )
    lines = prune_lines(result)
    assert lines == [
        "wrote model.pruned.safetensors",
        "sparsity 90.0000% of the prunable weights (900 of 1000 in 20 tensors), 85.6% of all "
        "parameters",
        "size 46.8 MB, as before; 9.0 MB with --pack. Zeros do not make the model "
        "faster in PyTorch.",
    ]
    unmeasured = dataclasses.replace(result, bytes_packed=None)
    assert "--pack" not in prune_lines(unmeasured)[2]


def test_dense_names_what_it_measured() -> None:
    result = DenseResult(
        output=Path("model.safetensors"),
        architecture="resnet18",
        num_classes=10,
        accuracy={"train": 0.987, "test": 0.9},
    )
    assert dense_lines(result) == [
        "wrote model.safetensors: resnet18, 10 classes",
        "accuracy: train 98.7 %, test 90.0 %",
    ]
    assert dense_lines(dataclasses.replace(result, accuracy={})) == [
        "wrote model.safetensors: resnet18, 10 classes"
    ]
