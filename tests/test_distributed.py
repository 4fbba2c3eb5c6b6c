"""Runs that are spread over processes: two of them, on CPUs, as torchrun starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import CASES, OTHERWISE
from safetensors.torch import load_file
from toys import a_split, ceag, done, folder_with, tiny_model

from ceag_cli import distributed
from ceag_cli.distributed import World, has_unused, speaking
from ceag_cli.errors import CeagError, OptionError
from ceag_cli.launching import is_lost_connection, joined
from ceag_cli.mixing import mixed
from ceag_cli.progress import Quiet
from ceag_cli.splits import portions

HERE = Path(__file__).resolve().parent

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""Sums in another order, in single precision."""


def torchrun(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Start two processes."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *launcher, *map(str, command)],
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])},
        capture_output=True,
        text=True,
        timeout=300,
    )


def said_by_ceag(stderr: str) -> list[str]:
    """Errors, without torchrun's own report."""
    return [line for line in stderr.splitlines() if re.match(r"(process \d of \d: )?error: ", line)]


# Shares


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_image_of_a_batch_is_one_processs_alone(count: int, size: int) -> None:
    shares = [World(rank, size).share(count) for rank in range(size)]
    counted = [torch.arange(count)[s.place].tolist() for s in shares if s.counts]
    assert [row for rows in counted for row in rows] == list(range(count))
    assert sum(map(len, shares)) == count
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(2, 24), st.integers(1, 5))
def test_shares_are_mixed_as_the_whole_batch_is(count: int, size: int) -> None:
    split, rows = a_split(), torch.randperm(24)[:count]
    expected = mixed(split.images.batches(rows, count).__next__()[1].float(), 0.7)
    found = []
    for rank in range(size):
        (part,) = portions(split.images, [rows], World(rank, size), with_one_before=True)
        assert torch.equal(part.pixels, split.images.batches(part.pick(rows), 99).__next__()[1])
        if part.share.counts:
            found.append(part.own(mixed(part.pixels.float(), 0.7)))
    assert torch.equal(torch.cat(found), expected)


def test_a_process_without_an_image_computes_on_the_first_one_which_counts_for_nothing() -> None:
    share = World(0, 3).share(2)
    assert (share.place, share.counts, len(share)) == (slice(0, 1), False, 0)


def test_only_what_models_draw_by_themselves_differs_between_processes() -> None:
    assert World().seed(7) == World(0, 4).seed(7) == 7
    assert len({World(rank, 4).seed(7) for rank in range(4)}) == 4


# One process


def test_in_one_process_nothing_is_copied_and_nobody_is_asked() -> None:
    world, part = World.current(), torch.rand(3)
    assert world == World(0, 1)
    assert world.whole(part, world.share(3), 3) is part
    model = tiny_model("test_vit")
    assert world.parallel(model, lambda: True) is model
    with pytest.raises(OptionError, match="as it was"):
        world.on_first(lambda: (_ for _ in ()).throw(OptionError("as it was")))


def test_weights_that_have_no_part_in_the_output_are_found() -> None:
    model = tiny_model("test_resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not has_unused(model.train(), torch.zeros(1, 3, 16, 16))
    model.register_parameter("spare", torch.nn.Parameter(torch.ones(1)))
    assert has_unused(model, torch.zeros(1, 3, 16, 16))
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


# What is refused


def test_a_batch_with_fewer_images_than_processes_is_refused() -> None:
    World(0, 4).check_batch_size(4)
    with pytest.raises(OptionError, match="--batch-size 3: is the batch of all 4 processes"):
        World(0, 4).check_batch_size(3)


def test_each_process_takes_a_gpu_of_its_own_and_one_for_all_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "device_of", lambda name: torch.device(name or "cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert World(7, 8).device("cuda") == World(7, 8).device(None) == torch.device("cuda:3")
    assert taken == [torch.device("cuda:3")] * 2
    assert World(7, 8).device("cpu") == torch.device("cpu")
    assert World().device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(OptionError, match="--device cuda:1: would be that of all 8 processes"):
        World(7, 8).device("cuda:1")


def test_commands_for_one_process_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    for command in ("sweep", "explain", "exemplars", "export", "info", "groups"):
        result = ceag(command)
        assert result.exit_code == 2
        assert f"ceag {command} runs in one process; start it without torchrun" in result.output
    # A variable that some clusters set for all programs is not taken for a launcher.
    monkeypatch.delenv("MASTER_ADDR")
    assert "torchrun" not in ceag("info").output


def test_a_lost_process_is_told_from_other_failures() -> None:
    gloo = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]"
    assert is_lost_connection(RuntimeError(gloo))
    assert is_lost_connection(torch.distributed.DistNetworkError("x"))
    assert not is_lost_connection(RuntimeError("shapes cannot be multiplied"))
    assert not is_lost_connection(ValueError(gloo))


def test_all_but_the_first_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loud(Quiet):
        pass

    loud = Loud()
    assert speaking(loud) is loud
    monkeypatch.setattr(World, "current", classmethod(lambda cls: cls(1, 2)))
    assert speaking(loud) is not loud


# Two processes


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    result = torchrun(folder, HERE / "ranks.py", folder)
    assert result.returncode == 0, result.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_equal(found: Any, expected: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, equal_nan=True)


def comparable(found: Any) -> Any:
    """Nested results, whose words and gaps count as numbers."""
    if isinstance(found, dict):
        return {name: comparable(value) for name, value in found.items()}
    if isinstance(found, list):
        return [comparable(value) for value in found]
    return zlib.crc32(repr(found).encode()) if isinstance(found, str | bool | None) else found


@pytest.mark.parametrize("case", CASES | OTHERWISE)
def test_both_processes_come_to_the_same_bit_for_bit(
    case: str, together: list[dict[str, Any]]
) -> None:
    first, second = (comparable(found[case]) for found in together)
    assert_equal(first, second)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_come_to_what_one_does(
    case: str, together: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone, found = CASES[case](tmp_path), together[0][case]
    assert_equal(comparable(found), comparable(alone), **CLOSE)
    if case.startswith("ceag"):
        assert float(alone["method"]["multipliers"]["values"].max()) > 0
        assert_equal(found["method"], alone["method"], rtol=1e-12)  # right or wrong, no rounding


def test_what_one_process_finds_wrong_all_hear_of(together: list[dict[str, Any]]) -> None:
    for found in together:
        wrong = found["wrong"]
        assert wrong["of the first"] == ["the first process"]
        assert wrong["of the second"] == ["the second process"]
        of_first, of_second = wrong["of images"]  # each has decoded half of them
        assert of_first.startswith("image 'images/1.png'")
        assert of_second.startswith("image 'images/30.png'")


# Two processes, by the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a model that one process has trained and pruned."""
    return folder_with(
        tmp_path_factory,
        ("dense", *DENSE),
        ("prune", "model.safetensors", "--sparsity", "0.9"),
    )


DENSE = (
    *("--groups", "labels.csv", "--groups-by", "label,group", "--model", "test_vit"),
    *("--img-size", "16", "--batch-size", "7", "--workers", "0", "--epochs", "6", "--lr", "0.005"),
)
MITIGATE = (
    *("mitigate", "model.pruned.safetensors", "--batch-size", "7", "--workers", "0"),
    *("--epochs", "4", "--lr", "0.005", "--eps", "0"),
)


def assert_same_weights(one: Path, other: Path) -> None:
    assert_equal(load_file(one), load_file(other), **CLOSE)


def test_a_run_of_which_a_process_is_killed_can_be_continued_by_any_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = torchrun(folder, HERE / "killed.py", *MITIGATE)
    assert result.returncode == 1
    (message,) = said_by_ceag(result.stderr)
    assert "another" in message
    assert message.endswith("the same command with --resume continues")
    assert "Traceback" not in result.stderr.split("torch/distributed")[0]
    run = folder / "model.mitigated.run"
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    monkeypatch.chdir(folder)
    continued = done(*MITIGATE, "--resume")
    assert "continuing after epoch 2 of 4" in continued.output
    done(*MITIGATE, "-o", "whole.safetensors")
    assert_same_weights(folder / "model.mitigated.safetensors", folder / "whole.safetensors")
    logs = (run / "log.jsonl", folder / "whole.run" / "log.jsonl")
    found, expected = (list(map(json.loads, log.read_text().splitlines())) for log in logs)
    assert_equal(found, expected, **CLOSE)
    assert max(line["max_multiplier"] for line in expected) > 0


def test_what_is_wrong_is_said_once_and_exits_with_2(folder: Path) -> None:
    text = (folder / "labels.csv").read_text().replace("images/3.png,blue", "images/3.png,blue,x")
    (folder / "bad.csv").write_text(text)
    result = torchrun(folder, "-m", "ceag_cli", "dense", *DENSE, "--groups", "bad.csv", "-o", "x/")
    assert said_by_ceag(result.stderr) == ["error: bad.csv row 5: has 5 cells, the header has 4"]
    assert result.stdout == ""
    assert not (folder / "x").exists()
    # torchrun ends with 1 whenever a process fails, and names its exit code in its report. A
    # second one that has not quite ended by then it ends itself, or (torch 2.7) does not name.
    assert result.returncode == 1
    codes = set(re.findall(r"exitcode  : (-?\d+) ", result.stderr))
    assert "2" in codes
    assert codes <= {"2", str(-signal.SIGTERM)}


def test_a_process_that_alone_finds_something_wrong_says_so(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import os\n"
        "from ceag_cli import launching\n"
        "from ceag_cli.cli import main\n"
        "launching.SECONDS_TO_END = 0.5\n"
        "if os.environ['RANK'] == '1':\n"
        "    os.chdir('images')\n"
        "main()\n"
    )
    result = torchrun(folder, script, "dense", *DENSE, "-o", "y.safetensors")
    assert result.returncode == 1
    assert said_by_ceag(result.stderr)[0].startswith("process 1 of 2: error: labels.csv")
    assert not (folder / "y.safetensors").exists()


def test_processes_that_do_not_meet_end_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "none"}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(CeagError, match="process 1 of 2 cannot reach the others at localhost:none"),
        joined(),
    ):
        pass
