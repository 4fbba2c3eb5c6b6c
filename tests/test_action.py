"""The GitHub action and the pre-commit hooks: read as YAML, their scripts run with bash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / ".github/actions/audit/action.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
SCRIPTS = {step["name"]: step["run"] for step in STEPS if "run" in step}

BASH = shutil.which("bash") or ""
pytestmark = pytest.mark.skipif(not BASH, reason="there is no bash")

FAKE = """#!{python}
import json, os, pathlib, sys
pathlib.Path(os.environ["SAID"]).write_text(json.dumps(sys.argv[2:]))
print("::error::not a command")
reports = dict(a.split("=", 1) for a in sys.argv[1:] if a.split("=")[0] in os.environ["WRITES"])
for kind, path in reports.items():
    overall = {{"verdict": "FAIL", "max_excess_gap": 0.125}}
    text = {{"json": json.dumps({{"overall": overall}}), "github": "::error::a group\\n"}}
    pathlib.Path(path).write_text(text.get(kind, kind))
sys.exit(int(os.environ["CODE"]))
"""


@dataclass
class Ran:
    code: int
    log: str
    outputs: dict[str, str]
    summary: str
    arguments: list[str]
    """Of ceag; empty for the real one."""


def run_step(
    folder: Path,
    inputs: dict[str, str],
    *,
    fake: bool = True,
    code: int = 0,
    writes: str = "json markdown github html junit",
) -> Ran:
    """Run the step that audits, as a runner would: with its inputs in the environment."""
    programs, temporary, work = folder / "bin", folder / "temp", folder / "work"
    for path in (programs, temporary, work):
        path.mkdir(exist_ok=True)
    real = f'#!/bin/sh\nexec "{sys.executable}" -m ceag_cli "$@"\n'
    for name, text in {
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "ceag": FAKE.format(python=sys.executable) if fake else real,
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    step = next(step for step in STEPS if step.get("id") == "audit")
    variables = {
        name: inputs.get(re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value)[1], "")  # type: ignore[index]
        for name, value in step["env"].items()
    }
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for path in files.values():
        path.write_text("")
    said = folder / "said"
    done = subprocess.run(
        # As the runner calls what says "shell: bash".
        [BASH, "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
        cwd=work,
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RUNNER_TEMP": str(temporary),
            "SAID": str(said),
            "CODE": str(code),
            "WRITES": writes,
            **{name: str(path) for name, path in files.items()},
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    return Ran(
        done.returncode,
        done.stdout + done.stderr,
        dict(line.split("=", 1) for line in lines),
        files["GITHUB_STEP_SUMMARY"].read_text(),
        json.loads(said.read_text()) if said.exists() else [],
    )


# The file


def test_it_is_a_composite_action_whose_scripts_take_nothing_from_expressions() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert SCRIPTS
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"]


def test_every_input_is_described_optional_and_used() -> None:
    text = yaml.safe_dump(ACTION["runs"])
    for name, declared in ACTION["inputs"].items():
        assert declared["description"]
        assert isinstance(declared["default"], str), name  # 'required' would not be enforced
        assert f"inputs.{name}" in text, name
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(ACTION["inputs"])


def test_every_output_is_written_by_the_script() -> None:
    for name, declared in ACTION["outputs"].items():
        assert declared["value"] == f"${{{{ steps.audit.outputs.{name} }}}}"
        assert f'print("{name}=' in SCRIPTS["Audit"]
    assert set(ACTION["outputs"]) >= {"verdict", "max-excess-gap", "report-json"}


def test_the_reports_are_kept_whatever_the_verdict() -> None:
    upload = STEPS[-1]
    assert upload["uses"].startswith("actions/upload-artifact@v")
    assert upload["if"].startswith("always() && ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_bash(name: str) -> None:
    checked = subprocess.run([BASH, "-n"], input=SCRIPTS[name], text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_ceag_is_installed_from_where_the_action_is() -> None:
    """So its version is that of the action."""
    where = re.search(r'"\$GITHUB_ACTION_PATH/(.*)"', SCRIPTS["Install ceag"])
    assert where is not None
    assert (ROOT / ".github/actions/audit" / where[1]).resolve() == ROOT.resolve()
    assert (ROOT / "pyproject.toml").is_file()


# What it calls


def test_what_is_not_given_is_not_passed_on(tmp_path: Path) -> None:
    ran = run_step(tmp_path, {})
    assert [argument.split("=")[0] for argument in ran.arguments] == [
        *("--report", "json", "--report", "markdown", "--report", "github"),
        *("--report", "junit", "--report", "html"),
    ]


def test_inputs_become_arguments(tmp_path: Path) -> None:
    inputs = {
        "predictions": "preds.csv",
        "sparse": "model dir/s.safetensors",
        "dense": "d.safetensors",
        "groups": "labels.csv",
        "data-dir": "images.zip",
        "eps": "0.01",
        "gate": "strict",
        "config": "r.yaml",
        "args": "--max-drop=0.05\r\n\n  \n--groups-by=race*gender,age group\n",
    }
    assert run_step(tmp_path, inputs).arguments[10:] == [
        "--predictions=preds.csv",
        "--dense=d.safetensors",
        "--groups=labels.csv",
        "--data-dir=images.zip",
        "--eps=0.01",
        "--gate=strict",
        "--config=r.yaml",
        "--max-drop=0.05",
        "--groups-by=race*gender,age group",
        "--",
        "model dir/s.safetensors",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "$(touch owned)",
        "`touch owned`",
        '"; touch owned; "',
        "'; touch owned; '",
        "x && touch owned",
        "${IFS}; touch owned",
        "x\ntouch owned",
        "* ? [a] ~ \\",
    ],
)
@pytest.mark.parametrize(
    "name", sorted(set(ACTION["inputs"]) & {"eps", "sparse", "args", "config"})
)
def test_what_an_input_says_is_never_run(tmp_path: Path, name: str, text: str) -> None:
    ran = run_step(tmp_path, {name: text})
    assert not list(tmp_path.rglob("owned"))
    (first, *rest) = text.splitlines() if name == "args" else [text]
    expected = [*([first] if name in ("args", "sparse") else [f"--{name}={text}"]), *rest]
    assert ran.arguments[-len(expected) :] == expected


def test_an_input_cannot_pose_as_another_option_but_in_args(tmp_path: Path) -> None:
    ran = run_step(tmp_path, {"sparse": "--gate=point", "eps": "--gate=point"})
    assert ran.arguments[10:] == ["--eps=--gate=point", "--", "--gate=point"]


# What comes out


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_that_of_the_audit_and_the_outputs_are_there(
    tmp_path: Path, code: int
) -> None:
    ran = run_step(tmp_path, {}, code=code)
    assert ran.code == code
    assert ran.outputs["exit-code"] == str(code)
    assert ran.outputs["verdict"] == "FAIL"
    assert ran.outputs["max-excess-gap"] == "0.125"
    assert json.loads(Path(ran.outputs["report-json"]).read_text())["overall"]["verdict"] == "FAIL"
    assert Path(ran.outputs["report-html"]).parent == Path(ran.outputs["reports"])
    assert ran.summary == "markdown"


@pytest.mark.parametrize("code", [2, 4])
def test_an_audit_that_could_not_be_run_says_so(tmp_path: Path, code: int) -> None:
    ran = run_step(tmp_path, {}, code=code, writes="")
    assert ran.code == code
    assert ran.outputs["verdict"] == "ERROR"
    assert ran.outputs["max-excess-gap"] == ran.outputs["report-json"] == ""
    assert ran.summary == (
        f"**ceag audit could not be run** (exit code {code}); the log says why.\n"
    )


def test_what_ceag_prints_is_not_taken_for_commands_but_its_annotations_are(
    tmp_path: Path,
) -> None:
    lines = run_step(tmp_path, {}, code=1).log.splitlines()
    stop = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", lines[0])
    assert stop is not None
    assert lines[1:] == ["::error::not a command", "", f"::{stop[1]}::", "::error::a group"]


def test_reports_of_two_calls_in_a_job_are_apart(tmp_path: Path) -> None:
    first, second = (run_step(tmp_path, {}).outputs["reports"] for _ in range(2))
    assert first != second


# Hooks


def test_hooks_are_as_pre_commit_wants_them() -> None:
    assert [hook["id"] for hook in HOOKS] == ["ceag-check", "ceag-audit"]
    known = {"pre-commit", "pre-push", "manual"}
    for hook in HOOKS:
        assert {"id", "name", "entry", "language", "stages"} <= set(hook)
        assert set(hook["stages"]) <= known
        assert hook["pass_filenames"] is False
        assert hook["minimum_pre_commit_version"] == "3.2.0"
    # A model is never run on a commit.
    assert HOOKS[1]["stages"] == ["pre-push", "manual"]
    assert "--predictions" in HOOKS[1]["args"]


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        ("ceag.yaml", True),
        ("ceag.yml", True),
        ("pyproject.toml", True),
        ("data/labels.csv", True),
        ("data/groups_2026.csv", True),
        ("data/other.csv", False),
        ("src/ceag.py", False),
    ],
)
def test_the_check_looks_at_policies_and_groups(path: str, matches: bool) -> None:
    assert bool(re.search(HOOKS[0]["files"], path)) is matches


def test_entries_are_commands_of_ceag() -> None:
    import typer.main

    from ceag_cli.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for hook in HOOKS:
        program, command = hook["entry"].split()
        assert program == "ceag"
        context = commands[command].make_context(command, list(hook.get("args", [])))
        assert context is not None


# The real thing


def answers(folder: Path, lost: int) -> None:
    """400 images of each of two groups, of which the second loses some."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    rows = ["id,label,split,race,dense,sparse"]
    for i in range(800):
        value, right = ("Black", i - 400 >= lost) if i >= 400 else ("::error::White", True)
        rows.append(f"{i},cat,test,{value},cat,{'cat' if right else 'dog'}")
    (work / "preds.csv").write_text("\n".join(rows) + "\n")


def test_the_step_with_the_real_ceag(tmp_path: Path) -> None:
    answers(tmp_path, lost=120)
    (tmp_path / "work/ceag.yaml").write_text("audit: {eps: 0.03, predictions: preds.csv}\n")
    ran = run_step(tmp_path, {}, fake=False)
    assert ran.code == 1, ran.log
    assert ran.outputs["verdict"] == "FAIL"
    assert float(ran.outputs["max-excess-gap"]) == 0.15
    document = json.loads(Path(ran.outputs["report-json"]).read_text())
    assert document["policy"]["sources"]["eps"] == "ceag.yaml"
    assert "FAIL" in ran.summary
    after = ran.log.splitlines()
    after = after[
        next(i for i, line in enumerate(after) if re.fullmatch("::[0-9a-f]{32}::", line)) :
    ]
    assert any(line.startswith("::error ") for line in after)
    kept = {path.suffix for path in Path(ran.outputs["reports"]).iterdir()}
    assert kept == {".json", ".md", ".txt", ".xml", ".html"}


def test_the_step_with_the_real_ceag_and_a_flag(tmp_path: Path) -> None:
    answers(tmp_path, lost=0)
    ran = run_step(tmp_path, {"predictions": "preds.csv", "eps": "0.03"}, fake=False)
    assert ran.code == 0, ran.log
    assert ran.outputs["verdict"] == "PASS"


def test_the_step_with_the_real_ceag_and_a_bad_input(tmp_path: Path) -> None:
    answers(tmp_path, lost=0)
    ran = run_step(tmp_path, {"predictions": "preds.csv", "eps": "$(touch owned)"}, fake=False)
    assert (ran.code, ran.outputs["verdict"]) == (2, "ERROR")
    assert "--eps" in ran.log
    assert not list(tmp_path.rglob("owned"))
    assert os.listdir(ran.outputs["reports"]) == []
