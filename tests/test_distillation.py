"""The loss of distillation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ceag_cli.distillation import distilled


def test_a_divergence_by_hand() -> None:
    # Dense 1/2 and 1/2, sparse 3/4 and 1/4: ln(2/3) / 2 + ln(2) / 2 = ln(4/3) / 2
    sparse = torch.tensor([[math.log(3.0), 0.0]])
    dense, losses = torch.zeros(1, 2), torch.tensor([7.0])
    divergence = math.log(4 / 3) / 2
    found = [distilled(losses, sparse, dense, share, 1.0).item() for share in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([7.0, (7 + divergence) / 2, divergence], rel=1e-6)
    # At temperature 2 logits of twice the size diverge as much, and count four times.
    warm = distilled(losses, 2 * sparse, 2 * dense, 1.0, 2.0).item()
    assert warm == pytest.approx(4 * divergence, rel=1e-6)


def test_who_agrees_with_the_dense_model_pays_nothing_and_is_pulled_nowhere() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    found = distilled(torch.zeros(5), logits, logits.detach() + 3.0, 1.0, 4.0)
    assert found.tolist() == pytest.approx([0.0] * 5, abs=1e-5)
    torch.autograd.backward(found.sum())
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-5


@given(st.integers(2, 6), st.floats(0.5, 20.0), st.integers(0, 2**31 - 1))
def test_the_gradient_is_the_temperature_times_the_difference_of_probabilities(
    classes: int, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, generator=generator, dtype=torch.float64).requires_grad_()
    dense = torch.randn(3, classes, generator=generator, dtype=torch.float64)
    found = distilled(torch.zeros(3, dtype=torch.float64), logits, dense, 1.0, temperature)
    torch.autograd.backward(found.sum())
    ours, theirs = (logits / temperature).softmax(dim=1), (dense / temperature).softmax(dim=1)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, temperature * (ours - theirs).detach(), atol=1e-9)


def test_logits_that_are_sure_give_numbers() -> None:
    sure = torch.tensor([[1e4, 0.0]])
    assert torch.isfinite(distilled(torch.zeros(1), -sure, sure, 0.9, 1.0)).all()
    assert distilled(torch.zeros(1), sure, sure, 0.9, 1.0).item() == 0.0
