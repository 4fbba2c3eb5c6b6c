"""Many runs from one recipe: methods x settings x sparsities x seeds, audited, in one table.

A sweep is nothing but the four commands, called again and again with the options that the recipe
gives. Every run has its own files, so a sweep that was stopped continues where it was, and one
whose recipe has got another method only adds that. Dense models are trained once per seed and
pruned once per sparsity. What is said beyond the audits comes from the answers that they have kept.

    OUT/seed-0/model.safetensors
    OUT/seed-0/sparsity-0.9/model.pruned.safetensors
    OUT/seed-0/sparsity-0.9/ceag.safetensors   with ceag.run/audit.json and predictions.npz
    OUT/results.csv, table.md, results.svg     and with `compare`: OUT/comparisons.csv and .md
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ceag_cli.answers import PREDICTIONS
from ceag_cli.checkpoints import write_text
from ceag_cli.columns import read_npz
from ceag_cli.comparing import FOLDS
from ceag_cli.errors import CeagError, LabelsError, OutputError, SweepError, TrainingError
from ceag_cli.experiment import Cell, Plan
from ceag_cli.heldout import (
    Comparison,
    Measured,
    comparisons,
    measured,
    not_comparable,
    replicates_of,
    same_images,
)
from ceag_cli.lineage import sha256_of
from ceag_cli.options import AuditOptions, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.runs import AlreadyFinished, folder_of
from ceag_cli.scatter import as_svg
from ceag_cli.stages import dense, mitigate, prune, run_audit
from ceag_cli.sweepreport import (
    Row,
    Sweep,
    as_csv,
    comparison_table,
    comparisons_as_csv,
    table,
)


def sweep(
    recipe: Path,
    output: Path | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Sweep:
    """Carry out every run of a recipe that is not there yet, and collect all of them.

    Args:
        recipe: See ``recipes/benchmarks``.
        output: The folder to write; by default one with the recipe's name in the current folder.
        jobs: Runs at a time, each in a process of its own with its share of the cores. More than
            one needs a main module that can be imported (``if __name__ == "__main__"``).
        overwrite: Do again the runs whose options have changed, instead of refusing.
        reporter: Hears how it goes.

    Raises:
        OptionError: The recipe cannot be used.
        SweepError: Some runs failed. The others are done, and the table has them.
    """
    reporter = reporter or Quiet()
    plan = Plan.read(recipe)
    folder = output or Path(plan.name)
    work = _Work(plan, folder, overwrite)
    cells = plan.cells()
    with _workers(jobs, reporter) as workers:
        starts = [f"dense and pruned models of seed {seed}" for seed in plan.seeds]
        failed = workers.call(work.prepare, plan.seeds, starts)
        if not failed:
            failed = workers.call(work.run, cells, [str(cell) for cell in cells])
    found = _collected(work, reporter)
    _write(found)
    if failed:
        raise SweepError(failed)
    return found


def _collected(work: _Work, reporter: Reporter) -> Sweep:
    """All runs that are there, with what their kept answers say."""
    plan = work.plan
    documents = {cell: document for cell in plan.cells() if (document := work.audit_of(cell))}
    images = same_images({cell: work.answers_of(cell) for cell in documents})
    said: dict[tuple[Cell, str], Measured] = {}
    compared: list[Comparison] = []
    for each in images:
        values = replicates_of(each, FOLDS if plan.compare else 0)
        said |= {(cell, each.split): one for cell, one in measured(each, values).items()}
        compared += comparisons(plan, each.split, values)
    for problem in not_comparable(plan, images):
        reporter.warn(problem)
    rows = [
        _row(plan, cell, document, split, said[cell, split["split"]])
        for cell, document in documents.items()
        for split in document["splits"]
    ]
    return Sweep(plan, tuple(rows), work.folder, tuple(compared))


def _row(
    plan: Plan, cell: Cell, document: dict[str, Any], split: dict[str, Any], more: Measured
) -> Row:
    """One run on one split: what its audit found, and what its answers say besides."""
    return Row(
        task=plan.name,
        sparsity=cell.sparsity,
        method=cell.method,
        seed=cell.seed,
        split=split["split"],
        images=split["n"],
        acc_dense=split["acc_dense"],
        acc_sparse=split["acc_sparse"],
        max_excess_gap=split["max_excess_gap"],
        worst_group=split["worst_group"],
        pairwise_disparity=split["pairwise_disparity"],
        eps=document["overall"]["eps"],
        **asdict(more),
    )


def _write(found: Sweep) -> None:
    write_text(found.folder / "results.csv", as_csv(found.rows))
    write_text(found.folder / "table.md", "\n".join(table(found)) + "\n")
    if found.plan.compare:
        write_text(found.folder / "comparisons.csv", comparisons_as_csv(found.comparisons))
        text = "\n".join(comparison_table(found)) + "\n"
        write_text(found.folder / "comparisons.md", text)
    write_text(found.folder / "results.svg", as_svg(found))


@dataclass(frozen=True)
class _Work:
    """The runs of a plan as functions that a process of their own can call."""

    plan: Plan
    folder: Path
    overwrite: bool

    def prepare(self, seed: int) -> _Notes:
        """Train the dense model of a seed and prune it to every sparsity."""
        notes = _Notes()
        model = self._dense(seed)
        given = dict(self.plan.dense) | {"seed": seed, "output": str(model)}
        self._once(dense, DenseOptions(**given), notes)
        for sparsity in self.plan.sparsities:
            given = dict(self.plan.prune) | {"checkpoint": str(model), "sparsity": sparsity}
            pruned = self._at(seed, sparsity) / "model.pruned.safetensors"
            self._once(prune, PruneOptions(**given, seed=seed, output=str(pruned)), notes)
        return notes

    def run(self, cell: Cell) -> _Notes:
        """Fine-tune by one method and audit the result, unless that is done."""
        notes = _Notes()
        given = dict(self.plan.mitigate) | dict(self.plan.methods[cell.method])
        path = self._at(cell.seed, cell.sparsity)
        if given.get("method") == "fairgrape" or "prune_epochs" in given:
            given |= {"checkpoint": str(self._dense(cell.seed)), "sparsity": cell.sparsity}
        else:
            given["checkpoint"] = str(path / "model.pruned.safetensors")
        written = self._written(cell)
        options = MitigateOptions(**given, seed=cell.seed, output=str(written))
        self._once(mitigate, options, notes)
        if self.audit_of(cell) is None:
            common = ("batch_size", "workers", "device", "cache", "cache_size")
            shared = {name: given[name] for name in common if name in given}
            run_audit(AuditOptions(checkpoint=str(written), **shared))
            notes.anything_new = True
        return notes

    def audit_of(self, cell: Cell) -> dict[str, Any] | None:
        """The audit of the file that a run wrote; ``None`` when there is none of this very file.

        An audit counts only together with the answers that it has kept.
        """
        written = self._written(cell)
        try:
            document: dict[str, Any] = json.loads((folder_of(written) / "audit.json").read_text())
            about = read_npz(self.answers_of(cell))[1] or {}
            digests = [of["models"]["sparse"]["sha256"] for of in (document, about)]
            same = digests == 2 * [sha256_of(written)]
        except (OSError, ValueError, KeyError, TypeError, LabelsError):
            return None
        return document if same else None

    def answers_of(self, cell: Cell) -> Path:
        """Where the audit of a run keeps both models' answers."""
        return folder_of(self._written(cell)) / PREDICTIONS

    def _written(self, cell: Cell) -> Path:
        return self._at(cell.seed, cell.sparsity) / f"{cell.method}.safetensors"

    def _once(self, stage: Callable[..., Any], options: Any, notes: _Notes) -> None:
        """Call a stage unless it has finished with these options."""
        try:
            stage(replace(options, resume=True), notes)
        except AlreadyFinished:
            return
        except (OutputError, TrainingError):  # what is there was written with other options
            if not self.overwrite:
                raise
            stage(replace(options, overwrite=True), notes)
        notes.anything_new = True

    def _dense(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}" / "model.safetensors"

    def _at(self, seed: int, sparsity: float) -> Path:
        return self.folder / f"seed-{seed}" / f"sparsity-{sparsity:g}"


class _Notes(Quiet):
    """Keeps what a process of its own has nobody to tell: warnings, and whether it did anything."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.anything_new = False

    def warn(self, text: str) -> None:
        """Keep it."""
        self.warnings.append(text)


T = TypeVar("T")


@dataclass
class _Workers:
    """Calls a function with each of some items: here, or in processes of their own."""

    reporter: Reporter
    pool: ProcessPoolExecutor | None
    told: set[str] = field(default_factory=set)
    """Warnings are the same for most runs of a sweep; each is passed on once."""

    def call(
        self, function: Callable[[T], _Notes], items: Sequence[T], names: Sequence[str]
    ) -> list[str]:
        """Say what is done, pass on warnings, and return what failed."""
        failed: list[str] = []
        for done, (name, result) in enumerate(self._results(function, items, names), start=1):
            try:
                notes = result()
            except CeagError as error:
                failed += [f"{name}: {problem}" for problem in error.problems]
                self.reporter.warn(f"{name}: failed ({done} of {len(items)})")
                continue
            for warning in notes.warnings:
                if warning not in self.told:
                    self.told.add(warning)
                    self.reporter.warn(f"{name}: {warning}")
            what = "done" if notes.anything_new else "was done already"
            self.reporter.say(f"{name}: {what} ({done} of {len(items)})")
        return failed

    def _results(
        self, function: Callable[[T], _Notes], items: Sequence[T], names: Sequence[str]
    ) -> Iterator[tuple[str, Callable[[], _Notes]]]:
        if self.pool is None:
            for item, name in zip(items, names, strict=True):
                yield name, partial(function, item)
            return
        running = {
            self.pool.submit(function, item): name for item, name in zip(items, names, strict=True)
        }
        for future in as_completed(running):
            yield running[future], future.result


@contextmanager
def _workers(jobs: int, reporter: Reporter) -> Iterator[_Workers]:
    if jobs == 1:
        yield _Workers(reporter, None)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Forking a process that has threads, as torch has, can leave the child waiting for ever.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (threads,)) as pool:
        try:
            yield _Workers(reporter, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
