"""Images in .tar files, listed as timm's reader of them does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from ceag_cli.contents import Stretches
from ceag_cli.errors import ImageError
from ceag_cli.listings import Listing, cannot_be_read, inside, labels_of, no_image, taken_for_images
from ceag_cli.references import DatasetReference

_TarReader: Any = ReaderImageInTar  # it has no types


class Members:
    """Members of .tar files, one after the other."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.archives: dict[str, int] = {}
        self.places: list[tuple[int, int, int]] = []

    def add(self, archive: str, begin: int, size: int) -> None:
        """Note where one lies."""
        number = self.archives.setdefault(archive, len(self.archives))
        self.places.append((number, begin, size))

    def contents(self) -> Stretches:
        """All of them.

        Raises:
            ImageError: By what a .tar says, one lies elsewhere than in it.
        """
        ends = [os.path.getsize(name) for name in self.archives]
        for name, (number, begin, size) in zip(self.names, self.places, strict=True):
            if begin < 0 or size < 0 or begin + size > ends[number]:
                where = list(self.archives)[number]
                raise ImageError(
                    f"{where}: is cut short, or '{name}' says another size than it has"
                )
        archive, begins, sizes = np.array(self.places, np.int64).reshape(-1, 3).T
        return Stretches(list(self.archives), archive, begins, sizes)


def of_tar(dataset: DatasetReference, place: Path, split: str) -> Listing:
    """The images in a .tar, or in all .tar files of a folder.

    Raises:
        ImageError: It is no .tar, holds no image, or cannot be read.
    """
    if place.is_file() and place.suffix.lower() != ".tar":
        raise ImageError(f"{place}: is no .tar; unpack what is compressed")
    if place.is_dir() and not any(place.glob("*.tar")):
        raise ImageError(f"{place}: holds no .tar; for a folder of images it is --dataset folder")
    try:
        # The list of members that timm may keep beside large ones is not looked at: it stays when
        # the .tar is written anew.
        with taken_for_images(dataset) as only:
            reader = _TarReader(str(place), cache_tarinfo=False)
    except ValueError as error:
        if "unpack" not in str(error):  # zip() of nothing, in timm
            raise cannot_be_read(place, error) from None
        raise no_image(place, only) from None
    except Exception as error:  # tarfile raises many kinds for damaged bytes
        raise cannot_be_read(place, error) from None
    found = Members()
    for member, parent, child in reader.samples:
        within = child.offset_data if child is not None else 0
        found.add(
            os.path.join(place, parent) if parent else str(place),
            within + member.offset_data,
            member.size,
        )
        found.names.append(inside(split, parent or "", child.name if child else "", member.name))
    classes = reader.class_idx_to_name
    return Listing(
        split,
        found.contents(),
        found.names,
        labels_of(dataset, [classes[int(target)] for target in reader.targets]),
        len(found.names),
        {},
        sorted_by=[member.path for member, _, _ in reader.samples],
        only=only,
    )
