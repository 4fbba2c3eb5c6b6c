import errno
import json
import math
import os
import re
import shutil
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from toys import ROWS, ceag, done, errors, folder_with, tiny_model, write_csv, write_images
from typer.testing import CliRunner

from ceag_cli.cli import app
from ceag_cli.declarations import flag
from ceag_cli.errors import OptionError
from ceag_cli.inputs import open_checkpoint
from ceag_cli.lineage import Lineage
from ceag_cli.options import AuditOptions, MitigateOptions, PruneOptions
from ceag_cli.progress import Quiet
from ceag_cli.stageoptions import METHODS
from ceag_cli.weightsfiles import read_metadata

FAST = ("--batch-size", "8", "--workers", "0")

DENSE = ("dense", "--groups", "labels.csv", "--model", "test_resnet", "--img-size", "16", *FAST)
MITIGATE = ("mitigate", "--epochs", "1", *FAST)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and one model of every stage."""
    return folder_with(
        tmp_path_factory,
        (*DENSE, "--epochs", "4"),
        ("prune", "model.safetensors", "--sparsity", "0.5"),
        (*MITIGATE, "--eps", "0.25", "--lr", "0.001"),
    )


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images and a CSV alone, as the current folder; returns the CSV."""
    monkeypatch.chdir(tmp_path)
    return write_images(tmp_path)


def lineage_of(path: str) -> Lineage:
    lineage = Lineage.from_metadata(read_metadata(Path(path)), Path(path))
    assert lineage is not None
    return lineage


def edit(path: str, **tensors: torch.Tensor) -> None:
    """Change tensors of a file, keeping its metadata."""
    state = safetensors.torch.load_file(path) | tensors
    safetensors.torch.save_file(state, path, metadata=read_metadata(Path(path)))


def prefer_red(path: str, by: float) -> None:
    """Make a model answer always red, or never."""
    bias = safetensors.torch.load_file(path)["fc.bias"]
    bias[2] = by
    edit(path, **{"fc.bias": bias})


def red_alone_is_lost() -> None:
    """Make the dense model answer always red, and the model that is pruned from it never."""
    prefer_red("model.safetensors", 1e6)
    done("prune", "model.safetensors", "--sparsity", "0.5", "--overwrite")
    prefer_red("model.pruned.safetensors", -1e6)


# The program


def test_versions_are_shown() -> None:
    result = done("--version")
    assert result.stdout.splitlines()[0] == f"ceag {version('ceag')}"
    assert f"timm {timm.__version__}" in result.stdout.splitlines()


@pytest.mark.parametrize(
    "command",
    ["dense", "prune", "mitigate", "audit", "explain", "exemplars", "export", "info"],
)
def test_every_command_has_help(command: str) -> None:
    result = done(command, "--help")
    assert "Example: ceag " + command in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["prune", "mitigate"])
def test_help_begins_with_what_the_command_is_about(command: str) -> None:
    lines = done(command, "--help").stdout.splitlines()
    headings = [line.rstrip(":") for line in lines if line.endswith(":") and line[0].isalpha()]
    about = {"prune": "Pruning", "mitigate": "Method"}[command]
    assert headings[:2] == ["Arguments", about]
    assert headings[-2:] == ["Output", "Options"]


def test_every_option_is_in_the_help_once() -> None:
    names = re.findall(r"^  (?:-\w, )?(--[\w-]+)", done("mitigate", "--help").stdout, re.M)
    declared = [flag(name) for name in MitigateOptions.__dataclass_fields__ if name != "checkpoint"]
    assert sorted(names) == sorted([*declared, "--config", "--help"])


def test_the_list_of_commands_is_not_cut() -> None:
    listed = done("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) == 15
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("ceag mitigate --method naive", ["naive", "naive-es"]),
        ("ceag audit --gate ", ["evidence", "strict", "point"]),
        ("ceag groups --from cifar", ["cifar10", "cifar100"]),
        ("ceag schema s", ["sweep"]),
        ("ceag info --format j", ["json"]),
    ],
)
def test_values_are_completed_in_bash(line: str, values: list[str]) -> None:
    words = line.split(" ")
    env = {
        "_CEAG_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = CliRunner().invoke(app, [], prog_name="ceag", env=env)
    assert result.stdout.split() == values


@pytest.mark.parametrize(
    "arguments",
    [
        ("audti",),
        ("dense", "--epoch", "3"),
        ("dense", "--epochs", "three"),
        ("prune", "a", "b"),
        ("info",),
        ("info", "model.safetensors", "--format", "xml"),
    ],
)
def test_wrong_usage_exits_with_2_and_is_not_boxed(here: Path, arguments: tuple[str, ...]) -> None:
    result = ceag(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not set("╭│╰─") & set(result.stderr)


# Exit codes and streams


def test_results_go_to_stdout_and_the_rest_to_stderr(here: Path) -> None:
    result = done("prune", "model.safetensors", "--sparsity", "0.9", "-o", "p.safetensors")
    assert result.stdout.splitlines()[0] == "wrote p.safetensors"
    assert "wrote" not in result.stderr
    assert result.stderr.startswith("model.safetensors: test_resnet (from the file's metadata)")


def test_an_audit_that_is_satisfied_exits_with_0(here: Path) -> None:
    result = ceag("audit", "--eps", "1")
    assert result.exit_code == 0
    assert "\nPASS: " in result.stdout
    assert (here / "model.mitigated.run/audit.html").is_file()
    assert (here / "model.mitigated.run/audit.json").is_file()


def test_an_audit_that_finds_a_violation_exits_with_1(here: Path) -> None:
    """Red is lost, blue and green are not: psi of red is 1 - 1/3."""
    prefer_red("model.mitigated.safetensors", -1e6)
    result = ceag("audit", "--groups-by", "label", "--gate", "point", "--format", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["overall"]["verdict"] == "FAIL"
    psi = {
        group["value"]: group["excess_gap"]
        for group in document["groups"]
        if group["split"] == "test"
    }
    assert psi["red"] == pytest.approx(2 / 3)
    assert psi["blue"] <= 0
    assert psi["green"] <= 0


def write_answers(a_lost: int, n: int) -> None:
    """Two groups of n test images, all right in the dense model; a loses some, b none."""
    rows = [
        (f"{group}{i}", "x", "test", group, "x", "y" if group == "a" and i < a_lost else "x")
        for group in "ab"
        for i in range(n)
    ]
    write_csv(Path("answers.csv"), rows, ("id", "label", "split", "group", "dense", "sparse"))


@pytest.mark.parametrize(
    ("a_lost", "n", "evidence", "strict", "point"),
    [
        (0, 200, (0, "PASS"), (0, "PASS"), (0, "PASS")),
        # psi 1.5 and -1.5 points: b is shown to be within 2, a neither within nor beyond.
        (6, 200, (0, "INCONCLUSIVE"), (3, "INCONCLUSIVE"), (0, "PASS")),
        # psi 3 points: measured to be beyond 2, not shown to be.
        (12, 200, (0, "INCONCLUSIVE"), (3, "INCONCLUSIVE"), (1, "FAIL")),
        (40, 200, (1, "FAIL"), (1, "FAIL"), (1, "FAIL")),
        # Of 40 images without any change the model may still lose 4 points: nothing is shown.
        (0, 40, (3, "INCONCLUSIVE"), (3, "INCONCLUSIVE"), (0, "PASS")),
    ],
)
def test_the_gate_decides_what_a_verdict_needs(
    here: Path,
    a_lost: int,
    n: int,
    evidence: tuple[int, str],
    strict: tuple[int, str],
    point: tuple[int, str],
) -> None:
    write_answers(a_lost, n)
    read = ("audit", "--predictions", "answers.csv", "--groups-by", "group", "--eps", "0.02")

    def said(*arguments: str) -> tuple[int, str]:
        result = ceag(*read, "--format", "json", *arguments)
        return result.exit_code, json.loads(result.stdout)["overall"]["verdict"]

    assert said() == said("--gate", "evidence") == evidence
    assert said("--gate", "strict") == strict
    assert said("--gate", "point") == point


def test_an_audit_of_a_group_that_is_everybody_exits_with_3(here: Path) -> None:
    lines = (here / "labels.csv").read_text().splitlines()
    text = "\n".join([lines[0] + ",all", *(f"{line},yes" for line in lines[1:])])
    (here / "all.csv").write_text(text)
    result = ceag("audit", "--groups", "all.csv", "--groups-by", "all")
    assert result.exit_code == 3
    assert "\nNO_DATA: " in result.stdout


every_stage = pytest.mark.parametrize(
    ("command", "stage"),
    [
        (DENSE, "ceag_cli.stages.dense"),
        (("prune", "--sparsity", "0.5"), "ceag_cli.stages.prune"),
        (("mitigate",), "ceag_cli.stages.mitigate"),
        (("audit",), "ceag_cli.auditing.run_audit"),
    ],
    ids=["dense", "prune", "mitigate", "audit"],
)


@every_stage
def test_no_room_for_a_file_of_a_library_is_no_defect(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], stage: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/else")

    monkeypatch.setattr(stage, full)
    assert errors(*command) == ["/somewhere/else: cannot be written: No space left on device"]


@every_stage
def test_a_defect_exits_with_4_and_shows_where(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], stage: str
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(stage, broken)
    result = ceag(*command)
    assert result.exit_code == 4
    assert result.stdout == ""
    assert "RuntimeError: unforeseen" in result.stderr
    assert result.stderr.endswith("internal error of ceag; please report the lines above\n")


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (
            ("dense", "--groups", "labels.csv"),
            "ceag dense needs --model, a timm model, or --checkpoint, a file",
        ),
        (
            ("dense", "--model", "resnet18"),
            "ceag dense needs --groups, a CSV with one row per image",
        ),
        (
            ("dense", "--model", "resnet18", "--epochs", "0"),
            "--epochs 0 adopts existing weights; name them with --checkpoint",
        ),
        (
            ("dense", "--checkpoint", "model.safetensors", "--pretrained", "--epochs", "0"),
            "--checkpoint and --pretrained both name weights to start from",
        ),
        (
            ("prune", "model.safetensors"),
            "ceag prune needs --sparsity, the fraction of weights to remove",
        ),
        (
            ("prune", "model.safetensors", "--sparsity", "1"),
            "--sparsity: 1.0 must be less than 1 (a fraction: 0.9 is 90 %)",
        ),
        (
            ("prune", "gone.safetensors", "--sparsity", "0.5"),
            "gone.safetensors: there is no such file",
        ),
        (
            ("mitigate", "--sparsity", "0.5", "--epochs", "3", "--prune-epochs", "3"),
            "--prune-epochs 3 must be less than --epochs 3, or mitigation never starts",
        ),
        (
            ("mitigate", "--buffer", "4", "--min-count", "5"),
            "--min-count 5 must be at most --buffer 4, or no group is ever constrained",
        ),
        (
            ("mitigate", "model.safetensors"),
            "model.safetensors: has no zeros in its weights, so it is not pruned; prune it with "
            "'ceag prune', or give --sparsity",
        ),
        (("audit", "--device", "gpu"), None),
        (("audit", "--num-classes", "7"), None),
        (
            ("prune", "model.safetensors", "--sparsity", "0.5", "--num-classes", "7", "-o", "x/"),
            None,
        ),
        (("audit", "--eps", "-0.1"), "--eps: -0.1 must be at least 0"),
        (("audit", "--groups", "gone.csv"), "gone.csv: there is no such file"),
        (
            ("audit", "--groups-by", "grp"),
            "labels.csv row 1: --groups-by names 'grp', which is not a column; did you mean "
            "'group'? (columns: path, label, split, group)",
        ),
        (
            ("audit", "model.safetensors"),
            "model.safetensors: names no dense model; name it with --dense",
        ),
        (("audit", "--config", "gone.yaml"), "gone.yaml: there is no such file"),
        (("info", "gone.safetensors"), "gone.safetensors: there is no such file"),
        (
            ("prune", "model.safetensors", "--sparsity", "0.5", "-o", "p.pth"),
            "-o p.pth: must end in .safetensors, or in / for a folder with timm's config.json",
        ),
        (
            ("prune", "model.pruned.safetensors", "--sparsity", "0.9"),
            "model.pruned.safetensors: is the input; write elsewhere with -o",
        ),
        (
            ("dense", "--checkpoint", "model.safetensors", "--epochs", "0", "--overwrite"),
            "model.safetensors: is the input; write elsewhere with -o",
        ),
        (
            ("prune", "model.pruned.safetensors", "--sparsity", "0.1", "-o", "q.safetensors"),
            None,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_exits_with_2_and_is_named(
    here: Path, command: tuple[str, ...], problem: str | None
) -> None:
    found = errors(*command)
    if problem is not None:
        assert found == [problem]


NOT_INTERNAL = {
    "a batch of one image": (*MITIGATE, "-o", "x.safetensors", "--batch-size", "1"),
    "a seed beyond 64 bits": (*DENSE, "-o", "x.safetensors", "--epochs", "1", "--seed", str(2**64)),
    "a seed of 60 bits": (*DENSE, "-o", "x.safetensors", "--epochs", "1", "--seed", str(2**60)),
    "channels as an argument": (
        *(*DENSE, "-o", "x.safetensors", "--epochs", "1"),
        *("--model-kwargs", "in_chans=1"),
    ),
    "classes as an argument": (
        *(*DENSE, "-o", "x.safetensors", "--epochs", "1"),
        *("--model-kwargs", "num_classes=7"),
    ),
    "an image of one pixel": (*DENSE, "-o", "x.safetensors", "--epochs", "1", "--img-size", "1"),
    "no momentum": (*DENSE, "-o", "x.safetensors", "--epochs", "1", "--momentum", "0"),
    "a folder as the model": ("audit", "."),
    "a CSV as the model": ("audit", "labels.csv"),
    "an empty name": ("audit", ""),
    "an output below a file": (
        *("prune", "model.safetensors", "--sparsity", "0.5"),
        *("-o", "labels.csv/x.safetensors"),
    ),
    "a report below a file": ("audit", "-o", "labels.csv/x"),
    "an optimiser that needs more": (
        *DENSE,
        "-o",
        "x.safetensors",
        "--epochs",
        "1",
        "--opt",
        "lbfgs",
    ),
}


@pytest.mark.parametrize("command", NOT_INTERNAL.values(), ids=NOT_INTERNAL.keys())
def test_what_a_user_can_give_never_is_an_internal_error(
    here: Path, command: tuple[str, ...]
) -> None:
    result = ceag(*command)
    assert result.exit_code in (0, 2), result.stderr


@pytest.mark.parametrize("command", ["prune", "mitigate", "audit"])
def test_a_transformer_is_never_shown_images_of_a_size_it_cannot_take(
    images: Path, command: str
) -> None:
    """Its positions are for 16 pixels."""
    done(
        *("dense", "--groups", "labels.csv", "--model", "deit_tiny_distilled_patch16_224"),
        *("--model-kwargs", "depth=1,embed_dim=12,num_heads=1", "--img-size", "16"),
        *("--epochs", "1", *FAST),
    )
    done("prune", "model.safetensors", "--sparsity", "0.5")
    arguments = {
        "prune": ("prune", "model.safetensors", "--sparsity", "0.5", "-o", "x.safetensors"),
        "mitigate": (*MITIGATE,),
        "audit": ("audit",),
    }
    result = ceag(*arguments[command], "--img-size", "32")
    assert result.exit_code in (0, 2), result.stderr


def test_arguments_of_the_model_are_given_with_commas(images: Path) -> None:
    kwargs = "channels=8+8+8+8,stem_type=deep,stem_width=8"
    done(
        *("dense", "--groups", "labels.csv", "--model", "resnet18", "--img-size", "16", *FAST),
        *("--epochs", "1", "--model-kwargs", kwargs),
    )
    found = json.loads(done("info", "model.safetensors", "--format", "json").stdout)
    assert found["architecture"] == "resnet18"
    assert safetensors.torch.load_file("model.safetensors")["conv1.3.weight"].shape[0] == 8
    done("prune", "model.safetensors", "--sparsity", "0.5")


# JSON


@pytest.mark.parametrize(
    "command",
    [
        (*DENSE, "--epochs", "1", "-o", "x.safetensors"),
        ("prune", "model.safetensors", "--sparsity", "0.5", "-o", "x.safetensors"),
        (*MITIGATE, "-o", "x.safetensors"),
        ("audit", "--eps", "1"),
    ],
    ids=["dense", "prune", "mitigate", "audit"],
)
def test_json_is_one_document_on_stdout(here: Path, command: tuple[str, ...]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result = done(*command, "--format", "json")
    document = json.loads(result.stdout, parse_constant=refuse)
    assert document["schema_version"] == (2 if document["command"] == "audit" else 1)
    assert document["tool"] == "ceag"
    assert document["command"] == command[0]
    assert document["seed"] == 42
    assert document["version"] == version("ceag")


def test_the_json_of_a_stage_says_what_it_did(here: Path) -> None:
    pruned = json.loads(
        done(
            *("prune", "model.safetensors", "--sparsity", "0.5", "-o", "x.safetensors"),
            *("--format", "json"),
        ).stdout
    )
    assert pruned["output"] == "x.safetensors"
    assert pruned["sparsity"] == 0.5
    assert pruned["zeros"] * 2 == pruned["weights"]
    assert pruned["tensors"] == 14
    assert pruned["bytes"] == (here / "x.safetensors").stat().st_size


def test_the_json_of_an_audit_counts_every_image_once(here: Path) -> None:
    document = json.loads(done("audit", "--eps", "1", "--format", "json").stdout)
    assert [(split["split"], split["n"]) for split in document["splits"]] == [
        ("train", 24),
        ("test", 12),
    ]
    assert [(group["split"], group["value"], group["n"]) for group in document["groups"]] == [
        ("train", "even", 12),
        ("train", "odd", 12),
        ("test", "even", 6),
        ("test", "odd", 6),
    ]
    assert document == json.loads((here / "model.mitigated.run/audit.json").read_text())


def test_a_finished_run_that_is_resumed_still_gives_one_document_or_says_nothing(
    here: Path,
) -> None:
    command = ("prune", "model.safetensors", "--sparsity", "0.5", "--format", "json")
    result = done(*command, "--resume")
    assert result.stdout == "" or json.loads(result.stdout)["schema_version"] == 1


# Pruning


PRUNE = ("prune", "model.safetensors", "-o", "x.safetensors")
ON_DATA = ("--groups", "labels.csv", *FAST)


def weights_of(path: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "taylor", "snip", "fairgrape"])
def test_every_criterion_goes_with_every_budget_that_makes_sense(
    here: Path, criterion: str, scope: str
) -> None:
    command = (*PRUNE, "--criterion", criterion, "--scope", scope, "--sparsity", "0.7")
    data = ON_DATA if criterion in ("taylor", "snip", "fairgrape") else ()
    if criterion == "fairgrape" and scope != "layer":
        assert errors(*command, *data) == [
            "--criterion fairgrape preserves the groups' shares within every layer; leave out "
            f"--scope {scope}"
        ]
        return
    found = json.loads(done(*command, *data, "--format", "json").stdout)
    zeros = {t["name"]: t["zeros"] for t in found["by_tensor"] if t["dense_because"] is None}
    after = weights_of("x.safetensors")
    assert {name: int((after[name] == 0).sum()) for name in zeros} == zeros
    sizes = {name: after[name].numel() for name in zeros}
    if scope == "layer":
        assert zeros == {name: math.ceil(Fraction(7, 10) * size) for name, size in sizes.items()}
    else:
        assert sum(zeros.values()) == math.ceil(Fraction(7, 10) * sum(sizes.values()))
        assert len({zeros[name] / size for name, size in sizes.items()}) > 2
    record = lineage_of("x.safetensors").sparsity
    assert record is not None
    assert (record.criterion, record.scope, record.pattern) == (criterion, scope, "unstructured")
    assert record.target == 0.7


@pytest.mark.parametrize(
    "asked", [("--criterion", "taylor"), ("--criterion", "fairgrape"), ("--recalibrate", "16")]
)
def test_the_csv_that_the_model_names_will_do(here: Path, asked: tuple[str, ...]) -> None:
    command = (*PRUNE, "--sparsity", "0.5", *asked, *FAST)
    result = done(*command)
    said = result.stderr.splitlines()
    assert "groups from labels.csv, named by model.safetensors" in said
    count = 16 if asked[0] == "--recalibrate" else 24
    assert f"BatchNorm statistics measured anew on {count} train images" in result.stdout
    found = weights_of("x.safetensors")
    done(*command, "--groups", "labels.csv", "--overwrite")
    assert all(torch.equal(found[name], w) for name, w in weights_of("x.safetensors").items())


def test_pruning_without_images_reads_none(here: Path) -> None:
    Path("labels.csv").unlink()
    result = done(*PRUNE, "--sparsity", "0.5")
    assert "groups from" not in result.stderr
    assert "BatchNorm" not in result.stdout


def test_images_are_asked_for_where_nothing_names_them(images: Path) -> None:
    torch.save(tiny_model("test_resnet").state_dict(), "bare.pth")
    bare = ("prune", "bare.pth", "--model", "test_resnet", "--img-size", "16", "--sparsity", "0.5")
    remedy = "name their CSV with --groups (bare.pth names none)"
    assert errors(*bare, "--criterion", "snip") == [
        f"--criterion snip scores weights on train images; {remedy}"
    ]
    assert errors(*bare, "--recalibrate", "5") == [
        f"--recalibrate measures on train images; {remedy}"
    ]
    assert errors(*bare, "--epochs", "5") == [
        "ceag prune needs --groups, a CSV with one row per image"
    ]


def test_criteria_choose_different_weights(here: Path) -> None:
    chosen = set()
    for criterion in ("magnitude", "random", "taylor", "snip", "fairgrape"):
        output = f"{criterion}.safetensors"
        command = ("prune", "model.safetensors", "--sparsity", "0.7", "-o", output)
        done(*command, "--criterion", criterion, *ON_DATA)
        after = weights_of(output)
        names = sorted(lineage_of(output).sparsity.tensors)  # type: ignore[union-attr]
        chosen.add(tuple((after[name] == 0).numpy().tobytes() for name in names))
    assert len(chosen) == 5


def test_an_n_to_m_pattern_leaves_two_of_every_four_inputs(here: Path) -> None:
    result = done(*PRUNE, "--pattern", "2:4", "--format", "json")
    found = json.loads(result.stdout)
    after = weights_of("x.safetensors")
    pruned = [t["name"] for t in found["by_tensor"] if t["dense_because"] is None]
    assert pruned
    for name in pruned:
        blocks = after[name].movedim(1, -1).reshape(-1, 4)
        assert (blocks == 0).sum(dim=1).tolist() == [2] * len(blocks)
    # What the pattern does not fit stays dense, and says so.
    assert {t["dense_because"] for t in found["by_tensor"]} >= {None, "first layer", "classifier"}
    record = lineage_of("x.safetensors").sparsity
    assert record is not None
    assert (record.target, record.pattern) == (0.5, "2:4")
    shown = done("info", "x.safetensors").stdout
    assert "(target 0.5, magnitude, scope layer, 2:4)" in shown


def test_tensors_that_a_pattern_does_not_fit_are_counted_and_named(images: Path) -> None:
    """Depthwise convolutions have one input each."""
    torch.save(tiny_model("test_efficientnet").state_dict(), "bare.pth")
    command = ("prune", "bare.pth", "--model", "test_efficientnet", "--pattern", "2:4")
    sentence = "2 tensors do not fit 2:4 and stay dense"
    lines = done(*command, "--exclude", "blocks.0", "--dry-run").stdout.splitlines()
    assert lines[-2] == sentence
    fates = {line.split()[0]: " ".join(line.split()[4:]) for line in lines[1:-3]}
    assert fates["blocks.3.0.conv_dw.weight"] == "dense: does not fit 2:4"
    assert fates["blocks.4.0.conv_dw.weight"] == "dense: does not fit 2:4"
    assert fates["blocks.0.0.conv.weight"] == "dense: left out"
    assert fates["classifier.weight"] == "dense: classifier"
    assert sum("does not fit" in fate for fate in fates.values()) == 2

    assert done(*command).stdout.splitlines()[2] == sentence
    one = done(*command, "--exclude", "blocks.3", "-o", "x.safetensors").stdout.splitlines()
    assert one[2] == "1 tensor does not fit 2:4 and stays dense"
    again = done(*command, "--overwrite", "--format", "json")
    assert json.loads(again.stdout)["unfit"] == 2


def test_a_pattern_survives_fine_tuning_and_is_still_named(here: Path) -> None:
    done(*PRUNE, "--pattern", "2:4", "--epochs", "2", *ON_DATA)
    done("mitigate", "x.safetensors", "-o", "y.safetensors", "--epochs", "1", *ON_DATA)
    record = lineage_of("y.safetensors").sparsity
    assert record is not None
    assert record.pattern == "2:4"
    after = weights_of("y.safetensors")
    for name in record.tensors:
        assert int((after[name].movedim(1, -1).reshape(-1, 4) == 0).sum(dim=1).min()) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ceag prune needs --sparsity, the fraction of weights to remove"),
        (
            ("--pattern", "4:2"),
            "--pattern: '4:2' is neither 'unstructured' nor N:M with 0 < N < M, such as 2:4",
        ),
        (
            ("--pattern", "2:4", "--sparsity", "0.9"),
            "--pattern 2:4 removes 0.5 of every tensor that it fits, not 0.9; leave out --sparsity",
        ),
        (
            ("--pattern", "2:4", "--scope", "global"),
            "--pattern 2:4 fixes what every tensor gives up; leave out --scope global",
        ),
        (
            ("--pattern", "2:4", "--schedule", "cubic", "--epochs", "3", *ON_DATA),
            "--pattern 2:4 has no steps on the way; prune at once (--schedule one-shot, or "
            "--rounds 1), and the --epochs of fine-tuning follow",
        ),
        (
            ("--sparsity", "0.9", "--scope", "erk", "--max-layer-sparsity", "0.5"),
            "--max-layer-sparsity 0.5 is less than --sparsity 0.9, so it cannot be reached",
        ),
        (
            ("--sparsity", "0.9", "--include", "layer1.0.conv9"),
            "--include: 'layer1.0.conv9' is found in the name of none of the 16 tensors that may "
            "be pruned; did you mean 'layer1.0.conv2.weight'?; --dry-run lists them",
        ),
        (
            ("--sparsity", "0.9", "--exclude", "("),
            "--exclude: '(' is not a regular expression: missing ), unterminated subpattern at "
            "position 0",
        ),
    ],
)
def test_pruning_that_makes_no_sense_is_refused_with_the_reason(
    here: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert errors(*PRUNE, *arguments) == [message]
    assert not Path("x.safetensors").exists()
    assert not Path("x.run").exists()


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        (
            ("--max-layer-sparsity", "0.9"),
            "--max-layer-sparsity has no effect with --scope layer",
        ),
        (("--score-batches", "1"), "--score-batches has no effect with --criterion magnitude"),
        (("--prune-epochs", "3"), "--prune-epochs has no effect with --schedule one-shot"),
        (("--lr", "0.1"), "--lr has no effect without --epochs"),
        (("-b", "8"), "--batch-size has no effect without --groups"),
    ],
)
def test_a_pruning_option_without_effect_is_named(
    here: Path, arguments: tuple[str, ...], warning: str
) -> None:
    result = done(*PRUNE, "--sparsity", "0.5", *arguments)
    assert f"warning: {warning}" in result.stderr.splitlines()


def test_no_layer_loses_more_than_the_cap(here: Path) -> None:
    command = (*PRUNE, "--sparsity", "0.9", "--scope", "global", "--format", "json")
    free = json.loads(done(*command).stdout)
    capped = json.loads(done(*command, "--max-layer-sparsity", "0.92", "--overwrite").stdout)

    def most(found: dict[str, Any]) -> float:
        return max(float(t["zeros"] / math.prod(t["shape"])) for t in found["by_tensor"])

    assert most(free) > 0.92 >= most(capped)
    assert free["zeros"] == capped["zeros"]


def test_a_dry_run_lists_every_tensor_and_writes_nothing(here: Path) -> None:
    before = sorted(here.rglob("*"))
    lines = done(*PRUNE, "--sparsity", "0.5", "--dry-run").stdout.splitlines()
    assert sorted(here.rglob("*")) == before
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:-2]}
    assert lines[0].split() == ["tensor", "shape", "weights", "zeros", "sparsity"]
    assert rows["fc.weight"][-2:] == ["dense:", "classifier"]
    assert rows["fc.bias"][-4:] == ["dense:", "no", "layer's", "weight"]
    assert rows["layer1.0.conv1.weight"][-1] == "50.00%"
    assert lines[-1] == "dry run: nothing was written"
    # What it shows is what happens.
    assert lines[-2] == done(*PRUNE, "--sparsity", "0.5").stdout.splitlines()[1]


def test_tensors_are_chosen_by_name(here: Path) -> None:
    command = (*PRUNE, "--sparsity", "0.5", "--dry-run", "--format", "json")

    def pruned(*arguments: str) -> list[str]:
        found = json.loads(done(*command, *arguments).stdout)
        return [t["name"] for t in found["by_tensor"] if t["dense_because"] is None]

    every = pruned()
    assert pruned("--include", "^fc|^conv1|layer1") == [
        "conv1.0.weight",  # the first layer and the classifier too, since they are named
        *(name for name in every if name.startswith(("conv1", "layer1"))),
        "fc.weight",
    ]
    assert pruned("--exclude", "layer[12]") == [
        name for name in every if not name.startswith(("layer1", "layer2"))
    ]
    assert pruned("--include", "layer1", "--exclude", "conv2") == [
        name for name in every if name.startswith("layer1") and "conv2" not in name
    ]


def test_batch_norm_is_measured_anew_where_there_are_images(here: Path) -> None:
    command = (*PRUNE, "--sparsity", "0.5", "--overwrite")
    plain = done(*command)
    assert "BatchNorm" not in plain.stdout
    dense = weights_of("model.safetensors")
    assert torch.equal(weights_of("x.safetensors")["bn1.running_mean"], dense["bn1.running_mean"])

    lines = done(*command, *ON_DATA).stdout.splitlines()
    assert "BatchNorm statistics measured anew on 24 train images" in lines
    anew = weights_of("x.safetensors")
    assert not torch.equal(anew["bn1.running_mean"], dense["bn1.running_mean"])
    assert lineage_of("x.safetensors").recalibrated == 24
    assert "measured anew on 24 train images" in done("info", "x.safetensors").stdout
    done(*command, *ON_DATA)
    assert all(
        torch.equal(anew[name], value) for name, value in weights_of("x.safetensors").items()
    )

    done(*command, *ON_DATA, "--recalibrate", "0")
    assert torch.equal(weights_of("x.safetensors")["bn1.running_mean"], dense["bn1.running_mean"])
    assert lineage_of("x.safetensors").recalibrated is None


def test_a_model_that_standardises_its_weights_is_warned_of(images: Path) -> None:
    done(
        *("dense", "--groups", "labels.csv", "--model", "test_nfnet", "--img-size", "32", *FAST),
        "--epochs",
        "1",
    )
    result = done("prune", "model.safetensors", "--sparsity", "0.5")
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warning == (
        "warning: test_nfnet standardises its weights before it uses them: pruned weights are zero "
        "in the file, but not in the computation"
    )


def test_fairgrape_does_not_start_from_a_pruned_model(here: Path) -> None:
    command = ("mitigate", "model.pruned.safetensors", "--method", "fairgrape", "--sparsity", "0.9")
    assert errors(*command, *ON_DATA, "-o", "x.safetensors") == [
        "model.pruned.safetensors: is pruned already, and --method fairgrape chooses the weights "
        "to prune itself; give the dense model"
    ]


@pytest.mark.parametrize("arguments", [("--recalibrate", "1"), ("--batch-size", "1")])
def test_batch_norm_is_not_measured_on_single_images(
    here: Path, arguments: tuple[str, ...]
) -> None:
    (message,) = errors(*PRUNE, "--sparsity", "0.5", *ON_DATA, *arguments)
    assert message.startswith("BatchNorm statistics cannot be measured on one image at a time")
    assert not Path("x.safetensors").exists()


def test_of_many_tensors_with_a_problem_five_are_named(here: Path) -> None:
    again = ("prune", "model.pruned.safetensors", "-o", "x.safetensors")
    found = errors(*again, "--sparsity", "0.25")
    assert len(found) == 6
    assert found[0] == (
        "tensor 'conv1.3.weight' is 50.00% zero already, more than the sparsity 0.25 asks "
        "for; pruned weights do not come back, so ask for more or start from the dense model"
    )
    assert found[5] == "and 9 more"
    found = errors(*again, "--pattern", "3:4")
    assert len(found) == 6
    assert "'conv1.3.weight' has blocks with more zeros already" in found[0]
    assert found[5] == "and 9 more"
    names = [name for name in weights_of("model.safetensors") if ".conv" in name][:6]
    nan = {name: torch.full_like(weights_of("model.safetensors")[name], math.nan) for name in names}
    edit("model.safetensors", **nan)
    found = errors(*PRUNE, "--sparsity", "0.25")
    assert len(found) == 6
    assert found[5] == "and 1 more"


def test_filters_that_leave_nothing_are_named(here: Path) -> None:
    command = (*PRUNE, "--sparsity", "0.5", "--include", "layer1", "--exclude", ".")
    assert errors(*command) == ["--exclude: '.' leaves no tensor to prune"]


def test_values_given_in_python_are_checked_too() -> None:
    with pytest.raises(OptionError) as caught:
        PruneOptions(sparsity=1.5, criterion="size", batch_size="x")  # type: ignore[arg-type]
    assert caught.value.problems == [
        "--batch-size: 'x' is of the wrong type",
        "--sparsity: 1.5 must be less than 1 (a fraction: 0.9 is 90 %)",
        "--criterion: 'size' is not one of magnitude, random, taylor, snip, fairgrape",
    ]


def test_a_packed_model_is_accepted_wherever_a_plain_one_is(here: Path) -> None:
    done(*PRUNE, "--sparsity", "0.9")
    plain = weights_of("x.safetensors")
    done("prune", "model.safetensors", "--sparsity", "0.9", "--pack", "-o", "p.safetensors")
    assert Path("p.safetensors").stat().st_size < Path("x.safetensors").stat().st_size / 2
    assert lineage_of("p.safetensors").sparsity == lineage_of("x.safetensors").sparsity

    # Fine-tuned, audited, described and pruned further as the plain one is.
    for name in "xp":
        source = f"{name}.safetensors"
        done("mitigate", source, "-o", f"{name}m.safetensors", "--epochs", "1", *ON_DATA)
        ceag("audit", source, "--groups", "labels.csv", "-o", f"{name}-audit")
        done("prune", source, "--sparsity", "0.95", "-o", f"{name}2.safetensors")
        done("dense", "--checkpoint", source, "--epochs", "0", "-o", f"{name}d.safetensors")
        adapted = ("--checkpoint", source, "--epochs", "1", "--img-size", "24", *ON_DATA)
        done("dense", *adapted, "-o", f"{name}a.safetensors")
        assert "sparsity" in done("info", source).stdout
    for kind in ("m", "2", "d", "a"):
        a, b = weights_of(f"x{kind}.safetensors"), weights_of(f"p{kind}.safetensors")
        assert all(torch.equal(a[key], b[key]) for key in a), kind
    audits = [json.loads(Path(f"{name}-audit/audit.json").read_text()) for name in "xp"]
    assert audits[0]["groups"] == audits[1]["groups"]

    done("unpack", "p.safetensors", "-o", "u.safetensors")
    restored = weights_of("u.safetensors")
    assert restored.keys() == plain.keys()
    assert all(torch.equal(restored[key], plain[key]) for key in plain)
    assert (
        read_metadata(Path("u.safetensors")).keys() == read_metadata(Path("x.safetensors")).keys()
    )


def test_children_know_their_parent_packed_and_unpacked(here: Path) -> None:
    """As plain files, as what is unpacked again, and as packed ones beside the child."""
    dense = Path("model.safetensors").read_bytes()
    done("pack", "model.safetensors")
    Path("model.safetensors").unlink()
    result = ceag("audit", "--eps", "1")
    assert result.exit_code == 0
    assert "model.packed.safetensors: test_resnet" in result.stderr
    done("unpack", "model.packed.safetensors")
    Path("model.packed.safetensors").unlink()
    assert Path("model.safetensors").read_bytes() == dense
    assert ceag("audit", "--eps", "1").exit_code == 0


def test_children_of_a_packed_parent_know_the_plain_one(here: Path) -> None:
    done("prune", "model.safetensors", "--sparsity", "0.9", "--pack", "-o", "p.safetensors")
    done("mitigate", "p.safetensors", "-o", "m.safetensors", "--epochs", "1", *ON_DATA)
    done("unpack", "p.safetensors", "-o", "u.safetensors")
    plain = json.loads(done("info", "u.safetensors", "--format", "json").stdout)
    packed = json.loads(done("info", "p.safetensors", "--format", "json").stdout)
    assert packed["sha256_unpacked"] == plain["sha256"] != packed["sha256"]
    assert lineage_of("m.safetensors").parents["input"].sha256 == plain["sha256"]
    assert plain["sha256_unpacked"] is None
    shown = done("info", "p.safetensors").stdout.splitlines()
    assert f"unpacked       sha256 {plain['sha256']}" in shown


def test_the_default_name_of_a_packed_file_says_so(here: Path) -> None:
    result = done("prune", "model.safetensors", "--sparsity", "0.9", "--pack")
    assert result.stdout.splitlines()[0] == "wrote model.pruned.packed.safetensors"
    assert ", packed. Zeros" in result.stdout
    assert errors(*PRUNE[:2], "--sparsity", "0.9", "--pack", "-o", "out/") == [
        "-o DIR/ is for plain timm, which cannot read a packed file (--pack)"
    ]


# Info


def test_info_shows_lineage_architecture_sparsity_eps_groups_and_seed(here: Path) -> None:
    shown = done("info", "model.mitigated.safetensors").stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert lines["architecture"] == "test_resnet, 3 classes"
    assert lines["sparsity"] == (
        "50.0000% of 14 tensors (target 0.5, magnitude, scope layer, unstructured)"
    )
    assert lines["eps"] == "0.25"
    assert lines["seed"] == "42"
    assert lines["groups"] == "labels.csv by group, label label"
    assert lines["stage"].startswith("mitigated, written by ceag ")
    assert lines["input"].startswith("parent   model.pruned.safetensors (")
    assert lines["dense"].startswith("parent   model.safetensors (")


def test_info_as_json(here: Path) -> None:
    found = json.loads(done("info", "model.mitigated.safetensors", "--format", "json").stdout)
    assert found["schema_version"] == 1
    assert found["stage"] == "mitigated"
    assert found["label_names"] == ["blue", "green", "red"]
    assert found["preprocessing"]["input_size"] == [3, 16, 16]
    assert found["eps"] == 0.25
    assert found["sparsity"]["achieved"] == 0.5
    dense = json.loads(done("info", "model.safetensors", "--format", "json").stdout)
    assert found["parents"]["dense"] == {"path": "model.safetensors", "sha256": dense["sha256"]}
    assert dense["sparsity"] is None
    assert dense["eps"] is None
    assert dense["parents"] == {}


def test_info_lists_the_tensors_as_the_dry_run_did(here: Path) -> None:
    command = ("--sparsity", "0.9", "--scope", "global", "--exclude", "layer1")
    dry = done(*PRUNE, *command, "--dry-run").stdout.splitlines()[:-2]
    done(*PRUNE, *command)
    done("pack", "x.safetensors", "-o", "p.safetensors")
    for file in ("x.safetensors", "p.safetensors"):
        plain = done("info", file).stdout.splitlines()
        shown = done("info", file, "--tensors").stdout.splitlines()
        assert shown[: len(plain) + 1] == [*plain, ""]
        table = shown[len(plain) + 1 :]
        assert [line.split() for line in table if "dense: no layer's" not in line] == [
            line.split() for line in dry if "dense: no layer's" not in line
        ]
        assert len(table) == len(dry)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in table}
    assert rows["layer1.0.conv1.weight"].endswith("dense: left out")
    assert rows["fc.weight"].endswith("dense: classifier")

    found = json.loads(done("info", "p.safetensors", "--tensors", "--format", "json").stdout)
    weights = weights_of("x.safetensors")
    by_name = {tensor["name"]: tensor for tensor in found["by_tensor"]}
    name = "layer2.0.conv1.weight"
    zeros = int((weights[name] == 0).sum())
    assert by_name[name] == {
        "name": name,
        "shape": list(weights[name].shape),
        "zeros": zeros,
        "dense_because": None,
        "sparsity": zeros / weights[name].numel(),
    }
    assert by_name["fc.bias"]["dense_because"] == "no layer's weight"
    assert "by_tensor" not in json.loads(done("info", "p.safetensors", "--format", "json").stdout)


def test_info_names_what_a_pattern_does_not_fit(images: Path) -> None:
    torch.save(tiny_model("test_efficientnet").state_dict(), "bare.pth")
    command = ("prune", "bare.pth", "--model", "test_efficientnet", "--pattern", "2:4")
    done(*command, "--exclude", "blocks.0")
    table = done("info", "bare.pruned.safetensors", "--tensors").stdout.splitlines()
    fates = {line.split()[0]: " ".join(line.split()[4:]) for line in table if " " in line}
    assert fates["blocks.3.0.conv_dw.weight"] == "dense: does not fit 2:4"
    assert fates["blocks.0.0.conv.weight"] == "dense: left out"
    assert fates["blocks.1.0.conv_exp.weight"] == "50.00%"


def test_info_lists_the_tensors_of_dense_and_of_foreign_files(here: Path) -> None:
    table = done("info", "model.safetensors", "--tensors").stdout.splitlines()
    fates = {line.split()[0]: " ".join(line.split()[4:]) for line in table if " " in line}
    assert fates["layer1.0.conv1.weight"] == "0.00%"
    assert fates["conv1.0.weight"] == "dense: first layer"
    w = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    safetensors.torch.save_file({"w": w, "e": torch.zeros(0)}, "foreign.safetensors")
    torch.save({"w": w, "e": torch.zeros(0)}, "foreign.pth")
    for name in ("foreign.safetensors", "foreign.pth"):
        table = done("info", name, "--tensors").stdout.splitlines()[2:]
        assert sorted(line.split() for line in table) == [
            ["e", "0", "0", "0", "empty"],
            ["tensor", "shape", "weights", "zeros", "sparsity"],
            ["w", "2x2", "4", "2", "50.00%"],
        ]


def test_info_of_a_file_of_another_tool_says_so(here: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(1)}, "foreign.safetensors")
    size = (here / "foreign.safetensors").stat().st_size
    assert done("info", "foreign.safetensors").stdout == (
        f"foreign.safetensors: not written by ceag ({size} bytes)\n"
    )


# No model named


def test_the_newest_fitting_model_is_taken_and_named(here: Path) -> None:
    assert "took model.pruned.safetensors, the newest pruned model in this folder" in (
        done(*MITIGATE, "-o", "x.safetensors").stderr.splitlines()
    )
    assert "took x.safetensors, the newest mitigated model in this folder" in (
        done("audit", "--eps", "1").stderr.splitlines()
    )
    Path("x.safetensors").unlink()
    Path("model.mitigated.safetensors").unlink()
    assert "took model.pruned.safetensors, the newest pruned model in this folder" in (
        done("audit", "--eps", "1").stderr.splitlines()
    )
    assert "took model.safetensors, the newest dense model in this folder" in (
        done("prune", "--sparsity", "0.5", "-o", "y.safetensors").stderr.splitlines()
    )


def test_with_a_sparsity_mitigation_takes_the_newest_dense_model(here: Path) -> None:
    result = done(*MITIGATE, "--sparsity", "0.75", "--prune-epochs", "0", "-o", "x.safetensors")
    assert "took model.safetensors, the newest dense model in this folder" in result.stderr
    lineage = lineage_of("x.safetensors")
    assert lineage.sparsity is not None
    assert lineage.sparsity.target == 0.75
    assert lineage.parents["dense"] == lineage.parents["input"]


def test_the_project_file_names_the_model(here: Path) -> None:
    shutil.copy("model.pruned.safetensors", "chosen.safetensors")
    Path("ceag.yaml").write_text("audit:\n  checkpoint: model.pruned.safetensors\n  eps: 1\n")
    result = done("audit", "--format", "json")
    document = json.loads(result.stdout)
    assert document["models"]["sparse"]["path"] == "model.pruned.safetensors"
    assert document["overall"]["eps"] == 1.0
    document = json.loads(done("audit", "chosen.safetensors", "--format", "json").stdout)
    assert document["models"]["sparse"]["path"] == "chosen.safetensors"


def test_two_equally_new_models_are_an_error_that_lists_both(here: Path) -> None:
    shutil.copy("model.pruned.safetensors", "other.safetensors")
    for name in ("model.pruned.safetensors", "other.safetensors"):
        os.utime(name, (2_000_000_000, 2_000_000_000))
    assert errors(*MITIGATE) == [
        "ceag mitigate: model.pruned.safetensors, other.safetensors are equally new; name one of "
        "them"
    ]


def test_in_an_empty_folder_nothing_is_taken(images: Path) -> None:
    assert errors("audit") == [
        "ceag audit: there is no mitigated or pruned model in the current folder; name the file, "
        "or answers of two models with --predictions"
    ]


# Mitigation


def test_an_infeasible_mitigation_is_loud_and_exits_with_1_only_when_strict(here: Path) -> None:
    red_alone_is_lost()
    command = (*MITIGATE, "--lr", "1e-8", "--groups-by", "label")
    result = done(*command, "-o", "a.safetensors")
    assert "NOT SATISFIED ON MIXED TRAIN IMAGES: " in result.stdout
    strict = ceag(*command, "-o", "b.safetensors", "--strict")
    assert strict.exit_code == 1
    assert "NOT SATISFIED ON MIXED TRAIN IMAGES: " in strict.stdout
    assert Path("b.safetensors").is_file()
    on_train = done(*command, "--measure", "matched", "-o", "c.safetensors")
    assert "NOT SATISFIED ON TRAIN: " in on_train.stdout


def test_a_satisfied_mitigation_exits_with_0_when_strict(here: Path) -> None:
    result = done(*MITIGATE, "--eps", "1", "--strict", "-o", "a.safetensors")
    assert "The constraints hold on mixed train images" in result.stdout
    assert "chosen on mixed train images" in result.stdout
    with_labels = done(*MITIGATE, "--eps", "1", "--measure", "eval", "-o", "b.safetensors")
    assert "The constraints hold on train: " in with_labels.stdout
    assert "chosen on train: " in with_labels.stdout


@pytest.mark.parametrize("method", [name for name in METHODS if name != "fairgrape"])
def test_every_method_leaves_its_name_and_a_log(here: Path, method: str) -> None:
    result = done(*MITIGATE, "--method", method, "-o", "x.safetensors", "--format", "json")
    assert json.loads(result.stdout)["method"] == method
    (line,) = Path("x.run/log.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["epoch"] == 1
    assert ("max_multiplier" in entry) == (method in ("ceag", "equalized-loss"))
    assert ("max_group_weight" in entry) == (method == "group-dro")
    assert "max_excess_gap" in entry
    recipe = Path("x.run/recipe.yaml").read_text().splitlines()
    assert recipe[0] == "command: mitigate"
    assert f"method: {method}" in recipe


def test_fairgrape_prunes_the_dense_model_in_rounds(here: Path) -> None:
    result = done(
        *("mitigate", "model.safetensors", "--method", "fairgrape", "--sparsity", "0.9"),
        *("--epochs", "4", "--epochs-between", "1", "-o", "x.safetensors", *FAST),
    )
    assert "FairGRAPE prunes in 3 rounds, 1 epochs apart" in result.stderr.splitlines()
    lines = [json.loads(line) for line in Path("x.run/log.jsonl").read_text().splitlines()]
    assert [round(line["sparsity"], 2) for line in lines] == [0.54, 0.78, 0.9, 0.9]
    record = lineage_of("x.safetensors").sparsity
    assert record is not None
    assert (record.criterion, record.target) == ("fairgrape", 0.9)
    assert ceag("audit", "x.safetensors", "--gate", "point").exit_code in (0, 1)


def test_fairgrape_without_a_sparsity_is_refused(here: Path) -> None:
    assert errors(*MITIGATE, "--method", "fairgrape") == [
        "--method fairgrape chooses the weights to prune itself: give a dense model and --sparsity"
    ]


def test_without_val_rows_early_stopping_sets_a_part_of_train_aside(here: Path) -> None:
    result = done(*MITIGATE, "--method", "naive-es", "--val-share", "0.25", "-o", "x.safetensors")
    words = "6 of 24 train images, set aside (the CSV has no val rows)"
    assert f"the iterate is chosen on {words}" in result.stderr.splitlines()
    assert result.stdout.splitlines()[1].startswith(
        f"kept the iterate after epoch 1 of 1, chosen on {words}: accuracy "
    )


def test_early_stopping_takes_the_val_rows_where_there_are_any(here: Path) -> None:
    csv = here / "labels.csv"
    rows = csv.read_text().splitlines()
    write_csv(
        csv,
        [
            (path, label, "val" if split == "test" else split, group)
            for path, label, split, group in (row.split(",") for row in rows[1:])
        ],
    )
    result = done(
        *MITIGATE, "--method", "naive-es", "-o", "x.safetensors", "--groups", "labels.csv"
    )
    assert "chosen on val: accuracy" in result.stdout
    assert "set aside" not in result.stderr
    assert "--val-share" not in result.stderr
    again = done(
        *(*MITIGATE, "--method", "naive-es", "-o", "y.safetensors", "--groups", "labels.csv"),
        *("--val-share", "0.2"),
    )
    warning = "warning: --val-share has no effect: the CSV has val rows"
    assert warning in again.stderr.splitlines()


def test_too_few_images_to_set_any_aside_are_an_error(here: Path) -> None:
    command = (*MITIGATE, "-o", "x.safetensors", "--method", "naive-es", "--val-share", "0.01")
    (error,) = errors(*command)
    assert error == (
        "--val-share 0.01: none of the 24 train images can be set aside to choose on; give rows "
        "of split 'val' in the CSV, or a larger share"
    )


def test_an_option_without_effect_is_named(here: Path) -> None:
    result = done(*MITIGATE, "--method", "naive", "--dual-lr", "3", "-o", "x.safetensors")
    assert "warning: --dual-lr has no effect with --method naive" in result.stderr.splitlines()


def test_a_collapse_is_warned_of(here: Path) -> None:
    """No bound, a huge step, and a tolerance that no model can meet."""
    red_alone_is_lost()
    result = done(
        *("mitigate", "--epochs", "4", "--lr", "1e-9", "--sched", "constant", *FAST),
        *("--groups-by", "label", "--eps", "0", "--dual-lr", "50"),
        *("--max-multiplier-sum", "0", "--max-upweight", "0", "--buffer", "4"),
        *("-o", "x.safetensors", "--groups", "labels.csv"),
    )
    (warning,) = [line for line in result.stderr.splitlines() if "diverge" in line]
    assert warning.startswith("warning: the multipliers diverge: they sum to ")


def test_constraints_that_cannot_be_met_look_infeasible(here: Path) -> None:
    red_alone_is_lost()
    result = done(
        *("mitigate", "--epochs", "4", "--lr", "1e-9", "--sched", "constant", *FAST),
        *("--groups-by", "label", "--eps", "0", "--dual-speed", "500", "--buffer", "4"),
        *("--measure", "matched", "-o", "x.safetensors", "--groups", "labels.csv"),
    )
    warnings = [line for line in result.stderr.splitlines() if "look infeasible" in line]
    assert len(warnings) == 1


def test_the_result_says_which_iterate_was_kept(here: Path) -> None:
    result = done(*MITIGATE, "--eps", "1", "-o", "x.safetensors")
    assert "kept the iterate after epoch 1 of 1, chosen on mixed train images: " in result.stdout
    result = done(*MITIGATE, "--eps", "1", "--keep", "last", "-o", "y.safetensors")
    assert "kept" not in result.stdout


def test_the_papers_pipeline_prunes_gradually_and_then_mitigates(here: Path) -> None:
    done(
        *("mitigate", "model.safetensors", "--sparsity", "0.9", "--epochs", "3"),
        *("--prune-epochs", "2", "--paper", "--buffer", "4", "-o", "x.safetensors", *FAST),
    )
    lines = [json.loads(line) for line in Path("x.run/log.jsonl").read_text().splitlines()]
    assert [round(line["sparsity"], 2) for line in lines] == [0.0, 0.79, 0.9]


def test_an_eps_of_zero_is_an_eps(here: Path) -> None:
    done(*MITIGATE, "--eps", "0", "-o", "x.safetensors")
    assert lineage_of("x.safetensors").eps == 0.0
    result = ceag("audit", "x.safetensors", "--gate", "point")
    assert result.stderr.splitlines()[-1].startswith("eps 0 (from x.safetensors)")
    assert result.exit_code in (0, 1)
    # The model is its own reference here, so every psi is zero, and not only on these images.
    result = done("audit", "x.safetensors", "--baseline", "x.safetensors", "--eps", "0")
    assert "both models are the same file" in result.stdout


def test_eps_comes_from_the_flag_else_the_model_else_the_default(here: Path) -> None:
    def said(*arguments: str) -> str:
        return ceag("audit", *arguments).stderr.splitlines()[-1]

    assert said("--eps", "0.5") == "eps 0.5 (from --eps)"
    assert said() == "eps 0.25 (from model.mitigated.safetensors)"
    assert said("model.pruned.safetensors") == "eps 0.02 (from the default)"


def test_a_group_of_one_image_works(here: Path) -> None:
    lines = (here / "labels.csv").read_text().splitlines()
    for row in (1, 25):  # the first of train and the first of test
        lines[row] = lines[row].replace("even", "solo")
    Path("solo.csv").write_text("\n".join(lines))
    done(*MITIGATE, "--groups", "solo.csv", "--min-count", "1", "-o", "x.safetensors")
    result = done("audit", "x.safetensors", "--eps", "1", "--format", "json")
    counts = {
        (group["split"], group["value"]): group["n"]
        for group in json.loads(result.stdout)["groups"]
    }
    assert counts["train", "solo"] == 1
    assert counts["test", "solo"] == 1
    assert counts["test", "even"] == 5


# The groups CSV


def test_a_bad_csv_reports_all_rows_and_leaves_nothing_behind(images: Path) -> None:
    rows = [line.split(",") for line in images.read_text().splitlines()[1:]]
    rows[0][3] = ""  # row 2 of the file
    rows[4][2] = "training"
    rows[7][0] = rows[6][0]
    rows[30][0] = "images/" + "long" * 40 + ".png"
    rows[31][3] = "purple"
    write_csv(images, rows)
    assert errors(*DENSE) == [
        "labels.csv row 2: the group is empty (column 'group')",
        "labels.csv row 6: split 'training' is not one of train, val, test",
        "labels.csv row 9: path 'images/6.png' was given in row 8 already",
        f"labels.csv row 32: there is no image '{rows[30][0]}' in .",
        "labels.csv row 33: group 'group=purple' is in split 'test' (1 rows) but not in train, so "
        "nothing can be promised for it; group more coarsely with --groups-by, or move or remove "
        "these rows",
    ]
    assert sorted(path.name for path in Path().iterdir()) == ["images", "labels.csv"]


def test_labels_that_a_model_does_not_know_are_reported_with_everything_else(here: Path) -> None:
    rows = [line.split(",") for line in Path("labels.csv").read_text().splitlines()[1:]]
    rows[0][1] = rows[9][1] = "bleu"
    rows[5][2] = ""
    write_csv(Path("bad.csv"), rows)
    assert errors(*MITIGATE, "--groups", "bad.csv", "-o", "x.safetensors") == [
        "bad.csv row 2: label 'bleu' is not known to model.pruned.safetensors; did you mean "
        "'blue'? (and 1 more rows); map names to outputs with --class-map, or give a new "
        "classifier with 'ceag dense --num-classes'",
        "bad.csv row 7: split '' is not one of train, val, test",
    ]


@pytest.mark.parametrize(
    ("command", "split"), [(DENSE, "train"), (MITIGATE, "train"), (("audit",), "test")]
)
def test_a_split_that_is_needed_must_have_rows(
    here: Path, command: tuple[str, ...], split: str
) -> None:
    rows = [line.split(",") for line in Path("labels.csv").read_text().splitlines()[1:]]
    write_csv(Path("part.csv"), [row for row in rows if row[2] != split])
    found = errors(*command, "--groups", "part.csv", "-o", "x.safetensors")
    assert f"part.csv: no row has split '{split}'" in found


def test_unreadable_images_are_reported_together(here: Path) -> None:
    Path("images/3.png").write_bytes(b"")
    Path("images/5.png").write_text("text")
    found = errors(*DENSE, "-o", "x.safetensors")
    wrong = "cannot be read: not an image of a known format"
    assert found == [
        f"labels.csv row 5: image 'images/3.png' in . {wrong}",
        f"labels.csv row 7: image 'images/5.png' in . {wrong}",
    ]
    assert not Path("x.safetensors").exists()


def test_equal_images_across_splits_are_counted_and_warned_of(here: Path) -> None:
    shutil.copy("images/3.png", "images/30.png")
    result = ceag("audit", "--eps", "1")
    assert (
        "warning: 1 image is byte for byte in more than one split; accuracies on val or test "
        "are a little too good"
    ) in " ".join(result.stdout.split())


def test_the_target_is_the_label_column(images: Path) -> None:
    """Group and label change places."""
    done(*DENSE, "--epochs", "1", "--label-column", "group", "--groups-by", "label")
    found = json.loads(done("info", "model.safetensors", "--format", "json").stdout)
    assert found["label_names"] == ["even", "odd"]
    assert found["groups"]["label_column"] == "group"
    assert found["groups"]["groups_by"] == "label"
    done("prune", "--sparsity", "0.5")
    document = json.loads(done("audit", "--eps", "1", "--format", "json").stdout)
    assert document["data"]["label_column"] == "group"
    assert {group["value"] for group in document["groups"]} == {"blue", "green", "red"}


def test_images_are_read_from_a_zip_by_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CSV is here, the zip elsewhere; only the first command is told."""
    write_images(tmp_path / "data", archive=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.move("../data/labels.csv", "labels.csv")
    result = done(*DENSE, "--epochs", "1", "--data-dir", "../data/images.zip")
    assert "36 images in ../data/images.zip, target 'label', 2 groups by group" in result.stderr
    done("prune", "--sparsity", "0.5")
    done(*MITIGATE)
    result = done("audit", "--eps", "1")
    assert "36 images in ../data/images.zip" in result.stderr


def test_a_class_map_in_json_gives_each_name_its_output(images: Path) -> None:
    Path("map.json").write_text('{"red": 1, "blue": 2, "green": 0}')
    done(*DENSE, "--epochs", "4", "--class-map", "map.json")
    found = json.loads(done("info", "model.safetensors", "--format", "json").stdout)
    assert found["label_names"] == ["green", "red", "blue"]
    done("prune", "--sparsity", "0.1")
    with_names = json.loads(done("audit", "--eps", "1", "--format", "json").stdout)
    with_map = json.loads(
        done("audit", "--eps", "1", "--class-map", "map.json", "--format", "json").stdout
    )
    assert with_map["splits"] == with_names["splits"]


def test_a_class_map_in_text_gives_names_in_its_order(images: Path) -> None:
    Path("map.txt").write_text("red\nyellow\nblue\ngreen\n")
    done(*DENSE, "--epochs", "1", "--class-map", "map.txt")
    found = json.loads(done("info", "model.safetensors", "--format", "json").stdout)
    assert found["label_names"] == ["red", "yellow", "blue", "green"]
    assert found["num_classes"] == 4


# Where files come from


def test_a_folder_may_be_moved_as_a_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = here.rename(here.parent / "moved")
    monkeypatch.chdir(moved)
    done("audit", "--eps", "1")


def test_models_are_found_from_another_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = done("audit", "../here/model.mitigated.safetensors", "--eps", "1")
    assert "groups from ../here/labels.csv, named by" in result.stderr
    assert list(Path().iterdir()) == []


def test_a_dense_model_that_has_changed_is_refused(here: Path) -> None:
    edit("model.safetensors", **{"fc.bias": torch.zeros(3)})
    (problem,) = errors("audit")
    assert problem.startswith(
        "model.mitigated.safetensors: its dense model 'model.safetensors' has changed since"
    )
    assert errors("audit", "--dense", "model.safetensors") != []
    done("audit", "--baseline", "model.safetensors", "--eps", "1")


def test_a_groups_csv_that_has_changed_is_refused(here: Path) -> None:
    csv = Path("labels.csv")
    csv.write_text(csv.read_text() + "\n")
    (problem,) = errors("audit")
    assert problem.startswith(
        "model.mitigated.safetensors: its groups CSV 'labels.csv' has changed since"
    )
    done("audit", "--groups", "labels.csv", "--eps", "1")


@pytest.mark.parametrize("command", [MITIGATE, ("audit",)], ids=["mitigate", "audit"])
def test_a_model_that_was_changed_after_pruning_is_refused(
    here: Path, command: tuple[str, ...]
) -> None:
    name = "layer1.0.conv1.weight"
    weight = safetensors.torch.load_file("model.pruned.safetensors")[name]
    half = weight.numel() // 2
    weight.view(-1)[(weight.view(-1) == 0).nonzero()[0]] = 1.0
    edit("model.pruned.safetensors", **{name: weight})
    assert errors(command[0], "model.pruned.safetensors", *command[1:], "-o", "x.safetensors") == [
        f"model.pruned.safetensors: tensor '{name}' has {half - 1} zeros, its metadata says "
        f"{half}; the file was changed after pruning"
    ]


def test_models_that_see_different_inputs_are_not_compared(here: Path) -> None:
    done(*DENSE, "--epochs", "1", "--mean", "0.25", "-o", "other.safetensors")
    # An audit can show each model the images as it is used (test_pairing).
    for command in (("explain",), MITIGATE):
        given = (*command, "model.pruned.safetensors", "--baseline", "other.safetensors")
        assert errors(*given)[0].startswith("the dense and the sparse model see different inputs")


# Models from elsewhere


def test_a_bare_checkpoint_goes_through_all_commands(images: Path) -> None:
    torch.save(tiny_model("test_resnet").state_dict(), "bare.pth")
    assert errors("prune", "bare.pth", "--sparsity", "0.5") == [
        "bare.pth: its architecture is not known; name it with --model, put timm's config.json "
        "beside the file, or use a file written by ceag"
    ]
    Path("map.txt").write_text("blue\ngreen\nred\n")
    shared = ("--model", "test_resnet", "--img-size", "16")
    done("prune", "bare.pth", "--sparsity", "0.5", *shared)
    done(*MITIGATE, "--groups", "labels.csv", "--class-map", "map.txt", *shared)
    result = ceag(
        *("audit", "--class-map", "map.txt", *shared, "--gate", "point", "--format", "json")
    )
    assert result.exit_code in (0, 1)
    assert json.loads(result.stdout)["models"]["dense"]["path"] == "bare.pth"


def test_adopting_a_checkpoint_changes_no_weight(images: Path) -> None:
    model = tiny_model("test_resnet")
    torch.save(model.state_dict(), "bare.pth")
    done(
        *("dense", "--checkpoint", "bare.pth", "--model", "test_resnet", "--epochs", "0"),
        *("--img-size", "16"),
    )
    found = safetensors.torch.load_file("model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    done("prune", "--sparsity", "0.5")


def test_fine_tuning_keeps_the_classifier_where_the_labels_are_known(here: Path) -> None:
    done(
        *("dense", "--groups", "labels.csv", "--checkpoint", "model.safetensors", "--epochs", "1"),
        *("--lr", "1e-8", "-o", "x.safetensors", *FAST),
    )
    before = safetensors.torch.load_file("model.safetensors")["fc.weight"]
    after = safetensors.torch.load_file("x.safetensors")["fc.weight"]
    assert torch.allclose(before, after, atol=1e-5)
    assert lineage_of("x.safetensors").parents["input"].path == "model.safetensors"


def test_fine_tuning_on_other_labels_asks_for_a_new_classifier(here: Path) -> None:
    rows = [line.split(",") for line in Path("labels.csv").read_text().splitlines()[1:]]
    for row in rows:
        row[1] = "warm" if row[1] == "red" else "cold"
    write_csv(Path("other.csv"), rows)
    command = (
        *("dense", "--groups", "other.csv", "--checkpoint", "model.safetensors", "--epochs", "1"),
        *("--lr", "1e-8", "-o", "x.safetensors", *FAST),
    )
    assert "give a new classifier with 'ceag dense --num-classes'" in errors(*command)[0]
    done(*command, "--num-classes", "2")
    found = json.loads(done("info", "x.safetensors", "--format", "json").stdout)
    assert found["label_names"] == ["cold", "warm"]
    before = safetensors.torch.load_file("model.safetensors")
    after = safetensors.torch.load_file("x.safetensors")
    assert after["fc.weight"].shape[0] == 2
    name = "layer1.0.conv1.weight"
    assert torch.allclose(before[name], after[name], atol=1e-5)


# Outputs


def test_an_output_folder_is_what_timm_loads(here: Path) -> None:
    done("prune", "model.safetensors", "--sparsity", "0.5", "-o", "out/")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "config.json",
        "model.run",
        "model.safetensors",
    ]
    model = timm.create_model(f"local-dir:{here / 'out'}", pretrained=True).eval()
    inputs = torch.rand(2, 3, 16, 16)
    twin = timm.create_model("test_resnet", num_classes=3, checkpoint_path="out/model.safetensors")
    assert torch.equal(model(inputs), twin.eval()(inputs))
    assert lineage_of("out/model.safetensors").parents["input"].path == "../model.safetensors"
    done("audit", "out/model.safetensors", "--eps", "1")


def test_the_page_shows_images_that_are_lost_but_not_in_ci(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    red_alone_is_lost()
    arguments = ("audit", "model.pruned.safetensors", "--groups-by", "label", "-o", "report")
    assert ceag(*arguments).exit_code == 1
    page = Path("report/audit.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 4  # all that are red
    assert "is <bdi>red</bdi>, taken for <bdi>" in page
    assert ceag(*arguments, "--gallery", "0").exit_code == 1
    assert "<img" not in Path("report/audit.html").read_text()
    monkeypatch.setenv("CI", "true")
    for asked, images in (((), 0), (("--gallery", "3"), 3)):
        assert ceag(*arguments, *asked).exit_code == 1
        assert Path("report/audit.html").read_text().count("<img ") == images


def test_the_audit_writes_its_report_where_it_is_told(here: Path) -> None:
    done("audit", "--eps", "1", "-o", "report")
    written = sorted(path.name for path in Path("report").iterdir())
    assert written == ["audit.html", "audit.json", "predictions.npz"]


def test_a_table_is_neither_cut_nor_wrapped(here: Path) -> None:
    """A log has no width."""
    name = "a-group-whose-name-is-very-long-" * 3
    text = Path("labels.csv").read_text().replace("even", name)
    Path("long.csv").write_text(text)
    result = done("audit", "--groups", "long.csv", "--eps", "1")
    assert len([line for line in result.stdout.splitlines() if line.startswith(name)]) == 2


def test_a_recipe_gives_the_options(here: Path) -> None:
    Path("r.yaml").write_text("command: prune\nsparsity: 0.75\noutput: x.safetensors\n")
    done("prune", "model.safetensors", "--config", "r.yaml")
    lineage = lineage_of("x.safetensors")
    assert lineage.sparsity is not None
    assert lineage.sparsity.target == 0.75


def test_the_recipe_of_a_run_repeats_it(here: Path) -> None:
    done("prune", "model.safetensors", "--sparsity", "0.75", "-o", "a.safetensors")
    done("prune", "-c", "a.run/recipe.yaml", "-o", "b.safetensors")
    a, b = (safetensors.torch.load_file(f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_recipe_that_cannot_be_used_is_refused_with_every_problem(here: Path) -> None:
    Path("r.yaml").write_text("sparsty: 0.75\nepochs: -1\n")
    assert errors("prune", "model.safetensors", "-c", "r.yaml", "--lr", "0") == [
        "r.yaml: unknown key 'sparsty'; did you mean 'sparsity'?",
        "r.yaml: epochs: -1 must be at least 0",
        "--lr: 0.0 must be more than 0",
    ]


def test_mixed_precision_runs(here: Path) -> None:
    # Larger than elsewhere: on an image that has shrunk to one pixel, a strided convolution in
    # bfloat16 has NaN gradients now and then on a CPU, which is torch's and not ours.
    done(*DENSE, "--epochs", "1", "--amp", "--img-size", "64", "-o", "x.safetensors")
    state = safetensors.torch.load_file("x.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


def test_images_of_every_kind_are_trained_on(images: Path) -> None:
    """Grey, with transparency and with a palette, among coloured ones."""
    for i, mode in enumerate(["L", "RGBA", "P", "1", "LA", "CMYK"]):
        path = Path(f"images/{i}.png")
        with Image.open(path) as image:
            converted = image.convert(mode)
        converted.save(path, "JPEG" if mode == "CMYK" else "PNG")
    assert len(list(Path("images").iterdir())) == ROWS
    done(*DENSE, "--epochs", "1")


def test_a_checkpoint_is_adapted_to_another_input(images: Path) -> None:
    """Timm resizes position embeddings and adapts the first convolution."""
    vit = ("dense", "--groups", "labels.csv", "--model", "test_vit", "--img-size", "32", *FAST)
    done(*vit, "--epochs", "1")
    again = ("dense", "--groups", "labels.csv", "--checkpoint", "model.safetensors", *FAST)
    done(*again, "--epochs", "1", "--img-size", "48", "-o", "larger/")
    done(*again, "--epochs", "1", "--in-chans", "1", "-o", "grey/")
    larger = timm.create_model("local-dir:larger", pretrained=True)
    assert larger(torch.zeros(1, 3, 48, 48)).shape == (1, larger.num_classes)
    assert larger.get_parameter("pos_embed").shape[1] == 1 + (48 // 16) ** 2
    grey = timm.create_model("local-dir:grey", pretrained=True)
    assert grey(torch.zeros(1, 1, 32, 32)).shape == (1, grey.num_classes)
    assert lineage_of("grey/model.safetensors").parents["input"].path == "../model.safetensors"


def test_a_checkpoint_is_said_to_see_images_as_it_was_asked_to(here: Path) -> None:
    adopt = ("dense", "--checkpoint", "model.safetensors", "--epochs", "0")
    (line,) = done(*adopt, "--img-size", "24", "-o", "x.safetensors").stderr.splitlines()
    assert line.startswith("model.safetensors: test_resnet (from the file's metadata), 24x24, 3 ")
    (line,) = done(*adopt, "-o", "y.safetensors").stderr.splitlines()
    assert line.startswith("model.safetensors: test_resnet (from the file's metadata), 16x16, 3 ")


def test_an_input_that_the_model_cannot_take_is_refused_before_training(images: Path) -> None:
    done(
        "dense",
        "--groups",
        "labels.csv",
        "--model",
        "test_vit",
        "--img-size",
        "32",
        *FAST,
        "--epochs",
        "1",
    )
    (message,) = errors("prune", "model.safetensors", "--sparsity", "0.5", "--img-size", "40")
    assert message.startswith("test_vit does not take inputs of 40x40, 3 channels")
    assert "--img-size" in message
    assert not Path("model.pruned.safetensors").exists()


def test_the_same_csv_is_read_as_it_was_for_the_model(images: Path) -> None:
    """--label-column, --groups-by and --data-dir need not be said again."""
    text = images.read_text().replace("path,label,", "path,colour,", 1)
    Path("elsewhere").mkdir()
    csv = Path("elsewhere/labels.csv")
    csv.write_text(text)
    read = ("--groups", str(csv), "--data-dir", ".", "--label-column", "colour")
    done("dense", *read, "--groups-by", "colour", *DENSE[3:], "--epochs", "1")
    done("prune", "model.safetensors", "--sparsity", "0.5")
    result = done(*MITIGATE, "--groups", str(csv))
    assert "target 'colour', " in result.stderr
    assert (
        lineage_of("model.mitigated.safetensors").groups == lineage_of("model.safetensors").groups
    )
    csv.write_text(text + "\n")  # another file: read as the flags say
    (message, *_) = errors(*MITIGATE, "--groups", str(csv), "--overwrite")
    assert "there is no label column 'label'" in message


def test_pruning_further_inside_mitigation_keeps_the_dense_reference(here: Path) -> None:
    """The harm of the first pruning must not vanish from the audit."""
    more = ("model.pruned.safetensors", "--sparsity", "0.75", "--prune-epochs", "0")
    done(*MITIGATE, *more, "-o", "further.safetensors")
    of_pruned = lineage_of("model.pruned.safetensors").parents["dense"]
    assert lineage_of("further.safetensors").parents["dense"] == of_pruned


def test_pruning_further_inside_mitigation_is_said(here: Path) -> None:
    more = ("model.pruned.safetensors", "--prune-epochs", "0", *FAST)
    result = done(*MITIGATE, *more, "--sparsity", "0.75", "-o", "x.safetensors")
    assert (
        "model.pruned.safetensors: is pruned to 50.00% already; is pruned further, to 75.00%"
    ) in result.stderr.splitlines()
    result = done(*MITIGATE, *more, "--sparsity", "0.5", "-o", "y.safetensors")
    assert (
        "model.pruned.safetensors: is pruned to 50.00% already; no more weights are pruned"
    ) in result.stderr.splitlines()
    dense = ("model.safetensors", "--sparsity", "0.5", "-o", "z.safetensors")
    assert "already" not in done(*MITIGATE, *dense, "--prune-epochs", "0").stderr


def test_pruning_further_inside_mitigation_goes_by_the_rule_of_before(here: Path) -> None:
    """The tensors and the scope that ceag prune was asked for are still what is pruned."""
    further = ("--sparsity", "0.8", "--prune-epochs", "0", *FAST)
    done(
        "prune",
        "model.safetensors",
        "--sparsity",
        "0.5",
        "--include",
        "layer1",
        "-o",
        "p.safetensors",
    )
    before = lineage_of("p.safetensors").sparsity
    assert before is not None
    result = done(*MITIGATE, "p.safetensors", *further, "-o", "x.safetensors")
    assert "p.safetensors: is pruned further in the 2 tensors that it is pruned in" in result.stderr
    after = lineage_of("x.safetensors").sparsity
    assert after is not None
    assert set(after.tensors) == set(before.tensors)
    assert len(after.tensors) == 2
    assert all(zeros == math.ceil(0.8 * size) for zeros, size in after.tensors.values())

    done(
        "prune",
        "model.safetensors",
        "--sparsity",
        "0.5",
        "--scope",
        "global",
        "-o",
        "g.safetensors",
    )
    done(*MITIGATE, "g.safetensors", *further, "-o", "y.safetensors")
    after = lineage_of("y.safetensors").sparsity
    assert after is not None
    assert after.scope == "global"
    shares = {round(zeros / size, 3) for zeros, size in after.tensors.values()}
    assert len(shares) > 1
    sizes = sum(size for _, size in after.tensors.values())
    assert sum(zeros for zeros, _ in after.tensors.values()) == math.ceil(Fraction("0.8") * sizes)
    less = ("--sparsity", "0.25", "--prune-epochs", "0", "-o", "z.safetensors")
    assert errors(*MITIGATE, "g.safetensors", *less)[0] == ("g.safetensors: is 50.00% zero already")


def test_what_does_not_go_on_inside_mitigation_is_warned_of(here: Path) -> None:
    further = ("--sparsity", "0.8", "--prune-epochs", "0", *FAST, "-o", "x.safetensors")
    done("prune", "model.safetensors", "--pattern", "2:4", "-o", "p.safetensors")
    assert (
        "warning: p.safetensors: is pruned by --pattern 2:4; --sparsity 0.8 goes on from there by "
        "magnitude alone"
    ) in done(*MITIGATE, "p.safetensors", *further).stderr.splitlines()
    state = safetensors.torch.load_file("model.pruned.safetensors")
    torch.save(state, "bare.pth")
    shape = ("--model", "test_resnet", "--img-size", "16", "--dense", "model.safetensors")
    data = ("--groups", "labels.csv", "--class-map", "names.txt", "--overwrite")
    Path("names.txt").write_text("blue\ngreen\nred\n")
    assert (
        "warning: bare.pth: does not say by what rule it is pruned; --sparsity 0.8 is reached in "
        "each of the 14 tensors that may be pruned"
    ) in done(*MITIGATE, "bare.pth", *shape, *data, *further).stderr.splitlines()


def test_pruning_less_inside_mitigation_is_refused_before_training(here: Path) -> None:
    found = errors(
        *(*MITIGATE, "model.pruned.safetensors", "--sparsity", "0.25", "--prune-epochs", "0"),
        *("-o", "x.safetensors"),
    )
    assert len(found) == 7
    assert found[0] == ("model.pruned.safetensors: tensor 'conv1.3.weight' is 50.00% zero already")
    assert found[5:] == [
        "and 9 more",
        "--sparsity 0.25 asks for less, and pruned weights do not come back: ask for more, start "
        "from the dense model, or fine-tune it as it is ('ceag mitigate' without --sparsity)",
    ]
    assert not Path("x.run").exists()


def test_pruning_less_with_fine_tuning_is_refused_before_training(here: Path) -> None:
    command = ("prune", "model.pruned.safetensors", "-o", "x.safetensors", "--epochs", "1")
    found = errors(*command, "--sparsity", "0.25", *ON_DATA)
    assert found[0] == ("model.pruned.safetensors: tensor 'conv1.3.weight' is 50.00% zero already")
    assert found[-1].startswith("--sparsity 0.25 asks for less")
    assert not Path("x.run").exists()
    result = done(*command, "--sparsity", "0.75", *ON_DATA)
    assert "is pruned to 50.00% already; is pruned further, to 75.00%" in result.stderr


def test_a_bare_file_that_was_pruned_can_be_mitigated_and_audited(here: Path) -> None:
    torch.save(safetensors.torch.load_file("model.safetensors"), "bare.pth")
    shape = ("--model", "test_resnet", "--img-size", "16")
    done("prune", "bare.pth", "--sparsity", "0.5", *shape)
    names = Path("names.txt")
    labels = open_checkpoint(Path("model.safetensors"), AuditOptions(), Quiet()).label_names
    names.write_text("\n".join(labels or []))
    read = ("--groups", "labels.csv", "--class-map", str(names))
    done(*MITIGATE, "bare.pruned.safetensors", *read)
    audit = ceag("audit", "bare.mitigated.safetensors", *read, "--gate", "point")
    assert audit.exit_code in (0, 1)


def test_images_that_moved_along_are_found_beside_the_csv(images: Path, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "images").rename(tmp_path / "apart/images")
    done(*DENSE, "--data-dir", "apart", "--epochs", "1")
    (tmp_path / "moved").mkdir()
    for name in ("model.safetensors", "labels.csv", "apart"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    os.chdir(tmp_path / "moved")
    done("prune", "model.safetensors", "--sparsity", "0.5")
    assert "images from apart, named by" in ceag("audit").stderr
    Path("apart").rename(tmp_path / "gone")
    (message,) = errors("audit")
    assert "its images 'apart' are not there" in message
    assert message.endswith("name them with --data-dir")


def test_a_folder_written_with_o_can_be_given_back(here: Path) -> None:
    done("prune", "model.safetensors", "--sparsity", "0.5", "-o", "folder/")
    result = done(*MITIGATE, "folder", "--groups", "labels.csv")
    assert "folder/model.safetensors: test_resnet" in result.stderr


# What cannot be read as a command line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("audit", "--config="), "--config"),
        (("audit", "--config", ""), "--config"),
        (("audit", "-c", " "), "--config"),
        (("audit", "--groups-by="), "--groups-by"),
        (("audit", "--cluster-id="), "--cluster-id"),
        (("audit", "--predictions="), "--predictions"),
        (("audit", "--eps="), "--eps"),
        (("audit", "--report", "json=a.json", "--report="), "--report"),
        (("audit", "-o", ""), "--output"),
        (("audit", ""), "FILE"),
        (("dense", "--checkpoint="), "--checkpoint"),
        (("prune", "--include="), "--include"),
        (("mitigate", "--dense="), "--dense"),
        (("export", "--class-map="), "--class-map"),
        (("groups", "--label-column="), "--label-column"),
        (("check", "--config="), "--config"),
        (("sweep", "recipe.yaml", "--output="), "--output"),
        (("info", ""), "FILE"),
        (("pack", "model.safetensors", "-o", ""), "--output"),
    ],
)
def test_an_empty_value_is_not_taken_for_none(
    here: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert errors(*arguments) == [
        f"{named}: is empty, as an unset variable makes it; give a value, or leave it out"
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("audit", "--eps", "abc"), "--eps: 'abc' is not a number"),
        (
            ("audit", "--eps", "2"),
            "--eps: 2.0 must be at most 1 (a fraction: 0.02 is 2 points)",
        ),
        (("dense", "--epochs", "1.5"), "--epochs: '1.5' is not a whole number"),
        (("groups", "--churn", "x"), "--churn: 'x' is not a number"),
        (("groups", "--format", "yaml"), "--format: 'yaml' is not one of text, json"),
        (("groups", "--format", "junit"), "--format: 'junit' is not one of text, json"),
        (
            ("audit", "--bogus"),
            "ceag audit: no such option: --bogus (Possible options: --groups); 'ceag audit --help' "
            "says what there is",
        ),
        (
            ("audit", "--config"),
            "ceag audit: option '--config' requires an argument; 'ceag audit --help' says what "
            "there is",
        ),
        (("auditt",), "ceag: no such command 'auditt'"),
        (("--nothing",), "ceag: no such option: --nothing; 'ceag --help' says what there is"),
        (("prune", "a", "b"), "ceag prune: got unexpected extra argument(s) (b)"),
    ],
)
def test_wrong_usage_is_one_line_as_every_error_is(
    here: Path, arguments: tuple[str, ...], problem: str
) -> None:
    (found,) = errors(*arguments)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("mitigate", "interrupted; the same command with --resume continues"),
        ("audit", "interrupted; there is no verdict; the same command begins anew"),
        ("export", "interrupted; the same command begins anew"),
    ],
)
def test_what_to_do_after_an_interruption(
    command: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("stages.mitigate", "auditing.run_audit", "exports.export"):
        monkeypatch.setattr(f"ceag_cli.{name}", interrupt)
    result = ceag(command)
    assert result.exit_code == 130
    assert result.stderr == f"{words}\n"


@pytest.mark.parametrize(
    ("command", "default"),
    [
        (
            "audit",
            "--gate-splits <str> Splits that the verdict rests on; those that a model was "
            "fitted or chosen on are refused. One of train, val, test. [default: test]",
        ),
        (
            "audit",
            "--alpha <float> Error level of a PASS, and of all FAILs together. [default: 0.05]",
        ),
        ("prune", "[default: 0]"),
        ("mitigate", "0 is no bound. [default: 0.9; with --paper: 0]"),
    ],
)
def test_defaults_are_shown_as_they_would_be_given(command: str, default: str) -> None:
    assert default in " ".join(done(command, "--help").stdout.split())
