"""The accuracy of every class and group in every run of a sweep, as CSV and .parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ceag_cli.atomic import write_bytes
from ceag_cli.progress import Reporter
from ceag_cli.sheet import line
from ceag_cli.sweepfindings import UnitRow

COLUMNS = tuple(UnitRow.__dataclass_fields__)
NAME = "accuracy"


def as_csv(rows: Sequence[UnitRow]) -> str:
    """One line for each; fractions, and nothing where nothing is known.

    Names that a spreadsheet would take for formulas have a ``'`` before them, as in an audit's CSV.
    """
    cells = ([getattr(row, name) for name in COLUMNS] for row in rows)
    return "".join(map(line, (COLUMNS, *cells)))


def as_parquet(rows: Sequence[UnitRow]) -> bytes | None:
    """The same columns with names to the letter; ``None`` where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    kinds: dict[str, Any] = {"float": pyarrow.float64(), "int": pyarrow.int64()}
    schema = pyarrow.schema(
        [
            (name, kinds.get(str(field.type).split(" ")[0], pyarrow.string()))
            for name, field in UnitRow.__dataclass_fields__.items()
        ]
    )
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pydict(columns, schema=schema), file)
    return file.getvalue()


def write(folder: Path, rows: Sequence[UnitRow], reporter: Reporter) -> None:
    """Write both; say so where the second cannot be.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_bytes(folder / f"{NAME}.csv", as_csv(rows).encode("utf-8", "surrogatepass"))
    content = as_parquet(rows)
    target = folder / f"{NAME}.parquet"
    if content is not None:
        write_bytes(target, content)
        return
    target.unlink(missing_ok=True)  # of an earlier sweep, and no longer true
    reporter.say(
        f"{target}: is not written, since pyarrow is not installed (pip install 'ceag[parquet]'); "
        f"{NAME}.csv has the same"
    )
