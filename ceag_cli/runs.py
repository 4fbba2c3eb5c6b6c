"""The run folder beside an output: its recipe, its log, and the state to continue from.

model.mitigated.safetensors
model.mitigated.run/
recipe.yaml     the resolved options
log.jsonl       one JSON line per epoch
state.pt        everything to continue with; gone once the output is written
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ceag_cli.checkpoints import write_text
from ceag_cli.errors import OutputError, TrainingError
from ceag_cli.lineage import Lineage, read_metadata
from ceag_cli.recipe import differences, dump

STATE_FORMAT = 1


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

    def open(self, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Decide whether to start, continue or leave everything as it is.

        Returns:
            The state to continue from; ``None`` to start from the beginning.

        Raises:
            AlreadyFinished: With ``resume``, and the output is what this run would write.
            OutputError: The output or an interrupted run exists and nothing says what to do.
            TrainingError: The interrupted run had other options or inputs.
        """
        if resume and self.state_path.is_file():
            return self._read_state()
        if resume and self.output.is_file():
            changed = self._differs_from_output()
            if not changed:
                raise AlreadyFinished(str(self.output))
            raise OutputError(
                [f"{self.output}: was written by a finished run with other options or inputs:"]
                + [f"  {line}" for line in changed]
                + ["replace it with --overwrite, or write elsewhere with -o"]
            )
        if not overwrite and not resume:
            self.refuse_existing()
        try:
            self.state_path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.state_path}: cannot be removed: {error.strerror}") from None
        write_text(self.folder / "recipe.yaml", dump(self.recipe))
        return None

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
            state: dict[str, Any] = torch.load(
                self.state_path, map_location="cpu", weights_only=True
            )
        except (OSError, RuntimeError, EOFError, IndexError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{self.state_path}: cannot be read ({error}); start over with --overwrite"
            ) from None
        if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
            raise TrainingError(
                f"{self.state_path}: was written by another version of ceag; start over with "
                "--overwrite"
            )
        changed = differences(state["recipe"], self.recipe) + [
            f"the {role} is another file"
            for role, digest in self.inputs.items()
            if state["inputs"].get(role) != digest
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
        content = {"format": STATE_FORMAT, "recipe": self.recipe, "inputs": self.inputs, "log": log}
        temporary = self.state_path.with_name(f".state.tmp-{os.getpid()}")
        try:
            try:
                torch.save(content | dict(state), temporary)
                os.replace(temporary, self.state_path)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{self.state_path}: cannot be written: {error}") from None

    def finish(self) -> None:
        """Drop the state of a run whose output is written."""
        self.state_path.unlink(missing_ok=True)


class AlreadyFinished(Exception):
    """``--resume`` of a run that had finished: there is nothing to do."""


def folder_of(output: Path) -> Path:
    """``model.mitigated.safetensors`` → ``model.mitigated.run``."""
    return output.with_suffix(".run")
