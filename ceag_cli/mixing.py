"""Mixed images: where a model that knows its training images by heart behaves as on unseen ones.

A dense model that is right on nearly all of its training images has no groups there on which it is
good or bad, so psi on these images asks for a sparse model that is equally good on all groups. On
images that neither model has seen the dense one does have such groups, and psi asks the sparse one
to keep them. The two are different demands, and holding the first can break the second.

    mixed_i = share * image_i + (1 - share) * image_j,    the label and groups those of image_i

On such an image the dense model is right nearly as seldom as on an unseen one, and psi by group
goes with psi on unseen images also for a model that holds it on train; docs/generalization.md has
the correlations. The images are those of mixup (Zhang et al. 2018, *mixup: Beyond empirical risk
minimization*), which trains on them; here the constraints are measured on them.
"""

from __future__ import annotations

from torch import Tensor

SHARE = 0.7
"""Default share of the image itself."""


def mixed(images: Tensor, share: float) -> Tensor:
    """Mix every image of a batch with the one before it, and the first with the last.

    Args:
        images: Floating point, shape ``(B, ...)``, in random order.
        share: Of the image itself, in (0, 1]; at 1 nothing changes.

    Returns:
        The same shape; a single image is mixed with itself.
    """
    return images.lerp(images.roll(1, dims=0), 1 - share)
