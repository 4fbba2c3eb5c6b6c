"""Data sets of Hugging Face that lie in a folder; nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from timm.data.readers.reader_factory import create_reader
from timm.data.readers.targets import has_field

from ceag_cli import strictyaml
from ceag_cli.contents import Records
from ceag_cli.errors import ImageError, OptionError, nearest
from ceag_cli.listings import WHOLE, Listing, as_label, by_number, cannot_be_read, inside, labels_of
from ceag_cli.references import DatasetReference
from ceag_cli.stores import Folder


def of_hugging_face(
    dataset: DatasetReference, root: Path, split: str, data_dir: str | None, allow_outside: bool
) -> Listing:
    """The images of a data set as it is downloaded from Hugging Face.

    Raises:
        OptionError: It has splits, and none is named, or the package is missing.
        ImageError: It names files elsewhere, or cannot be read.
    """
    name = dataset.name
    if split == WHOLE:
        raise OptionError(
            f"--dataset {name} has splits; say which of them holds the train images with "
            "--train-split, and so on"
        )
    try:
        import datasets
    except ImportError:
        raise OptionError(
            f"--dataset {name} needs the package datasets: pip install 'ceag[hfds]'"
        ) from None
    datasets.disable_progress_bars()
    _refuse_remote(root)
    datasets.config.HF_HUB_OFFLINE = True
    keys = {"input_key": dataset.input_key, "target_key": dataset.target_key}
    try:
        # --data-dir is where timm lets it keep what it makes of the files.
        reader = create_reader(name, root=data_dir, split=split, **keys)
    except Exception as error:  # of many kinds, from pyarrow to ValueError
        raise cannot_be_read(f"{root}, split '{split}'", error) from None
    records, key = reader.dataset, reader.image_key
    places = _places_of_records(records, key)
    names = [_name_of_record(place, root, split) for place in places if place]
    return Listing(
        split,
        Records(records, key, Folder(root, allow_outside=allow_outside)),
        names if len(names) == len(places) else None,
        labels_of(dataset, _labels_of_records(dataset, reader)),
        len(records),
        {name: str(number) for name, number in reader.class_to_idx.items()},
    )


def _refuse_remote(root: Path) -> None:
    """Refuse a folder whose description names files that lie elsewhere.

    Raises:
        ImageError: With the first of them.
    """
    card = root / "README.md"
    parts = card.read_text("utf-8", "replace").split("---", 2) if card.is_file() else []
    try:
        about = strictyaml.load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError as error:  # datasets would read it without any bounds
        raise cannot_be_read(card, error) from None
    configs = about.get("configs") if isinstance(about, dict) else None
    remote = re.search(r'[\w+]+://[^\s"\']*', json.dumps(configs, default=str))
    if remote is not None:
        raise ImageError(
            f"{card}: names '{remote[0]}', and nothing is downloaded; fetch it, and name the file "
            "there by its path in the folder"
        )


def _places_of_records(records: Any, key: str) -> list[str | None]:
    """What each record calls its image, without reading any."""
    table = records.select_columns([key]).with_format("arrow")[:]
    return [
        place for chunk in table.column(key).chunks for place in chunk.field("path").to_pylist()
    ]


def _name_of_record(place: str, root: Path, split: str) -> str:
    """The path of a file inside of the folder, or what a record calls its image, in its split."""
    if not os.path.isabs(place):
        return inside(split, place)
    start = root.absolute() if Path(place).is_relative_to(root.absolute()) else root.resolve()
    return inside(os.path.relpath(place, start))


def _labels_of_records(dataset: DatasetReference, reader: Any) -> list[str | None]:
    if dataset.labels == "ignore":
        return []
    features = reader.dataset.features
    if not has_field(features, reader.label_key):
        if dataset.target_key is None:
            return [None] * len(reader)
        raise ImageError(
            f"--target-key {dataset.target_key}: --dataset {dataset.name} has no such field"
            f"{nearest(dataset.target_key, features)} (fields: {', '.join(features)})"
        )
    classes = by_number(reader.class_to_idx)
    return [
        as_label(classes.get(target, target) if isinstance(target, int) else target, dataset)
        for target in reader.iter_targets()
    ]
