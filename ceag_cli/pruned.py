"""A model that is pruned already: its masks, and the rule by which it is pruned further."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ceag_cli.budgets import uniform
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.errors import CheckpointError, PruningError, first
from ceag_cli.masks import Masks
from ceag_cli.progress import Reporter
from ceag_cli.prunable import prunable_parameters

MANY_ZEROS = 0.01
"""Share of zeros from which a model that says nothing of it is taken for a pruned one."""


def masks_of(checkpoint: Checkpoint) -> Masks:
    """The masks of a pruned model: the zeros of the tensors that its metadata lists.

    For a file of another tool, the zeros of every prunable tensor that has any.

    Raises:
        CheckpointError: There are fewer zeros than the metadata says: the file was changed.
        PruningError: The model is not pruned.
    """
    record = checkpoint.lineage and checkpoint.lineage.sparsity
    if record:
        masks = Masks.from_zeros(checkpoint.model, record.tensors)
        zeros = masks.zeros()
        changed = [
            f"{checkpoint.path}: tensor '{name}' has {zeros.get(name, 0)} zeros, its metadata "
            f"says {expected}; the file was changed after pruning"
            for name, (expected, _) in record.tensors.items()
            if zeros.get(name, 0) < expected
        ]
        if changed:
            raise CheckpointError(first(changed))
        return masks
    masks = Masks.from_zeros(checkpoint.model, prunable_parameters(checkpoint.model))
    pruned = {name: mask for name, mask in masks.pruned.items() if bool(mask.any())}
    if not pruned:
        raise PruningError(
            f"{checkpoint.path}: has no zeros in its weights, so it is not pruned; prune it with "
            "'ceag prune', or give --sparsity"
        )
    return Masks(checkpoint.model, pruned)


@dataclass(frozen=True)
class Rule:
    """Where a model is pruned, and how the zeros are spread."""

    names: tuple[str, ...]
    """The parameters that are pruned."""
    scope: str = "layer"
    cap: float | None = None
    """Largest fraction removed of any one of them, where the scope is another."""


def rule_of(checkpoint: Checkpoint, sparsity: float, reporter: Reporter) -> Rule:
    """The rule by which a model is pruned further: its own, as far as its metadata says it.

    Args:
        checkpoint: The model, pruned or dense.
        sparsity: Fraction to be removed.
        reporter: Hears what of its own rule does not go on.
    """
    path, everywhere = checkpoint.path, tuple(prunable_parameters(checkpoint.model))
    record = checkpoint.lineage and checkpoint.lineage.sparsity
    if not record:
        if Masks.from_zeros(checkpoint.model, everywhere).sparsity >= MANY_ZEROS:
            reporter.warn(
                f"{path}: does not say by what rule it is pruned; --sparsity {sparsity:g} is "
                f"reached in each of the {len(everywhere)} tensors that may be pruned"
            )
        return Rule(everywhere)
    assert checkpoint.lineage is not None
    names = tuple(record.tensors)
    if set(names) != set(everywhere):
        reporter.say(f"{path}: is pruned further in the {len(names)} tensors that it is pruned in")
    other = {f"--criterion {record.criterion}": record.criterion != "magnitude"}
    other[f"--pattern {record.pattern}"] = record.pattern != "unstructured"
    for rule in (rule for rule, applies in other.items() if applies):
        reporter.warn(
            f"{path}: is pruned by {rule}; --sparsity {sparsity:g} goes on from there by magnitude "
            "alone"
        )
    return Rule(names, record.scope, checkpoint.lineage.recipe.get("max_layer_sparsity"))


def check_further(
    checkpoint: Checkpoint,
    sparsity: float,
    reporter: Reporter,
    names: Iterable[str] | None = None,
    scope: str = "layer",
) -> None:
    """Say that a model is pruned already where it is to be pruned to a sparsity.

    Args:
        checkpoint: The model.
        sparsity: Fraction to be removed.
        reporter: Hears it.
        names: The tensors to be pruned; by default all that may be.
        scope: Whether the sparsity is that of every tensor, or of all of them together.

    Raises:
        PruningError: There are more zeros already than that asks for.
    """
    names = prunable_parameters(checkpoint.model) if names is None else names
    masks = Masks.from_zeros(checkpoint.model, names)
    zeros = masks.zeros()
    most = uniform({name: mask.shape for name, mask in masks.pruned.items()}, sparsity)
    denser = [
        f"{checkpoint.path}: tensor '{name}' is {zeros[name] / mask.numel():.2%} zero already"
        for name, mask in masks.pruned.items()
        if zeros[name] > most[name] and scope == "layer"
    ]
    if scope != "layer" and sum(zeros.values()) > sum(most.values()):
        denser = [f"{checkpoint.path}: is {masks.sparsity:.2%} zero already"]
    if denser:
        raise PruningError(
            [
                *first(denser),
                f"--sparsity {sparsity:g} asks for less, and pruned weights do not come back: ask "
                "for more, start from the dense model, or fine-tune it as it is ('ceag mitigate' "
                "without --sparsity)",
            ]
        )
    if checkpoint.lineage is None or checkpoint.lineage.sparsity is None:
        return  # a few zeros by chance are nothing to speak of
    further = f"is pruned further, to {sparsity:.2%}"
    if zeros == most:
        further = "no more weights are pruned"
    reporter.say(f"{checkpoint.path}: is pruned to {masks.sparsity:.2%} already; {further}")
