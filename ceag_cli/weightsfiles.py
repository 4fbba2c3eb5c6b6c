"""Weights files: what they are called, what they say of themselves, and which hash is theirs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ceag_cli import strictjson
from ceag_cli.errors import CheckpointError
from ceag_cli.kinds import kind_of
from ceag_cli.tensorfiles import check_names

SUFFIX = ".safetensors"
WEIGHTS_NAME = f"model{SUFFIX}"
WANTED = "wanted are a model's weights: a .safetensors file or a PyTorch checkpoint (.pth)"

PACKED = "ceag.packed"
"""Key of the metadata of a packed file."""


def weights_in(path: Path) -> Path:
    """The weights file that a path means: the file, or ``model.safetensors`` in the folder."""
    return path / WEIGHTS_NAME if (path / WEIGHTS_NAME).is_file() else path


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a .safetensors file; empty for other files and files without any.

    Raises:
        CheckpointError: The file is missing, is no weights file, or is damaged.
    """
    if os.path.isdir(path):
        raise CheckpointError(
            f"{path}: is a folder without {WEIGHTS_NAME}; name the weights file in it"
        )
    if not os.path.isfile(path):
        exists = os.path.lexists(path)
        what = "is no file that can be read" if exists else "there is no such file"
        raise CheckpointError(f"{path}: {what}")
    kind = kind_of(path)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}; {WANTED}")
    if path.suffix != SUFFIX:
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            check_names(path)
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise not_whole(path, "a whole .safetensors file", error) from None


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of(path: Path) -> str:
    """The hash that references name a file by: of the plain file where this one is packed."""
    try:
        index = strictjson.mapping(strictjson.loads(read_metadata(path)[PACKED]), PACKED)
        return strictjson.sha256(index["sha256"], "the sha256 of the plain file")
    except (CheckpointError, KeyError, ValueError):
        return sha256_of(path)


def not_whole(path: Path, what: str, error: Exception) -> CheckpointError:
    """The error for a file that is damaged or cut short."""
    reason = ""
    if not isinstance(error, (KeyError, IndexError)):  # which say nothing to a user
        reason = f": {(str(error).splitlines() or [type(error).__name__])[0]}"
    return CheckpointError(f"{path}: not {what}{reason}; restore it from a copy, or write it anew")


def other_format(path: Path, how: str, found: object, known: object) -> CheckpointError:
    """The error for a file of a format that this version does not read.

    Args:
        path: The file.
        how: ``written`` or ``packed``.
        found: The number of its format.
        known: The one that is read.
    """
    said = str(found)
    later = said.isdecimal() and (len(said) > 9 or int(said) > int(str(known)))
    remedy = "install a newer ceag" if later else "write it anew with this version"
    return CheckpointError(
        f"{path}: {how} in format {found}, this version of ceag reads format {known}; {remedy}"
    )
