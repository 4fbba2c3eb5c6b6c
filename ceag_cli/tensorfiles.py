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

from ceag_cli import strictjson

LONGEST_HEADER = 100_000_000
"""Bytes; the library refuses longer ones."""

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


def check_names(path: Path) -> None:
    """Refuse a file that names a tensor, or a key of the metadata, twice.

    The library takes the last of them, others the first.

    Raises:
        ValueError: It does.
    """
    try:
        strictjson.loads(read_header(path)[8:])
    except ValueError as error:
        raise ValueError(f"of its header: {error}") from None


def metadata_in(header: bytes) -> dict[str, str]:
    """The metadata that a header holds.

    Raises:
        ValueError: It is no header.
    """
    found = strictjson.mapping(strictjson.loads(header[8:]), "the header")
    metadata = strictjson.mapping(found.get("__metadata__") or {}, "its metadata")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata holds something else than text")
    return metadata


def content(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, piece by piece.

    Raises:
        ValueError: The header is about other tensors.
    """
    order = _order(header, tensors)
    yield header
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _order(header: bytes, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors as they follow each other, where the header says so of just these.

    Raises:
        ValueError: It does not.
    """
    entries = strictjson.mapping(strictjson.loads(header[8:]), "the header")
    entries.pop("__metadata__", None)
    if entries.keys() != tensors.keys():
        raise ValueError("the header names other tensors than there are")
    if len(header) != 8 + int.from_bytes(header[:8], "little"):
        raise ValueError("the header is of another length than it says")
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for name, tensor in tensors.items():
        entry = strictjson.mapping(entries[name], f"the entry of '{name}'")
        said, place = (entry.get("dtype"), entry.get("shape")), entry.get("data_offsets")
        if said != (_NAMES.get(tensor.dtype), list(tensor.shape)) or not isinstance(place, list):
            raise ValueError(f"the header says something else of tensor '{name}'")
        begins[name], ends[name] = (strictjson.whole(number, "an offset") for number in place)
        if ends[name] - begins[name] != tensor.numel() * tensor.element_size():
            raise ValueError(f"the header says another size of tensor '{name}'")
    order = sorted(begins, key=lambda name: (begins[name], ends[name]))
    if [0, *(ends[name] for name in order)][: len(order)] != [begins[name] for name in order]:
        raise ValueError("by the header there are gaps between tensors, or they overlap")
    return order


def sha256_of_content(header: bytes, tensors: Mapping[str, Tensor]) -> str:
    """Hash of the file that a header and tensors make, without writing it."""
    digest = hashlib.sha256()
    for piece in content(header, tensors):
        digest.update(piece)
    return digest.hexdigest()
