"""BatchNorm statistics of a pruned model, measured anew.

BatchNorm remembers the mean and variance that its inputs had while the dense model was trained.
Without the pruned weights its inputs are others, so a model pruned at once is judged by statistics
that do not belong to it, and its accuracy can collapse although the weights that are left are good.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The layers of a model that remember statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the remembered statistics by the plain mean over some batches, in place.

    Everything else is as in evaluation mode (no dropout). The result depends on the batches and
    their order alone.

    Args:
        model: Left in the mode that it was in.
        batches: Inputs of the model, more than one image each.
    """
    norms = norms_of(model)
    training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the mean over all batches
        norm.train()
    for inputs in batches:
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
