"""Everything shipped is executed or at least read: recipes, README lines, examples in the docs."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import ceag_cli
from ceag_cli.experiment import Plan
from ceag_cli.options import COMMANDS
from ceag_cli.recipe import read_recipe, read_yaml, resolve

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_there_are_recipes_and_pages() -> None:
    assert RECIPES
    assert len(PAGES) > 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)  # where the recipe ceag.yaml is no project file
    command = read_yaml(path)["command"]
    if command == "sweep":
        assert Plan.read(path).cells()
        return
    options = resolve(COMMANDS[command], {}, str(path))
    for name, value in read_recipe(path, command).items():
        assert getattr(options, name) == value


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_opens_with_what_it_is_and_its_command(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# First:") for line in comments)
    assert any("ceag " in line and path.name in line for line in comments)


def command_lines() -> list[str]:
    """Every line of the pages that calls ceag, in code blocks and in running text.

    In running text a command may also just be named.
    """
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n *", "", page.read_text())  # what goes on in the next line is one
        found += re.findall(r"`(ceag [^`\s]+\s[^`]+)`", text)
        found += re.findall(r"^(?: {4,}|\$ )(ceag [^#\n]+)", text, flags=re.MULTILINE)
    return [" ".join(line.split()) for line in found]


def test_pages_call_all_four_commands() -> None:
    called = {line.split()[1] for line in command_lines()}
    assert called >= {"dense", "prune", "mitigate", "audit", "info"}


def test_commands_that_are_named_exist() -> None:
    import typer.main

    from ceag_cli.cli import app

    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`ceag ([a-z]+)`", text))
    assert "audit" in named
    assert named <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_a_command_line_in_the_pages_parses(line: str) -> None:
    import typer.main

    from ceag_cli.cli import app

    _, name, *arguments = shlex.split(line)
    program: Any = typer.main.get_command(app)
    commands = program.commands
    if name.startswith("--"):
        of_all = program.get_params(program.make_context("ceag", [], resilient_parsing=True))
        assert name in {spelling for option in of_all for spelling in option.opts}
        return
    assert name in commands, f"ceag has no command {name}"
    command = commands[name]
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    if name in COMMANDS:
        given = {key: value for key, value in context.params.items() if value is not None}
        given.pop("config", None)
        resolve(COMMANDS[name], given)


def test_python_examples_in_the_docs_run() -> None:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    ]
    assert blocks
    for block in blocks:
        exec(compile(block, "docs", "exec"), {})


def test_docstring_examples_are_true() -> None:
    attempted = 0
    for module in pkgutil.iter_modules(ceag_cli.__path__):
        if module.name == "__main__":
            continue
        loaded = importlib.import_module(f"ceag_cli.{module.name}")
        results = doctest.testmod(loaded)
        assert results.failed == 0, module.name
        attempted += results.attempted
    assert attempted >= 2


def test_the_public_names_exist_and_are_listed_once() -> None:
    assert sorted(set(ceag_cli.__all__)) == ceag_cli.__all__
    for name in ceag_cli.__all__:
        assert getattr(ceag_cli, name) is not None
