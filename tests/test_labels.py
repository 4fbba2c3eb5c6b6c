import hashlib
from pathlib import Path

import pytest
import torch

import ceag_cli.labels
from ceag_cli.classes import class_index, class_order
from ceag_cli.data import open_data
from ceag_cli.errors import LabelsError
from ceag_cli.labels import Labels, outside, read_labels
from ceag_cli.progress import Quiet
from ceag_cli.sharedoptions import DataOptions

HEADER = "path,label,split,group\n"


def read(
    folder: Path, content: str | bytes, label_column: str = "label", groups_by: str | None = None
) -> Labels:
    path = folder / "l.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(path, label_column, groups_by)


def problems_of(labels: Labels) -> list[str]:
    """Messages without the path of the CSV."""
    with pytest.raises(LabelsError) as caught:
        labels.raise_problems()
    return [problem.removeprefix(f"{labels.csv} ") for problem in caught.value.problems]


def refused(folder: Path, content: str | bytes, **options: str) -> list[str]:
    """Messages of a file that cannot be read as a table, without its path."""
    with pytest.raises(LabelsError) as caught:
        read(folder, content, **options)
    return [problem.removeprefix(f"{folder / 'l.csv'}") for problem in caught.value.problems]


def numbered(path: Path, rows: int, last: str) -> Path:
    """A table of so many good rows, and one more."""
    good = "".join(f"{i}.png,{'cat' if i % 2 else 'dog'},train,g{i % 3}\n" for i in range(rows))
    path.write_text(HEADER + good + last)
    return path


# What is read


def test_good_rows_are_taken_many_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at one by one, a million rows would take a third of a minute."""
    monkeypatch.setattr(ceag_cli.labels, "_OUTSIDE", None)
    labels = read_labels(numbered(tmp_path / "l.csv", 10_000, "sub/x.png,cat,test,g9\n"))
    labels.raise_problems()
    assert (len(labels.paths), labels.paths[-1], labels.lines[-1]) == (10_001, "sub/x.png", 10_002)
    assert labels.grouping.values == (("g0", "g1", "g2", "g9"),)
    assert labels.groups[-3:].tolist() == [[2], [0], [3]]
    assert labels.cells["group"].words()[-2:] == ["g0", "g9"]


def test_rows_that_all_begin_with_a_dot_are_told_apart_by_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    rows = "".join(f"./{i}.png,cat,train,x\n" for i in range(5_000))
    path.write_text(HEADER + rows + "4999.png,cat,test,x\n")
    labels = read_labels(path)
    assert problems_of(labels) == ["row 5002: path '4999.png' was given in row 5001 already"]
    assert (len(labels.paths), labels.paths[0]) == (5_000, "./0.png")


def test_paths_of_equal_hash_are_two_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ceag_cli.labels, "hash", lambda path: len(path), raising=False)
    labels = read(tmp_path, HEADER + "a,cat,train,x\nb,cat,train,x\nc,cat,train,x\nb,cat,test,x\n")
    assert problems_of(labels) == ["row 5: path 'b' was given in row 3 already"]
    assert labels.paths == ["a", "b", "c"]


def test_words_of_rows_that_are_left_out_are_forgotten(tmp_path: Path) -> None:
    """Otherwise a class without images would get an output of the model."""
    read(tmp_path, HEADER + "a,cat,train,x\nb,dog,train,\nc,cow,test,y\n")
    labels = read_labels(tmp_path / "l.csv", missing="drop")
    assert labels.label.names == ("cat", "cow")
    assert labels.label.words() == ["cat", "cow"]
    assert labels.cells["group"].names == ("x", "y")


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        ("5.png,cat,train,g1\n", "path '5.png' was given in row 7 already"),
        ("./5.png,cat,train,g1\n", "path './5.png' was given in row 7 already"),
        ("../x.png,cat,train,g1\n", "path '../x.png' lies outside the data folder"),
        ("x.png,,train,g1\n", "the label is empty (column 'label')"),
        ("x.png,cat,tset,g1\n", "split 'tset' is not one of train, val, test"),
        ("x.png,cat,train, \n", "the group is empty (column 'group')"),
        ("x.png,cat,train\n", "has 3 cells, the header has 4"),
    ],
)
def test_what_is_wrong_far_down_is_found_with_its_row(
    tmp_path: Path, last: str, problem: str
) -> None:
    labels = read_labels(numbered(tmp_path / "l.csv", 5_000, last))
    assert problems_of(labels) == [f"row 5002: {problem}"]
    assert len(labels.paths) == 5_000


def test_rows_are_read_in_file_order_with_their_lines(tmp_path: Path) -> None:
    text = HEADER + "a.png,cat,train,x\nb.png,dog,test,y\nc.png,cat,train,y\n"
    labels = read(tmp_path, text)
    labels.raise_problems()
    assert labels.paths == ["a.png", "b.png", "c.png"]
    assert labels.label.words() == ["cat", "dog", "cat"]
    assert labels.split.tolist() == [0, 2, 0]
    assert labels.splits == ["train", "test"]
    assert labels.lines.tolist() == [2, 3, 4]
    assert labels.rows("train").tolist() == [0, 2]
    assert labels.rows("val").tolist() == []
    assert labels.grouping.features == ("group",)
    assert labels.grouping.values == (("x", "y"),)
    assert labels.groups.tolist() == [[0], [1], [1]]
    assert labels.groups.dtype == torch.int64
    assert labels.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_control_columns_are_read_and_make_no_groups_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(
        "path,label,split,race,age\na.png,cat,train,x,old\nb.png,dog,test,y,\nc.png,cat,test,y,9\n"
    )
    labels = read_labels(path, control=["age", "label"])
    labels.raise_problems()
    assert labels.grouping.features == ("race",)
    assert labels.cells["age"].words() == ["old", "", "9"]
    assert labels.cells["label"].words() == ["cat", "dog", "cat"]
    labels = read_labels(path, groups_by="race*age", control=["age"])
    assert labels.grouping.features == ("race*age",)
    assert labels.cells["age"].words() == ["old", "9"]
    assert problems_of(labels) == ["row 3: the group is empty (column 'age')"]


def test_a_control_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("path,label,split,age\na.png,cat,train,1\n")
    with pytest.raises(LabelsError, match="--control names 'agge', which is not a column; did you"):
        read_labels(path, control=["agge"])


WRITTEN = {
    "BOM": b"\xef\xbb\xbfpath,label,split,group\na.png,cat,train,x\n",
    "CRLF": b"path,label,split,group\r\na.png,cat,train,x\r\n",
    "CR": b"path,label,split,group\ra.png,cat,train,x\r",
    "no last newline": b"path,label,split,group\na.png,cat,train,x",
    "quotes": b'"path","label","split","group"\n"a.png","cat","train","x"\n',
    "spaces": b" path , label , split , group \n a.png , cat , train , x \n",
    "column order": b"group,split,label,path\nx,train,cat,a.png\n",
    "file_name": b"file_name,label,split,group\na.png,cat,train,x\n",
    "filename": b"filename,label,split,group\na.png,cat,train,x\n",
    "blank lines": b"path,label,split,group\n\n\na.png,cat,train,x\n\n",
}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN.keys())
def test_every_common_way_to_write_a_csv_gives_the_same_row(tmp_path: Path, content: bytes) -> None:
    labels = read(tmp_path, content)
    labels.raise_problems()
    assert (labels.paths, labels.label.words(), labels.splits) == (["a.png"], ["cat"], ["train"])
    assert labels.grouping.names == (("group", "x"),)


def test_cells_may_hold_commas_quotes_and_other_scripts(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + '"a,b.png","say ""cat""",train,日本\n')
    labels.raise_problems()
    assert labels.paths == ["a,b.png"]
    assert labels.label.words() == ['say "cat"']
    assert labels.grouping.values == (("日本",),)


def test_crossed_groups_of_other_values_are_never_one(tmp_path: Path) -> None:
    text = "path,label,split,race,gender\np,0,test,a*b,c\nq,0,test,a,b*c\nr,0,test,a,c\n"
    labels = read(tmp_path, text, groups_by="race*gender")
    (problem,) = labels.problems[0]
    assert problem.startswith("groups of race*gender: 'a*b' with 'c' and 'a' with 'b*c' would have")
    assert read(tmp_path, text, groups_by="race,gender").problems == {}
    labels = read(tmp_path, text.replace("b*c", "b"), groups_by="race*gender")
    assert labels.problems == {}
    assert labels.grouping.values == (("a*b", "a*b*c", "a*c"),)


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_newlines_end_a_row(tmp_path: Path, separator: str) -> None:
    """Python's ``str.splitlines`` knows more line ends than a CSV file does."""
    labels = read(tmp_path, HEADER + f"a.png,c{separator}t,train,x\nb.png,dog,nope,x\n")
    assert problems_of(labels) == ["row 3: split 'nope' is not one of train, val, test"]
    assert labels.label.words() == [f"c{separator}t"]


def test_the_row_number_is_the_line_of_the_file(tmp_path: Path) -> None:
    """Lines 3 and 5 are blank."""
    text = '"a.png",cat,train,x\n\n"b.png","c",train,x\n\nc.png,cat,nope,x\n'
    labels = read(tmp_path, HEADER + text)
    assert labels.lines.tolist() == [2, 4]
    assert labels.paths == ["a.png", "b.png"]
    assert problems_of(labels) == ["row 6: split 'nope' is not one of train, val, test"]


def test_the_row_number_counts_windows_lines_once(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER.strip() + "\r\na.png,cat,train,x\r\nb.png,cat,nope,x\r\n")
    assert problems_of(labels) == ["row 3: split 'nope' is not one of train, val, test"]


# Groups


def test_by_default_every_column_that_is_not_reserved_makes_groups(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,label,split,b,a\np.png,cat,train,2,1\nq.png,cat,train,3,1\n")
    labels.raise_problems()
    assert labels.grouping.features == ("b", "a")
    assert labels.grouping.values == (("2", "3"), ("1",))
    assert labels.groups_by == "b,a"
    assert labels.groups.tolist() == [[0, 2], [1, 2]]


def test_another_label_column_leaves_the_column_label_out_of_the_groups(tmp_path: Path) -> None:
    text = "path,label,split,gender,age\np.png,cat,train,f,old\n"
    labels = read(tmp_path, text, label_column="gender")
    assert labels.label.words() == ["f"]
    assert labels.grouping.features == ("age",)


def test_columns_are_crossed_with_a_star(tmp_path: Path) -> None:
    text = "path,label,split,race,gender\na,0,train,x,f\nb,0,train,x,m\nc,0,train,y,f\n"
    labels = read(tmp_path, text, groups_by="race*gender,gender")
    assert labels.grouping.features == ("race*gender", "gender")
    assert labels.grouping.values == (("x*f", "x*m", "y*f"), ("f", "m"))
    assert labels.groups.tolist() == [[0, 3], [1, 4], [2, 3]]
    assert labels.groups_by == "race*gender,gender"


def test_the_label_may_be_the_group(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,label,split\na,cat,train\nb,dog,train\n", groups_by="label")
    assert labels.grouping.names == (("label", "cat"), ("label", "dog"))


def test_spaces_around_the_names_of_groups_by_do_not_matter(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,label,split,a,b\np,0,train,1,2\n", groups_by=" a * b , a ")
    assert labels.groups_by == "a*b,a"


def test_groups_by_takes_only_the_columns_that_it_names(tmp_path: Path) -> None:
    """An empty cell of another column does not matter."""
    labels = read(tmp_path, "path,label,split,a,b\np,0,train,1,\n", groups_by="a")
    labels.raise_problems()
    assert labels.grouping.names == (("a", "1"),)


# Files that are no table


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError) as caught:
        read_labels(tmp_path / "x.csv")
    assert caught.value.problems == [f"{tmp_path / 'x.csv'}: there is no such file"]


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError) as caught:
        read_labels(tmp_path)
    assert caught.value.problems == [f"{tmp_path}: is a folder; give the CSV file in it"]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"], ids=["nothing", "BOM alone"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refused(tmp_path, content) == [": the file is empty; it needs a header and rows"]


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_a_header_without_rows_is_a_problem(tmp_path: Path, end: str) -> None:
    labels = read(tmp_path, HEADER.strip() + end)
    with pytest.raises(LabelsError) as caught:
        labels.raise_problems()
    assert caught.value.problems == [f"{labels.csv}: the file has a header but no rows"]


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    content = HEADER.encode() + b"a.png,cat,train,x\nb.png,caf\xe9,train,x\n"
    assert refused(tmp_path, content) == [" row 3: byte 0xe9 is not UTF-8; save the file as UTF-8"]


def test_utf16_as_excel_writes_it_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, HEADER.encode("utf-16")) == [
        " row 1: byte 0xff is not UTF-8; save the file as UTF-8"
    ]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("path,label,split,group,group", " row 1: column given twice: group"),
        (
            "image,label,split,group",
            " row 1: needs exactly one of the columns path, file_name, filename; found none",
        ),
        (
            "path,filename,label,split,group",
            " row 1: needs exactly one of the columns path, file_name, filename; "
            "found path, filename",
        ),
        (
            "path,label,spilt,group",
            " row 1: needs a column 'split' with train, val, test in its rows; "
            "did you mean 'spilt'?",
        ),
        (
            "path,class,split,group",
            " row 1: there is no label column 'label'; name one with --label-column "
            "(columns: path, class, split, group)",
        ),
        (
            "path,label,split",
            " row 1: no column is left to make groups of; name one with --groups-by "
            "('--groups-by label' takes the class as the group)",
        ),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path, header: str, problem: str) -> None:
    assert refused(tmp_path, header + "\n") == [problem]


def test_problems_of_the_header_are_reported_together(tmp_path: Path) -> None:
    found = refused(tmp_path, "a,b,b\n", label_column="c")
    assert found == [
        " row 1: column given twice: b",
        " row 1: needs exactly one of the columns path, file_name, filename; found none",
        " row 1: needs a column 'split' with train, val, test in its rows",
        " row 1: there is no label column 'c'; name one with --label-column (columns: a, b, b)",
    ]


def test_groups_by_names_columns_that_exist_and_each_once(tmp_path: Path) -> None:
    header = "path,label,split,race,gender\n"
    assert refused(tmp_path, header, groups_by="rase,gender") == [
        " row 1: --groups-by names 'rase', which is not a column; did you mean 'race'? "
        "(columns: path, label, split, race, gender)"
    ]
    assert refused(tmp_path, header, groups_by="race,race") == ["--groups-by names 'race' twice"]
    assert "''" in refused(tmp_path, header, groups_by="race,")[0]


# Rows that cannot be used


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("b.png,cat,train", "row 3: has 3 cells, the header has 4"),
        ("b.png,cat,train,x,", "row 3: has 5 cells, the header has 4"),
        (",cat,train,x", "row 3: the path is empty"),
        (
            "a.png,dog,test,x",
            "row 3: path 'a.png' was given in row 2 already",
        ),
        ("b.png,,train,x", "row 3: the label is empty (column 'label')"),
        ("b.png,  ,train,x", "row 3: the label is empty (column 'label')"),
        ("b.png,cat,training,x", "row 3: split 'training' is not one of train, val, test"),
        ("b.png,cat,Train,x", "row 3: split 'Train' is not one of train, val, test"),
        ("b.png,cat,,x", "row 3: split '' is not one of train, val, test"),
        ("b.png,cat,train,", "row 3: the group is empty (column 'group')"),
        ("../b.png,cat,train,x", "row 3: path '../b.png' lies outside the data folder"),
        ("a/../../b.png,cat,train,x", "row 3: path 'a/../../b.png' lies outside the data folder"),
        ("/b.png,cat,train,x", "row 3: path '/b.png' lies outside the data folder"),
        (r"..\b.png,cat,train,x", r"row 3: path '..\b.png' lies outside the data folder"),
        (r"C:\b.png,cat,train,x", r"row 3: path 'C:\b.png' lies outside the data folder"),
    ],
)
def test_a_bad_row_is_named_with_its_number(tmp_path: Path, row: str, problem: str) -> None:
    labels = read(tmp_path, HEADER + "a.png,cat,train,x\n" + row + "\nc.png,cat,test,x\n")
    assert problems_of(labels) == [problem]
    assert labels.paths == ["a.png", "c.png"]


def test_every_problem_of_every_row_is_reported_together_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    text = HEADER + "a.png,,nope,\nb.png\nc.png,cat,train,x\nc.png,,train,x\n/d.png,,,\n"
    assert problems_of(read(tmp_path, text)) == [
        "row 2: the label is empty (column 'label')",
        "row 2: split 'nope' is not one of train, val, test",
        "row 2: the group is empty (column 'group')",
        "row 3: has 1 cells, the header has 4",
        "row 5: path 'c.png' was given in row 4 already",
        "row 5: the label is empty (column 'label')",
        "row 6: path '/d.png' lies outside the data folder",
        "row 6: the label is empty (column 'label')",
        "row 6: split '' is not one of train, val, test",
        "row 6: the group is empty (column 'group')",
    ]


def test_a_path_of_a_bad_row_counts_as_given(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + "a.png,,train,x\na.png,cat,train,x\n")
    assert problems_of(labels)[1] == "row 3: path 'a.png' was given in row 2 already"


@pytest.mark.parametrize("again", ["./a/b.png", "a//b.png", "a/./b.png"])
def test_the_same_path_in_other_words_was_given_already(tmp_path: Path, again: str) -> None:
    labels = read(tmp_path, HEADER + f"a/b.png,cat,train,x\n{again},cat,test,x\n")
    (problem,) = problems_of(labels)
    assert problem.startswith("row 3: path '")
    assert problem.endswith("' was given in row 2 already")


def test_an_empty_cell_of_a_crossed_column_is_named_once(tmp_path: Path) -> None:
    text = "path,label,split,a,b\np,0,train,,1\n"
    labels = read(tmp_path, text, groups_by="a*b,a")
    assert problems_of(labels) == ["row 2: the group is empty (column 'a')"]


def test_a_cell_too_long_for_a_csv_is_a_problem_of_its_row(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + "a" * 200_000 + ",cat,train,x\nb.png,cat,nope,x\n")
    first, second = problems_of(labels)
    assert first.startswith("row 2: cannot be read: ")
    assert second == "row 3: split 'nope' is not one of train, val, test"


def test_at_most_fifty_problems_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + "".join(f"{i}.png,cat,no,x\n" for i in range(60)))
    with pytest.raises(LabelsError) as caught:
        labels.raise_problems()
    assert len(caught.value.problems) == 51
    assert caught.value.problems[49].startswith(f"{labels.csv} row 51: ")
    assert caught.value.problems[50] == f"{labels.csv}: and 10 more problems"


def test_problems_that_are_not_shown_are_counted_whatever_their_kind(tmp_path: Path) -> None:
    """100 rows, each with a bad split and an empty label, and 70 with too few cells."""
    rows = "".join(f"{i}.png,,no,x\n" for i in range(100)) + "x\n" * 70
    labels = read(tmp_path, HEADER + rows)
    with pytest.raises(LabelsError) as caught:
        labels.raise_problems()
    *shown, last = caught.value.problems
    assert [problem.split(" ")[2] for problem in shown] == [f"{2 + i // 2}:" for i in range(50)]
    assert last == f"{labels.csv}: and 220 more problems"


def test_a_line_separator_in_a_cell_never_breaks_a_message(tmp_path: Path) -> None:
    """One that ends no row, but a line on a screen."""
    text = "/a\u2028b.png,cat,no\u2028way,x\nc.png,d\u2028e,train,x\n"
    labels = read(tmp_path, HEADER + text)
    labels.check_labels({"cat": 0}, "the model")
    found = problems_of(labels)
    assert len(found) == 3
    assert not any("\u2028" in problem for problem in found)
    assert not any("\n" in problem for problem in found)


# Labels and splits


def test_labels_become_outputs_of_the_model(tmp_path: Path) -> None:
    text = HEADER + "a,dog,train,x\nb,cat,train,x\nc,dog,test,x\n"
    labels = read(tmp_path, text)
    assert labels.check_labels({"cat": 0, "dog": 1}, "m").tolist() == [1, 0, 1]
    labels.raise_problems()


def test_a_label_that_the_model_does_not_know_is_a_problem_of_its_first_row(
    tmp_path: Path,
) -> None:
    text = HEADER + "a,cat,train,x\nb,cta,train,x\nc,cta,test,x\nd,cta,test,x\ne,bird,test,x\n"
    labels = read(tmp_path, text)
    labels.check_labels({"cat": 0, "dog": 1}, "m.safetensors")
    remedy = (
        "; map names to outputs with --class-map, or give a new classifier with "
        "'ceag dense --num-classes'"
    )
    assert problems_of(labels) == [
        "row 3: label 'cta' is not known to m.safetensors; did you mean 'cat'? (and 2 more rows)"
        + remedy,
        "row 6: label 'bird' is not known to m.safetensors" + remedy,
    ]


def test_splits_that_are_needed_and_empty_are_a_problem_of_the_file(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + "a,cat,val,x\n")
    labels.check_splits(["train", "test"], seen_in_train=True)
    with pytest.raises(LabelsError) as caught:
        labels.raise_problems()
    assert caught.value.problems == [
        f"{labels.csv}: no row has split 'train'",
        f"{labels.csv}: no row has split 'test'",
    ]


def test_a_group_that_train_lacks_is_a_problem_of_its_first_row(tmp_path: Path) -> None:
    text = HEADER + "a,cat,train,x\nb,cat,test,y\nc,cat,test,x\nd,cat,test,y\ne,cat,val,z\n"
    labels = read(tmp_path, text)
    labels.check_splits(["train"], seen_in_train=True)
    remedy = (
        " but not in train, so nothing can be promised for it; group more coarsely with "
        "--groups-by, or move or remove these rows"
    )
    assert problems_of(labels) == [
        "row 3: group 'group=y' is in split 'test' (2 rows)" + remedy,
        "row 6: group 'group=z' is in split 'val' (1 rows)" + remedy,
    ]


def test_a_crossed_group_that_train_lacks_is_found_although_train_has_both_parts(
    tmp_path: Path,
) -> None:
    text = "path,label,split,a,b\np,0,train,1,1\nq,0,train,2,2\nr,0,test,1,2\n"
    one_by_one = read(tmp_path, text, groups_by="a,b")
    one_by_one.check_splits(["train"], seen_in_train=True)
    one_by_one.raise_problems()
    both = read(tmp_path, text, groups_by="a*b")
    both.check_splits(["train"], seen_in_train=True)
    (problem,) = problems_of(both)
    assert problem.startswith("row 4: group 'a*b=1*2' is in split 'test' (1 rows)")


def test_without_training_groups_need_not_be_in_train(tmp_path: Path) -> None:
    labels = read(tmp_path, HEADER + "a,cat,train,x\nb,cat,test,y\n")
    labels.check_splits(["test"], seen_in_train=False)
    labels.raise_problems()


# The order of the classes


def test_numbers_are_ordered_as_numbers() -> None:
    assert class_order(["10", "2", "0", "2"]) == ["0", "2", "10"]
    assert class_order(["-1", "10", "9"]) == ["-1", "9", "10"]


def test_words_are_ordered_as_text() -> None:
    assert class_order(["10", "2", "cat"]) == ["10", "2", "cat"]
    assert class_order(["b", "B", "a"]) == ["B", "a", "b"]


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    """``0``, ``00``, ... are different names of equal number."""
    names = ["0" * length for length in range(1, 11)]
    assert class_order(names) == class_order(reversed(names)) == sorted(names)


def test_names_of_the_outputs_come_from_the_class_map_else_the_model_else_are_numbers(
    tmp_path: Path,
) -> None:
    lines = tmp_path / "map.txt"
    lines.write_text("dog\n\n cat \n")
    mapping = tmp_path / "map.json"
    mapping.write_text('{"cat": 1, "dog": 0, "kitten": 1}')
    assert class_index(["a", "b"], str(lines), 2) == {"dog": 0, "cat": 1}
    assert class_index(["a", "b"], str(mapping), 2) == {"cat": 1, "dog": 0, "kitten": 1}
    assert class_index(["a", "b"], None, 2) == {"a": 0, "b": 1}
    assert class_index(None, None, 2) == {"0": 0, "1": 1}


# Outside


@pytest.mark.parametrize("path", ["a.png", "a/b.png", "a..b/c.png", "...", ".hidden/x.png"])
def test_paths_within_the_folder(path: str) -> None:
    assert not outside(path)


@pytest.mark.parametrize("path", ["/a", "//a/b", "..", "a/..", r"a\..\..\b", "C:/a", r"\\s\a\b"])
def test_paths_that_leave_the_folder(path: str) -> None:
    assert outside(path)


# With the images


def opened(folder: Path, csv: str) -> list[str]:
    (folder / "l.csv").write_text(csv)

    def read_everything() -> None:
        data = open_data(DataOptions(groups=str(folder / "l.csv")), [], Quiet(), "dense")
        data.require(["train"], seen_in_train=True)

    with pytest.raises(LabelsError) as caught:
        read_everything()
    return [problem.removeprefix(f"{folder / 'l.csv'}") for problem in caught.value.problems]


def test_missing_images_are_reported_with_everything_else(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    csv = HEADER + "a.png,cat,test,x\nb.png,cat,val,x\nc.png,cat,nope,x\nd.png,cat,test,x\n"
    assert opened(tmp_path, csv) == [
        ": no row has split 'train'",
        f" row 3: there is no image 'b.png' in {tmp_path}",
        " row 4: split 'nope' is not one of train, val, test",
        f" row 4: there is no image 'c.png' in {tmp_path}",
        f" row 5: there is no image 'd.png' in {tmp_path}",
    ]


def test_when_no_image_is_there_one_message_says_so(tmp_path: Path) -> None:
    csv = HEADER + "a.png,cat,train,x\nb.png,cat,train,x\n"
    assert opened(tmp_path, csv) == [
        f": none of its 2 images is in {tmp_path} (first: 'a.png'); name the folder or .zip that "
        "the paths are relative to with --data-dir"
    ]


def test_when_no_image_is_there_the_other_problems_are_still_reported(tmp_path: Path) -> None:
    found = opened(tmp_path, HEADER + "a.png,cat,train,x\nb.png,cat,nope,x\n")
    assert any("row 3: split 'nope'" in problem for problem in found)
    assert any("a.png" in problem for problem in found)


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").touch()
    assert opened(tmp_path, HEADER + "a.png,cat,train,x\nb.png,cat,train,x\n") == [
        f" row 2: image 'a.png' in {tmp_path} is a folder, a pipe or a device, not a file"
    ]


def test_a_path_longer_than_any_file_name_is_a_missing_image(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    name = "a" * 300 + ".png"
    assert opened(tmp_path, HEADER + f"{name},cat,train,x\nb.png,cat,train,x\n") == [
        f" row 2: there is no image '{name}' in {tmp_path}"
    ]


def test_a_path_with_a_zero_byte_is_a_missing_image(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    found = opened(tmp_path, HEADER + "a\0.png,cat,train,x\nb.png,cat,train,x\n")
    assert len(found) == 1
    assert found[0].startswith(" row 2: ")


def test_a_row_with_another_problem_is_also_searched_for_its_image(tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text(
        "path,label,split,g\n"
        "here.png,cat,train,a\n"
        "gone.png,cat,tset,a\n"  # two problems
        "gone.png,cat,test,a\n"  # a duplicate is not looked for twice
    )
    (tmp_path / "here.png").write_bytes(b"")
    data = open_data(DataOptions(groups=str(csv)), [], Quiet(), "dense")
    with pytest.raises(LabelsError) as error:
        data.require([], seen_in_train=False)
    assert error.value.problems == [
        f"{csv} row 3: split 'tset' is not one of train, val, test",
        f"{csv} row 3: there is no image 'gone.png' in {tmp_path}",
        f"{csv} row 4: path 'gone.png' was given in row 3 already",
    ]


# Images without a group, and images that belong together


GAPS = HEADER + "a.png,cat,train,nan\nb.png,cat,train,\nc.png,cat,test,x\n"


def test_an_image_without_a_group_can_have_one_of_its_own(tmp_path: Path) -> None:
    assert problems_of(read(tmp_path, GAPS)) == ["row 3: the group is empty (column 'group')"]
    path = tmp_path / "l.csv"
    labels = read_labels(path, missing="group")
    labels.raise_problems()
    assert labels.grouping.values == (("<missing>", "nan", "x"),)
    assert {name: column.words() for name, column in labels.cells.items()} == {
        "group": ["nan", "", "x"]
    }
    assert labels.dropped == 0
    crossed = read_labels(path, groups_by="group*label", missing="group")
    assert crossed.grouping.values == (("<missing>*cat", "nan*cat", "x*cat"),)
    path.write_text(GAPS.replace("nan", "<missing>"))
    assert problems_of(read_labels(path, missing="group")) == [
        "row 2: the group '<missing>' (column 'group') has the name that --missing group gives; "
        "rename it"
    ]


def test_an_image_without_a_group_can_be_left_out(tmp_path: Path) -> None:
    read(tmp_path, GAPS)
    labels = read_labels(tmp_path / "l.csv", missing="drop")
    labels.raise_problems()
    assert labels.paths == ["a.png", "c.png"]
    assert labels.lines.tolist() == [2, 4]
    assert labels.dropped == 1
    (tmp_path / "l.csv").write_text(HEADER + "a.png,cat,train,\n")
    (problem,) = read_labels(tmp_path / "l.csv", missing="drop").problems[0]
    assert problem == "no row has a group, so none is left (--missing drop)"


def test_a_cluster_is_no_group(tmp_path: Path) -> None:
    read(tmp_path, "path,label,split,group,who\na.png,cat,test,x,1\nb.png,cat,test,x,\n")
    labels = read_labels(tmp_path / "l.csv", cluster_id="who")
    assert labels.grouping.features == ("group",)
    assert problems_of(labels) == ["row 3: the cluster is empty (column 'who')"]
    with pytest.raises(LabelsError, match="--cluster-id names 'wo', which is not a column; did"):
        read_labels(tmp_path / "l.csv", cluster_id="wo")
    with pytest.raises(LabelsError, match="column 'who' is both in --groups-by and --cluster-id"):
        read_labels(tmp_path / "l.csv", groups_by="who", cluster_id="who")
