"""The pages: what they say to do is done, what is made of the code is up to date.

`make docs-test` follows the tutorial in an empty folder, which takes minutes; `make test` does not.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ceag_cli.declarations import declared, flag
from ceag_cli.options import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a script of docs/.site by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/.site"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module


def test_no_page_links_out_of_the_site() -> None:
    """Such a link works in a checkout, and leads nowhere on the site."""
    found = {page.name: re.findall(r"\]\(\.\./[^)]*\)", page.read_text("utf-8")) for page in PAGES}
    assert {name: links for name, links in found.items() if links} == {}


# What is made of the code


def test_the_layers_are_those_that_are_enforced(site: Any) -> None:
    architecture = site("architecture")
    layers = architecture.layers()
    text = architecture.PAGE.read_text(encoding="utf-8")
    remedy = "run `make docs-architecture`"
    assert architecture.page(text, layers) == text, remedy
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.drawing(layers), remedy


def test_the_drawing_has_every_module_once(site: Any) -> None:
    architecture = site("architecture")
    drawn = re.findall(
        r'xml:space="preserve">([^<]+)<', architecture.drawing(architecture.layers())
    )
    names = sorted(name for line in drawn for name in line.split())
    modules = {path.stem for path in (ROOT / "ceag_cli").glob("*.py")} - {"__init__"}
    assert names == sorted(modules)


def test_a_module_that_is_new_changes_the_page(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = site("architecture")
    monkeypatch.setattr(architecture, "subject", lambda module: f"About {module}.")
    found = architecture.page(
        f"a\n{architecture.BEGIN}\nold\n{architecture.END}\nb\n", {"shell": ({"cli"}, set())}
    )
    assert "| `cli.py` | About cli. |" in found
    assert "old" not in found
    assert found.startswith("a\n")
    assert found.endswith("\nb\n")


def test_every_command_has_a_page_with_all_its_options(site: Any) -> None:
    reference = site("reference")
    pages = reference.pages()
    assert {f"reference/{name}.md" for name in reference.commands()} <= set(pages)
    for command, options in COMMANDS.items():
        page = pages[f"reference/{command}.md"]
        for name, about in declared(options).items():
            spelling = f"`{name}`" if about.read is not None else f"`{flag(name)}`"
            if not about.positional:
                assert spelling in page, f"{command}: {spelling}"


def test_a_row_has_the_flag_its_range_and_its_default(site: Any) -> None:
    page = site("reference").pages()["reference/prune.md"]
    (row,) = (line for line in page.splitlines() if line.startswith("| `--seed`"))
    assert "Seed of everything random." in row
    assert "At least 0" in row
    assert row.endswith("| 42 |")


def test_the_python_page_has_every_public_name(site: Any) -> None:
    import ceag_cli

    page = site("reference").pages()["reference/python.md"]
    for name in ceag_cli.__all__:
        assert f".{name}\n" in page or f"`{name}`" in page


# Pages that are there have a place, and places lead to pages


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (\S+\.md)$", config, flags=re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


# The reader of console blocks

PAGE = """
```console
$ echo one \\
    two
one two
$ false
$ echo $?
1
```

```yaml title="a.yaml"
eps: 0.1
```

```bash
not run
```
"""


def test_a_page_is_read_as_commands_and_files(site: Any) -> None:
    blocks = site("blocks")
    found = list(blocks.steps(PAGE))
    assert [getattr(step, "line", None) for step in found] == [
        "echo one two",
        "false",
        "echo $?",
        None,
    ]
    assert found[0].printed == ["one two"]
    assert found[3] == blocks.Written("a.yaml", "eps: 0.1\n")


@pytest.mark.parametrize(
    ("expected", "actual", "shown"),
    [
        (["a 1"], ["a 2"], ["a 2"]),
        (["a   1.5"], ["a -20"], ["a -20"]),
        (["a"], ["b"], None),
        (["a"], ["a", "b"], None),
        (["...", "b 1"], ["x", "y", "b 3"], ["...", "b 3"]),
        (["a", "..."], ["a"], ["a", "..."]),
        (["a 1 word..."], ["a 2 word and more"], ["a 2 word..."]),
        ([], ["a"], None),
        (["...", "a=8 +1"], ["a=3 +2", "a=8 +4"], ["...", "a=8 +4"]),  # the same group
    ],
)
def test_what_is_printed_is_compared_but_for_numbers(
    site: Any, expected: list[str], actual: list[str], shown: list[str] | None
) -> None:
    assert site("blocks").aligned(expected, actual) == shown


def test_a_page_is_followed_and_its_numbers_are_renewed(site: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("one two\n$ false", "one two\n$ echo 7\n8\n$ false"))
    problems, folder = site("blocks").follow(page, tmp_path, update=True)
    assert problems == []
    assert folder == tmp_path
    assert "$ echo 7\n7\n$ false" in page.read_text()
    assert (tmp_path / "a.yaml").read_text() == "eps: 0.1\n"


def test_an_exit_code_that_is_not_shown_and_other_words_are_problems(
    site: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo a\nb\n$ false\n$ true\n```\n")
    problems, _ = site("blocks").follow(page, tmp_path, update=False)
    assert problems == [
        "page.md: 'echo a' prints something else",
        "page.md: exit code 1 before 'true' is not shown",
    ]


def test_the_pages_say_what_happens(site: Any, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--follow-docs"):
        pytest.skip("minutes: make docs-test")
    assert site("blocks").follow_all(tmp_path / "digits") == []
