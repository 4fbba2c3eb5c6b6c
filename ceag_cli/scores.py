"""Pruning criteria: how important each weight is. Adding a criterion is one function.

A ``Score`` takes a parameter's name and a copy of its weights, float32, which it may overwrite, and
gives a tensor of the same shape, the smallest being pruned first. Asked twice it gives the same, so
that scores need not be held for all tensors at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.errors import PruningError

Score = Callable[[str, Tensor], Tensor]

Batches = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Gives the scoring batches anew at each call: inputs, targets ``(B,)``, group ids ``(B, F)``."""


def magnitude(name: str, weight: Tensor) -> Tensor:
    """``|w|``, the weight's size (Han et al. 2015, *Learning both weights and connections*)."""
    return weight.abs_()


def random_order(seed: int) -> Score:
    """Uniform numbers: what any criterion has to be better than.

    They depend on the seed, the tensor's name and its shape alone.
    """

    def score(name: str, weight: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed((seed << 24) ^ zlib.crc32(name.encode()))
        return torch.rand(weight.shape, generator=generator).to(weight.device)

    return score


def taylor(model: nn.Module, names: Sequence[str], batches: Batches) -> Score:
    """``sum over batches of |w dL/dw|``: what the loss changes by without the weight, first order.

    L is the mean cross-entropy of a batch, the model in evaluation mode. Source: Molchanov et al.
    2019, *Importance estimation for neural network pruning*, equation 8, without the square, which
    within one batch orders alike.
    """
    return _of_gradients(model, names, batches, each_batch=torch.abs)


def snip(model: nn.Module, names: Sequence[str], batches: Batches) -> Score:
    """``|w dL/dw|`` with L the mean over all batches together: connection sensitivity.

    Unlike in :func:`taylor`, gradients of different sign cancel. Source: Lee, Ajanthan and Torr
    2019, *SNIP*, equation 5; their division by the sum over all weights changes no order.
    """
    return _of_gradients(model, names, batches, each_batch=lambda product: product)


def _of_gradients(
    model: nn.Module,
    names: Sequence[str],
    batches: Batches,
    each_batch: Callable[[Tensor], Tensor],
) -> Score:
    """``|sum over batches of f(w dL/dw)|`` for the weights as they are now.

    Raises:
        PruningError: A gradient is NaN or infinite.
    """
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in chosen]
    training = model.training
    model.eval()
    for inputs, targets, _ in batches():
        loss = functional.cross_entropy(model(inputs).float(), targets)
        gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
        for total, weight, gradient in zip(sums, chosen, gradients, strict=True):
            if gradient is not None:  # a weight that has no part in the output is worth nothing
                total += each_batch(weight.detach() * gradient)
    model.train(training)
    bad = [name for name, total in zip(names, sums, strict=True) if not total.isfinite().all()]
    if bad:
        raise PruningError([f"tensor '{name}': NaN or infinite gradients" for name in bad])
    found: Mapping[str, Tensor] = dict(zip(names, sums, strict=True))
    return lambda name, weight: found[name].abs()
