"""Gradient and curvature of a mean loss at a model's weights, without the Hessian itself.

For the mean cross-entropy of a model over some images, as a function of its weights,

    J(theta) = (1/n) sum_i -log softmax(f_theta(x_i))[y_i],

this has the gradient g, products H v of the Hessian with a vector (Pearlmutter 1994: the gradient
of g . v), and the ends of the Hessian's spectrum by Lanczos' method. The model is in evaluation
mode, so that its buffers, the running statistics of BatchNorm among them, are constants. Where an
activation has no second derivative (ReLU at 0), autograd's value is taken; that is a set of measure
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ceag_cli.errors import EvaluationError

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives inputs and targets, batch by batch, each time that it is called."""

ASYMMETRY = 0.05
"""Difference of u . A v from v . A u, relative to the largest eigenvalue, that is no rounding."""

BREAKDOWN = 1e-12
"""Off-diagonal of Lanczos' matrix, relative to its largest eigenvalue, that is rounding alone."""


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that can be trained, by name: what ``theta`` stands for."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors one after the other as a vector in float64, shape ``(P,)``."""
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])


class MeanLoss:
    """The mean cross-entropy of a model over some images, as a function of its weights.

    Each method goes through all images once. Passes are computed in the precision of the model,
    sums over batches in float64, so that the size of the batches changes no more than rounding.

    Args:
        model: Its weights are the point where everything is taken; they are not changed.
        batches: The images, at least one.
    """

    def __init__(self, model: nn.Module, batches: Batches) -> None:
        self.model = model
        self.batches = batches
        self.weights = list(weights_of(model).values())
        self.size = sum(weight.numel() for weight in self.weights)
        """Number of weights P."""

    def gradient(self) -> Tensor:
        """The gradient g, float64, shape ``(P,)``.

        Raises:
            EvaluationError: It is NaN or infinite, or there are no images.
        """
        return self._mean(partial(_slopes, weights=self.weights), "gradient")

    def product(self, vector: Tensor) -> Tensor:
        """The Hessian times a vector, H v, float64, shape ``(P,)``.

        Args:
            vector: Shape ``(P,)``, in the order of ``weights_of``.

        Raises:
            EvaluationError: It is NaN or infinite, there are no images, or a layer of the model
                has no second derivative and says so.
        """
        kind = self.weights[0].dtype
        parts = torch.split(vector.to(kind), [weight.numel() for weight in self.weights])
        pairs = list(zip(self.weights, parts, strict=True))
        directions = [part.reshape(weight.shape) for weight, part in pairs]

        def along(loss: Tensor) -> tuple[Tensor, ...]:
            slopes = _slopes(loss, self.weights, create_graph=True)
            slope = torch.stack([(a * b).sum() for a, b in zip(slopes, directions, strict=True)])
            if not slope.requires_grad:  # the loss is linear in the weights
                return tuple(torch.zeros_like(weight) for weight in self.weights)
            return _slopes(slope.sum(), self.weights)

        return self._mean(along, "product with the Hessian")

    def _mean(self, of: Callable[[Tensor], tuple[Tensor, ...]], what: str) -> Tensor:
        """The mean over all images of something that is additive in the loss."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.weights[0].device)
        count = 0
        with _still(self.model):
            for inputs, targets in self.batches():
                try:
                    loss = functional.cross_entropy(self.model(inputs), targets, reduction="sum")
                    total += flat(of(loss))
                except NotImplementedError as error:
                    raise _no_derivative(error) from None
                except RuntimeError as error:
                    if "derivative" not in str(error):
                        raise
                    raise _no_derivative(error) from None
                count += len(targets)
        if not count:
            raise EvaluationError("there are no images, so there is no mean loss")
        if not bool(total.isfinite().all()):
            raise EvaluationError(f"the {what} of the loss is NaN or infinite; check the weights")
        return total / count


def _slopes(
    of: Tensor, weights: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients by weight; 0 for a weight that nothing depends on."""
    return torch.autograd.grad(of, weights, create_graph=create_graph, materialize_grads=True)


def _no_derivative(error: Exception) -> EvaluationError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return EvaluationError(
        f"the model has a layer that cannot be differentiated twice ({reason}); its curvature "
        "cannot be given"
    )


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and attention by the one implementation that has second derivatives."""
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Extremes:
    """The ends of a symmetric matrix's spectrum, as Lanczos' method has found them."""

    largest: float
    """Algebraically, not in absolute value. From below: never more than the true one but for
    rounding."""
    smallest: float
    """From above, and not waited for: only as good as it has become by the way."""
    residual: float
    """``||A x - largest x||`` for a unit vector x: an eigenvalue lies within this distance."""
    iterations: int
    """Products with the matrix."""
    converged: bool
    """Whether the residual is at most the tolerance."""


def extremes(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    tolerance: float = 0.01,
    most: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Extremes:
    """The algebraically largest eigenvalue of a symmetric matrix that is known by its products.

    Lanczos' method from a random start, without reorthogonalisation: three vectors of memory
    whatever the number of steps. Vectors lose orthogonality, which gives copies of eigenvalues that
    have converged and harms neither the ends of the spectrum nor the residual (Paige 1980, Linear
    Algebra and its Applications 34; Parlett 1998, The Symmetric Eigenvalue Problem, ch. 13). It
    needs fewer products than power iteration, and finds the largest eigenvalue even where one of
    the other sign is larger in absolute value. The error is at most the residual, and usually
    about its square over the distance to the next eigenvalue.

    Args:
        product: A vector of shape ``(size,)`` in float64 to its product.
        size: Rows of the matrix, at least 1.
        tolerance: Largest residual, relative to the eigenvalue's absolute value.
        most: Products after which it stops without that.
        seed: Of the start.
        device: Of the vectors.

    Raises:
        EvaluationError: The matrix is not symmetric. Of a Hessian's products that is a sign of a
            layer whose second derivatives are silently wrong (torch's ``once_differentiable``).
    """
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, dtype=torch.float64, generator=generator).to(device)
    vector /= vector.norm()
    before = torch.zeros_like(vector)
    diagonal: list[float] = []
    beside: list[float] = []
    found = Extremes(0.0, 0.0, 0.0, 0, True)
    while len(diagonal) < most:
        image = product(vector)
        diagonal.append(float(image @ vector))
        crossed = float(image @ before)  # the off-diagonal once more, from the other side
        image = image - diagonal[-1] * vector - (beside[-1] if beside else 0.0) * before
        step = float(image.norm())
        values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
        largest, smallest = float(values[-1]), float(values[0])
        residual = step * abs(float(vectors[-1, -1]))
        scale = max(abs(largest), abs(smallest))
        if beside:
            _check_symmetric(crossed, beside[-1], scale)
        exhausted = step <= BREAKDOWN * scale or size == 1  # all that the start reaches is known
        converged = residual <= tolerance * abs(largest) or exhausted
        found = Extremes(largest, smallest, residual, len(diagonal), converged)
        if converged:
            break
        beside.append(step)
        before, vector = vector, image / step
    return found


def _check_symmetric(one: float, other: float, scale: float) -> None:
    if abs(one - other) > ASYMMETRY * scale:
        raise EvaluationError(
            f"products with the Hessian are not symmetric ({one:.3g} and {other:.3g} for the same "
            "two vectors), so a layer of the model gives no second derivatives; its curvature "
            "cannot be given"
        )
