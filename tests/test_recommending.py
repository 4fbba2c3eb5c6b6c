"""The sparsest setting that passes: verdicts over seeds, groups, sparsities and approaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ceag_cli.audit import audit
from ceag_cli.experiment import Approach, Cell, Plan
from ceag_cli.findings import FAIL, INCONCLUSIVE, PASS
from ceag_cli.groups import Grouping
from ceag_cli.heldout import SameImages
from ceag_cli.policy import Policy
from ceag_cli.recommending import Judge, recommend
from ceag_cli.sweepfindings import (
    BY_ALPHA,
    BY_RECIPE,
    BY_VAL,
    INCOMPLETE,
    NOT_TESTED,
    Row,
    Sequence,
)

GROUPING = Grouping(("g",), (("a", "b"),))
EACH = 1000
"""Images of each of both groups."""


def planned(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "name": "t",
        "seeds": (0, 1),
        "sparsities": (0.5, 0.9, 0.7),
        "dense": {},
        "prune": {},
        "mitigate": {"eps": 0.02},
        "methods": {"one": {}},
    }
    return Plan(**(given | changes))


def answered(lost: Mapping[Cell, int], split: str = "test") -> SameImages:
    """Every dense model is right; of group a so many images are lost, of b none."""
    dense = np.ones((len(lost), 2 * EACH), bool)
    sparse = dense.copy()
    for m, count in enumerate(lost.values()):
        sparse[m, :count] = False
    groups = np.repeat([0, 1], EACH)[:, None]
    return SameImages(
        split=split,
        cells=tuple(lost),
        dense=dense,
        sparse=sparse,
        grouping=GROUPING,
        groups=groups,
        label_column="label",
        classes=("x",),
        label=np.zeros(2 * EACH, np.int64),
        train_classes=np.array([9]),
        train_groups=np.array([5, 4]),
    )


def cells(plan: Plan, lost: Mapping[float, int], method: str = "one") -> dict[Cell, int]:
    """The same for all seeds, by sparsity."""
    return {Cell(seed, s, method): n for seed in plan.seeds for s, n in lost.items()}


def row(plan: Plan, cell: Cell, split: str, gap: float, accuracy: float = 0.9) -> Row:
    criterion = plan.criterion_of(cell.approach)
    values: list[Any] = ["t", cell.sparsity, criterion, cell.method, cell.seed, split]
    values += [9, 1.0, accuracy, gap, "g=a", gap, 0.02, None, None, None, None, None]
    return Row(*values)


def verdicts(sequence: Sequence) -> list[str]:
    return [step.verdict for step in sequence.steps]


# psi of group a is half of its share of losses: 20 of 1000 are psi +1, 100 are +5, 40 are +2.


def test_the_sparsest_that_passes_in_the_order_of_sparsities() -> None:
    plan = planned()
    found = recommend(plan, [answered(cells(plan, {0.5: 0, 0.7: 10, 0.9: 100}))])
    assert found is not None
    (sequence,) = found.sequences
    assert [step.sparsity for step in sequence.steps] == [0.5, 0.7, 0.9]
    assert verdicts(sequence) == [PASS, PASS, FAIL]
    assert (found.sparsity, found.method, found.criterion) == (0.7, "one", "magnitude")
    assert (found.chosen_by, sequence.alpha) == (BY_RECIPE, 0.05)
    stop = sequence.stopped_at
    assert stop is not None
    assert stop.group == "g=a"
    assert stop.excess_gap == pytest.approx(0.05)
    assert stop.lower is not None
    assert stop.upper is not None
    assert 0.02 < stop.lower < 0.05 < stop.upper
    assert found.seeds_lower == pytest.approx(0.05**0.5)


def test_nothing_is_tested_after_the_first_that_does_not_pass() -> None:
    plan = planned()
    found = recommend(plan, [answered(cells(plan, {0.5: 100, 0.7: 0, 0.9: 0}))])
    assert found is not None
    assert verdicts(found.sequences[0]) == [FAIL, NOT_TESTED, NOT_TESTED]
    assert found.sparsity is None
    assert found.seeds_lower is None


def test_every_seed_has_to_pass() -> None:
    plan = planned(sparsities=(0.5,))
    harmless, harmful = Cell(0, 0.5, "one"), Cell(1, 0.5, "one")
    found = recommend(plan, [answered({harmless: 0, harmful: 100})])
    assert found is not None
    (step,) = found.sequences[0].steps
    assert (step.verdict, step.seed, step.group) == (FAIL, 1, "g=a")


def test_what_is_neither_shown_nor_refuted_is_inconclusive() -> None:
    plan = planned(sparsities=(0.5,))
    found = recommend(plan, [answered(cells(plan, {0.5: 40}))])  # psi is eps
    assert found is not None
    (step,) = found.sequences[0].steps
    assert (step.verdict, step.group) == (INCONCLUSIVE, "g=a")
    assert step.excess_gap == pytest.approx(0.02)


def test_a_missing_run_ends_the_test() -> None:
    plan = planned()
    lost = cells(plan, {0.5: 0, 0.7: 0, 0.9: 0})
    del lost[Cell(1, 0.7, "one")]
    found = recommend(plan, [answered(lost)])
    assert found is not None
    assert verdicts(found.sequences[0]) == [PASS, INCOMPLETE, NOT_TESTED]
    assert found.sequences[0].steps[1].reason == "1 of 2 runs is missing"
    assert recommend(plan, []) is None


def test_several_approaches_share_alpha() -> None:
    plan = planned(methods={"one": {}, "two": {}}, sparsities=(0.5,))
    judge = Judge(plan, [answered(cells(plan, {0.5: 0}))])
    # So many losses that a pass needs all of alpha.
    borderline = next(n for n in range(5, 40) if bounds(n, 0.05) <= 0.02 < bounds(n, 0.025))
    assert judge.policy.alpha == 0.05
    lost = cells(plan, {0.5: borderline}) | cells(plan, {0.5: 0}, "two")
    found = recommend(plan, [answered(lost)])
    assert found is not None
    assert found.chosen_by == BY_ALPHA
    assert [s.alpha for s in found.sequences] == [0.025, 0.025]
    assert [verdicts(s) for s in found.sequences] == [[INCONCLUSIVE], [PASS]]
    assert found.method == "two"
    alone = planned(
        methods={"one": {}, "two": {}}, sparsities=(0.5,), candidates=(Approach("", "one"),)
    )
    again = recommend(alone, [answered(lost)])
    assert again is not None
    assert (again.method, again.sparsity) == ("one", 0.5)


def bounds(lost: int, alpha: float) -> float:
    """The upper bound of psi where so many images of group a are lost."""
    pair = answered({Cell(0, 0.5, "one"): lost}).pair(Cell(0, 0.5, "one"))
    result = audit([pair], GROUPING, Policy(alpha=alpha), seed=None)
    upper = next(g.upper for g in result.groups if g.value == "a")
    assert upper is not None
    return upper


def test_of_equally_sparse_settings_the_more_accurate_one_is_taken() -> None:
    plan = planned(methods={"one": {}, "two": {}}, sparsities=(0.5,))
    lost = cells(plan, {0.5: 0}) | cells(plan, {0.5: 0}, "two")
    rows = [row(plan, c, "test", 0.0, 0.9 if c.method == "two" else 0.8) for c in lost]
    found = recommend(plan, [answered(lost)], rows)
    assert found is not None
    assert (found.method, found.sparsity) == ("two", 0.5)


def test_val_chooses_and_test_only_judges_what_it_chose() -> None:
    plan = planned(methods={"one": {}, "two": {}})
    lost = cells(plan, {0.5: 0, 0.7: 0, 0.9: 0}) | cells(plan, {0.5: 0, 0.7: 0, 0.9: 0}, "two")
    gaps = {"one": {0.5: 0.01, 0.7: 0.03, 0.9: 0.0}, "two": {0.5: 0.02, 0.7: 0.02, 0.9: 0.5}}
    rows = [row(plan, c, "val", gaps[c.method][c.sparsity]) for c in lost]
    found = recommend(plan, [answered(lost)], rows)
    assert found is not None
    assert found.chosen_by == BY_VAL
    one, two = found.sequences
    assert (one.val_kept, two.val_kept) == (1, 2)
    assert (one.alpha, two.alpha) == (None, 0.05)
    assert verdicts(one) == [NOT_TESTED] * 3
    assert (found.method, found.sparsity) == ("two", 0.9)
    # One run without val images, and val can choose no more.
    assert recommend(plan, [answered(lost)], rows[1:]).chosen_by == BY_ALPHA  # type: ignore[union-attr]
    # Nor can it where it judges.
    gated = planned(methods=plan.methods, audit={"gate_splits": ("test", "val")})
    both = [answered(lost), answered(lost, "val")]
    again = recommend(gated, both, rows)
    assert again is not None
    assert (again.chosen_by, again.gated) == (BY_ALPHA, ("test", "val"))


def test_measured_values_decide_under_the_gate_point() -> None:
    plan = planned(audit={"gate": "point"}, sparsities=(0.5, 0.9))
    found = recommend(plan, [answered(cells(plan, {0.5: 40, 0.9: 42}))])
    assert found is not None
    assert verdicts(found.sequences[0]) == [PASS, FAIL]


def test_a_bound_on_something_else_is_named() -> None:
    plan = planned(audit={"max_drop": 0.01}, sparsities=(0.5,))
    images = answered(cells(plan, {0.5: 0}))
    images.sparse[:, ::2] = False  # half of everything
    found = recommend(plan, [images])
    assert found is not None
    (step,) = found.sequences[0].steps
    assert (step.verdict, step.group) == (FAIL, None)
    assert step.reason == "shown to be beyond the bound: --max-drop"


def test_a_setting_that_violates_eps_is_seldom_said_to_pass() -> None:
    """The true psi of every setting is just above eps: all that pass are errors."""
    plan = planned(methods={"one": {}, "two": {}, "three": {}}, sparsities=(0.5, 0.6), seeds=(0,))
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(12):
        lost = {cell: int(generator.binomial(EACH, 0.0405)) for cell in plan.cells()}
        found = recommend(plan, [answered(lost)])
        assert found is not None
        wrong += found.sparsity is not None
    assert wrong <= 3  # at 5 % more than 3 of 12 have a probability of 0.2 %
