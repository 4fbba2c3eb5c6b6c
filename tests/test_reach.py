from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ceag_cli.audit import audit
from ceag_cli.findings import FAIL, PASS
from ceag_cli.groups import Grouping
from ceag_cli.intervals import Counts
from ceag_cli.paired import Paired, counted
from ceag_cli.policy import Policy
from ceag_cli.reach import Reach, reach


def counts(n: list[int], lost: list[int], gained: list[int]) -> Counts:
    """Groups of one feature, which are all images."""
    arrays = [np.array(values, float) for values in (n, lost, gained)]
    return Counts(*arrays, *(np.full(len(n), array.sum()) for array in arrays))


def test_without_any_change_the_bound_is_that_of_zero_changes() -> None:
    # Each side z^2 / (n + z^2) = 2.6343 %, put together by MOVER and halved: sqrt(2) / 2 of it.
    found = reach(counts([100, 100], [0, 0], [0, 0]), 0.05)
    assert found is not None
    assert found.measured == 0
    assert found.shown == pytest.approx(0.026343 * np.sqrt(2) / 2, abs=1e-6)
    assert found.refuted == pytest.approx(-0.5 * np.sqrt(2) * 3.8415 / (100 + 3.8415), abs=1e-5)


def test_measured_is_the_largest_psi() -> None:
    # 10 of 100 and 0 of 100 are lost: 10 and 0 less 5.
    found = reach(counts([100, 100], [10, 0], [0, 0]), 0.05)
    assert found is not None
    assert found.measured == pytest.approx(0.05)
    assert (found.worst, found.widest) == (0, 0)
    assert found.refuted < 0.05 < found.shown


def test_no_group_no_answer() -> None:
    assert reach(counts([], [], []), 0.05) is None


def pairs(rows: list[tuple[int, bool, bool]], groups: int) -> tuple[Paired, Grouping]:
    ids = torch.tensor([[group] for group, _, _ in rows])
    dense = torch.tensor([right for _, right, _ in rows])
    sparse = torch.tensor([right for _, _, right in rows])
    names = tuple(str(g) for g in range(groups))
    return Paired("test", dense, sparse, ids), Grouping(("g",), (names,))


IMAGES = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=30, max_size=80
)


@settings(max_examples=30, deadline=None)
@given(IMAGES, st.sampled_from(["score", "exact"]), st.sampled_from(["overall", "rest"]))
def test_it_is_where_the_verdict_of_an_audit_turns(
    rows: list[tuple[int, bool, bool]], interval: str, against: str
) -> None:
    pair, grouping = pairs(rows, 3)
    chosen, numbers = counted(pair, grouping, True)
    found: Reach | None = reach(chosen, 0.05, interval, against)
    if found is None:
        return

    def verdicts(eps: float) -> set[str]:
        keys: dict[str, Any] = {"interval": interval, "against": against}
        policy = Policy(eps=min(max(eps, 0.0), 1.0), **keys)
        result = audit([pair], grouping, policy, seed=None)
        return {g.verdict for g in result.groups if int(g.value) in numbers.tolist()}

    if found.shown + 1e-9 <= 1:
        assert verdicts(found.shown + 1e-9) == {PASS}
    if found.shown > 1e-6:
        assert verdicts(found.shown - 1e-6) != {PASS}
    if found.refuted > 1e-6:
        assert FAIL in verdicts(found.refuted - 1e-6)
    if found.refuted >= 0:
        assert FAIL not in verdicts(found.refuted + 1e-6)
    assert found.refuted <= found.measured + 1e-12 <= found.shown + 2e-12


@given(IMAGES)
@settings(max_examples=30, deadline=None)
def test_a_stricter_level_shows_less(rows: list[tuple[int, bool, bool]]) -> None:
    pair, grouping = pairs(rows, 3)
    chosen, _ = counted(pair, grouping, True)
    one, two = reach(chosen, 0.05), reach(chosen, 0.005)
    if one is None or two is None:
        return
    assert two.shown >= one.shown - 1e-12
    assert two.refuted <= one.refuted + 1e-12
    assert two.measured == one.measured
