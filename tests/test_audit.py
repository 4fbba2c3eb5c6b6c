from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Sample, floats, psi
from scipy.stats import binom

from ceag_cli.audit import audit as full_audit
from ceag_cli.clauses import Waiver
from ceag_cli.findings import AuditResult, GroupResult
from ceag_cli.groups import Grouping
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy

EVIDENCE = Policy(eps=0.02)


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
            grows=None,
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
            grows=None,
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
    result = audit([paired(samples, features=2)], TWO, eps, seed=None)
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
    result = audit([paired(samples, features=2)], TWO, eps=0.0, seed=None)
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
    one = audit([paired(samples, features=2)], TWO, eps=0.0, seed=None)
    other = audit([paired(swapped, features=2)], TWO, eps=0.0, seed=None)
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


# ---------------------------------------------------------------------------------------------
# Verdicts with bounds
# ---------------------------------------------------------------------------------------------

MANY = Grouping(("letter",), (tuple("abcd"),))
GOLDEN = (
    images(0, both=920, lost=60, gained=20)
    + images(1, both=285, lost=9, gained=6)
    + images(2, both=34, lost=6)
    + images(3, both=25)
)


def shown(
    samples: Sequence[Sample],
    grouping: Grouping = AB,
    policy: Policy = EVIDENCE,
    features: int = 1,
    **more: Any,
) -> AuditResult:
    return full_audit([paired(samples, features=features)], grouping, policy, **more)


def test_four_groups() -> None:
    result = shown(GOLDEN, MANY)
    assert [(g.verdict, g.reason) for g in result.groups] == [
        ("PASS", None),
        ("PASS", None),
        ("INCONCLUSIVE", "high"),
        ("INCONCLUSIVE", "too_small"),
    ]
    assert [g.lower for g in result.groups] == pytest.approx(
        [-0.00307, -0.04671, 0.04235, -0.13257], abs=5e-6
    )
    assert [g.upper for g in result.groups] == pytest.approx(
        [0.01091, -0.00467, 0.22607, 0.06068], abs=5e-6
    )
    assert [g.p_fail for g in result.groups] == pytest.approx([1, 1, 0.0283, 1], abs=5e-5)
    assert [g.p_fail_holm for g in result.groups] == pytest.approx([1, 1, 0.113, 1], abs=5e-4)
    assert result.family_size == 4
    split = result.splits[0]
    assert split.gap == pytest.approx(0.035897, abs=5e-7)
    assert split.omnibus_p == pytest.approx(0.0175, abs=0.01)
    assert split.coverage == 1300 / 1365
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 0)
    assert result.reasons == (
        "not decided: letter=c, letter=d",
        "shown to be above eps by itself, but not after correcting for 4 groups: letter=c",
    )
    assert result.warnings == (
        "too few images to pass at this eps even if no answer had changed: letter=d",
    )


def test_a_group_that_is_required_is_judged_as_all_others_are() -> None:
    """p is .0283, of one in four groups, required or not."""
    policy = dataclasses.replace(EVIDENCE, required=(("letter", "c"),))
    result = shown(GOLDEN, MANY, policy)
    c = result.groups[2]
    assert c.required
    assert c.p_fail_holm == pytest.approx(0.113, abs=5e-4)
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    assert result.reasons[0] == "required, but not decided: letter=c"
    result = shown(GOLDEN, MANY, dataclasses.replace(policy, alpha=0.12))
    assert (result.groups[2].verdict, result.exit_code) == ("FAIL", 1)


def test_a_required_group_that_passes_takes_nothing_from_the_others() -> None:
    """psi of c has p .0138, of three groups .041: FAIL as long as they are one family."""
    samples = images(0, both=1000) + images(1, both=400) + images(2, both=44, lost=6)
    for required in ((), (("letter", "b"),)):
        result = shown(samples, ABC, dataclasses.replace(EVIDENCE, required=required))
        assert [g.verdict for g in result.groups] == ["PASS", "PASS", "FAIL"]
        assert result.exit_code == 1


COUNTS = st.tuples(st.integers(0, 200), st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(COUNTS, min_size=3, max_size=3).filter(lambda groups: any(map(sum, groups))),
    st.sets(st.sampled_from("abcz")),
    st.sets(st.sampled_from("abcz")),
    st.sampled_from(["evidence", "strict", "point"]),
)
def test_requiring_one_group_more_never_makes_an_audit_less_strict(
    counts: list[tuple[int, int, int]], some: set[str], more: set[str], gate: str
) -> None:
    """0 may become 3; 1 stays 1, and 3 stays 3. The group z has no images."""
    samples = [
        sample
        for g, (both, lost, gained) in enumerate(counts)
        for sample in images(g, both=both, lost=lost, gained=gained)
    ]

    def code(required: set[str]) -> int:
        names = tuple(("letter", value) for value in sorted(required))
        policy = Policy(eps=0.02, gate=gate, required=names, min_coverage=0.2)
        return shown(samples, ABC, policy, seed=None).exit_code

    before, after = code(some), code(some | more)
    assert after == before or (before, after) == (0, 3)


def test_a_required_group_of_all_images_is_not_shown_to_pass() -> None:
    """It is everybody, of whom psi is 0 by definition; the other feature alone would pass."""
    samples = [(True, True, (0, 2 + i % 2)) for i in range(800)]
    for required, code in (((), 0), ((("letter", "a"),), 3)):
        result = shown(samples, TWO, Policy(required=required), features=2)
        assert [g.verdict for g in result.groups] == ["REFERENCE", "NO_DATA", "PASS", "PASS"]
        assert result.exit_code == code
    assert result.reasons[0] == ("required, but of all images, so that nothing is asked: letter=a")


def lost_of(a: int, b: int, n: int = 400) -> list[Sample]:
    """Two groups of n images each, so many of them lost."""
    return images(0, both=n - a, lost=a) + images(1, both=n - b, lost=b)


@pytest.mark.parametrize(
    ("a", "n", "evidence", "strict", "point"),
    [
        (0, 400, 0, 0, 0),
        (4, 400, 0, 0, 0),  # psi half a point
        (14, 400, 0, 3, 0),  # 1.75 points
        (24, 400, 0, 3, 1),  # 3 points
        (60, 400, 1, 1, 1),  # 7.5 points
        (0, 50, 3, 3, 0),  # nothing can be shown
        (1, 50, 3, 3, 0),
        (4, 50, 0, 3, 1),  # b is shown to be at an advantage, which is half of the images
    ],
)
def test_exit_codes_of_the_gates(a: int, n: int, evidence: int, strict: int, point: int) -> None:
    for gate, code in (("evidence", evidence), ("strict", strict), ("point", point)):
        result = shown(lost_of(a, 0, n), policy=Policy(eps=0.02, gate=gate))
        assert result.exit_code == code, gate
        assert (result.verdict == "PASS") == (code == 0 and not result.reasons)


def test_the_point_gate_warns_where_it_judges_noise() -> None:
    """A hundred groups of 20: the largest psi is many points whatever the model does."""
    names = Grouping(("letter",), (tuple(f"g{g}" for g in range(100)),))
    samples = [
        sample
        for g in range(100)
        for sample in images(g, both=18, lost=1 + g % 2, gained=1 - g % 2)
    ]
    result = shown(samples, names, Policy(gate="point"))
    (warning,) = result.warnings
    floor = result.splits[0].noise_floor
    assert floor is not None
    assert floor > 0.1
    assert f"the largest psi would be about {100 * floor:.1f} points" in warning
    assert warning.endswith("more than eps: the verdict is mostly noise")
    assert not any("noise" in w for w in shown(samples, names, EVIDENCE).warnings)


def test_an_audit_that_decides_too_little_is_not_green() -> None:
    """a, nine tenths of the images, passes; b, a tenth, cannot."""
    samples = images(0, both=450) + images(1, both=50)
    result = shown(samples)
    assert [g.verdict for g in result.groups] == ["PASS", "INCONCLUSIVE"]
    assert (result.splits[0].coverage, result.exit_code) == (0.9, 0)
    result = shown(samples, policy=dataclasses.replace(EVIDENCE, min_coverage=0.95))
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    assert result.reasons[0] == (
        "groups with a verdict hold 90% of the images of test, less than 95%"
    )


def test_a_feature_of_which_nothing_is_decided_is_warned_of() -> None:
    values = tuple(f"v{v}" for v in range(40))
    grouping = Grouping(("letter", "site"), (("a", "b"), values))
    samples: list[Sample] = [(True, True, (i % 2, 2 + i % 40)) for i in range(1200)]
    result = shown(samples, grouping, features=2)
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 0)
    assert "no group of site has a verdict: of this feature nothing is shown" in result.warnings


def test_a_model_that_is_equally_bad_everywhere_has_psi_0() -> None:
    """Half of all images are lost in both groups. psi is 0; the bound on accuracy is not kept."""
    samples = lost_of(200, 200)
    assert shown(samples).verdict in ("PASS", "INCONCLUSIVE")
    for bound in ({"max_drop": 0.1}, {"min_accuracy": 0.9}):
        for gate in ("evidence", "strict", "point"):
            policy = Policy(gate=gate, **bound)  # type: ignore[arg-type]
            result = shown(samples, policy=policy)
            assert (result.verdict, result.exit_code) == ("FAIL", 1)
            assert "--" + next(iter(bound)).replace("_", "-") in result.reasons[0]


@pytest.mark.parametrize(
    ("lost", "verdict"), [(20, "PASS"), (36, "INCONCLUSIVE"), (44, "INCONCLUSIVE"), (80, "FAIL")]
)
def test_the_drop_of_all_images(lost: int, verdict: str) -> None:
    """Of 800: 2.5, 4.5, 5.5 and 10 points, and 5 are allowed."""
    samples = lost_of(lost // 2, lost // 2)
    (check,) = shown(samples, policy=Policy(max_drop=0.05)).checks
    assert (check.name, check.split, check.group) == ("max_drop", "test", None)
    assert (check.value, check.limit, check.verdict) == (lost / 800, 0.05, verdict)
    assert check.lower < check.value < check.upper
    (check,) = shown(samples, policy=Policy(max_drop=0.05, gate="point")).checks
    assert check.verdict == ("PASS" if lost <= 40 else "FAIL")


def test_a_measured_drop_of_exactly_the_limit_is_allowed() -> None:
    samples = images(0, both=9, lost=1) + images(1, both=9, lost=1)  # a tenth
    for limit, verdict in ((0.1, "PASS"), (0.0999, "FAIL")):
        (check,) = shown(samples, policy=Policy(gate="point", max_drop=limit)).checks
        assert check.verdict == verdict
    checks = shown(samples, policy=Policy(gate="point", min_accuracy=0.9)).checks
    assert [check.verdict for check in checks] == ["PASS", "PASS"]


def test_the_accuracy_of_every_group() -> None:
    """a is right on 190 of 200, b on 150 of 200; against 0.9 and 0.8."""
    samples = images(0, both=190, neither=10) + images(1, both=150, neither=50)
    a, b = shown(samples, policy=Policy(min_accuracy=0.9)).checks
    assert (a.group, a.value, a.verdict) == ("letter=a", 0.95, "PASS")
    assert (b.group, b.value, b.verdict) == ("letter=b", 0.75, "FAIL")
    # One-sided and exact: so many right ones or more, if the accuracy were the bound.
    assert binom.sf(189, 200, a.lower) == pytest.approx(0.05)
    assert binom.cdf(190, 200, a.upper) == pytest.approx(0.05)
    a, b = shown(samples, policy=Policy(min_accuracy=0.8)).checks
    assert (a.verdict, b.verdict) == ("PASS", "INCONCLUSIVE")


def test_of_many_groups_one_low_accuracy_is_not_shown_yet() -> None:
    """14 of 20 right, where 0.9 is asked, has p .011: shown of one group, not of one in ten."""
    assert binom.cdf(14, 20, 0.9) == pytest.approx(0.0113, abs=5e-5)
    names = Grouping(("letter",), (tuple(f"g{g}" for g in range(10)),))
    samples = images(0, both=14, neither=6)
    rest = [sample for g in range(1, 10) for sample in images(g, both=20)]
    result = shown(samples + rest, names, Policy(min_accuracy=0.9))
    assert {c.group: c.verdict for c in result.checks}["letter=g0"] == "INCONCLUSIVE"
    assert result.reasons[-1] == (
        "shown to be below its bound by itself, but not after correcting for 10 groups: "
        "--min-accuracy of letter=g0"
    )
    two = images(0, both=14, neither=6) + images(1, both=20)
    assert shown(two, AB, Policy(min_accuracy=0.9)).checks[0].verdict == "FAIL"


def test_against_the_rest_a_large_group_is_not_diluted() -> None:
    """Nine tenths lose five points more than the others: psi is half a point."""
    samples = images(0, both=4275, lost=225) + images(1, both=500)
    assert shown(samples).groups[0].verdict == "PASS"
    result = shown(samples, policy=Policy(against="rest"))
    a = result.groups[0]
    assert a.verdict == "FAIL"
    assert (a.excess_gap, a.gap_vs_rest) == (0.005, 0.05)
    assert a.lower is not None
    assert 0.02 < a.lower < 0.05
    assert result.gated_gap(a) == 0.05
    assert result.reasons == ("the gap against the rest is shown to be above eps: letter=a",)
    point = shown(samples, policy=Policy(against="rest", gate="point"))
    assert verdicts(point) == {"test:a": "FAIL", "test:b": "PASS"}
    # What chance does to the gap against the rest is what the floor is about.
    floor, plain = point.splits[0].noise_floor, shown(samples).splits[0].noise_floor
    assert floor is not None
    assert plain is not None
    assert floor > plain


def test_features_of_the_same_images_are_asked_once() -> None:
    """Every a is dark and every b is light."""
    samples = images(0, 2, both=390, lost=10) + images(1, 3, both=400)
    result = shown(samples, TWO, features=2)
    assert result.family_size == 2
    a, b, dark, light = result.groups
    assert (dark.p_fail_holm, light.p_fail_holm) == (a.p_fail_holm, b.p_fail_holm)
    mixed = samples + images(0, 3, both=1)
    assert shown(mixed, TWO, features=2).family_size == 4
    # Another eps is another question.
    other = dataclasses.replace(EVIDENCE, eps_by_group={("shade", "dark"): 0.01})
    assert shown(samples, TWO, other, features=2).family_size == 3


def test_eps_of_a_group() -> None:
    """psi is 2 and -2 points."""
    samples = lost_of(160, 0, n=4000)
    wide = Policy(eps=0.01, eps_by_group={("letter", "a"): 0.03})
    assert [g.verdict for g in shown(samples, policy=wide).groups] == ["PASS", "PASS"]
    narrow = Policy(eps=0.03, eps_by_group={("letter", "a"): 0.01})
    assert [g.verdict for g in shown(samples, policy=narrow).groups] == ["FAIL", "PASS"]


TODAY = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("accepted", "expires", "verdict", "code"),
    [
        (0.1, TODAY, "WAIVED", 0),
        (0.1, date(2026, 2, 28), "FAIL", 1),
        (0.03, TODAY, "FAIL", 1),  # shown to be above 3 points
        (0.065, TODAY, "WAIVED", 0),  # the bound is about 6
    ],
)
@pytest.mark.parametrize("gate", ["evidence", "strict"])
def test_waivers(accepted: float, expires: date, verdict: str, code: int, gate: str) -> None:
    """psi of a is 7.5 points."""
    waiver = Waiver(("letter", "a"), accepted, "known", expires)
    policy = Policy(gate=gate, waivers=(waiver,))
    result = shown(lost_of(60, 0), policy=policy, today=TODAY)
    a = result.groups[0]
    assert (a.verdict, result.exit_code) == (verdict, code)
    assert a.reason == ("known" if verdict == "WAIVED" else None)


def test_a_waiver_of_measured_values() -> None:
    def said(accepted: float) -> str:
        waiver = Waiver(("letter", "a"), accepted, "known", TODAY)
        policy = Policy(gate="point", waivers=(waiver,))
        return shown(lost_of(60, 0), policy=policy, today=TODAY).groups[0].verdict

    assert said(0.075) == "WAIVED"
    assert said(0.0749) == "FAIL"


def test_less_evidence_of_what_is_accepted_is_no_reason_to_fail() -> None:
    """psi of a is 3 points, not shown to be above 2: strict asks for that to be shown."""
    samples = lost_of(24, 0)
    assert shown(samples, policy=Policy(gate="strict")).exit_code == 3
    waiver = Waiver(("letter", "a"), 0.1, "known", TODAY)
    result = shown(samples, policy=Policy(gate="strict", waivers=(waiver,)), today=TODAY)
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 0)


def test_a_waiver_excuses_no_more_than_it_accepts() -> None:
    """psi of a is 3 points and may well be 4: a waiver of 2.1 points says nothing about that."""
    waiver = Waiver(("letter", "a"), 0.021, "known", TODAY)
    policy = Policy(gate="strict", waivers=(waiver,))
    result = shown(lost_of(24, 0), policy=policy, today=TODAY)
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    assert result.reasons[0] == "not decided: letter=a"


def test_the_same_file_twice() -> None:
    samples = images(0, both=3, neither=2) + images(1, both=1, neither=7)
    assert shown(samples, policy=Policy(eps=0.0)).exit_code == 3
    result = shown(samples, policy=Policy(eps=0.0), identical=True)
    assert {(g.verdict, g.reason, g.lower, g.upper) for g in result.groups} == {
        ("PASS", "identical_models", 0.0, 0.0)
    }
    assert (result.verdict, result.exit_code) == ("PASS", 0)
    assert "the same file" in result.warnings[0]


@pytest.mark.parametrize("gate", ["evidence", "strict", "point"])
def test_two_models_that_answer_alike_are_warned_of(gate: str) -> None:
    """1000 images without a difference show that psi is small, if there are two models."""
    samples = images(0, both=400, neither=100) + images(1, both=500)
    pair = paired(samples)
    unlike = torch.zeros(1000, dtype=torch.bool)
    unlike[450] = True
    for changed, said in (
        (torch.zeros_like(unlike), "test: both models give the same answer to every image, so"),
        (None, "test: both models are right on the same images, so there is no"),
        (unlike, None),  # both wrong, each in its own way
    ):
        result = full_audit(
            [dataclasses.replace(pair, changed=changed)], AB, Policy(gate=gate, eps=0.03)
        )
        assert (result.verdict, result.exit_code) == ("PASS", 0)
        warnings = [text for text in result.warnings if "both models" in text]
        assert [text.startswith(str(said)) for text in warnings] == [True] * (said is not None)


def test_one_image_is_no_evidence() -> None:
    samples = images(0, lost=1) + images(1, both=999)
    a, b = shown(samples).groups
    assert (a.n, a.excess_gap, a.verdict, a.reason) == (1, 0.999, "INCONCLUSIVE", "high")
    assert b.verdict == "PASS"
    assert a.n_needed is not None


def test_more_images_as_needed_decide_and_a_tenth_fewer_do_not() -> None:
    """60 unchanged images in 10,000: 73 more make the 133 that it takes for two points."""
    rest = images(1, both=9940)
    a = shown(images(0, both=60) + rest).groups[0]
    assert (a.verdict, a.reason) == ("INCONCLUSIVE", "too_small")
    assert a.n_needed is not None
    assert 70 <= a.n_needed <= 73
    enough, few = 60 + a.n_needed, 60 + a.n_needed * 9 // 10
    assert shown(images(0, both=enough) + rest).groups[0].verdict == "PASS"
    assert shown(images(0, both=enough - 1) + rest).groups[0].verdict == "INCONCLUSIVE"
    assert shown(images(0, both=few) + rest).groups[0].verdict == "INCONCLUSIVE"


def test_two_groups_of_a_hundred_without_change_are_not_too_small() -> None:
    result = shown(images(0, both=100) + images(1, both=100))
    assert [g.verdict for g in result.groups] == ["PASS", "PASS"]
    assert result.groups[0].upper == pytest.approx(0.0186, abs=5e-5)


def test_eps_0_can_only_be_passed_by_an_advantage() -> None:
    result = shown(lost_of(60, 0), policy=Policy(eps=0.0))
    assert verdicts(result) == {"test:a": "FAIL", "test:b": "PASS"}
    assert result.warnings == ("eps is 0: a group can pass only by losing less than the others do",)


def test_two_gated_splits_are_one_family() -> None:
    pairs = [paired(lost_of(60, 0), "val"), paired(lost_of(0, 60), "test")]
    result = full_audit(pairs, AB, EVIDENCE, ("val", "test"))
    assert result.family_size == 4
    assert result.reasons == ("psi is shown to be above eps: letter=a (val), letter=b (test)",)


def test_train_has_no_bounds() -> None:
    result = full_audit([paired(lost_of(60, 0), "train")], AB, EVIDENCE)
    for group in result.groups:
        assert (group.lower, group.upper, group.p_fail, group.n_needed) == (None,) * 4
    assert (result.splits[0].noise_floor, result.splits[0].coverage) == (None, None)


# Clusters


def clustered(samples: Sequence[Sample], times: int = 1) -> Paired:
    """Every image so many times, as images of one person."""
    pair = paired([sample for sample in samples for _ in range(times)])
    return dataclasses.replace(pair, clusters=torch.arange(len(samples)).repeat_interleave(times))


def test_clusters_of_one_image_change_nothing() -> None:
    plain, own = shown(GOLDEN, MANY), full_audit([clustered(GOLDEN)], MANY, EVIDENCE)
    for a, b in zip(plain.groups, own.groups, strict=True):
        assert b.n_effective == pytest.approx(b.n)
        assert (b.lower, b.upper) == pytest.approx((a.lower, a.upper))
        assert a.verdict == b.verdict
    assert own.splits[0].clusters == len(GOLDEN)
    assert plain.splits[0].clusters is None
    # Images of a person cannot be dealt out one by one.
    assert (own.splits[0].noise_floor, own.splits[0].omnibus_p) == (None, None)


@pytest.mark.parametrize("times", [2, 7])
def test_images_repeated_show_no_more(times: int) -> None:
    plain = shown(GOLDEN, MANY)
    repeated = full_audit([clustered(GOLDEN, times)], MANY, EVIDENCE)
    for a, b in zip(plain.groups, repeated.groups, strict=True):
        assert b.n == times * a.n
        assert b.n_effective == pytest.approx(a.n, rel=0.03)
        assert b.excess_gap == pytest.approx(a.excess_gap)
        assert (b.lower, b.upper) == pytest.approx((a.lower, a.upper), abs=0.002)
        assert (a.verdict, a.reason) == (b.verdict, b.reason)


def test_accuracies_of_repeated_images_are_known_no_better() -> None:
    policy = Policy(max_drop=0.05, min_accuracy=0.9)
    plain = shown(GOLDEN, MANY, policy).checks
    repeated = full_audit([clustered(GOLDEN, 4)], MANY, policy).checks
    assert len(plain) == len(repeated) == 5
    for a, b in zip(plain, repeated, strict=True):
        assert (b.value, b.verdict) == (a.value, a.verdict)
        assert (b.lower, b.upper) == pytest.approx((a.lower, a.upper), abs=0.005)
        assert b.lower <= a.lower + 1e-12  # Student's quantiles for the spread of 25 persons
        assert b.upper >= a.upper - 1e-12


# By other means


def test_accuracies_and_counts_are_those_of_fairlearn() -> None:
    from fairlearn.metrics import MetricFrame, count
    from sklearn.metrics import accuracy_score

    generator = np.random.default_rng(5)
    n = 3000
    letter, shade = generator.integers(0, 3, n), generator.integers(0, 2, n)
    label = generator.integers(0, 10, n)
    answers = {
        name: np.where(generator.random(n) < right, label, (label + 1) % 10)
        for name, right in (("dense", 0.9), ("sparse", 0.8))
    }
    right = {name: torch.from_numpy(given == label) for name, given in answers.items()}
    grouping = Grouping(("letter", "shade"), (("a", "b", "c"), ("dark", "light")))
    ids = torch.from_numpy(np.stack([letter, 3 + shade], 1))
    result = full_audit([Paired("test", right["dense"], right["sparse"], ids)], grouping, EVIDENCE)
    found = {(g.feature, g.value): g for g in result.groups}
    for feature, values, names in (
        ("letter", letter, ("a", "b", "c")),
        ("shade", shade, ("dark", "light")),
    ):
        frames = {
            name: MetricFrame(
                metrics={"accuracy": accuracy_score, "count": count},
                y_true=label,
                y_pred=given,
                sensitive_features=np.array(names)[values],
            )
            for name, given in answers.items()
        }
        for value in names:
            group = found[feature, value]
            for name, accuracy in (("dense", group.acc_dense), ("sparse", group.acc_sparse)):
                row = frames[name].by_group.loc[value]
                assert group.n == row["count"]
                assert accuracy == pytest.approx(row["accuracy"])
                overall = frames[name].overall["accuracy"]
                split = result.splits[0]
                assert overall == pytest.approx(
                    split.acc_dense if name == "dense" else split.acc_sparse
                )
        psi_of = {
            value: (
                frames["dense"].by_group["accuracy"][value] - frames["dense"].overall["accuracy"]
            )
            - (frames["sparse"].by_group["accuracy"][value] - frames["sparse"].overall["accuracy"])
            for value in names
        }
        for value, expected in psi_of.items():
            assert found[feature, value].excess_gap == pytest.approx(expected)


# Invariants. Without a seed no chance is drawn, which takes most of the time of a small audit.


@settings(deadline=None, max_examples=40)
@given(populations, st.sampled_from(["score", "exact"]), st.sampled_from(["overall", "rest"]))
def test_swapping_the_models_turns_bounds_round(
    samples: list[Sample], interval: str, against: str
) -> None:
    policy = Policy(interval=interval, against=against)
    swapped = [(sparse, dense, ids) for dense, sparse, ids in samples]
    one, other = (shown(s, TWO, policy, features=2, seed=None) for s in (samples, swapped))
    for a, b in zip(one.groups, other.groups, strict=True):
        if a.lower is None or a.upper is None:
            assert (b.lower, b.upper) == (None, None)
        else:
            assert (b.lower, b.upper) == pytest.approx((-a.upper, -a.lower), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(populations, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_images_changes_no_verdict(
    samples: list[Sample], random: Random, clusters: bool
) -> None:
    order = random.sample(range(len(samples)), len(samples))

    def result(rows: Sequence[int]) -> AuditResult:
        pair = paired([samples[i] for i in rows], features=2)
        if clusters:
            pair = dataclasses.replace(pair, clusters=torch.tensor([i // 3 for i in rows]))
        return full_audit([pair], TWO, Policy(max_drop=0.1, min_accuracy=0.5))

    one, other = result(range(len(samples))), result(order)
    assert [g.verdict for g in one.groups] == [g.verdict for g in other.groups]
    assert [c.verdict for c in one.checks] == [c.verdict for c in other.checks]
    assert one.splits == other.splits


@settings(deadline=None, max_examples=40)
@given(populations, limits)
def test_verdicts_contradict_neither_the_values_nor_the_bounds(
    samples: list[Sample], eps: float
) -> None:
    result = shown(samples, TWO, Policy(eps=eps, alpha=0.3), features=2, seed=None)
    for group in result.groups:
        if group.upper is None or group.lower is None or group.excess_gap is None:
            assert group.verdict in ("NO_DATA", "REFERENCE")
            continue
        assert group.lower <= group.excess_gap + 1e-9
        assert group.excess_gap <= group.upper + 1e-9
        assert (group.verdict == "PASS") == (group.upper <= eps)
        assert group.p_fail is not None
        assert group.p_fail_holm is not None
        assert group.p_fail <= group.p_fail_holm
        if group.verdict == "FAIL":
            assert group.lower > eps
            assert group.p_fail_holm <= 0.3
        elif group.verdict == "INCONCLUSIVE":
            assert group.reason in ("high", "low", "too_small")
            assert (group.reason == "high") == (group.excess_gap > eps)


# How unequal the groups are


def test_the_variance_between_groups_is_in_every_split() -> None:
    # Two groups of four: all of a are lost, none of b, so psi is 0.5 and -0.5 without noise.
    samples = images(0, lost=4) + images(1, both=4)
    pairs = [paired(samples, "train"), paired(samples, "test")]
    result = full_audit(pairs, AB, EVIDENCE)
    assert [split.between_group_variance for split in result.splits] == [0.25, 0.25]
    grouping = Grouping(("letter", "digit"), (("a", "b"), ("1", "2")))
    both = [(dense, sparse, (*ids, 2 + i % 2)) for i, (dense, sparse, ids) in enumerate(samples)]
    # By digit two of four are lost in both: psi 0, and 2 * (1/4 * 1/3 / 4) is noise; the mean.
    found = shown(both, grouping, features=2).splits[0].between_group_variance
    assert found == pytest.approx((0.25 - 1 / 24) / 2)


def test_of_single_images_or_of_clusters_no_variance_is_known() -> None:
    one_each = images(0, lost=1) + images(1, both=1)
    assert shown(one_each).splits[0].between_group_variance is None
    result = full_audit([clustered(GOLDEN)], MANY, EVIDENCE)
    assert result.splits[0].between_group_variance is None
