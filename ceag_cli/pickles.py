"""PyTorch's checkpoints, which are pickles: read as tensors and plain values, never executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ceag_cli.errors import CheckpointError
from ceag_cli.memory import bounded_by
from ceag_cli.weightsfiles import WANTED, not_whole


def unpickled(path: Path, harmless: Sequence[type] = ()) -> Any:
    """What a checkpoint holds, on the CPU.

    Args:
        path: The file.
        harmless: Classes that may be in it besides tensors and plain values.

    Raises:
        CheckpointError: It is damaged, holds code, or unfolds to far more than its size.
    """
    try:
        _refuse_compressed(path)
        with torch.serialization.safe_globals(list(harmless)), bounded_by(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error) and "GLOBAL" not in str(error):
            raise CheckpointError(f"{path}: is no weights file; {WANTED}") from None
        raise CheckpointError(
            f"{path}: holds Python objects other than tensors, which are never executed; save the "
            "state dict alone, best as .safetensors"
        ) from None
    except Exception as error:  # whatever a damaged pickle makes of torch
        raise not_whole(path, "a whole PyTorch checkpoint", error) from None


def _refuse_compressed(path: Path) -> None:
    """PyTorch compresses nothing, so that what is compressed was made to be large when read.

    Raises:
        CheckpointError: Something is.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path}: holds compressed parts, which PyTorch never writes; save it anew"
        )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has all of its numbers: not sparse, not one number that stands for many."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
