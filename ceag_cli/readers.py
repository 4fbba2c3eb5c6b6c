"""timm's data sets: which images there are, what they are called, and what class each is of.

A reader of timm (or a data set of torchvision that timm makes) is asked what it holds; the bytes
are read by ``contents``. So nothing that timm's loaders do to images happens here: no image is
replaced by its neighbour, repeated, shuffled or left out since its class is in no map, and no split
is looked for under another name. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

from ceag_cli.errors import ImageError, OptionError
from ceag_cli.huggingfacesets import of_hugging_face
from ceag_cli.imagefolders import of_folder
from ceag_cli.imagetars import of_tar
from ceag_cli.listings import WHOLE, Listing, part_of
from ceag_cli.references import DatasetReference
from ceag_cli.torchvisionsets import of_torchvision
from ceag_cli.webdatasets import of_shards


def list_images(
    dataset: DatasetReference, data_dir: str | None, *, allow_outside: bool = False
) -> list[Listing]:
    """The images of all splits that a data set is to give, each split once.

    Args:
        dataset: Its name, splits and fields.
        data_dir: Where it lies.
        allow_outside: Also take images that links in it lead to elsewhere.

    Raises:
        OptionError, ImageError: With everything that is wrong: there is no such data set or split,
            a package is missing, it would have to be downloaded, or it cannot be read.
    """
    root = _root(dataset, data_dir)
    found, problems = [], []
    for split in dict.fromkeys(dataset.splits.values()) or [WHOLE]:
        try:
            found.append(_list(dataset, root, split, data_dir, allow_outside))
        except (ImageError, OptionError) as error:
            problems += error.problems
    if problems:
        raise ImageError(problems)
    return found


def root_of(dataset: DatasetReference, data_dir: str | None) -> Path:
    """The folder or file that a data set's images lie in."""
    path = dataset.name.partition("/")[2]
    return Path(path if dataset.kind == "hfds" else data_dir or "")


def _root(dataset: DatasetReference, data_dir: str | None) -> Path:
    root, name = root_of(dataset, data_dir), dataset.name
    if dataset.kind == "hfds":
        if not root.is_dir():
            raise ImageError(
                f"--dataset {name}: there is no folder '{root}', and nothing is downloaded; fetch "
                "the data set ('hf download REPO --repo-type dataset --local-dir DIR') and name "
                "its folder as hfds/DIR"
            )
    elif data_dir is None:
        raise OptionError(f"--dataset {name} needs --data-dir, where the data set lies")
    elif not root.exists():
        raise ImageError(f"--data-dir: '{data_dir}' does not exist, and nothing is downloaded")
    return root


def _list(
    dataset: DatasetReference, root: Path, split: str, data_dir: str | None, allow_outside: bool
) -> Listing:
    if dataset.kind == "torch":
        return of_torchvision(dataset, root, split, allow_outside)
    if dataset.kind == "hfds":
        return of_hugging_face(dataset, root, split, data_dir, allow_outside)
    if dataset.kind == "wds":
        return of_shards(dataset, root, split)
    place = part_of(root, split)
    if dataset.kind == "tar":
        return of_tar(dataset, place, split)
    return of_folder(dataset, place, split, allow_outside)
