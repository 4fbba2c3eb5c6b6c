"""Verdicts rest on whole numbers: nothing overflows, and eps is what was written."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from toys import measured

from ceag_cli.audit import audit
from ceag_cli.chance import by_chance
from ceag_cli.gaps import excess_gap
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.intervals import Counts, clopper_pearson, exact, psi_bounds, quantile_of, tango
from ceag_cli.iterates import Measured
from ceag_cli.judging import Questions, answers
from ceag_cli.means import mcnemar, share_bounds, wilson
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy

TWO = Grouping(("letter",), (("a", "b"),))
BILLION = 10**9


def pair(n: tuple[int, int], wrong: tuple[int, int]) -> Paired:
    """The dense model is right on all images of two groups, the sparse one wrong on some."""
    right = [torch.arange(count) >= bad for count, bad in zip(n, wrong, strict=True)]
    groups = torch.repeat_interleave(torch.arange(2), torch.tensor(n))[:, None]
    return Paired("test", torch.ones(sum(n), dtype=torch.bool), torch.cat(right), groups)


def verdicts(n: tuple[int, int], wrong: tuple[int, int], eps: float) -> list[str]:
    return [group.verdict for group in measured([pair(n, wrong)], TWO, eps).groups]


# eps as it is written


def test_a_psi_of_exactly_eps_is_not_above_it() -> None:
    """Four of 100 lost, and two of 100 overall: psi is 1/50. In floating point it is more."""
    assert (1 - 0.96) - (1 - 0.98) > 0.02
    assert verdicts((100, 100), (4, 0), 0.02) == ["PASS", "PASS"]
    assert verdicts((100, 100), (4, 0), 0.0199999999999999) == ["FAIL", "PASS"]
    assert verdicts((100, 100), (5, 0), 0.02) == ["FAIL", "PASS"]


def test_a_drop_of_exactly_the_limit_is_not_above_it() -> None:
    """100 of 100 right, then 98 of 100."""
    assert 1 - 0.98 > 0.02
    for limit, verdict in ((0.02, "PASS"), (0.0199999999999999, "FAIL")):
        policy = Policy(eps=1.0, gate="point", max_drop=limit)
        found = audit([pair((50, 50), (1, 1))], TWO, policy)
        assert [check.verdict for check in found.checks] == [verdict]


def test_an_accuracy_of_exactly_the_limit_is_not_below_it() -> None:
    """29 of 100 is 0.29, and 0.29 * 100 is less than 29."""
    assert 0.29 * 100 < 29
    for limit, verdict in ((0.29, "PASS"), (0.2900000000000001, "FAIL")):
        policy = Policy(eps=1.0, gate="point", min_accuracy=limit)
        found = audit([pair((100, 100), (71, 71))], TWO, policy)
        assert [check.verdict for check in found.checks] == [verdict] * 2


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.02, 0.05, 0.07, 0.1, 0.3])
def test_verdicts_of_small_groups_are_those_of_fractions(eps: float) -> None:
    """All of them as splits of one audit, which draws no chance."""
    pairs: list[Paired] = []
    expected: list[str] = []
    for n, m in ((3, 7), (10, 10), (20, 30)):
        for lost, other in product(range(0, n + 1, 2), range(0, m + 1, 3)):
            psi = Fraction(lost, n) - Fraction(lost + other, n + m)
            rest = Fraction(other, m) - Fraction(lost + other, n + m)
            expected += ["FAIL" if x > Fraction(str(eps)) else "PASS" for x in (psi, rest)]
            pairs.append(replace(pair((n, m), (lost, other)), split=str(len(pairs))))
    policy = Policy(eps=eps, gate="point", min_coverage=0.0)
    found = audit(pairs, TWO, policy, [pair.split for pair in pairs], seed=None)
    assert [group.verdict for group in found.groups] == expected
    assert len(expected) == 2 * (2 * 3 + 6 * 4 + 11 * 11)


def test_an_iterate_whose_psi_is_exactly_eps_holds() -> None:
    """What ``mitigate`` goes by: in floating point its psi is 0.020000000000000018."""
    dense, sparse = (
        GroupStats.of(
            BatchOutcome(torch.zeros(200), correct, pair((100, 100), (4, 0)).groups), num_groups=2
        )
        for correct in (torch.ones(200, dtype=torch.bool), pair((100, 100), (4, 0)).sparse)
    )
    found = Measured.of(1, dense, sparse)
    assert found.max_excess_gap > 0.02
    assert found.holds(0.02)
    assert not found.holds(0.0199999)


# Many images


def test_counts_of_a_billion_images_a_group_are_exact() -> None:
    stats = GroupStats.zeros(2)
    stats.count.fill_(BILLION)
    stats.correct.copy_(torch.tensor([BILLION - 1, BILLION - 2]))
    stats.total_count.fill_(2 * BILLION)
    stats.total_correct.fill_(2 * BILLION - 3)
    one = BatchOutcome(torch.full((1,), 0.25), torch.ones(1, dtype=torch.bool), torch.tensor([[0]]))
    for _ in range(3):
        stats.add_(one)
    twice = stats + stats
    assert twice.count.tolist() == [2 * BILLION + 6, 2 * BILLION]
    assert twice.correct.tolist() == [2 * BILLION + 4, 2 * BILLION - 4]
    assert int(twice.total_count) == 4 * BILLION + 6  # twice what an int32 holds
    assert stats.accuracy.tolist() == [(BILLION + 2) / (BILLION + 3), (BILLION - 2) / BILLION]
    assert float(stats.accuracy[1]) < 1  # in single precision it would be 1


def test_psi_of_a_billion_images_a_group_tells_one_image() -> None:
    """The first group loses one image more than the second: psi is half an image in a billion."""
    counts = torch.tensor([BILLION, BILLION])
    dense = GroupStats(counts, counts, counts.double(), counts.sum(), counts.sum(), torch.zeros(()))
    right = counts - torch.tensor([BILLION // 10 + 1, BILLION // 10])
    sparse = GroupStats(counts, right, counts.double(), counts.sum(), right.sum(), torch.zeros(()))
    assert excess_gap(dense, sparse).tolist() == pytest.approx([5e-10, -5e-10], rel=1e-5)


def counts(n: float, lost: float, all_n: float, all_lost: float) -> Counts:
    return Counts(*(np.array([x], float) for x in (n, lost, 0.0, all_n, all_lost, 0.0)))


@pytest.mark.parametrize("n", [10**8, BILLION])
def test_bounds_of_psi_of_many_images_are_those_of_the_normal_distribution(n: int) -> None:
    """Half of all images; 4 % lost in the group and none in the rest, so that psi is 2 %.

    The standard error of the group's gap is sqrt(0.04 * 0.96 / n), psi has half of it; the rest has
    none to speak of.
    """
    z = quantile_of(0.05)
    assert z == pytest.approx(1.6448536, abs=1e-6)
    of = counts(n, 0.04 * n, 2 * n, 0.04 * n)
    psi, lower, upper = (float(x[0]) for x in psi_bounds(of, z))
    half = z * math.sqrt(0.04 * 0.96 / n) / 2
    assert psi == 0.02
    assert psi - lower == pytest.approx(half, rel=1e-2)
    assert upper - psi == pytest.approx(half, rel=1e-2)
    _, low, high = (float(x[0]) for x in psi_bounds(of, z, "exact"))
    assert half < psi - low < 1.5 * half
    assert half < high - psi < 1.5 * half


@pytest.mark.parametrize("interval", ["score", "exact"])
@pytest.mark.parametrize(
    ("eps", "verdict"), [(0.0201, "passes"), (0.02, None), (0.0199, "fails"), (0.01, "fails")]
)
def test_verdicts_on_a_billion_images_a_group(
    interval: str, eps: float, verdict: str | None
) -> None:
    """Psi is 2 % with a standard error of 0.0003 points."""
    of = counts(BILLION, 0.04 * BILLION, 2 * BILLION, 0.04 * BILLION)
    limit = np.array([eps])
    found = answers(Questions(of, limit, limit, np.array([0])), 0.05, interval, "overall")
    said = {name for name in ("passes", "fails") if bool(getattr(found, name)[0])}
    assert said == ({verdict} if verdict else set())
    assert not found.too_small[0]


@pytest.mark.parametrize("n", [10**8, BILLION])
def test_bounds_of_nothing_have_their_closed_forms(n: int) -> None:
    z = quantile_of(0.05)
    lower, upper = tango(0, 0, n, z)
    assert float(upper) == pytest.approx(z**2 / (n + z**2), rel=1e-6)
    assert float(lower) == -float(upper)
    low, high = clopper_pearson([0, n], [n, n], 0.05)
    nearly = -math.expm1(math.log(0.05) / n)  # 1 - 0.05^(1/n)
    assert low[0] == 0
    assert high[0] == pytest.approx(nearly, rel=1e-6)
    assert 1 - low[1] == pytest.approx(nearly, rel=1e-6)
    assert high[1] == 1
    assert float(exact(0, 0, n, 0.05)[1]) == pytest.approx(
        -math.expm1(math.log(0.025) / n), rel=1e-6
    )
    assert float(wilson(0, n, z)[1]) == pytest.approx(z**2 / (n + z**2), rel=1e-6)
    (share,) = share_bounds(np.array([n / 4]), np.array([float(n)]), 0.05, np.ones(1))
    assert share is not None
    assert share.value == 0.25


def test_a_test_of_two_billion_changes() -> None:
    """Equal counts say nothing; 10^5 more of one are 2.236 standard deviations of 2 * 10^9."""
    assert float(mcnemar(BILLION, BILLION)) == 1
    z = 10**5 / math.sqrt(2 * BILLION)
    expected = math.erfc(z / math.sqrt(2))
    assert float(mcnemar(BILLION, BILLION + 10**5)) == pytest.approx(expected, rel=1e-3)


def test_chance_is_not_drawn_of_more_images_than_numpy_can_draw_of() -> None:
    one = np.zeros((1, 1), np.int64)
    many = np.broadcast_to(one, (BILLION, 1))
    none = np.broadcast_to(np.zeros(1, bool), (BILLION,))
    assert by_chance(many, 1, none, none, 0) is None


def test_an_audit_of_a_hundred_million_images(request: pytest.FixtureRequest) -> None:
    """Every fourth image is of the first group, which loses 3 %; psi is 3/4 of that, 2.25 %."""
    if not request.config.getoption("--thorough"):
        pytest.skip("make reliability")
    n = 10**8
    place = torch.arange(n)
    groups = (place % 4 != 0).long()[:, None]
    sparse = ~((place % 4 == 0) & (place // 4 % 100 < 3))
    given = Paired("test", torch.ones(n, dtype=torch.bool), sparse, groups)
    for eps, verdict in ((0.0224, "FAIL"), (0.0226, "PASS")):
        found = audit([given], TWO, Policy(eps=eps))
        first, second = found.groups
        assert (first.n, first.lost, second.n, second.lost) == (n // 4, 750_000, 3 * n // 4, 0)
        assert first.excess_gap == 0.0225
        assert second.excess_gap == -0.0075
        assert first.verdict == verdict
        assert found.splits[0].acc_sparse == 0.9925
