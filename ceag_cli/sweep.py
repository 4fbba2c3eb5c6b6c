"""Many runs from one recipe: methods x settings x sparsities x seeds, audited, in one table.

A sweep is nothing but the four commands, called again and again with the options that the recipe
gives. Every run has its own files, so a sweep that was stopped continues where it was, and one
whose recipe has got another method only adds that. Dense models are trained once per seed and
pruned once per sparsity.

    OUT/seed-0/model.safetensors
    OUT/seed-0/sparsity-0.9/model.pruned.safetensors
    OUT/seed-0/sparsity-0.9/ceag.safetensors   with ceag.run/audit.json
    OUT/results.csv, OUT/table.md
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from ceag_cli.checkpoints import write_text
from ceag_cli.errors import CeagError, OptionError, OutputError, SweepError, TrainingError
from ceag_cli.findings import SCHEMA_VERSION
from ceag_cli.lineage import sha256_of
from ceag_cli.options import AuditOptions, Command, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.recipe import checked, nearest, read_yaml
from ceag_cli.runs import AlreadyFinished, folder_of
from ceag_cli.stages import dense, mitigate, prune, run_audit

SECTIONS: dict[str, type[Command]] = {
    "dense": DenseOptions,
    "prune": PruneOptions,
    "mitigate": MitigateOptions,
}
SET_BY_THE_SWEEP = (
    *("seed", "output", "resume", "overwrite", "sparsity", "format", "strict", "dry_run"),
)


@dataclass(frozen=True)
class Plan:
    """What a sweep consists of."""

    name: str
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    dense: Mapping[str, Any]
    """Options of ``ceag dense``, the same for every seed."""
    prune: Mapping[str, Any]
    mitigate: Mapping[str, Any]
    """Options of ``ceag mitigate`` that all methods share."""
    methods: Mapping[str, Mapping[str, Any]]
    """Further options of ``ceag mitigate`` by the name that the table gives them."""

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the recipe of a sweep.

        Raises:
            OptionError: With every problem of the file.
        """
        content = read_yaml(path)
        problems: list[str] = []
        if content.pop("command", "sweep") != "sweep":
            problems.append(f"{path}: this recipe is not for 'ceag sweep'")
        keys = ("seeds", "sparsities", *SECTIONS, "methods")
        problems += [
            f"{path}: unknown key '{name}'{nearest(name, list(keys))}"
            for name in content
            if name not in keys
        ]
        seeds = _list(path, content, "seeds", int, "0, 1, 2", problems)
        sparsities = _list(path, content, "sparsities", float, "0.9, 0.95", problems)
        problems += [
            f"{path}: sparsities: {sparsity} must be at least 0 and less than 1"
            for sparsity in sparsities
            if not 0 <= sparsity < 1
        ]
        sections = {
            name: _options(path, content.get(name), name, name, problems) for name in SECTIONS
        }
        methods = content.get("methods")
        if not isinstance(methods, dict) or not methods:
            problems.append(f"{path}: needs 'methods', name: {{option: value}}")
            methods = {}
        named = {
            str(name): _options(path, given, "mitigate", f"methods, {name}", problems)
            for name, given in methods.items()
        }
        problems += [
            f"{path}: methods: '{name}' cannot be a file name"
            for name in named
            if Path(name).name != name or name in ("model", "model.pruned")
        ]
        if problems:
            raise OptionError(problems)
        return cls(path.stem, seeds, sparsities, methods=named, **sections)

    def cells(self) -> list[Cell]:
        """Every run of the plan."""
        return [
            Cell(seed, sparsity, method)
            for seed in self.seeds
            for sparsity in self.sparsities
            for method in self.methods
        ]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    seed: int
    sparsity: float
    method: str

    def __str__(self) -> str:
        return f"{self.method}, sparsity {self.sparsity:g}, seed {self.seed}"


@dataclass(frozen=True)
class Row:
    """One run on one split. Fractions."""

    task: str
    sparsity: float
    method: str
    seed: int
    split: str
    images: int
    acc_dense: float
    acc_sparse: float
    max_excess_gap: float
    worst_group: str
    pairwise_disparity: float
    eps: float


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    plan: Plan
    rows: tuple[Row, ...]
    folder: Path


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
    rows = tuple(row for cell in cells for row in work.rows(cell))
    found = Sweep(plan, rows, folder)
    write_text(folder / "results.csv", as_csv(rows))
    write_text(folder / "table.md", "\n".join(table(found)) + "\n")
    if failed:
        raise SweepError(failed)
    return found


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
        written = path / f"{cell.method}.safetensors"
        options = MitigateOptions(**given, seed=cell.seed, output=str(written))
        self._once(mitigate, options, notes)
        if self._audit(cell) is None:
            common = ("batch_size", "workers", "device")
            shared = {name: given[name] for name in common if name in given}
            run_audit(AuditOptions(checkpoint=str(written), **shared))
            notes.anything_new = True
        return notes

    def rows(self, cell: Cell) -> list[Row]:
        """What the audit of a run found, by split; nothing where there is none."""
        document = self._audit(cell)
        if document is None:
            return []
        return [
            Row(
                task=self.plan.name,
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
            )
            for split in document["splits"]
        ]

    def _audit(self, cell: Cell) -> dict[str, Any] | None:
        """The audit of the file that a run wrote; ``None`` when there is none of this very file."""
        written = self._at(cell.seed, cell.sparsity) / f"{cell.method}.safetensors"
        try:
            document: dict[str, Any] = json.loads((folder_of(written) / "audit.json").read_text())
            same = document["models"]["sparse"]["sha256"] == sha256_of(written)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return document if same else None

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


def as_csv(rows: Iterable[Row]) -> str:
    """Every run on every split, one line each; fractions."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def as_document(found: Sweep) -> dict[str, Any]:
    """The sweep as one JSON document; fractions."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": "ceag",
        "version": version("ceag"),
        "command": "sweep",
        "folder": str(found.folder),
        "rows": [asdict(row) for row in found.rows],
    }


def table(found: Sweep, splits: Sequence[str] = ("train", "test")) -> list[str]:
    """The sweep as a Markdown table: mean and standard deviation (n - 1) over seeds, in percent.

    ``held`` counts the seeds for which every psi is at most eps.
    """
    columns = ["sparsity", "method", "seeds"]
    for split in splits:
        columns += [f"{split}: accuracy", "max psi", "pairwise", "held"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for sparsity in found.plan.sparsities:
        for method in found.plan.methods:
            rows = [r for r in found.rows if (r.sparsity, r.method) == (sparsity, method)]
            if not rows:
                continue
            seeds = len({row.seed for row in rows})
            cells = [f"{100 * sparsity:g} %", method, str(seeds)]
            for split in splits:
                cells += _cells([row for row in rows if row.split == split])
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["", "", "", ""]
    held = sum(row.max_excess_gap <= row.eps for row in rows)
    return [
        _spread([row.acc_sparse for row in rows]),
        _spread([row.max_excess_gap for row in rows]),
        _spread([row.pairwise_disparity for row in rows]),
        f"{held} of {len(rows)}",
    ]


def _spread(fractions: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(fractions):z.1f}"
    if len(fractions) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(fractions):.1f}"


def _list(
    path: Path,
    content: Mapping[str, Any],
    name: str,
    kind: type,
    example: str,
    problems: list[str],
) -> tuple[Any, ...]:
    """A list of numbers in a recipe, each of them once."""
    values = content.get(name)
    values = values if isinstance(values, list) else [values]
    numeric = [isinstance(v, (int, kind)) and not isinstance(v, bool) for v in values]
    if not numeric or not all(numeric):
        problems.append(f"{path}: needs '{name}', a list of numbers, e.g. {name}: [{example}]")
        return ()
    numbers = tuple(kind(value) for value in values)
    if len(set(numbers)) < len(numbers):
        problems.append(f"{path}: {name}: a number is given twice")
    return numbers


def _options(
    path: Path, given: Any, command: str, place: str, problems: list[str]
) -> dict[str, Any]:
    """Options of a command in a section of a recipe."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        problems.append(f"{path}: section '{place}' must hold 'name: value' lines")
        return {}
    for name in SET_BY_THE_SWEEP:
        if name in given:
            problems.append(f"{path}, {place}: '{name}' is set by the sweep; leave it out")
    try:
        return checked(given, SECTIONS[command], f"{path}, {place}")
    except OptionError as error:
        problems += error.problems
        return {}
