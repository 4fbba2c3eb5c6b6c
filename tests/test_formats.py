from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from toys import SUBJECT as PRUNED
from typer.testing import CliRunner

from ceag_cli import explanationformats, reportfiles
from ceag_cli.audit import audit
from ceag_cli.auditoptions import AUDIT_FORMATS, EXPLAIN_FORMATS
from ceag_cli.clauses import Waiver
from ceag_cli.cli import app
from ceag_cli.documents import audit_document
from ceag_cli.errors import OptionError, OutputError
from ceag_cli.explanations import (
    Explained,
    Explanation,
    GroupExplanation,
    explanation_document,
    features_of,
)
from ceag_cli.findings import AuditResult, Subject
from ceag_cli.formats import FORMATS, render
from ceag_cli.groups import Grouping
from ceag_cli.inert import printable
from ceag_cli.markdown import escaped
from ceag_cli.options import AuditOptions
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy
from ceag_cli.reportfiles import report_files, write_reports
from ceag_cli.results import Audit, NotWritten
from ceag_cli.schemas import AUDIT
from ceag_cli.sheet import cell

SUBJECT = dataclasses.replace(PRUNED, groups_by="race")
DEFAULT = Policy()


def found(result: AuditResult, subject: Subject = SUBJECT) -> Audit:
    document = audit_document(result, subject, "1.2.3", 42)
    return Audit(result, subject, document, Path("model.pruned.run/audit.html"), (), "1.2.3")


def audited(
    names: Sequence[str],
    lost: Sequence[int],
    sizes: Sequence[int],
    policy: Policy | None = None,
    splits: Sequence[str] = ("test",),
    feature: str = "race",
    seed: int | None = 0,
) -> Audit:
    """The dense model is right everywhere, the sparse one not on ``lost`` images of a group."""
    ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ranks = [torch.arange(n) >= m for n, m in zip(sizes, lost, strict=True)]
    sparse = torch.cat(ranks)
    pairs = [Paired(split, torch.ones_like(sparse), sparse, ids[:, None]) for split in splits]
    today = datetime.date(2026, 1, 1)
    grouping = Grouping((feature,), (tuple(names),))
    return found(audit(pairs, grouping, policy or DEFAULT, today=today, seed=seed))


def small() -> Audit:
    """One group of each verdict."""
    waiver = Waiver(
        ("race", "Asian, other"),
        0.3,
        "known; new data are on their way",
        datetime.date(2026, 12, 31),
    )
    return audited(
        ("White", "Black", "Asian, other", "=1|2", "none"),
        (20, 120, 45, 0, 0),
        (1000, 1000, 300, 20, 0),
        Policy(eps=0.02, waivers=(waiver,), max_drop=0.1),
        ("train", "test"),
    )


SMALL = small()

MANY = {
    count: audited(
        tuple(f"group number {g:04}" for g in range(count)),
        tuple(g % 7 for g in range(count)),
        (20,) * count,
        Policy(eps=0.05),
        ("train", "test"),
    )
    for count in (3, 100, 5000)
}


def test_the_options_and_the_table_name_the_same_formats() -> None:
    assert tuple(FORMATS) == AUDIT_FORMATS


@pytest.mark.parametrize("name", AUDIT_FORMATS)
@pytest.mark.parametrize("count", MANY)
def test_every_format_ends_with_a_line_break(name: str, count: int) -> None:
    text = render(MANY[count], name)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert len(text.encode()) < {"json": 8e6, "junit": 8e6, "csv": 3e6}.get(name, 4e6)


# Text


def test_the_text() -> None:
    lines = render(SMALL, "text").splitlines()
    assert lines[:6] == [
        "train (described only): 2320 images, accuracy 100.0 % dense, 92.0 % sparse, gap +8.0; "
        "max psi +7.0, pairwise disparity 15.0",
        "group            n  dense  sparse   psi",
        "Asian, other   300  100.0    85.0  +7.0",
        "Black         1000  100.0    88.0  +4.0",
        "White         1000  100.0    98.0  -6.0",
        "=1|2            20  100.0   100.0  -8.0",
    ]
    start = next(i for i, line in enumerate(lines) if line.startswith("test (gated): 2320 images"))
    assert lines[start + 1 : start + 16] == [
        "group            n  dense  sparse   psi         bounds  verdict             needs",
        "Black         1000  100.0    88.0  +4.0   +2.9 to +5.2  FAIL",
        "Asian, other   300  100.0    85.0  +7.0  +4.2 to +10.3  WAIVED",
        "White         1000  100.0    98.0  -6.0   -6.9 to -5.0  PASS",
        "=1|2            20  100.0   100.0  -8.0  -19.8 to +3.9  INCONCLUSIVE small     +5",
        "none             0      –       –     –                 NO_DATA",
        "needs: further images of the group",
        "small: too few images to pass even if no answer had changed",
        "",
        "--max-drop on test: +8.0 (+7.1 to +8.9), at most 10: PASS",
        "warning: too few images to pass at this eps even if no answer had changed: race==1|2",
        "FAIL: psi > eps is shown for at least one group (split test, eps 2 points; largest psi "
        "+7.0, race=Asian, other).",
        "  psi is shown to be above eps: race=Black",
        lines[start + 14],
        "report: model.pruned.run/audit.html",
    ]


def test_names_right_to_left_keep_the_numbers_in_order() -> None:
    lines = render(audited(("שחור", "b"), (0, 0), (10, 10)), "text").splitlines()
    row = next(line for line in lines if line.startswith("שחור"))
    assert "\u200e10" in row  # a mark from left to right before the first number
    assert "\u200e" not in next(line for line in lines if line.startswith("b "))


def test_no_line_of_a_log_is_a_command_to_github() -> None:
    text = render(audited(("::error::x", "##[error]y"), (0, 0), (10, 10)), "text")
    assert "::error::x" in text
    assert not [line for line in text.splitlines() if re.match(r"\s*(::|##\[)", line)]


# JSON and its schema

SCHEMA: dict[str, Any] = json.loads(AUDIT.read_text(encoding="utf-8"))

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def wrong(
    value: Any, schema: Mapping[str, Any], place: str = "$", defs: Mapping[str, Any] = SCHEMA
) -> list[str]:
    """What of a document is not as its schema says, as far as our schema goes.

    Stricter than a validator: a field that the schema does not name is wrong too.
    """
    if "$ref" in schema:
        schema = defs["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    known = {
        *("$schema", "$id", "title", "description", "$defs", "type", "required", "properties"),
        *(
            "anyOf",
            "items",
            "enum",
            "const",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
        ),
    }
    assert set(schema) <= known, f"{place}: the test does not know {set(schema) - known}"
    problems: list[str] = []
    if "anyOf" in schema:
        branches = [wrong(value, branch, place, defs) for branch in schema["anyOf"]]
        return min(branches, key=len)
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        fits = "boolean" in names if isinstance(value, bool) else False
        for name in names:
            if name != "boolean" and not isinstance(value, bool):
                fits = fits or isinstance(value, TYPES[name])
        if not fits:
            return [f"{place}: {value!r} is not {schema['type']}"]
    if "const" in schema and value != schema["const"]:
        problems.append(f"{place}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        problems.append(f"{place}: {value!r} is not one of {schema['enum']}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            problems.append(f"{place}: {value} is out of range")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            problems.append(f"{place}: {value} is out of range")
        if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
            problems.append(f"{place}: {value} is out of range")
    if isinstance(value, dict):
        fields = schema.get("properties")
        problems += [f"{place}.{name} is missing" for name in schema.get("required", ())]
        problems = [p for p in problems if p.split(".")[-1].split(" ")[0] not in value]
        for name, part in value.items():
            if fields is not None and name not in fields:
                problems.append(f"{place}.{name} is not in the schema")
            elif fields is not None:
                problems += wrong(part, fields[name], f"{place}.{name}", defs)
    if isinstance(value, list) and "items" in schema:
        for i, part in enumerate(value):
            problems += wrong(part, schema["items"], f"{place}[{i}]", defs)
    return problems


POLICIES = {
    "evidence": Policy(eps=0.02, max_drop=0.01, min_accuracy=0.9),
    "strict": Policy(eps=0.02, gate="strict", interval="exact"),
    "point": Policy(eps=0.02, gate="point", required=(("race", "d"),)),
    "rest": Policy(eps=0.02, against="rest", eps_by_group={("race", "a"): 0.5}),
    "waived": Policy(
        eps=0.02, waivers=(Waiver(("race", "a"), 0.9, "why", datetime.date(2026, 5, 1), "me"),)
    ),
}

RESULTS = {
    name: audited("abcd", (150, 0, 2, 0), (500, 900, 30, 0), policy, ("train", "test"))
    for name, policy in POLICIES.items()
} | {
    "nothing": audited(("a",), (1,), (10,)),
    "not gated": audited("ab", (1, 0), (10, 10), splits=("train",)),
    "small": SMALL,
}


@pytest.mark.parametrize("name", RESULTS)
def test_documents_are_as_the_schema_says(name: str) -> None:
    document = json.loads(render(RESULTS[name], "json"))
    assert wrong(document, SCHEMA) == []
    assert document == RESULTS[name].document


def test_the_schema_requires_every_field() -> None:
    document = json.loads(render(SMALL, "json"))

    def check(value: Any, schema: Mapping[str, Any]) -> None:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        if isinstance(value, dict) and "properties" in schema:
            assert sorted(schema["required"]) == sorted(schema["properties"])
            for name, part in value.items():
                check(part, schema["properties"][name])
        for part in value if isinstance(value, list) else ():
            check(part, schema.get("items", {}))

    check({key: value for key, value in document.items() if key != "more"}, SCHEMA)


def test_a_document_that_is_not_as_the_schema_says_is_found() -> None:
    document = json.loads(render(SMALL, "json"))
    document["overall"]["verdict"] = "FINE"
    document["groups"][0]["n"] = "7"
    del document["groups"][1]["value"]
    document["splits"][0]["acc_dense"] = 100.0
    assert wrong(document, SCHEMA) == [
        "$.overall.verdict: 'FINE' is not one of ['PASS', 'FAIL', 'INCONCLUSIVE', 'NO_DATA']",
        "$.splits[0].acc_dense: 100.0 is out of range",
        "$.groups[0].n: '7' is not integer",
        "$.groups[1].value is missing",
    ]


def test_the_overall_numbers_are_those_of_all_gated_images() -> None:
    pairs = []
    for split, n, lost in (("val", 100, 10), ("test", 300, 60)):
        sparse = torch.arange(n) >= lost
        ids = (torch.arange(n) % 2)[:, None]
        pairs.append(Paired(split, torch.ones_like(sparse), sparse, ids))
    grouping = Grouping(("race",), (("a", "b"),))
    result = audit(pairs, grouping, Policy(eps=0.02), ("val", "test"))
    overall = found(result).document["overall"]
    assert overall["n"] == 400
    assert overall["acc_dense"] == 1.0
    assert overall["acc_sparse"] == pytest.approx(330 / 400)
    assert overall["gap"] == pytest.approx(70 / 400)
    splits = result.splits
    assert overall["noise_floor"] == max(split.noise_floor or 0 for split in splits)
    assert overall["omnibus_p"] == min(1, 2 * min(split.omnibus_p or 0 for split in splits))
    assert wrong(found(result).document, SCHEMA) == []


def why(*names: str) -> Explanation:
    """An explanation of groups of which one has no images and one no finite mixture."""
    groups = [
        GroupExplanation(
            *("race", name, 100, 50),
            loss_dense=0.5,
            loss_sparse=0.75 + g,
            loss_change=0.25 + g,
            change_by_weights=None if g == 1 else 0.5 + g,
            change_by_buffers=12.0,
            excess_gap=0.01 * g,
            gradient_norm=1.5 + g,
            largest_eigenvalue=20.0 + g,
            smallest_eigenvalue=-3.0,
            residual=0.125,
            iterations=8,
            converged=g != 2,
            bound_gradient=3.0,
            bound_curvature=40.0,
            bound=43.0 + g,
            first_order=0.125,
            second_order=0.25 - g,
            margin_dense=4.0,
            margin_sparse=-1.0,
            closeness_dense=0.125,
            closeness_sparse=0.25,
        )
        for g, name in enumerate(names)
    ]
    groups.append(GroupExplanation("race", "empty", 0, 0))
    return Explanation(
        *("test", 300, 50, 42, 0.01, 100, 1000, 20.0, 2.0, True, tuple(groups)),
        features_of(groups, buffers_differ=True),
    )


def explained_by(explanation: Explanation) -> Explained:
    document = {"explanation": explanation_document(explanation)}
    return Explained(explanation, SUBJECT, document, Path("run/explanation.html"), "1.2.3")


def test_an_explanation_is_as_the_schema_says() -> None:
    plain = json.loads(json.dumps(explanation_document(why("a", "b", "c")), allow_nan=False))
    assert wrong(plain, SCHEMA["$defs"]["explanation"]) == []
    assert [group["change_by_weights"] for group in plain["groups"]] == [0.5, None, 2.5, None]
    for name in ("explanation", "explained_group", "explained_feature", "explained_correlation"):
        schema = SCHEMA["$defs"][name]
        assert sorted(schema["required"]) == sorted(schema["properties"])
    result = audited(("a", "b"), (5, 0), (100, 100)).result
    document = audit_document(result, SUBJECT, "1.2.3", 42, (), plain)
    assert wrong(document, SCHEMA) == []
    assert document["explanation"] == plain
    assert json.loads(render(SMALL, "json"))["explanation"] is None


def test_the_text_of_an_explanation() -> None:
    text = explanationformats.render(explained_by(why("a", "b", "c")), "text")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:6] == [
        "test: 300 images, at most 50 images a group, drawn by seed 42. From the dense to the "
        "sparse model 1000 weights move by ||d|| = 2, at a norm of 20 (10.0 % of theirs).",
        "group n loss change by weights by buffers 1st order 2nd order ||g|| lambda "
        "bound: gradient + curvature margin p(1-p) psi",
        "race=c 50 of 100 0.5 → 2.75 +2.25 +2.5 +12 +0.125 -1.75 3.5 22* 3 + 40 4 → -1 "
        "0.125 → 0.25 +2.0",
        "race=b 50 of 100 0.5 → 1.75 +1.25 – +12 +0.125 -0.75 2.5 21 3 + 40 4 → -1 "
        "0.125 → 0.25 +1.0",
        "race=a 50 of 100 0.5 → 0.75 +0.25 +0.5 +12 +0.125 +0.25 1.5 20 3 + 40 4 → -1 "
        "0.125 → 0.25 +0.0",
        "race=empty 0 – – – – – – – – – – – –",
    ]
    (head, first) = text.splitlines()[1:3]
    assert len(head) == len(first)  # columns are aligned
    assert (
        "*: not within the tolerance 0.01 after 100 Hessian-vector products (1 group); the "
        "largest eigenvalue may be larger (--max-iterations)."
    ) in lines
    start = lines.index("rank correlation with change of loss with change by weights with psi")
    assert lines[start + 1] == "gradient norm +1.00 (p 0.33) – +1.00 (p 0.33)"
    assert lines[start + 5] == "second order -1.00 (p 0.33) – -1.00 (p 0.33)"
    assert lines[start + 9] == "3 groups can show no correlation: even a perfect one has p 0.33"


HOSTILE = ("<b>x</b>", "a|b", "::error::x", "two\nlines", "\x1b[31m")


@pytest.mark.parametrize("name", EXPLAIN_FORMATS)
def test_names_in_an_explanation_are_text(name: str) -> None:
    text = explanationformats.render(explained_by(why(*HOSTILE)), name)
    assert text.endswith("\n")
    assert "\x1b" not in text
    if name != "json":
        assert "two\nlines" not in text
        assert not [line for line in text.splitlines() if re.match(r"\s*(::|##\[)", line)]
    if name in ("html", "markdown"):
        assert "<b>" not in text
    if name == "markdown":
        rows = cells_of(text)
        shown = [row[0] for row in rows if row[0].startswith("race=")]
        assert sorted(shown) == sorted(f"race={printable(h)}" for h in (*HOSTILE, "empty"))
        assert {len(row) for row in rows} == {14, 4}  # groups, correlations


@pytest.mark.parametrize("name", AUDIT_FORMATS)
def test_an_audit_with_an_explanation_in_every_format(name: str) -> None:
    plain = audited(("a", "b"), (5, 0), (100, 100))
    with_it = dataclasses.replace(plain, explanation=why(*HOSTILE))
    text = render(with_it, name)
    if name in ("text", "markdown"):
        assert "why (ceag explain)" in text
        assert "grows most in race=" in text
    elif name == "html":
        assert "Why: gradients, curvature and margins on test (described only)" in text
        assert "<b>x" not in text
    else:
        assert text == render(plain, name)


# Markdown


def cells_of(text: str) -> list[list[str]]:
    """The cells of all tables of a Markdown text, as they are shown."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(text)
    rows: list[list[str]] = []
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            inside = tokens[i + 1].children or []
            assert {child.type for child in inside} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in inside))
    return rows


def test_the_markdown() -> None:
    text = render(SMALL, "markdown")
    lines = text.splitlines()
    assert lines[:8] == [
        "## ceag audit: FAIL",
        "",
        "FAIL: psi &#62; eps is shown for at least one group (split test, eps 2 points; largest "
        "psi +7.0, race=Asian, other).",
        "",
        "- psi is shown to be above eps: race=Black",
        "- --max-drop on test: +8.0 (+7.1 to +8.9), at most 10: PASS",
        "- warning: too few images to pass at this eps even if no answer had changed: "
        "race==1&#124;2",
        "",
    ]
    rows = cells_of(text)
    assert rows[:6] == [
        ["verdict", "groups"],
        ["FAIL", "1"],
        ["WAIVED", "1"],
        ["INCONCLUSIVE", "1"],
        ["PASS", "1"],
        ["NO_DATA", "1"],
    ]
    assert rows[6] == [
        *("group", "n", "lost", "gained", "dense %", "sparse %", "gap", "psi", "bounds"),
        *("verdict", "why"),
    ]
    assert rows[7] == [
        *("race=Black", "1000", "120", "0", "100.0", "88.0", "+12.0", "+4.0", "+2.9 to +5.2"),
        *("FAIL", ""),
    ]
    assert rows[10][0] == "race==1|2"
    assert (
        rows[10][-1] == "too few images to pass even if no answer had changed; needs 5 more images"
    )
    assert "<details><summary>All 5 groups of train</summary>" in text
    assert "All 5 groups of test" not in text  # nothing is hidden that is not above


def test_the_markdown_shows_the_worst_and_folds_the_rest() -> None:
    text = render(MANY[100], "markdown")
    assert "The worst 20 of 100 groups" in text
    assert "<details><summary>All 100 groups of test</summary>" in text
    assert text.count("| race=group number ") == 20 + 100 + 100
    assert "Cut here" not in text


def test_the_markdown_stays_below_the_limit_of_github() -> None:
    text = render(MANY[5000], "markdown")
    assert len(text.encode()) < 1024 * 1024
    shown = [len(re.findall(r"^\| race=", part, re.MULTILINE)) for part in text.split("<details>")]
    cut = [int(number) for number in re.findall(r"Cut here: .* (\d+) more groups", text)]
    assert cut
    assert sum(shown[1:]) + sum(cut) == 2 * 5000
    assert text.count("<details>") == text.count("</details>") == 2
    assert MANY[100].result.groups[0].value in render(MANY[100], "markdown")


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(NAMES)
def test_names_in_markdown_are_text(name: str) -> None:
    text = f"| a | b |\n| --- | --- |\n| x{escaped(name)}x | y |\n"
    (_, row) = cells_of(text)
    assert row == [f"x{printable(name)}x", "y"]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "a|b",
        "a\\|b",
        "**bold** _it_ ~~no~~",
        "[x](y) ![z](w)",
        "`code` ``` ~~~",
        "@octocat #1",
        "https://example.com",
        "www.example.com",
        ":smile:",
        "&lt;b&gt;",
        "two\nlines\r\n| three |",
        "$x$",
    ],
)
def test_markup_in_names_is_text(name: str) -> None:
    raw = render(audited((name, "b"), (0, 0), (10, 10), seed=None), "markdown")
    assert ["race=" + printable(name) in row for row in cells_of(raw)].count(True) == 1
    for active in ("<script", "@octocat", "#1 ", "://", "www.", ":smile:", "`", "$x"):
        assert active not in raw


# GitHub annotations


def commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Commands as the runner of GitHub reads them."""

    def plain(value: str) -> str:
        for code, char in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
            value = value.replace(code, char)
        return value.replace("%25", "%")

    read = []
    for line in text.splitlines():
        match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line)
        assert match is not None, line
        properties = dict(part.split("=", 1) for part in match[2].split(","))
        read.append((match[1], {k: plain(v) for k, v in properties.items()}, plain(match[3])))
    return read


def test_the_annotations() -> None:
    read = commands(render(SMALL, "github"))
    assert read[0] == (
        "error",
        {"file": "labels.csv", "title": "ceag audit: FAIL"},
        "FAIL: psi > eps is shown for at least one group (split test, eps 2 points; largest psi "
        "+7.0, race=Asian, other).\npsi is shown to be above eps: race=Black",
    )
    assert [(kind, properties["title"], text) for kind, properties, text in read[1:]] == [
        (
            "error",
            "ceag audit: more than eps",
            "race=Black: psi +4.0 points (+2.9 to +5.2), eps 2, 1000 images",
        ),
        (
            "warning",
            "ceag audit: 1 group not decided",
            "race==1|2: psi -8.0 points (-19.8 to +3.9), eps 2, 20 images; too few images to pass "
            "even if no answer had changed; needs 5 more images",
        ),
        ("warning", "ceag audit: groups without images", "race=none"),
        (
            "warning",
            "ceag audit",
            "too few images to pass at this eps even if no answer had changed: race==1|2",
        ),
        (
            "notice",
            "ceag audit: waived",
            "race=Asian, other: psi +7.0 points (+4.2 to +10.3), eps 2, 300 images; known; new "
            "data are on their way",
        ),
    ]


def test_a_pass_is_a_notice_and_an_open_audit_that_fails_the_job_an_error() -> None:
    good = commands(render(audited("ab", (1, 1), (900, 900)), "github"))
    assert [kind for kind, _, _ in good] == ["notice"]
    policy = Policy(eps=0.02, gate="strict")
    open_ = commands(render(audited("abc", (1, 1, 0), (900, 900, 9), policy), "github"))
    assert [kind for kind, _, _ in open_] == ["error", "warning", "warning"]
    assert open_[0][1]["title"] == "ceag audit: INCONCLUSIVE"


def test_github_is_given_no_more_than_it_shows() -> None:
    names = tuple(f"g{i}" for i in range(200))
    lost = tuple(90 if i < 40 else 0 for i in range(200))
    audit_of_many = audited(names, lost, (200,) * 200, Policy(eps=0.02))
    read = commands(render(audit_of_many, "github"))
    kinds = [kind for kind, _, _ in read]
    assert kinds.count("error") == 10
    assert [text for kind, _, text in read if kind == "error"][-1] == (
        "and 32 more; the other reports have all of them"
    )
    assert all(kinds.count(kind) <= 10 for kind in kinds)


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_a_name_makes_no_command_of_its_own(name: str) -> None:
    name = "a" + name
    text = render(audited((name, "b"), (90, 0), (200, 200), seed=None), "github")
    read = commands(text)
    assert text.isascii() or text
    assert f"race={printable(name)}: psi +22.5 points" in read[1][2]


def test_annotations_point_into_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    inside = dataclasses.replace(SUBJECT, groups=str(tmp_path / "deep" / "a,b.csv"))
    outside = dataclasses.replace(SUBJECT, groups="/elsewhere/labels.csv")
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    for subject, expected in ((inside, "a,b.csv"), (outside, "/elsewhere/labels.csv")):
        read = commands(render(found(SMALL.result, subject), "github"))
        assert {properties["file"] for _, properties, _ in read} == {expected}
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    read = commands(render(SMALL, "github"))
    assert {properties["file"] for _, properties, _ in read} == {"deep/labels.csv"}


# JUnit


def test_the_junit_report() -> None:
    text = render(SMALL, "junit")
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="ceag audit"')
    root = ElementTree.fromstring(text)
    totals = {"name": "ceag audit", "tests": "7", "failures": "2", "errors": "0", "skipped": "3"}
    assert root.attrib == totals
    overall, race = root
    assert (overall.get("name"), race.get("name")) == ("audit", "test: race")
    assert [case.get("name") for case in overall] == ["verdict", "test: max_drop"]
    assert [(case.get("classname"), case.get("name")) for case in race] == [
        ("race", "Black"),
        ("race", "Asian, other"),
        ("race", "White"),
        ("race", "=1|2"),
        ("race", "none"),
    ]
    outcomes = [[(part.tag, part.get("message")) for part in case][1:] for case in race]
    assert outcomes == [
        [("failure", "FAIL")],
        [("skipped", "WAIVED: known; new data are on their way")],
        [],
        [
            (
                "skipped",
                "INCONCLUSIVE: too few images to pass even if no answer had changed; needs 5 more "
                "images",
            )
        ],
        [("skipped", "NO_DATA")],
    ]
    failure = race[0].find("failure")
    assert failure is not None
    assert failure.text == "psi is +4.0 points (+2.9 to +5.2), eps 2, 1000 images"
    numbers = {p.get("name"): p.get("value") for p in race[0].iter("property")}
    (black,) = (g for g in SMALL.result.groups if g.split == "test" and g.value == "Black")
    assert numbers["n"] == "1000"
    assert float(numbers["excess_gap"] or 0) == black.excess_gap
    assert float(numbers["upper"] or 0) == black.upper


@pytest.mark.parametrize("name", RESULTS)
def test_the_junit_report_is_red_exactly_when_the_job_is(name: str) -> None:
    root = ElementTree.fromstring(render(RESULTS[name], "junit"))
    failures = len(root.findall(".//failure"))
    assert (failures > 0) == (RESULTS[name].result.exit_code != 0)
    assert root.get("failures") == str(failures)
    assert root.get("skipped") == str(len(root.findall(".//skipped")))
    assert root.get("tests") == str(len(root.findall(".//testcase")))
    for suite in root:
        assert suite.get("tests") == str(len(suite))


def test_under_strict_what_is_open_is_a_failure() -> None:
    policy = Policy(eps=0.02, gate="strict")
    root = ElementTree.fromstring(render(audited("abc", (0, 0, 0), (900, 900, 9), policy), "junit"))
    failed = [
        case.get("name") for case in root.iter("testcase") if case.find("failure") is not None
    ]
    assert failed == ["verdict", "c"]


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_names_come_back_from_xml(name: str) -> None:
    root = ElementTree.fromstring(
        render(audited((name, "b"), (0, 0), (10, 10), seed=None), "junit")
    )
    names = [case.get("name") for case in root[1]]
    assert sorted(map(str, names)) == sorted([printable(name), "b"])


# CSV


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_csv() -> None:
    text = render(SMALL, "csv")
    lines = text.splitlines()
    assert lines[0] == (
        "split,feature,value,n,n_effective,lost,gained,lateral,acc_dense,acc_sparse,gap,"
        "excess_gap,gap_vs_rest,eps,lower,upper,p_fail,p_fail_holm,verdict,reason,n_needed,grows,required"
    )
    assert lines[5] == "train,race,none,0,,0,0,,,,,,,0.02,,,,,DESCRIPTIVE,,,,false"
    rows = rows_of(text)
    assert len(rows) == len(SMALL.result.groups) == 10
    for row, group in zip(rows, SMALL.result.groups, strict=True):
        assert row["n"] == str(group.n)
        assert row["verdict"] == group.verdict
        assert row["excess_gap"] == ("" if group.excess_gap is None else repr(group.excess_gap))
        assert row["value"] == cell(group.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=SUM(A1)", "'=SUM(A1)"),
        ("@x", "'@x"),
        ("+cmd", "'+cmd"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("\t=1", "�=1"),
        ("  =1", "'  =1"),
        ("a;=1", "a;'=1"),
        ("a; @x;b", "a;' @x;b"),
        ("\x1b[31mred", "�[31mred"),
        ("two\nlines", "two�lines"),
        ("＝1+1", "'＝1+1"),
        ("'quoted", "''quoted"),
        ("-1", "-1"),
        ("+1", "+1"),
        ("-0.5", "-0.5"),
        ("-1+1", "'-1+1"),
        ("a=b", "a=b"),
        ("", ""),
        (None, ""),
        (True, "true"),
        (0.1, 0.1),
    ],
)
def test_a_spreadsheet_runs_nothing(value: Any, expected: Any) -> None:
    assert cell(value) == expected


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_names_come_back_from_csv_and_json(name: str) -> None:
    result = audited((name, "b"), (0, 0), (10, 10), seed=None)
    row = rows_of(render(result, "csv"))[0]
    back = row["value"][1:] if row["value"].startswith("'") else row["value"]
    assert back.replace(";'", ";") == printable(name).replace(";'", ";")
    assert json.loads(render(result, "json"))["groups"][0]["value"] == name


# Files


def test_reports_are_written(tmp_path: Path) -> None:
    reports = [f"{name}={tmp_path}/new/x.{name}" for name in AUDIT_FORMATS]
    files = report_files(reports, tmp_path / "run")
    write_reports(SMALL, files, render)
    for name in AUDIT_FORMATS:
        written = (tmp_path / "new" / f"x.{name}").read_bytes()
        assert written == render(SMALL, name).encode()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "audit.html",
        "audit.json",
    ]
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


def test_a_report_may_be_one_of_the_run_folder(tmp_path: Path) -> None:
    assert len(report_files([f"json={tmp_path}/audit.json"], tmp_path)) == 2


def test_what_cannot_be_written_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "labels.csv").touch()
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    listening.bind("socket")
    listening.close()
    reports = [
        f"json={tmp_path}/file/x.json",
        f"csv={tmp_path}/folder",
        f"csv={tmp_path}/labels.csv",
        f"csv={tmp_path}/audit.json",
        f"junit={tmp_path}/socket",
        f"html={tmp_path}/new/",
        "json=/proc/x.json",
        "json=/proc/new/x.json",
        f"csv={tmp_path}/{'x' * 245}.csv",
        "csv=/dev/fd/987",
    ]
    with pytest.raises(OutputError) as error:
        report_files(reports, tmp_path, [tmp_path / "labels.csv"])
    assert [problem.removeprefix(f"{tmp_path}/") for problem in error.value.problems] == [
        f"file/x.json: cannot be written: {tmp_path}/file is not a folder",
        "folder: cannot be written: there is a folder or a device of this name",
        "labels.csv: is read by this audit and is not written over",
        "audit.json: cannot hold both json and csv",
        "socket: cannot be written: there is a folder or a device of this name",
        "new/: names a folder; name a file in it",
        "/proc/x.json: cannot be written: no file can be made in /proc (No such file or directory)",
        "/proc/new/x.json: cannot be written: no file can be made in /proc (No such file or "
        "directory)",
        f"{'x' * 245}.csv: cannot be written: no file can be made in {tmp_path} (File name too "
        "long)",
        "/dev/fd/987: cannot be written: number 987 is not open for writing",
    ]
    assert not (tmp_path / "new").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["ceag.yaml", "pyproject.toml", "answers.npz", "0.png"])
def test_a_report_is_not_written_over_what_is_no_report(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="is there already and is no report"):
        report_files([f"json={tmp_path / name}"])
    (tmp_path / name).unlink()
    assert list(report_files([f"json={tmp_path / name}"]).values()) == ["json"]


def test_a_report_that_fails_leaves_the_others_and_the_result(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    files = {tmp_path / "there" / "x.csv": "csv", tmp_path / "y.csv": "csv"}
    with pytest.raises(NotWritten) as error:
        write_reports(SMALL, files, render)
    assert error.value.found is SMALL
    assert len(error.value.problems) == 1
    assert (tmp_path / "y.csv").is_file()


@pytest.mark.parametrize("value", ["json", "=x", "json=", "xml=x", ""])
def test_a_report_is_a_format_and_a_file(value: str) -> None:
    with pytest.raises(OptionError, match="--report: "):
        AuditOptions(report=(value,))


# The command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of answers: group a loses 60 of 200, b nothing."""
    lines = ["id,label,split,race,dense,sparse"]
    for split in ("train", "test"):
        for i in range(400):
            lost = i < 60
            lines.append(f"{split}{i},cat,{split},{'ab'[i // 200]},cat,{'dog' if lost else 'cat'}")
    (tmp_path / "answers.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ceag(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["audit", "--predictions", "answers.csv", *arguments])


@pytest.mark.parametrize("name", AUDIT_FORMATS)
def test_stdout_and_file_are_the_same(here: Path, name: str) -> None:
    result = ceag("--format", name, "--report", f"{name}=out.{name}")
    assert result.exit_code == 1
    assert result.stdout_bytes == Path(f"out.{name}").read_bytes()
    assert result.stdout.endswith("\n")


def test_reports_are_written_on_every_verdict(here: Path) -> None:
    for arguments, code in (
        (("--eps", "0.5"), 0),
        ((), 1),
        (("--eps", "0.15", "--gate", "strict", "--alpha", "0.0001"), 3),
    ):
        result = ceag(*arguments, "--report", f"json={code}.json", "--report", f"csv={code}.csv")
        assert result.exit_code == code, result.output
        document = json.loads(Path(f"{code}.json").read_text())
        assert document["overall"]["exit_code"] == code
        assert wrong(document, SCHEMA) == []
        assert Path(f"{code}.csv").is_file()


def test_file_names_may_have_commas_and_recipes_have_lists(here: Path) -> None:
    assert ceag("--report", "csv=a,b.csv").exit_code == 1
    assert Path("a,b.csv").is_file()
    Path("ceag.yaml").write_text("audit: {report: [csv=c.csv, 'json=d,e.json']}\n")
    assert ceag().exit_code == 1
    assert Path("c.csv").is_file()
    assert Path("d,e.json").is_file()


def test_a_report_that_cannot_be_written_is_said_before_anything_else(here: Path) -> None:
    result = ceag("--report", "csv=answers.csv/x.csv", "--report", "csv=answers.csv")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "answers.csv/x.csv: cannot be written" in result.stderr
    assert Path("answers.csv").read_text().startswith("id,label")


def test_a_report_that_fails_late_leaves_the_verdict(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, text: str) -> None:
        if path.suffix == ".csv":
            raise OutputError(f"{path.name}: cannot be written: No space left on device")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    monkeypatch.setattr(reportfiles, "write_text", write)
    result = ceag("--report", "csv=x.csv", "--report", "junit=x.xml")
    assert result.exit_code == 2
    assert "\nFAIL: " in result.stdout
    assert result.stderr.endswith("error: x.csv: cannot be written: No space left on device\n")
    assert Path("x.xml").is_file()


def run_in_shell(command: str) -> str:
    """The stdout of a line of bash in which ``audit`` audits the table."""
    python = f"{shlex.quote(sys.executable)} -m ceag_cli"
    audit = f"audit() {{ {python} audit --predictions answers.csv $@ 2> stderr.txt; }}"
    result = subprocess.run(
        ["bash", "-c", f"{audit}\n{command}"], capture_output=True, text=True, check=True
    )
    return result.stdout


@pytest.mark.parametrize(
    "command",
    [
        "audit --report csv=/dev/stdout --report html=/dev/null || true",
        "audit --report csv=/dev/stdout > out.txt || true; cat out.txt",
        "audit --report csv=/dev/stderr || true; grep -A9 ^split stderr.txt",
        "audit --report csv=/dev/fd/3 3> out.txt || true; cat out.txt",
        "audit --report csv=>(cat > out.txt) || true; sleep 1; cat out.txt",
        "mkfifo pipe; cat pipe > out.txt & audit --report csv=pipe || true; wait; cat out.txt",
    ],
)
def test_a_report_can_go_to_a_stream(here: Path, command: str) -> None:
    assert ceag("--report", "csv=file.csv").exit_code == 1
    assert Path("file.csv").read_text() in run_in_shell(command)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("audit --gate strict", 1, ""),
        ("audit --format html | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 1, ""),
        ("audit >&-", 1, ""),
        ("audit >/dev/full", 2, "error: stdout: cannot be written: No space left on device"),
    ],
)
def test_a_stdout_that_takes_nothing_is_no_defect(
    here: Path, command: str, code: int, words: str
) -> None:
    run_in_shell(f"(set +e; {command}); echo $? > code.txt")
    assert Path("code.txt").read_text() == f"{code}\n"
    stderr = Path("stderr.txt").read_text()
    assert "Traceback" not in stderr
    assert words in stderr


def test_a_folder_of_reports_is_no_file(here: Path) -> None:
    result = ceag("-o", "audit.html")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: -o audit.html: names the folder of the audit; for a file say --report "
        "html=audit.html\n"
    )
    assert "no file can be made in /proc" in ceag("-o", "/proc/new").stderr


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == SCHEMA


def test_a_plan_has_two_formats_only(here: Path) -> None:
    result = ceag("--plan", "--format", "junit")
    assert result.exit_code == 2
    assert "--format: 'junit' is not one of text, json" in result.stderr
