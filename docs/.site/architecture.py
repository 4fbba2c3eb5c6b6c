"""The layers of the package, drawn and listed, from the table that tests/test_layering.py enforces.

    python docs/.site/architecture.py        # after a module was added, or has another subject

It writes docs/images/layers.svg and the tables of docs/architecture.md; tests/test_docs.py
compares.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/architecture.md"
PICTURE = ROOT / "docs/images/layers.svg"
BEGIN, END = "<!-- modules: written by docs/.site/architecture.py -->", "<!-- end of modules -->"

SAYS = {
    "numbers": "counts, psi, multipliers, bounds",
    "method": "objective, rivals, masks, pruning",
    "world": "files, images, timm, training",
    "product": "stages, audit, reports",
    "shell": "the command line",
}
"""What a layer is about, in a word or two."""

WIDTH, INDENT, LINE, LETTER = 960, 232, 17, 7.3
"""Pixels: of the drawing, of its left column, from line to line, and of a letter."""

STYLE = """
  text { font-family: ui-monospace, monospace; font-size: 12px; fill: #1b1f24 }
  .name { font-family: system-ui, sans-serif; font-size: 15px; font-weight: bold }
  .soft { font-family: system-ui, sans-serif; fill: #5b6570 }
  .box { fill: #f6f8fa; stroke: #c5ccd3 } .arrow { stroke: #5b6570; fill: none; stroke-width: 1.5 }
"""

Layers = dict[str, tuple[set[str], set[str]]]


def layers() -> Layers:
    """The table of tests/test_layering.py, lowest layer first, without the package itself."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_layering import LAYERS

    return {name: found for name, found in LAYERS.items() if name != "package"}


def subject(module: str) -> str:
    """The first sentence or line of a module's docstring."""
    source = (ROOT / "ceag_cli" / f"{module}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def tables(found: Layers) -> str:
    """A table a layer, the highest first: its modules, and what each is about."""
    lines = []
    for name, (modules, _) in reversed(found.items()):
        lines += [f"### {name.capitalize()}: {SAYS[name]}", "", "| module | |", "|---|---|"]
        for module in sorted(modules):
            said = subject(module).replace("``", "").replace("|", r"\|").replace("<", "&lt;")
            lines.append(f"| `{module}.py` | {said} |")
        lines.append("")
    return "\n".join(lines)


def page(text: str, found: Layers) -> str:
    """The page with its tables as they should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(found)}\n{END}{after}"


def _wrapped(words: list[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}  {word}" if lines[-1] else word
        if len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def drawing(found: Layers) -> str:
    """The layers as an SVG, the highest on top, with what each may import from outside."""
    parts: list[str] = []
    top = 8
    room = int((WIDTH - INDENT - 24) / LETTER)
    for place, (name, (modules, outside)) in enumerate(reversed(found.items())):
        lines = _wrapped(sorted(modules), room)
        libraries = _wrapped([f"+ {item}" for item in sorted(outside)], 24)
        height = LINE * max(len(lines), 2 + len(libraries)) + 22
        parts.append(
            f'<rect class="box" x="8" y="{top}" width="{WIDTH - 16}" height="{height}" rx="6"/>'
        )
        parts.append(f'<text class="name" x="22" y="{top + 23}">{name}</text>')
        soft = [SAYS[name], *(libraries if outside else [])]
        for i, line in enumerate(soft):
            parts.append(
                f'<text class="soft" x="22" y="{top + 41 + LINE * i}">{escape(line)}</text>'
            )
        for i, line in enumerate(lines):
            parts.append(
                f'<text x="{INDENT + 16}" y="{top + 23 + LINE * i}" xml:space="preserve">'
                f"{line}</text>"
            )
        top += height
        if place < len(found) - 1:
            middle = WIDTH // 2
            parts.append(f'<path class="arrow" d="M{middle} {top + 2}v16m-5 -6l5 6l5 -6"/>')
            top += 22
    height = top + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The five layers of the package; imports point downwards">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    table = layers()
    PICTURE.write_text(drawing(table), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
