from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ceag_cli.audit import audit
from ceag_cli.clusters import FEWEST, Effects, mean_effects, numbered, psi_effects
from ceag_cli.groups import Grouping
from ceag_cli.means import mean_shift
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy
from ceag_cli.shifts import Answers, Said, shifts

Numbers = np.ndarray


def test_clusters_are_numbered_in_order() -> None:
    assert numbered(np.array(["b", "a", "b", "c"])).tolist() == [1, 0, 1, 2]


def of_means(values: Numbers, ids: Numbers, clusters: Numbers, number: int) -> Numbers:
    return mean_effects(values, ids, clusters, number, 0.05)


images = st.lists(
    st.tuples(st.sampled_from([-1, 0, 0, 0, 1]), st.integers(0, 1), st.integers(2, 3)),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(images)
def test_images_of_their_own_count_in_full(samples: list[tuple[int, int, int]]) -> None:
    change, *ids = (np.array(column) for column in zip(*samples, strict=True))
    own = np.arange(len(change))
    for effects in (psi_effects, of_means):
        found = effects(change.astype(float), np.stack(ids, 1), own, 4)
        assert found == pytest.approx(np.ones(4))


def slowly(change: list[int], member: list[bool], clusters: list[int]) -> float:
    """The design effect by its definition, in rational numbers and with loops."""
    n = len(change)
    of_group = [d for d, m in zip(change, member, strict=True) if m]
    share, mean = Fraction(len(of_group), n), Fraction(sum(of_group), len(of_group))
    overall = Fraction(sum(change), n)
    inside = [(d - mean) / share if m else Fraction() for d, m in zip(change, member, strict=True)]
    outside = [d - overall for d in change]
    k = len({c for c, m in zip(clusters, member, strict=True) if m})
    by_cluster = by_image = Fraction()
    for c in set(clusters):
        a = sum((x for x, of in zip(inside, clusters, strict=True) if of == c), Fraction())
        b = sum((x for x, of in zip(outside, clusters, strict=True) if of == c), Fraction())
        by_cluster += a * a * Fraction(k, k - 1) - 2 * a * b + b * b
    m = len(of_group)
    for a, b in zip(inside, outside, strict=True):
        by_image += a * a * Fraction(m, m - 1) - 2 * a * b + b * b
    return max(1.0, float(by_cluster / by_image))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_against_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    change = generator.integers(-1, 2, 40)
    group = generator.integers(0, 2, 40)
    clusters = generator.integers(0, 12, 40)
    found = psi_effects(change.astype(float), group[:, None], clusters, 2)
    for g in (0, 1):
        inside = change[group == g]
        if len(set(clusters[group == g].tolist())) >= FEWEST and np.ptp(inside) > 0:
            expected = slowly(change.tolist(), (group == g).tolist(), clusters.tolist())
            assert found[g] == pytest.approx(expected)


@pytest.mark.parametrize("times", [2, 5])
def test_images_repeated_count_once(times: int) -> None:
    generator = np.random.default_rng(0)
    change = np.repeat(generator.choice([-1.0, 0.0, 1.0], 600, p=[0.1, 0.75, 0.15]), times)
    ids = np.repeat(generator.integers(0, 3, 600), times)[:, None]
    clusters = np.repeat(np.arange(600), times)
    assert psi_effects(change, ids, clusters, 3) == pytest.approx(np.full(3, times), rel=0.01)
    assert of_means(change, ids, clusters, 3) == pytest.approx(np.full(3, times), rel=0.02)


def test_a_group_without_change_counts_its_clusters() -> None:
    """Group 0: 20 images of 10 persons, nothing changed. Group 1: 20 images, of which 5 changed."""
    change = np.array([0.0] * 20 + [1.0] * 5 + [0.0] * 15)
    ids = np.array([0] * 20 + [1] * 20)[:, None]
    clusters = np.concatenate([np.arange(20) // 2, 10 + np.arange(20)])
    for effects in (psi_effects, of_means):
        assert effects(change, ids, clusters, 2)[0] == pytest.approx(2.0)


def test_a_group_of_few_clusters_counts_them() -> None:
    """The spread of four persons' means is no measure of persons."""
    change = np.array([1.0, 0.0] * 20 + [0.0] * 60)
    ids = np.array([0] * 40 + [1] * 60)[:, None]
    clusters = np.concatenate([np.arange(40) % 4, 4 + np.arange(60)])
    for effects in (psi_effects, of_means):
        assert effects(change, ids, clusters, 2)[0] >= 10.0
    assert FEWEST == 5


def test_a_group_without_images_has_no_effect() -> None:
    change, clusters = np.array([1.0, 0.0]), np.array([0, 0])
    assert psi_effects(change, np.array([[0], [0]]), clusters, 3).tolist()[1:] == [1.0, 1.0]


def test_few_clusters_are_known_by_students_quantiles() -> None:
    """Each of 10 persons twice alike: twice as many, times the squares of 1.833 over 1.729."""
    values = np.repeat([1.0, 0.0] * 5, 2)
    clusters, ids = np.arange(20) // 2, np.zeros((20, 1), int)
    by_variance = (10 / 9) / (20 / 19) * 2
    expected = by_variance * (1.833 / 1.729) ** 2
    assert mean_effects(values, ids, clusters, 1, 0.05) == pytest.approx([expected], rel=2e-3)


# How often bounds are wrong where images of a person resemble each other. All aim at 5 %.

PERSONS, EACH, SAMPLES, SPLITS = 20, 10, 600, 200


def alike(generator: np.random.Generator, samples: int, rate: float) -> Numbers:
    """Whether something holds, of images whose persons have much in common (0.4)."""
    persons = generator.normal(size=(samples, PERSONS, 1))
    own = generator.normal(size=(samples, PERSONS, EACH))
    return np.asarray(np.sqrt(0.4) * persons + np.sqrt(0.6) * own < norm.ppf(rate)).reshape(-1)


GROUP = np.repeat(np.arange(SAMPLES), PERSONS * EACH)
PERSON = np.repeat(np.arange(SAMPLES * PERSONS), EACH)
NAMES = tuple(("g", f"{g}") for g in range(SAMPLES))
GROUPING = Grouping(("g",), (tuple(f"{g}" for g in range(SAMPLES)),))


def missed(
    bounds: Sequence[tuple[float | None, float | None]], truth: float
) -> tuple[float, float]:
    """How often the lower bound is above the truth, and the upper one below it, in percent."""
    known = [(a, b) for a, b in bounds if a is not None and b is not None]
    assert len(known) == len(bounds)
    above = sum(a > truth for a, _ in known)
    return 100 * above / len(known), 100 * sum(b < truth for _, b in known) / len(known)


def test_the_gated_bounds_know_that_images_belong_together() -> None:
    """Accuracy of a group is 80 %, and the drop of a split 3 points."""
    generator = np.random.default_rng(0)
    right = torch.from_numpy(alike(generator, SAMPLES, 0.8))
    lost = torch.from_numpy(alike(generator, SAMPLES, 0.08))
    gained = torch.from_numpy(alike(generator, SAMPLES, 0.05)) & ~lost
    drop = float((lost.float() - gained.float()).mean())
    ids, persons = torch.from_numpy(GROUP)[:, None], torch.from_numpy(PERSON)
    rates = {}
    for clusters in (None, persons):
        one = Paired("test", right, right, ids, clusters=clusters)
        checks = audit([one], GROUPING, Policy(min_accuracy=0.7)).checks
        rates["accuracy", clusters is None] = missed([(c.lower, c.upper) for c in checks], 0.8)
        splits = []
        for g in range(SPLITS):
            rows = slice(g * PERSONS * EACH, (g + 1) * PERSONS * EACH)
            own = None if clusters is None else clusters[rows]
            none = torch.zeros(PERSONS * EACH, 1, dtype=torch.int64)
            splits.append(Paired(f"{g}", ~gained[rows], ~lost[rows], none, clusters=own))
        names = [split.split for split in splits]
        checks = audit(splits, Grouping(("x",), (("y",),)), Policy(max_drop=0.1), names).checks
        rates["drop", clusters is None] = missed([(c.lower, c.upper) for c in checks], drop)
    for what in ("accuracy", "drop"):
        assert max(rates[what, False]) < 8.5
        assert max(rates[what, True]) > 11


def test_the_bounds_beside_psi_know_it_too() -> None:
    generator = np.random.default_rng(1)
    changed, dense = alike(generator, SAMPLES, 0.2), alike(generator, SAMPLES, 0.9)
    label = np.zeros(len(GROUP), int)
    rates = {}
    for clusters in (None, PERSON):
        found = shifts(
            Answers(
                split="test",
                label=label,
                dense=Said(1 - dense.astype(int)),
                sparse=Said(np.where(changed, 2, 1 - dense.astype(int))),
                groups=GROUP[:, None],
                names=NAMES,
                clusters=clusters,
            )
        )
        assert found.clustered == (clusters is not None)
        for field, truth in (("churn", 0.2), ("excess_churn", 0.0), ("acc_dense", 0.9)):
            bounds = [getattr(group, field) for group in found.groups]
            rates[field, clusters is None] = missed([(b.lower, b.upper) for b in bounds], truth)
    for field in ("churn", "excess_churn", "acc_dense"):
        assert max(rates[field, False]) < 8.5
        assert max(rates[field, True]) > 11


def test_the_bounds_of_means_know_it_too() -> None:
    """A shift of the loss that is half the person's: of 100 persons each, for 100 images."""
    generator = np.random.default_rng(2)
    groups, persons = 300, 100
    shift = generator.normal(size=(groups, persons, 1)) + generator.normal(
        size=(groups, persons, 4)
    )
    ids = np.repeat(np.arange(groups), persons * 4)
    clusters = np.repeat(np.arange(groups * persons), 4)
    after = shift.reshape(-1)
    effects = Effects(ids[:, None], groups, clusters, 0.05)
    by = effects.of_mean(after), effects.of_excess(after)
    for widened, fewest, most in ((by, 0.0, 7.5), (None, 9.0, 30.0)):
        found = mean_shift(np.zeros(len(ids)), after, ids[:, None], groups, 0.05, widened)
        for (_, lower, upper), truth in zip(found, (0.0, float(-after.mean())), strict=True):
            wrong = 100 * np.mean(lower > truth), 100 * np.mean(upper < truth)
            assert fewest <= min(wrong) <= max(wrong) <= most
    # Images that count for fewer than a hundred have no bounds.
    half = mean_shift(np.zeros(len(ids)), after, ids[:, None], groups, 0.05, (by[0] * 2, by[1]))
    assert np.isnan(half[0][1]).all()


@given(st.integers(0, 1000))
def test_a_mean_over_some_images_takes_no_account_of_the_others(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, ids = generator.normal(size=60), generator.integers(0, 2, (60, 1))
    clusters, among = generator.integers(0, 9, 60), generator.random(60) < 0.6
    alone = mean_effects(values[among], ids[among], clusters[among], 2, 0.05)
    assert Effects(ids, 2, clusters, 0.05).of_mean(values, among) == pytest.approx(alone)
    assert Effects(ids, 2, None, 0.05).of_mean(values, among).tolist() == [1, 1]
