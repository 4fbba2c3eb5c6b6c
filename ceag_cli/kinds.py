"""What a file is that was given in place of another, by its first bytes or its header."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from ceag_cli.errors import LabelsError

ANSWER_COLUMNS = (("dense", "baseline"), ("sparse", "candidate"))
"""What the columns with the answers of two models may be called."""

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "'|'"}

ARCHIVE = "is a NumPy archive (.npz)"
PARQUET = "is a .parquet file"
ANSWERS = "holds the answers of two models"

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
    if start[:4] == b"PAR1":
        return PARQUET
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
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises many kinds for damaged bytes
        return "is a damaged .zip file"
    if names and all(name.endswith(".npy") for name in names):
        return ARCHIVE
    if not any(name.endswith("data.pkl") for name in names):
        return "is a .zip file"
    return "is a PyTorch checkpoint under another name; rename it to .pth" if safe else None


def _is_text(start: bytes) -> bool:
    # A character may be cut in two at the end.
    text = start.decode("utf-8", "ignore" if len(start) == 4096 else "replace")
    return all(c.isprintable() or c in "\t\n\r\f\ufeff" for c in text) and "\ufffd" not in text


def taken(kind: str) -> str:
    """Who takes a file of some kind that may hold the answers of two models, for a message."""
    if kind not in (ARCHIVE, PARQUET, ANSWERS):
        return ""
    return (
        "; a table of answers is given with --predictions: 'ceag audit --plan --predictions FILE' "
        "shows its groups, and 'ceag check' reads the one that ceag.yaml names (predictions)"
    )


def has_answers(header: Sequence[str]) -> bool:
    """Whether a table has columns for the answers of two models."""
    return all(any(name in header for name in names) for names in ANSWER_COLUMNS)


def refuse_answers(path: Path, header: Sequence[str]) -> None:
    """Refuse a table of answers in place of a groups CSV.

    Raises:
        LabelsError: With what takes it.
    """
    if has_answers(header):
        columns = " and ".join(name for names in ANSWER_COLUMNS for name in names if name in header)
        raise LabelsError(f"{path}: {ANSWERS} (columns {columns}), no groups CSV{taken(ANSWERS)}")


def refuse_separator(path: Path, text: str, separator: str = ",") -> None:
    """Refuse a table whose first line is separated by something else.

    Raises:
        LabelsError: With the separator that it seems to have.
    """
    header = text.partition("\n")[0]
    others = [name for other, name in SEPARATORS.items() if other in header]
    if separator in header or not others:
        return
    remedy = f"save it with {SEPARATORS[separator]}"
    if "\t" in (separator, *header):
        remedy += " (a table of answers that is called .tsv has tabs, all others have commas)"
    raise LabelsError(f"{path} row 1: seems to be separated by {others[-1]}; {remedy}")
