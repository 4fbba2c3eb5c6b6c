"""The tensors of weights files: read from any kind of them, written plain or packed."""

from __future__ import annotations

import argparse
import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ceag_cli import strictjson
from ceag_cli.atomic import replacing
from ceag_cli.errors import CheckpointError, OutputError
from ceag_cli.packing import VERSION, pack, unpack
from ceag_cli.pickles import is_plain, unpickled
from ceag_cli.tensorfiles import LONGEST_HEADER, content, header_of, metadata_in, sha256_of_content
from ceag_cli.timmconfigs import is_name
from ceag_cli.weightsfiles import PACKED, not_whole, other_format, read_metadata


def read_state(
    path: Path, use_ema: bool = False
) -> tuple[dict[str, Tensor], str | None, dict[str, str]]:
    """Weights of a file, the architecture name stored with them, and its metadata.

    Raises:
        CheckpointError: The file is missing, damaged, or holds code.
    """
    metadata = read_metadata(path)
    if path.suffix == ".safetensors":
        try:
            state = safetensors.torch.load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise not_whole(path, "a whole .safetensors file", error) from None
        return (unpacked(path, state, metadata) if PACKED in metadata else state), None, metadata
    # timm's training checkpoints store their command line as a Namespace: harmless.
    stored = unpickled(path, [argparse.Namespace])
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: does not hold a state dict")
    name = stored.get("arch") or getattr(stored.get("args"), "model", None)
    keys = ["state_dict_ema", "model_ema"] if use_ema else ["state_dict", "model"]
    if use_ema and not any(key in stored for key in keys):
        raise CheckpointError(f"{path}: holds no averaged weights; leave out --use-ema")
    inner = next((stored[key] for key in keys if isinstance(stored.get(key), dict)), stored)
    state = {_plain(str(key)): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: holds no tensors")
    for key, tensor in state.items():
        if not is_plain(tensor):
            raise CheckpointError(f"{path}: '{key}' is no plain tensor with all of its numbers")
    return state, name if isinstance(name, str) and is_name(name) else None, metadata


def _plain(key: str) -> str:
    """A key without what DistributedDataParallel and torch.compile put before it."""
    for prefix in ("module.", "_orig_mod.", "module."):
        key = key.removeprefix(prefix)
    return key


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    packed: bool = False,
    header: bytes | None = None,
) -> None:
    """Write a .safetensors file, plain or packed; it is whole or not there.

    Equal content gives equal bytes. A packed file holds the header and the sha256 of the plain one
    that it stands for, so that this one is found again by its children, and damage is noticed.

    Args:
        path: The file.
        tensors: What it holds.
        metadata: What it says about itself.
        packed: Write the weights in fewer bytes (``packing``).
        header: Of the plain file, where that is another one's.

    Raises:
        OutputError: The folder cannot be written, or a tensor cannot be packed.
    """
    try:
        header = header or header_of(tensors, metadata)
        if packed:
            digest = sha256_of_content(header, tensors)
            tensors, index = pack(tensors)
            index |= {"sha256": digest, "header": base64.b64encode(zlib.compress(header)).decode()}
            metadata = {**metadata, PACKED: json.dumps(index)}
            header = header_of(tensors, metadata)
        with replacing(path) as temporary, temporary.open("wb") as file:
            for piece in content(header, tensors):
                file.write(piece)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None


def unpacked(
    path: Path, state: dict[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors of a packed file.

    Raises:
        CheckpointError: It is damaged: it does not make the plain file whose hash it holds.
    """
    try:
        index = _index(metadata)
        if index.get("version", VERSION) != VERSION:
            raise other_format(path, "packed", index["version"], VERSION)
        tensors = unpack(state, index)
        header = plain_header(metadata)
        said = {key: value for key, value in metadata.items() if key != PACKED}
        if (sha256_of_content(header, tensors), metadata_in(header)) != (index["sha256"], said):
            raise ValueError("its content does not have the checksum that it was written with")
        return tensors
    except (ValueError, KeyError, zlib.error) as error:
        raise not_whole(path, "a whole packed file", error) from None


def _index(metadata: Mapping[str, str]) -> dict[str, Any]:
    return strictjson.mapping(strictjson.loads(metadata[PACKED]), "its index")


def plain_header(metadata: Mapping[str, str]) -> bytes:
    """The header of the plain file that a packed one stands for.

    Raises:
        ValueError, KeyError, zlib.error: There is none, or a longer one than any file may have.
    """
    text = _index(metadata)["header"]
    if not isinstance(text, str):
        raise ValueError("its header is no text")
    coder = zlib.decompressobj()
    header = coder.decompress(base64.b64decode(text), LONGEST_HEADER)
    if not coder.eof:
        raise ValueError("its header is too long, or cut short")
    return header
