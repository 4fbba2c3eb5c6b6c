"""Quotes of a CSV that are out of place."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceag_cli import quotes
from ceag_cli.errors import LabelsError
from ceag_cli.labels import read_labels
from ceag_cli.predictions import read_answers
from ceag_cli.quotes import stray_quotes

REMEDY = "; remove it, or put the whole cell into quotes and write each quote in it twice"

HEADER = "path,label,split,group\n"
FINE = "a.png,cat,test,x\n"


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        # Lines 3 to 5 would be one row of four cells, and nobody would miss two images.
        (
            FINE + '"b.png,cat,test,x\n' + FINE + 'd.png",cat,test,x\n',
            {
                3: "cell 1 begins with a quote that is not closed in its line, and would take what "
                "follows into this cell",
                5: "cell 1, 'd.png\"', has a quote but does not begin with it",
            },
        ),
        (
            FINE + 'b.png,"cat,test,x\n',
            {
                3: "cell 2 begins with a quote that is not closed in its line, and would take what "
                "follows into this cell"
            },
        ),
        ('a.png,5" cat,test,x\n', {2: "cell 2, '5\" cat', has a quote but does not begin with it"}),
        ('a.png, "cat",test,x\n', {2: "cell 2, '\"cat\"', has a quote but does not begin with it"}),
        (
            'a.png,"cat"s,test,x\n',
            {2: "cell 2 goes on with 's' after the quote that closes it"},
        ),
        (
            '"a\nb.png",cat,test,x\n',
            {
                2: "cell 1 begins with a quote that is not closed in its line, and would take what "
                "follows into this cell",
                3: "cell 1, 'b.png\"', has a quote but does not begin with it",
            },
        ),
    ],
)
def test_what_is_out_of_place_is_named(tmp_path: Path, rows: str, problems: dict[int, str]) -> None:
    expected = {line: [text + REMEDY] for line, text in problems.items()}
    for end in ("\n", "\r\n", "\r"):
        content = (HEADER + rows).replace("\n", end).encode()
        assert stray_quotes(content) == expected
    with pytest.raises(LabelsError) as caught:
        read_labels(written(tmp_path, HEADER + rows))
    assert caught.value.problems == [
        f"{tmp_path / 'd.csv'} row {line}: {text}{REMEDY}" for line, text in problems.items()
    ]


def written(folder: Path, text: str, name: str = "d.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


ANSWERS = "id,label,split,group,dense,sparse\na,cat,test,x,cat,cat\n"


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t")])
def test_a_table_of_answers_is_refused_alike(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = '"b,cat,test,x,cat,dog\nc,cat,test,x,cat,dog\nd",cat,test,x,cat,cat\n'
    path = written(tmp_path, (ANSWERS + rows).replace(",", delimiter), name)
    with pytest.raises(LabelsError) as caught:
        read_answers(path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        f"{path} row 3",
        f"{path} row 5",
    ]


def test_quotes_in_their_place_are_read(tmp_path: Path) -> None:
    rows = '"b","say ""cat""",test,"x,y" ,cat,""""\n\n"","","","","",""\r\n'
    assert stray_quotes((ANSWERS + rows).encode()) == {}
    assert stray_quotes(('\ufeff"id"' + ANSWERS[2:]).encode()) == {}
    table = read_answers(written(tmp_path, ANSWERS + rows.split("\n")[0]))
    assert table.ids == ("a", "b")
    assert table.grouping.values == (("x", "x,y"),)
    assert table.classes == ('"', "cat", 'say "cat"')


def in_place(text: str, delimiter: str) -> bool:
    """Character by character. Quotes of a line are in place if each opens at the beginning of a
    cell, and nothing but spaces follows the one that closes it."""
    for line in io.StringIO(text, newline=""):
        state = "start"
        for c in [*line.rstrip("\r\n"), "end"]:
            ends = c in (delimiter, "end")
            if state == "inside":
                if c == "end":
                    return False
                state = "quote" if c == '"' else "inside"
            elif state == "quote" and c == '"':
                state = "inside"
            elif ends:
                state = "start"
            elif c == '"':
                if state != "start":
                    return False
                state = "inside"
            elif state in ("quote", "after"):
                if c not in " \t":
                    return False
                state = "after"
            else:
                state = "plain"
    return True


def test_many_lines_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 16 bytes, of which each is a few lines, or less than one."""
    monkeypatch.setattr(quotes, "AT_ONCE", 16)
    lines = [f'{i},"a{i}","{"x" * i}"\n' for i in range(30)]
    assert stray_quotes("".join(lines).encode()) == {}
    lines[20] = '20,"a20,"x\n'
    assert list(stray_quotes("".join(lines).encode())) == [21]


@given(st.text('",\t\n\r a日', max_size=12), st.sampled_from(",\t"))
def test_against_an_automaton(text: str, delimiter: str) -> None:
    assert (stray_quotes(text.encode(), delimiter) == {}) == in_place(text, delimiter)


CELLS = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=4)


@given(
    st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=4),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(",\t"),
)
def test_what_the_csv_module_writes_is_in_place(
    rows: list[list[str]], quoting: int, delimiter: str
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=quoting, delimiter=delimiter).writerows(rows)  # type: ignore[arg-type]
    assert stray_quotes(file.getvalue().encode(), delimiter) == {}
