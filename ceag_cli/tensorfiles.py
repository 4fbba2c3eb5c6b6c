"""Writing .safetensors files whose bytes follow from what is in them.

The format is eight bytes with the length of a header, the header in JSON, and the numbers of all
tensors, one after the other. The library writes the metadata in another order every time, so that
equal models are different files; here the order is fixed. Reading is left to the library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def header_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What stands before the numbers: the length of the header, and the header.

    Raises:
        ValueError: A tensor is of a type that is not written.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    # Large numbers first, so that every tensor begins at a multiple of its own size.
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (-item[1].element_size(), item[0])
    ):
        if tensor.dtype not in _NAMES:
            raise ValueError(f"tensor '{name}' is of type {tensor.dtype}, which is not written")
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> bytes:
    """The same of a file that the library has read."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def metadata_in(header: bytes) -> dict[str, str]:
    """The metadata that a header holds."""
    found: dict[str, str] = json.loads(header[8:]).get("__metadata__") or {}
    return found


def content(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, piece by piece.

    Raises:
        ValueError: The header is about other tensors.
    """
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    if entries.keys() != tensors.keys():
        raise ValueError("the header names other tensors than there are")
    yield header
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def sha256_of_content(header: bytes, tensors: Mapping[str, Tensor]) -> str:
    """Hash of the file that a header and tensors make, without writing it."""
    digest = hashlib.sha256()
    for piece in content(header, tensors):
        digest.update(piece)
    return digest.hexdigest()
