"""``ceag groups --from``: small data sets in exactly the layouts that they are published in."""

from __future__ import annotations

import csv
import io
import pickle
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import ceag, done

from ceag_cli.cifarbatches import read_batches
from ceag_cli.conversion import write_groups
from ceag_cli.errors import CeagError, LabelsError
from ceag_cli.groups import set_aside_whole
from ceag_cli.labels import read_labels
from ceag_cli.layouts import age_band
from ceag_cli.stores import open_store


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, "jpeg")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(*arguments: str | Path) -> list[str]:
    """The messages of a command line that is refused and writes nothing."""
    result = ceag(*arguments)
    assert result.exit_code == 2, result.output
    return [line.removeprefix("error: ") for line in result.stderr.splitlines()]


pytestmark = pytest.mark.usefixtures("empty_folder")


def left() -> set[str]:
    """What lies in the current folder besides the data set."""
    return {path.name for path in Path().iterdir()} - {"data"}


# UTKFace.

DATE = "20170116174525125"


def write_utkface(names: Iterable[str]) -> Path:
    for name in names:
        image(Path("data/UTKFace", name))
    return Path("data/UTKFace")


def test_utkface_is_all_in_the_names_of_its_files() -> None:
    names = [
        f"{age}_{gender}_{race}_{DATE}.jpg.chip.jpg"
        for age, gender, race in [(1, 0, 0), (26, 1, 1), (69, 0, 2), (70, 1, 3), (116, 1, 4)]
    ]
    folder = write_utkface([*names, "100_0_0_20170112213500903jpg.chip.jpg"])
    (folder / ".DS_Store").write_bytes(b"")
    result = done("groups", "--from", "utkface", folder, "--test-share", "0")
    assert Path("labels.csv").read_text() == (
        "path,split,gender,race,age\n"
        "data/UTKFace/100_0_0_20170112213500903jpg.chip.jpg,train,Male,White,more than 70\n"
        f"data/UTKFace/116_1_4_{DATE}.jpg.chip.jpg,train,Female,Others,more than 70\n"
        f"data/UTKFace/1_0_0_{DATE}.jpg.chip.jpg,train,Male,White,0-2\n"
        f"data/UTKFace/26_1_1_{DATE}.jpg.chip.jpg,train,Female,Black,20-29\n"
        f"data/UTKFace/69_0_2_{DATE}.jpg.chip.jpg,train,Male,Asian,60-69\n"
        f"data/UTKFace/70_1_3_{DATE}.jpg.chip.jpg,train,Female,Indian,more than 70\n"
    )
    assert result.stdout.splitlines()[0] == (
        "wrote labels.csv: 6 images (6 train), columns path, split, gender, race, age"
    )


WRONG = [f"39_1_{DATE}.jpg.chip.jpg", "53__0_20170116184028385.jpg", f"20_2_7_{DATE}.jpg", "a.jpg"]
"""The race lacks, the gender is empty (both are published so), numbers that mean nothing, another
file."""


def test_images_that_utkface_misnames_are_named_together_and_nothing_is_written() -> None:
    folder = write_utkface([f"26_1_1_{DATE}.jpg", *WRONG])
    why = "since it is not named [age]_[gender]_[race]_[date].jpg; leave such images out with "
    assert refused("groups", "--from", "utkface", folder) == [
        f"{folder}/{name}: {lacking} not known, {why}--missing drop"
        for name, lacking in [
            (WRONG[2], "gender and race"),
            (WRONG[0], "race"),
            (WRONG[1], "gender"),
            (WRONG[3], "gender and race and age"),
        ]
    ]
    assert left() == set()


def test_misnamed_images_are_left_out_or_have_empty_cells() -> None:
    folder = write_utkface([f"26_1_1_{DATE}.jpg", *WRONG])
    command = ("groups", "--from", "utkface", folder, "--overwrite", "--test-share", "0")
    assert (
        "left out, since not all is known of them: 4" in done(*command, "--missing", "drop").stdout
    )
    assert [row["race"] for row in rows(Path("labels.csv"))] == ["Black"]
    done(*command, "--missing", "group")
    assert {Path(row["path"]).name: row["race"] for row in rows(Path("labels.csv"))} == {
        f"20_2_7_{DATE}.jpg": "",
        f"26_1_1_{DATE}.jpg": "Black",
        f"39_1_{DATE}.jpg.chip.jpg": "",
        "53__0_20170116184028385.jpg": "White",
        "a.jpg": "",
    }
    # What is not written need not be known; a target has to be.
    done(*command, "--groups-by", "race", "--missing", "drop")
    assert len(rows(Path("labels.csv"))) == 2
    assert len(refused(*command, "--label-column", "race", "--missing", "group")) == 3


def test_one_image_in_two_folders_of_utkface_is_refused() -> None:
    """Some archives have the same images twice, which would be in train and in test."""
    write_utkface([f"UTKFace/26_1_1_{DATE}.jpg", f"crop_part1/26_1_1_{DATE}.jpg"])
    (message,) = refused("groups", "--from", "utkface", "data/UTKFace")
    assert "is the same image; name one of the folders" in message


@pytest.mark.parametrize(
    ("years", "band"),
    [
        (0, "0-2"),
        (2, "0-2"),
        (3, "3-9"),
        (9, "3-9"),
        (10, "10-19"),
        (69, "60-69"),
        (70, "more than 70"),
        (116, "more than 70"),
    ],
)
def test_ages_have_the_bands_of_fairface(years: int, band: str) -> None:
    assert age_band(years) == band


# FairFace.


def write_fairface(extra: str = "", newline: str = "\r\n") -> Path:
    folder = Path("data/fairface")
    header = "file,age,gender,race,service_test"
    train = [
        header,
        "train/1.jpg,50-59,Male,East Asian,True",
        "train/2.jpg,more than 70,Female,Latino_Hispanic,False",
    ]
    val = [header, "val/1.jpg,3-9,Male,East Asian,False"]
    for path in ("train/1.jpg", "train/2.jpg", "val/1.jpg"):
        image(folder / path)
    for split, found in (("train", train), ("val", val)):
        text = newline.join([*found, ""]) + (extra if split == "train" else "")
        (folder / f"fairface_label_{split}.csv").write_bytes(text.encode())
    return folder


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_fairface_keeps_its_splits_and_its_val_is_test(newline: str) -> None:
    folder = write_fairface(newline=newline)
    result = done("groups", "--from", "fairface", folder, "-o", "data/fairface/labels.csv")
    assert Path("data/fairface/labels.csv").read_bytes().decode() == (
        "path,split,gender,race,age\n"
        "train/1.jpg,train,Male,East Asian,50-59\n"
        "train/2.jpg,train,Female,Latino_Hispanic,more than 70\n"
        "val/1.jpg,test,Male,East Asian,3-9\n"
    )
    assert "its val is test here" in result.stdout


def test_everything_wrong_with_fairface_is_named_with_its_row() -> None:
    folder = write_fairface(
        "train/3.jpg,3-9,Male,White,True\r\ntrain/1.jpg,3-9\r\n"
        "train/1.jpg,3-9,Male,White,True\r\ntrain/2.jpg,3-9,,White,True\r\n"
    )
    table = "data/fairface/fairface_label_train.csv"
    assert refused("groups", "--from", "fairface", folder) == [
        f"{table} row 4: there is no image 'train/3.jpg' in data/fairface",
        f"{table} row 5: has 2 cells, the header has 5",
        "data/fairface/train/1.jpg: is listed twice",
        "data/fairface/train/2.jpg: is listed twice",
    ]
    (folder / "fairface_label_val.csv").write_text("path,race\n")
    assert (
        "needs the columns file, gender, race, age; found path, race"
        in refused("groups", "--from", "fairface", folder)[0]
    )
    (folder / "fairface_label_val.csv").unlink()
    assert refused("groups", "--from", "fairface", folder) == [
        "data/fairface: has no fairface_label_val.csv"
    ]
    assert left() == set()


# CelebA.

ATTRIBUTES = ("5_o_Clock_Shadow", "Male", "Smiling", "Young")


def write_celeba(
    values: Mapping[str, Sequence[int]],
    *,
    identity: bool = True,
    count: int | None = None,
    partition: bool = True,
    folders: bool = False,
) -> Path:
    """CelebA's tables as they are: two lines of header, names and numbers aligned by spaces."""
    folder = Path("data/celeba")
    anno = folder / "Anno" if folders else folder
    eval_ = folder / "Eval" if folders else folder
    for name in values:
        image(folder / ("Img/" if folders else "") / "img_align_celeba" / name)
    anno.mkdir(parents=True, exist_ok=True)
    eval_.mkdir(parents=True, exist_ok=True)
    lines = [str(len(values) if count is None else count), " ".join(ATTRIBUTES) + " "]
    lines += [f"{name} " + " ".join(f"{v:2d}" for v in row) for name, row in values.items()]
    (anno / "list_attr_celeba.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    if partition:
        (eval_ / "list_eval_partition.txt").write_text(
            "".join(f"{name} {i % 3}\n" for i, name in enumerate(values))
        )
    if identity:
        (anno / "identity_CelebA.txt").write_text(
            "".join(f"{name} {2880 + i // 2}\n" for i, name in enumerate(values))
        )
    return folder


CELEBA = {
    "000001.jpg": (-1, 1, 1, -1),
    "000002.jpg": (1, -1, -1, 1),
    "000003.jpg": (-1, -1, 1, 1),
}


@pytest.mark.parametrize("folders", [False, True])
def test_celeba_has_its_attributes_splits_and_people(folders: bool) -> None:
    folder = write_celeba(CELEBA, folders=folders)
    result = done("groups", "--from", "celeba", folder, "--label-column", "Smiling")
    assert "people of 'identity' are in more than one split: 1 times" in result.stdout
    inside = "data/celeba/" + ("Img/" if folders else "") + "img_align_celeba"
    assert Path("labels.csv").read_text() == (
        "path,label,split,Male,Young,identity\n"
        f"{inside}/000001.jpg,yes,train,yes,no,2880\n"
        f"{inside}/000002.jpg,no,val,no,yes,2880\n"
        f"{inside}/000003.jpg,yes,test,no,yes,2881\n"
    )
    given = ("--label-column", "Young", "--groups-by", "Male*5_o_Clock_Shadow", "--overwrite")
    done("groups", "--from", "celeba", folder, *given)
    assert Path("labels.csv").read_text().splitlines()[:2] == [
        "path,label,split,Male,5_o_Clock_Shadow,identity",
        f"{inside}/000001.jpg,no,train,yes,no,2880",
    ]


def test_the_tables_that_others_have_made_of_celeba_are_read() -> None:
    folder = write_celeba(CELEBA, identity=False, partition=False)
    (folder / "list_attr_celeba.txt").unlink()
    table = ["image_id," + ",".join(ATTRIBUTES), "000002.jpg,1,-1,-1,1", ""]
    (folder / "list_attr_celeba.csv").write_text("\n".join(table))
    (folder / "list_eval_partition.csv").write_text("image_id,partition\n000002.jpg,2\n")
    done("groups", "--from", "celeba", folder, "--label-column", "Smiling")
    assert Path("labels.csv").read_text() == (
        "path,label,split,Male,Young\ndata/celeba/img_align_celeba/000002.jpg,no,test,no,yes\n"
    )


def test_everything_wrong_with_celeba_is_named_with_its_row() -> None:
    values = {**CELEBA, "000004.jpg": (0, 1, 1, 1), "000005.jpg": (1, 1), "000006.jpg": (1,) * 4}
    folder = write_celeba(values, count=202599, identity=False)
    (folder / "img_align_celeba" / "000006.jpg").unlink()
    table = "data/celeba/list_attr_celeba.txt"
    assert refused("groups", "--from", "celeba", folder, "--label-column", "Smiling") == [
        f"{table} row 6: '000004.jpg': '0' is not 1 or -1",
        f"{table} row 7: '000005.jpg' has 2 values for 4 attributes",
        f"{table} row 8: there is no image '000006.jpg'",
        f"{table}: says that it has 202599 rows, but has 6",
    ]
    messages = refused("groups", "--from", "celeba", folder)
    assert messages[0].startswith("--label-column: name the attribute that is the target")
    messages = refused("groups", "--from", "celeba", folder, "--label-column", "Smilling")
    assert "celeba has no 'Smilling'; did you mean 'Smiling'?" in messages[0]


def test_people_of_celeba_are_on_one_side_where_the_split_is_drawn() -> None:
    values = {f"{i:06}.jpg": (1, -1, 1, 1) if i % 3 else (-1, 1, -1, 1) for i in range(40)}
    folder = write_celeba(values, partition=False)
    given = ("--label-column", "Smiling", "--test-share", "0.25", "--val-share", "0.25")
    result = done("groups", "--from", "celeba", folder, *given)
    assert "test is drawn: 0.25 of the people ('identity')" in result.stdout
    sides = defaultdict(set)
    for row in rows(Path("labels.csv")):
        sides[row["identity"]].add(row["split"])
    assert Counter(next(iter(splits)) for splits in sides.values()) == {
        "train": 10,
        "val": 5,
        "test": 5,
    }
    assert all(len(splits) == 1 for splits in sides.values())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(0, 3),
)
def test_whole_clusters_are_set_aside(samples: list[tuple[int, int]], seed: int) -> None:
    clusters, strata = (torch.tensor(column) for column in zip(*samples, strict=True))
    generator = torch.Generator().manual_seed(seed)
    chosen = set_aside_whole(strata[:, None], clusters, 0.4, generator)
    aside = set(clusters[chosen].tolist())
    assert aside.isdisjoint(clusters[~chosen].tolist())
    assert len(aside) <= round(0.4 * len(set(clusters.tolist())))


# CIFAR.


def written_by_python_2(value: Any) -> bytes:
    """A pickle as the one that wrote CIFAR: protocol 2, texts and arrays as strings of bytes."""

    def encoded(value: Any) -> bytes:
        if isinstance(value, bytes):
            if len(value) < 256:
                return b"U" + struct.pack("<B", len(value)) + value
            return b"T" + struct.pack("<i", len(value)) + value
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(encoded, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(encoded(k) + encoded(v) for k, v in value.items()) + b"u"
        minus_one = b"J\xff\xff\xff\xff"
        kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        kind += b"(K\x03U\x01|NNN" + 2 * minus_one + b"K\x00tb"
        shape = b"".join(map(encoded, value.shape)) + b"\x86"
        start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return start + b"(K\x01" + shape + kind + b"\x89" + encoded(value.tobytes()) + b"tb"

    return b"\x80\x02" + encoded(value) + b"."


NAMES = [b"apple", b"bee"]
COARSE = [b"fruit", b"insects"]


def write_cifar100(encode: Any = written_by_python_2, folder: str = "cifar-100-python") -> Path:
    """Three training images and one test image of noise, as cifar-100-python has them."""
    place = Path("data", folder)
    place.mkdir(parents=True)
    for split, fine in (("train", [1, 0, 1]), ("test", [0])):
        pixels = np.random.default_rng(len(fine)).integers(0, 256, (len(fine), 3072), np.uint8)
        (place / split).write_bytes(
            encode(
                {
                    b"filenames": [b"x.png"] * len(fine),
                    b"batch_label": b"training batch 1 of 1",
                    b"fine_labels": fine,
                    b"coarse_labels": fine,
                    b"data": pixels,
                }
            )
        )
    meta = {b"fine_label_names": NAMES, b"coarse_label_names": COARSE}
    (place / "meta").write_bytes(encode(meta))
    return place


def test_the_batches_made_here_are_pickles_like_the_published_ones() -> None:
    place = write_cifar100()
    found = pickle.loads((place / "train").read_bytes(), encoding="bytes")
    assert found[b"fine_labels"] == [1, 0, 1]
    assert found[b"data"].shape == (3, 3072)


def test_cifar_100_becomes_a_csv_and_a_zip_of_the_same_pixels() -> None:
    write_cifar100()
    done("groups", "--from", "cifar100", "data")
    assert Path("labels.csv").read_text() == (
        "path,label,split,superclass\n"
        "images/train/bee/0.png,bee,train,insects\n"
        "images/train/apple/1.png,apple,train,fruit\n"
        "images/train/bee/2.png,bee,train,insects\n"
        "images/test/apple/0.png,apple,test,fruit\n"
    )
    paths = [row["path"] for row in rows(Path("labels.csv"))]
    store = open_store(Path("labels.csv"), None, paths)
    assert store.root == Path("images.zip")
    pixels = np.random.default_rng(3).integers(0, 256, (3, 3072), np.uint8)
    with Image.open(io.BytesIO(store.read(paths[1]))) as found:
        # A row has 1,024 red, then green, then blue values, each row by row.
        assert found.getpixel((5, 2)) == tuple(
            int(pixels[1, c * 1024 + 2 * 32 + 5]) for c in range(3)
        )
    again = Path("images.zip").read_bytes()
    done("groups", "--from", "cifar100", "data/cifar-100-python", "--overwrite")
    assert Path("images.zip").read_bytes() == again


@pytest.mark.parametrize("protocol", range(2, 6))
def test_batches_that_python_3_has_written_are_read(protocol: int) -> None:
    place = write_cifar100(lambda value: pickle.dumps(value, protocol))
    pixels = np.random.default_rng(3).integers(0, 256, (3, 3072), np.uint8)
    batch = read_batches("cifar100", place)["train"]
    assert np.array_equal(batch.pixels[2, :, :, 1].reshape(-1), pixels[2, 1024:2048])
    assert batch.names == {
        "label": ["bee", "apple", "bee"],
        "superclass": ["insects", "fruit", "insects"],
    }


def test_cifar_10_has_five_training_batches() -> None:
    place = Path("data/cifar-10-batches-py")
    place.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = [0] if name == "test_batch" else [int(name[-1]) % 2]
        content = {b"labels": labels, b"data": np.zeros((1, 3072), np.uint8)}
        (place / name).write_bytes(written_by_python_2(content))
    (place / "batches.meta").write_bytes(written_by_python_2({b"label_names": NAMES}))
    done("groups", "--from", "cifar10", "data")
    assert [tuple(row.values()) for row in rows(Path("labels.csv"))] == [
        (f"images/train/{name}/{i}.png", name, "train")
        for i, name in enumerate(["bee", "apple", "bee", "apple", "bee"])
    ] + [("images/test/apple/0.png", "apple", "test")]


class Runs:
    """A pickle that would run something."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: pickle.dumps({"data": Runs(Path.touch, Path("run"))}), "asks for pathlib"),
        (lambda: pickle.dumps(Runs(eval, "open('run', 'w')")), "asks for builtins.eval"),
        (lambda: b"cos\nsystem\n(S'touch run'\ntR.", "asks for posix.system|asks for os.system"),
        (lambda: b"\x80\x02cnumpy\nload\n(U\x03runtR.", "asks for numpy.load"),
        (lambda: pickle.dumps([1, 2]), "it holds no dictionary"),
        (lambda: pickle.dumps({}), "it has no 'data'"),
        (
            lambda: pickle.dumps({"data": 3, "fine_labels": [], "coarse_labels": []}),
            "batch of CIFAR",
        ),
        (lambda: b"", "batch of CIFAR"),
        (lambda: b"PK\x03\x04", "batch of CIFAR"),
        (lambda: written_by_python_2({b"data": np.zeros((1, 3072), np.uint8)})[:-40], "CIFAR"),
        (
            lambda: pickle.dumps(
                {"data": np.zeros((1, 3072)), "fine_labels": [0], "coarse_labels": [0]}
            ),
            "no array of bytes",
        ),
        (
            lambda: pickle.dumps(
                {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [-1], "coarse_labels": [0]}
            ),
            "'-1' is no class",
        ),
        (
            lambda: pickle.dumps(
                {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0], "coarse_labels": [0]}
            ),
            "has 2 images and 1 of 'label'",
        ),
    ],
)
def test_a_pickle_that_is_no_batch_is_refused_and_runs_nothing(content: Any, said: str) -> None:
    place = write_cifar100()
    (place / "train").write_bytes(content())
    (message,) = refused("groups", "--from", "cifar100", "data")
    assert message.startswith("data/cifar-100-python/train: ")
    assert any(part in message for part in said.split("|"))
    assert left() == set()


def test_missing_batches_are_named() -> None:
    (write_cifar100() / "meta").unlink()
    assert refused("groups", "--from", "cifar100", "data") == [
        "data/cifar-100-python: lacks meta of the Python version of cifar100"
    ]
    assert refused("groups", "--from", "cifar10", "data")[0].startswith(
        "data: has no file of the Python version of cifar10 (batches.meta, data_batch_1"
    )


# Folders.


def write_folders(*paths: str) -> Path:
    for path in paths:
        image(Path("data/pets", path))
    return Path("data/pets")


def test_folders_of_classes_are_split_alike_in_every_class() -> None:
    write_folders(*(f"{name}/{i}.jpg" for name, n in (("cat", 10), ("dog", 20)) for i in range(n)))
    done("groups", "--from", "imagefolder", "data/pets", "--val-share", "0.1")
    count = Counter((row["label"], row["split"]) for row in rows(Path("labels.csv")))
    assert count == {
        ("cat", "train"): 7,
        ("cat", "val"): 1,
        ("cat", "test"): 2,
        ("dog", "train"): 14,
        ("dog", "val"): 2,
        ("dog", "test"): 4,
    }
    first = Path("labels.csv").read_text()
    command = ("groups", "--from", "imagefolder", "data/pets", "--val-share", "0.1", "--overwrite")
    done(*command)
    assert Path("labels.csv").read_text() == first
    done(*command, "--seed", "1")
    assert Path("labels.csv").read_text() != first


def test_folders_of_splits_are_kept() -> None:
    write_folders(
        "Train/cat/1.jpg", "Train/dog/big/1.JPEG", "validation/cat/1.jpg", "test/cat/1.jpg"
    )
    done("groups", "--from", "imagefolder", "data/pets")
    assert Path("labels.csv").read_text() == (
        "path,label,split\n"
        "data/pets/Train/cat/1.jpg,cat,train\n"
        "data/pets/Train/dog/big/1.JPEG,dog,train\n"
        "data/pets/test/cat/1.jpg,cat,test\n"
        "data/pets/validation/cat/1.jpg,cat,val\n"
    )
    assert refused(
        "groups", "--from", "imagefolder", "data/pets", "--overwrite", "--test-share", "0.5"
    ) == ["--test-share 0.5: the data set has a test split already"]


def test_folders_that_are_no_classes_are_named() -> None:
    write_folders("train/1.jpg", "train/cat/2.jpg", "3.jpg")
    assert refused("groups", "--from", "imagefolder", "data/pets") == [
        "data/pets/3.jpg: lies in none, but in no folder that names its class",
        "data/pets/train/1.jpg: lies in a split's folder, but in no folder that names its class",
    ]
    write_folders("cat/1.jpg")
    assert (
        "train could be a split or a class among cat"
        in refused("groups", "--from", "imagefolder", "data/pets")[0]
    )


NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\\:.\0"), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=5, unique_by=str.casefold))
def test_what_is_written_is_read_as_the_same_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        image(folder / "class" / f"{name}.jpg")
    try:
        write_groups("imagefolder", folder, folder / "labels.csv", test_share=0)
    except LabelsError as error:
        if all(n.isprintable() and n == n.strip() for n in names):
            raise AssertionError(names) from error
        return
    labels = read_labels(folder / "labels.csv", groups_by="label")
    labels.raise_problems()
    assert set(labels.paths) == {f"class/{name}.jpg" for name in names}


# All of them.


def test_an_output_that_exists_is_kept() -> None:
    folder = write_folders("cat/1.jpg")
    Path("labels.csv").write_text("mine")
    (message,) = refused("groups", "--from", "imagefolder", folder)
    assert message.startswith("labels.csv: exists already; replace it with --overwrite")
    write_cifar100()
    Path("images.zip").write_text("mine")
    command = ("groups", "--from", "cifar100", "data", "-o", "cifar.csv")
    assert refused(*command)[0].startswith("images.zip: exists already")
    assert left() == {"labels.csv", "images.zip"}
    assert Path("labels.csv").read_text() == Path("images.zip").read_text() == "mine"


def test_images_elsewhere_are_named_with_data_dir() -> None:
    write_folders("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    result = done(
        "groups",
        "--from",
        "imagefolder",
        "data/pets",
        "-o",
        "csv/labels.csv",
        "--test-share",
        "0.5",
    )
    assert "--data-dir data/pets" in result.stdout
    assert {row["path"] for row in rows(Path("csv/labels.csv"))} == {
        "cat/1.jpg",
        "cat/2.jpg",
        "dog/1.jpg",
        "dog/2.jpg",
    }
    training = ("--model", "test_resnet", "--img-size", "16", "--epochs", "1", "--workers", "0")
    data = ("--groups", "csv/labels.csv", "--data-dir", "data/pets", "--groups-by", "label")
    done("dense", *data, *training, "--batch-size", "2")


def test_the_csv_of_cifar_needs_no_further_word_unless_its_folder_has_other_images() -> None:
    write_cifar100()
    assert "--data-dir" not in done("groups", "--from", "cifar100", "data").stdout
    Path("images").mkdir()
    result = done("groups", "--from", "cifar100", "data", "--overwrite")
    assert "--data-dir images.zip" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothere"], "nothere: is not a folder"),
        (["data/pets/cat/1.jpg"], "data/pets/cat/1.jpg: is not a folder; unpack it first"),
        ([], "--from imagefolder needs the folder of the data set"),
        (["data/empty"], "data/empty: has no image"),
        (["data/pets", "--test-share", "1"], "have to be fractions"),
        (["data/pets", "--test-share", "0.6", "--val-share", "0.5"], "have to be fractions"),
        (["data/pets", "--seed", "x"], "--seed: 'x' is not"),
        (["data/pets", "--seed", "-1"], "--seed: -1 must be"),
        (["data/pets", "--val-share", "nan"], "have to be fractions"),
        (["data/pets", "--val-share", "ten"], "--val-share: 'ten' is not a number"),
        (["data/pets", "--groups-by", "race"], "--groups-by: imagefolder has no 'race'"),
        (["data/pets", "--missing", "some"], "--missing: 'some' is not one of error, group, drop"),
        (["data/pets", "-o", "data/pets/cat"], "data/pets/cat: "),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: list[str], said: str) -> None:
    write_folders("cat/1.jpg", "dog/1.jpg")
    Path("data/empty").mkdir()
    assert said in refused("groups", "--from", "imagefolder", *arguments)[0]
    assert left() == set()


def test_layouts_that_are_not_known_have_a_nearest() -> None:
    (message,) = refused("groups", "--from", "utk-face", "data")
    assert message == (
        "--from: 'utk-face' is not one of utkface, fairface, cifar10, cifar100, celeba, "
        "imagefolder; did you mean 'utkface'?"
    )


def test_options_without_effect_are_named() -> None:
    write_folders("cat/1.jpg", "dog/1.jpg")
    result = done("groups", "--from", "imagefolder", "data/pets", "--eps", "0.1")
    assert "warning: --eps has no effect with --from" in result.stderr
    result = ceag("groups", "labels.csv", "--groups-by", "label", "--seed", "1")
    assert "warning: --seed has no effect without --from" in result.stderr


def test_it_is_a_function_too(tmp_path: Path) -> None:
    folder = write_folders("cat/1.jpg", "dog/1.jpg")
    found = write_groups("imagefolder", folder, tmp_path / "a.csv", test_share=0)
    assert found.images == {"train": 2}
    assert found.columns == ("path", "label", "split")
    with pytest.raises(CeagError, match="exists already"):
        write_groups("imagefolder", folder, tmp_path / "a.csv")
