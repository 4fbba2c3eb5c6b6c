from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from ceag_cli.groups import GroupStats
from ceag_cli.iterates import Keeper, Measured


def stats(right: tuple[int, int], times: int = 1000) -> GroupStats:
    """So many right ones of ten images of each of two groups, times so many."""
    count, correct = times * torch.tensor([10, 10]), times * torch.tensor(right)
    zeros = torch.zeros(2, dtype=torch.float64)
    return GroupStats(count, correct, zeros, count.sum(), correct.sum(), zeros.sum())


DENSE = stats((10, 10))


class Model(nn.Module):
    """A model whose one weight names the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = nn.Parameter(torch.zeros(()))


def keeper(
    rule: str, found: dict[int, tuple[int, int]], times: int = 1000, **options: Any
) -> Keeper:
    """``found`` gives the right ones of both groups after each epoch; eps is 0.1."""

    def measure(model: nn.Module) -> GroupStats:
        return stats(found[int(model.get_parameter("epoch"))], times)

    return Keeper(rule, measure, stats((10, 10), times), 0.1, **({"first": 1} | options))


def kept(keeper: Keeper, epochs: int) -> int:
    """The epoch whose weights the model ends with."""
    model = Model()
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            model.epoch.fill_(epoch)
        keeper.offer(epoch, model)
    keeper.restore(model)
    return int(model.epoch)


# Right ones: (8, 6) is accuracy 0.7, gaps 0.2 and 0.4, so max psi 0.1: just allowed.
# (9, 5) is accuracy 0.7, max psi 0.2; (9, 9) accuracy 0.9, psi 0; (10, 6) accuracy 0.8, psi 0.2.
HOLDS, HOLDS_BETTER, FAILS, FAILS_BETTER = (8, 6), (9, 9), (9, 5), (10, 6)


def test_what_is_measured() -> None:
    found = Measured.of(3, DENSE, stats((9, 5)))
    assert (found.epoch, found.accuracy) == (3, 0.7)
    assert found.max_excess_gap == pytest.approx(0.2)


def test_a_psi_of_exactly_eps_holds() -> None:
    # Gaps 0.1 and 0.3, overall 0.2; in floating point psi is 0.10000000000000009.
    measured = Measured.of(1, DENSE, stats((9, 7)))
    assert measured.max_excess_gap > 0.1
    assert measured.holds(0.1)
    assert not Measured(9, 1.0, 0.11).holds(0.1)


def test_the_last_whose_constraints_hold() -> None:
    found = {1: HOLDS_BETTER, 2: HOLDS, 3: FAILS_BETTER, 4: FAILS}
    assert kept(keeper("feasible", found), 4) == 2


def test_the_best_whose_constraints_hold() -> None:
    found = {1: HOLDS_BETTER, 2: HOLDS, 3: FAILS_BETTER, 4: FAILS}
    assert kept(keeper("best", found), 4) == 1


@pytest.mark.parametrize("rule", ["feasible", "best"])
def test_where_they_never_hold_the_least_violated(rule: str) -> None:
    found = {1: (10, 0), 2: (9, 3), 3: (10, 5), 4: (10, 3)}
    # max psi: 0.5, 0.3, 0.25, 0.35
    assert kept(keeper(rule, found), 4) == 3


# With ten images a group, (10, 5) has psi 0.25 and a standard error of sqrt(0.5 * 0.5 / 10), 0.158;
# with ten thousand, of 0.005. (10, 2) has psi 0.4, (9, 0) 0.45, (5, 9) 0.2.
@pytest.mark.parametrize("rule", ["feasible", "best"])
def test_no_more_than_a_standard_error_above_the_least_violated_the_last(rule: str) -> None:
    found = {1: (10, 5), 2: (10, 2), 3: (9, 0)}
    assert kept(keeper(rule, found, times=1), 3) == 2
    assert kept(keeper(rule, found), 3) == 1
    # A later one that is violated less moves the bound: 0.2 + sqrt((0.9 * 0.1 + 0) / 10) = 0.295.
    lower = keeper(rule, {1: (10, 2), 2: (5, 9), 3: (10, 2)}, times=1)
    assert kept(lower, 3) == 2


def test_the_standard_error_is_of_the_worst_group() -> None:
    dense = stats((8, 10), times=10)
    # Gaps 0.3 and 0: psi 0.15 for the first of a hundred images.
    found = Measured.of(1, dense, stats((5, 10), times=10))
    assert found.max_excess_gap == pytest.approx(0.15)
    assert found.standard_error == pytest.approx(math.sqrt((0.8 * 0.2 + 0.5 * 0.5) / 100))


def test_a_group_without_images_is_not_the_worst() -> None:
    count, correct = torch.tensor([0, 4]), torch.tensor([0, 2])
    zeros = torch.zeros(2, dtype=torch.float64)
    lacking = GroupStats(count, correct, zeros, count.sum(), correct.sum(), zeros.sum())
    assert Measured.of(1, lacking, lacking).standard_error == math.sqrt(0.5 / 4)


def test_the_most_accurate_whatever_its_constraints() -> None:
    found = {1: HOLDS, 2: (10, 8), 3: HOLDS_BETTER, 4: FAILS}
    # Accuracy 0.7, 0.9, 0.9, 0.7: of the two best the later one.
    assert kept(keeper("accuracy", found), 4) == 3


def test_iterates_before_the_first_candidate_are_not_even_measured() -> None:
    found = {3: FAILS, 4: FAILS}  # a KeyError for 1 and 2
    one = keeper("accuracy", found, first=3)
    assert one.offer(1, Model()) is None
    assert kept(one, 4) == 4


def test_patience_runs_out() -> None:
    found = {1: HOLDS, 2: HOLDS_BETTER, 3: HOLDS, 4: HOLDS, 5: HOLDS}
    one = keeper("accuracy", found, patience=2)
    model, exhausted = Model(), []
    for epoch in range(1, 6):
        with torch.no_grad():
            model.epoch.fill_(epoch)
        one.offer(epoch, model)
        exhausted.append(one.exhausted(epoch))
    assert exhausted == [False, False, False, True, True]


def test_without_patience_it_never_runs_out() -> None:
    one = keeper("accuracy", {1: HOLDS})
    kept(one, 1)
    assert not one.exhausted(1000)


def test_without_a_candidate_the_model_stays_as_it_is() -> None:
    model = Model()
    with torch.no_grad():
        model.epoch.fill_(7)
    keeper("feasible", {}).restore(model)
    assert float(model.epoch.detach()) == 7.0


def test_what_is_kept_is_a_copy() -> None:
    one, model = keeper("feasible", {1: HOLDS}), Model()
    with torch.no_grad():
        model.epoch.fill_(1)
        one.offer(1, model)
        model.epoch.fill_(2)
    one.restore(model)
    assert float(model.epoch.detach()) == 1.0


def test_a_restored_keeper_goes_on_from_there() -> None:
    found = {1: HOLDS, 2: FAILS, 3: FAILS}
    first = keeper("feasible", found)
    kept(first, 2)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = keeper("feasible", found)
    second.load_state_dict(torch.load(file, weights_only=True))
    model = Model()
    with torch.no_grad():
        model.epoch.fill_(3)
    second.offer(3, model)
    second.restore(model)
    assert float(model.epoch.detach()) == 1.0
    assert second.kept == first.kept


def test_a_keeper_without_a_candidate_yet_is_restored_too() -> None:
    second = keeper("feasible", {1: HOLDS})
    second.load_state_dict(keeper("feasible", {}).state_dict())
    assert kept(second, 1) == 1
