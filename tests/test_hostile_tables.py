"""Groups CSVs and tables of answers made to do harm: refused or read, never an internal error."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ceag

from ceag_cli.errors import CeagError
from ceag_cli.labels import read_labels
from ceag_cli.npzfiles import write_npz
from ceag_cli.predictions import read_answers
from ceag_cli.sizes import read_sizes

HEADER = b"path,label,split,group\n"
ROW = b"a.png,cat,train,x\n"
TEST_ROW = b"a.png,cat,test,x\n"


pytestmark = pytest.mark.usefixtures("empty_folder")


def refusals(*arguments: str) -> list[str]:
    """The error lines of a command that has to refuse its input."""
    result = ceag(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert max(map(len, errors)) < 3000
    assert all(line.isprintable() for line in errors)
    return errors


# CSVs that are refused, with a part of what is said

CSVS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "l.csv: the file is empty"),
    "a header alone": (HEADER, "l.csv: the file has a header but no rows"),
    "UTF-16": ((HEADER + ROW).decode().encode("utf-16"), "l.csv row 1: byte 0xff is not UTF-8"),
    "UTF-16 without a mark": ((HEADER + ROW).decode().encode("utf-16-le"), "l.csv row 1: "),
    "UTF-32": ((HEADER + ROW).decode().encode("utf-32"), "l.csv row 1: byte 0xff is not UTF-8"),
    "latin-1": (HEADER + "é.png,cat,train,x\n".encode("latin-1"), "row 2: byte 0xe9 is not UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "l.csv: is an image (PNG)"),
    "zeros": (b"\0" * 5000, "l.csv row 1: "),
    "a quote not closed": (HEADER + b'"a.png,cat,train,x\n' + ROW, "row 2: cell 1 begins with"),
    "a quote within": (HEADER + b'a"b.png,cat,train,x\n', "row 2: cell 1"),
    "10 MB without a comma": (b"x" * 10_000_000, "l.csv row 1: "),
    "10 MB in a cell": (
        HEADER + b"a" * 10_000_000 + b",cat,train,x\n",
        "row 2: cannot be read: field",
    ),
    "10 MB in quotes": (HEADER + b'"' + b"a" * 10_000_000 + b",cat\n", "row 2: cell 1 begins with"),
    "10 MB after a quote": (
        HEADER + b'"a"' + b"b" * 10_000_000 + b",cat\n",
        "row 2: cell 1 goes on",
    ),
    "10 MB of commas": (b"," * 10_000_000, "has 10000001 columns; at most 4096 are read"),
    "100,000 columns of one name": (b"a," * 100_000 + b"a\n", "has 100001 columns"),
    "4,000 columns": (b"path,label,split," + b"g," * 4000 + b"h\n", "column given twice: g"),
    "too many cells": (HEADER + b"a.png,cat,train,x,y\n", "row 2: has 5 cells, the header has 4"),
    "a root": (HEADER + b"/etc/passwd,cat,train,x\n", "'/etc/passwd' lies outside the data folder"),
    "a parent": (HEADER + b"a/../../b.png,cat,train,x\n", "lies outside the data folder"),
    "a drive": (HEADER + b"C:\\a.png,cat,train,x\n", "lies outside the data folder"),
    "a share": (HEADER + b"\\\\host\\a.png,cat,train,x\n", "lies outside the data folder"),
    "a parent by backslash": (HEADER + b"..\\a.png,cat,train,x\n", "lies outside the data folder"),
    "a split in red": (
        HEADER + b"a.png,cat,\x1b[31mtrain,x\n",
        "split '\ufffd[31mtrain' is not one",
    ),
    "a column in red": (b"path,label,\x1b[31msplit,group\n" + ROW, "needs a column 'split'"),
    "a log command": (HEADER + b"a.png,cat,::error::x,x\n", "split '::error::x' is not one"),
    "a log command within": (
        HEADER + b"a.png,cat,##[error]x,x\n",
        "split '# #[error]x' is not one",
    ),
    "a vertical tab": (HEADER + b"a.png,cat,tr\x0bain,x\n", "split 'tr ain' is not one"),
    "a line separator": (HEADER + "a.png,cat,tr\u2028ain,x\n".encode(), "split 'tr ain'"),
    "an override": (HEADER + "a.png,cat,\u202eniart,x\n".encode(), "split '\ufffdniart'"),
}


@pytest.mark.parametrize(("content", "problem"), CSVS.values(), ids=CSVS.keys())
def test_a_csv_that_cannot_be_used_is_refused(content: bytes, problem: str) -> None:
    Path("l.csv").write_bytes(content)
    errors = refusals("groups", "l.csv")
    assert any(problem in line for line in errors), errors


READABLE: dict[str, bytes] = {
    "a BOM": b"\xef\xbb\xbf" + HEADER + TEST_ROW,
    "CRLF": (HEADER + TEST_ROW).replace(b"\n", b"\r\n"),
    "CR": (HEADER + TEST_ROW).replace(b"\n", b"\r"),
    "quotes": b'"path","label","split","group"\n"a,b.png","c""at","test","x"\n',
    "NUL in a name": HEADER + b"a.png,cat,test,x\0y\n",
    "formulas": HEADER + b"a.png,=1+1,test,=cmd|' /C calc'!A0\n",
    "markup": HEADER + b"a.png,[red]cat[/],test,<script>alert(1)</script>\n",
    "escapes": HEADER + b"a.png,cat,test,\x1b[31mred\x1b[0m\n",
    "overrides": HEADER + "a.png,cat,test,\u202ex\u2066y\n".encode(),
    "workflow commands": HEADER + b"a.png,cat,test,::error::x\n",
}


def shown(content: bytes, *more: str) -> str:
    """What is said of the groups of a CSV."""
    Path("l.csv").write_bytes(content)
    result = ceag("groups", "l.csv", *more)
    assert result.exit_code == 0, (result.output, result.exception)
    assert all(line.isprintable() for line in result.output.splitlines())
    assert not [line for line in result.output.splitlines() if line.startswith("::")]
    return result.stdout


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE.keys())
def test_names_are_shown_inert(content: bytes) -> None:
    Path("l.csv").write_bytes(content)
    sizes = read_sizes(Path("l.csv"))
    assert sizes.grouping.num_groups == 1
    assert sizes.total == {"test": 1}


def test_names_are_inert_in_a_plan() -> None:
    names = [row.splitlines()[1].rpartition(b",")[2].strip(b'"') for row in READABLE.values()]
    rows = [b"%d.png,cat,test,%b\n" % (i, name) for i, name in enumerate(dict.fromkeys(names))]
    content = HEADER + b"".join(rows)
    assert "::error::x" in shown(content)
    assert json.loads(shown(content, "--format", "json"))["features"][0]["groups"] == len(rows)


def test_many_labels_that_no_model_knows_take_no_time() -> None:
    """A comparison of each with each would take hours."""
    names = {f"class {i}": i for i in range(1000)}
    rows = [f"{i}.png,other {i},train,x" for i in range(20_000)]
    Path("l.csv").write_bytes(HEADER + "\n".join(rows).encode())
    labels = read_labels(Path("l.csv"))
    labels.check_labels(names, "m")
    with pytest.raises(CeagError) as caught:
        labels.raise_problems()
    assert len(caught.value.problems) == 51
    assert caught.value.problems[-1] == "l.csv: and 19950 more problems"


def test_a_class_of_100_000_letters_takes_no_time() -> None:
    Path("l.csv").write_bytes(HEADER + b"a.png," + b"ab" * 50_000 + b",train,x\n")
    labels = read_labels(Path("l.csv"))
    labels.check_labels({"ba" * 50_000: 0}, "m")
    (problem,) = labels.problems[2]
    assert "did you mean" not in problem


# Tables of answers

COLUMNS: dict[str, Any] = {
    "id": np.array(["a", "b"]),
    "label": np.array([0, 1]),
    "split": np.array(["test", "test"]),
    "dense": np.array([0, 1]),
    "sparse": np.array([0, 0]),
    "group": np.array(["x", "y"]),
}


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("owned", "w"))


def npz(**changes: Any) -> None:
    np.savez("p.npz", **(COLUMNS | changes))


def entries(**content: bytes) -> None:
    """An .npz whose arrays are any bytes."""
    with zipfile.ZipFile("p.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in COLUMNS.items():
            stream = io.BytesIO()
            np.save(stream, array)
            archive.writestr(f"{name}.npy", content.get(name, stream.getvalue()))


def npy(header: str, numbers: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + numbers


def half() -> None:
    npz()
    Path("p.npz").write_bytes(Path("p.npz").read_bytes()[:900])


def about(**changes: Any) -> None:
    known: dict[str, Any] = {"format": 1, "models": {}, "data": {}, "keys": {}}
    write_npz(Path("p.npz"), COLUMNS, known | changes)


NPZS: dict[str, tuple[Callable[[], Any], str]] = {
    "objects": (lambda: npz(group=np.array([{}, None])), "'group' holds Python objects"),
    "code": (lambda: npz(group=np.array([Malicious()] * 2)), "'group' holds Python objects"),
    "a pickle": (lambda: entries(group=pickle.dumps(Malicious())), "p.npz: is no whole .npz"),
    "no array": (lambda: entries(group=b"hello"), "p.npz: is no whole .npz"),
    "nothing": (lambda: entries(group=b""), "p.npz: is no whole .npz"),
    "a shape of 10^15": (
        lambda: entries(group=npy("{'descr': '<i8', 'fortran_order': False, 'shape': (10**15,)}")),
        "p.npz: ",
    ),
    "a shape that lies": (
        lambda: entries(
            group=npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}")
        ),
        "p.npz: ",
    ),
    "a negative shape": (
        lambda: entries(group=npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}")),
        "p.npz: ",
    ),
    "a header that is code": (lambda: entries(group=npy("__import__('os').getcwd()")), "p.npz: "),
    "a header that is nested": (lambda: entries(group=npy("[" * 110)), "p.npz: "),
    "two dimensions": (lambda: npz(group=np.zeros((2, 2), int)), "'group' has shape (2, 2)"),
    "other lengths": (lambda: npz(group=np.array(["x"])), "the arrays have different lengths"),
    "numbers with a fraction": (
        lambda: npz(label=np.array([0.5, 1.5])),
        "'label' is of type float",
    ),
    "dates": (lambda: npz(group=np.array(["2020-01-01"] * 2, "M8[D]")), "'group' is of type"),
    "records": (lambda: npz(group=np.zeros(2, [("a", "i4")])), "'group' is of type"),
    "half of a surrogate pair": (
        lambda: npz(group=np.array([0xD800, 0xD800], "<u4").view("<U1")),
        "'group' holds characters that no text has",
    ),
    "no character": (
        lambda: npz(group=np.array([0x110000, 65], "<u4").view("<U1")),
        "'group' holds characters that no text has",
    ),
    "names without a number": (
        lambda: npz(**{"group": np.array([0, 9]), "group/names": np.array(["x"])}),
        "'group' holds 0 to 9, and 'group/names' has 1 names",
    ),
    "names that are objects": (
        lambda: npz(**{"group": np.array([0, 1]), "group/names": np.array([{}, None])}),
        "holds Python objects",
    ),
    "a future format": (lambda: about(format=2), "written in format 2"),
    "a format in words": (lambda: about(format="1"), "written in format '1'"),
    "models in words": (lambda: about(models="x"), "its array 'about' is damaged"),
    "a path that is a list": (
        lambda: about(models={"dense": {"path": [1]}}),
        "its array 'about' is damaged",
    ),
    "an eps beyond 1": (lambda: about(eps=7), "its array 'about' is damaged"),
    "an eps in words": (lambda: about(eps="much"), "its array 'about' is damaged"),
    "data that is a list": (lambda: about(data=[1]), "its array 'about' is damaged"),
    "a data set without a name": (
        lambda: about(data={"dataset": {"root": "x"}}),
        "its array 'about' is damaged",
    ),
    "half of an archive": (
        half,
        "p.npz: is no whole .npz",
    ),
}


@pytest.mark.parametrize(("write", "problem"), NPZS.values(), ids=NPZS.keys())
def test_an_npz_that_lies_is_refused(write: Callable[[], Any], problem: str) -> None:
    write()
    errors = refusals("audit", "--predictions", "p.npz")
    assert any(problem in line for line in errors), errors
    assert sorted(path.name for path in Path().iterdir()) == ["p.npz"]


def test_an_npz_that_unfolds_is_refused_before_it_fills_the_memory() -> None:
    """Of 16 GB of zeros, packed into 16 MB, no more is read than the file may take."""
    with zipfile.ZipFile("p.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in COLUMNS.items():
            stream = io.BytesIO()
            np.save(stream, array)
            archive.writestr(f"{name}.npy", stream.getvalue())
        shape = 10**11
        archive.writestr(
            "more.npy", npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape},)}}")
        )
    (problem,) = refusals("audit", "--predictions", "p.npz")
    assert problem.startswith("error: p.npz: ")


def parquet(table: Any, **more: Any) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(table, "p.parquet", **more)


def arrow(**changes: Any) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.table({**{name: column.tolist() for name, column in COLUMNS.items()}, **changes})


def test_a_parquet_that_is_damaged_is_refused() -> None:
    parquet(arrow())
    whole = Path("p.parquet").read_bytes()
    for place in range(4, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        Path("p.parquet").write_bytes(bytes(damaged))
        result = ceag("audit", "--predictions", "p.parquet", "-o", "out/")
        assert result.exit_code in (0, 1, 2, 3), (place, result.output, result.exception)
    for content in (b"PAR1", b"PAR1PAR1", whole[:100], b"PAR1" + b"\xff" * 50 + b"PAR1"):
        Path("p.parquet").write_bytes(content)
        assert refusals("audit", "--predictions", "p.parquet")[0].startswith("error: p.parquet: ")


def test_text_of_a_parquet_that_is_none_is_refused() -> None:
    pa = pytest.importorskip("pyarrow")
    bad = pa.array([b"\xff\xfe", b"a"], pa.binary()).view(pa.string())
    for name in ("group", "id", "label"):
        parquet(arrow(**{name: bad}))
        assert refusals("audit", "--predictions", "p.parquet")[0].startswith("error: p.parquet: ")


def test_columns_of_a_parquet_of_other_types_are_refused() -> None:
    pa = pytest.importorskip("pyarrow")
    for column in ([[1], [2]], [{"a": 1}, {"a": 2}], pa.array([b"a", b"b"]), [0.5, 1.5]):
        parquet(arrow(group=column))
        assert "column 'group' is of type" in refusals("audit", "--predictions", "p.parquet")[0]


# Any bytes


def said_by(read: Callable[[], object]) -> str:
    """What is said of a file that cannot be used; ``--`` of one that can."""
    try:
        read()
    except CeagError as error:
        return str(error)
    return "--"


CELLS = st.sampled_from(
    [
        *("a.png", "cat", "train", "val", "test", "x", "", " ", '"', '""', '"a"', "\0", "\x1b[31m"),
        *("../a", "/a", "=1", "é", "\ud800", "1", "1.0", "nan", "0.5", "\r", "\n", ";", "\t"),
        *("<missing>", "\ufeff", "path", "label", "split", "id", "dense", "sparse"),
    ]
)
TABLE = st.lists(st.lists(CELLS, max_size=7).map(",".join), max_size=6).map("\n".join)
HEADERS = st.sampled_from(
    ["path,label,split,group\n", "id,label,split,dense,sparse,g\n", "\ufeff", ""]
)


@settings(max_examples=400, deadline=None)
@given(HEADERS, TABLE | st.text(max_size=40), st.binary(max_size=6))
def test_any_text_is_a_table_or_refused(header: str, text: str, more: bytes) -> None:
    content = (header + text).encode("utf-8", "surrogatepass") + more
    Path("l.csv").write_bytes(content)
    for read in (
        lambda: read_labels(Path("l.csv"), missing="group").raise_problems(),
        lambda: read_answers(Path("l.csv")),
    ):
        assert said_by(read).startswith(("l.csv", "--"))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_npz_is_a_table_or_refused(data: st.DataObject) -> None:
    stream = io.BytesIO()
    np.savez(stream, **COLUMNS)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    Path("p.npz").write_bytes(bytes(content[: data.draw(st.integers(4, len(content)))]))
    assert said_by(lambda: read_answers(Path("p.npz"))).startswith(("p.npz", "--"))
