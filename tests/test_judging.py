from __future__ import annotations

import math

import numpy as np
import pytest

from ceag_cli.intervals import Counts, holm, p_values, psi_bounds, quantile_of
from ceag_cli.judging import Answers, Questions, answers, same_images


def asked(
    *groups: tuple[float, float, float],
    all_of: tuple[float, float, float],
    eps: float = 0.02,
    accepted: dict[int, float] | None = None,
    same_as: tuple[int, ...] | None = None,
) -> Questions:
    """Groups as (n, lost, gained), beside all images."""
    number = len(groups)
    columns = [np.array(column, float) for column in zip(*groups, strict=True)]
    excused = np.full(number, eps)
    for g, more in (accepted or {}).items():
        excused[g] = more
    return Questions(
        counts=Counts(*columns, *(np.full(number, float(x)) for x in all_of)),
        eps=np.full(number, eps),
        accepted=excused,
        same_as=np.array(same_as) if same_as is not None else np.arange(number),
    )


def judged(
    questions: Questions, alpha: float = 0.05, interval: str = "score", against: str = "overall"
) -> Answers:
    return answers(questions, alpha, interval, against)


def verdicts(found: Answers) -> list[str]:
    return [
        "PASS" if p else "FAIL" if f else "WAIVED" if w else "small" if s else "-"
        for p, f, w, s in zip(found.passes, found.fails, found.waived, found.too_small, strict=True)
    ]


GOLDEN = ((1000, 60, 20), (300, 9, 6), (40, 6, 0), (25, 0, 0))
ALL = (1365, 75, 26)


def test_four_groups() -> None:
    found = judged(asked(*GOLDEN, all_of=ALL))
    # Not FAIL, since p is .0283 and there are four groups; the last passes by Wald's interval.
    assert verdicts(found) == ["PASS", "PASS", "small", "small"]
    assert found.p_holm == pytest.approx([1, 1, 0.113, 1], abs=5e-4)
    assert found.family_size == 4


def test_a_group_alone_is_not_corrected() -> None:
    found = judged(asked(GOLDEN[2], all_of=ALL))
    assert verdicts(found) == ["FAIL"]
    assert found.p_holm[0] == found.p[0] == pytest.approx(0.0283, abs=5e-5)


def test_all_distinct_questions_are_one_family() -> None:
    """Two bad groups beside thirty: p times 32, whoever is asked for."""
    many = [(40.0, 6.0, 0.0)] * 2 + [(40.0, 1.0, 0.0)] * 30
    found = judged(asked(*many, all_of=(1280.0, 42.0, 0.0)))
    assert found.p_holm[0] == pytest.approx(32 * found.p[0])
    assert found.family_size == 32


def test_the_same_images_are_one_question() -> None:
    twice = judged(asked(GOLDEN[2], GOLDEN[2], all_of=ALL, same_as=(0, 0)))
    assert twice.family_size == 1
    assert twice.p_holm.tolist() == [twice.p[0], twice.p[0]]
    assert judged(asked(GOLDEN[2], GOLDEN[2], all_of=ALL)).family_size == 2


def test_what_is_accepted_is_waived_and_what_is_worse_is_not() -> None:
    """psi is 9 points, shown to be above 2 and above 4, not above 8."""
    bad, fine = (400, 60, 0), (400, 0, 0)
    everybody = (1000, 60, 0)
    assert verdicts(judged(asked(bad, fine, all_of=everybody))) == ["FAIL", "PASS"]
    for accepted, verdict in ((0.08, "WAIVED"), (0.04, "FAIL"), (0.5, "WAIVED")):
        found = judged(asked(bad, fine, all_of=everybody, accepted={0: accepted}))
        assert verdicts(found) == [verdict, "PASS"]
        # p is about eps, not about what is accepted.
        assert found.p_holm[0] == pytest.approx(2 * found.p[0])


def test_a_waived_group_does_not_make_the_correction_of_others_smaller() -> None:
    """The others are judged by one procedure, in which the excused group asks for its own eps."""
    bad, other = (400, 60, 0), (400, 40, 0)
    plain = judged(asked(bad, other, all_of=(3000, 100, 0)))
    waived = judged(asked(bad, other, all_of=(3000, 100, 0), accepted={0: 0.5}))
    assert plain.p_holm[1] == pytest.approx(plain.p[1])  # the second of two
    assert waived.p_holm[1] == pytest.approx(2 * plain.p[1])


@pytest.mark.parametrize("interval", ["score", "exact"])
@pytest.mark.parametrize(
    ("group", "rest", "verdict"),
    [
        ((100, 0, 0), (100, 0, 0), {"score": "PASS", "exact": "small"}),
        ((60, 0, 0), (9940, 0, 0), {"score": "small", "exact": "small"}),
        ((150, 0, 0), (9850, 0, 0), {"score": "PASS", "exact": "small"}),
        ((400, 0, 0), (9600, 0, 0), {"score": "PASS", "exact": "PASS"}),
        ((1, 1, 0), (9999, 100, 0), {"score": "small", "exact": "small"}),
        ((1, 0, 0), (9999, 100, 0), {"score": "small", "exact": "small"}),
        ((500, 50, 0), (9500, 95, 0), {"score": "FAIL", "exact": "FAIL"}),
    ],
)
def test_what_is_too_small(
    group: tuple[float, float, float],
    rest: tuple[float, float, float],
    verdict: dict[str, str],
    interval: str,
) -> None:
    everybody = tuple(a + b for a, b in zip(group, rest, strict=True))
    found = judged(asked(group, all_of=everybody), interval=interval)  # type: ignore[arg-type]
    assert verdicts(found) == [verdict[interval]]


def decided(group: tuple[float, ...], rest: tuple[float, ...], **more: str) -> Answers:
    everybody = tuple(a + b for a, b in zip(group, rest, strict=True))
    return judged(asked(group, all_of=everybody), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", ["score", "exact"])
@pytest.mark.parametrize("against", ["overall", "rest"])
@pytest.mark.parametrize(
    ("group", "rest"),
    [
        ((60, 0, 0), (9940, 99, 99)),  # towards PASS, without any change
        ((200, 10, 8), (20_000, 1000, 800)),  # with some
        ((40, 0, 1), (2000, 40, 40)),  # psi below 0
        ((100, 12, 4), (20_000, 1000, 800)),  # towards FAIL
        ((900, 60, 10), (40_000, 0, 0)),
        ((1, 1, 0), (1000, 10, 10)),
    ],
)
def test_so_many_more_images_decide_it_and_a_tenth_fewer_do_not(
    group: tuple[float, ...], rest: tuple[float, ...], interval: str, against: str
) -> None:
    how = {"interval": interval, "against": against}
    found = decided(group, rest, **how)
    if verdicts(found)[0] in ("PASS", "FAIL"):
        return
    times, alike = float(found.times[0]), bool(found.grows[0])
    more = math.ceil(group[0] * (times - 1))
    assert more >= 1

    def grown(images: float) -> list[str]:
        factor = 1 + images / group[0]
        others = tuple(x * (factor if alike else 1) for x in rest)
        return verdicts(decided(tuple(x * factor for x in group), others, **how))

    assert grown(more)[0] in ("PASS", "FAIL")
    assert grown(0.9 * more)[0] not in ("PASS", "FAIL")


def test_no_number_of_images_decides_a_group_on_the_line() -> None:
    """psi against the rest is exactly eps, and stays so."""
    found = decided((100, 4, 0), (10_000, 200, 0), against="rest")
    assert np.isnan(found.times[0])


def test_a_large_group_that_dilutes_itself_needs_all_groups_to_grow() -> None:
    """Half of all images, psi 2.5: with more of its own psi falls below eps before it is shown."""
    group, rest = (200.0, 20.0, 8.0), (200.0, 8.0, 6.0)
    found = decided(group, rest)
    assert verdicts(found) == ["-"]
    assert found.grows[0]

    def grown(times: float) -> list[str]:
        return verdicts(decided(tuple(times * x for x in group), tuple(times * x for x in rest)))

    times = float(found.times[0])
    assert grown(1.001 * times) == ["FAIL"]
    assert grown(0.95 * times) != ["FAIL"]
    # A small one does it alone.
    assert not decided((200, 20, 8), (20_000, 800, 600)).grows[0]


def test_needed_for_a_failure_among_many() -> None:
    """Of 21 groups one has p below a twentieth; it would need to be below a 21st of that."""
    groups = [(100.0, 13.0, 4.0)] + [(1000.0, 50.0, 40.0)] * 20
    everybody = (20_100.0, 1013.0, 804.0)
    found = judged(asked(*groups, all_of=everybody))
    assert verdicts(found)[0] == "small"
    times = float(found.times[0])
    alone = asked(groups[0], all_of=everybody).counts.with_more(times)
    p = p_values(alone, np.array([0.02]))
    assert p[0] == pytest.approx(0.05 / 21, rel=1e-3)


def test_nothing_is_needed_where_all_is_decided() -> None:
    found = judged(asked((1000, 0, 0), (1000, 0, 0), all_of=(2000, 0, 0)))
    assert verdicts(found) == ["PASS", "PASS"]
    assert np.isnan(found.times).all()


def test_eps_0() -> None:
    """Passed only by losing less than the others: by 5 of 100 points, of which 0 is excluded."""
    better = judged(asked((500, 0, 0), (500, 50, 0), all_of=(1000, 50, 0), eps=0.0))
    assert verdicts(better) == ["PASS", "FAIL"]
    same = judged(asked((500, 0, 0), (500, 0, 0), all_of=(1000, 0, 0), eps=0.0))
    assert verdicts(same) == ["small", "small"]


def test_against_a_slow_holm() -> None:
    """FAIL is what Holm's procedure rejects, step by step."""
    generator = np.random.default_rng(3)
    groups = [
        (float(n), float(generator.binomial(n, 0.1)), 0.0)
        for n in generator.integers(50, 400, 40).tolist()
    ]
    everybody = (20_000.0, sum(g[1] for g in groups) + 200, 0.0)
    found = judged(asked(*groups, all_of=everybody))
    rejected: set[int] = set()
    for step, g in enumerate(np.argsort(found.p).tolist()):
        if found.p[g] > 0.05 / (40 - step):
            break
        rejected.add(g)
    assert 0 < len(rejected) < 40
    assert set(np.flatnonzero(found.fails).tolist()) == rejected
    assert found.p_holm == pytest.approx(holm(found.p))


def test_bounds_are_those_of_the_intervals() -> None:
    questions = asked(*GOLDEN, all_of=ALL)
    for interval in ("score", "exact"):
        for against in ("overall", "rest"):
            found = judged(questions, 0.1, interval, against)
            _, lower, upper = psi_bounds(questions.counts, quantile_of(0.1), interval, against)
            assert found.lower.tolist() == lower.tolist()
            assert found.upper.tolist() == upper.tolist()


# ---------------------------------------------------------------------------------------------
# Groups of the same images
# ---------------------------------------------------------------------------------------------


def test_groups_of_the_same_images() -> None:
    # Of two features: 0 and 1, 2 to 4. Group 0 is 2; 1 is not 3, though as large as 3 and 4 are.
    ids = np.array([[0, 2], [0, 2], [0, 2], [1, 3], [1, 4]])
    n = np.bincount(ids.reshape(-1), minlength=6)
    assert same_images(ids, n).tolist() == [0, 1, 0, 3, 4, 5]
    ids = np.array([[0, 2], [0, 3], [1, 2], [1, 3]])
    assert same_images(ids, np.bincount(ids.reshape(-1))).tolist() == [0, 1, 2, 3]


def test_groups_of_one_feature_are_never_the_same() -> None:
    assert same_images(np.array([[0], [1]]), np.array([1, 1, 0, 0])).tolist() == [0, 1, 2, 3]
