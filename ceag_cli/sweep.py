"""Many runs from one recipe: approaches x sparsities x seeds, audited, and what follows from them.

A sweep is nothing but the four commands, called again and again with the options that the recipe
gives. Every run has its own files, so a sweep that was stopped continues where it was, and one
whose recipe has got another method only adds that. Dense models are trained once per seed and
pruned once per sparsity and criterion. What is said beyond the audits comes from the answers that
they have kept.

    OUT/seed-0/model.safetensors
    OUT/seed-0/sparsity-0.9/model.pruned.safetensors
    OUT/seed-0/sparsity-0.9/ceag.safetensors   with ceag.run/audit.json and predictions.npz
    OUT/seed-0/sparsity-0.9/CRITERION/...      where the recipe names criteria
    OUT/sweep.html, sweep.json                 everything below, for people and for programs
    OUT/results.csv, table.md, results.svg     a line for each run and split
    OUT/accuracy.csv, accuracy.parquet         a line for each class and group of them
    OUT/comparisons.csv, comparisons.md        with `compare`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ceag_cli import unittable
from ceag_cli.atomic import write_text
from ceag_cli.comparing import FOLDS
from ceag_cli.errors import InUse, SweepError
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
from ceag_cli.jsontext import as_json
from ceag_cli.locks import claimed
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.recommending import gated_of, policy_of_plan, recommend
from ceag_cli.scatter import as_svg
from ceag_cli.sweepanalysis import limits_of, points_of, regressions_of, unit_rows
from ceag_cli.sweepdocument import as_csv, as_document, comparisons_as_csv
from ceag_cli.sweepfindings import Row, Sweep
from ceag_cli.sweeppage import sweep_page
from ceag_cli.sweepreport import comparison_table, table
from ceag_cli.sweepruns import Work, carry_out


def run_sweep(
    recipe: Path,
    output: Path | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    collect: bool = False,
    reporter: Reporter | None = None,
) -> Sweep:
    """Carry out every run of a recipe that is not there yet, and collect all of them.

    Args:
        recipe: See ``recipes/benchmarks``.
        output: The folder to write; by default one with the recipe's name in the current folder.
        jobs: Runs at a time, each in a process of its own with its share of the cores. More than
            one needs a main module that can be imported (``if __name__ == "__main__"``).
        overwrite: Do again the runs whose options have changed, instead of refusing.
        collect: Carry out nothing; collect what is there, also while a sweep writes there.
        reporter: Hears how it goes.

    Raises:
        OptionError: The recipe cannot be used.
        InUse: Another sweep writes there.
        SweepError: Some runs failed. The others are done, and the table has them.
    """
    reporter = reporter or Quiet()
    plan = Plan.read(recipe)
    work = Work(plan, output or Path(plan.name), overwrite)
    with _alone(work, collect, reporter) as writing:
        failed = [] if collect else carry_out(work, jobs, reporter)
        found = _collected(work, reporter)
        if collect:
            for cell in work.unasked():
                reporter.warn(
                    f"{cell}: its audit is gone or was asked something else, so that it is left "
                    "out; without --collect it is asked anew"
                )
        if writing:
            _write(found, reporter)
    if failed:
        raise SweepError(failed)
    return found


@contextmanager
def _alone(work: Work, collect: bool, reporter: Reporter) -> Iterator[bool]:
    """Hold the folder of a sweep; ``False`` for who only looks while another sweep holds it."""
    remedy = "wait for it, see with --collect how far it is, or name another folder with -o"
    if collect:
        remedy = "what is there so far is shown, and no file is written"
    writing = True
    with ExitStack() as held:
        try:
            held.enter_context(claimed(work.folder / "sweep.lock", remedy, reporter))
        except InUse as error:
            if not collect:
                raise
            reporter.warn(str(error))
            writing = False
        yield writing


def _collected(work: Work, reporter: Reporter) -> Sweep:
    """All runs that are there, with what follows from their kept answers."""
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
    gated = gated_of(plan)
    return Sweep(
        plan=plan,
        rows=tuple(rows),
        folder=work.folder,
        comparisons=tuple(compared),
        units=tuple(row for each in images for row in unit_rows(plan, each, documents)),
        points=points_of(plan, rows, gated[0]),
        limits=limits_of(plan, policy_of_plan(plan), images, gated),
        regressions=tuple(
            fit for each in images if each.split in gated for fit in regressions_of(plan, each)
        ),
        recommendation=recommend(plan, images, rows),
        missing=len(plan.cells()) - len(documents),
    )


def _row(
    plan: Plan, cell: Cell, document: dict[str, Any], split: dict[str, Any], more: Measured
) -> Row:
    """One run on one split: what its audit found, and what its answers say besides."""
    return Row(
        task=plan.name,
        sparsity=cell.sparsity,
        criterion=plan.criterion_of(cell.approach),
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


def _write(found: Sweep, reporter: Reporter) -> None:
    folder = found.folder
    texts = {
        "results.csv": as_csv(found.rows),
        "table.md": "\n".join(table(found)) + "\n",
        "results.svg": as_svg(found),
        "sweep.json": as_json(as_document(found)) + "\n",
        "sweep.html": sweep_page(found),
    }
    if found.plan.compare:
        texts["comparisons.csv"] = comparisons_as_csv(found.comparisons)
        texts["comparisons.md"] = "\n".join(comparison_table(found)) + "\n"
    for name, text in texts.items():
        write_text(folder / name, text)
    unittable.write(folder, found.units, reporter)
