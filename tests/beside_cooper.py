"""A method and the problem that it solves in the cooper library, step by step beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from cooper.cmp import ConstrainedMinimizationProblem
from cooper.constraints.constraint import Constraint
from cooper.multipliers.multipliers import DenseMultiplier
from cooper.optim.constrained_optimizers.alternating_optimizer import AlternatingDualPrimalOptimizer
from cooper.utils.annotations import ConstraintType
from oracles import DequeReplay
from torch import Tensor
from torch.nn import functional

from ceag_cli.groups import BatchOutcome, Grouping

CAPACITY = 8
"""Outcomes in a buffer, which counts when it is full."""


def grouping(*features: str) -> Grouping:
    """``grouping("ab", "xyz")``: two features, groups a and b of the one, x, y, z of the other."""
    names = tuple(f"feature{f}" for f in range(len(features)))
    return Grouping(names, tuple(tuple(values) for values in features))


class ByGroup(ConstrainedMinimizationProblem):
    """A constraint for each group, on buffers or on each batch alone."""

    def __init__(self, kind: ConstraintType, groups: int, buffers: bool) -> None:
        super().__init__()
        self.multiplier = DenseMultiplier(num_constraints=groups, dtype=torch.float64)
        self.by_group = Constraint(constraint_type=kind, multiplier=self.multiplier)
        self.replay = DequeReplay(groups, CAPACITY, CAPACITY) if buffers else None


def toy_batches(steps: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets, group ids. The third group is rare and its classes are turned round."""
    generator = torch.Generator().manual_seed(11)
    batches = []
    for _ in range(steps):
        groups = torch.multinomial(torch.tensor([0.65, 0.25, 0.1]), 12, True, generator=generator)
        targets = torch.randint(2, (12,), generator=generator)
        sign = (2.0 * targets - 1.0) * torch.where(groups == 2, -1.0, 1.0)
        inputs = torch.randn(12, 4, generator=generator, dtype=torch.float64)
        inputs[:, 0] += sign
        inputs[:, 3] = (groups == 2).double()
        batches.append((inputs, targets, groups))
    return batches


def steps_beside(
    problem: ByGroup, method: Any, *, lr: float, dual_lr: float, tolerance: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Take two hundred steps from the same model, which have to agree within a tolerance.

    Yields the sample weights and the group ids of every step.
    """
    theirs = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    cooper_optimizer = AlternatingDualPrimalOptimizer(
        cmp=problem,
        primal_optimizers=torch.optim.SGD([theirs], lr=lr),
        dual_optimizers=torch.optim.SGD(problem.dual_parameters(), lr=dual_lr, maximize=True),
    )
    ours = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([ours], lr=lr)
    for inputs, targets, groups in toy_batches(200):
        cooper_optimizer.roll(
            {"parameter": theirs, "inputs": inputs, "targets": targets, "groups": groups}
        )
        logits = inputs @ ours.T
        losses = functional.cross_entropy(logits, targets, reduction="none")
        correct = logits.argmax(dim=1) == targets
        weights = method.weights(BatchOutcome(losses.detach(), correct, groups[:, None]))
        (ours.grad,) = torch.autograd.grad((weights * losses).sum(), ours)
        optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            *(method.multipliers.values, problem.multiplier.weight.detach()),
            rtol=tolerance,
            atol=tolerance,
        )
        yield weights, groups
