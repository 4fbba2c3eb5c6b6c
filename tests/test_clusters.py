from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceag_cli.clusters import FEWEST, mean_effects, numbered, psi_effects

Numbers = np.ndarray


def test_clusters_are_numbered_in_order() -> None:
    assert numbered(np.array(["b", "a", "b", "c"])).tolist() == [1, 0, 1, 2]


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
    for effects in (psi_effects, mean_effects):
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
    assert mean_effects(change, ids, clusters, 3) == pytest.approx(np.full(3, times), rel=0.01)


def test_a_group_without_change_counts_its_clusters() -> None:
    """Group 0: 20 images of 10 persons, nothing changed. Group 1: 20 images, of which 5 changed."""
    change = np.array([0.0] * 20 + [1.0] * 5 + [0.0] * 15)
    ids = np.array([0] * 20 + [1] * 20)[:, None]
    clusters = np.concatenate([np.arange(20) // 2, 10 + np.arange(20)])
    for effects in (psi_effects, mean_effects):
        assert effects(change, ids, clusters, 2)[0] == pytest.approx(2.0)


def test_a_group_of_few_clusters_counts_them() -> None:
    """The spread of four persons' means is no measure of persons."""
    change = np.array([1.0, 0.0] * 20 + [0.0] * 60)
    ids = np.array([0] * 40 + [1] * 60)[:, None]
    clusters = np.concatenate([np.arange(40) % 4, 4 + np.arange(60)])
    for effects in (psi_effects, mean_effects):
        assert effects(change, ids, clusters, 2)[0] >= 10.0
    assert FEWEST == 5


def test_a_group_without_images_has_no_effect() -> None:
    change, clusters = np.array([1.0, 0.0]), np.array([0, 0])
    assert psi_effects(change, np.array([[0], [0]]), clusters, 3).tolist()[1:] == [1.0, 1.0]
