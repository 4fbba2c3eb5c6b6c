from __future__ import annotations

import dataclasses
import datetime
import re
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import SUBJECT as PRUNED
from toys import measured

from ceag_cli.audit import audit
from ceag_cli.clauses import Waiver
from ceag_cli.findings import AuditResult
from ceag_cli.groupplots import DRAWN, EDGE, LABELS, NUMBERS, SIDE, WIDTH, plot, scatter
from ceag_cli.groups import Grouping
from ceag_cli.page import page
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy
from ceag_cli.report import CAVEAT
from ceag_cli.results import Flip

SUBJECT = dataclasses.replace(PRUNED, method="ceag")

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open and data.strip():
            self.text.append(data.strip())

    def all(self, tag: str, name: str | None = None) -> list[dict[str, str]]:
        """Attributes of the elements of a tag, and of a class."""
        return [
            attributes
            for found, attributes in self.elements
            if found == tag and (name is None or name in attributes.get("class", "").split())
        ]


def marks(reader: Reader) -> list[dict[str, str]]:
    """The marks of groups; those of the legend are all at one place."""
    found = reader.all("path", "mark")
    return [mark for mark in found if not mark["d"].startswith("M8 8m")]


def place(mark: dict[str, str]) -> tuple[float, float]:
    """Where a mark is."""
    x, y = mark["d"].removeprefix("M").split("m")[0].split()
    return float(x), float(y)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def audited(
    names: tuple[str, ...] = ("a", "b"),
    lost: tuple[int, ...] = (10, 0),
    eps: float = 0.02,
    split: str = "test",
    feature: str = "letter",
) -> AuditResult:
    """Groups of 100 images each, all of them right in the dense model, ``lost`` in the sparse.

    Names beyond ``lost`` are of groups without images.
    """
    ids = torch.arange(len(lost)).repeat_interleave(100)
    sparse = torch.arange(100).repeat(len(lost)) >= torch.tensor(lost).repeat_interleave(100)
    pair = Paired(split, torch.ones_like(sparse), sparse, ids[:, None])
    return measured([pair], Grouping((feature,), (names,)), eps)


CASES = {
    "FAIL": audited(),
    "PASS": audited(lost=(2, 0)),
    "NO_DATA": audited(names=("a",), lost=(10,)),
}


@pytest.mark.parametrize("verdict", CASES)
def test_a_page_of_each_verdict(verdict: str) -> None:
    html = page(CASES[verdict], SUBJECT, "1.2.3")
    reader = read(html)
    assert html.startswith("<!doctype html>")
    assert f"ceag audit: {verdict}" in reader.text  # the title
    (box,) = reader.all("div", "verdict")
    assert box["class"].split() == ["verdict", verdict]
    headings = [text for text in reader.text if text.startswith(f"{verdict}: ")]
    assert len(headings) == 1
    assert any(text.endswith(CAVEAT) for text in reader.text)
    assert "Written by ceag 1.2.3." in " ".join(reader.text)


def test_what_was_audited_is_named() -> None:
    text = " ".join(read(page(CASES["FAIL"], SUBJECT, "1")).text)
    for value in (
        "model.safetensors (sha256 dddddddddddd…)",
        "model.pruned.safetensors (sha256 eeeeeeeeeeee…)",
        "resnet18, 90.0 % of the prunable weights removed, fine-tuned by CEAG",
        "labels.csv by letter, label label (sha256 ffffffffffff…)",
    ):
        assert value in text


def test_a_subject_that_says_little() -> None:
    subject = dataclasses.replace(SUBJECT, sparsity=None, method=None)
    text = " ".join(read(page(CASES["FAIL"], subject, "1")).text)
    assert "removed" not in text
    assert "fine-tuned" not in text
    assert "None" not in text


def test_where_the_answers_come_from_and_which_of_them_count() -> None:
    subject = dataclasses.replace(
        SUBJECT,
        predictions="answers <1>.csv",
        predictions_sha256="a" * 64,
        dropped=7,
        cluster_id="person",
    )
    text = " | ".join(read(page(CASES["FAIL"], subject, "1")).text)
    assert "answers | answers <1>.csv | (sha256 aaaaaaaaaaaa…)" in text
    assert "left out | 7 images that have no group" in text
    assert "clusters | images of the same person belong together and count as fewer" in text
    ids = torch.arange(2).repeat_interleave(100)
    sparse = torch.arange(100).repeat(2) >= torch.tensor([40, 0]).repeat_interleave(100)
    people = torch.arange(200) // 4
    pair = Paired("test", torch.ones_like(sparse), sparse, ids[:, None], clusters=people)
    result = audit([pair], Grouping(("letter",), (("a", "b"),)), Policy(eps=0.02))
    cells = read(page(result, subject, "1")).text
    at = cells.index("letter=a")
    effective = next(g.n_effective for g in result.groups if g.value == "a")
    assert effective is not None
    assert effective < 100
    assert cells[at : at + 4] == ["letter=a", "100", f"{effective:.1f}", "40"]


def test_every_group_is_in_the_table_and_in_the_plot() -> None:
    reader = read(page(audited(("a", "b", "c"), (6, 9, 0), eps=0.02), SUBJECT, "1"))
    # psi: a 6 - 5 = 1, b 9 - 5 = 4, c 0 - 5 = -5; worst first. Only b is beyond eps = 2.
    assert [row["class"] for row in reader.all("tr", None)[1:]] == ["FAIL", "PASS", "PASS"]
    dots = marks(reader)
    assert [dot["class"] for dot in dots] == ["mark FAIL", "mark PASS", "mark PASS"]
    xs = [place(dot)[0] for dot in dots]
    assert xs == sorted(xs, reverse=True)
    assert dots[0]["d"].split("m")[1] != dots[1]["d"].split("m")[1]  # told apart without colour
    (zero,), (eps,) = reader.all("line", "zero"), reader.all("line", "eps")
    assert xs[2] < float(zero["x1"]) < xs[1] < float(eps["x1"]) < xs[0]
    bars = [
        re.fullmatch(r"M([\d.]+) ([\d.]+)H([\d.]+)", bar["d"]) for bar in reader.all("path", "bar")
    ]
    assert len(bars) == 3
    for bar, dot in zip(bars, dots, strict=True):
        assert bar is not None
        assert float(bar[1]) < place(dot)[0] < float(bar[3])
        assert float(bar[2]) == place(dot)[1]
    for cell in ("letter=b", "100", "9", "+9.0", "+4.0", "FAIL"):
        assert cell in reader.text


def test_a_group_without_images_has_a_row_and_no_dot() -> None:
    reader = read(page(audited(("a", "b", "c"), (10, 0)), SUBJECT, "1"))
    assert len(marks(reader)) == 2
    assert len(reader.all("tr", "NO_DATA")) == 1
    at = reader.text.index("letter=c")
    assert reader.text[at : at + 11] == ["letter=c", *"000", *"––––––", "NO_DATA"]
    assert "None" not in " ".join(reader.text)


def test_without_any_images_in_a_split_there_is_no_plot() -> None:
    result = audited()
    nothing = dataclasses.replace(
        result,
        verdict="NO_DATA",
        groups=tuple(
            dataclasses.replace(group, n=0, excess_gap=None, verdict="NO_DATA")
            for group in result.groups
        ),
        splits=(
            dataclasses.replace(
                result.splits[0], max_excess_gap=None, worst_group=None, pairwise_disparity=None
            ),
        ),
    )
    reader = read(page(nothing, SUBJECT, "1"))
    assert reader.all("svg") == []
    assert len(reader.all("tr", "NO_DATA")) == 2


def test_the_gated_split_comes_first() -> None:
    grouping = Grouping(("letter",), (("a", "b"),))
    flags = torch.tensor([True, True])
    groups = torch.tensor([[0], [1]])
    pairs = [Paired(name, flags, flags, groups) for name in ("train", "test")]
    reader = read(page(measured(pairs, grouping, 0.02), SUBJECT, "1"))
    headings = [text for text in reader.text if text.split(" ")[0] in ("train", "test")]
    assert headings[0] == "test"
    assert any(text.startswith("train (described only") for text in headings)
    assert len(reader.all("svg", "plot")) == len(reader.all("table")) == 2


HOSTILE = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt; & <b>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_the_csv_stay_text(name: str) -> None:
    plain = read(page(audited(), SUBJECT, "1"))
    subject = dataclasses.replace(
        SUBJECT, groups=name, groups_by=name, label_column=name, dense=name, architecture=name
    )
    html = page(audited((name, "b"), feature=name), subject, "1")
    reader = read(html)
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in plain.elements]
    assert [set(attributes) for _, attributes in reader.elements] == [
        set(attributes) for _, attributes in plain.elements
    ]
    assert reader.scripts == plain.scripts
    assert f"{name}={name}" in reader.text  # the cell of the table, to the letter
    assert any(f"{name}={name}: psi +5.0" in text for text in reader.text)  # the mark's title


@pytest.mark.parametrize("verdict", CASES)
def test_nothing_is_loaded_from_anywhere(verdict: str) -> None:
    html = page(CASES[verdict], SUBJECT, "1")
    assert re.findall(r"(?i)https?:|//[a-z]|url\(|@import|<link|<iframe|<img|fetch\(", html) == []
    loading = {"src", "href", "srcset", "data", "action", "xlink:href", "background", "poster"}
    for tag, attributes in read(html).elements:
        assert not loading & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag


def test_the_psi_shown_has_enough_digits_to_see_the_verdict() -> None:
    # a 401 of 10000 lost, b none: psi 2.005, which is more than 2.
    ids = torch.arange(2).repeat_interleave(10_000)
    sparse = torch.arange(20_000) >= 401
    pair = Paired("test", torch.ones_like(sparse), sparse, ids[:, None])
    result = measured([pair], Grouping(("letter",), (("a", "b"),)), 0.02)
    text = read(page(result, SUBJECT, "1")).text
    assert "+2.005" in text or "+2.01" in text


def test_eps_is_not_rounded() -> None:
    text = " ".join(read(page(audited(eps=0.0206), SUBJECT, "1")).text)
    assert re.findall(r"eps \+?([\d.]+) points", text) == ["2.06", "2.06"]  # headline and list


@pytest.mark.parametrize("count", [3, 60, 61, 300])
def test_the_worst_groups_are_drawn_and_all_are_in_the_table(count: int) -> None:
    names = tuple(f"{'long name ' * 8}{g}" for g in range(count))
    result = audited(names, tuple(g % 9 for g in range(count)))
    reader = read(page(result, SUBJECT, "1"))
    (svg,) = reader.all("svg", "plot")
    height = float(svg["viewbox"].split()[3])
    ys = [place(mark)[1] for mark in marks(reader)]
    assert len(ys) == len(set(ys)) == min(count, DRAWN)
    assert 0 < min(ys) < max(ys) < height
    # Names in the plot are cut to fit the column; the table has them whole, worst first.
    labels = [dot.name for dot in plot(result, "test").dots]
    assert max(map(len, labels)) <= 32
    cells = [text for text in reader.text if text.startswith("letter=long")]
    assert cells[-count:] == [f"letter={group.value}" for group in result.by_split("test")]
    said = [text for text in reader.text if "are drawn" in text]
    if count <= DRAWN:
        assert said == []
    else:
        assert said == [f"The worst {DRAWN} groups are drawn, {count - DRAWN} are not;"]
    assert bool(reader.all("input")) == (count > 12)


def test_five_thousand_groups_make_a_page_that_can_be_mailed() -> None:
    names = tuple(f"name of group {g:05}" for g in range(5000))
    pairs = []
    for split in ("train", "test"):
        ids = torch.arange(5000).repeat_interleave(20)
        sparse = torch.arange(100_000) % 7 > 0
        pairs.append(Paired(split, torch.ones_like(sparse), sparse, ids[:, None]))
    result = audit(pairs, Grouping(("letter",), (names,)), Policy(eps=0.02))
    html = page(result, SUBJECT, "1")
    assert len(html.encode()) < 4e6
    reader = read(html)
    assert len(reader.all("tr")) == 2 * 5001
    (others,) = reader.all("path", "others")
    assert others["d"].count("M") == 5000 - DRAWN


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.5, 1.0])
def test_any_eps_that_the_options_allow_can_be_drawn(eps: float) -> None:
    reader = read(page(audited(eps=eps), SUBJECT, "1"))
    assert len(reader.all("line", "eps")) == 1


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0]),
    st.sampled_from(["overall", "rest"]),
    st.sampled_from(["evidence", "point"]),
)
def test_everything_in_the_plots_lies_inside_them(
    lost: list[int], eps: float, against: str, gate: str
) -> None:
    names = tuple("abcdef"[: len(lost)])
    ids = torch.arange(len(lost)).repeat_interleave(100)
    sparse = torch.arange(100).repeat(len(lost)) >= torch.tensor(lost).repeat_interleave(100)
    pairs = [Paired(s, torch.ones_like(sparse), sparse, ids[:, None]) for s in ("train", "test")]
    policy = Policy(
        eps=eps, against=against, gate=gate, eps_by_group={("letter", "a"): min(1, 2 * eps)}
    )
    result = audit(pairs, Grouping(("letter",), (names,)), policy)
    drawn = plot(result, "test")
    eps_xs = [x for x, _, _ in drawn.eps]
    xs = [drawn.zero, *eps_xs, *(dot.x for dot in drawn.dots), *(x for x, _ in drawn.ticks)]
    xs += [end for dot in drawn.dots for end in (dot.low, dot.high) if end is not None]
    assert min(xs) >= LABELS
    assert max(xs) <= WIDTH - NUMBERS
    assert all(drawn.zero <= x for x in eps_xs)
    assert "0" in [text for _, text in drawn.ticks]
    assert len(drawn.ticks) <= 14
    assert all(0 < dot.y < drawn.height for dot in drawn.dots)
    for dot in drawn.dots:
        if dot.low is not None and dot.high is not None:
            assert dot.low <= dot.x <= dot.high
    beside = scatter(result, "train", "test")
    if beside is not None:
        places = [beside.zero, beside.eps, *((dot.x, dot.y) for dot in beside.dots)]
        assert all(EDGE <= x <= SIDE and 0 <= y <= SIDE - EDGE for x, y in places)
        # Both splits are the same images here, so that every group lies on the diagonal.
        assert all(dot.x - EDGE == pytest.approx(SIDE - EDGE - dot.y) for dot in beside.dots)


def test_a_group_with_an_eps_of_its_own_has_its_own_line() -> None:
    ids = torch.arange(3).repeat_interleave(100)
    sparse = torch.arange(100).repeat(3) >= torch.tensor([9, 6, 0]).repeat_interleave(100)
    pair = Paired("test", torch.ones_like(sparse), sparse, ids[:, None])
    policy = Policy(eps=0.02, eps_by_group={("letter", "b"): 0.04}, gate="point")
    result = audit([pair], Grouping(("letter",), (("a", "b", "c"),)), policy)
    lines = plot(result, "test").eps
    assert [(y1, y2) for _, y1, y2 in lines] == [(4, 28), (24, 48), (44, 68)]
    assert lines[0][0] == lines[2][0] < lines[1][0]
    text = read(page(result, SUBJECT, "1")).text
    at = text.index("letter=b")
    assert text[at : at + 12][-2:] == ["4", "PASS"]


def test_a_bar_that_would_dwarf_the_others_is_cut_off() -> None:
    # a has one image, so that its bounds reach over everything.
    ids = torch.tensor([0] + [1] * 500 + [2] * 500)
    sparse = torch.arange(1001) % 50 > 0
    pair = Paired("test", torch.ones_like(sparse), sparse | (ids == 0), ids[:, None])
    result = audit([pair], Grouping(("letter",), (("a", "b", "c"),)), Policy(eps=0.02))
    drawn = {dot.name: dot for dot in plot(result, "test").dots}
    assert drawn["a"].cut == (False, True) or drawn["a"].cut == (True, True)
    assert drawn["b"].cut == drawn["c"].cut == (False, False)


def test_waivers_and_reasons_are_shown() -> None:
    ids = torch.arange(3).repeat_interleave(1000)
    sparse = torch.arange(1000).repeat(3) >= torch.tensor([300, 40, 0]).repeat_interleave(1000)
    pair = Paired("test", torch.ones_like(sparse), sparse, ids[:, None])
    day = datetime.date(2026, 12, 31)
    waivers = (
        Waiver(("letter", "a"), 0.5, "new <data> are on their way", day, "ml team"),
        Waiver(("letter", "b"), 0.5, "once", day),
    )
    policy = Policy(eps=0.02, waivers=waivers, max_drop=0.01)
    grouping = Grouping(("letter",), (("a", "b", "c"),))
    result = audit([pair], grouping, policy, today=datetime.date(2026, 1, 1))
    reader = read(page(result, SUBJECT, "1"))
    text = " | ".join(reader.text)
    assert "letter=a | 50 | 2026-12-31 | new <data> are on their way | ml team | in force" in text
    assert "letter=b | 50 | 2026-12-31 | once | not needed" in text
    assert "--max-drop on test: +11.3 (+10.4 to +12.3), at most 1: FAIL" in text
    assert reader.all("tr", "WAIVED")


def test_the_legend_says_where_other_groups_are_why_one_is_not_decided() -> None:
    """Six of 80 lost, beside 1520 of which none is: not after correcting for 20 groups."""
    ids = torch.arange(20).repeat_interleave(80)
    sparse = torch.arange(1600) >= 6
    pair = Paired("test", torch.ones_like(sparse), sparse, ids[:, None])
    grouping = Grouping(("letter",), (tuple("abcdefghijklmnopqrst"),))
    text = " | ".join(read(page(audit([pair], grouping, Policy()), SUBJECT, "1")).text)
    assert "not shown to be, or only by itself and not after correcting for 20 groups. " in text
    text = " | ".join(read(page(audit([pair], grouping, Policy(eps=0.06)), SUBJECT, "1")).text)
    assert "High: psi is above eps, but not shown to be. " in text


def test_lost_images_are_shown_by_group() -> None:
    dot = "data:image/png;base64,iVBORw0KGgo="
    flips = [
        Flip("test", "letter=a", "x/1.png", "cat", "cat", "<dog>", dot),
        Flip("test", "letter=b", "x/2.png", "cat", "cat", "owl", dot),
        Flip("test", "letter=a", "x/3.png", "cat", "cat", "owl", dot),
    ]
    reader = read(page(CASES["FAIL"], SUBJECT, "1", flips=flips))
    images = reader.all("img")
    assert [image["title"] for image in images] == ["x/1.png", "x/3.png", "x/2.png"]
    assert all(image["src"] == dot and image["alt"] for image in images)
    assert "<dog>" in reader.text
    assert read(page(CASES["FAIL"], SUBJECT, "1")).all("img") == []


@pytest.mark.parametrize("name", ["שחור ולבן", "عربي (مصر)", "فارسی\u200cزبان", "👩🏽\u200d🦱"])
def test_names_of_any_script_stay_whole_and_by_themselves(name: str) -> None:
    html = page(audited((name, "b")), SUBJECT, "1")
    assert f'<th scope="row"><bdi>letter={name}</bdi></th>' in html


def test_tables_can_be_read_by_a_screen_reader() -> None:
    reader = read(page(CASES["FAIL"], SUBJECT, "1"))
    assert all(head.get("scope") in ("col", "row") for head in reader.all("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in reader.all("svg"))
    regions = reader.all("div", "scroll")
    assert all(region["role"] == "region" and region["aria-label"] for region in regions)
    assert reader.all("html")[0]["lang"] == "en"
    assert len(reader.all("main")) == len(reader.all("h1")) == 1
