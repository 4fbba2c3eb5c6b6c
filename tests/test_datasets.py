"""Data sets of timm joined with a groups CSV.

Traps in timm's data layer that would make an audit quietly wrong, and the test that closes each:

- A split that is not there becomes the whole folder, or another split of a like name:
  ``test_a_split_that_is_not_there_is_not_replaced``; in torchvision's data sets any word but
  "train" means test: ``test_torch_splits_are_not_guessed``.
- An unreadable image is replaced by its neighbour: ``test_an_unreadable_image_is_named``.
- Samplers repeat images to even out processes: ``test_two_processes_count_every_image_once``.
- Class order: folders are sorted in natural order by timm and as text by torchvision:
  ``test_classes_are_told_by_their_names_not_by_an_order`` and
  ``test_the_number_that_a_sorting_gives_a_folder_is_no_name_of_it``.
- Averages of batches are averaged: ``test_accuracies_do_not_depend_on_the_batches``.
- Training loaders augment and shuffle: ``test_train_images_are_audited_as_they_are``.
- A kind of data set that timm does not know becomes a folder:
  ``test_a_misspelt_kind_is_not_taken_for_a_folder``.
- Images whose class is in no class map are left out: ``test_a_class_map_leaves_no_image_out``.
- The list of a .tar's members that timm keeps beside it stays when the .tar is written anew:
  ``test_a_list_of_members_beside_a_tar_is_not_believed``.
- Files that share an open .tar share its position: ``test_a_tar_is_read_by_many_processes``.
- Streams have no order that is fixed: ``test_the_place_in_a_stream_means_nothing``; nor have files
  that timm's sorting finds equal: ``test_a_place_among_equal_names_means_nothing``.
- Rows without an image, images without a row, images named twice, labels that disagree: the tests
  of the join below.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import shutil
import struct
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from test_distributed import torchrun
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torchvision.datasets import CIFAR10
from toys import COLOURS, TINY, TRAIN, ceag, done, write_csv, write_images

from ceag_cli.data import Data, open_data
from ceag_cli.datasetnames import not_a_dataset
from ceag_cli.errors import CeagError, ImageError, OptionError
from ceag_cli.options import AuditOptions
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.references import DatasetReference, GroupsReference, Reference
from ceag_cli.sharedoptions import DataOptions

Rows = list[dict[str, str]]

HALF = Preprocessing((3, 16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")


class Listening(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def write_data(folder: Path, *, by_split: bool = False) -> Rows:
    """36 images as ``toys`` makes them, in ``data/CLASS/`` or ``data/SPLIT/CLASS/``; their rows."""
    source = write_images(folder / "source")
    with source.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        parts = ([row["split"]] if by_split else []) + [row["label"], Path(row["path"]).name]
        target = folder.joinpath("data", *parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.parent / row["path"], target)
        row["path"] = "/".join(parts)
    shutil.rmtree(source.parent)
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str] = ()) -> Path:
    """The groups CSV."""
    header = columns or ("path", "label", "split", "group")
    return write_csv(path, [[row[name] for name in header] for row in rows], header)


def pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    """All files of a folder in a .tar, in no special order."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                tar.add(path, f"{prefix}{path.relative_to(folder).as_posix()}")
    return archive


def opened(folder: Path, dataset: str, **more: Any) -> Data:
    """Join ``labels.csv`` with a data set in ``data``, or elsewhere."""
    arguments: dict[str, Any] = {"data_dir": str(folder / "data")} | more
    listener = arguments.pop("reporter", Quiet())
    options = DataOptions(groups=str(folder / "labels.csv"), dataset=dataset, **arguments)
    data = open_data(options, [], listener, "dense")
    data.labels.raise_problems()
    return data


def problems(folder: Path, dataset: str, **more: Any) -> list[str]:
    """Everything that is wrong, without the folder's own path."""
    with pytest.raises(CeagError) as error:
        opened(folder, dataset, **more)
    return [problem.replace(f"{folder}/", "") for problem in error.value.problems]


def pixels_of(data: Data) -> dict[str, bytes]:
    """The bytes of the image of each row, by split, label and group and the row's number."""
    return {
        f"{row} {data.labels.label.words()[row]}": data.store.read(path)
        for row, path in enumerate(data.labels.paths)
    }


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """A folder of images by class, and the CSV that names them."""
    found = write_data(tmp_path)
    write_rows(tmp_path / "labels.csv", found)
    return found


@pytest.fixture
def split_rows(tmp_path: Path) -> Rows:
    """The same with a folder for each split."""
    found = write_data(tmp_path, by_split=True)
    write_rows(tmp_path / "labels.csv", found)
    return found


SPLITS = {"train_split": "train", "test_split": "test"}


# Kinds of data sets


def test_a_folder_gives_the_images_that_the_csv_names(tmp_path: Path, rows: Rows) -> None:
    data = opened(tmp_path, "folder")
    expected = [(tmp_path / "data" / row["path"]).read_bytes() for row in rows]
    assert [data.store.read(path) for path in data.labels.paths] == expected
    assert data.labels.label.words() == [row["label"] for row in rows]


def tar_of_tars(folder: Path, inner: Path) -> Path:
    for of_class in sorted((folder / "data").iterdir()):
        pack(of_class, inner / f"{of_class.name}.tar")
    return pack(inner, folder / "all.tar")


@pytest.mark.parametrize("kind", ["a tar", "with ./", "a tar of tars", "a folder of tars"])
def test_a_tar_gives_the_same_images_as_the_folder(tmp_path: Path, rows: Rows, kind: str) -> None:
    expected = pixels_of(opened(tmp_path, "folder"))
    inner = tmp_path / "inner"
    inner.mkdir()
    if kind in ("a tar", "with ./"):
        where = pack(tmp_path / "data", tmp_path / "all.tar", "./" if kind == "with ./" else "")
    else:
        whole = tar_of_tars(tmp_path, inner)
        where = whole if kind == "a tar of tars" else inner
        named = [row | {"path": row["path"].replace("/", ".tar/")} for row in rows]
        write_rows(tmp_path / "labels.csv", named)
    data = opened(tmp_path, "tar", data_dir=str(where))
    assert pixels_of(data) == expected
    assert data.dataset is not None
    assert data.dataset.labels == "check"  # and they agree


def test_files_of_other_kinds(tmp_path: Path, rows: Rows) -> None:
    extensions: Callable[[], tuple[str, ...]] = get_img_extensions
    usual = extensions()
    for row in rows[:2]:
        path = tmp_path / "data" / row["path"]
        Image.open(path).save(path.with_suffix(".webp"), lossless=True)
        path.unlink()
        row["path"] = row["path"].replace(".png", ".webp")
    write_rows(tmp_path / "labels.csv", rows)
    pack(tmp_path / "data", tmp_path / "all.tar")
    for dataset, where in (("folder", "data"), ("tar", "all.tar")):
        more = {"data_dir": str(tmp_path / where)}
        assert len(problems(tmp_path, dataset, **more)) == 2
        data = opened(tmp_path, dataset, input_key=".webp;.png", **more)
        expected = [(tmp_path / "data" / row["path"]).read_bytes() for row in rows]
        assert [data.store.read(path) for path in data.labels.paths] == expected
    assert extensions() == usual


def test_a_folder_for_each_split(tmp_path: Path, split_rows: Rows) -> None:
    whole = pixels_of(opened(tmp_path, "folder"))
    assert pixels_of(opened(tmp_path, "folder", **SPLITS)) == whole
    for split in ("train", "test"):
        pack(tmp_path / "data" / split, tmp_path / "data" / f"{split}.tar")
        shutil.rmtree(tmp_path / "data" / split)
    named = [row | {"path": row["path"].replace("/", ".tar/", 1)} for row in split_rows]
    write_rows(tmp_path / "labels.csv", named)
    tars = {"train_split": "train.tar", "test_split": "test.tar"}
    assert pixels_of(opened(tmp_path, "tar", **tars)) == whole


@pytest.mark.parametrize("splits", [{}, SPLITS], ids=["whole", "split"])
def test_torchvisions_folder(tmp_path: Path, split_rows: Rows, splits: dict[str, str]) -> None:
    """Its classes are the folders at the top, which are the splits where none is named."""
    labels = {} if splits else {"dataset_labels": "ignore"}
    data = opened(tmp_path, "torch/image_folder", **splits, **labels)
    assert pixels_of(data) == pixels_of(opened(tmp_path, "folder"))


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """Batches as CIFAR-10 has them, of twelve images in all; returns the pixels, channels last."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    base = folder / "data" / CIFAR10.base_folder
    base.mkdir(parents=True)
    checksums = {}

    def write(name: str, content: dict[str, Any]) -> None:
        found = pickle.dumps(content)
        (base / name).write_bytes(found)
        checksums[name] = hashlib.md5(found).hexdigest()

    for number, name in enumerate(["data_batch_1", "data_batch_2", "test_batch"]):
        part = pixels[4 * number : 4 * number + 4]
        flat = part.transpose(0, 3, 1, 2).reshape(4, -1)
        write(name, {"data": flat, "labels": [number, 1, 2, number]})
    write("batches.meta", {"label_names": ["plane", "car", "bird"]})
    train = [[name, checksums[name]] for name in ("data_batch_1", "data_batch_2")]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": checksums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return pixels


CIFAR_ROWS = [
    *({"index": str(i), "split": "train", "group": "ab"[i % 2]} for i in range(8)),
    *({"index": str(i), "split": "test", "group": "ab"[i % 2]} for i in range(4)),
]
CIFAR_LABELS = ["plane", "car", "bird", "plane", "car", "car", "bird", "car"]
CIFAR_LABELS += ["bird", "car", "bird", "bird"]


def test_cifar_is_joined_by_place_and_has_its_own_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_cifar10(tmp_path, monkeypatch)
    backwards = list(reversed(CIFAR_ROWS))
    write_rows(tmp_path / "labels.csv", backwards, ["index", "split", "group"])
    data = opened(tmp_path, "torch/cifar10", **SPLITS)
    assert data.labels.label.words() == CIFAR_LABELS[::-1]
    assert data.labels.paths[0] == "test/3"
    for path, expected in zip(data.labels.paths, pixels[::-1], strict=True):
        decoded = Image.open(io.BytesIO(data.store.read(path)))
        assert np.array_equal(np.asarray(decoded), expected)


def test_the_datas_own_numbers_are_names_of_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the data set itself has numbers; those of folders come of a sorting."""
    write_cifar10(tmp_path, monkeypatch)
    number = {"plane": "0", "car": "1", "bird": "2"}
    labelled = [
        row | {"label": number[label]} for row, label in zip(CIFAR_ROWS, CIFAR_LABELS, strict=True)
    ]
    header = ["index", "split", "label", "group"]
    write_rows(tmp_path / "labels.csv", labelled, header)
    opened(tmp_path, "torch/cifar10", **SPLITS)
    labelled[1]["label"] = "0"
    write_rows(tmp_path / "labels.csv", labelled, header)
    (problem,) = problems(tmp_path, "torch/cifar10", **SPLITS)
    assert "row 3: label '0' (column 'label')" in problem
    assert "own class of 'train/1' is 'car'" in problem


def write_mnist(folder: Path) -> None:
    """Raw files as MNIST has them: 24 train and 12 test images in two shades."""
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 24), ("t10k", 12)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, :, 14:] = np.arange(count)[:, None, None] * 3
        images[1::2, :14] += 150
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        targets = bytes(i % 2 for i in range(count))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + targets)


def test_mnist_from_dense_to_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = [
        {"index": str(i), "split": split, "group": "ab"[i % 3 == 0]}
        for split, count in (("train", 24), ("test", 12))
        for i in range(count)
    ]
    write_rows(tmp_path / "labels.csv", found, ["index", "split", "group"])
    data = ("--dataset", "torch/mnist", "--data-dir", "data")
    splits = ("--train-split", "train", "--test-split", "test")
    small = ("--in-chans", "1", "--epochs", "1")
    done("dense", "--groups", "labels.csv", *data, *splits, *TINY, *small)
    done("prune", "--sparsity", "0.5")
    done("mitigate", "--epochs", "1", "--batch-size", "8", "--workers", "0")
    result = ceag("audit", "--workers", "0", "--format", "json")
    assert result.exit_code in (0, 1, 3)
    document = json.loads(result.stdout)
    assert document["data"]["dataset"]["name"] == "torch/mnist"
    assert document["data"]["dataset"]["splits"] == {"train": "train", "test": "test"}
    assert [split["n"] for split in document["splits"]] == [24, 12]


def test_imagenet_as_torchvision_unpacks_it(tmp_path: Path, split_rows: Rows) -> None:
    (tmp_path / "data" / "test").rename(tmp_path / "data" / "val")
    torch.save(({name: (name.upper(),) for name in COLOURS}, []), tmp_path / "data" / "meta.bin")
    named = [row | {"path": row["path"].replace("test/", "val/")} for row in split_rows]
    write_rows(tmp_path / "labels.csv", named)
    data = opened(tmp_path, "torch/imagenet", train_split="train", test_split="val")
    assert data.labels.label.words() == [row["label"] for row in split_rows]
    (tmp_path / "data" / "meta.bin").unlink()
    (problem, _) = problems(tmp_path, "torch/imagenet", train_split="train", test_split="val")
    assert "beside a meta.bin" in problem


def test_inaturalist_has_no_order(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "2021_valid" / "00000_Animalia_A_B_C_D_E_felis"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "x.jpg")
    name = f"{folder.relative_to(tmp_path / 'data').as_posix()}/x.jpg"
    row = {"path": name, "index": "0", "split": "test", "group": "a"}
    write_rows(tmp_path / "labels.csv", [row], ["path", "split", "group"])
    data = opened(tmp_path, "torch/inaturalist", test_split="2021_valid")
    assert data.labels.label.words() == [folder.name]
    write_rows(tmp_path / "labels.csv", [row], ["index", "split", "group"])
    (problem,) = problems(tmp_path, "torch/inaturalist", test_split="2021_valid")
    assert "the place of an image is not fixed" in problem


# webdataset and Hugging Face, where they are installed


def write_shards(folder: Path, rows: Rows) -> Rows:
    """Two shards for train and one for test, with numbers as classes; returns the rows for them."""
    number = {name: str(i) for i, name in enumerate(COLOURS)}
    parts = {"train-0.tar": rows[:12], "train-1.tar": rows[12:TRAIN], "test-0.tar": rows[TRAIN:]}
    (folder / "shards").mkdir()
    found = []
    for shard, of_shard in parts.items():
        with tarfile.open(folder / "shards" / shard, "w") as tar:
            for i, row in enumerate(of_shard):  # keys begin anew in each shard
                content = (folder / "data" / row["path"]).read_bytes()
                about = json.dumps({"colour": row["label"]}).encode()
                members = {"cls": number[row["label"]].encode(), "json": about, "png": content}
                for extension, text in members.items():
                    member = tarfile.TarInfo(f"{i:04d}.{extension}")
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text))
                found.append(row | {"path": f"{shard}/{i:04d}.png", "index": str(i)})
    return found


SHARDS = {"train_split": "train-{0..1}.tar", "test_split": "test-0.tar"}


def with_shards(folder: Path, rows: Rows, **more: str) -> dict[str, Any]:
    pytest.importorskip("webdataset")
    write_rows(folder / "labels.csv", write_shards(folder, rows))
    return {"data_dir": str(folder / "shards")} | SHARDS | more


def test_shards_of_webdataset(tmp_path: Path, rows: Rows) -> None:
    expected = pixels_of(opened(tmp_path, "folder"))
    where = with_shards(tmp_path, rows, target_key="colour")
    assert pixels_of(opened(tmp_path, "wds", **where)) == expected
    del where["target_key"]  # then it is the number, which no row has
    found = problems(tmp_path, "wds", **where)
    assert len(found) == 3
    assert "label 'blue' (column 'label')" in found[0]
    assert "'train-0.tar/0000.png' is '0' (and 11 more rows)" in found[0]


def test_a_shard_that_is_not_there(tmp_path: Path, rows: Rows) -> None:
    where = with_shards(tmp_path, rows) | {"train_split": "train-{0..2}.tar"}
    found = problems(tmp_path, "wds", **where)
    assert found[0] == "shards: there is no shard 'train-2.tar'"
    outside = problems(tmp_path, "wds", **where | {"train_split": "../other-{0..1}.tar"})
    assert "there is no shard '../other-0.tar'" in outside[0]


def test_the_place_in_a_stream_means_nothing(tmp_path: Path, rows: Rows) -> None:
    pytest.importorskip("webdataset")
    found = write_shards(tmp_path, rows)
    write_rows(tmp_path / "labels.csv", found, ["index", "label", "split", "group"])
    where = {"data_dir": str(tmp_path / "shards")} | SHARDS
    for problem in problems(tmp_path, "wds", **where):
        assert "the place of an image is not fixed: it is read shard by shard" in problem
        assert "column path" in problem


@pytest.fixture
def hugging_face(tmp_path: Path, rows: Rows) -> Callable[[bool], dict[str, Any]]:
    """Writes .parquet files whose images have names, or none; how they are opened."""
    datasets = pytest.importorskip("datasets")

    def write(named: bool) -> dict[str, Any]:
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
        (tmp_path / "hub").mkdir()
        for split in ("train", "test"):
            part = [row for row in rows if row["split"] == split]
            images = [
                {
                    "bytes": (tmp_path / "data" / row["path"]).read_bytes(),
                    "path": Path(row["path"]).name if named else None,
                }
                for row in part
            ]
            content = {"image": images, "label": [row["label"] for row in part]}
            whole = datasets.Dataset.from_dict(content, features=datasets.Features(kinds))
            whole.to_parquet(tmp_path / "hub" / f"{split}.parquet")
        return SPLITS | {"data_dir": str(tmp_path / "kept")}

    return write


def test_hugging_face_by_name(
    tmp_path: Path, rows: Rows, hugging_face: Callable[[bool], dict[str, Any]]
) -> None:
    expected = pixels_of(opened(tmp_path, "folder"))
    where = hugging_face(True)
    named = [row | {"path": f"{row['split']}/{Path(row['path']).name}"} for row in rows]
    write_rows(tmp_path / "labels.csv", named)
    assert pixels_of(opened(tmp_path, f"hfds/{tmp_path / 'hub'}", **where)) == expected


def test_hugging_face_by_place(
    tmp_path: Path, rows: Rows, hugging_face: Callable[[bool], dict[str, Any]]
) -> None:
    expected = pixels_of(opened(tmp_path, "folder"))
    where = hugging_face(False)
    name = f"hfds/{tmp_path / 'hub'}"
    assert "have no names; give their place" in problems(tmp_path, name, **where)[0]
    placed = [row | {"index": str(i % TRAIN)} for i, row in enumerate(rows)]
    write_rows(tmp_path / "labels.csv", placed, ["index", "split", "group"])
    assert pixels_of(opened(tmp_path, name, **where)) == expected
    found = problems(tmp_path, name, **where | {"test_split": "tset"})
    assert len(found) == 1
    assert "split 'tset': cannot be read: Unknown split" in found[0]


def test_nothing_of_hugging_face_is_downloaded(
    tmp_path: Path, rows: Rows, hugging_face: Callable[[bool], dict[str, Any]]
) -> None:
    where = hugging_face(True)
    (problem,) = problems(tmp_path, "hfds/user/faces", **where)
    assert "there is no folder 'user/faces', and nothing is downloaded" in problem
    assert "--local-dir DIR" in problem
    files = "configs: [{config_name: x, data_files: 'https://example.org/a.parquet'}]"
    (tmp_path / "hub" / "README.md").write_text(f"---\n{files}\n---\n")
    found = problems(tmp_path, f"hfds/{tmp_path / 'hub'}", **where)
    assert "hub/README.md: names 'https://example.org/a.parquet'" in found[0]


@pytest.mark.parametrize(
    ("dataset", "package", "extra"),
    [("hfds/{data}", "datasets", "hfds"), ("wds", "webdataset", "wds")],
)
def test_a_package_that_is_missing_is_named(
    tmp_path: Path,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    found = problems(tmp_path, dataset.format(data=tmp_path / "data"), **SPLITS)
    remedy = f"needs the package {package}: pip install 'ceag[{extra}]'"
    assert [remedy in problem for problem in found] == [True, True]


# Kinds that there are not


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hdfs/x", "'hdfs/x' is not one of csv, folder, tar, torch/NAME, hfds/PATH, wds"),
        ("fodler", "did you mean 'folder'?"),
        ("torch/cifar11", "did you mean 'cifar10'?"),
        ("tfds/mnist", "decodes images by itself; write them to a folder"),
        ("hfids/x", "is a stream"),
        ("hfds/", "is not one of"),
    ],
)
def test_a_misspelt_kind_is_not_taken_for_a_folder(name: str, expected: str) -> None:
    assert expected in (not_a_dataset(name) or "")
    with pytest.raises(OptionError, match="--dataset: "):
        AuditOptions(dataset=name)


@pytest.mark.parametrize(
    "name", ["csv", "folder", "tar", "torch/qmnist", "hfds/a/b", "wds", "wds/imagenet"]
)
def test_kinds_that_there_are(name: str) -> None:
    assert not_a_dataset(name) is None


@pytest.mark.parametrize(
    ("dataset", "data_dir", "expected"),
    [
        ("folder", "data.tar", "is a file, and --dataset folder takes a folder; for a .tar it is"),
        ("tar", "data", "holds no .tar; for a folder of images it is --dataset folder"),
        ("tar", "labels.csv", "is no .tar"),
        ("tar", "empty.tar", "holds no image of the kinds .jpeg, .jpg, .png; name others"),
        ("tar", "damaged.tar", "cannot be read"),
        ("folder", "empty", "holds no image of the kinds .jpeg, .jpg, .png; name others"),
        ("folder", "nowhere", "does not exist, and nothing is downloaded"),
        ("torch/mnist", "data", "nothing is downloaded: put the files there"),
        ("torch/image_folder", "labels.csv", "is no folder"),
        ("wds", "labels.csv", "is no folder of shards"),
    ],
)
def test_what_is_no_such_data_set_is_refused(
    tmp_path: Path, rows: Rows, dataset: str, data_dir: str, expected: str
) -> None:
    pack(tmp_path / "data", tmp_path / "data.tar")
    tarfile.open(tmp_path / "empty.tar", "w").close()
    (tmp_path / "damaged.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "empty").mkdir()
    splits = SPLITS if dataset == "torch/mnist" else {}
    found = problems(tmp_path, dataset, data_dir=str(tmp_path / data_dir), **splits)
    assert expected in found[0]


def test_options_without_a_data_set_are_refused(tmp_path: Path, rows: Rows) -> None:
    options = DataOptions(groups=str(tmp_path / "labels.csv"), train_split="a", unlisted="drop")
    with pytest.raises(OptionError, match="--train-split, --unlisted: there is no data set"):
        open_data(options, [], Quiet(), "dense")
    assert "needs --data-dir" in problems(tmp_path, "folder", data_dir=None)[0]
    assert "has no meaning" in problems(tmp_path, "folder", target_key="x")[0]
    assert "has no meaning" in problems(tmp_path, "torch/image_folder", input_key="x")[0]
    for wrong in ("webp", ".PNG", ".png,.jpg", ""):
        assert "it is extensions in small" in problems(tmp_path, "tar", input_key=wrong)[0]


# Splits


def test_a_split_that_is_not_there_is_not_replaced(tmp_path: Path, split_rows: Rows) -> None:
    """timm would take "training" for "train", and all of the folder for "tests"."""
    found = problems(tmp_path, "folder", train_split="training", test_split="tests")
    assert found == [
        "data: has no split 'training'; did you mean 'train'?; there are test, train",
        "data: has no split 'tests'; did you mean 'test'?; there are test, train",
    ]
    for outside in ("../data/train", str(tmp_path / "data" / "train")):
        assert "has no split" in problems(tmp_path, "folder", train_split=outside)[0]


def test_torch_splits_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    write_rows(tmp_path / "labels.csv", CIFAR_ROWS, ["index", "split", "group"])
    wrong = SPLITS | {"train_split": "trian"}
    (problem,) = problems(tmp_path, "torch/cifar10", **wrong)
    assert problem.endswith("has no split 'trian'; did you mean 'train'?; there are train, test")
    (problem,) = problems(tmp_path, "torch/cifar10")
    assert "has the splits train, test; say which" in problem


def test_rows_of_a_split_that_is_not_named(tmp_path: Path, split_rows: Rows) -> None:
    (problem,) = problems(tmp_path, "folder", train_split="train")
    assert "rows have split 'test', and no split of the data set is named for it" in problem
    assert "--test-split" in problem


def test_an_image_of_another_split(tmp_path: Path, split_rows: Rows) -> None:
    split_rows[0]["split"] = split_rows[9]["split"] = "test"
    split_rows[30]["split"] = "train"
    write_rows(tmp_path / "labels.csv", split_rows)
    problem, other = problems(tmp_path, "folder", **SPLITS)
    assert other.startswith("labels.csv row 32: image 'test/blue/30.png' is in split 'test'")
    assert problem == (
        "labels.csv row 2: image 'train/blue/0.png' is in split 'train' of the data set, but the "
        "row's split is 'test', for which --test-split names 'test' (and 1 more rows)"
    )


def test_two_splits_of_the_csv_may_be_one_of_the_data_set(tmp_path: Path, split_rows: Rows) -> None:
    for row in split_rows[:6]:
        row["split"] = "val"
    write_rows(tmp_path / "labels.csv", split_rows)
    data = opened(tmp_path, "folder", val_split="train", **SPLITS)
    assert [len(data.labels.rows(split)) for split in ("train", "val", "test")] == [18, 6, 12]


# Rows and images


def test_rows_without_an_image_and_images_without_a_row(tmp_path: Path, rows: Rows) -> None:
    rows[3]["path"] = "blue/nine.png"
    rows[4]["path"] = "green/4.webp"
    write_rows(tmp_path / "labels.csv", rows[:-6])
    found = problems(tmp_path, "folder")
    assert found == [
        "labels.csv: 8 images of the data set have no row ('blue/3.png', 'blue/30.png', "
        "'blue/33.png', 'green/4.png', 'green/31.png', ...); add rows, or leave them out with "
        "--unlisted drop",
        "labels.csv row 5: there is no image 'blue/nine.png' in data",
        "labels.csv row 6: there is no image 'green/4.webp' in data (taken are files of the kinds "
        ".jpeg, .jpg, .png; others with --input-key)",
    ]


def test_images_without_a_row_are_left_out_where_that_is_said(tmp_path: Path, rows: Rows) -> None:
    write_rows(tmp_path / "labels.csv", rows[:-1])
    listener = Listening()
    data = opened(tmp_path, "folder", unlisted="drop", reporter=listener)
    assert (len(data.labels.paths), data.unlisted) == (35, 1)
    assert any(
        "1 image of the data set has no row ('red/35.png')" in text
        and "left out (--unlisted drop)" in text
        for text in listener.said
    )
    about = data.about_dataset()
    assert about is not None
    assert about["left_out"] == 1


def test_no_image_at_all(tmp_path: Path, rows: Rows) -> None:
    named = [row | {"path": f"x/{row['path']}"} for row in rows]
    write_rows(tmp_path / "labels.csv", named)
    found = problems(tmp_path, "folder", unlisted="drop")
    assert found == [
        "labels.csv: none of its 36 images is in data (first: 'x/blue/0.png'); they are called "
        "otherwise there: the data set has 'blue/0.png', ..."
    ]


def test_a_row_left_out_for_its_group_is_a_row_all_the_same(tmp_path: Path, rows: Rows) -> None:
    rows[0]["group"] = ""
    write_rows(tmp_path / "labels.csv", rows)
    data = opened(tmp_path, "folder", missing="drop")
    assert (len(data.labels.paths), data.unlisted) == (35, 0)


def test_two_rows_for_an_image(tmp_path: Path, rows: Rows) -> None:
    write_rows(tmp_path / "labels.csv", [*rows, rows[0] | {"path": "./blue//0.png"}])
    (problem,) = problems(tmp_path, "folder")
    assert problem == "labels.csv row 38: path 'blue/0.png' was given in row 2 already"
    placed = [row | {"index": str(i)} for i, row in enumerate(rows)]
    placed[5]["index"] = "04"
    write_rows(tmp_path / "labels.csv", placed, ["index", "split", "group"])
    found = problems(tmp_path, "folder", unlisted="drop")
    assert any("row 7: path" in text and "was given in row 6 already" in text for text in found)


def test_two_images_of_a_name(tmp_path: Path, rows: Rows) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in ("blue/0.png", "blue/0.png", "./blue/3.png", "blue/3.png"):
            tar.add(tmp_path / "data" / name, name)
    found = problems(tmp_path, "tar", data_dir=str(tmp_path / "all.tar"))
    assert found == [
        "all.tar: two images are called 'blue/0.png'; name them apart",
        "all.tar: two images are called 'blue/3.png'; name them apart",
    ]


def test_columns_that_name_the_image(tmp_path: Path, rows: Rows) -> None:
    both = [row | {"index": "0"} for row in rows]
    write_rows(tmp_path / "labels.csv", both, ["path", "index", "label", "split", "group"])
    (problem,) = problems(tmp_path, "folder")
    assert "needs exactly one of the columns path, file_name, filename, index" in problem
    assert problem.endswith("found path, index")
    named = [row | {"filename": row["path"]} for row in rows]
    write_rows(tmp_path / "labels.csv", named, ["filename", "label", "split", "group"])
    assert len(opened(tmp_path, "folder").labels.paths) == 36


# By place


def natural_order(rows: Rows) -> Rows:
    return sorted(rows, key=lambda r: (r["label"], int(Path(r["path"]).stem)))


def test_places_in_a_folder_are_those_of_timm(tmp_path: Path, rows: Rows) -> None:
    expected = pixels_of(opened(tmp_path, "folder"))
    place = {row["path"]: str(i) for i, row in enumerate(natural_order(rows))}
    placed = [row | {"index": place[row["path"]]} for row in rows]
    write_rows(tmp_path / "labels.csv", placed, ["index", "label", "split", "group"])
    data = opened(tmp_path, "folder")
    assert pixels_of(data) == expected
    assert data.labels.paths == [row["path"] for row in rows]  # files go by their names


@pytest.mark.parametrize("index", ["36", "-1", "1.0", "", "x", "²", "1" * 5000])
def test_a_place_that_there_is_not(tmp_path: Path, rows: Rows, index: str) -> None:
    placed = [row | {"index": str(i)} for i, row in enumerate(natural_order(rows))]
    placed[35]["index"] = index
    write_rows(tmp_path / "labels.csv", placed, ["index", "label", "split", "group"])
    found = problems(tmp_path, "folder", unlisted="drop")
    assert found == [f"labels.csv row 37: there is no image at index '{index}' (it has 0 to 35)"]


def test_a_place_among_equal_names_means_nothing(tmp_path: Path, rows: Rows) -> None:
    placed = [row | {"index": str(i)} for i, row in enumerate(natural_order(rows))]
    write_rows(tmp_path / "labels.csv", placed, ["index", "label", "split", "group"])
    shutil.copy(tmp_path / "data/blue/0.png", tmp_path / "data/blue/00.png")
    (problem,) = problems(tmp_path, "folder")
    assert "are equal to timm's sorting, so their order depends on the file system" in problem
    assert "blue/00.png" in problem


# Labels


def test_labels_that_disagree_are_told_together(tmp_path: Path, rows: Rows) -> None:
    for row in rows[:7]:
        row["label"] = "blue"
    write_rows(tmp_path / "labels.csv", rows)
    found = problems(tmp_path, "folder")
    assert [problem[: problem.index("; ")] for problem in found] == [
        "labels.csv row 3: label 'blue' (column 'label'), but the data set's own class of "
        "'green/1.png' is 'green' (and 1 more rows)",
        "labels.csv row 4: label 'blue' (column 'label'), but the data set's own class of "
        "'red/2.png' is 'red' (and 1 more rows)",
    ]
    assert "--class-map" in found[0]
    assert "--dataset-labels ignore" in found[0]
    data = opened(tmp_path, "folder", dataset_labels="ignore")
    assert data.labels.label.words()[:7] == ["blue"] * 7


def test_names_of_one_output_are_one_class(tmp_path: Path, rows: Rows) -> None:
    named = [row | {"label": row["label"].upper()} for row in rows]
    write_rows(tmp_path / "labels.csv", named)
    assert len(problems(tmp_path, "folder")) == 3
    outputs = {name: i for i, name in enumerate(COLOURS)}
    upper = {name.upper(): i for name, i in outputs.items()}
    (tmp_path / "map.json").write_text(json.dumps(outputs | upper))
    assert len(opened(tmp_path, "folder", class_map=str(tmp_path / "map.json")).labels.paths) == 36


def test_a_class_map_leaves_no_image_out(tmp_path: Path, rows: Rows) -> None:
    """timm's readers take the images of the classes in the map and pass over all others."""
    (tmp_path / "map.txt").write_text("blue\ngreen\n")
    data = opened(tmp_path, "folder", class_map=str(tmp_path / "map.txt"))
    assert len(data.labels.paths) == 36


def test_without_a_label_column_the_data_sets_classes_are_labels_and_groups(
    tmp_path: Path, rows: Rows
) -> None:
    write_rows(tmp_path / "labels.csv", rows, ["path", "split", "group"])
    data = opened(tmp_path, "folder", groups_by="label,group")
    assert data.labels.label.words() == [row["label"] for row in rows]
    assert data.labels.grouping.values == (("blue", "green", "red"), ("even", "odd"))
    assert "no label column 'label'" in problems(tmp_path, "folder", dataset_labels="ignore")[0]
    assert "no label column 'kind'" in problems(tmp_path, "folder", label_column="kind")[0]


def test_classes_are_told_by_their_names_not_by_an_order(tmp_path: Path) -> None:
    """Of the folders 10, 2 and 1 timm makes the classes 2, 1 and 0, torchvision 1, 2 and 0."""
    found = []
    for name in ("10", "2", "1"):
        for i in range(2):
            path = tmp_path / "data" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (int(name), i, 0)).save(path)
            found.append({"path": f"{name}/{i}.png", "split": "train", "group": "ab"[i]})
    write_rows(tmp_path / "labels.csv", found, ["path", "split", "group"])
    for dataset in ("folder", "torch/image_folder"):
        data = opened(tmp_path, dataset)
        assert data.labels.label.words() == ["10", "10", "2", "2", "1", "1"]
    labelled = [row | {"label": "2" if row["path"][:2] == "10" else "1"} for row in found]
    write_rows(tmp_path / "labels.csv", labelled, ["path", "label", "split", "group"])
    for dataset in ("folder", "torch/image_folder"):
        assert len(problems(tmp_path, dataset)) == 2


def test_the_number_that_a_sorting_gives_a_folder_is_no_name_of_it(
    tmp_path: Path, rows: Rows
) -> None:
    number = {name: str(i) for i, name in enumerate(COLOURS)}
    write_rows(tmp_path / "labels.csv", [row | {"label": number[row["label"]]} for row in rows])
    pack(tmp_path / "data", tmp_path / "all.tar")
    assert len(problems(tmp_path, "folder")) == 3
    assert len(problems(tmp_path, "torch/image_folder")) == 3
    assert len(problems(tmp_path, "tar", data_dir=str(tmp_path / "all.tar"))) == 3


# Bytes


def test_an_unreadable_image_is_named(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "data" / "red" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    pack(tmp_path / "data", tmp_path / "all.tar")
    for dataset, where in (("folder", "data"), ("tar", "all.tar")):
        data = opened(tmp_path, dataset, data_dir=str(tmp_path / where))
        data.targets = torch.zeros(36, dtype=torch.int64)
        options = AuditOptions(workers=0)
        with pytest.raises(ImageError, match=r"row 7: image 'red/5\.png' in .* cannot be read"):
            data.split("train", HALF, options, Quiet())


def test_a_tar_that_was_cut_short(tmp_path: Path, rows: Rows) -> None:
    archive = pack(tmp_path / "data", tmp_path / "all.tar")
    data = opened(tmp_path, "tar", data_dir=str(archive))
    archive.write_bytes(archive.read_bytes()[:600])
    with pytest.raises(OSError, match="was changed while it was read"):
        data.store.read("blue/0.png")


def test_a_list_of_members_beside_a_tar_is_not_believed(tmp_path: Path, rows: Rows) -> None:
    as_timm: Any = ReaderImageInTar
    archive = pack(tmp_path / "data", tmp_path / "all.tar")
    as_timm(str(archive), cache_tarinfo=True)
    (tmp_path / "data" / "red" / "99.png").write_bytes(b"new")
    pack(tmp_path / "data", archive)
    assert len(as_timm(str(archive), cache_tarinfo=True)) == 36  # the trap
    (problem,) = problems(tmp_path, "tar", data_dir=str(archive))
    assert "1 image of the data set has no row ('red/99.png')" in problem


def test_a_tar_is_read_by_many_processes(tmp_path: Path, rows: Rows) -> None:
    archive = pack(tmp_path / "data", tmp_path / "all.tar")
    data = opened(tmp_path, "tar", data_dir=str(archive))
    data.targets = torch.zeros(36, dtype=torch.int64)
    data.store.read("blue/0.png")  # before the processes are there
    found = []
    for workers in (0, 3):
        split = data.split("train", HALF, AuditOptions(workers=workers), Quiet(), keep=False)
        batches = split.images.batches(torch.arange(TRAIN), 5)
        found.append(torch.cat([pixels for _, pixels in batches]))
    assert torch.equal(found[0], found[1])


def test_images_of_several_splits_are_counted(tmp_path: Path, rows: Rows) -> None:
    """Number 24 is of test, and number 0 of train."""
    shutil.copy(tmp_path / "data" / "blue" / "0.png", tmp_path / "data" / "blue" / "24.png")
    archive = pack(tmp_path / "data", tmp_path / "all.tar")
    for data in (opened(tmp_path, "folder"), opened(tmp_path, "tar", data_dir=str(archive))):
        assert [found[1::2] for found in data.duplicates()] == [("test", "train")]


def test_kept_pixels_are_not_those_of_another_tar(tmp_path: Path, rows: Rows) -> None:
    archive = pack(tmp_path / "data", tmp_path / "all.tar")
    options = AuditOptions(workers=0, cache=str(tmp_path / "pixels"))

    def first() -> torch.Tensor:
        data = opened(tmp_path, "tar", data_dir=str(archive))
        data.targets = torch.zeros(36, dtype=torch.int64)
        split = data.split("train", HALF, options, Quiet())
        return next(split.images.batches(torch.arange(1), 1))[1]

    before = first()
    assert torch.equal(first(), before)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 1
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "data" / "blue" / "0.png")
    pack(tmp_path / "data", archive)
    assert not torch.equal(first(), before)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 2


# The commands


def pipeline(folder: Path, *data: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """dense → prune → mitigate → audit; the weights of the last model, and what the audit says."""
    common = ("--workers", "0", "--batch-size", "8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done("dense", *data, *TINY, "--epochs", "2", "-o", "models/")
        done("prune", "models/", "--sparsity", "0.5")
        done("mitigate", "models/model.pruned.safetensors", "--epochs", "2", *common)
        result = ceag(
            *("audit", "models/model.mitigated.safetensors", "--workers", "0"),
            *("--gate", "point", "--min-coverage", "0", "--format", "json"),
        )
        assert result.exit_code in (0, 1), result.output
    weights = load_file(folder / "models" / "model.mitigated.safetensors")
    return weights, json.loads(result.stdout)


def test_the_whole_pipeline_is_that_of_the_same_images_from_the_csvs_own_paths(
    tmp_path: Path,
) -> None:
    """From a folder, a .tar and places in it, bit for bit."""
    found = {}
    for kind in ("csv", "folder", "tar", "index"):
        folder = tmp_path / kind
        rows = write_data(folder)
        data: tuple[str, ...] = ("--groups", "labels.csv", "--data-dir", "data")
        header = ["path", "label", "split", "group"]
        if kind == "index":
            place = {row["path"]: str(i) for i, row in enumerate(natural_order(rows))}
            rows = [row | {"index": place[row["path"]]} for row in rows]
            header = ["index", "split", "group"]
        if kind == "tar":
            pack(folder / "data", folder / "all.tar")
            shutil.rmtree(folder / "data")
            data = ("--groups", "labels.csv", "--data-dir", "all.tar")
        if kind != "csv":
            data = (*data, "--dataset", "folder" if kind == "index" else kind)
        write_rows(folder / "labels.csv", rows, header)
        found[kind] = pipeline(folder, *data)
    weights, document = found["csv"]
    assert document["data"].pop("dataset") is None
    for kind in ("folder", "tar", "index"):
        others, other = found[kind]
        assert others.keys() == weights.keys()
        assert all(torch.equal(others[name], weights[name]) for name in weights)
        assert other["splits"] == document["splits"]
        assert other["overall"] == document["overall"]
        about = other["data"]["dataset"]
        assert about["name"] == ("folder" if kind == "index" else kind)
        assert about["root"] == ("all.tar" if kind == "tar" else "data")
        assert len(about["sha256"]) == 64


@pytest.fixture
def trained(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dense model made from ``all.tar``, in the current folder."""
    monkeypatch.chdir(tmp_path)
    pack(tmp_path / "data", tmp_path / "all.tar")
    data = ("--groups", "labels.csv", "--dataset", "tar", "--data-dir", "all.tar")
    done("dense", *data, *TINY, "--epochs", "1")
    return tmp_path


def test_the_file_records_the_data_set(trained: Path) -> None:
    found = json.loads(done("info", "model.safetensors", "--format", "json").stdout)
    dataset = found["groups"]["dataset"]
    assert (dataset["name"], dataset["labels"], dataset["unlisted"]) == ("tar", "check", "error")
    assert "data set       tar in all.tar" in done("info", "model.safetensors").stdout


def test_later_commands_take_the_data_set_that_the_model_names(trained: Path) -> None:
    shutil.rmtree(trained / "data")
    result = done("prune", "--sparsity", "0.5", "--recalibrate", "8", "--workers", "0")
    assert "36 images of the data set tar in all.tar" in result.stderr
    # A model that no image was needed for hands on what its parent names.
    done("prune", "--sparsity", "0.9", "-o", "other/x.safetensors")
    found = json.loads(done("info", "other/x.safetensors", "--format", "json").stdout)
    assert found["groups"]["dataset"]["name"] == "tar"
    assert found["groups"]["data_dir"] == "../all.tar"


def test_a_data_set_that_has_changed_is_refused_until_it_is_named(trained: Path) -> None:
    done("prune", "--sparsity", "0.5")
    (trained / "data" / "blue" / "0.png").rename(trained / "data" / "blue" / "zero.png")
    text = (trained / "labels.csv").read_text()
    pack(trained / "data", trained / "all.tar")
    result = ceag("audit", "--workers", "0")
    assert result.exit_code == 2
    assert "all.tar: the data set holds other images or classes than when the model" in (
        result.stderr
    )
    (trained / "labels.csv").write_text(text.replace("blue/0.png", "blue/zero.png"))
    data = ("--groups", "labels.csv", "--dataset", "tar", "--data-dir", "all.tar")
    assert ceag("audit", "--workers", "0", *data).exit_code != 2


def test_the_csvs_own_files_can_be_taken_in_place_of_the_data_set(trained: Path) -> None:
    done("prune", "--sparsity", "0.5")
    own = ceag("audit", "--workers", "0", "--dataset", "csv", "--data-dir", "data")
    assert "36 images in data" in own.stderr
    document = json.loads((trained / "model.pruned.run" / "audit.json").read_text())
    assert document["data"]["dataset"] is None


@pytest.mark.parametrize("command", ["audit", "explain"])
def test_a_report_does_not_replace_the_data_set(trained: Path, command: str) -> None:
    done("prune", "--sparsity", "0.5")
    before = (trained / "all.tar").read_bytes()
    result = ceag(command, "--workers", "0", "--report", "json=all.tar")
    assert result.exit_code == 2
    assert "all.tar" in result.stderr
    assert (trained / "all.tar").read_bytes() == before


def test_an_explanation_names_the_data_set(trained: Path) -> None:
    done("prune", "--sparsity", "0.5")
    document = json.loads(ceag("explain", "--workers", "0", "--format", "json").stdout)
    assert document["data"]["dataset"]["name"] == "tar"


def test_answers_are_kept_and_shown_with_the_data_set(trained: Path) -> None:
    done("prune", "--sparsity", "0.5")
    first = ceag("audit", "--workers", "0", "--format", "json")
    again = ceag("audit", "--workers", "0", "--format", "json")
    assert "answers taken from" in again.stderr
    assert json.loads(first.stdout) == json.loads(again.stdout)
    page = (trained / "model.pruned.run" / "audit.html").read_text()
    assert "tar in all.tar" in page
    alone = ceag("audit", "--predictions", "model.pruned.run/predictions.npz", "--format", "json")
    assert json.loads(alone.stdout)["data"]["dataset"]["name"] == "tar"


def test_a_run_is_resumed_only_with_the_same_data_set(trained: Path) -> None:
    command = ("dense", *TINY, "--epochs", "1", "--resume", "--groups", "labels.csv")
    done(*command, "--dataset", "tar", "--data-dir", "all.tar")  # had finished
    (trained / "data" / "blue" / "0.png").rename(trained / "data" / "blue" / "zero.png")
    pack(trained / "data", trained / "all.tar")
    text = (trained / "labels.csv").read_text()
    (trained / "labels.csv").write_text(text.replace("blue/0.png", "blue/zero.png"))
    result = ceag(*command, "--dataset", "tar", "--data-dir", "all.tar")
    assert result.exit_code == 2
    assert "the data set is another" in result.stderr


def test_groups_and_plan_read_the_data_set(trained: Path, rows: Rows) -> None:
    write_rows(trained / "own.csv", rows, ["path", "split", "group"])
    data = ("--groups", "own.csv", "--dataset", "tar", "--data-dir", "all.tar")
    result = done("audit", "--plan", *data, "--groups-by", "label", "--format", "json")
    assert {group["value"] for group in json.loads(result.stdout)["groups"]} == set(COLOURS)
    (trained / "ceag.yaml").write_text(
        "audit: {groups: own.csv, dataset: tar, data_dir: all.tar, groups_by: label}\n"
    )
    assert "own.csv: 24 train, 12 test images, 3 groups" in done("check").stdout


def test_a_class_map_or_a_typo_is_a_usage_error(trained: Path) -> None:
    for flags in (("--dataset", "tarr"), ("--unlisted", "keep"), ("--dataset-labels", "no")):
        result = ceag("dense", "--groups", "labels.csv", *flags)
        assert result.exit_code == 2
        assert f"error: {flags[0]}: '{flags[1]}' is not one of" in result.stderr


# What timm's loaders would do to the counts


def test_accuracies_do_not_depend_on_the_batches(trained: Path) -> None:
    """24 and 12 images in batches of 7 and of 36: sums, not averages of averages."""
    done("prune", "--sparsity", "0.5")
    found = []
    for size in ("7", "36"):
        flags = ("--workers", "0", "--batch-size", size, "--reevaluate", "--format", "json")
        found.append(json.loads(ceag("audit", *flags).stdout))
    assert found[0]["splits"] == found[1]["splits"]
    assert [split["n"] for split in found[0]["splits"]] == [24, 12]


def test_train_images_are_audited_as_they_are(trained: Path) -> None:
    """Neither flipped nor shuffled: the answers to train images are those of the model alone."""
    done("prune", "--sparsity", "0.5")
    ceag("audit", "--workers", "0")
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(load_file(trained / "model.pruned.safetensors"))
    with np.load(trained / "model.pruned.run" / "predictions.npz") as kept:
        ids = [name.decode() for name in kept["id"].tolist()]
        said = dict(zip(ids, kept["sparse_p"].tolist(), strict=True))
    transform = replace(HALF, crop_pct=0.95).transform()
    changed_by_a_flip = 0
    for path in ids[:TRAIN]:
        pixels = transform(Image.open(trained / "data" / path).convert("RGB")).float() / 255
        both = torch.stack([pixels, pixels.flip(-1)])
        with torch.no_grad():
            as_it_is, flipped = model((both - 0.5) / 0.5).softmax(1).amax(1).tolist()
        assert as_it_is == pytest.approx(said[path], abs=1e-6)
        changed_by_a_flip += abs(flipped - as_it_is) > 1e-5
    assert changed_by_a_flip > TRAIN // 2


def test_two_processes_count_every_image_once(tmp_path: Path) -> None:
    """35 images on two processes; timm's sampler would repeat one to make it 36."""
    rows = write_data(tmp_path)
    archive = pack(tmp_path / "data", tmp_path / "all.tar")
    write_rows(tmp_path / "labels.csv", rows[:-1])
    assert archive.is_file()
    data = ("--dataset", "tar", "--data-dir", "all.tar", "--unlisted", "drop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done("dense", "--groups", "labels.csv", *data, *TINY, "--epochs", "1")
        done("prune", "--sparsity", "0.5")
        alone = json.loads(ceag("audit", "--workers", "0", "--format", "json").stdout)
    flags = ("--workers", "0", "--device", "cpu", "--reevaluate", "--format", "json")
    result = torchrun(tmp_path, "-m", "ceag_cli", "audit", *flags)
    together = json.loads(result.stdout)
    assert [split["n"] for split in together["splits"]] == [24, 11]
    assert together["splits"] == alone["splits"]


# The reference in the metadata


def test_a_reference_follows_the_file_that_names_it(tmp_path: Path) -> None:
    dataset = DatasetReference("hfds/hub/faces", {"train": "train"}, sha256="a" * 64)
    groups = GroupsReference(Reference("l.csv", "c" * 64), None, "label", "group", dataset=dataset)
    assert GroupsReference.from_json(json.loads(json.dumps(groups.to_json()))) == groups
    moved = dataset.moved(tmp_path, tmp_path / "models")
    assert moved.name == "hfds/../hub/faces"
    assert moved.moved(tmp_path / "models", tmp_path) == dataset
    assert DatasetReference("tar").moved(tmp_path, tmp_path / "models").name == "tar"
