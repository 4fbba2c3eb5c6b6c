"""How far images are from a model's decision boundary, by its outputs alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ceag_cli.errors import EvaluationError


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Logit of the label less the largest other: ``z_y - max_{j != y} z_j``.

    Positive where the model is right, negative where it is wrong, near 0 at the boundary.

    Args:
        logits: Shape ``(B, C)``.
        targets: Classes, int64, shape ``(B,)``.

    Returns:
        Shape ``(B,)``, in logits.

    Raises:
        EvaluationError: There is only one class.
    """
    if logits.shape[1] < 2:
        raise EvaluationError("the model has one output, so no class has a margin to another")
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return own - others.amax(dim=1)


def closeness(logits: Tensor) -> Tensor:
    """The product p (1 - p) for the probability p of the predicted class.

    In the bound of Tran et al. 2022 on a group's largest Hessian eigenvalue (two classes), this
    weighs the images: with two classes it is 1/4 on the decision boundary and 0 far from it. With
    more classes it can lie below 1/4 on the boundary.

    Args:
        logits: Shape ``(B, C)``.

    Returns:
        Shape ``(B,)``, between 0 and 1/4.
    """
    p = logits.softmax(dim=1).amax(dim=1)
    return p * (1 - p)
