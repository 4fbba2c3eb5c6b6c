"""How many images an audit needs: against simulation, by hand, and as the commands show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import ceag, done, write_csv

from ceag_cli.errors import LabelsError, OptionError
from ceag_cli.groups import Grouping
from ceag_cli.intervals import Counts, psi_bounds, quantile_of
from ceag_cli.options import AuditOptions
from ceag_cli.planning import GroupPlan, Plan, plan, plan_audit
from ceag_cli.policy import Policy
from ceag_cli.sizes import Sizes, read_sizes


def planned(n: list[int], churn: tuple[float, ...] = (0.05,), **policy: Any) -> list[GroupPlan]:
    """The plan for groups of one feature and some sizes."""
    grouping = Grouping(("letter",), (tuple("abcdefgh"[: len(n)]),))
    sizes = Sizes("f.csv", "", grouping, {"test": sum(n)}, {"test": np.array(n)}, {})
    return list(plan(sizes, Policy(**policy), churn=churn).groups)


def upper(n: int, rest: int, alpha: float = 0.05, interval: str = "score") -> float:
    """The bound of a group of n beside others, when nothing changed."""
    one = np.array([1.0])
    counts = Counts(n * one, 0 * one, 0 * one, (n + rest) * one, 0 * one, 0 * one)
    return float(psi_bounds(counts, quantile_of(alpha), interval)[2][0])


@pytest.mark.parametrize(
    ("eps", "smallest"), [(0.005, 539), (0.01, 268), (0.02, 133), (0.03, 88), (0.05, 52)]
)
def test_the_smallest_of_a_small_group_is_the_closed_form(eps: float, smallest: int) -> None:
    """z^2 (1 - eps) / eps, where the other images are without number."""
    (small, _) = planned([5, 10**8], eps=eps)
    assert small.smallest.n == smallest
    assert small.smallest.grows == "group"


@pytest.mark.parametrize("interval", ["score", "exact"])
@pytest.mark.parametrize(("n", "rest"), [(10, 400), (200, 300), (3000, 500), (50, 50)])
def test_one_image_less_than_the_smallest_cannot_pass(n: int, rest: int, interval: str) -> None:
    (group, _) = planned([n, rest], interval=interval)
    found = group.smallest.n
    assert found is not None
    times = found / n if group.smallest.grows == "split" else 1.0
    assert upper(found, round(rest * times), interval=interval) <= 0.02 + 1e-9
    times = (found - 1) / n if group.smallest.grows == "split" else 1.0
    assert upper(found - 1, round(rest * times), interval=interval) > 0.02 - 1e-9


def test_two_groups_of_a_hundred_can_pass_thanks_to_each_other() -> None:
    assert upper(100, 100) == pytest.approx(0.0186, abs=5e-5)
    assert [group.status for group in planned([100, 100])] == ["hardly", "hardly"]
    assert [group.status for group in planned([90, 90])] == ["too_small", "too_small"]


def power(n: int, rest: int, churn: float, interval: str = "score") -> float:
    """How often a group passes whose psi is 0, by simulation."""
    random = np.random.default_rng(1)

    def draw(images: int) -> tuple[np.ndarray, np.ndarray]:
        changed = random.binomial(images, churn, 5_000)
        lost = random.binomial(changed, 0.5)
        return lost.astype(float), (changed - lost).astype(float)

    (lost, gained), (rest_lost, rest_gained) = draw(n), draw(rest)
    whole = np.full(len(lost), float(n + rest))
    counts = Counts(
        np.full(len(lost), float(n)), lost, gained, whole, lost + rest_lost, gained + rest_gained
    )
    return float((psi_bounds(counts, quantile_of(0.05), interval)[2] <= 0.02).mean())


@pytest.mark.parametrize("interval", ["score", "exact"])
@pytest.mark.parametrize("churn", [0.02, 0.05, 0.1])
@pytest.mark.parametrize(("n", "rest"), [(200, 50_000), (2000, 8000), (800, 1200)])
def test_the_planned_number_has_the_planned_power(
    n: int, rest: int, churn: float, interval: str
) -> None:
    (group, _) = planned([n, rest], (churn,), interval=interval)
    (need,) = group.needed
    assert need.n is not None
    others = round(rest * need.n / n) if need.grows == "split" else rest
    assert power(need.n, others, churn, interval) == pytest.approx(0.8, abs=0.03)


def test_more_churn_a_smaller_eps_and_the_exact_interval_need_more() -> None:
    def needed(**given: Any) -> list[int]:
        (group, _) = planned([100, 20_000], (0.02, 0.05, 0.1), **given)
        numbers = [group.smallest.n, *(need.n for need in group.needed)]
        return [n for n in numbers if n is not None]

    normal = needed()
    assert len(normal) == 4
    assert normal == sorted(normal)
    for other in (needed(eps=0.01), needed(interval="exact"), needed(alpha=0.01)):
        assert all(more > n for n, more in zip(normal, other, strict=True))


def test_a_groups_own_eps_is_planned_with() -> None:
    a, b = planned([300, 300], eps_by_group={("letter", "a"): 0.005})
    assert (a.eps, a.status, b.eps) == (0.005, "too_small", 0.02)


def test_statuses() -> None:
    groups = planned([0, 20, 135, 600, 100_000], (0.02, 0.05))
    assert [(g.status, g.decidable_to) for g in groups] == [
        ("NO_DATA", None),
        ("too_small", None),
        ("hardly", None),
        ("partly", 0.02),
        ("decidable", 0.05),
    ]
    assert [g.status for g in planned([0, 500])] == ["NO_DATA", "REFERENCE"]


def test_a_required_group_that_is_not_there_is_planned_for() -> None:
    groups = planned([500, 500], required=(("letter", "z"),))
    assert [(g.value, g.n, g.required, g.status) for g in groups][2] == ("z", 0, True, "NO_DATA")
    assert groups[2].smallest.n is not None


def test_with_an_eps_of_zero_no_number_suffices() -> None:
    groups = planned([500, 500], eps=0.0)
    assert {g.smallest.n for g in groups} == {None}
    assert {g.status for g in groups} == {"too_small"}


def test_ten_thousand_groups_take_no_time() -> None:
    grouping = Grouping(("n",), (tuple(map(str, range(10_000))),))
    n = np.arange(10_000) % 50 + 1
    sizes = Sizes("f.csv", "", grouping, {"test": int(n.sum())}, {"test": n}, {})
    assert len(plan(sizes, Policy()).groups) == 10_000


# Sizes of a CSV

HEADER = ("path", "label", "split", "race", "gender")


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """700 images, of which some have no race; in test 300 White, 140 Black and 10 without."""
    monkeypatch.chdir(tmp_path)
    races = ["White"] * 300 + ["Black"] * 140 + [""] * 10
    rows = [
        (f"{i}.png", "cat", "test", race, "F" if i % 2 else "M") for i, race in enumerate(races)
    ]
    rows += [(f"t{i}.png", "cat", "train", "White", "F") for i in range(250)]
    return write_csv(Path("labels.csv"), rows, HEADER)


def test_sizes_count_images_without_a_group_by_themselves(labels: Path) -> None:
    sizes = read_sizes(labels)
    assert sizes.total == {"train": 250, "test": 450}
    by_name = dict(zip(sizes.grouping.names, sizes.by_group["test"].tolist(), strict=True))
    assert by_name == {
        ("race", "<missing>"): 10,
        ("race", "Black"): 140,
        ("race", "White"): 300,
        ("gender", "F"): 225,
        ("gender", "M"): 225,
    }
    assert sizes.missing == {"race": {"train": 0, "test": 10}}
    left_out = read_sizes(labels, missing="drop")
    assert left_out.total == {"train": 250, "test": 440}
    assert left_out.missing == sizes.missing
    crossed = read_sizes(labels, groups_by="race*gender")
    assert crossed.missing == {"race*gender": {"train": 0, "test": 10}}


def found(**options: Any) -> Plan:
    return plan_audit(AuditOptions(groups="labels.csv", **options))


def test_what_an_audit_would_refuse_is_refused(labels: Path) -> None:
    with pytest.raises(LabelsError, match="no row has split 'val'"):
        found(gate_splits=("val",))
    with pytest.raises(OptionError, match="--gate-splits train"):
        found(gate_splits=("train",))
    with pytest.raises(OptionError, match="did you mean 'Black'"):
        found(overrides=({"feature": "race", "value": "Blck", "eps": 0.1},))
    with pytest.raises(OptionError, match="no groups CSV is named"):
        plan_audit(AuditOptions())


def test_the_fate_of_images_without_a_group_is_said(labels: Path) -> None:
    assert found().notes[0] == (
        "images without a race: 10 of test; an audit refuses them without --missing group or "
        "--missing drop"
    )
    assert found(missing="drop").notes[0] == "images without a race: 10 of test; they are left out"
    assert found(missing="group").notes[0].endswith("they are the group <missing>")


def test_clusters_are_said_to_count_for_less(labels: Path) -> None:
    assert "those of one gender count for less" in found(cluster_id="gender").notes[-1]


# The commands


def test_groups_shows_sizes_and_what_can_be_decided(labels: Path) -> None:
    result = done("groups", "labels.csv", "--eps", "0.03")
    lines = result.stdout.splitlines()
    assert lines[0] == "labels.csv: 250 train, 450 test images"
    heads = ["race", "train", "test", "unchanged", "churn", "2%", "churn", "5%", "churn", "10%"]
    assert (
        lines[3].replace("churn ", "churn").split()
        == " ".join(heads).replace("churn ", "churn").split()
    )
    rows = {line.split()[0]: line.split() for line in lines[4:7]}
    assert rows["<missing>"][-2:] == ["too", "small"]
    assert rows["Black"][1:3] == ["0", "140"]
    assert rows["White"][1:3] == ["250", "300"]
    assert "images without a race: 10 of test" in result.stdout
    assert sum(line.startswith("too small: ") for line in lines) == 1
    assert result.stderr == ""
    assert all(len(line) <= 120 for line in lines)


def test_a_plan_says_once_what_is_asked_and_who_asks_it(labels: Path) -> None:
    Path("ceag.yaml").write_text("audit: {groups: labels.csv, alpha: 0.1, waivers: []}\n")
    result = done("groups", "--eps", "0.03")
    assert result.stdout.splitlines()[1] == (
        "eps 0.03 (from --eps), alpha 0.1 (from ceag.yaml), interval score, "
        "waivers 0 (from ceag.yaml)"
    )
    assert "eps" not in result.stderr
    (line,) = (line for line in done("groups").stdout.splitlines() if line.startswith("eps"))
    assert line.startswith("eps 0.02 (from the default), ")


def test_groups_as_json(labels: Path) -> None:
    document = json.loads(
        done("groups", "labels.csv", "--churn", "0.01,0.2", "--format", "json").stdout
    )
    assert (document["eps"], document["churn"], document["power"]) == (0.02, [0.01, 0.2], 0.8)
    assert document["splits"] == [
        {"split": "train", "gated": False, "n": 250},
        {"split": "test", "gated": True, "n": 450},
    ]
    assert document["features"] == [
        {"feature": "race", "groups": 2, "missing": {"train": 0, "test": 10}},
        {"feature": "gender", "groups": 2, "missing": {"train": 0, "test": 0}},
    ]
    black = next(g for g in document["groups"] if g["value"] == "Black")
    assert black["n"] == 140
    assert [need["churn"] for need in black["needed"]] == [0.01, 0.2]
    assert black["smallest"]["n"] <= black["needed"][0]["n"] <= black["needed"][1]["n"]
    sizes = next(s for s in document["sizes"] if s["value"] == "White")
    assert sizes["n"] == {"train": 250, "test": 300}


def test_audit_plan_needs_the_csv_alone(labels: Path) -> None:
    asked = ("--eps", "0.03", "--groups-by", "gender")
    plan_of_audit = done("audit", "--plan", "--groups", "labels.csv", *asked)
    assert plan_of_audit.stdout == done("groups", "labels.csv", *asked).stdout
    assert not list(Path().glob("*.run"))


def test_the_policy_is_planned_with(labels: Path) -> None:
    Path("ceag.yaml").write_text(
        "audit:\n  groups: labels.csv\n  alpha: 0.01\n"
        "  required_groups: [{feature: race, value: Black}, {feature: race, value: Asian}]\n"
    )
    result = done("groups")
    assert "alpha 0.01" in result.stdout
    assert "Black" in result.stdout
    assert sum(line.endswith("required") for line in result.stdout.splitlines()) == 2
    assert "NO DATA, required" in result.stdout


def test_a_plan_from_a_table_of_answers(labels: Path) -> None:
    header = ("id", "label", "split", "race", "dense", "sparse")
    rows = [(str(i), "cat", "test", "AB"[i % 2], "cat", "dog" if i else "cat") for i in range(400)]
    write_csv(Path("preds.csv"), rows, header)
    result = done("audit", "--plan", "--predictions", "preds.csv")
    assert result.stdout.startswith("preds.csv: 400 test images")
    assert "2 of 2 groups have enough images" in result.stdout


def test_names_that_would_steer_a_terminal_are_shown_without(tmp_path: Path) -> None:
    rows = [(f"{i}.png", "cat", "test", "\x1b[31mred", "F") for i in range(3)]
    path = write_csv(tmp_path / "labels.csv", rows, HEADER)
    result = done("groups", str(path))
    assert "\x1b" not in result.stdout
    assert "REFERENCE" in result.stdout


def test_groups_that_cannot_be_read_exit_with_2(labels: Path) -> None:
    assert ceag("groups", "nowhere.csv").exit_code == 2
    result = ceag("groups", "labels.csv", "--eps", "-1")
    assert result.exit_code == 2
    assert "--eps: -1.0 must be at least 0" in result.stderr
    assert ceag("groups", "labels.csv", "--format", "xml").exit_code == 2


def test_a_plan_says_what_it_does_not_do(labels: Path) -> None:
    result = done("audit", "--plan", "--groups", "labels.csv", "--report", "json=x.json", "-o", "y")
    for name in ("--report", "--output"):
        assert f"warning: {name} has no effect with --plan, which judges nothing" in result.stderr
    assert not Path("x.json").exists()
