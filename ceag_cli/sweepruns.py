"""The runs of a sweep: what is not there yet is carried out, several at a time.

A run is nothing but the four commands, called with the options that the recipe gives. Each has its
own files, so that one that was stopped goes on where it was, and one that has finished is left as
it is, unless the recipe has got other lines for it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from ceag_cli import strictjson
from ceag_cli.auditing import run_audit
from ceag_cli.documents import policy_document
from ceag_cli.errors import CeagError, LabelsError, OutputError, SweepError, TrainingError
from ceag_cli.experiment import OWN, Cell, Plan
from ceag_cli.kept import PREDICTIONS
from ceag_cli.npzfiles import read_npz
from ceag_cli.options import AuditOptions, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.policy import policy_of
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.runs import AlreadyFinished, folder_of
from ceag_cli.stages import dense, mitigate, prune
from ceag_cli.weightsfiles import sha256_of

SHARED_WITH_AUDITS = ("batch_size", "workers", "device", "cache", "cache_size")
"""Options of mitigation that say how images are read, which audits take over."""


@dataclass(frozen=True)
class Pruned:
    """A dense model pruned, from which the methods start."""

    seed: int
    sparsity: float
    criterion: str

    def __str__(self) -> str:
        by = f" by {self.criterion}" if self.criterion else ""
        return f"pruned{by} to {self.sparsity:g}, seed {self.seed}"


def carry_out(work: Work, jobs: int, reporter: Reporter) -> list[str]:
    """Carry out every run of a plan that is not there yet.

    A run that fails does not keep the others from being done, but for those that need its model.

    Args:
        work: The runs.
        jobs: How many at a time.
        reporter: Hears how it goes.

    Returns:
        What failed, a line for each problem.
    """
    plan = work.plan
    cells = plan.cells()
    problems: dict[Any, list[str]] = {}
    with _workers(jobs, reporter) as workers:
        problems |= workers.call(work.train, plan.seeds, "dense model, seed {}".format)
        starts = [
            start
            for start in dict.fromkeys(map(work.start_of, cells))
            if start is not None and start.seed not in problems
        ]
        problems |= workers.call(work.prune, starts, str)
        ready = [c for c in cells if not {c.seed, work.start_of(c)} & problems.keys()]
        problems |= workers.call(work.run, ready, str)
    failed = [problem for of_one in problems.values() for problem in of_one]
    if len(ready) < len(cells):
        failed.append(f"{len(cells) - len(ready)} runs that need these models were left out")
    return failed


@dataclass(frozen=True)
class Work:
    """The runs of a plan as functions that a process of their own can call."""

    plan: Plan
    folder: Path
    overwrite: bool = False

    def train(self, seed: int) -> Notes:
        """Train the dense model of a seed."""
        notes = Notes()
        given = dict(self.plan.dense) | {"seed": seed, "output": str(self._dense(seed))}
        self._once(dense, DenseOptions(**given), notes)
        return notes

    def prune(self, start: Pruned) -> Notes:
        """Prune a dense model."""
        notes = Notes()
        given = dict(self.plan.prune) | dict(self.plan.criteria.get(start.criterion, {}))
        options = PruneOptions(
            **given,
            checkpoint=str(self._dense(start.seed)),
            sparsity=start.sparsity,
            seed=start.seed,
            output=str(self._pruned(start)),
        )
        self._once(prune, options, notes)
        return notes

    def run(self, cell: Cell) -> Notes:
        """Fine-tune by one method and audit the result, unless that is done."""
        notes = Notes()
        if self.plan.trains(cell.method):
            self._once(mitigate, self._mitigation(cell), notes)
        if self.audit_of(cell) is None:
            run_audit(self._audit(cell))
            notes.anything_new = True
        return notes

    def start_of(self, cell: Cell) -> Pruned | None:
        """The pruned model that a run starts from; ``None`` where its method prunes by itself."""
        if self.plan.prunes_itself(cell.method):
            return None
        return Pruned(cell.seed, cell.sparsity, cell.criterion)

    def audit_of(self, cell: Cell) -> dict[str, Any] | None:
        """The audit of the file that a run wrote; ``None`` when there is none of this very file.

        An audit counts only together with the answers that it has kept, and only if it was asked
        what the recipe asks.
        """
        written = self._written(cell)
        try:
            text = (folder_of(written) / "audit.json").read_bytes()
            document = strictjson.mapping(strictjson.loads(text), "the audit")
            about = read_npz(self.answers_of(cell))[1] or {}
            digests = [of["models"]["sparse"]["sha256"] for of in (document, about)]
            same = digests == 2 * [sha256_of(written)] and self._as_asked(document, about["eps"])
        except (OSError, ValueError, KeyError, TypeError, LabelsError):
            return None
        return document if same else None

    def unasked(self) -> list[Cell]:
        """Runs whose model is there, but no audit of it that was asked what the recipe asks."""
        cells = self.plan.cells()
        return [c for c in cells if self._written(c).is_file() and self.audit_of(c) is None]

    def answers_of(self, cell: Cell) -> Path:
        """Where the audit of a run keeps both models' answers."""
        return folder_of(self._written(cell)) / PREDICTIONS

    def _mitigation(self, cell: Cell) -> MitigateOptions:
        given = dict(self.plan.mitigate) | dict(self.plan.methods[cell.method])
        start = self.start_of(cell)
        if start is None:
            given |= {"checkpoint": str(self._dense(cell.seed)), "sparsity": cell.sparsity}
        else:
            given["checkpoint"] = str(self._pruned(start))
        return MitigateOptions(**given, seed=cell.seed, output=str(self._written(cell)))

    def _audit(self, cell: Cell) -> AuditOptions:
        plan = self.plan
        given = dict(plan.mitigate) | dict(plan.methods[cell.method])
        shared = {name: given[name] for name in SHARED_WITH_AUDITS if name in given}
        if not plan.trains(cell.method):  # no method has noted what it was made for
            shared["eps"] = plan.eps
        return AuditOptions(checkpoint=str(self._written(cell)), **(shared | dict(plan.audit)))

    def _as_asked(self, document: Mapping[str, Any], made_for: float | None) -> bool:
        """Whether an audit has been asked what it would be asked now."""
        asked = dict(self.plan.audit)
        if "eps" not in asked and made_for is None:
            asked["eps"] = self.plan.eps
        options = AuditOptions(**asked)
        policy = policy_document(policy_of(options, ("", made_for)))
        had = dict(document["policy"])
        gated = [split["split"] for split in document["splits"] if split["gated"]]
        columns = ("groups_by", "missing", "cluster_id", "label_column")
        other = [
            name
            for name in columns
            if asked.get(name) is not None and document["data"][name] != asked[name]
        ]
        return (
            policy | {"sources": {}} == had | {"sources": {}}
            and sorted(gated) == sorted(options.gate_splits)
            and not other
        )

    def _written(self, cell: Cell) -> Path:
        start = self.start_of(cell)
        if start is not None and not self.plan.trains(cell.method):
            return self._pruned(start)
        criterion = "" if cell.criterion == OWN else cell.criterion
        return self._at(cell.seed, cell.sparsity) / criterion / f"{cell.method}.safetensors"

    def _once(self, stage: Callable[..., Any], options: Any, notes: Notes) -> None:
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

    def _pruned(self, start: Pruned) -> Path:
        at = self._at(start.seed, start.sparsity)
        return at / start.criterion / "model.pruned.safetensors"

    def _at(self, seed: int, sparsity: float) -> Path:
        return self.folder / f"seed-{seed}" / f"sparsity-{sparsity:g}"


class Notes(Quiet):
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
        self, function: Callable[[T], Notes], items: Sequence[T], name: Callable[[T], str]
    ) -> dict[T, list[str]]:
        """Say what is done, pass on warnings, and return what failed, by item."""
        failed: dict[T, list[str]] = {}
        for done, (item, result) in enumerate(self._results(function, items), start=1):
            try:
                notes = result()
            except CeagError as error:
                failed[item] = [f"{name(item)}: {problem}" for problem in error.problems]
                self.reporter.warn(f"{name(item)}: failed ({done} of {len(items)})")
                continue
            except BrokenProcessPool:
                raise SweepError(
                    f"{name(item)}: its process was ended from outside, as happens where memory "
                    "runs out; the same command continues, with fewer --jobs if need be"
                ) from None
            for warning in notes.warnings:
                if warning not in self.told:
                    self.told.add(warning)
                    self.reporter.warn(f"{name(item)}: {warning}")
            what = "done" if notes.anything_new else "was done already"
            self.reporter.say(f"{name(item)}: {what} ({done} of {len(items)})")
        return failed

    def _results(
        self, function: Callable[[T], Notes], items: Sequence[T]
    ) -> Iterator[tuple[T, Callable[[], Notes]]]:
        if self.pool is None:
            for item in items:
                yield item, partial(function, item)
            return
        running = {self.pool.submit(function, item): item for item in items}
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
    with ProcessPoolExecutor(jobs, spawn, _begin, (threads,)) as pool:
        try:
            yield _Workers(reporter, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the sweep is killed, so that the next one has the files to itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
