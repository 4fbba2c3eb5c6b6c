"""The run folder beside an output: its recipe, its log, and the state to continue from.

model.mitigated.safetensors
model.mitigated.run/
recipe.yaml     the resolved options
log.jsonl       one JSON line per epoch
state.pt        everything to continue with; gone once the output is written
run.lock        there while a run writes these files, with its process
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ceag_cli.atomic import replacing, write_text
from ceag_cli.errors import CheckpointError, OutputError, TrainingError
from ceag_cli.lineage import Lineage
from ceag_cli.locks import claimed
from ceag_cli.pickles import unpickled
from ceag_cli.progress import Reporter
from ceag_cli.recipe import differences, dump
from ceag_cli.versions import versions
from ceag_cli.weightsfiles import read_metadata

STATE_FORMAT = 2
"""Version of ``state.pt``; to be raised with whatever ``Training`` keeps in it."""


class Run:
    """One run that writes one output.

    Args:
        output: The weights file that the run writes.
        recipe: The options that determine its result.
        inputs: sha256 of everything it reads, by role.
    """

    def __init__(self, output: Path, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.output = output
        self.recipe = dict(recipe)
        self.inputs = dict(inputs)
        self.folder = folder_of(output)
        self.state_path = self.folder / "state.pt"

    @contextmanager
    def claimed(self, reporter: Reporter) -> Iterator[None]:
        """Be the only run that writes this output, its log and its state.

        Raises:
            OutputError: Another run does.
        """
        remedy = f"wait until it has written {self.output}, or write elsewhere with -o"
        with claimed(self.folder / "run.lock", remedy, reporter):
            yield

    def open(self, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Decide whether to start, continue or leave everything as it is.

        With both, what fits is continued or left as it is, and everything else is replaced.

        Returns:
            The state to continue from; ``None`` to start from the beginning.

        Raises:
            AlreadyFinished: With ``resume``, and the output is what this run would write.
            OutputError: The output or an interrupted run exists and nothing says what to do.
            TrainingError: The interrupted run had other options or inputs.
        """
        if resume:
            try:
                state = self._continued()
            except (OutputError, TrainingError, CheckpointError):
                if not overwrite:
                    raise
                state = None
            if state is not None:
                return state
        elif not overwrite:
            self.refuse_existing()
        try:
            self.state_path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.state_path}: cannot be removed: {error.strerror}") from None
        write_text(self.folder / "recipe.yaml", dump(self.recipe))
        return None

    def _continued(self) -> dict[str, Any] | None:
        """The state that an interrupted run has left; ``None`` where there is nothing at all."""
        if self.state_path.is_file():
            return self._read_state()
        if not self.output.is_file():
            return None
        changed = self._differs_from_output()
        if not changed:
            raise AlreadyFinished(str(self.output))
        raise OutputError(
            [f"{self.output}: was written by a finished run with other options or inputs:"]
            + [f"  {line}" for line in changed]
            + ["replace it with --overwrite, or write elsewhere with -o"]
        )

    def _differs_from_output(self) -> list[str]:
        """How this run differs from the one that wrote the output, by what its lineage says."""
        lineage = Lineage.from_metadata(read_metadata(self.output), self.output)
        if lineage is None:
            return ["the file was not written by ceag"]
        had = {role: parent.sha256 for role, parent in lineage.parents.items()}
        if lineage.groups is not None:
            had["groups CSV"] = lineage.groups.csv.sha256
            if lineage.groups.dataset is not None:
                had["data set"] = lineage.groups.dataset.sha256 or ""
        return differences(lineage.recipe, self.recipe) + [
            f"the {role} is another file"
            for role, digest in self.inputs.items()
            if had.get(role) != digest
        ]

    def refuse_existing(self) -> None:
        """Refuse to replace an output or an interrupted run silently.

        Raises:
            OutputError: There is one.
        """
        if self.state_path.is_file():
            raise OutputError(
                f"{self.folder}: holds an interrupted run; continue it with --resume, or start "
                "over with --overwrite"
            )
        if self.output.exists():
            raise OutputError(
                f"{self.output}: exists already; replace it with --overwrite, or write elsewhere "
                "with -o"
            )

    def _read_state(self) -> dict[str, Any]:
        try:
            # To main memory: another process, or another machine, may continue on another device.
            state: dict[str, Any] = unpickled(self.state_path)
        except CheckpointError as error:
            raise TrainingError(f"{error}; start over with --overwrite") from None
        found = state.get("format") if isinstance(state, dict) else None
        if found != STATE_FORMAT:
            how = "no state of ceag" if found is None else f"written in format {found}"
            raise TrainingError(
                f"{self.state_path}: is {how}, this version of ceag continues format "
                f"{STATE_FORMAT}; continue it with the ceag that has begun it, or start over with "
                "--overwrite"
            )
        had, inputs = state.get("recipe"), state.get("inputs")
        if not (isinstance(had, dict) and isinstance(inputs, dict)):
            raise damaged_state(self.state_path)
        changed = differences(had, self.recipe) + [
            f"the {role} is another file"
            for role, digest in self.inputs.items()
            if inputs.get(role) != digest
        ]
        if changed:
            raise TrainingError(
                [f"{self.folder}: the interrupted run cannot be continued:"]
                + [f"  {line}" for line in changed]
                + ["give the same options again, or start over with --overwrite"]
            )
        return state

    def save_state(self, state: Mapping[str, Any], log: list[dict[str, Any]]) -> None:
        """Keep everything needed to continue, and the log so far."""
        lines = "".join(json.dumps(line) + "\n" for line in log)
        write_text(self.folder / "log.jsonl", lines)
        content = {
            "format": STATE_FORMAT,
            "versions": versions(),
            "recipe": self.recipe,
            "inputs": self.inputs,
            "log": log,
        }
        try:
            with (
                replacing(self.state_path) as temporary,
                temporary.open("wb", buffering=0) as file,
            ):
                torch.save(content | dict(state), file)
        except (OSError, RuntimeError) as error:
            known = error if isinstance(error, OSError) else error.__context__  # torch says less
            reason = getattr(known, "strerror", None) or error
            raise OutputError(f"{self.state_path}: cannot be written: {reason}") from None

    def finish(self) -> None:
        """Drop the state of a run whose output is written."""
        self.state_path.unlink(missing_ok=True)


def damaged_state(path: Path) -> TrainingError:
    """The error for a state that no run of these options has saved."""
    return TrainingError(
        f"{path}: holds no state of such a run, or a damaged one; start over with --overwrite"
    )


class AlreadyFinished(Exception):
    """``--resume`` of a run that had finished: there is nothing to do."""


def folder_of(output: Path) -> Path:
    """``model.mitigated.safetensors`` → ``model.mitigated.run``."""
    return output.with_suffix(".run")
