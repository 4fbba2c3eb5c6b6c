"""Schedules by hand, and every one of them on the command line."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ceag, done, folder_with, tiny_model

from ceag_cli.lineage import Lineage
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import IterativePruning, magnitude_uniform
from ceag_cli.schedules import cubic, geometric, rounds_of_a_fifth
from ceag_cli.weightsfiles import read_metadata, sha256_of

FAST = ("--batch-size", "8", "--workers", "0")


def test_cubic_by_hand() -> None:
    # s = 0.8 (1 - (1 - t/4)^3), of 64: 0, 37, 56, 63, 64.
    expected = [0.0, 0.8 * 37 / 64, 0.8 * 56 / 64, 0.8 * 63 / 64, 0.8]
    assert [cubic(t, 4, 0.8) for t in range(5)] == pytest.approx(expected, abs=1e-15)


def test_cubic_from_an_initial_sparsity() -> None:
    # 0.75 - 0.5 * (1 - t/2)^3
    assert [cubic(t, 2, 0.75, 0.25) for t in range(3)] == [0.25, 0.6875, 0.75]


def test_cubic_as_the_paper_has_it() -> None:
    percent = [round(100 * cubic(t, 15, 0.99), 1) for t in range(16)]
    assert percent[:8] == [0.0, 18.5, 34.6, 48.3, 60.0, 69.7, 77.6, 84.0]
    assert percent[8:] == [88.9, 92.7, 95.3, 97.1, 98.2, 98.8, 99.0, 99.0]


def test_from_the_end_on_cubic_is_exactly_final() -> None:
    for final in (0.1, 0.7, 0.9, 0.995):
        assert [cubic(t, 3, final, 0.3) for t in (3, 4, 1000)] == [final] * 3
        assert cubic(0, 0, final, 0.3) == final


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(0, 998), st.integers(1, 999))
def test_cubic_rises_from_initial_to_final(end: int, low: int, extra: int) -> None:
    initial, final = low / 1000, min(999, low + extra) / 1000
    values = [cubic(t, end, final, initial) for t in range(end + 2)]
    assert values[0] == pytest.approx(initial, abs=1e-15)
    assert all(a <= b for a, b in pairwise(values))
    assert max(values) <= final


def test_geometric_by_hand() -> None:
    # Half of what is left goes in each round.
    assert [geometric(i, 3, 0.875) for i in range(5)] == [0.0, 0.5, 0.75, 0.875, 0.875]
    # From 0.5 on: of the half that is left, a half each time.
    assert [geometric(i, 2, 0.875, 0.5) for i in range(3)] == [0.5, 0.75, 0.875]
    assert geometric(1, 1, 0.9) == 0.9


def test_the_lottery_ticket_paper_keeps_four_fifths_a_round() -> None:
    """Their levels: 80, 64, 51.2, 41.0, 32.8, 26.2, 21.0, 16.8, 13.4, 10.7 % are left."""
    levels = [100 * 0.8**i for i in range(1, 11)]
    found = [100 * (1 - geometric(i, 10, 1 - 0.8**10)) for i in range(1, 11)]
    assert found == pytest.approx(levels)
    assert [round(left, 1) for left in found[-3:]] == [16.8, 13.4, 10.7]


def test_fairgrape_keeps_nine_tenths_a_round() -> None:
    """90 % sparsity takes 22 rounds (Lin et al. 2022)."""
    left = [1 - geometric(i, 22, 0.9) for i in range(23)]
    ratios = [after / before for before, after in pairwise(left)]
    assert min(ratios) == pytest.approx(max(ratios))
    assert 0.9 <= ratios[0] < 0.901


@pytest.mark.parametrize(
    ("final", "initial", "rounds"),
    [
        (0.0, 0.0, 1),
        (0.1, 0.0, 1),
        (0.2, 0.0, 1),
        (0.21, 0.0, 2),
        (0.36, 0.0, 2),
        (0.9, 0.0, 11),  # 0.8^10 = 0.107
        (0.9, 0.9, 1),
        (0.92, 0.9, 1),
        (0.999, 0.0, 31),
    ],
)
def test_rounds_that_remove_at_most_a_fifth(final: float, initial: float, rounds: int) -> None:
    assert rounds_of_a_fifth(final, initial) == rounds


@given(st.integers(0, 998), st.integers(0, 998))
def test_no_round_removes_more_than_a_fifth(one: int, other: int) -> None:
    initial, final = sorted((one / 1000, other / 1000))
    rounds = rounds_of_a_fifth(final, initial)
    left = [1 - geometric(i, rounds, final, initial) for i in range(rounds + 1)]
    assert all(after >= before * 0.8 - 1e-9 for before, after in pairwise(left))
    if rounds > 1:  # and one fewer would not do
        left = [1 - geometric(i, rounds - 1, final, initial) for i in range(rounds)]
        assert any(after < before * 0.8 for before, after in pairwise(left))


# Rounds


def test_rounds_prune_and_rewind_what_is_left() -> None:
    model = tiny_model("test_resnet")
    names = prunable_parameters(model)
    early = {name: torch.full_like(value, 7) for name, value in model.state_dict().items()}

    def pruner(model: Any, sparsity: float, *, on_the_way: bool = False) -> Any:
        return magnitude_uniform(model, names, sparsity, on_the_way=on_the_way)

    schedule = IterativePruning(pruner, 0.75, rounds=2, epochs_between=3, early=early)
    assert schedule.end == 3
    generator = torch.Generator().manual_seed(0)
    masks = []
    for epoch in range(4):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = schedule.prune(model, epoch)
        if epoch in (1, 2):
            assert found is None
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        else:
            assert found is not None
            masks.append(found)
            assert found.sparsity == pytest.approx([0.5, 0.75][len(masks) - 1], abs=0.01)
            for name, value in model.state_dict().items():
                gone = found.pruned.get(name, torch.zeros_like(value, dtype=torch.bool))
                assert torch.equal(value == 0, gone)
                assert bool((value[~gone] == 7).all())
        with torch.no_grad():  # what training would do
            for name, parameter in model.named_parameters():
                moved = torch.randn(parameter.shape, generator=generator)
                gone = masks[-1].pruned.get(name, torch.zeros_like(moved, dtype=torch.bool))
                parameter.add_(moved).masked_fill_(gone, 0.0)
    for name, mask in masks[0].pruned.items():
        assert bool(masks[1].pruned[name][mask].all())


# On the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense model and its early weights."""
    return folder_with(tmp_path_factory, dense("--epochs", "4", "--early-epoch", "1"))


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder as the current one; outputs go elsewhere."""
    monkeypatch.chdir(trained)
    return tmp_path


def dense(*more: str) -> tuple[str, ...]:
    tiny = ("--model", "test_resnet", "--img-size", "16", "--sched", "constant")
    return ("dense", "--groups", "labels.csv", *tiny, *FAST, *more)


def pruning(output: Path, *more: str) -> tuple[str, ...]:
    return ("prune", "model.safetensors", "-o", str(output), *more, *FAST)


def weights_of(path: Path | str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def lineage_of(path: Path | str) -> Lineage:
    lineage = Lineage.from_metadata(read_metadata(Path(path)), Path(path))
    assert lineage is not None
    return lineage


@pytest.mark.parametrize("schedule", ["one-shot", "cubic", "iterative", "rewind"])
@pytest.mark.parametrize(
    "rule",
    [
        ("--criterion", "magnitude"),
        ("--criterion", "random", "--scope", "global"),
        ("--criterion", "taylor", "--scope", "erk"),
        ("--criterion", "snip", "--scope", "global", "--max-layer-sparsity", "0.9"),
        ("--criterion", "fairgrape"),
        ("--criterion", "magnitude", "--pattern", "2:4"),
    ],
    ids=" ".join,
)
def test_every_schedule_goes_with_every_rule_that_makes_sense(
    here: Path, rule: tuple[str, ...], schedule: str
) -> None:
    output = here / "x.safetensors"
    target = () if "2:4" in rule else ("--sparsity", "0.75")
    epochs = "1" if schedule in ("iterative", "rewind") else "3"
    rounds = ("--rounds", "3") if epochs == "1" and "2:4" not in rule else ()
    steps = (*rule, *target, "--schedule", schedule, "--epochs", epochs, *rounds)
    given = ("--groups", "labels.csv", "--lr", "0.001", "--format", "json")
    command = pruning(output, *steps, *given)
    if schedule == "cubic" and "2:4" in rule:
        result = ceag(*command)
        assert result.exit_code == 2
        assert "error: --pattern 2:4 has no steps on the way; prune at once (" in result.stderr
        return
    found = json.loads(done(*command).stdout)
    after = weights_of(output)
    zeros = {t["name"]: t["zeros"] for t in found["by_tensor"] if t["dense_because"] is None}
    assert {name: int((after[name] == 0).sum()) for name in zeros} == zeros
    sizes = {name: after[name].numel() for name in zeros}
    if "2:4" in rule:
        assert all(2 * zeros[name] == size for name, size in sizes.items())
    elif "--scope" in rule:
        assert sum(zeros.values()) == math.ceil(Fraction(3, 4) * sum(sizes.values()))
    else:
        assert zeros == {name: math.ceil(Fraction(3, 4) * size) for name, size in sizes.items()}
    assert found["schedule"] == schedule
    assert found["rounds"] == {"1": 3 if rounds else 1}.get(epochs)


@pytest.mark.parametrize("schedule", ["iterative", "rewind"])
def test_rounds_are_logged_and_the_learning_rate_starts_anew(here: Path, schedule: str) -> None:
    output = here / "x.safetensors"
    steps = ("--schedule", schedule, "--rounds", "2", "--epochs", "3", "--sparsity", "0.75")
    result = done(*pruning(output, *steps, "--lr", "0.01"))
    assert "rounds of pruning: 2; epochs of training after each: 3" in result.stderr
    ending = ", each from the early weights on" if schedule == "rewind" else ""
    assert f"rounds of pruning: 2{ending}" in result.stdout.splitlines()
    log = [json.loads(line) for line in (here / "x.run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert [round(line["sparsity"], 2) for line in log] == [0.5] * 3 + [0.75] * 3
    # Half a cosine over three epochs, twice: 0.01 (1 + cos(pi t / 3)) / 2.
    rates = [0.0075, 0.0025, 0.0]
    assert [line["lr"] for line in log] == pytest.approx(rates * 2, abs=1e-8)


def test_a_lottery_ticket_has_the_early_weights(here: Path) -> None:
    """At a learning rate too small to move anything, what is left are the early weights."""
    output = here / "ticket.safetensors"
    still = ("--lr", "1e-30", "--weight-decay", "0")
    steps = ("--schedule", "rewind", "--rounds", "1", "--epochs", "1", "--sparsity", "0.9")
    done(*pruning(output, *steps, *still))
    early, final = weights_of("model.early.safetensors"), weights_of("model.safetensors")
    ticket = weights_of(output)
    record = lineage_of(output).sparsity
    assert record is not None
    for name in record.tensors:
        # The mask goes by what the weights became, not by what they were.
        order = final[name].abs().flatten().sort().values
        kept = final[name].abs() > order[math.ceil(Fraction(9, 10) * order.numel()) - 1]
        assert torch.equal(ticket[name], torch.where(kept, early[name], 0.0))
        assert not torch.equal(early[name], final[name])
    for name in ("conv1.0.weight", "fc.weight", "fc.bias", "bn1.weight", "bn1.bias"):
        assert torch.equal(ticket[name], early[name]), name
    parents = lineage_of(output).parents
    assert parents["early"].sha256 == sha256_of(Path("model.early.safetensors"))
    assert parents["dense"].sha256 == sha256_of(Path("model.safetensors"))


def test_without_rewinding_the_weights_stay(here: Path) -> None:
    output = here / "x.safetensors"
    still = ("--lr", "1e-30", "--weight-decay", "0")
    steps = ("--schedule", "iterative", "--rounds", "1", "--epochs", "1", "--sparsity", "0.9")
    done(*pruning(output, *steps, *still))
    final, after = weights_of("model.safetensors"), weights_of(output)
    for name in lineage_of(output).sparsity.tensors:  # type: ignore[union-attr]
        assert torch.equal(after[name], torch.where(after[name] == 0, 0.0, final[name]))


def test_early_weights_are_those_of_the_epoch(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a constant learning rate, those of a training that is over by then."""
    monkeypatch.chdir(trained)
    done(*dense("--epochs", "1", "-o", str(tmp_path / "short.safetensors")))
    early, short = weights_of("model.early.safetensors"), weights_of(tmp_path / "short.safetensors")
    assert all(torch.equal(early[name], short[name]) for name in short)
    lineage = lineage_of("model.early.safetensors")
    assert (lineage.stage, lineage.parents) == ("early", {})
    reference = lineage_of("model.safetensors").parents["early"]
    assert reference.path == "model.early.safetensors"
    assert reference.sha256 == sha256_of(trained / "model.early.safetensors")
    # Nobody takes them for the dense model.
    assert "took model.safetensors" in done("prune", "--sparsity", "0.5", "--dry-run").stderr
    assert "early, written by" in done("info", "model.early.safetensors").stdout


def test_early_epoch_0_gives_the_initial_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    output = str(tmp_path / "m.safetensors")
    result = done(*dense("--epochs", "1", "--early-epoch", "0", "--seed", "5", "-o", output))
    assert f"wrote {tmp_path}/m.early.safetensors: the weights to rewind" in result.stdout
    initial = tiny_model("test_resnet", seed=5).state_dict()
    early = weights_of(tmp_path / "m.early.safetensors")
    assert all(torch.equal(early[name], initial[name]) for name in initial)


def test_early_weights_that_exist_are_not_overwritten_silently(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    (tmp_path / "m.early.safetensors").write_text("precious")
    command = dense("--epochs", "2", "--early-epoch", "0", "-o", str(tmp_path / "m.safetensors"))
    result = ceag(*command)
    assert result.exit_code == 2
    assert "m.early.safetensors: exists already; replace it with --overwrite" in result.stderr
    assert (tmp_path / "m.early.safetensors").read_text() == "precious"
    assert not (tmp_path / "m.safetensors").exists()
    done(*command, "--overwrite")
    assert lineage_of(tmp_path / "m.early.safetensors").stage == "early"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--schedule", "iterative"),
            "--schedule iterative prunes while the model is fine-tuned; say for how long with "
            "--epochs",
        ),
        (
            ("--schedule", "cubic"),
            "--schedule cubic prunes while the model is fine-tuned; say for how long with --epochs",
        ),
        (
            ("--schedule", "rewind", "--epochs", "1", "--early", "nowhere.safetensors"),
            "nowhere.safetensors: there is no such file",
        ),
        (
            ("--schedule", "cubic", "--epochs", "2", "--prune-epochs", "2"),
            "--prune-epochs 2 must be less than --epochs 2",
        ),
    ],
)
def test_schedules_that_cannot_be_are_refused(
    here: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = ceag(*pruning(here / "x.safetensors", "--sparsity", "0.5", *arguments))
    assert result.exit_code == 2
    assert f"error: {message}" in result.stderr.splitlines()
    assert not (here / "x.safetensors").exists()


def test_rewinding_without_early_weights_says_how_to_get_them(here: Path) -> None:
    plain = here / "plain.safetensors"
    safetensors.torch.save_file(weights_of("model.safetensors"), plain)
    architecture = ("--model", "test_resnet", "--img-size", "16", "--groups", "labels.csv")
    command = ("prune", str(plain), *architecture, "--class-map", str(here / "classes.txt"))
    (here / "classes.txt").write_text("blue\ngreen\nred\n")
    steps = ("--sparsity", "0.5", "--schedule", "rewind", "--epochs", "1", *FAST)
    result = ceag(*command, *steps)
    assert result.exit_code == 2
    assert (
        f"error: {plain}: names no early weights to rewind to; train it with 'ceag dense "
        "--early-epoch 1', or name a file with --early" in result.stderr.splitlines()
    )
    done(*command, *steps, "--early", "model.early.safetensors")


def test_early_weights_of_another_model_are_refused(here: Path) -> None:
    other = here / "other.safetensors"
    safetensors.torch.save_file(tiny_model("test_vit", img_size=16).state_dict(), other)
    steps = ("--sparsity", "0.5", "--schedule", "rewind", "--epochs", "1", "--early", str(other))
    result = ceag(*pruning(here / "x.safetensors", *steps))
    assert result.exit_code == 2
    assert f"error: {other}: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_early_epoch_that_never_comes_is_refused(here: Path) -> None:
    result = ceag(*dense("--epochs", "2", "--early-epoch", "2", "-o", str(here / "m.safetensors")))
    assert result.exit_code == 2
    assert "error: --early-epoch 2 must be less than --epochs 2" in result.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rounds", "3"), "--rounds has no effect with --schedule one-shot"),
        (("--early", "x"), "--early has no effect with --schedule one-shot"),
        (("--prune-epochs", "3"), "--prune-epochs has no effect with --schedule one-shot"),
    ],
)
def test_what_has_no_effect_is_said(here: Path, arguments: tuple[str, ...], text: str) -> None:
    result = done(*pruning(here / "x.safetensors", "--sparsity", "0.5", *arguments))
    assert f"warning: {text}" in result.stderr.splitlines()
