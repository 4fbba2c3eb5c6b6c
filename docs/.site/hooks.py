"""What MkDocs calls: the pages that are made of the code join those that are written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_config(config: Any) -> Any:
    """Add the generated pages to the section Reference, which is the last one."""
    made = [path for path in reference.pages() if path.count("/")]
    config.nav[-1]["Reference"] += made
    return config


def on_files(files: Files, config: Any) -> Files:
    """Make the pages."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    return files
