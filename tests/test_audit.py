from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Sample, floats, psi

from ceag_cli.audit import AuditResult, GroupResult, Paired
from ceag_cli.audit import audit as full_audit
from ceag_cli.groups import Grouping
from ceag_cli.policy import Policy


def audit(pairs: Sequence[Paired], grouping: Grouping, eps: float, **more: Any) -> AuditResult:
    """By the measured values, as most of these tests have it."""
    policy = Policy(eps=eps, gate="point", min_coverage=0.0)
    return full_audit(pairs, grouping, policy, **more)


AB = Grouping(("letter",), (("a", "b"),))
ABC = Grouping(("letter",), (("a", "b", "c"),))
TWO = Grouping(("letter", "shade"), (("a", "b"), ("dark", "light")))


def paired(samples: Sequence[Sample], split: str = "test", features: int = 1) -> Paired:
    return Paired(
        split,
        torch.tensor([dense for dense, _, _ in samples], dtype=torch.bool),
        torch.tensor([sparse for _, sparse, _ in samples], dtype=torch.bool),
        torch.tensor([list(ids) for _, _, ids in samples], dtype=torch.int64).reshape(
            len(samples), features
        ),
    )


def images(
    *groups: int, both: int = 0, lost: int = 0, gained: int = 0, neither: int = 0
) -> list[Sample]:
    """Images of one combination of groups, by which of the two models is right on them."""
    kinds = {(True, True): both, (True, False): lost, (False, True): gained}
    kinds[False, False] = neither
    return [(dense, sparse, groups) for (dense, sparse), n in kinds.items() for _ in range(n)]


def verdicts(result: AuditResult) -> dict[str, str]:
    return {f"{group.split}:{group.value}": group.verdict for group in result.groups}


# a: 4 of 8 lost, 1 gained, gap 3/8. b: 1 of 8 lost, gap 1/8. All: 5 lost, 1 gained of 16, gap 1/4.
BY_HAND = images(0, both=2, lost=4, gained=1, neither=1) + images(1, both=6, lost=1, neither=1)


def test_by_hand() -> None:
    result = audit([paired(BY_HAND)], AB, eps=0.1)
    bounds: dict[str, Any] = {"lower": None, "upper": None, "p_fail": None, "p_fail_holm": None}
    assert tuple(dataclasses.replace(group, **bounds) for group in result.groups) == (
        GroupResult(
            split="test",
            feature="letter",
            value="a",
            n=8,
            n_effective=None,
            lost=4,
            gained=1,
            lateral=None,
            acc_dense=0.75,
            acc_sparse=0.375,
            gap=0.375,
            excess_gap=0.125,
            gap_vs_rest=0.25,
            eps=0.1,
            lower=None,
            upper=None,
            p_fail=None,
            p_fail_holm=None,
            verdict="FAIL",
            reason=None,
            n_needed=None,
            required=False,
        ),
        GroupResult(
            split="test",
            feature="letter",
            value="b",
            n=8,
            n_effective=None,
            lost=1,
            gained=0,
            lateral=None,
            acc_dense=0.875,
            acc_sparse=0.75,
            gap=0.125,
            excess_gap=-0.125,
            gap_vs_rest=-0.25,
            eps=0.1,
            lower=None,
            upper=None,
            p_fail=None,
            p_fail_holm=None,
            verdict="PASS",
            reason=None,
            n_needed=None,
            required=False,
        ),
    )
    (split,) = result.splits
    assert (split.split, split.gated, split.n, split.lost, split.gained) == ("test", True, 16, 5, 1)
    assert (split.acc_dense, split.acc_sparse, split.gap) == (0.8125, 0.5625, 0.25)
    assert (split.max_excess_gap, split.worst_group) == (0.125, "letter=a")
    assert split.pairwise_disparity == 0.25
    assert (result.eps, result.gate, result.verdict, result.exit_code) == (0.1, "point", "FAIL", 1)


@pytest.mark.parametrize(
    ("eps", "verdict", "code"), [(0.124, "FAIL", 1), (0.125, "PASS", 0), (0.126, "PASS", 0)]
)
def test_a_psi_of_exactly_eps_passes(eps: float, verdict: str, code: int) -> None:
    result = audit([paired(BY_HAND)], AB, eps)
    assert (result.verdict, result.exit_code) == (verdict, code)


def test_the_comparison_at_eps_is_exact_where_floats_are_not() -> None:
    # a loses 8 of 10, b 6 of 10, all 14 of 20: psi_a = 8/10 - 7/10 = 1/10.
    assert 0.8 - 0.7 > 0.1  # in float64
    samples = images(0, both=2, lost=8) + images(1, both=4, lost=6)
    result = audit([paired(samples)], AB, eps=0.1)
    assert verdicts(result) == {"test:a": "PASS", "test:b": "PASS"}
    assert result.splits[0].max_excess_gap == 0.1


def test_one_image_of_ten_thousand_decides() -> None:
    def result(more: int) -> AuditResult:
        # All of a is lost, nothing of b: psi_a = 1 - a / 10000 = b / 10000.
        a, b = 5000 - more, 5000 + more
        return audit([paired(images(0, lost=a) + images(1, both=b))], AB, eps=0.5)

    assert result(-1).verdict == "PASS"
    assert result(0).verdict == "PASS"
    assert result(1).verdict == "FAIL"
    assert result(1).splits[0].max_excess_gap == 0.5001


def test_a_group_that_gains_less_than_the_rest_is_harmed_too() -> None:
    # Everybody gains: a 1 of 4, b 3 of 4; all 1/2. psi_a = -1/4 + 1/2.
    samples = images(0, both=3, gained=1) + images(1, both=1, gained=3)
    result = audit([paired(samples)], AB, eps=0.2)
    assert [group.gap for group in result.groups] == [-0.25, -0.75]
    assert [group.excess_gap for group in result.groups] == [0.25, -0.25]
    assert verdicts(result) == {"test:a": "FAIL", "test:b": "PASS"}


def test_a_group_without_images_is_shown_without_values() -> None:
    result = audit([paired(BY_HAND)], ABC, eps=0.125)
    empty = result.groups[2]
    assert (empty.value, empty.n, empty.lost, empty.gained) == ("c", 0, 0, 0)
    assert (empty.acc_dense, empty.acc_sparse, empty.gap, empty.excess_gap) == (None,) * 4
    assert empty.verdict == "NO_DATA"
    # The other groups decide.
    assert (result.verdict, result.exit_code) == ("PASS", 0)
    assert result.splits[0].worst_group == "letter=a"


def test_a_group_of_everybody_is_the_reference_and_nothing_is_audited() -> None:
    result = audit([paired(images(0, both=1, lost=3))], AB, eps=0.0)
    assert verdicts(result) == {"test:a": "REFERENCE", "test:b": "NO_DATA"}
    assert result.groups[0].excess_gap == 0.0
    assert (result.verdict, result.exit_code) == ("NO_DATA", 3)


def test_a_grouping_of_one_group_is_a_vacuous_audit() -> None:
    only = Grouping(("letter",), (("a",),))
    result = audit([paired(images(0, both=1, lost=3))], only, eps=1.0)
    assert verdicts(result) == {"test:a": "REFERENCE"}
    assert (result.verdict, result.exit_code) == ("NO_DATA", 3)


def test_two_features_side_by_side() -> None:
    # Lost: 2 of 4 a-dark, 0 of the others. a: 2/8, b: 0/8; dark: 2/8, light: 0/8; all 2/16.
    samples = (
        images(0, 2, both=2, lost=2)
        + images(0, 3, both=4)
        + images(1, 2, both=4)
        + images(1, 3, both=4)
    )
    result = audit([paired(samples, features=2)], TWO, eps=0.0)
    assert [(group.feature, group.value, group.n) for group in result.groups] == [
        ("letter", "a", 8),
        ("letter", "b", 8),
        ("shade", "dark", 8),
        ("shade", "light", 8),
    ]
    assert [group.excess_gap for group in result.groups] == [0.125, -0.125, 0.125, -0.125]
    # An image is in two groups and counts once.
    assert (result.splits[0].n, result.splits[0].lost) == (16, 2)


def test_one_group_of_everybody_does_not_hide_another_feature() -> None:
    samples = images(0, 2, both=2, lost=2) + images(0, 3, both=4)
    result = audit([paired(samples, features=2)], TWO, eps=0.25)
    assert verdicts(result) == {
        "test:a": "REFERENCE",
        "test:b": "NO_DATA",
        "test:dark": "PASS",
        "test:light": "PASS",
    }
    assert result.verdict == "PASS"


def test_pairwise_disparity_does_not_mix_features() -> None:
    # All of a lost and all of dark gained, overall gap 0: psi of a 2/2, b -2/6, dark -2/2,
    # light 2/6. Within a feature the two are 4/3 apart; a and dark would be 2 apart.
    samples = images(0, 3, lost=2) + images(1, 2, gained=2) + images(1, 3, both=4)
    split = audit([paired(samples, features=2)], TWO, eps=0.0).splits[0]
    assert split.max_excess_gap == 1.0
    assert split.pairwise_disparity == 4 / 3
    # One group of each feature only: nothing to compare within either.
    split = audit([paired(images(0, 2, both=2, lost=2), features=2)], TWO, eps=0.0).splits[0]
    assert split.pairwise_disparity == 0.0


def test_train_is_described_and_test_decides() -> None:
    fine = images(0, both=4) + images(1, both=4)
    result = audit([paired(BY_HAND, "train"), paired(fine, "test")], AB, eps=0.0)
    assert verdicts(result) == {
        "train:a": "DESCRIPTIVE",
        "train:b": "DESCRIPTIVE",
        "test:a": "PASS",
        "test:b": "PASS",
    }
    assert [(split.split, split.gated) for split in result.splits] == [
        ("train", False),
        ("test", True),
    ]
    assert result.splits[0].max_excess_gap == 0.125
    assert result.verdict == "PASS"


def test_every_gated_split_has_to_hold() -> None:
    fine = images(0, both=4) + images(1, both=4)
    pairs = [paired(BY_HAND, "train"), paired(fine, "test")]
    assert audit(pairs, AB, eps=0.0, gated=("train", "test")).verdict == "FAIL"
    assert audit(pairs, AB, eps=0.125, gated=("train", "test")).verdict == "PASS"
    assert audit(pairs, AB, eps=0.0, gated=("train",)).verdict == "FAIL"


def test_without_a_gated_split_nothing_is_shown() -> None:
    result = audit([paired(BY_HAND, "train")], AB, eps=1.0)
    assert (result.verdict, result.exit_code) == ("NO_DATA", 3)


def test_an_empty_split_is_no_data() -> None:
    result = audit([paired([])], AB, eps=1.0)
    assert verdicts(result) == {"test:a": "NO_DATA", "test:b": "NO_DATA"}
    assert result.splits[0].n == 0
    assert result.splits[0].max_excess_gap is None
    assert (result.verdict, result.exit_code) == ("NO_DATA", 3)


def test_by_split_puts_the_worst_first_and_the_empty_last() -> None:
    names = ("z", "a", "b", "empty", "y")
    grouping = Grouping(("letter",), (names,))
    samples = (
        images(0, lost=1, both=3)
        + images(1, lost=2, both=2)
        + images(2, lost=2, both=2)
        + images(4, both=4)
    )
    result = audit([paired(samples, "train"), paired(samples, "test")], grouping, eps=0.0)
    # b and a tie and go by name.
    assert [group.value for group in result.by_split("test")] == ["a", "b", "z", "y", "empty"]
    assert {group.split for group in result.by_split("test")} == {"test"}


def test_identical_models_have_no_gap() -> None:
    samples = images(0, both=3, neither=2) + images(1, both=1, neither=7)
    result = audit([paired(samples)], AB, eps=0.0)
    assert [group.excess_gap for group in result.groups] == [0.0, 0.0]
    assert result.verdict == "PASS"


sample = st.tuples(st.booleans(), st.booleans(), st.tuples(st.integers(0, 1), st.integers(2, 3)))
populations = st.lists(sample, min_size=1, max_size=40)
limits = st.sampled_from([0.0, 0.05, 0.1, 0.125, 0.25])


@settings(deadline=None, max_examples=150)
@given(populations, limits)
def test_against_the_definition_of_psi(samples: list[Sample], eps: float) -> None:
    result = audit([paired(samples, features=2)], TWO, eps)
    expected = psi(samples, 4)
    assert [group.excess_gap for group in result.groups] == floats(expected)
    limit = Fraction(str(eps))
    for group, value in zip(result.groups, expected, strict=True):
        if value is None:
            assert group.verdict == "NO_DATA"
        elif group.n == len(samples):
            assert group.verdict == "REFERENCE"
        else:
            assert group.verdict == ("PASS" if value <= limit else "FAIL")
    known = [value for value in expected if value is not None]
    assert result.splits[0].max_excess_gap == float(max(known))


@settings(deadline=None, max_examples=100)
@given(populations)
def test_the_groups_of_a_feature_add_up_to_the_split(samples: list[Sample]) -> None:
    result = audit([paired(samples, features=2)], TWO, eps=0.0)
    split = result.splits[0]
    for feature in TWO.features:
        groups = [group for group in result.groups if group.feature == feature]
        assert sum(group.n for group in groups) == split.n == len(samples)
        assert sum(group.lost for group in groups) == split.lost
        assert sum(group.gained for group in groups) == split.gained
        total = sum(group.n * (group.excess_gap or 0.0) for group in groups)
        assert total == pytest.approx(0.0, abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(populations)
def test_swapping_the_models_negates_psi(samples: list[Sample]) -> None:
    swapped = [(sparse, dense, ids) for dense, sparse, ids in samples]
    one = audit([paired(samples, features=2)], TWO, eps=0.0)
    other = audit([paired(swapped, features=2)], TWO, eps=0.0)
    for a, b in zip(one.groups, other.groups, strict=True):
        assert (a.n, a.lost, a.gained) == (b.n, b.gained, b.lost)
        assert (a.acc_dense, a.acc_sparse) == (b.acc_sparse, b.acc_dense)
        assert a.excess_gap == (None if b.excess_gap is None else -b.excess_gap)
    assert one.splits[0].gap == -other.splits[0].gap
    assert one.splits[0].pairwise_disparity == other.splits[0].pairwise_disparity


@settings(deadline=None, max_examples=50)
@given(populations, st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(samples: list[Sample], random: Random) -> None:
    shuffled = random.sample(samples, len(samples))
    assert audit([paired(samples, features=2)], TWO, eps=0.05) == audit(
        [paired(shuffled, features=2)], TWO, eps=0.05
    )
