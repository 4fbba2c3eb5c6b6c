from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep
from typer.testing import CliRunner

import ceag_cli
from ceag_cli.cli import app
from ceag_cli.confusion import MOST_CLASSES, confusion, total_variation
from ceag_cli.intervals import Counts, psi_bounds, quantile_of
from ceag_cli.means import (
    FEWEST,
    Bounded,
    benjamini_hochberg,
    bounded,
    excess_share,
    excess_share_p,
    mcnemar,
    mean_shift,
    summed,
    wilson,
)
from ceag_cli.predictions import read_answers
from ceag_cli.shiftreport import shift_html, shift_lines
from ceag_cli.shifts import Answers, GroupShift, Said, Shifts, answers_of, document, shifts
from ceag_cli.strata import MOST, PARTS, Strata, confidence_strata, stratified

NAN = float("nan")


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def answers(
    label: Any, dense: Any, sparse: Any, group: Any, names: str = "ab", **more: Any
) -> Answers:
    """Two models' answers; groups of one feature."""
    said = {
        model: Said(
            np.array(predicted, np.int64),
            more.pop(f"{model}_p", None),
            more.pop(f"{model}_loss", None),
        )
        for model, predicted in (("dense", dense), ("sparse", sparse))
    }
    return Answers(
        split="test",
        label=np.array(label, np.int64),
        dense=said["dense"],
        sparse=said["sparse"],
        groups=np.array(group, np.int64).reshape(-1, 1),
        names=[("letter", name) for name in names],
        **more,
    )


# Group a: right twice, lost, gained, both wrong in different ways. Group b: right five times, lost.
LABEL = [0, 0, 1, 2, 1, 1, 1, 1, 1, 2]
DENSE = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
SPARSE = [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
GROUP = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
TEN = answers(LABEL, DENSE, SPARSE, GROUP, classes=("cat", "dog", "owl"))


def value(found: Bounded | None) -> float:
    assert found is not None
    return found.value


# Churn and its kin


def test_churn_and_flips_by_hand() -> None:
    found = shifts(TEN)
    a, b = found.groups
    assert (a.n, a.lost, a.gained, a.lateral) == (4, 1, 1, 1)
    assert (b.n, b.lost, b.gained, b.lateral) == (6, 1, 0, 0)
    overall = found.overall
    assert (overall.n, overall.lost, overall.gained, overall.lateral) == (10, 2, 1, 1)
    assert [value(g.churn) for g in (a, b, overall)] == [0.75, 1 / 6, 0.4]
    assert [g.flips for g in (a, b, overall)] == [0.5, 1 / 6, 0.3]
    assert [value(g.negative_flips) for g in (a, b, overall)] == [0.25, 1 / 6, 0.2]
    # Of the 2 and 6 that the dense model gets right, the sparse one keeps all but one.
    assert [value(g.backward_compatibility) for g in (a, b)] == [0.5, 5 / 6]
    assert value(a.excess_churn) == pytest.approx(0.75 - 0.4)
    assert value(b.excess_churn) == pytest.approx(1 / 6 - 0.4)
    assert overall.excess_churn == Bounded(0.0, 0.0, 0.0)


def test_accuracy_with_exact_bounds_by_hand() -> None:
    a, b = shifts(TEN).groups
    assert [value(x) for x in (a.acc_dense, a.acc_sparse)] == [0.5, 0.5]
    # Six of six: the probability of that is 5 % for an accuracy of 0.05^(1/6).
    assert b.acc_dense is not None
    assert b.acc_dense.lower == pytest.approx(0.05 ** (1 / 6))
    assert b.acc_dense.upper == 1.0


def test_the_worst_groups() -> None:
    found = shifts(TEN)
    assert found.worst_accuracy_dense is not None
    assert (found.worst_accuracy_dense.value, found.worst_accuracy_dense.share.value) == ("a", 0.5)
    assert found.worst_accuracy_sparse is not None
    assert (found.worst_accuracy_sparse.feature, found.worst_accuracy_sparse.n) == ("letter", 4)
    assert found.worst_churn is not None
    assert found.worst_churn.value == "a"


def test_the_worst_churn_is_the_best_shown_one_not_that_of_the_smallest_group() -> None:
    # One image of one changed; 50 of 100 changed.
    sparse = [1] + [1] * 50 + [0] * 50
    found = shifts(answers([0] * 101, [0] * 101, sparse, [0] + [1] * 100))
    assert found.worst_churn is not None
    assert found.worst_churn.value == "b"


def test_a_group_without_images_and_one_that_the_dense_model_never_gets_right() -> None:
    found = shifts(answers([1, 0], [0, 0], [1, 0], [0, 1], "abc"))
    a, _, c = found.groups
    assert a.backward_compatibility is None
    assert value(a.acc_sparse) == 1.0
    shares = (c.churn, c.excess_churn, c.flips, c.negative_flips, c.backward_compatibility)
    assert shares == (None,) * 5
    assert (c.acc_dense, c.acc_sparse, c.total_variation, c.loss) == (None,) * 4


def test_a_split_without_images() -> None:
    found = shifts(answers([], [], [], []))
    assert found.overall.n == 0
    assert found.worst_churn is None
    assert found.confusion.by_class == ()
    json.dumps(document(found), allow_nan=False)
    assert shift_lines(found) == []
    assert shift_html(found) == ""


# Bounds


def test_wilson_by_hand_and_against_scipy() -> None:
    # Without successes the upper bound q solves q^2 = z^2 q (1 - q) / n: q = z^2 / (n + z^2).
    lower, upper = wilson(0, 96, 2.0)
    assert (float(lower), float(upper)) == pytest.approx((0.0, 0.04))
    lower, upper = wilson(96, 96, 2.0)
    assert (float(lower), float(upper)) == pytest.approx((0.96, 1.0))
    z = quantile_of(0.05)
    for count, n in ((0, 5), (1, 7), (3, 10), (50, 1000), (9, 9)):
        interval = stats.binomtest(count, n).proportion_ci(0.9, "wilson")
        assert [float(x) for x in wilson(count, n, z)] == pytest.approx(list(interval), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "n", "all_x", "all_n"), [(3, 10, 9, 60), (0, 8, 4, 20), (7, 7, 9, 30)]
)
def test_excess_share_is_newcombe_s_interval_of_two_disjoint_shares(
    x: int, n: int, all_x: int, all_n: int
) -> None:
    found = [float(v) for v in excess_share(x, n, all_x, all_n, 0.05)]
    low, high = confint_proportions_2indep(
        x, n, all_x - x, all_n - n, method="newcomb", compare="diff", alpha=0.1
    )
    weight = (all_n - n) / all_n
    assert found == pytest.approx([x / n - all_x / all_n, weight * low, weight * high], abs=1e-12)


def test_the_exact_interval_of_an_excess_share_is_wider() -> None:
    _, low, high = excess_share(3, 10, 9, 60, 0.05, "exact")
    _, score_low, score_high = excess_share(3, 10, 9, 60, 0.05)
    assert float(low) < float(score_low)
    assert float(high) > float(score_high)
    # Four fifths of alpha on the group, one on the rest.
    group = stats.binomtest(3, 10).proportion_ci(1 - 0.08, "exact")
    rest = stats.binomtest(6, 50).proportion_ci(1 - 0.02, "exact")
    assert float(high) == pytest.approx(50 / 60 * (group.high - rest.low))


def test_excess_share_of_everybody_and_of_nobody() -> None:
    assert [float(v) for v in excess_share(3, 10, 3, 10, 0.05)] == [0, 0, 0]
    assert all(math.isnan(float(v)) for v in excess_share(0, 0, 3, 10, 0.05))


@pytest.mark.parametrize("interval", ["score", "exact"])
def test_at_p_the_lower_bound_of_an_excess_share_is_zero(interval: str) -> None:
    count, n = np.array([6, 30, 9, 2, 0, 10]), np.array([10, 60, 40, 40, 0, 10])
    found = excess_share_p(count, n, 57, 160, interval)
    assert found[3] == 1  # below that of all
    assert math.isnan(found[4])  # nobody
    for g in (0, 1, 5):
        assert 0 < found[g] < 0.5
        _, lower, _ = excess_share(count[g], n[g], 57, 160, float(found[g]), interval)
        assert float(lower) == pytest.approx(0, abs=1e-9)
        for alpha, shown in ((found[g] * 1.01, True), (found[g] * 0.99, False)):
            _, lower, _ = excess_share(count[g], n[g], 57, 160, float(alpha), interval)
            assert (float(lower) > 0) is shown
    assert found[5] < found[0]  # 10 of 10 say more than 6 of 10
    everybody = excess_share_p(57, 160, 57, 160, interval)
    assert float(everybody) == 1
    assert excess_share_p(np.array([]), np.array([]), 0, 0).shape == (0,)


def test_p_of_an_excess_share_is_seldom_small_by_chance() -> None:
    """Exactly, by enumeration: the same share in a group of 20 and in the 60 others."""
    x, y = np.meshgrid(np.arange(21), np.arange(61), indexing="ij")
    p = excess_share_p(x, 20, x + y, 80, "exact")
    weight = np.outer(
        stats.binom.pmf(np.arange(21), 20, 0.1), stats.binom.pmf(np.arange(61), 60, 0.1)
    )
    for alpha in (0.05, 0.01, 0.001):
        assert weight[p <= alpha].sum() <= alpha


def coverage(n: int, rest: int, p: float, q: float, alpha: float) -> tuple[float, float]:
    """How often the true excess churn is below the lower and above the upper bound, exactly."""
    x, y = np.meshgrid(np.arange(n + 1), np.arange(rest + 1), indexing="ij")
    _, low, high = excess_share(x, n, x + y, n + rest, alpha)
    truth = rest / (n + rest) * (p - q)
    weight = np.outer(
        stats.binom.pmf(np.arange(n + 1), n, p), stats.binom.pmf(np.arange(rest + 1), rest, q)
    )
    return float(weight[truth < low - 1e-12].sum()), float(weight[truth > high + 1e-12].sum())


@pytest.mark.parametrize(("n", "rest"), [(10, 40), (40, 160), (100, 100)])
@pytest.mark.parametrize(("p", "q"), [(0.05, 0.05), (0.1, 0.05), (0.3, 0.1), (0.5, 0.5)])
def test_bounds_of_excess_churn_hold_by_enumeration(n: int, rest: int, p: float, q: float) -> None:
    assert max(coverage(n, rest, p, q, 0.05)) < 1.8 * 0.05


def test_mcnemar_by_hand_and_against_scipy() -> None:
    # 5 to 0: twice 1/32. 3 to 1: twice (1 + 4) / 16. Nothing moved: nothing is shown.
    assert mcnemar([5, 0, 3, 0, 2], [0, 5, 1, 0, 2]).tolist() == [0.0625, 0.0625, 0.625, 1, 1]
    rng = np.random.default_rng(0)
    b, c = rng.integers(0, 40, 50), rng.integers(0, 40, 50)
    expected = [
        stats.binomtest(int(x), int(x + y)).pvalue if x + y else 1
        for x, y in zip(b, c, strict=True)
    ]
    assert mcnemar(b, c).tolist() == pytest.approx(expected)


def test_benjamini_hochberg_by_hand_and_against_statsmodels() -> None:
    # Sorted 0.01, 0.02, 0.04 times 3/1, 3/2, 3/3.
    assert benjamini_hochberg(np.array([0.04, 0.01, 0.02])).tolist() == [0.04, 0.03, 0.03]
    assert benjamini_hochberg(np.array([])).tolist() == []
    p = np.random.default_rng(0).random(40) ** 3
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


# Means: confidence, loss


def scored(n_a: int = 150, n_b: int = 130, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    before = rng.exponential(1.0, n_a + n_b)
    after = before + rng.normal(0.1, 0.5, n_a + n_b)
    return before, after, np.repeat([0, 1], [n_a, n_b])


def test_shifts_of_means_are_student_s_and_their_excess_welch_s() -> None:
    before, after, group = scored()
    (shift, low, high), (excess, excess_low, excess_high) = mean_shift(
        before, after, group[:, None], 2, 0.05
    )
    d = after - before
    for g in (0, 1):
        student = stats.ttest_rel(after[group == g], before[group == g]).confidence_interval(0.9)
        assert (low[g], high[g]) == pytest.approx(tuple(student))
        welch = stats.ttest_ind(d[group == g], d[group != g], equal_var=False)
        rest = float((group != g).mean())
        expected = [rest * x for x in welch.confidence_interval(0.9)]
        assert (excess_low[g], excess_high[g]) == pytest.approx(tuple(expected))
        assert shift[g] == pytest.approx(d[group == g].mean())
        assert excess[g] == pytest.approx(d[group == g].mean() - d.mean())


def test_few_images_have_no_bounds_of_means() -> None:
    before, after, group = scored(FEWEST - 1, FEWEST)
    (shift, low, _), (excess, _, excess_high) = mean_shift(before, after, group[:, None], 3, 0.05)
    assert np.isnan(low).tolist() == [True, False, True]
    assert np.isnan(excess_high).tolist() == [True, True, True]  # the rest of b is a
    assert np.isnan(shift).tolist() == np.isnan(excess).tolist() == [False, False, True]


def test_images_that_all_shift_alike_have_no_bounds_of_means() -> None:
    # Without variation Student's bounds would have no width, which claims certainty.
    before, after, group = scored()
    after[group == 0] = before[group == 0] + 0.1
    (shift, low, _), (_, excess_low, _) = mean_shift(before, after, group[:, None], 2, 0.05)
    assert shift[0] == pytest.approx(0.1)
    assert np.isnan(low).tolist() == [True, False]
    assert np.isnan(excess_low).all()


def test_confidence_and_loss_by_hand() -> None:
    # Dense: sure of 0.5 and right half of the time. Sparse: sure of 0.75, right a quarter.
    n = 200
    label, dense = [0] * n, [0, 1] * (n // 2)
    sparse = [0, 1, 1, 1] * (n // 4)
    found = shifts(
        answers(
            label,
            dense,
            sparse,
            [0] * n,
            "ab",
            dense_p=np.full(n, 0.5),
            sparse_p=np.full(n, 0.75),
            dense_loss=np.full(n, math.log(2)),
            sparse_loss=np.full(n, math.log(4)),
        )
    )
    over, loss, brier = (
        found.groups[0].overconfidence,
        found.groups[0].loss,
        found.groups[0].label_brier,
    )
    assert over is not None
    assert (over.dense, over.sparse, over.shift.value) == (0.0, 0.5, 0.5)
    assert over.shift.lower is not None
    assert over.shift.lower < 0.5
    assert over.excess == Bounded(0.0, 0.0, 0.0)  # the group is everybody
    assert loss is not None
    assert loss.shift.value == pytest.approx(math.log(2))
    assert brier is not None
    # (1 - 1/2)^2 and (1 - 1/4)^2.
    assert (brier.dense, brier.sparse) == pytest.approx((0.25, 0.5625))
    assert found.groups[1].overconfidence is None


def test_without_probabilities_there_is_nothing_about_them() -> None:
    found = shifts(TEN)
    assert found.by_confidence is None
    assert found.overall.overconfidence is None
    # Of one model alone neither.
    only = replace(TEN, sparse=replace(TEN.sparse, confidence=np.full(10, 0.5)))
    assert shifts(only).overall.overconfidence is None


# Confusion


def test_confusion_by_hand() -> None:
    found = shifts(TEN).confusion
    assert found.classes == 3
    assert found.dense is not None
    assert found.sparse is not None
    assert found.dense.tolist() == [[2, 0, 0], [1, 5, 0], [1, 0, 1]]
    assert found.sparse.tolist() == [[1, 1, 0], [0, 6, 0], [1, 1, 0]]
    assert found.rows(found.dense).tolist() == [[1, 0, 0], [1 / 6, 5 / 6, 0], [0.5, 0, 0.5]]
    # cat as dog, dog as cat, owl as both; what is right is tested by class.
    assert found.tested == 4
    assert [(c.label, c.predicted, c.dense, c.sparse, c.moved) for c in found.cells] == [
        ("cat", "dog", 0, 1, 1),
        ("dog", "cat", 1, 0, -1),
        ("owl", "dog", 0, 1, 1),
    ]
    assert [(c.share_dense, c.share_sparse) for c in found.cells] == [
        (0, 0.5),
        (1 / 6, 0),
        (0, 0.5),
    ]
    cat, dog, owl = found.by_class
    assert (cat.name, cat.n, cat.predicted_dense, cat.predicted_sparse) == ("cat", 2, 4, 2)
    assert (cat.recall_dense, cat.recall_sparse, cat.recall_drop) == (1.0, 0.5, 0.5)
    assert (cat.precision_dense, cat.precision_sparse, cat.precision_drop) == (0.5, 0.5, 0.0)
    assert (cat.share_ratio, cat.total_variation, cat.p, cat.q) == (0.5, 0.5, 1.0, 1.0)
    assert [dog.recall_drop, dog.share_ratio] == pytest.approx([-1 / 6, 8 / 5])
    assert (owl.precision_dense, owl.precision_sparse, owl.precision_drop) == (1.0, None, None)


def test_images_that_go_both_ways_leave_a_cell_as_it_was() -> None:
    # Four cats become dogs, four dogs among the cats become cats again: the cell has not moved.
    found = confusion(ints(*[0] * 8), ints(*[0] * 4, *[1] * 4), ints(*[1] * 4, *[0] * 4), "cd")
    assert found.cells == ()
    assert found.tested == 1
    assert found.by_class[0].p == 1.0
    assert found.by_class[0].total_variation == 0.0


def test_a_move_that_is_no_accident_is_told_from_one_that_may_be() -> None:
    label = [0] * 20 + [1] * 20
    sparse = [1] * 10 + [0] * 10 + [0] + [1] * 19
    first, second = confusion(ints(*label), ints(*label), ints(*sparse), "cd").cells
    # Ten to none: 2 / 2^10, the smaller one of two cells: times 2.
    assert (first.label, first.p, first.q) == ("c", 2 / 1024, 4 / 1024)
    assert (second.label, second.p, second.q) == ("d", 1.0, 1.0)


def test_the_cells_of_mistakes_are_corrected_for_no_others() -> None:
    """Eight of c become d, e, f, g, two each: p is .5 of four cells, and 2 / 2^8 of one class."""
    label, sparse = [0] * 9, [0, 1, 1, 2, 2, 3, 3, 4, 4]
    found = confusion(ints(*label), ints(*label), ints(*sparse), "cdefg")
    assert (found.tested, [cell.q for cell in found.cells]) == (4, [0.5] * 4)
    assert (found.by_class[0].p, found.by_class[0].q) == (2 / 256, 2 / 256)
    assert [c.q for c in found.by_class[1:]] == [None] * 4


def test_an_answer_that_is_no_label_and_classes_without_names() -> None:
    found = confusion(ints(0, 0), ints(0, 0), ints(0, 5), ("cat",))
    assert [(c.label, c.predicted, c.moved) for c in found.cells] == [("cat", "5", 1)]
    assert [c.name for c in found.by_class] == ["cat", "1", "2", "3", "4", "5"]
    assert (found.by_class[5].n, found.by_class[5].recall_dense) == (0, None)
    assert found.by_class[5].share_ratio is None  # never predicted before


def test_many_classes_have_cells_but_no_matrix() -> None:
    number = MOST_CLASSES + 1
    label = np.arange(number)
    found = confusion(label, label, np.roll(label, 1), ())
    assert found.dense is None
    assert len(found.by_class) == number
    assert found.cells[0].moved == 1


def test_total_variation_by_hand() -> None:
    # Group a: four cats become one cat and three dogs. Group b: one owl becomes a cat.
    a, b = shifts(TEN).groups
    assert (a.total_variation, b.total_variation) == (0.75, 1 / 6)
    # Two images that swap their answers change nothing in sum.
    assert total_variation(ints(0, 0)[:, None], 1, ints(0, 1), ints(1, 0)).tolist() == [0.0]


# Within strata


def within(
    group: Any, level: Any, lost: Any, names: str = "ab", levels: Any = ("old", "young")
) -> Strata:
    flags = np.array(lost, bool)
    return stratified(
        "age",
        np.array(level),
        levels,
        np.array(group)[:, None],
        [("letter", name) for name in names],
        flags,
        np.zeros(len(flags), bool),
        flags,
        0.05,
    )


def test_a_gap_that_the_mix_of_levels_explains() -> None:
    # Every old image is lost, no young one. Group a has three old ones of four, b one of four.
    found = within([0] * 4 + [1] * 4, [0, 0, 0, 1, 0, 1, 1, 1], [1, 1, 1, 0, 1, 0, 0, 0])
    assert [(x.value, x.n, x.churn, x.gap) for x in found.levels] == [
        ("old", 4, 1.0, 1.0),
        ("young", 4, 0.0, 0.0),
    ]
    a, b = found.groups
    assert (a.psi.total, a.psi.explained, a.psi.within.value) == (0.25, 0.25, 0.0)
    assert (b.psi.total, b.psi.explained, b.psi.standardised.value) == (-0.25, -0.25, 0.0)
    assert a.excess_churn.explained == 0.25
    assert {(c.value, c.level, c.n, c.psi.value) for c in found.cells} == {
        ("a", "old", 3, 0.0),
        ("a", "young", 1, 0.0),
        ("b", "old", 1, 0.0),
        ("b", "young", 3, 0.0),
    }


def test_a_gap_that_no_level_explains() -> None:
    found = within([0, 0, 1, 1] * 2, [0] * 4 + [1] * 4, [1, 1, 0, 0] * 2)
    a, b = found.groups
    assert (a.psi.total, a.psi.explained, a.psi.within.value) == (0.5, 0.0, 0.5)
    assert (b.psi.total, b.psi.within.value, b.psi.standardised.value) == (-0.5, -0.5, -0.5)
    assert a.coverage == b.coverage == 1.0


def test_a_group_that_a_level_lacks_is_standardised_over_the_others() -> None:
    # Group a has only old images, one of two lost; of b's six, four are young. None is lost.
    found = within([0, 0] + [1] * 6, [0] * 4 + [1] * 4, [1] + [0] * 7)
    a = found.groups[0]
    assert a.coverage == 0.5
    # 1/2 less 1/4 of the old; 1/2 less 1/8 of all.
    assert (a.psi.within.value, a.psi.standardised.value) == (0.25, 0.25)
    assert (a.psi.total, a.psi.explained) == (0.375, 0.125)


def test_uneven_levels_have_common_weights_when_standardised() -> None:
    # Old: 8 images, a's one lost, psi 1 - 1/8. Young: 8, a has 3 of them, none is lost: psi 0.
    group, level = [0] + [1] * 7 + [0] * 3 + [1] * 5, [0] * 8 + [1] * 8
    a = within(group, level, [1] + [0] * 15).groups[0]
    assert a.psi.within.value == pytest.approx(7 / 8 / 4)
    assert a.psi.standardised.value == pytest.approx(7 / 8 / 2)


def test_one_level_gives_psi_and_its_bounds() -> None:
    rng = np.random.default_rng(0)
    group, lost = rng.integers(0, 3, 300), rng.random(300) < 0.2
    found = within(group, [0] * 300, lost, "abc", ("all",))
    n, b = (np.bincount(group, w, 3) for w in (None, lost))
    zero, total = np.zeros(3), np.full(3, 300.0)
    counts = Counts(
        n.astype(float), b.astype(float), zero, total, np.full(3, float(lost.sum())), zero
    )
    psi, low, high = psi_bounds(counts, quantile_of(0.05))
    for g, row in enumerate(found.groups):
        for part in (row.psi.within, row.psi.standardised):
            assert (part.value, part.lower, part.upper) == pytest.approx((psi[g], low[g], high[g]))
        assert row.psi.explained == pytest.approx(0.0, abs=1e-15)


def test_bounds_over_two_levels_are_put_together() -> None:
    found = within([0, 0, 1, 1, 1] * 8, [0] * 20 + [1] * 20, [1, 0, 0, 0, 0] * 8)
    a = found.groups[0]
    old, young = (c.psi for c in found.cells if c.value == "a")
    assert old == young  # the same counts in both levels
    assert old.upper is not None
    assert a.psi.within.upper == pytest.approx(
        old.value + math.hypot(0.5 * (old.upper - old.value), 0.5 * (old.upper - old.value))
    )


def test_the_order_of_levels_and_equal_cells_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    group, level, lost = rng.integers(0, 3, 400), rng.integers(0, 4, 400), rng.random(400) < 0.1
    found = within(group, level, lost, "abc", "wxyz")
    other = within(group, 3 - level, lost, "abc", "zyxw")
    for one, two in zip(found.groups, other.groups, strict=True):
        assert one.psi.within.value == pytest.approx(two.psi.within.value)
        assert one.psi.within.lower == pytest.approx(two.psi.within.lower)


def test_of_very_many_groups_levels_and_cells_some_are_listed() -> None:
    # Every image a group and every two a level; one of the first two images is lost.
    number = 2 * MOST + 2
    lost = np.arange(number) == 1
    found = stratified(
        "age",
        np.arange(number) // 2,
        [],
        np.arange(number)[:, None],
        [("letter", str(i)) for i in range(number)],
        lost,
        lost & False,
        lost,
        0.05,
    )
    assert (found.levels_in_all, found.groups_in_all, found.cells_in_all) == (
        MOST + 1,
        number,
        number,
    )
    assert len(found.levels) == len(found.groups) == len(found.cells) == MOST
    assert [(c.value, c.level, c.psi.value) for c in found.cells[:2]] == [
        ("0", "0", -0.5),
        ("1", "0", 0.5),
    ]
    assert [group.value for group in found.groups[:2]] == ["0", "1"]


def test_psi_within_levels_is_that_of_fairlearn_with_control_features() -> None:
    rng = np.random.default_rng(2)
    n = 3000
    label, group, level = rng.integers(0, 5, n), rng.integers(0, 4, n), rng.integers(0, 3, n)
    dense = np.where(rng.random(n) < 0.8, label, rng.integers(0, 5, n))
    sparse = np.where(rng.random(n) < 0.6 + 0.05 * group, dense, rng.integers(0, 5, n))
    found = shifts(
        answers(label, dense, sparse, group, "abcd", control="age", strata=level, levels="xyz")
    ).control
    assert found is not None

    def accuracy(y_true: Any, y_pred: Any) -> float:
        return float((y_true == y_pred).mean())

    frames = [
        MetricFrame(
            metrics=accuracy,
            y_true=label,
            y_pred=said,
            sensitive_features=group,
            control_features=level,
        )
        for said in (dense, sparse)
    ]
    gap = frames[0].by_group - frames[1].by_group
    overall = frames[0].overall - frames[1].overall
    assert len(found.cells) == found.cells_in_all == 12
    for cell in found.cells:
        k, g = "xyz".index(cell.level), "abcd".index(cell.value)
        assert cell.psi.value == pytest.approx(gap[k, g] - overall[k])
    for g, row in enumerate(found.groups):
        mine = group == g
        expected = sum(
            float((mine & (level == k)).sum() / mine.sum()) * (gap[k, g] - overall[k])
            for k in range(3)
        )
        assert row.psi.within.value == pytest.approx(expected)


def test_strata_of_confidence_hold_equally_many_images() -> None:
    strata, names = confidence_strata(np.arange(100) / 100)
    assert np.bincount(strata).tolist() == [20] * PARTS
    assert names[0] == "0.000 to 0.190"
    assert names[-1] == "0.800 to 0.990"


def test_equal_confidences_stay_together() -> None:
    strata, names = confidence_strata(np.array([1.0] * 95 + [0.5] * 5))
    assert sorted(np.bincount(strata).tolist()) == [5, 95]
    assert names == ["0.500 to 0.500", "1.000 to 1.000"]
    assert confidence_strata(np.array([]))[1] == []
    assert confidence_strata(np.array([1.0, 1.0]))[1] == ["1.000 to 1.000"]


def test_flips_that_confidence_explains() -> None:
    # The dense model is less sure of a's images, and of both groups those of which it is not sure
    # change: 0.3 of all images, more of a.
    n = 1000
    group = [0] * 500 + [1] * 500
    sure = np.array(([0.4] * 200 + [0.9] * 300) + ([0.4] * 100 + [0.9] * 400))
    sparse = (sure < 0.5).astype(int)
    found = shifts(answers([0] * n, [0] * n, sparse, group, dense_p=sure)).by_confidence
    assert found is not None
    assert [(level.n, level.churn) for level in found.levels] == [(300, 1.0), (700, 0.0)]
    a = found.groups[0].excess_churn
    assert [a.total, a.explained] == pytest.approx([0.1, 0.1])
    assert a.within.value == 0.0


# Against slow loops


def slow(table: Sequence[list[int]], g: int) -> dict[str, Fraction | None]:
    def share(flags: list[bool]) -> Fraction | None:
        return Fraction(sum(flags), len(flags)) if flags else None

    rows = list(zip(*table, strict=True))
    mine = [(y, d, s) for y, d, s, which in rows if which == g]
    overall = share([d != s for _, d, s, _ in rows])
    churn = share([d != s for _, d, s in mine])
    return {
        "churn": churn,
        "excess_churn": None if churn is None or overall is None else churn - overall,
        "flips": share([(d == y) != (s == y) for y, d, s in mine]),
        "negative_flips": share([d == y and s != y for y, d, s in mine]),
        "backward_compatibility": share([s == y for y, d, s in mine if d == y]),
        "acc_dense": share([d == y for y, d, _ in mine]),
        "acc_sparse": share([s == y for y, _, s in mine]),
        "total_variation": None
        if not mine
        else sum(
            (
                abs(Fraction(sum(s == j for _, _, s in mine) - sum(d == j for _, d, _ in mine)))
                for j in range(4)
            ),
            Fraction(),
        )
        / (2 * len(mine)),
    }


@st.composite
def tables(draw: st.DrawFn) -> Answers:
    n = draw(st.integers(0, 60))

    def column(most: int) -> list[int]:
        return draw(st.lists(st.integers(0, most), min_size=n, max_size=n))

    def probabilities() -> Any:
        return np.array(draw(st.lists(st.floats(0.01, 1), min_size=n, max_size=n)))

    return answers(
        column(3),
        column(3),
        column(3),
        column(2),
        "abc",
        dense_p=probabilities(),
        sparse_p=probabilities(),
        dense_loss=-np.log(probabilities()),
        sparse_loss=-np.log(probabilities()),
        control="age",
        strata=np.array(column(1), np.int64),
        levels=("old", "young"),
    )


SHARES = (
    "churn",
    "excess_churn",
    "flips",
    "negative_flips",
    "backward_compatibility",
    "acc_dense",
    "acc_sparse",
    "total_variation",
)


def number(found: Any) -> float | None:
    return found.value if isinstance(found, Bounded) else found


@settings(deadline=None, max_examples=50)
@given(tables())
def test_shares_are_those_of_slow_loops(table: Answers) -> None:
    found = shifts(table)
    columns = (table.label, table.dense.predicted, table.sparse.predicted, table.groups[:, 0])
    lists = [column.tolist() for column in columns]
    for g, group in enumerate(found.groups):
        for name, expected in slow(lists, g).items():
            got = number(getattr(group, name))
            if expected is None:
                assert got is None, name
            else:
                assert got == pytest.approx(float(expected), abs=1e-12), name


@settings(deadline=None, max_examples=50)
@given(tables())
def test_what_holds_of_any_table(table: Answers) -> None:
    found = shifts(table)
    json.dumps(document(found), allow_nan=False)
    for group in (*found.groups, found.overall):
        if not group.n:
            continue
        assert value(group.churn) == pytest.approx(
            (group.lost + group.gained + group.lateral) / group.n
        )
        assert group.total_variation is not None
        assert group.total_variation <= value(group.churn) + 1e-12
        for name in SHARES:
            share = getattr(group, name)
            if isinstance(share, Bounded):
                assert share.lower is not None
                assert share.upper is not None
                assert share.lower - 1e-12 <= share.value <= share.upper + 1e-12
    # Weighted by their sizes, the excesses of the groups of a feature sum to nothing.
    excess = [group.n * group.excess_churn.value for group in found.groups if group.excess_churn]
    assert sum(excess) == pytest.approx(0, abs=1e-9)
    moved: dict[str, float] = {}
    for c in found.confusion.by_class:
        moved[c.name] = c.predicted_sparse - c.predicted_dense
    assert sum(moved.values()) == 0
    for strata in (found.control, found.by_confidence):
        assert strata is not None
        for row in strata.groups:
            assert row.psi.explained + row.psi.within.value == pytest.approx(row.psi.total)
            assert 0 < row.coverage <= 1
            everywhere = all(
                any((c.value, c.level) == (row.value, level.value) for c in strata.cells)
                for level in strata.levels
            )
            assert (row.coverage == 1) is everywhere
        assert sum(level.n for level in strata.levels) == len(table.label)


def negated(one: Bounded | None, other: Bounded | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = ((one.value, other.value), (one.lower, other.upper), (one.upper, other.lower))
    return all(
        a is b is None or (a is not None and b is not None and abs(a + b) < 1e-9) for a, b in pairs
    )


@settings(deadline=None, max_examples=50)
@given(tables())
def test_swapping_the_models_negates_every_shift(table: Answers) -> None:
    there = shifts(table)
    back = shifts(replace(table, dense=table.sparse, sparse=table.dense))
    for one, other in zip(there.groups, back.groups, strict=True):
        assert one.churn == other.churn
        assert one.excess_churn == other.excess_churn
        assert (one.lost, one.gained, one.lateral) == (other.gained, other.lost, other.lateral)
        assert one.acc_dense == other.acc_sparse
        for name in ("overconfidence", "loss", "label_brier"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None) is (b is None)
            if a is not None:
                assert negated(a.shift, b.shift)
                assert negated(a.excess, b.excess)
    assert there.control is not None
    assert back.control is not None
    for row, turned in zip(there.control.groups, back.control.groups, strict=True):
        assert negated(row.psi.within, turned.psi.within)
        assert row.psi.total == pytest.approx(-turned.psi.total)
        assert row.excess_churn == turned.excess_churn
    cells = {(c.label, c.predicted): c.moved for c in there.confusion.cells}
    assert cells == {(c.label, c.predicted): -c.moved for c in back.confusion.cells}


@settings(deadline=None, max_examples=50)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(table: Answers, random: Any) -> None:
    order = list(range(len(table.label)))
    random.shuffle(order)
    rows = np.array(order, np.int64)

    def only(said: Said) -> Said:
        assert said.confidence is not None
        assert said.loss is not None
        return Said(said.predicted[rows], said.confidence[rows], said.loss[rows])

    assert table.strata is not None
    mixed = replace(
        table,
        label=table.label[rows],
        dense=only(table.dense),
        sparse=only(table.sparse),
        groups=table.groups[rows],
        strata=table.strata[rows],
    )
    assert rounded(document(shifts(table))) == rounded(document(shifts(mixed)))


def rounded(found: Any) -> Any:
    """Numbers without the last digits, which depend on the order of a sum."""
    if isinstance(found, dict):
        return {key: rounded(item) for key, item in found.items()}
    if isinstance(found, list):
        return [rounded(item) for item in found]
    return round(found, 8) + 0.0 if isinstance(found, float) else found


def test_groups_of_several_features_are_those_of_each_feature_alone() -> None:
    rng = np.random.default_rng(4)
    n = 400
    label, dense, sparse = (rng.integers(0, 3, n) for _ in range(3))
    race, age = rng.integers(0, 2, n), rng.integers(0, 3, n)
    names = [("race", "x"), ("race", "y"), ("age", "u"), ("age", "v"), ("age", "w")]
    both = replace(
        answers(label, dense, sparse, race), groups=np.column_stack([race, 2 + age]), names=names
    )
    alone = [
        group
        for ids, called in ((race, names[:2]), (age, names[2:]))
        for group in shifts(replace(answers(label, dense, sparse, ids), names=called)).groups
    ]
    assert list(shifts(both).groups) == alone


# Columns


def test_bounded_tells_what_is_not_known() -> None:
    found = bounded(np.array([NAN, 1.0, 2.0]), np.array([0.0, NAN, 1.0]), np.array([0.0, NAN, 3.0]))
    assert found == [None, Bounded(1.0, None, None), Bounded(2.0, 1.0, 3.0)]


def test_summed_counts_flags_and_numbers_over_all_features() -> None:
    ids = np.array([[0, 2], [1, 2]])
    assert summed(ids, None, 3).tolist() == [1, 1, 2]
    assert summed(ids, np.array([True, False]), 3).tolist() == [1, 0, 1]
    assert summed(ids, np.array([0.5, 2.0]), 3).tolist() == [0.5, 2.0, 2.5]


# From a table


CSV = """\
id,label,split,dense,sparse,dense_p,sparse_p,dense_p_label,sparse_p_label,race,age
1,cat,test,cat,dog,0.5,0.75,0.5,0.25,x,old
2,dog,train,dog,dog,0.5,0.5,0.5,0.5,x,old
3,cat,test,cat,cat,1,1,1,1,y,
4,dog,test,owl,dog,0.5,0.5,0,0.5,y,old
"""


def test_images_that_belong_together_are_known_and_spoken_of(tmp_path: Path) -> None:
    """Of the rows of test, 1 and 4 are of one person. No. 2 is of train."""
    people = CSV.replace("age\n", "age,person\n").replace(",old\n", ",old,ann\n")
    (tmp_path / "p.csv").write_text(people.replace(",y,\n", ",y,,bob\n"))
    table = read_answers(tmp_path / "p.csv", cluster_id="person", control=["age"])
    found = answers_of(table, "test")
    assert found.clusters is not None
    assert found.clusters.tolist() == [0, 1, 0]
    whole = shifts(found)
    assert whole.clustered
    assert shift_lines(whole)[-1].startswith("images that belong together count as fewer here; ")
    apart = shifts(replace(found, clusters=None))
    assert not any("belong together" in line for line in shift_lines(apart))
    assert apart.overall.churn is not None
    assert whole.overall.churn is not None
    assert whole.overall.churn.value == apart.overall.churn.value
    assert whole.overall.churn.lower < apart.overall.churn.lower  # type: ignore[operator]
    assert whole.overall.churn.upper > apart.overall.churn.upper  # type: ignore[operator]


def test_answers_of_a_table_and_its_control_column(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(CSV)
    table = read_answers(tmp_path / "p.csv", control=["age"])
    found = answers_of(table, "test", ["age"])
    assert found.classes == ("cat", "dog", "owl")
    assert [found.classes[k] for k in found.label] == ["cat", "cat", "dog"]
    assert [found.classes[k] for k in found.sparse.predicted] == ["dog", "cat", "dog"]
    assert found.names == (("race", "x"), ("race", "y"))
    assert found.groups.tolist() == [[0], [1], [1]]
    assert found.strata is not None
    assert [found.levels[k] for k in found.strata] == ["old", "<missing>", "old"]
    assert found.dense.confidence is not None
    assert found.dense.confidence.tolist() == [0.5, 1, 0.5]
    assert found.sparse.loss is not None
    assert found.sparse.loss.tolist() == pytest.approx([math.log(4), 0, math.log(2)])
    assert found.dense.loss is not None
    assert 80 < found.dense.loss[2] < 90  # a probability of 0 is taken as the smallest one
    assert answers_of(table, "test").control is None


def test_the_audit_of_a_table_has_it_in_text_document_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    line = [
        "audit",
        "--predictions",
        "p.csv",
        "--control",
        "age",
        "--groups-by",
        "race",
        "-o",
        "out",
    ]
    result = CliRunner().invoke(app, line)
    assert "besides psi (described only): churn 66.7 %" in result.stdout
    more = json.loads((tmp_path / "out/audit.json").read_text())["more"]
    assert [part["split"] for part in more] == ["train", "test"]
    assert more[1]["control"]["by"] == "age"
    assert more[1]["overall"]["churn"]["value"] == 2 / 3
    assert (tmp_path / "out/audit.html").read_text().count('<details class="more">') == 2


def test_the_json_has_a_line_for_each_group_of_what_is_beside_psi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    line = "audit --predictions p.csv --groups-by race -o out --format json"
    result = CliRunner().invoke(app, line.split())
    text = (tmp_path / "out/audit.json").read_text()
    assert result.stdout == text
    rows = [row for row in text.splitlines() if row.startswith('        {"feature": "race"')]
    assert len(rows) > 3
    # Read and indented to the last level, or not at all, it is the same document.
    document = json.loads(text)
    assert "".join(json.dumps(document, indent=2).split()) == "".join(text.split())


# What is shown


def test_the_lines_by_hand() -> None:
    lines = shift_lines(shifts(TEN))
    assert lines[0].startswith(
        "besides psi (described only): churn 40.0 % (lost 20.0, gained 10.0, lateral 10.0); "
        "most in letter=a: 75.0 ("
    )
    assert lines[1] == "worst accuracy 50.0 % dense (letter=a), 50.0 % sparse (letter=a)"
    assert lines[2] == (
        "most moved: cat as dog: 0 to 1, q 1; dog as cat: 1 to 0, q 1; owl as dog: 0 to 1, q 1 "
        "(q: corrected for 4 cells)"
    )
    assert len(lines) == 3


def full(name: str = "a", n: int = 400) -> Shifts:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, n)
    dense = np.where(rng.random(n) < 0.8, label, rng.integers(0, 4, n))
    sparse = np.where(rng.random(n) < 0.8, dense, rng.integers(0, 4, n))
    return shifts(
        replace(
            answers(
                label,
                dense,
                sparse,
                rng.integers(0, 2, n),
                dense_p=rng.random(n),
                sparse_p=rng.random(n),
                dense_loss=rng.exponential(1, n),
                sparse_loss=rng.exponential(1, n),
                control="age",
                strata=rng.integers(0, 2, n),
                levels=("old", name),
                classes=(name, "dog", "owl", "cow"),
            ),
            names=[("letter", name), ("letter", "b")],
        )
    )


def test_lines_about_strata_and_confidence() -> None:
    text = "\n".join(shift_lines(full()))
    assert "over-confidence" in text
    assert "by age: churn" in text
    assert "by confidence of the dense model: churn" in text
    assert "of which" in text


def test_names_stay_inert() -> None:
    found = full("<b>\x1b[31m\n")
    assert "\x1b" not in "".join(shift_lines(found))
    assert "\n" not in "".join(shift_lines(found))
    html = shift_html(found)
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_the_page_part_holds_its_tables() -> None:
    html = shift_html(full())
    assert html.count("<table>") == html.count("</table>") == 8
    assert html.startswith("<details")
    for word in ("over-confidence", "churn", "Confusion", "Within age", "standardised"):
        assert word in html
    assert "None" not in html
    assert "nan" not in html


def test_a_page_part_without_probabilities_or_strata() -> None:
    html = shift_html(shifts(TEN))
    assert "over-confidence" not in html
    assert "Within" not in html


SCHEMA = json.loads(Path(ceag_cli.__file__).with_name("audit.schema.json").read_text())


def mismatches(found: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Where a document is not as its schema says, in the words of the schema that are used here."""
    if "$ref" in schema:
        return mismatches(found, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
    if "anyOf" in schema:
        each = [mismatches(found, one, where) for one in schema["anyOf"]]
        return min(each, key=len)
    if "enum" in schema:
        return [] if found in schema["enum"] else [where]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": (int, float),
        "null": type(None),
    }
    wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(found, kinds[kind]) for kind in wanted):  # type: ignore[arg-type]
        return [where]
    wrong = []
    if isinstance(found, dict):
        wrong += [where] * (set(schema["required"]) != set(found) != set(schema["properties"]))
        for name, item in found.items():
            wrong += mismatches(item, schema["properties"][name], f"{where}.{name}")
    if isinstance(found, list):
        for item in found:
            wrong += mismatches(item, schema["items"], f"{where}[]")
    if isinstance(found, int | float):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        wrong += [where] * (not low <= found <= high)
    return wrong


def test_the_document_is_as_the_schema_says() -> None:
    schema = SCHEMA["properties"]["more"]["items"]
    for found in (full(), shifts(TEN), shifts(answers([], [], [], []))):
        assert mismatches(document(found), schema) == []
    bad = document(full())
    bad["overall"]["flips"] = 1.5
    del bad["groups"][0]["churn"]
    assert mismatches(bad, schema) == [".overall.flips", ".groups[]"]


def test_the_document_by_hand() -> None:
    found = document(shifts(TEN))
    assert found["split"] == "test"
    a = found["groups"][0]
    assert (a["feature"], a["value"], a["n"], a["lateral"]) == ("letter", "a", 4, 1)
    assert a["churn"]["value"] == 0.75
    assert a["overconfidence"] is None
    assert found["confusion"]["dense"] == [[2, 0, 0], [1, 5, 0], [1, 0, 1]]
    assert found["control"] is None
    assert set(a) == set(GroupShift.__slots__)
    many = answers(range(60), range(60), range(60), [0] * 60)
    assert document(shifts(many))["confusion"]["dense"] is None
