"""Data sets of torchvision, as timm makes them; nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from timm.data.dataset_factory import create_dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from ceag_cli.contents import Arrays, Files
from ceag_cli.datasetnames import ARRAYS_OF_TORCH
from ceag_cli.errors import ImageError, OptionError
from ceag_cli.links import check_folder
from ceag_cli.listings import WHOLE, Listing, cannot_be_read, inside, labels_of, no_split, part_of
from ceag_cli.references import DatasetReference

_ARRAY_SPLITS = ("train", "test")
_SPLITS = {
    "imagenet": ("train", "val"),
    "places365": ("train-standard", "train-challenge", "val"),
    "inaturalist": ("2017", "2018", "2019", "2021_train", "2021_train_mini", "2021_valid"),
}
"""Splits of torchvision's data sets by its own names; timm takes other words for one of them."""


def of_torchvision(
    dataset: DatasetReference, root: Path, split: str, allow_outside: bool
) -> Listing:
    """The images of a data set as torchvision unpacks it.

    Raises:
        OptionError: It has splits, and none is named.
        ImageError: There is no such split, or it cannot be read.
    """
    name = dataset.name.partition("/")[2]
    if not root.is_dir():
        raise ImageError(f"--data-dir {root}: is no folder, which --dataset torch/{name} takes")
    known = _ARRAY_SPLITS if name in ARRAYS_OF_TORCH else _SPLITS.get(name, ())
    if known and split not in known:
        if split == WHOLE:
            raise OptionError(
                f"--dataset torch/{name} has the splits {', '.join(known)}; say which of them "
                "holds the train images with --train-split, and so on"
            )
        raise no_split(f"--dataset torch/{name}", split, known)
    place = root if known else part_of(root, split)
    if name == "imagenet" and not ((root / split).is_dir() and (root / "meta.bin").is_file()):
        raise ImageError(
            f"{root}: holds no folder '{split}' beside a meta.bin, as torchvision unpacks "
            "ImageNet; unpack it, or give its folders as --dataset folder"
        )
    if name not in ARRAYS_OF_TORCH:
        check_folder(place, IMG_EXTENSIONS, allow_outside=allow_outside)
    try:
        found = create_dataset(
            f"torch/{name}", root=str(place), split=split, search_split=False, download=False
        )
    except Exception as error:  # of many kinds, where a file is damaged
        reason = str(error).replace("You can use download=True to download it", "")
        raise cannot_be_read(
            place, RuntimeError(reason), "; nothing is downloaded: put the files there"
        ) from None
    if name in ARRAYS_OF_TORCH:
        return _of_arrays(dataset, found, split)
    return _of_torch_files(dataset, name, found, root, split)


def _of_arrays(dataset: DatasetReference, found: Any, split: str) -> Listing:
    targets = np.asarray(found.targets)
    targets = targets[:, 0] if targets.ndim == 2 else targets  # QMNIST knows more of each image
    classes = [str(name) for name in found.classes]
    return Listing(
        split,
        Arrays(np.ascontiguousarray(np.asarray(found.data))),
        None,
        labels_of(dataset, [classes[target] for target in targets.tolist()]),
        len(targets),
        {name: str(number) for number, name in enumerate(classes)},
    )


def _of_torch_files(
    dataset: DatasetReference, name: str, found: Any, root: Path, split: str
) -> Listing:
    if name == "inaturalist":
        categories, where = found.all_categories, found.root
        samples = [(os.path.join(where, categories[c], file), c) for c, file in found.index]
        classes, numbered = list(categories), False
    else:
        samples = found.imgs
        # Each class of ImageNet has several words; its folder is its name.
        classes = found.wnids if name == "imagenet" else list(found.classes)
        numbered = name in ("imagenet", "places365")
    return Listing(
        split,
        Files([path for path, _ in samples]),
        [inside(os.path.relpath(path, root)) for path, _ in samples],
        labels_of(dataset, [str(classes[target]) for _, target in samples]),
        len(samples),
        {str(name): str(number) for number, name in enumerate(classes)} if numbered else {},
        "torchvision lists its folders in no order" if name == "inaturalist" else None,
    )
