"""The tensors of a weights file one by one: how many zeros each has, and why others stay dense."""

from __future__ import annotations

from pathlib import Path

from ceag_cli.checkpoints import load
from ceag_cli.patterns import Pattern
from ceag_cli.prunable import prunable_parameters, why_dense
from ceag_cli.results import TensorResult
from ceag_cli.sharedoptions import ArchitectureOptions
from ceag_cli.statedicts import read_state
from ceag_cli.weightsfiles import read_metadata, weights_in


def describe_tensors(path: Path) -> tuple[TensorResult, ...]:
    """Every parameter of a file in the model's order, with the zeros that are in the file.

    Of a file whose architecture is not known, every tensor, and no reason why it stays dense. A
    tensor that a pattern does not fit is said to be that, even if it was also left out.

    Raises:
        CheckpointError: The file cannot be read.
    """
    path = weights_in(path)
    if "ceag.timm" not in read_metadata(path):
        state, _, _ = read_state(path)
        return tuple(
            TensorResult(name, tuple(tensor.shape), int((tensor == 0).sum()), None)
            for name, tensor in state.items()
        )
    checkpoint = load(path, ArchitectureOptions())
    parameters = dict(checkpoint.model.named_parameters())
    record = None if checkpoint.lineage is None else checkpoint.lineage.sparsity
    # Not by the expressions of --include and --exclude in its metadata: a regular expression that
    # somebody else has written can take longer than anybody waits.
    chosen = prunable_parameters(checkpoint.model)
    pruned = chosen if record is None else list(record.tensors)
    pattern = Pattern.parse(record.pattern) if record is not None else None
    unfit = [name for name in chosen if pattern and not pattern.fits(parameters[name].shape)]
    reasons = why_dense(checkpoint.model, pruned, unfit, str(pattern))
    return tuple(
        TensorResult(name, tuple(p.shape), int((p == 0).sum()), reasons.get(name))
        for name, p in parameters.items()
    )
