"""Draw the pictures of the tutorial from a folder in which it was followed.

    python docs/.site/pictures.py FOLDER

Charts are those of the audits' HTML pages, with their style; the terminal is what `ceag audit`
prints. Pictures are looked at in a browser, so nothing in them is fetched from elsewhere.
"""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from ceag_cli import AuditOptions, run_audit
from ceag_cli.plaintext import print_audit

IMAGES = Path(__file__).resolve().parents[1] / "images"
CHARTS = {"naive.run": "naive", "model.mitigated.run": "ceag", "model95.run": "95"}
"""Names of the pictures by run folder."""
COLUMNS = 132
THEME = TerminalTheme((255, 255, 255), (27, 31, 36), [(27, 31, 36)] * 8)


def chart(page: str) -> str:
    """The first chart of an audit's page, that of the gated split, as a file of its own."""
    found = re.search(r'<svg class="plot" viewBox="0 0 (\d+) (\d+)".*?</svg>', page, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    if found is None or style is None:
        raise SystemExit("the page of the audit has no chart")
    width, height = found[1], found[2]
    light = re.search(r":root \{([^}]*)\}", style[1])
    colours = dict(re.findall(r"--(\w+): (#\w+)", light[1] if light else ""))
    rules = re.findall(r"(?:svg text|svg \.n|\.[\w.]+) \{[^}]*\}", style[1])
    drawn = set(re.findall(r'class="([^"]+)"', found[0]))
    used = [r for r in rules if r.startswith(("svg t", "svg .n")) or _names(r) & drawn]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        "<style>\ntext { font-family: system-ui, sans-serif }\n"
        + "\n".join(used)
        + f'\n</style>\n<rect width="{width}" height="{height}" fill="#ffffff"/>'
    )
    own = re.sub(r"<svg class[^>]*>", opening, found[0], count=1) + "\n"
    return re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]], own)


def _names(rule: str) -> set[str]:
    """The values of ``class`` that a rule is for: ``.mark.PASS {`` is for "mark PASS"."""
    selector = rule.partition(" {")[0].strip(".")
    return {selector.replace(".", " "), *([selector] if "." not in selector else [])}


def terminal() -> str:
    """What `ceag audit naive.safetensors` prints of the gated split, as a terminal shows it."""
    audit = run_audit(AuditOptions(checkpoint="naive.safetensors", eps=0.1, gate="strict"))
    gated = tuple(split for split in audit.result.splits if split.gated)
    shown = replace(
        audit,
        result=replace(audit.result, splits=type(audit.result.splits)(gated)),
        more=[found for found in audit.more if found.split in {split.split for split in gated}],
    )
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False, markup=False)
    print_audit(shown, console)
    local = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    local = local.replace("Fira Code", "ui-monospace").replace("Fira Code,", "")
    return console.export_svg(title="ceag audit naive.safetensors", theme=THEME, code_format=local)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for folder, name in CHARTS.items():
        text = chart(Path(folder, "audit.html").read_text(encoding="utf-8"))
        (IMAGES / f"tutorial-{name}.svg").write_text(text, encoding="utf-8")
    (IMAGES / "tutorial-terminal.svg").write_text(terminal(), encoding="utf-8")
