"""Run the `console` blocks of the pages, as a reader would, and compare what they print.

    python docs/.site/blocks.py FOLDER [--update]

In a block, a line that begins with `$ ` is a command, and what follows it is what it prints: a line
`...` stands for any lines, and one that ends in `...` for any rest of it. Numbers may be others, as
they are on another processor; --update writes those that came out into the pages. A command that
does not end with 0 has to be followed by `$ echo $?`. Blocks with a title (```yaml title="a.yaml")
are files that are written. The pages share FOLDER, one continues where the other ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("tutorial.md", "own-model.md", "groups.md")
"""Those whose `console` blocks are run, in the order in which they are."""

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_PROGRESS = re.compile(r"^[\w -]+: \d+ of \d+( loss .*)?$")
"""Progress without a terminal: a line every ten seconds."""


@dataclass(frozen=True)
class Command:
    """A command of a page, and the lines that the page says it prints."""

    line: str
    printed: list[str]
    start: int
    """Where the printed lines begin in the page, in characters."""


@dataclass(frozen=True)
class Written:
    """A file that a page says to write."""

    name: str
    text: str


def steps(page: str) -> Iterator[Command | Written]:
    """What a page says to do, in order."""
    for block in _BLOCK.finditer(page):
        language, title, body = block.groups()
        if title:
            yield Written(title, body)
        elif language == "console":
            yield from _commands(body, block.start(3))


def _commands(body: str, start: int) -> Iterator[Command]:
    lines = body.splitlines(keepends=True)
    found: list[tuple[str, list[str], int]] = []
    for line in lines:
        start += len(line)
        text = line.rstrip()
        if text.startswith("$ "):
            found.append((text[2:], [], start))
        elif found and found[-1][0].endswith("\\") and not found[-1][1]:
            command, _, _ = found[-1]
            found[-1] = (f"{command[:-1].rstrip()} {text.strip()}", [], start)
        elif found:
            found[-1][1].append(text)
        else:
            raise ValueError(f"a console block begins with '{text}', which is no command")
    yield from (Command(*item) for item in found)


def masked(line: str) -> str:
    """A line without its numbers and the width of its columns."""
    return " ".join(re.sub(r"[+-]?\d[\d.,]*", "#", line).split())


def matches(expected: str, actual: str) -> bool:
    """Whether a line is the one that a page shows, but for its numbers."""
    if expected.endswith("..."):
        return masked(actual).startswith(masked(expected[:-3]))
    return masked(expected) == masked(actual)


def aligned(expected: Sequence[str], actual: Sequence[str]) -> list[str] | None:
    """The lines a page should show: those expected, with the numbers of what was printed.

    Returns:
        ``None`` where something else was printed.
    """
    if not expected:
        return None if actual else []
    if expected[0] == "...":
        # Of several lines that fit, rather the one about the same group.
        begins = expected[1].split()[:1] if expected[1:] else []
        others = [" ".join(actual[i : i + 1]).split()[:1] != begins for i in range(len(actual) + 1)]
        for skipped in sorted(range(len(others)), key=others.__getitem__):
            rest = aligned(expected[1:], actual[skipped:])
            if rest is not None:
                return ["...", *rest]
        return None
    if not actual or not matches(expected[0], actual[0]):
        return None
    rest = aligned(expected[1:], actual[1:])
    shown = actual[0]
    if expected[0].endswith("..."):  # as many letters as before, or nearly
        cut = max(shown.find(word) + len(word) for word in expected[0][:-3].split()[-1:])
        shown = f"{shown[:cut]}..." if cut else expected[0]
    return None if rest is None else [shown, *rest]


def run(command: str, folder: Path, previous: int) -> tuple[int, list[str]]:
    """Run one line in a shell, where ``$?`` is the exit code of the line before."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",  # so that the numbers are those of the pages
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", f"(exit {previous}); {command}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return done.returncode, [line for line in lines if not _PROGRESS.match(line)]


def follow(page: Path, folder: Path, update: bool) -> tuple[list[str], Path]:
    """Do what a page says. Returns what came out otherwise, and the folder that it ends in."""
    text = page.read_text(encoding="utf-8")
    problems: list[str] = []
    changes: list[tuple[int, list[str], list[str]]] = []
    code = 0
    for step in steps(text):
        if isinstance(step, Written):
            (folder / step.name).write_text(step.text, encoding="utf-8")
            continue
        if step.line.startswith("cd "):  # every other line has a shell of its own
            folder = (folder / step.line[3:]).resolve(strict=True)
            continue
        if code and step.line != "echo $?":
            problems.append(f"{page.name}: exit code {code} before '{step.line}' is not shown")
        code, actual = run(step.line, folder, code)
        print(f"$ {step.line}", *actual, sep="\n", flush=True)
        shown = aligned(step.printed, actual)
        if shown is None:
            problems.append(f"{page.name}: '{step.line}' prints something else")
        elif shown != step.printed:
            changes.append((step.start, step.printed, shown))
    if code:
        problems.append(f"{page.name}: exit code {code} at the end is not shown")
    if update:
        for start, before, after in reversed(changes):
            length = sum(len(line) + 1 for line in before)
            text = text[:start] + "".join(f"{line}\n" for line in after) + text[start + length :]
        page.write_text(text, encoding="utf-8")
    return problems, folder


def follow_all(folder: Path, update: bool = False) -> list[str]:
    """Do what all pages say, in a folder beside which the repository is to be found as ``ceag``."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = folder.parent / "ceag"
    if not repository.exists():
        repository.symlink_to(ROOT, target_is_directory=True)
    problems: list[str] = []
    for name in PAGES:
        found, folder = follow(ROOT / "docs" / name, folder, update)
        problems += found
    return problems


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    found = follow_all(Path(sys.argv[1]).resolve(), "--update" in sys.argv)
    print(*found, sep="\n", file=sys.stderr)
    sys.exit(bool(found))
