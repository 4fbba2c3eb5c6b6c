"""``ceag pack`` and ``ceag unpack``: a weights file in fewer bytes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ceag_cli.errors import CheckpointError, OutputError
from ceag_cli.statedicts import plain_header, read_state, write_tensors
from ceag_cli.tensorfiles import read_header
from ceag_cli.weightsfiles import PACKED, SUFFIX, weights_in

PACKED_SUFFIX = f".packed{SUFFIX}"


@dataclass(frozen=True)
class Archived:
    """What ``pack`` or ``unpack`` made."""

    source: Path
    output: Path
    bytes_before: int
    bytes: int


def packed_name(path: Path) -> Path:
    """``model.pruned.safetensors`` → ``model.pruned.packed.safetensors``."""
    return path.with_name(path.name.removesuffix(SUFFIX) + PACKED_SUFFIX)


def pack_file(path: Path, output: Path | None = None, *, overwrite: bool = False) -> Archived:
    """Write a .safetensors file packed: every model is accepted in this form too.

    Args:
        path: A plain .safetensors file, of ceag or not.
        output: By default beside it, with ``.packed`` in its name.
        overwrite: Replace an output that exists.

    Raises:
        CheckpointError: It is no .safetensors file, or packed already.
        OutputError: The output exists or cannot be written.
    """
    path = weights_in(path)
    if path.is_file() and path.suffix != SUFFIX:
        raise CheckpointError(f"{path}: only {SUFFIX} files are packed; prune or adopt it first")
    tensors, _, metadata = read_state(path)
    if PACKED in metadata:
        raise CheckpointError(f"{path}: is packed already; 'ceag unpack' makes a plain file of it")
    output = output or packed_name(path)
    _check(path, output, overwrite)
    write_tensors(output, tensors, metadata, packed=True, header=read_header(path))
    return Archived(path, output, path.stat().st_size, output.stat().st_size)


def unpack_file(path: Path, output: Path | None = None, *, overwrite: bool = False) -> Archived:
    """Write a packed file as the plain file that it was made of, bit for bit.

    Args:
        path: A packed file.
        output: By default beside it, without ``.packed`` in its name.
        overwrite: Replace an output that exists.

    Raises:
        CheckpointError: It is damaged or not packed.
        OutputError: The output exists or cannot be written, or needs a name.
    """
    path = weights_in(path)
    tensors, _, metadata = read_state(path)
    if PACKED not in metadata:
        raise CheckpointError(f"{path}: is not packed")
    if output is None:
        if not path.name.endswith(PACKED_SUFFIX):
            raise OutputError(f"{path}: does not end in {PACKED_SUFFIX}; name the output with -o")
        output = path.with_name(path.name.removesuffix(PACKED_SUFFIX) + SUFFIX)
    _check(path, output, overwrite)
    write_tensors(output, tensors, {}, header=plain_header(metadata))
    return Archived(path, output, path.stat().st_size, output.stat().st_size)


def _check(path: Path, output: Path, overwrite: bool) -> None:
    if output.suffix != SUFFIX:
        raise OutputError(f"-o {output}: must end in {SUFFIX}")
    if output.resolve() == path.resolve():
        raise OutputError(f"{output}: is the input; write elsewhere with -o")
    if output.exists() and not overwrite:
        raise OutputError(
            f"{output}: exists already; replace it with --overwrite or write elsewhere with -o"
        )
