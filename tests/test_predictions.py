import builtins
import csv
import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from toys import TINY, ceag, done, errors, folder_with

from ceag_cli import csvfiles
from ceag_cli import kept as keeping
from ceag_cli.answers import pairs_of
from ceag_cli.audit import audit
from ceag_cli.errors import LabelsError, OptionError
from ceag_cli.findings import AuditResult
from ceag_cli.npzfiles import FORMAT, read_npz, write_npz
from ceag_cli.policy import Policy
from ceag_cli.predictions import AnswerTable, as_arrays, read_answers
from ceag_cli.shifts import answers_of

# Two splits, two columns of groups. In test, x has 3 images (1 lost), y has 3 (1 gained, 1 that
# both get wrong, each in its own way).
PREDS = """\
id,label,split,race,gender,dense,sparse
a,cat,test,x,f,cat,cat
b,cat,test,x,m,cat,dog
c,dog,test,x,f,dog,dog
d,dog,test,y,m,cat,dog
e,cat,test,y,f,bird,dog
f,dog,test,y,m,dog,dog
g,cat,train,x,f,cat,cat
h,dog,train,y,m,cat,cat
"""


def read(folder: Path, content: str | bytes = PREDS, **options: Any) -> AnswerTable:
    path = folder / "p.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_answers(path, **options)


def refused(folder: Path, content: str | bytes, **options: Any) -> list[str]:
    """Messages of a CSV that cannot be used, without its path."""
    with pytest.raises(LabelsError) as caught:
        read(folder, content, **options)
    return [text.removeprefix(f"{folder / 'p.csv'}").lstrip(": ") for text in caught.value.problems]


def rows_of(text: str) -> dict[str, list[str]]:
    header, *rows = csv.reader(io.StringIO(text))
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def audited(table: AnswerTable) -> AuditResult:
    return audit(pairs_of(table), table.grouping, Policy())


def counts(result: AuditResult, split: str = "test") -> dict[str, tuple[int, int, int, int | None]]:
    return {
        f"{group.feature}={group.value}": (group.n, group.lost, group.gained, group.lateral)
        for group in result.groups
        if group.split == split
    }


BY_HAND = {
    "race=x": (3, 1, 0, 0),
    "race=y": (3, 0, 1, 1),
    "gender=f": (3, 0, 0, 1),
    "gender=m": (3, 1, 1, 0),
}


# What is read


def test_the_counts_are_those_made_by_hand(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert table.ids == tuple("abcdefgh")
    assert table.splits == ["train", "test"]
    assert table.classes == ("bird", "cat", "dog")
    assert table.grouping.features == ("race", "gender")
    assert table.grouping.values == (("x", "y"), ("f", "m"))
    assert table.only("train").groups.tolist() == [[0, 2], [1, 3]]
    assert table.correct("dense").tolist() == [True, True, True, False, False, True, True, False]
    assert table.changed.tolist() == [False, True, False, True, True, False, False, False]
    result = audited(table)
    assert counts(result) == BY_HAND
    assert counts(result, "train")["race=y"] == (1, 0, 0, 0)
    test = next(split for split in result.splits if split.split == "test")
    assert (test.n, test.lost, test.gained, test.lateral) == (6, 1, 1, 1)


def as_npz(path: Path, arrays: Mapping[str, Any]) -> Path:
    np.savez(path, **dict[str, Any](arrays))  # as anyone would write it
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "npz of text": lambda folder: as_npz(
        folder / "p.npz", {name: np.array(words) for name, words in rows_of(PREDS).items()}
    ),
    "npz of bytes": lambda folder: as_npz(
        folder / "p.npz",
        {name: np.array([w.encode() for w in words]) for name, words in rows_of(PREDS).items()},
    ),
    "npz of numbers with names": lambda folder: as_npz(
        folder / "p.npz",
        {name: np.array(words) for name, words in rows_of(PREDS).items()}
        | {"label": np.array([1, 1, 0, 0, 1, 0, 1, 0]), "label/names": np.array(["dog", "cat"])},
    ),
    "parquet": lambda folder: as_parquet(folder / "p.parquet", pyarrow.table(rows_of(PREDS))),
    "parquet of categories": lambda folder: as_parquet(
        folder / "p.parquet",
        pyarrow.table(
            {
                name: pyarrow.array(words).dictionary_encode()
                for name, words in rows_of(PREDS).items()
            }
        ),
    ),
    "a parquet under another name": lambda folder: as_parquet(
        folder / "p.data", pyarrow.table(rows_of(PREDS))
    ),
    "tsv": lambda folder: as_text(folder / "p.tsv", PREDS.replace(",", "\t")),
    "CRLF": lambda folder: as_text(folder / "p.csv", PREDS.replace("\n", "\r\n")),
    "BOM": lambda folder: as_text(folder / "p.csv", "\ufeff" + PREDS),
    "spaces": lambda folder: as_text(folder / "p.csv", PREDS.replace(",", " , ")),
    "blank lines": lambda folder: as_text(folder / "p.csv", PREDS.replace("\n", "\n\n")),
    "baseline and candidate": lambda folder: as_text(
        folder / "p.csv", PREDS.replace("dense,sparse", "baseline,candidate")
    ),
    "path in place of id": lambda folder: as_text(folder / "p.csv", PREDS.replace("id,", "path,")),
}


def as_parquet(path: Path, table: pyarrow.Table) -> Path:
    parquet.write_table(table, path)
    return path


def as_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_every_way_to_write_a_table_gives_the_same_counts(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    table = read_answers(write(tmp_path))
    assert table.ids == tuple("abcdefgh")
    assert counts(audited(table)) == BY_HAND


def test_a_table_larger_than_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csvfiles, "AT_ONCE", 3)
    assert counts(audited(read(tmp_path))) == BY_HAND


def test_whole_numbers_are_words(tmp_path: Path) -> None:
    words = rows_of(PREDS)
    number = {"cat": 2, "dog": 10, "bird": 3}
    for name in ("label", "dense", "sparse"):
        words[name] = [number[word] for word in words[name]]  # type: ignore[misc]
    for path in (
        as_npz(tmp_path / "p.npz", {name: np.array(column) for name, column in words.items()}),
        as_parquet(tmp_path / "p.parquet", pyarrow.table(words)),
    ):
        table = read_answers(path)
        assert table.classes == ("2", "3", "10")
        assert counts(audited(table)) == BY_HAND


def test_columns_of_groups_can_be_named_and_crossed(tmp_path: Path) -> None:
    assert read(tmp_path, groups_by="gender").grouping.names == (("gender", "f"), ("gender", "m"))
    table = read(tmp_path, groups_by="race*gender,race")
    assert table.grouping.features == ("race*gender", "race")
    assert table.grouping.values == (("x*f", "x*m", "y*f", "y*m"), ("x", "y"))
    assert table.groups[:3].tolist() == [[0, 4], [1, 4], [0, 4]]
    assert table.groups_by == "race*gender,race"
    by_class = read(tmp_path, groups_by="label")
    assert by_class.grouping.values == (("cat", "dog"),)


def test_another_column_can_hold_the_label(tmp_path: Path) -> None:
    table = read(tmp_path, PREDS.replace("label", "species"), label_column="species")
    assert counts(audited(table)) == BY_HAND


PROBABLE = """\
id,label,split,race,dense,sparse,dense_p,candidate_p_label
a,cat,test,x,cat,cat,0.5,1
b,cat,test,y,cat,dog,1e-3,0
"""


def test_probabilities_are_no_groups(tmp_path: Path) -> None:
    table = read(tmp_path, PROBABLE)
    assert table.grouping.features == ("race",)
    assert {name: values.tolist() for name, values in table.probabilities.items()} == {
        "dense_p": [0.5, 0.001],
        "sparse_p_label": [1.0, 0.0],
    }
    words: dict[str, Any] = rows_of(PROBABLE)
    for name in ("dense_p", "candidate_p_label"):
        words[name] = [float(word) for word in words[name]]
    for path in (
        as_npz(tmp_path / "p.npz", {name: np.array(column) for name, column in words.items()}),
        as_parquet(tmp_path / "p.parquet", pyarrow.table(words)),
    ):
        again = read_answers(path).probabilities
        assert again["sparse_p_label"].tolist() == [1.0, 0.0]


def test_answers_that_are_no_labels_are_legal_but_not_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(LabelsError) as error:
        read(tmp_path, PREDS.replace("cat\n", "1\n").replace("dog\n", "2\n"))
    assert error.value.problems == [
        f"{tmp_path / 'p.csv'}: no answer in column 'sparse' is a label of column 'label' anywhere "
        "(first: '1', where the label is 'cat'); are they names of the same classes?"
    ]


NUMBERED = """\
id,label,split,race,dense,sparse
a,1,test,x,1,1
b,1,test,x,1,2
c,2,test,y,2,3
"""


@pytest.mark.parametrize("spelling", ["1.0", "01", "+1", "1.", "1.00"])
def test_another_spelling_of_a_class_is_no_other_class(tmp_path: Path, spelling: str) -> None:
    """One answer matches, so that the others would be taken for mistakes."""
    text = NUMBERED.replace("b,1,test,x,1,2", f"b,1,test,x,{spelling},2")
    assert refused(tmp_path, text) == [
        f"row 3: '{spelling}' (column 'dense') and '1' (column 'label') would be two classes; "
        "write the same class in the same way"
    ]


def test_other_spellings_are_found_in_every_column(tmp_path: Path) -> None:
    """Among the labels the commonest is meant. 3 is no label, and all the same one class."""
    text = NUMBERED + "d,1.0,test,y,3.0,2\ne,3e0,test,y,3_0,cat\n"
    assert [problem.split(" would")[0] for problem in refused(tmp_path, text)] == [
        "row 4: '3' (column 'sparse') and '3.0' (column 'dense')",
        "row 5: '1.0' (column 'label') and '1' (column 'label')",
    ]


def test_a_class_in_two_forms_of_unicode_is_one(tmp_path: Path) -> None:
    text = PREDS.replace("test,x,f,cat", "test,x,f,caf\u00e9").replace("dog\n", "cafe\u0301\n")
    problems = refused(tmp_path, text)
    assert problems[0].startswith(
        "row 3: 'cafe\\u0301' (column 'sparse') and 'caf\\xe9' (column 'dense') would be two"
    )


# Columns of probabilities that no model gives. Row 3 is a mistake, the others are right.
AGREEING = """\
id,label,split,race,dense,sparse,dense_p,dense_p_label,sparse_p,sparse_p_label
a,cat,test,x,cat,cat,0.5,0.5,0.75,0.75
b,cat,test,x,dog,dog,0.5,0.5,0.6,0.25
c,dog,test,y,dog,dog,0.67,0.66,1,1
"""


def test_probabilities_may_differ_by_their_rounding(tmp_path: Path) -> None:
    assert len(read(tmp_path, AGREEING)) == 3
    rounded = AGREEING.replace("0.5,0.5,0.6,0.25", "0.51,0.5,0.5,0.51")
    assert len(read(tmp_path, rounded)) == 3


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "0.75,0.75",
            "0.75,0.5",
            "row 2: sparse_p is 0.75 and sparse_p_label 0.5, but the answer is the label",
        ),
        (
            "0.6,0.25",
            "0.25,0.6",
            "row 3: sparse_p is 0.25 and sparse_p_label 0.6, but an answer is the likeliest class; "
            "leave out both columns if a threshold decides",
        ),
        (
            "0.6,0.25",
            "0.8,0.4",
            "row 3: sparse_p is 0.8 and sparse_p_label 0.4, of two classes, and together more "
            "than 1",
        ),
        ("0.6,0.25", "0.6,nan", "row 3: nan is no probability from 0 to 1 (column "),
    ],
)
def test_probabilities_that_contradict_each_other_are_refused(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    (problem,) = refused(tmp_path, AGREEING.replace(right, wrong))
    assert problem.startswith(message)


@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(2, 6),
)
def test_probabilities_of_a_model_are_taken(logits: list[list[float]], digits: int) -> None:
    """Those of any softmax, rounded to two digits or more."""
    rows = ["z,0,test,x,0,0,1,1"]  # a model is right at least once
    for i, row in enumerate(logits):
        shares = np.exp(row) / np.exp(row).sum()
        answer = int(np.argmax(row))
        p, p_label = (round(float(x), digits) for x in (shares[answer], shares[i % 3]))
        rows.append(f"{i},{i % 3},test,x,{answer},{i % 3},{p},{p_label}")
    header = "id,label,split,race,dense,sparse,dense_p,dense_p_label"
    with tempfile.TemporaryDirectory() as folder:
        assert len(read(Path(folder), "\n".join([header, *rows]), groups_by="race")) == len(rows)


# What is refused


WRONG: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["the file is empty; it needs a header and rows"]),
    "no rows": ("id,label,split,race,dense,sparse\n", ["the file has a header but no rows"]),
    "header": (
        "x,target,splits,race,dens,sparse\n",
        [
            "row 1: needs a column 'id' that names each image "
            "(columns: x, target, splits, race, dens, sparse)",
            "row 1: needs a column 'split' with train, val, test in its rows; did you mean "
            "'splits'?",
            "row 1: there is no label column 'label'; name one with --label-column "
            "(columns: x, target, splits, race, dens, sparse)",
            "row 1: needs a column 'dense' (or 'baseline') with the answers of that model; did "
            "you mean 'dens'? (columns: x, target, splits, race, dens, sparse)",
        ],
    ),
    "twice": (
        "id,label,split,race,race,dense,baseline,sparse\n",
        [
            "row 1: column given twice: race",
            "row 1: columns 'dense' and 'baseline' mean the same",
        ],
    ),
    "no groups": (
        "id,label,split,dense,sparse\na,cat,test,cat,cat\n",
        [
            "row 1: no column is left to make groups of; name one with --groups-by "
            "('--groups-by label' takes the class as the group)"
        ],
    ),
    "cells": (
        "id,label,split,race,dense,sparse\n"
        "a,cat,test,x,cat,cat\n"
        "\n"
        "a,,tset,,,\n"
        ",cat,test,x,cat,cat\n"
        "b,cat,test,x,cat\n"
        'c,cat,test,"x,y",cat,cat\n'
        "a,cat,test,x,cat,cat\n",
        [
            "row 4: id 'a' was given in row 2 already",
            "row 4: the label is empty (column 'label')",
            "row 4: the answer is empty (column 'dense')",
            "row 4: the answer is empty (column 'sparse')",
            "row 4: split 'tset' is not one of train, val, test",
            "row 4: the group is empty (column 'race')",
            "row 5: the id is empty",
            "row 6: has 5 cells, the header has 6",
            "row 8: id 'a' was given in row 2 already",
        ],
    ),
    "a cell without an end": (
        "id,label,split,race,dense,sparse\n"
        "a,cat,test,x,cat,cat\n"
        f"b,cat,test,x,cat,{'c' * 200_000}\n"
        "c,cat,test,x,cat,\n",
        [
            "row 3: cannot be read: field larger than field limit (131072)",
            "row 4: the answer is empty (column 'sparse')",
        ],
    ),
    "probabilities": (
        "id,label,split,race,dense,sparse,dense_p\n"
        "a,cat,test,x,cat,cat,nan\n"
        "b,cat,test,x,cat,cat,1.5\n"
        "c,cat,test,x,cat,cat,half\n"
        "d,cat,test,x,cat,cat,\n"
        "e,cat,test,x,cat,cat,-0\n",
        [
            "row 2: nan is no probability from 0 to 1 (column 'dense_p')",
            "row 3: 1.5 is no probability from 0 to 1 (column 'dense_p')",
            "row 4: 'half' is not a number (column 'dense_p')",
            "row 5: '' is not a number (column 'dense_p')",
        ],
    ),
}


@pytest.mark.parametrize(("content", "messages"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, content: str, messages: list[str]
) -> None:
    assert refused(tmp_path, content) == messages


def test_many_problems_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{i},cat,somewhere,x,cat,\n" for i in range(100))
    found = refused(tmp_path, "id,label,split,race,dense,sparse\n" + rows)
    assert len(found) == 51
    assert found[0] == "row 2: the answer is empty (column 'sparse')"
    assert found[1] == "row 2: split 'somewhere' is not one of train, val, test"
    assert found[-1] == "and 150 more problems"


def test_a_column_with_a_value_for_each_row_makes_no_groups(tmp_path: Path) -> None:
    rows = "".join(f"{i},cat,test,x{i % 2},{i}.5,cat,cat\n" for i in range(40))
    content = "id,label,split,race,age,dense,sparse\n" + rows
    assert refused(tmp_path, content) == [
        "column 'age' has 40 different values in 40 rows, so it makes no groups; name the columns "
        "that do with --groups-by"
    ]
    assert read(tmp_path, content, groups_by="race").grouping.num_groups == 2


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, b"id,label\n\xff\xfe,x\n") == [
        "row 2: byte 0xff is not UTF-8; save the file as UTF-8"
    ]
    with pytest.raises(LabelsError, match=r"gone\.csv: there is no such file"):
        read_answers(tmp_path / "gone.csv")
    with pytest.raises(LabelsError, match="is a folder"):
        read_answers(tmp_path)
    for start in (b"PK\x03\x04", b"PAR1"):
        (tmp_path / "cut").write_bytes(start + b"and no more")
        with pytest.raises(LabelsError, match=r"cut: is no whole \."):
            read_answers(tmp_path / "cut")


NPZ_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "objects": (
        {"label": np.array(["cat", None], object)},
        "holds Python objects, which are never",
    ),
    "lengths": ({"label": np.array(["cat"])}, "the arrays have different lengths: id 2, "),
    "shape": ({"label": np.array([["cat"], ["dog"]])}, r"'label' has shape \(2, 1\)"),
    "fractions": ({"label": np.array([1.0, 2.0])}, "'label' is of type float64; wanted is text"),
    "no numbers": ({"dense_p": np.array(["1", "0"])}, "'dense_p' is of type <U1; wanted are numb"),
    "beyond the names": (
        {"label": np.array([0, 2]), "label/names": np.array(["cat", "dog"])},
        "'label' holds 0 to 2, and 'label/names' has 2 names",
    ),
    "words with names": (
        {"label/names": np.array(["cat", "dog"])},
        "'label' should hold whole numbers, since 'label/names' names them",
    ),
}
TWO = {
    "id": "ab",
    "label": "cd",
    "split": ["test"] * 2,
    "race": "xy",
    "dense": "cc",
    "sparse": "cd",
}


@pytest.mark.parametrize(("changes", "message"), NPZ_WRONG.values(), ids=NPZ_WRONG.keys())
def test_arrays_that_are_no_columns(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {name: np.array(list(words)) for name, words in TWO.items()}
    with pytest.raises(LabelsError, match=message):
        read_answers(as_npz(tmp_path / "p.npz", arrays | changes))


def test_fractions_are_no_words_in_parquet_either(tmp_path: Path) -> None:
    table = pyarrow.table({**{k: list(v) for k, v in TWO.items()}, "label": [1.0, None]})
    with pytest.raises(LabelsError, match="column 'label' is of type double; wanted is text or"):
        read_answers(as_parquet(tmp_path / "p.parquet", table))


def test_a_null_of_a_parquet_is_an_empty_cell(tmp_path: Path) -> None:
    table = pyarrow.table({**{k: list(v) for k, v in TWO.items()}, "race": ["x", None]})
    path = as_parquet(tmp_path / "p.parquet", table)
    with pytest.raises(LabelsError, match=r"row 2: the group is empty \(column 'race'\)"):
        read_answers(path)
    assert read_answers(path, missing="group").grouping.values == (("<missing>", "x"),)


def test_without_pyarrow_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = WRITERS["parquet"](tmp_path)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OptionError, match=r"needs pyarrow: pip install 'ceag\[parquet\]'"):
        read_answers(path)


# Images without a group, and images that belong together


GAPS = """\
id,label,split,race,gender,person,dense,sparse
a,cat,test,x,f,1,cat,cat
b,cat,test,nan,f,1,cat,dog
c,cat,test,,m,2,cat,dog
d,cat,test,y,,3,cat,cat
"""


def test_an_image_without_a_group_is_an_error_by_default(tmp_path: Path) -> None:
    by = "race,gender"
    assert refused(tmp_path, GAPS, groups_by=by) == [
        "row 4: the group is empty (column 'race')",
        "row 5: the group is empty (column 'gender')",
    ]
    assert refused(tmp_path, GAPS, groups_by="gender") == [
        "row 5: the group is empty (column 'gender')"
    ]


def test_images_without_a_group_can_be_one(tmp_path: Path) -> None:
    table = read(tmp_path, GAPS, groups_by="race,gender", missing="group")
    assert table.grouping.values == (("<missing>", "nan", "x", "y"), ("<missing>", "f", "m"))
    assert (len(table), table.dropped) == (4, 0)
    crossed = read(tmp_path, GAPS, groups_by="race*gender", missing="group")
    assert crossed.grouping.values == (("<missing>*m", "nan*f", "x*f", "y*<missing>"),)
    (message,) = refused(tmp_path, GAPS.replace("nan", "<missing>"), missing="group")
    assert message.startswith("row 3: the group '<missing>' (column 'race') has the name that")


def test_images_without_a_group_can_be_left_out_everywhere(tmp_path: Path) -> None:
    table = read(tmp_path, GAPS, groups_by="race,gender", missing="drop")
    assert table.ids == ("a", "b")
    assert table.dropped == 2
    assert table.grouping.values == (("nan", "x"), ("f",))
    (test,) = audited(table).splits
    assert (test.n, test.lost) == (2, 1)
    rows = "id,label,split,race,dense,sparse\na,cat,test,,cat,cat\n"
    assert refused(tmp_path, rows, missing="drop") == [
        "no row has a group, so none is left (--missing drop)"
    ]
    # What else is wrong with such a row is wrong all the same.
    assert refused(tmp_path, rows.replace("test", "tset"), missing="drop")[0].startswith("row 2")


def test_a_cluster_is_no_group(tmp_path: Path) -> None:
    table = read(tmp_path, GAPS, missing="group", cluster_id="person")
    assert table.grouping.features == ("race", "gender")
    assert table.clusters is not None
    assert table.clusters.tolist() == [0, 0, 1, 2]
    (pair,) = pairs_of(table)
    assert pair.clusters is not None
    assert pair.clusters.tolist() == [0, 0, 1, 2]
    assert refused(tmp_path, GAPS, cluster_id="persons", missing="group") == [
        "row 1: --cluster-id names 'persons', which is not a column; did you mean 'person'? "
        "(columns: id, label, split, race, gender, person, dense, sparse)"
    ]
    (message,) = refused(tmp_path, GAPS, cluster_id="race", groups_by="race")
    assert "is both in --groups-by and --cluster-id" in message
    assert refused(tmp_path, GAPS.replace(",2,", ",,"), cluster_id="person", missing="group") == [
        "row 4: the cluster is empty (column 'person')"
    ]


# The file that is kept


def kept(table: AnswerTable, path: Path, **data: Any) -> Path:
    by = {
        "groups_by": table.groups_by,
        "missing": table.missing,
        "cluster_id": table.cluster_id,
    }
    write_npz(path, as_arrays(table), {"format": FORMAT, "data": by | data})
    return path


@pytest.mark.parametrize("groups_by", ["race,gender", "race*gender", "race"])
def test_what_is_kept_is_read_back(tmp_path: Path, groups_by: str) -> None:
    table = read(tmp_path, GAPS, groups_by=groups_by, missing="group", cluster_id="person")
    again = read_answers(kept(table, tmp_path / "k.npz"))
    for name in ("ids", "grouping", "groups_by", "missing", "cluster_id"):
        assert getattr(again, name) == getattr(table, name)
    for name in ("split", "groups", "clusters"):
        assert np.array_equal(getattr(again, name), getattr(table, name))
    for name in ("dense", "sparse"):
        assert np.array_equal(again.correct(name), table.correct(name))
    assert np.array_equal(again.changed, table.changed)
    # It can be grouped in another way by the columns that it has.
    assert read_answers(tmp_path / "k.npz", groups_by="race").grouping.features == ("race",)


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    table = read(tmp_path)
    first = kept(table, tmp_path / "1.npz").read_bytes()
    time.sleep(2.1)  # the clock of a .zip has steps of two seconds
    assert kept(table, tmp_path / "2.npz").read_bytes() == first


def test_anyone_can_read_the_layout(tmp_path: Path) -> None:
    with np.load(kept(read(tmp_path), tmp_path / "k.npz"), allow_pickle=False) as archive:
        assert sorted(archive.files) == [
            *("about", "dense", "dense/names", "gender", "gender/names", "id", "label"),
            *("label/names", "race", "race/names", "sparse", "sparse/names", "split"),
            "split/names",
        ]
        assert archive["id"].tolist() == [name.encode() for name in "abcdefgh"]
        assert archive["label"].dtype == np.uint8
        names = archive["label/names"]
        assert names[archive["label"]].tolist()[:3] == [b"cat", b"cat", b"dog"]
        assert json.loads(str(archive["about"]))["format"] == 1


def test_a_group_column_may_be_called_as_a_column_of_the_file(tmp_path: Path) -> None:
    table = read(tmp_path, groups_by="race")
    cells = {"id": table.cells["race"]}
    table = replace(table, cells=cells, groups_by="id")
    again = read_answers(kept(table, tmp_path / "k.npz"))
    assert again.ids == table.ids
    assert again.grouping.names == (("id", "x"), ("id", "y"))


def test_a_small_probability_keeps_a_logarithm(tmp_path: Path) -> None:
    again = read_answers(kept(read(tmp_path, PROBABLE), tmp_path / "k.npz"))
    assert np.isfinite(np.log(again.probabilities["sparse_p_label"])).all()


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(read(tmp_path), tmp_path / "k.npz")
    before = path.read_bytes()
    real = np.lib.format.write_array
    calls: list[str] = []

    def killed(*arguments: Any, **more: Any) -> None:
        calls.append("")
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*arguments, **more)

    monkeypatch.setattr(np.lib.format, "write_array", killed)
    with pytest.raises(KeyboardInterrupt):
        kept(read(tmp_path, PREDS.replace("cat", "cow")), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k.npz", "p.csv"]


def test_another_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    arrays = as_arrays(read(tmp_path))
    write_npz(tmp_path / "k.npz", arrays, {"format": 0})
    with pytest.raises(LabelsError, match="written in format 0, this version of ceag reads format"):
        read_answers(tmp_path / "k.npz")
    as_npz(tmp_path / "k.npz", {**arrays, "about": np.array("no JSON")})
    with pytest.raises(LabelsError, match="its array 'about' is damaged"):
        read_answers(tmp_path / "k.npz")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = kept(read(tmp_path), tmp_path / "k.npz")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("dense.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 80] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(LabelsError, match=r"is no whole \.npz"):
        read_answers(path)


# The command


def test_a_table_alone_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("preds.csv").write_text(PREDS)
    result = ceag("audit", "--predictions", "preds.csv", "--gate", "point", "--format", "json")
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    found = {
        group["value"]: (group["n"], group["lost"], group["gained"])
        for group in document["groups"]
        if group["split"] == "test"
    }
    assert found["x"] == (3, 1, 0)
    assert document["models"]["dense"] == {"path": "column 'dense'", "sha256": None}
    assert document["data"]["predictions"] == "preds.csv"
    assert sorted(p.name for p in Path("preds.run").iterdir()) == ["audit.html", "audit.json"]
    assert "8 images in preds.csv, 4 groups by race,gender" in result.stderr.splitlines()
    assert "preds.csv" in Path("preds.run/audit.html").read_text()


def test_a_recipe_can_name_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("preds.csv").write_text(PREDS)
    Path("r.yaml").write_text("command: audit\npredictions: preds.csv\neps: 1\ngate: point\n")
    done("audit", "--config", "r.yaml", "-o", "out")
    assert Path("out/audit.json").is_file()


def test_dropped_rows_and_clusters_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("preds.csv").write_text(GAPS)
    result = ceag(
        *("audit", "--predictions", "preds.csv", "--groups-by", "race", "--missing", "drop"),
        *("--cluster-id", "person"),
    )
    assert (
        "1 row without a group is left out of preds.csv, from the groups and from the whole "
        "(--missing drop)"
    ) in result.stderr.splitlines()
    assert "they are approximate, since images that belong together count as fewer" in result.stdout
    document = json.loads(Path("preds.run/audit.json").read_text())
    data = document["data"]
    assert (data["missing"], data["dropped"], data["cluster_id"]) == ("drop", 1, "person")


def test_what_means_nothing_with_a_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("preds.csv").write_text(PREDS)
    table = ("audit", "--predictions", "preds.csv")
    assert errors(*table, "m.safetensors", "--dense", "d.safetensors", "--amp") == [
        "--predictions preds.csv: holds the answers already, so --amp, FILE, --dense would have no "
        "effect; leave out one or the other"
    ]
    assert errors(*table, "--gate-splits", "val") == ["preds.csv: no row has split 'val'"]
    assert "the models were trained on it" in errors(*table, "--gate-splits", "train")[0]
    assert errors("audit", "--predictions", "gone.csv") == ["gone.csv: there is no such file"]
    assert errors("audit", "a", "--candidate", "b")[0].startswith("FILE a and --candidate b both")


def test_a_project_file_may_be_about_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine evaluates by it, another one judges by it."""
    monkeypatch.chdir(tmp_path)
    Path("preds.csv").write_text(PREDS)
    Path("ceag.yaml").write_text(
        "audit: {checkpoint: m.safetensors, groups: labels.csv, gate: point, eps: 1}\n"
    )
    done("audit", "--predictions", "preds.csv")


# Two models, whose answers are kept


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prune = ("prune", "model.safetensors", "--recalibrate", "0", "--sparsity")
    return folder_with(
        tmp_path_factory,
        ("dense", "--groups", "labels.csv", *TINY, "--epochs", "2"),
        (*prune, "0.7"),
        (*prune, "0.5", "-o", "b.safetensors"),
    )


AUDIT = ("audit", "model.pruned.safetensors", "--eps", "1")


def document_of(*arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(done(*arguments, "--format", "json").stdout)
    return document


def test_a_second_audit_evaluates_nothing(here: Path, evaluated: list[list[str]]) -> None:
    first = document_of(*AUDIT)
    assert evaluated == [["dense", "sparse"]]
    before = Path("model.pruned.run/predictions.npz").read_bytes()
    result = done(*AUDIT, "--format", "json")
    assert evaluated == [["dense", "sparse"]]
    assert json.loads(result.stdout) == first
    assert Path("model.pruned.run/predictions.npz").read_bytes() == before
    assert (
        "answers taken from model.run/answers.npz (dense) and model.pruned.run/predictions.npz "
        "(sparse): nothing that they depend on has changed; --reevaluate computes them anew"
    ) in result.stderr.splitlines()
    # Nor does what is only asked of the answers, or how they are computed.
    done(*AUDIT, "--gate", "point", "--alpha", "0.1")
    done(*AUDIT, "--groups-by", "label")
    done(*AUDIT, "--batch-size", "5", "--workers", "1")
    assert evaluated == [["dense", "sparse"]]
    done(*AUDIT, "--reevaluate")
    assert evaluated == [["dense", "sparse"]] * 2


def test_the_dense_model_is_not_evaluated_for_another_sparse_one(
    here: Path, evaluated: list[list[str]]
) -> None:
    done(*AUDIT)
    done("audit", "--candidate", "b.safetensors", "--baseline", "model.safetensors", "--eps", "1")
    assert evaluated == [["dense", "sparse"], ["sparse"]]
    shutil.rmtree("b.run")
    together = document_of("audit", "b.safetensors", "--eps", "1", "--reevaluate")
    shutil.rmtree("b.run")
    assert document_of("audit", "b.safetensors", "--eps", "1")["groups"] == together["groups"]


def _other_image() -> None:
    shutil.copy("images/30.png", "images/33.png")


def _same_size_image() -> None:
    content = bytearray(Path("images/33.png").read_bytes())
    time.sleep(0.02)
    Path("images/33.png").write_bytes(content)


def _other_label() -> None:
    lines = Path("labels.csv").read_text().splitlines(keepends=True)
    lines[-1] = lines[-1].replace("red", "blue")
    Path("labels.csv").write_text("".join(lines))


def _other_model() -> None:
    shutil.copy("b.safetensors", "model.pruned.safetensors")


CHANGES: dict[str, tuple[Callable[[], None], Sequence[str], list[str], str]] = {
    "an image": (_other_image, (), ["dense", "sparse"], "images"),
    "when an image was written": (_same_size_image, (), ["dense", "sparse"], "images"),
    "a row": (_other_label, ("--groups", "labels.csv"), ["dense", "sparse"], "rows"),
    "the sparse model": (_other_model, (), ["sparse"], "model"),
    "amp": (lambda: None, ("--amp",), ["dense", "sparse"], "amp"),
    "the preprocessing": (
        lambda: None,
        ("--mean", "0.4,0.4,0.4"),
        ["dense", "sparse"],
        "architecture and preprocessing",
    ),
}


@pytest.mark.parametrize(("change", "flags", "again", "what"), CHANGES.values(), ids=CHANGES.keys())
def test_answers_go_when_what_they_depend_on_changes(
    here: Path,
    evaluated: list[list[str]],
    change: Callable[[], None],
    flags: Sequence[str],
    again: list[str],
    what: str,
) -> None:
    done(*AUDIT)
    change()
    result = ceag(*AUDIT, *flags)
    assert result.exit_code in (0, 1, 3), result.output
    assert evaluated[1:] == [again]
    assert f"was made with other {what}; the {again[-1]} model is evaluated anew" in result.stderr


def test_another_version_evaluates_anew(
    here: Path, evaluated: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done(*AUDIT)
    monkeypatch.setattr(keeping, "version", lambda name: "99")
    assert "was made with other versions" in done(*AUDIT).stderr
    assert evaluated == [["dense", "sparse"]] * 2


def test_a_column_of_groups_may_change(here: Path, evaluated: list[list[str]]) -> None:
    """The answers do not depend on it; the groups are read anew."""
    done(*AUDIT)
    text = Path("labels.csv").read_text().replace("odd", "strange")
    Path("labels.csv").write_text(text)
    document = document_of(*AUDIT, "--groups", "labels.csv")
    assert evaluated == [["dense", "sparse"]]
    assert {group["value"] for group in document["groups"]} == {"even", "strange"}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and no more"], ids=["empty", "cut"])
def test_a_damaged_file_is_written_anew(
    here: Path, evaluated: list[list[str]], damage: bytes
) -> None:
    done(*AUDIT)
    whole = Path("model.run/answers.npz").read_bytes()
    for path in ("model.run/answers.npz", "model.pruned.run/predictions.npz"):
        Path(path).write_bytes(damage)
    done(*AUDIT)
    assert evaluated == [["dense", "sparse"]] * 2
    assert Path("model.run/answers.npz").read_bytes() == whole


@pytest.mark.parametrize(
    "forge",
    [
        lambda arrays: {name: values[:5] for name, values in arrays.items()},
        lambda arrays: arrays | {"sparse": arrays["sparse"].astype(np.int64) + 10**6},
        lambda arrays: arrays | {"sparse_p": np.zeros((len(arrays["id"]), 2))},
    ],
    ids=["of fewer images", "of classes that there are not", "of another shape"],
)
def test_answers_that_are_not_the_models_are_computed_anew(
    here: Path, evaluated: list[list[str]], forge: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Under the key of the model."""
    first = document_of(*AUDIT)
    path = Path("model.pruned.run/predictions.npz")
    arrays, about = read_npz(path)
    write_npz(path, forge(arrays), about or {})
    result = done(*AUDIT, "--format", "json")
    assert f"{path}: holds no answers of the sparse model; the sparse model is" in result.stderr
    assert evaluated == [["dense", "sparse"], ["sparse"]]
    assert json.loads(result.stdout) == first


def test_a_file_of_another_format_is_written_anew(here: Path, evaluated: list[list[str]]) -> None:
    done(*AUDIT)
    for path in (Path("model.run/answers.npz"), Path("model.pruned.run/predictions.npz")):
        arrays, about = read_npz(path)
        write_npz(path, arrays, {**(about or {}), "format": 0})
    assert "written in format 0" in done(*AUDIT).stderr
    assert evaluated == [["dense", "sparse"]] * 2


def test_models_may_lie_where_nothing_can_be_written(
    here: Path, evaluated: list[list[str]]
) -> None:
    shutil.rmtree("model.run")
    Path("model.run").write_text("in the way of the folder")
    result = done(*AUDIT)
    assert "the dense model's answers are kept with the report only" in result.stderr
    done(*AUDIT)
    assert evaluated == [["dense", "sparse"]]


def test_nothing_is_evaluated_for_a_folder_that_cannot_be_written(
    here: Path, evaluated: list[list[str]]
) -> None:
    shutil.rmtree("model.pruned.run")
    Path("model.pruned.run").write_text("in the way of the folder")
    result = ceag(*AUDIT)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: model.pruned.run/predictions.npz: cannot be written: model.pruned.run is "
        "not a folder; name another folder with -o"
    )
    assert ceag(*AUDIT, "-o", "/proc/new").exit_code == 2
    assert evaluated == []


@pytest.mark.parametrize("groups_by", ["group", "label", "group*label"])
def test_the_file_gives_the_verdict_that_the_models_give(here: Path, groups_by: str) -> None:
    """One machine evaluates, another one judges, without models, images or CSV."""
    flags = ("--groups-by", groups_by)
    models = ceag("audit", "model.pruned.safetensors", *flags, "--format", "json")
    shutil.copytree("model.pruned.run", "../away")
    os.chdir("../away")
    result = ceag("audit", "--predictions", "predictions.npz", "--format", "json")
    assert result.exit_code == models.exit_code
    first, second = json.loads(models.stdout), json.loads(result.stdout)
    for part in ("overall", "splits", "groups", "models", "inference"):
        assert second[part] == first[part]
    for name in ("groups_file", "groups_file_sha256", "label_column", "groups_by", "missing"):
        assert second["data"][name] == first["data"][name]
    said = result.stderr.splitlines()
    digest = first["models"]["dense"]["sha256"][:12]
    assert f"dense model model.safetensors (sha256 {digest}…)" in said
    digest = first["data"]["groups_file_sha256"][:12]
    assert f"groups from labels.csv (sha256 {digest}…)" in said
    assert Path("audit.json").is_file()  # beside the file, as with the models


def test_a_csv_with_empty_groups_is_audited_in_both_ways(here: Path) -> None:
    rows = Path("labels.csv").read_text().replace("odd", "")
    Path("gaps.csv").write_text(rows)
    common = ("audit", "model.pruned.safetensors", "--groups", "gaps.csv", "--eps", "1")
    assert len(errors(*common)) == 18
    found = document_of(*common, "--missing", "group")
    assert {group["value"] for group in found["groups"]} == {"even", "<missing>"}
    again = document_of("audit", "--predictions", "model.pruned.run/predictions.npz", "--eps", "1")
    assert again["groups"] == found["groups"]
    result = ceag(*common, "--missing", "drop", "--format", "json")
    found = json.loads(result.stdout)
    assert {split["split"]: split["n"] for split in found["splits"]} == {"train": 12, "test": 6}
    assert found["data"]["dropped"] == 18
    assert "18 rows without a group are left out of gaps.csv" in result.stderr


def test_several_images_of_one_person(here: Path) -> None:
    lines = Path("labels.csv").read_text().splitlines()
    rows = [f"{line},{i // 3}" for i, line in enumerate(lines[1:])]
    Path("people.csv").write_text("\n".join([f"{lines[0]},person", *rows]) + "\n")
    flags = ("--groups", "people.csv", "--cluster-id", "person", "--groups-by", "group")
    result = done(*AUDIT, *flags)
    assert "approximate" in result.stdout
    assert "approximate" not in done(*AUDIT).stdout
    found = document_of(*AUDIT, *flags)
    assert found["data"]["cluster_id"] == "person"
    again = document_of("audit", "--predictions", "model.pruned.run/predictions.npz", "--eps", "1")
    assert again["groups"] == found["groups"]


# Names of groups


def test_crossed_groups_of_other_values_are_never_one(tmp_path: Path) -> None:
    text = PREDS.replace("test,x,f", "test,a*b,c").replace("test,y,m", "test,a,b*c")
    assert refused(tmp_path, text, groups_by="race*gender") == [
        "groups of race*gender: 'a*b' with 'c' and 'a' with 'b*c' would have one name, 'a*b*c'; "
        "rename a value so that it has no '*'"
    ]
    assert read(tmp_path, text, groups_by="race,gender").grouping.num_groups == 8
    table = read(tmp_path, text, groups_by="race", control=("race", "gender"))
    with pytest.raises(LabelsError, match=r"p.csv: groups of race\*gender"):
        answers_of(table, "test", ("race", "gender"))


def test_groups_in_two_forms_of_unicode_are_warned_of(tmp_path: Path) -> None:
    text = PREDS.replace("test,x", "test,caf\u00e9").replace("test,y", "test,cafe\u0301")
    table = read(tmp_path, text, groups_by="race")
    assert table.grouping.num_groups == 4
    (warning,) = [text for text in audited(table).warnings if "Unicode" in text]
    assert warning.startswith("race has 2 groups that look like 'caf\u00e9', written ")
