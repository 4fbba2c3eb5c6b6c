"""``ceag exemplars``: images that populations of dense and of sparse models answer differently.

``modes`` has the definition, ``pies`` what is made of it. All of it describes; the audit decides.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ceag_cli.ballots import from_tables
from ceag_cli.declarations import no_effect
from ceag_cli.gallery import pictures_asked, shown
from ceag_cli.options import ExemplarsOptions
from ceag_cli.pieformats import render
from ceag_cli.pies import SCHEMA_VERSION, Exemplars, Picture, Pie, pies_document
from ceag_cli.populations import Populations, members_document, same_models
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.reportfiles import refuse_file, report_files, write_reports
from ceag_cli.tally import pies_in
from ceag_cli.versions import versions
from ceag_cli.voting import from_models

FOLDER = "exemplars.run"
STEM = "exemplars"


def exemplars(options: ExemplarsOptions, reporter: Reporter | None = None) -> Exemplars:
    """Find the images whose modal label differs between dense and sparse models.

    ``exemplars.json`` and ``exemplars.html`` are written to ``output``. The next audit into that
    folder shows what they say, if its two models are among these.

    Args:
        options: See ``ceag exemplars --help``.
        reporter: Hears how it goes.

    Raises:
        NotWritten: A report could not be written; the error carries what was found.
        CeagError: Something given cannot be used.
    """
    reporter = reporter or Quiet()
    for warning in no_effect(options, {"on exemplars": (True, ("resume", "overwrite"))}):
        reporter.warn(warning)
    folder = Path(FOLDER if options.output is None else options.output)
    refuse_file(folder, STEM)
    report_files(options.report, folder, stem=STEM)  # known before any model is run
    found = (from_tables if options.predictions else from_models)(options, reporter)
    for warning in same_models(found):
        reporter.warn(warning)
    files = report_files(options.report, folder, found.files, STEM)
    pies = pies_in(found, options.alpha, options.interval, options.seed)
    document = {
        "schema_version": SCHEMA_VERSION,
        "tool": "ceag",
        "version": version("ceag"),
        "command": "exemplars",
        "seed": options.seed,
        "versions": versions(),
        "models": members_document(found),
        "data": found.data,
        "exemplars": pies_document(pies),
    }
    most = pictures_asked(options.gallery)
    pictures = _pictures(pies.images[:most], found) if found.read is not None else ()
    page = folder / f"{STEM}.html"
    result = Exemplars(pies, found, document, page, version("ceag"), pictures)
    write_reports(result, files, render)
    return result


def _pictures(images: tuple[Pie, ...], found: Populations) -> tuple[Picture, ...]:
    read: Callable[[str], bytes] | None = found.read
    assert read is not None
    pairs = ((pie, shown(pie.id, read)) for pie in images)
    return tuple(Picture(pie, thumbnail) for pie, thumbnail in pairs if thumbnail is not None)
