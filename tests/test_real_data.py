"""The two real data sets, as they lie there: CSV and .zip side by side, nothing unpacked."""

import os
from pathlib import Path

import pytest
import torch

from ceag_cli.data import Data, open_data
from ceag_cli.options import DenseOptions
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet
from ceag_cli.sharedoptions import DataOptions
from ceag_cli.stores import Zip, find_duplicates

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("CEAG_DATA", ROOT / "../shared/data"))


def opened(name: str, label_column: str, groups_by: str | None) -> Data:
    csv = DATA / name / "labels.csv"
    if not csv.is_file():
        pytest.skip(f"no {name} in the folder that CEAG_DATA names")
    options = DataOptions(groups=str(csv), label_column=label_column, groups_by=groups_by)
    return open_data(options, [], Quiet(), "dense")


def test_cifar100_with_hidden_groups() -> None:
    data = opened("cifar100", "superclass", "label")
    data.require(["train", "test"], seen_in_train=True)
    assert isinstance(data.store, Zip)
    assert len(data.labels.paths) == 60_000
    assert len(data.labels.label.names) == 20
    assert data.labels.grouping.features == ("label",)
    train, test = data.labels.rows("train"), data.labels.rows("test")
    assert torch.bincount(data.labels.groups[train, 0]).tolist() == [500] * 100
    assert torch.bincount(data.labels.groups[test, 0]).tolist() == [100] * 100
    assert find_duplicates(data.store, data.labels.paths, data.labels.split)


def test_fairface_with_crossed_groups() -> None:
    data = opened("fairface64", "gender", "race*gender")
    data.require(["train", "test"], seen_in_train=True)
    assert isinstance(data.store, Zip)
    assert len(data.labels.paths) == 35_000
    assert data.labels.grouping.num_groups == 14
    assert ("race*gender", "Black*Female") in data.labels.grouping.names
    test = data.labels.rows("test")
    assert int(torch.bincount(data.labels.groups[test, 0]).min()) == 172


def test_fairface_without_a_choice_of_groups_takes_every_other_column() -> None:
    data = opened("fairface64", "gender", None)
    assert data.labels.grouping.features == ("race", "age")


@pytest.mark.parametrize(("name", "label"), [("cifar100", "label"), ("fairface64", "race")])
def test_images_come_out_of_the_zip(name: str, label: str) -> None:
    data = opened(name, label, label)
    del data.labels.paths[8:]
    data.labels.lines, data.labels.split = data.labels.lines[:8], data.labels.split[:8]
    data.labels.groups = data.labels.groups[:8]
    data.targets = torch.zeros(8, dtype=torch.int64)
    preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "center")
    split = data.split(data.labels.splits[0], preprocessing, DenseOptions(workers=0), Quiet())
    ((rows, pixels),) = split.images.batches(torch.arange(len(split)), 8)
    assert rows.tolist() == list(range(8))
    assert pixels.shape == (8, 3, 32, 32)
    assert float(pixels.float().std(dim=(1, 2, 3)).min()) > 1  # pictures, not blank squares
