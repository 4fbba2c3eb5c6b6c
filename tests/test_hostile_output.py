"""Names that would steer a terminal, a browser, a spreadsheet or a CI job, in every output."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import ceag

from ceag_cli.auditing import run_audit
from ceag_cli.auditoptions import AUDIT_FORMATS
from ceag_cli.inert import as_line, escaped_json, printable, shortened
from ceag_cli.options import AuditOptions
from ceag_cli.plaintext import console_of, print_audit
from ceag_cli.sweepdocument import as_csv
from ceag_cli.sweepfindings import Row

NAMES = (
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil.invalid\x07link\x1b]8;;\x07",
    "\x9b31m",
    "back\x08\x08\rspace",
    "two\nlines",
    "\u2028separated",
    "\u202eright-to-left",
    "\u2066isolated",
    "[red]markup[/red] :bomb:",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onclick='alert(1)",
    "<!--",
    "]]>",
    "&lt;",
    "{{ 7 * 7 }}",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(A1)",
    "a;=1+1",
    "::error::injected",
    "##[error]injected",
    "x ##vso[task.setvariable variable=a]b",
    "| pipe | `code` | **bold** |",
    "[link](http://evil.invalid)",
    "![image](http://evil.invalid/x.png)",
    "@everyone #1",
    "nul\0nul",
    "\ufffe\uffff",
    "\u00a0\u3000space",
    "e\u0301 עברית \u200f",
)


class Elements(HTMLParser):
    """The tags of a page, and all attributes that begin with ``on`` or name a place."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            local = (value or "").startswith(("data:image/", "#"))
            if name.startswith("on") or (name in ("src", "href", "action") and not local):
                self.active.append(f"{tag} {name}={value}")


def table_of(names: Sequence[str]) -> None:
    """Two images in each of the groups: the first is lost, and labels are such names, too."""
    n = 2 * len(names)
    rows = np.arange(n)
    columns: dict[str, Any] = {
        "id": np.array([f"image {i}" for i in rows]),
        "label": rows // 2,
        "label/names": np.array([name.encode() for name in names]),
        "split": np.array(["test"] * n),
        "dense": rows // 2,
        "dense/names": np.array([name.encode() for name in names]),
        "sparse": np.where(rows % 2, rows // 2, (rows // 2 + 1) % len(names)),
        "sparse/names": np.array([name.encode() for name in names]),
        "group": rows // 2,
        "group/names": np.array([name.encode() for name in names]),
    }
    np.savez("p.npz", **columns)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an audit prints and writes in each format, and what it says on stderr."""
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        table_of(NAMES)
        Path("ceag.yaml").write_text(
            'audit: {waivers: [{feature: group, value: "::error::injected", eps: 0.9, '
            'reason: "\\e[31m<b>why</b>\\u202e", owner: "=me", expires: 2100-01-01}]}'
        )
        found: dict[str, str] = {}
        reports = [f"--report={name}={name}.out" for name in AUDIT_FORMATS]
        result = ceag("audit", "--predictions", "p.npz", "--missing", "group", *reports)
        assert result.exit_code in (0, 1, 3), (result.output, result.exception)
        found |= {"stdout": result.stdout, "stderr": result.stderr}
        return found | {name: Path(f"{name}.out").read_bytes().decode() for name in AUDIT_FORMATS}


@pytest.mark.parametrize("name", ["stdout", "stderr", *AUDIT_FORMATS])
def test_nothing_steers_a_terminal(written: dict[str, str], name: str) -> None:
    strange = {c for c in written[name] if not c.isprintable()} - {"\n", "\r", "\u200f", "\u200e"}
    assert not strange
    assert "\r" not in written[name]


@pytest.mark.parametrize("name", ["stdout", "stderr", "text", "csv", "json", "markdown", "junit"])
def test_nothing_is_a_command_of_a_log(written: dict[str, str], name: str) -> None:
    lines = written[name].splitlines()
    assert not [line for line in lines if line.lstrip().startswith("::")]
    if name in ("stdout", "stderr", "text"):
        assert not re.search(r"##(\[|vso\[|teamcity\[)", written[name])


def test_annotations_are_the_only_commands_of_their_format(written: dict[str, str]) -> None:
    for line in written["github"].splitlines():
        assert re.match(r"::(error|warning|notice) (file=[^:]*,)?title=[^:]*::", line)


def test_the_page_has_no_element_of_a_name(written: dict[str, str]) -> None:
    page = Elements()
    page.feed(written["html"])
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert page.active == []


def test_the_xml_can_be_read(written: dict[str, str]) -> None:
    root = ElementTree.fromstring(written["junit"])
    cases = {case.get("name") for case in root.iter("testcase")}
    assert {printable(name.strip()) for name in NAMES} <= cases


def test_the_json_has_the_names_to_the_letter(written: dict[str, str]) -> None:
    document = json.loads(written["json"])
    assert {group["value"] for group in document["groups"]} == {name.strip() for name in NAMES}


def test_the_csv_has_a_row_for_each_group_and_no_formula(written: dict[str, str]) -> None:
    rows = list(csv.reader(io.StringIO(written["csv"])))
    assert len(rows) == 1 + len(NAMES)
    number = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?")
    for row in rows:
        for cell in row:
            for part in cell.split(";"):  # as a spreadsheet of other countries has it
                assert not re.match(r"\s*[=+@-]", part) or number.fullmatch(part)


def test_markdown_tables_have_a_row_for_each_group(written: dict[str, str]) -> None:
    for line in written["markdown"].splitlines():
        for active in ("<script", "<img", "](", "**", "@everyone", "`", "http:"):
            assert active not in line


def test_a_terminal_is_not_steered_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed to a terminal is drawn by rich, with colours that are its own."""
    monkeypatch.chdir(tmp_path)
    table_of(NAMES)
    console = console_of(file=io.StringIO(), force_terminal=True, width=150)
    print_audit(run_audit(AuditOptions(predictions="p.npz")), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "[red]markup[/red] :bomb:" in text
    assert "\x1b[31mred" not in text
    own = re.sub("\x1b\\[[0-9;]*m", "", text)  # colours and bold of rich
    assert not {c for c in own if not c.isprintable()} - {"\n", "\u200f", "\u200e"}


def test_what_is_wrong_with_a_command_line_is_inert() -> None:
    for arguments in (("\x1b[31m",), ("audit", "--\x1b[31m"), ("audit", "--eps", "\x1b]0;x\x07")):
        result = ceag(*arguments)
        assert result.exit_code == 2
        assert "\x1b" not in result.output


def test_the_results_of_a_sweep_run_nothing() -> None:
    values = dict.fromkeys(Row.__dataclass_fields__, 0.5)
    row = Row(**(values | {"task": "=cmd", "worst_group": "+a=\x1b[31m"}))  # type: ignore[arg-type]
    (found,) = csv.DictReader(io.StringIO(as_csv([row])))
    assert found["task"] == "'=cmd"
    assert found["worst_group"] == "'+a=\ufffd[31m"
    assert found["acc_dense"] == "0.5"


@given(st.text())
def test_a_line_is_one_line_that_is_shown(text: str) -> None:
    line = as_line(text)
    assert len(line.splitlines()) <= 1
    assert not line.lstrip().startswith("::")
    assert "##[" not in line
    line.encode()


@given(st.text(st.characters(codec="utf-8")))
def test_json_means_the_same_when_it_is_escaped(text: str) -> None:
    encoded = json.dumps({text: [text]}, ensure_ascii=False)
    escaped = escaped_json(encoded)
    assert json.loads(escaped) == {text: [text]}
    assert all(c.isprintable() or c in "\u200c\u200d\u200e\u200f" for c in escaped)


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    assert shortened("a" * 10, 10) == "a" * 10
    assert shortened("abcdefghijk", 4) == "ab ... (7 characters) ... jk"
