"""What a file is that was given in place of another, by its first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

_IMAGES = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}


def kind_of(path: Path) -> str | None:
    """What a file plainly is, in words that follow its name; ``None`` for anything else.

    Weights are recognised in a file whose name says that it is something else.
    """
    try:
        if path.is_dir():
            return "is a folder"
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return None
    if not start:
        return "is empty"
    for magic, name in _IMAGES.items():
        if start.startswith(magic):
            return f"is an image ({name})"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "is an image (WebP)"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; fetch that with 'git lfs pull'"
    safe = path.suffix == ".safetensors"
    if start[8:10] == b'{"':
        return None if safe else "is a .safetensors file under another name; rename it"
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path, safe)
    if _is_text(start):
        return "is a CSV file" if path.suffix.lower() == ".csv" else "is text"
    return None


def _kind_of_zip(path: Path, safe: bool) -> str | None:
    """PyTorch writes its checkpoints as .zip files."""
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("data.pkl") for name in archive.namelist()):
            return "is a .zip file"
    return "is a PyTorch checkpoint under another name; rename it to .pth" if safe else None


def _is_text(start: bytes) -> bool:
    # A character may be cut in two at the end.
    text = start.decode("utf-8", "ignore" if len(start) == 4096 else "replace")
    return all(c.isprintable() or c in "\t\n\r\f\ufeff" for c in text) and "\ufffd" not in text
