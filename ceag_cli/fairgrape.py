"""FairGRAPE: prune so that every group keeps its share of the importance that is left.

A weight is worth something to *each* group. In every tensor the weights to keep are chosen one by
one, for whichever group is furthest below the share of the importance that it had in the tensor:

    I_g,w  = mean over batches of (|w| |dL_g / dw|)^2         importance of weight w to group g
    T_g    = sum_w I_g,w / sum_h sum_w I_h,w                   share of group g, to be preserved
    repeat   g* = argmin_g (share_g - T_g);  keep the best weight for g* that is not kept yet

with ``share_g`` like ``T_g`` but over the kept weights. Pruning goes in rounds with fine-tuning in
between; each round keeps the same fraction of what the last one left.

Source: Lin, Kim and Joo, *FairGRAPE: Fairness-aware gradient pruning method for face attribute
classification* (ECCV 2022), section 3. What their released scorer does besides (gradients that
add up over groups and batches, optimiser steps while scoring) is not repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.budgets import uniform
from ceag_cli.errors import PruningError
from ceag_cli.masks import Masks
from ceag_cli.scores import Batches

TURNS = 2**14
"""Turns in which the weights of one tensor are chosen, at most."""

SCORES_IN_MEMORY = 2 * 1024**3
"""Bytes of importances held at once. Tensors beyond that wait for another pass over the batches."""


def group_importance(
    model: nn.Module, names: Sequence[str], batches: Batches, num_groups: int
) -> dict[str, Tensor]:
    """Importance of every weight to every group, ``(|w| |dL_g / dw|)^2`` averaged over batches.

    L_g is the mean cross-entropy of the group's samples in the batch. The average runs over the
    batches that have any, so a rare group is not worth less for being rare. The model is in
    evaluation mode and is not changed.

    Returns:
        By parameter name, float32, shape ``(G, number of weights)``; zero for a group without
        samples.
    """
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    sums = [torch.zeros(num_groups, weight.numel(), device=weight.device) for weight in chosen]
    seen = [0] * num_groups
    training = model.training
    model.eval()
    for inputs, targets, groups in batches():
        for group in sorted(set(groups.reshape(-1).tolist())):
            members = (groups == group).any(dim=1)
            logits = model(inputs[members])
            loss = functional.cross_entropy(logits.float(), targets[members])
            gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
            seen[group] += 1
            for total, weight, gradient in zip(sums, chosen, gradients, strict=True):
                if gradient is not None:  # a weight that has no part in the output is worth nothing
                    total[group] += (weight.detach() * gradient).square().reshape(-1)
    model.train(training)
    counts = torch.tensor(seen).clamp(min=1)[:, None]
    return {name: total / counts.to(total.device) for name, total in zip(names, sums, strict=True)}


def preserve_shares(importance: Tensor, keep: int, per_turn: int | None = None) -> Tensor:
    """Choose the weights of one tensor to keep, greedily as the formula says.

    Before anything is kept, all shares count as 1 / G. Among groups equally far below their share
    the first is served, among weights equally important the first in memory order is kept.

    Args:
        importance: Shape ``(G, W)``, at least 0; taken in single precision.
        keep: Number of weights to keep, in [0, W].
        per_turn: Weights that a group is given at once; 1 is the formula to the letter. ``None``
            takes 1 up to 16,384 kept weights and beyond that as many as make 16,384 turns (the
            published code has such a setting too). docs/choices.md has the measured difference.

    Returns:
        Bool, shape ``(W,)``, True where kept; exactly ``keep`` True.
    """
    importance = importance.detach().float()
    queues = _best_first(importance.cpu()).numpy()
    scores = importance.cpu().double()
    by_group, by_weight = scores.sum(dim=1), scores.sum(dim=0)
    # Keeping w moves  (share_g - T_g) * (sum kept) * (sum of all)  by this much. Groups are in
    # the same order by that product as by share_g - T_g, and it needs no division.
    scaled = scores.T.contiguous().mul_(by_group.sum())
    moves = scaled.sub_(by_weight[:, None] * by_group).numpy()
    next_in = [0] * len(queues)
    free = torch.ones(scores.shape[1], dtype=torch.bool).numpy()
    surplus = -by_group.numpy()  # while all shares are equal, share_g - T_g is in the order of -T_g
    per_turn = per_turn or math.ceil(keep / TURNS)
    left = keep
    while left:
        group = int(surplus.argmin())
        wanted, start, ahead = min(per_turn, left), next_in[group], 2 * per_turn + 8
        while True:  # look further ahead in the queue while others have taken too much of it
            window = queues[group, start : start + ahead]
            places = free[window].nonzero()[0][:wanted]
            if len(places) == wanted or start + ahead >= len(free):
                break
            ahead *= 2
        chosen = window[places]
        next_in[group] = start + int(places[-1]) + 1
        free[chosen] = False
        gained = moves[chosen].sum(axis=0)
        surplus = gained if left == keep else surplus + gained
        left -= len(chosen)
    return torch.from_numpy(~free).to(importance.device)


def _best_first(scores: Tensor) -> Tensor:
    """Indices that sort each row from large to small, equals in memory order.

    The bits of floats that are not negative are in the order of their values, and whole numbers
    are sorted by digits: several times faster.
    """
    bits = torch.iinfo(torch.int32).max - scores.contiguous().view(torch.int32)
    return torch.stack([torch.sort(row, stable=True).indices for row in bits])


@torch.no_grad()
def _masked(weight: Tensor, importance: Tensor, zeros: int) -> Tensor:
    """The mask of one tensor with a number of zeros; weights that are zero already stay zero."""
    alive = torch.nonzero(weight.detach().reshape(-1)).reshape(-1)
    keep = weight.numel() - zeros
    pruned = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    pruned[alive[preserve_shares(importance[:, alive], keep)]] = False
    return pruned.reshape(weight.shape)


def prune_fairly(
    model: nn.Module,
    names: Sequence[str],
    sparsity: float,
    batches: Batches,
    num_groups: int,
    *,
    on_the_way: bool = False,
) -> Masks:
    """Prune in place to the same sparsity in every tensor, preserving the groups' shares.

    ``on_the_way`` is as for ``pruning.prune``.

    Raises:
        PruningError: A tensor has more zeros already than the sparsity asks for, or NaN or
            infinite weights or gradients.
    """
    parameters = dict(model.named_parameters())
    counts = uniform({name: parameters[name].shape for name in names}, sparsity)
    already = {name: int((parameters[name] == 0).sum()) for name in names}
    if on_the_way:
        counts.update({name: max(counts[name], already[name]) for name in names})
    denser = [name for name in names if already[name] > counts[name]]
    if denser:
        raise PruningError(
            [
                f"tensor '{name}' has more zeros already than the sparsity {sparsity:g} asks for; "
                "ask for more or start from the dense model"
                for name in denser
            ]
        )
    pruned = {}
    for part in _parts(parameters, names, num_groups):
        importances = group_importance(model, part, batches, num_groups)
        bad = [name for name in part if not bool(importances[name].isfinite().all())]
        if bad:
            raise PruningError(
                [f"tensor '{name}': NaN or infinite weights or gradients" for name in bad]
            )
        for name in part:
            pruned[name] = _masked(parameters[name], importances.pop(name), counts[name])
    masks = Masks(model, pruned)
    masks.apply_()
    return masks


def _parts(
    parameters: dict[str, nn.Parameter], names: Sequence[str], num_groups: int
) -> Iterator[list[str]]:
    """Names in runs whose importances fit in memory together; at least one a run."""
    part: list[str] = []
    size = 0
    for name in names:
        needed = 4 * num_groups * parameters[name].numel()
        if part and size + needed > SCORES_IN_MEMORY:
            yield part
            part, size = [], 0
        part.append(name)
        size += needed
    if part:
        yield part
