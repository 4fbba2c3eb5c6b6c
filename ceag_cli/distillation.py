"""Distillation from the dense model: the sparse one learns what the dense one says of each image.

    loss_i = (1 - share) CE(label_i, sparse_i) + share T^2 KL(dense_i || sparse_i)

with both models' logits divided by the temperature T before the softmax of the second term; T^2
keeps its gradients as large as those of the first (Hinton, Vinyals and Dean 2015, *Distilling the
knowledge in a neural network*, section 2). psi counts where the two models differ, so imitation of
the dense model serves the constraint as well as the accuracy: whoever agrees with it on every image
has psi 0 (Jiang et al. 2022, *Churn reduction via distillation*).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

SHARE = 0.9
TEMPERATURE = 4.0
"""Defaults of ``ceag mitigate`` with CEAG."""


def distilled(
    losses: Tensor, logits: Tensor, dense_logits: Tensor, share: float, temperature: float
) -> Tensor:
    """Mix the losses of a batch with the divergences from the dense model.

    Args:
        losses: Cross-entropy of each sample with its label, in nats, shape ``(B,)``.
        logits: Of the sparse model, shape ``(B, C)``.
        dense_logits: Of the dense model on the same inputs, without gradient.
        share: Of the divergence, in [0, 1].
        temperature: T, more than 0; the larger, the more the less likely classes count.

    Returns:
        Shape ``(B,)``, in nats.
    """
    ours = functional.log_softmax(logits / temperature, dim=1)
    theirs = functional.log_softmax(dense_logits / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
    return losses.lerp(temperature**2 * divergence, share)
