import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from toys import Interrupting, ceag, done, write_images

from ceag_cli.errors import OutputError, TrainingError
from ceag_cli.lineage import Lineage
from ceag_cli.options import DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.recipe import read_recipe
from ceag_cli.runs import Run, folder_of
from ceag_cli.stages import dense, mitigate, prune
from ceag_cli.weightsfiles import read_metadata

RECIPE = {"command": "dense", "lr": 0.1}
INPUTS = {"groups CSV": "aa"}
STATE = {"epoch": 2, "weights": torch.tensor([1.0, 2.0])}
LOG = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]


def a_run(folder: Path, recipe: dict[str, Any] = RECIPE, inputs: dict[str, str] = INPUTS) -> Run:
    return Run(folder / "m.safetensors", recipe, inputs)


def interrupted(folder: Path) -> Run:
    run = a_run(folder)
    assert run.open(resume=False, overwrite=False) is None
    run.save_state(STATE, LOG)
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# The run folder


def test_the_folder_lies_beside_the_output() -> None:
    assert folder_of(Path("a/m.mitigated.safetensors")) == Path("a/m.mitigated.run")


def test_a_new_run_writes_its_recipe_and_starts_from_the_beginning(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert run.open(resume=False, overwrite=False) is None
    assert list(files(tmp_path)) == ["m.run/recipe.yaml"]
    assert read_recipe(tmp_path / "m.run/recipe.yaml", "dense") == {"lr": 0.1}


def test_what_was_saved_is_what_is_continued_with(tmp_path: Path) -> None:
    interrupted(tmp_path)
    state = a_run(tmp_path).open(resume=True, overwrite=False)
    assert state is not None
    assert state["epoch"] == 2
    assert state["weights"].tolist() == [1.0, 2.0]
    assert state["log"] == LOG


def test_the_log_has_one_json_line_per_epoch(tmp_path: Path) -> None:
    interrupted(tmp_path)
    lines = (tmp_path / "m.run/log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == LOG


def test_resuming_what_never_started_starts(tmp_path: Path) -> None:
    assert a_run(tmp_path).open(resume=True, overwrite=False) is None


def test_a_finished_run_leaves_no_state(tmp_path: Path) -> None:
    interrupted(tmp_path).finish()
    assert list(files(tmp_path)) == ["m.run/log.jsonl", "m.run/recipe.yaml"]


def test_an_interrupted_run_is_not_thrown_away_silently(tmp_path: Path) -> None:
    interrupted(tmp_path)
    before = files(tmp_path)
    with pytest.raises(OutputError) as caught:
        a_run(tmp_path).open(resume=False, overwrite=False)
    assert caught.value.problems == [
        f"{tmp_path / 'm.run'}: holds an interrupted run; continue it with --resume, or start "
        "over with --overwrite"
    ]
    assert files(tmp_path) == before


def test_overwrite_starts_over(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert a_run(tmp_path).open(resume=False, overwrite=True) is None
    assert "m.run/state.pt" not in files(tmp_path)


def test_an_output_is_not_replaced_silently(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_text("precious")
    with pytest.raises(OutputError) as caught:
        a_run(tmp_path).open(resume=False, overwrite=False)
    assert caught.value.problems == [
        f"{tmp_path / 'm.safetensors'}: exists already; replace it with --overwrite, or write "
        "elsewhere with -o"
    ]
    assert files(tmp_path) == {"m.safetensors": b"precious"}


def test_other_options_or_inputs_cannot_continue_a_run(tmp_path: Path) -> None:
    interrupted(tmp_path)
    before = files(tmp_path)
    other = a_run(tmp_path, RECIPE | {"lr": 0.2, "amp": True}, {"groups CSV": "bb"})
    with pytest.raises(TrainingError) as caught:
        other.open(resume=True, overwrite=False)
    assert caught.value.problems == [
        f"{tmp_path / 'm.run'}: the interrupted run cannot be continued:",
        "  --amp was false and is true",
        "  --lr was 0.1 and is 0.2",
        "  the groups CSV is another file",
        "give the same options again, or start over with --overwrite",
    ]
    assert files(tmp_path) == before


def damage(kind: str, path: Path) -> None:
    if kind == "nothing":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a state of anything\n")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "empty dict":
        torch.save({}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        torch.save(torch.load(path) | {"format": 99}, path)


@pytest.mark.parametrize(
    "kind", ["nothing", "text", "truncated", "empty dict", "list", "another format"]
)
def test_a_damaged_state_is_named_with_the_remedy(tmp_path: Path, kind: str) -> None:
    interrupted(tmp_path)
    damage(kind, tmp_path / "m.run/state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt: .*start over with --overwrite"):
        a_run(tmp_path).open(resume=True, overwrite=False)


@pytest.mark.parametrize("failing", ["save", "replace"])
def test_a_state_that_cannot_be_written_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    run = interrupted(tmp_path)
    real = os.replace

    def fail(*arguments: Any, **_: Any) -> None:
        if failing == "replace" and Path(arguments[1]).name != "state.pt":
            real(*arguments)
            return
        if failing == "save":
            arguments[1].write(b"half")
        raise OSError(28, "No space left on device")

    owner: Any = torch if failing == "save" else os
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(OutputError, match=r"state\.pt: cannot be written: .*No space left"):
        run.save_state(STATE | {"epoch": 3}, [*LOG, {"epoch": 3}])
    monkeypatch.undo()
    assert sorted(files(tmp_path)) == ["m.run/log.jsonl", "m.run/recipe.yaml", "m.run/state.pt"]
    state = a_run(tmp_path).open(resume=True, overwrite=False)
    assert state is not None
    assert state["epoch"] == 2


# Whole runs


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a dense model of two epochs and a pruned one."""
    folder = tmp_path_factory.mktemp("prepared")
    csv = write_images(folder)
    options = dense_options(folder, "model.safetensors", epochs=2, groups=str(csv))
    dense(dataclasses.replace(options, early_epoch=0))
    prune(
        PruneOptions(
            checkpoint=str(folder / "model.safetensors"), sparsity=0.9, epochs=0, workers=0
        )
    )
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("labels.csv", "model.safetensors", "model.pruned.safetensors"):
        shutil.copy2(prepared / name, copied / name)
    shutil.copytree(prepared / "images", copied / "images")
    return copied


COMMON: dict[str, Any] = {"batch_size": 8, "workers": 0}
"""Three steps an epoch."""


def dense_options(folder: Path, output: str, **changes: Any) -> DenseOptions:
    """Four epochs with everything random: order, flips and dropout."""
    options: dict[str, Any] = COMMON | {
        "groups": str(folder / "labels.csv"),
        "model": "test_resnet",
        "model_kwargs": ("drop_rate=0.3",),
        "img_size": 16,
        "epochs": 4,
        "warmup_epochs": 1,
        "output": str(folder / output),
    }
    return DenseOptions(**(options | changes))


def prune_options(folder: Path, output: str, **changes: Any) -> PruneOptions:
    """Gradual pruning over the first three of four epochs."""
    options: dict[str, Any] = COMMON | {
        "checkpoint": str(folder / "model.safetensors"),
        "groups": str(folder / "labels.csv"),
        "sparsity": 0.9,
        "epochs": 4,
        "prune_epochs": 3,
        "opt": "adamw",
        "lr": 0.001,
        "output": str(folder / output),
    }
    return PruneOptions(**(options | changes))


def mitigate_options(folder: Path, output: str, **changes: Any) -> MitigateOptions:
    """Constraints that bite: small buffers that count at once, and no tolerance."""
    options: dict[str, Any] = COMMON | {
        "checkpoint": str(folder / "model.pruned.safetensors"),
        "eps": 0.0,
        "buffer": 5,
        "min_count": 1,
        "dual_lr": 0.1,
        "lr": 0.01,
        "epochs": 4,
        "output": str(folder / output),
    }
    return MitigateOptions(**(options | changes))


def gradual_options(folder: Path, output: str, **changes: Any) -> MitigateOptions:
    """The paper's pipeline: pruned for two epochs, then mitigated for two."""
    gradual = {
        "checkpoint": str(folder / "model.safetensors"),
        "sparsity": 0.9,
        "prune_epochs": 2,
    }
    return mitigate_options(folder, output, **(gradual | changes))


def by_method(method: str, **options: Any) -> Callable[..., MitigateOptions]:
    """The options of a mitigation by another method, on small buffers where it has any."""

    def of(folder: Path, output: str, **changes: Any) -> MitigateOptions:
        return mitigate_options(folder, output, **({"method": method} | options | changes))

    return of


FROM_DENSE = {"sparsity": 0.9, "prune_epochs": 2}


def fairgrape_options(folder: Path, output: str, **changes: Any) -> MitigateOptions:
    """Rounds at the start of epochs 1 and 3, scored on two of three batches."""
    given: dict[str, Any] = FROM_DENSE | {
        "checkpoint": str(folder / "model.safetensors"),
        "method": "fairgrape",
        "epochs_between": 2,
        "score_batches": 2,
    }
    return mitigate_options(folder, output, **(given | changes))


def in_rounds(schedule: str) -> Callable[..., PruneOptions]:
    """Two rounds of two epochs, so that the second begins where the run may be stopped."""

    def of(folder: Path, output: str, **changes: Any) -> PruneOptions:
        rounds = {"schedule": schedule, "rounds": 2, "epochs": 2, "prune_epochs": None}
        return prune_options(folder, output, **(rounds | changes))

    return of


def averaged_options(folder: Path, output: str, **changes: Any) -> MitigateOptions:
    """Moving averages, judged on val, with a step for every two of three batches."""
    averages = {"model_ema": True, "grad_accum_steps": 2, "keep": "val", "val_share": 0.25}
    return mitigate_options(folder, output, **(averages | changes))


def early_options(folder: Path, output: str, **changes: Any) -> DenseOptions:
    """With early weights and moving averages."""
    return dense_options(folder, output, **({"early_epoch": 2, "model_ema": True} | changes))


STAGES: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "dense": (dense, dense_options, "dense"),
    "dense with early weights": (dense, early_options, "dense"),
    "iterative pruning": (prune, in_rounds("iterative"), "prune"),
    "lottery tickets": (prune, in_rounds("rewind"), "prune"),
    "moving averages": (mitigate, averaged_options, "ceag"),
    "gradual pruning": (prune, prune_options, "prune"),
    "mitigate": (mitigate, mitigate_options, "ceag"),
    "gradual pruning, then mitigate": (mitigate, gradual_options, "ceag"),
    "nupi": (mitigate, by_method("ceag", dual_opt="nupi", dual_nu=0.5), "ceag"),
    "the best on val": (mitigate, by_method("ceag", keep="val", val_share=0.25), "ceag"),
    "paper": (mitigate, by_method("ceag", paper=True), "ceag"),
    "early stopping": (mitigate, by_method("naive-es", val_share=0.25), "naive-es"),
    "equalised loss": (mitigate, by_method("equalized-loss"), "equalized-loss"),
    "group dro": (mitigate, by_method("group-dro"), "group-dro"),
    "reweight": (mitigate, by_method("reweight"), "reweight"),
    "fairgrape": (mitigate, fairgrape_options, "fairgrape"),
}


def content(path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """The bits of every tensor and the metadata, whatever the name of the early weights.

    (safetensors writes metadata in any order.)
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {k: v.replace(f"{path.stem}.early", "early") for k, v in file.metadata().items()}
        return {name: t.numpy().tobytes() for name, t in tensors.items()}, metadata


@contextmanager
def stopping_after(epoch: int) -> Iterator[None]:
    """Ctrl-C right after an epoch's state was saved."""
    save = Run.save_state

    def save_and_stop(self: Run, state: dict[str, Any], log: list[dict[str, Any]]) -> None:
        save(self, state, log)
        if state["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save_state", save_and_stop)
        yield


@pytest.mark.parametrize("moment", ["after epoch 1", "after epoch 2", "in epoch 3", "at the end"])
@pytest.mark.parametrize("name", STAGES)
def test_an_interrupted_run_continues_to_the_same_bits(
    prepared: Path, name: str, moment: str
) -> None:
    run, options, title = STAGES[name]
    whole, parts = prepared / f"{name}.safetensors", prepared / f"{name} {moment}.safetensors"
    if not whole.exists():  # four moments share one uninterrupted run
        run(options(prepared, whole.name))
    saved = {"after epoch 1": 1, "after epoch 2": 2, "in epoch 3": 2, "at the end": 4}[moment]
    if moment == "in epoch 3":
        with pytest.raises(KeyboardInterrupt):
            run(options(prepared, parts.name), Interrupting(title, step=7))
    else:
        with pytest.raises(KeyboardInterrupt), stopping_after(saved):
            run(options(prepared, parts.name))
    assert not parts.exists()
    assert (folder_of(parts) / "state.pt").is_file()

    again = Interrupting("nothing", 0)
    run(options(prepared, parts.name, resume=True), again)
    assert f"continuing after epoch {saved} of 4" in again.said
    assert content(parts) == content(whole)
    log = (folder_of(parts) / "log.jsonl").read_text()
    assert log == (folder_of(whole) / "log.jsonl").read_text()
    assert [json.loads(line)["epoch"] for line in log.splitlines()] == [1, 2, 3, 4]
    assert not (folder_of(parts) / "state.pt").exists()


def test_the_mitigation_that_is_resumed_has_multipliers_at_work(folder: Path) -> None:
    """Else the test above would not see them lost."""
    mitigate(mitigate_options(folder, "m.safetensors"))
    lines = [json.loads(line) for line in (folder / "m.run/log.jsonl").read_text().splitlines()]
    # Which epochs end with a positive multiplier depends on the threads of the machine.
    assert any(line["max_multiplier"] > 0 for line in lines)


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(folder: Path) -> None:
    for output, seed in (("a", 1), ("b", 1), ("c", 2)):
        dense(dense_options(folder, f"{output}.safetensors", seed=seed, epochs=1, warmup_epochs=0))
    a, b, c = (content(folder / f"{output}.safetensors")[0] for output in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_the_optimisers_memory_is_resumed(folder: Path, opt: str) -> None:
    run = dense_options(folder, "whole.safetensors", opt=opt, lr=0.001, sched="multistep")
    dense(run)
    parts = dataclasses.replace(run, output=str(folder / "parts.safetensors"))
    with pytest.raises(KeyboardInterrupt), stopping_after(2):
        dense(parts)
    dense(dataclasses.replace(parts, resume=True))
    assert content(folder / "parts.safetensors") == content(folder / "whole.safetensors")


# The same at the command line


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


MITIGATE = ("mitigate", "--epochs", "2", "--batch-size", "8", "--workers", "0")


def test_ctrl_c_exits_with_130_and_says_how_to_continue(here: Path) -> None:
    with stopping_after(1):
        result = ceag(*MITIGATE)
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted; the same command with --resume continues\n")
    assert "Traceback" not in result.stderr
    assert "continuing after epoch 1 of 2" in done(*MITIGATE, "--resume").stderr


def test_without_resume_an_interrupted_run_is_named(here: Path) -> None:
    with stopping_after(1):
        ceag(*MITIGATE)
    result = ceag(*MITIGATE)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: model.mitigated.run: holds an interrupted run; continue it with --resume, or "
        "start over with --overwrite"
    )


COMMANDS: dict[str, tuple[str, ...]] = {
    "dense": (
        *("dense", "--groups", "labels.csv", "--model", "test_resnet", "--img-size", "16"),
        *("--epochs", "1", "--batch-size", "8", "--workers", "0", "-o", "x.safetensors"),
    ),
    "prune": ("prune", "model.safetensors", "--sparsity", "0.5", "-o", "x.safetensors"),
    "mitigate": (*MITIGATE, "-o", "x.safetensors"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_resume_of_nothing_says_so_and_starts(here: Path, command: str) -> None:
    result = done(*COMMANDS[command], "--resume")
    expected = "nothing to resume for x.safetensors; starting from the beginning"
    assert expected in result.stderr.splitlines()
    assert (here / "x.safetensors").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_resume_of_a_finished_run_succeeds_and_changes_nothing(here: Path, command: str) -> None:
    done(*COMMANDS[command])
    before = files(here)
    times = {name: (here / name).stat().st_mtime_ns for name in before}
    result = done(*COMMANDS[command], "--resume")
    assert "x.safetensors: the run has finished already; nothing to do" in result.stderr
    assert files(here) == before
    assert {name: (here / name).stat().st_mtime_ns for name in before} == times


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_exists_is_replaced_only_with_overwrite(here: Path, command: str) -> None:
    done(*COMMANDS[command])
    before = files(here)
    refused = ceag(*COMMANDS[command], "--seed", "7")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        "error: x.safetensors: exists already; replace it with --overwrite, or write elsewhere "
        "with -o"
    )
    assert refused.stdout == ""
    assert files(here) == before
    done(*COMMANDS[command], "--seed", "7", "--overwrite")
    lineage = Lineage.from_metadata(read_metadata(here / "x.safetensors"), here / "x.safetensors")
    assert lineage is not None
    assert lineage.seed == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_resume_of_a_finished_run_with_other_options_is_refused(here: Path, command: str) -> None:
    done(*COMMANDS[command])
    before = files(here)
    result = ceag(*COMMANDS[command], "--resume", "--seed", "7")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-3:] == [
        "error: x.safetensors: was written by a finished run with other options or inputs:",
        "error:   --seed was 42 and is 7",
        "error: replace it with --overwrite, or write elsewhere with -o",
    ]
    assert files(here) == before


def test_a_run_that_finished_before_an_option_was_added_has_finished(here: Path) -> None:
    done(*COMMANDS["prune"])
    path = here / "x.safetensors"
    metadata = read_metadata(path)
    recipe = json.loads(metadata["ceag.recipe"])
    for name in ("criterion", "scope", "pattern"):
        del recipe[name]
    metadata["ceag.recipe"] = json.dumps(recipe)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata=metadata)
    result = done(*COMMANDS["prune"], "--resume")
    assert "x.safetensors: the run has finished already; nothing to do" in result.stderr
    result = ceag(*COMMANDS["prune"], "--resume", "--criterion", "random")
    assert 'error:   --criterion was "magnitude" and is "random"' in result.stderr.splitlines()


def test_resume_of_a_run_that_finished_with_another_input_is_refused(here: Path) -> None:
    """Nothing to do would be wrong: the output is not what the command would write now."""
    done(*COMMANDS["prune"])
    done(*COMMANDS["dense"], "--overwrite", "-o", "model.safetensors", "--seed", "7")
    result = ceag(*COMMANDS["prune"], "--resume")
    assert result.exit_code == 2
    assert "finished already" not in result.stderr


def test_resume_with_other_options_is_refused(here: Path) -> None:
    with stopping_after(1):
        ceag(*MITIGATE)
    before = files(here)
    result = ceag(*MITIGATE, "--resume", "--eps", "0.5", "--lr", "0.001")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-4:] == [
        "error: model.mitigated.run: the interrupted run cannot be continued:",
        "error:   --eps was 0.02 and is 0.5",
        "error:   --lr was 0.05 and is 0.001",
        "error: give the same options again, or start over with --overwrite",
    ]
    assert files(here) == before


def test_resume_with_what_does_not_matter_continues(here: Path) -> None:
    command = (*MITIGATE, "--eps", "1")
    with stopping_after(1):
        ceag(*command)
    done(*command, "--resume", "--workers", "1", "--format", "json", "--strict")


def test_resume_with_another_groups_csv_is_refused(here: Path) -> None:
    command = (*MITIGATE, "--groups", "labels.csv")
    with stopping_after(1):
        ceag(*command)
    csv = here / "labels.csv"
    csv.write_text(csv.read_text().replace("even", "odd", 1))
    result = ceag(*command, "--resume")
    assert result.exit_code == 2
    assert "error:   the groups CSV is another file" in result.stderr.splitlines()


def test_options_that_cannot_be_used_do_not_block_the_next_try(here: Path) -> None:
    """A run that failed before its first epoch leaves nothing that has to be overwritten."""
    command = (*COMMANDS["dense"], "--opt", "nonsense")
    assert ceag(*command).exit_code == 2
    assert not (here / "x.safetensors").exists()
    done(*COMMANDS["dense"])
