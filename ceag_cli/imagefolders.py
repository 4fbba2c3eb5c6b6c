"""Folders of images, listed as timm's reader of folders does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from timm.data.readers.reader_image_folder import ReaderImageFolder

from ceag_cli.contents import Files
from ceag_cli.errors import ImageError
from ceag_cli.links import check_folder
from ceag_cli.listings import (
    Listing,
    by_number,
    cannot_be_read,
    inside,
    labels_of,
    no_image,
    taken_for_images,
)
from ceag_cli.references import DatasetReference

_FolderReader: Any = ReaderImageFolder  # it has no types


def of_folder(dataset: DatasetReference, place: Path, split: str, allow_outside: bool) -> Listing:
    """The images of a folder, each in the folder that its class is named by.

    Raises:
        ImageError: It is no folder, holds no image, or cannot be read.
    """
    if place.is_file():
        remedy = "; for a .tar it is --dataset tar" if place.suffix == ".tar" else ""
        raise ImageError(f"{place}: is a file, and --dataset folder takes a folder{remedy}")
    try:
        with taken_for_images(dataset) as only:
            check_folder(place, only, allow_outside=allow_outside)
            reader = _FolderReader(str(place))
    except OSError as error:
        raise cannot_be_read(place, error) from None
    except RuntimeError:
        raise no_image(place, only) from None
    paths = [path for path, _ in reader.samples]
    names = [inside(split, os.path.relpath(path, place)) for path in paths]
    classes = by_number(reader.class_to_idx)
    return Listing(
        split,
        Files(paths),
        names,
        labels_of(dataset, [classes[target] for _, target in reader.samples]),
        len(paths),
        {},
        sorted_by=names,
        only=only,
    )
