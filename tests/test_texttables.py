from __future__ import annotations

from ceag_cli.texttables import aligned

ROWS = [("group", "n", ""), ("a", "100", "decidable"), ("b", "7", "hardly")]


def test_words_are_aligned_to_the_left_and_numbers_to_the_right() -> None:
    assert aligned(ROWS, left=(0, -1)) == [
        "group    n",
        "a      100  decidable",
        "b        7  hardly",
    ]
    assert aligned(ROWS) == [
        "group    n",
        "a      100  decidable",
        "b        7     hardly",
    ]


def test_without_rows_there_are_no_lines() -> None:
    assert aligned([]) == []
