"""Gradients, Hessian-vector products and eigenvalues beside autograd's exact Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional
from toys import tiny_model

from ceag_cli.association import RankCorrelation, rank_correlation, smallest_p
from ceag_cli.curvature import MeanLoss, extremes, flat, weights_of
from ceag_cli.errors import EvaluationError
from ceag_cli.margins import closeness, margins


def images(count: int = 12, width: int = 3, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (count,), generator=generator)


def network(kind: str) -> nn.Module:
    """Fewer than a hundred weights; in float64, so that only the method can be at fault."""
    torch.manual_seed(3)
    kinds: dict[str, list[nn.Module]] = {
        "linear": [nn.Linear(3, 3)],
        "tanh": [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)],
        "relu": [nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)],
        "batchnorm": [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)],
        "conv": [
            nn.Unflatten(1, (1, 3)),
            nn.Conv1d(1, 3, 2),
            nn.BatchNorm1d(3),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(6, 3),
        ],
    }
    model = nn.Sequential(*kinds[kind]).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):  # statistics that are not 0 and 1
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    assert sum(p.numel() for p in model.parameters()) < 100
    return model.eval()


KINDS = ("linear", "tanh", "relu", "batchnorm", "conv")


def mean_loss(model: nn.Module, count: int = 12, size: int = 5) -> MeanLoss:
    inputs, targets = images(count)
    batches = list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))
    return MeanLoss(model, lambda: batches)


def loss_at(model: nn.Module, theta: Tensor, count: int = 12) -> Tensor:
    """The same mean loss as a plain function of a vector of weights."""
    inputs, targets = images(count)
    weights = weights_of(model)
    parts = torch.split(theta, [w.numel() for w in weights.values()])
    shaped = {
        name: part.reshape(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)
    }
    outputs = torch.func.functional_call(model, shaped, (inputs,))
    return functional.cross_entropy(outputs, targets)


def exact_hessian(model: nn.Module) -> Tensor:
    theta = flat(weights_of(model).values())
    hessian: Callable[..., Tensor] = torch.autograd.functional.hessian
    return hessian(lambda at: loss_at(model, at), theta)


# The gradient and products


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope_of_the_loss(kind: str) -> None:
    model = network(kind)
    theta, step = flat(weights_of(model).values()), 1e-6
    gradient = mean_loss(model).gradient()
    with torch.no_grad():
        numeric = torch.stack(
            [
                (loss_at(model, theta + step * e) - loss_at(model, theta - step * e)) / (2 * step)
                for e in torch.eye(len(theta), dtype=torch.float64)
            ]
        )
    torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_with_the_exact_hessian(kind: str) -> None:
    model = network(kind)
    hessian, loss = exact_hessian(model), mean_loss(model)
    vector = torch.randn(loss.size, dtype=torch.float64)
    torch.testing.assert_close(loss.product(vector), hessian @ vector)


def test_products_are_differences_of_gradients() -> None:
    model = network("tanh")
    theta, loss, step = flat(weights_of(model).values()), mean_loss(model), 1e-5
    vector = torch.randn(loss.size, dtype=torch.float64)

    def gradient(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(loss_at(model, at), at)[0]

    numeric = (gradient(theta + step * vector) - gradient(theta - step * vector)) / (2 * step)
    torch.testing.assert_close(loss.product(vector), numeric, rtol=1e-6, atol=1e-8)


def test_logistic_regression_has_its_closed_form() -> None:
    """g = X'(p - y)/n and H = X' diag(p (1 - p)) X / n for two logits (0, w.x)."""

    class Logistic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            z = inputs @ self.w
            return torch.stack([torch.zeros_like(z), z], dim=1)

    inputs, targets = images(20, classes=2)
    model = Logistic()
    loss = MeanLoss(model, lambda: [(inputs, targets)])
    p = torch.sigmoid(inputs @ model.w.detach())
    torch.testing.assert_close(loss.gradient(), inputs.T @ (p - targets) / 20)
    hessian = inputs.T @ (inputs * (p * (1 - p))[:, None]) / 20
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(torch.stack([loss.product(e) for e in eye]), hessian)
    found = extremes(loss.product, 3, tolerance=1e-9)
    assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-9)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_neither_order_nor_size_of_batches_matters(size: int) -> None:
    model, (inputs, targets) = network("batchnorm"), images()
    order = torch.randperm(12)
    mixed = list(
        zip(torch.split(inputs[order], size), torch.split(targets[order], size), strict=True)
    )
    one, other = mean_loss(model), MeanLoss(model, lambda: mixed)
    vector = torch.randn(one.size, dtype=torch.float64)
    torch.testing.assert_close(other.gradient(), one.gradient(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other.product(vector), one.product(vector), rtol=1e-12, atol=1e-14)


def test_the_mean_over_two_halves_is_the_mean_of_their_means() -> None:
    model, (inputs, targets) = network("conv"), images()
    halves = [
        MeanLoss(model, lambda rows=rows: [(inputs[rows], targets[rows])])  # type: ignore[misc]
        for rows in (slice(0, 4), slice(4, 12))
    ]
    together = (4 * halves[0].gradient() + 8 * halves[1].gradient()) / 12
    torch.testing.assert_close(together, mean_loss(model).gradient())


def test_the_model_is_left_as_it_was() -> None:
    model = network("batchnorm").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = mean_loss(model)
    loss.product(loss.gradient())
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # BatchNorm's statistics included
    assert all(p.grad is None for p in model.parameters())


def test_a_weight_without_effect_has_slope_and_curvature_zero() -> None:
    model = network("tanh")
    model.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    loss = mean_loss(model)
    idle = list(weights_of(model)).index("idle")
    assert idle == 0  # named_parameters gives a module's own first
    assert loss.gradient()[:2].tolist() == [0.0, 0.0]
    assert loss.product(torch.ones(loss.size, dtype=torch.float64))[:2].tolist() == [0.0, 0.0]


def test_nan_and_no_images_are_errors() -> None:
    model = network("tanh")
    with pytest.raises(EvaluationError, match="there are no images"):
        MeanLoss(model, list).gradient()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan  # type: ignore[index]
    loss = mean_loss(model)
    with pytest.raises(EvaluationError, match="the gradient of the loss is NaN or infinite"):
        loss.gradient()
    with pytest.raises(EvaluationError, match="the product with the Hessian of the loss is NaN"):
        loss.product(torch.ones(loss.size, dtype=torch.float64))


def test_a_layer_whose_second_derivatives_are_silently_wrong_is_found() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, slope: Tensor) -> Tensor:
            return slope * 2

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = Once.apply(x)
            return found

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), Layer(), nn.Tanh(), nn.Linear(3, 3)).double()
    loss = mean_loss(model)
    with pytest.raises(EvaluationError, match=r"not symmetric .* gives no second derivatives"):
        extremes(loss.product, loss.size, tolerance=1e-9)


def test_an_operation_without_second_derivative_is_an_error() -> None:
    class Loses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("derivative for aten::x_backward is not implemented")

    with pytest.raises(EvaluationError, match=r"cannot be differentiated twice \(derivative for"):
        mean_loss(nn.Sequential(nn.Linear(3, 3), Loses()).double()).gradient()


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_products_are_symmetric_for_models_of_timm(name: str) -> None:
    """Attention among them, whose fast implementations have no second derivative."""
    model = tiny_model(name, **({"img_size": 32} if name == "test_vit" else {}))
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])
    loss = MeanLoss(model, lambda: [batch])
    u, v = (torch.randn(loss.size, dtype=torch.float64, generator=generator) for _ in range(2))
    one, other = float(loss.product(u) @ v), float(loss.product(v) @ u)
    assert one != 0
    assert one == pytest.approx(other, rel=1e-3)


# Eigenvalues


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_eigenvalue_is_that_of_the_exact_hessian(kind: str) -> None:
    model = network(kind)
    exact = torch.linalg.eigvalsh(exact_hessian(model))
    loss = mean_loss(model)
    found = extremes(loss.product, loss.size, tolerance=1e-8)
    assert found.converged
    assert found.largest == pytest.approx(float(exact[-1]), rel=1e-8)
    assert found.smallest >= float(exact[0]) - 1e-9


def matrix(values: list[float]) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(5)
    basis, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    )
    found: Tensor = basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=30),
    st.integers(0, 5),
)
def test_the_residual_bounds_the_error_and_values_come_from_inside(
    values: list[float], seed: int
) -> None:
    a = matrix(values)
    found = extremes(lambda v: a @ v, len(values), tolerance=0.05, seed=seed)
    top, bottom = max(values), min(values)
    scale = max(abs(top), abs(bottom), 1e-300)
    assert min(abs(found.largest - value) for value in values) <= found.residual + 1e-9 * scale
    assert found.largest <= top + 1e-9 * scale
    assert found.smallest >= bottom - 1e-9 * scale


def test_the_largest_is_found_where_one_below_zero_is_larger_in_absolute_value() -> None:
    """Power iteration would end at -9."""
    a = matrix([-9.0, -1.0, 0.5, 2.0, 3.0])
    found = extremes(lambda v: a @ v, 5, tolerance=1e-10)
    assert found.largest == pytest.approx(3.0, abs=1e-8)
    assert found.smallest == pytest.approx(-9.0, abs=1e-8)


def test_many_steps_without_reorthogonalisation_keep_the_end() -> None:
    values = [100.0, *np.linspace(0, 1, 399).tolist()]
    a = matrix(values)
    calls = 0

    def product(vector: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return a @ vector

    found = extremes(product, 400, tolerance=1e-30, most=150)
    assert found.iterations == calls <= 150
    assert found.largest == pytest.approx(100.0, rel=1e-12)


def test_no_curvature_is_zero() -> None:
    found = extremes(torch.zeros_like, 7)
    assert (found.largest, found.smallest, found.residual) == (0.0, 0.0, 0.0)
    assert found.converged
    assert found.iterations == 1


def test_too_few_steps_are_said() -> None:
    a = matrix(np.linspace(1, 2, 50).tolist())
    found = extremes(lambda v: a @ v, 50, tolerance=1e-9, most=3)
    assert not found.converged
    assert found.iterations == 3
    assert found.residual > 1e-9 * found.largest
    assert found.largest < 2.0


def test_a_seed_gives_one_result() -> None:
    a = matrix(np.linspace(-1, 3, 40).tolist())
    one, same, other = (extremes(lambda v: a @ v, 40, most=6, seed=s) for s in (1, 1, 2))
    assert one == same
    assert one != other


# Margins


def test_margins_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, -5.0]])
    assert margins(logits, torch.tensor([0, 2, 1])).tolist() == [2.0, -3.0, 0.0]
    with pytest.raises(EvaluationError, match="one output"):
        margins(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_margin_is_positive_where_the_label_alone_is_largest(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    targets = torch.arange(len(rows)) % 4
    others = torch.stack(
        [row[[c for c in range(4) if c != t]].max() for row, t in zip(logits, targets, strict=True)]
    )
    assert (margins(logits, targets) > 0).tolist() == (
        logits[range(len(rows)), targets] > others
    ).tolist()


def test_closeness_is_a_quarter_between_two_classes_and_nothing_far_away() -> None:
    found = closeness(torch.tensor([[1.0, 1.0], [50.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    p = 1 / (1 + np.exp(-1.0))
    assert found.tolist() == pytest.approx([0.25, 0.0, p * (1 - p)], abs=1e-12)


# Rank correlation


def permuted(n: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(n)
    yield generator.normal(size=n)
    yield generator.integers(3, size=n).astype(float)  # ties


@pytest.mark.parametrize("n", [4, 7, 8, 30])
def test_rank_correlation_is_that_of_scipy(n: int) -> None:
    x = np.random.default_rng(0).normal(size=n)
    for y in permuted(n):
        found, expected = rank_correlation(x, y), spearmanr(x, y)
        assert found.rho == pytest.approx(expected.statistic)
        if n > 7:
            assert found.p == pytest.approx(expected.pvalue)


def test_the_exact_p_of_a_perfect_order() -> None:
    for n in (3, 4, 5, 6, 7):
        ranks = np.arange(n, dtype=np.float64)
        found = rank_correlation(ranks, -ranks)
        assert found.rho == pytest.approx(-1.0)
        assert found.p == pytest.approx(smallest_p(n))
    assert smallest_p(4) == pytest.approx(2 / 24)


def test_what_has_no_rank_correlation() -> None:
    x, nan = np.array([1.0, 2.0, 3.0, 4.0]), np.nan
    assert rank_correlation(x[:2], x[:2]) == RankCorrelation(2, None, None)
    assert rank_correlation(x, np.ones(4)) == RankCorrelation(4, None, None)
    assert rank_correlation(x, np.array([1.0, nan, 3.0, nan])) == RankCorrelation(2, None, None)
    found = rank_correlation(x, np.array([1.0, nan, 3.0, 9.0]))
    assert found.n == 3
    assert found.rho == pytest.approx(1.0)
