"""``ceag audit``: the answers of two models are judged, and the reports written."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ceag_cli.answers import Answered, answers, pairs_of
from ceag_cli.audit import audit
from ceag_cli.distributed import World, speaking
from ceag_cli.documents import audit_document
from ceag_cli.explanations import explanation_document, kept_explanation
from ceag_cli.formats import render
from ceag_cli.gallery import gallery, pictures_asked
from ceag_cli.locks import claimed
from ceag_cli.options import AuditOptions
from ceag_cli.pies import kept_pies, pies_document
from ceag_cli.policy import policy_of
from ceag_cli.progress import Reporter
from ceag_cli.reportfiles import refuse_file, report_files, write_reports
from ceag_cli.results import Audit
from ceag_cli.shifts import answers_of, shifts
from ceag_cli.shifts import document as shift_document


def run_audit(options: AuditOptions, reporter: Reporter | None = None) -> Audit:
    """Compare a dense with a sparse model by group, on train and on the held-out splits.

    The verdict rests on split ``test``; ``train`` and ``val`` are described. The report is
    written to the run folder of the sparse model, or to ``output``, with the answers of both
    models, which the next audit takes in place of evaluating them.

    Args:
        options: See ``ceag audit --help``.
        reporter: Hears how it goes.

    Raises:
        NotWritten: A report could not be written; the error carries what was found.
        CeagError: Something given cannot be used.
    """
    reporter = speaking(reporter)
    given = None if options.output is None else Path(options.output)
    world = World.current()
    if given is not None:
        refuse_file(given)
    # What cannot be written is known before any model is run.
    world.on_first(partial(report_files, options.report, given))
    with ExitStack() as held:

        def claim(folder: Path) -> None:
            remedy = "wait for it, or name another folder with -o"
            one = claimed(folder / "audit.lock", remedy, reporter)
            world.on_first(lambda: held.enter_context(one))

        found = _audited(options, answers(options, reporter, claim), given, reporter)
        world.on_first(held.close)
        return found


def _audited(
    options: AuditOptions, answered: Answered, given: Path | None, reporter: Reporter
) -> Audit:
    """Judge answers, and write the reports."""
    world = World.current()
    table, subject, folder = answered.table, answered.subject, answered.folder
    files = world.on_first(partial(report_files, options.report, folder, subject.files))
    policy = policy_of(options, answered.eps)
    result = audit(
        pairs_of(table),
        table.grouping,
        policy,
        options.gate_splits,
        seed=options.seed,
        identical=subject.dense_sha256 is not None
        and subject.dense_sha256 == subject.sparse_sha256,
    )
    result = replace(result, warnings=(*subject.remarks, *result.warnings))
    if options.format != "text":  # which has them
        for warning in result.warnings:
            reporter.warn(warning)
    for note in policy.notes(date.today(), result.verdicts_by_group()):
        reporter.say(note)
    reporter.say(policy.origin_line())
    more = tuple(
        shifts(answers_of(table, split, options.control), policy.alpha, policy.interval)
        for split in table.splits
    )
    further = [shift_document(found) for found in more]
    why, reason = world.on_first(partial(kept_explanation, folder, subject))
    pies, other_reason = world.on_first(partial(kept_pies, folder, subject))
    for said in filter(None, (reason, other_reason)):
        reporter.say(said)
    document = audit_document(
        result,
        subject,
        version("ceag"),
        options.seed,
        further,
        None if why is None else explanation_document(why),
        None if pies is None else pies_document(pies),
    )
    most = pictures_asked(options.gallery)
    flips = gallery(result, table, answered.read, most) if answered.read else ()
    page = folder / "audit.html"
    found = Audit(result, subject, document, page, more, version("ceag"), flips, why, pies)
    world.on_first(partial(write_reports, found, files, render))
    return found
