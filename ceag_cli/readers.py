"""timm's data sets: which images there are, what they are called, and what class each is of.

A reader of timm (or a data set of torchvision that timm makes) is asked what it holds; the bytes
are read by ``contents``. So nothing that timm's loaders do to images happens here: no image is
replaced by its neighbour, repeated, shuffled or left out since its class is in no map, and no split
is looked for under another name. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from posixpath import normpath
from typing import Any

import numpy as np
import yaml
from timm.data.dataset_factory import create_dataset
from timm.data.readers.img_extensions import get_img_extensions, set_img_extensions
from timm.data.readers.reader_factory import create_reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.data.readers.targets import get_field, has_field
from timm.utils.misc import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS

from ceag_cli import strictjson, strictyaml
from ceag_cli.contents import Arrays, Contents, Files, Records, Stretches
from ceag_cli.datasetnames import ARRAYS_OF_TORCH
from ceag_cli.errors import ImageError, OptionError, first, nearest
from ceag_cli.labels import outside
from ceag_cli.links import check_folder
from ceag_cli.references import DatasetReference
from ceag_cli.stores import Folder

# These have no types.
_natural_key: Callable[[str], Any] = natural_key
_extensions: Callable[[], Sequence[str]] = get_img_extensions
_set_extensions: Callable[[Sequence[str]], None] = set_img_extensions
_FolderReader: Any = ReaderImageFolder
_TarReader: Any = ReaderImageInTar

SHOWN_NAMES = 5

WHOLE = ""
"""The split of a data set that is taken as one."""

_ARRAY_SPLITS = ("train", "test")
_SPLITS = {
    "imagenet": ("train", "val"),
    "places365": ("train-standard", "train-challenge", "val"),
    "inaturalist": ("2017", "2018", "2019", "2021_train", "2021_train_mini", "2021_valid"),
}
"""Splits of torchvision's data sets by its own names; timm takes other words for one of them."""

MOST_SHARDS = 1_000_000
MOST_OF_A_MEMBER = 1 << 20
"""Bytes of what describes an image or a data set."""

_BRACED = re.compile(r"[^\s\"',]*\{[^\"']{1,1000}\}[^\s\"']*")
_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})[^{}]*|([^{}]*))\}")

_META = re.compile(r"__[^/]*__($|/)")
"""Members of a shard that webdataset skips."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set, or of one split of it, in its own order."""

    split: str
    """``WHOLE``, or the name of the split."""
    contents: Contents
    names: Sequence[str] | None
    """Path of each image in the folder of the data set, a .tar counting as a folder; ``None`` where
    the data set names none."""
    labels: Sequence[str | None] | None
    """Class of each; ``None`` for all where they were not asked for."""
    count: int
    numbers: Mapping[str, str]
    """Number of each class by name, where the data set itself numbers them and not a sorting."""
    unordered: str | None = None
    """Why the place of an image among the others means nothing."""
    sorted_by: Sequence[str] = ()
    """Paths in the order into which timm has sorted them, where it has."""
    only: Sequence[str] = ()
    """Extensions of the files that were taken, where others are passed over."""

    def without_order(self) -> str | None:
        """Why the place of an image among the others means nothing; ``None`` where it is fixed."""
        for one, other in pairwise(self.sorted_by):
            if _natural_key(one) == _natural_key(other):
                return (
                    f"'{one}' and '{other}' are equal to timm's sorting, so their order depends on "
                    "the file system"
                )
        return self.unordered


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
        return _of_torch(dataset, root, split, allow_outside)
    if dataset.kind == "hfds":
        return _of_hugging_face(dataset, root, split, data_dir, allow_outside)
    if dataset.kind == "wds":
        return _of_shards(dataset, root, split)
    place = _part(root, split)
    if dataset.kind == "tar":
        return _of_tar(dataset, place, split)
    return _of_folder(dataset, place, split, allow_outside)


def _part(root: Path, split: str) -> Path:
    """The folder or .tar of a split; timm would take all of ``root`` where it is not there."""
    if split == WHOLE:
        return root
    place = root / split
    if outside(split) or not place.exists():
        raise _no_split(str(root), split, _entries(root))
    return place


def _no_split(where: str, split: str, known: Sequence[str]) -> ImageError:
    more = f"; there are {', '.join(known)}" if known else ""
    return ImageError(f"{where}: has no split '{split}'{nearest(split, known)}{more}")


def _entries(root: Path) -> list[str]:
    """What may be splits: folders and .tar files."""
    if not root.is_dir():
        return []
    named = sorted(path.name for path in root.iterdir() if path.is_dir() or path.suffix == ".tar")
    return named[:SHOWN_NAMES]


def _cannot_be_read(where: str | Path, error: Exception, remedy: str = "") -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{where}: cannot be read: {reason}{remedy}")


def _inverse(classes: Mapping[str, int]) -> dict[int, str]:
    return {number: name for name, number in classes.items()}


# Folders


def _of_folder(dataset: DatasetReference, place: Path, split: str, allow_outside: bool) -> Listing:
    if place.is_file():
        remedy = "; for a .tar it is --dataset tar" if place.suffix == ".tar" else ""
        raise ImageError(f"{place}: is a file, and --dataset folder takes a folder{remedy}")
    try:
        with _taken(dataset) as only:
            check_folder(place, only, allow_outside=allow_outside)
            reader = _FolderReader(str(place))
    except OSError as error:
        raise _cannot_be_read(place, error) from None
    except RuntimeError:
        raise _no_image(place, only) from None
    paths = [path for path, _ in reader.samples]
    names = [_joined(split, os.path.relpath(path, place)) for path in paths]
    classes = _inverse(reader.class_to_idx)
    return Listing(
        split,
        Files(paths),
        names,
        _labels(dataset, [classes[target] for _, target in reader.samples]),
        len(paths),
        {},
        sorted_by=names,
        only=only,
    )


@contextmanager
def _taken(dataset: DatasetReference) -> Iterator[tuple[str, ...]]:
    """The extensions of the files that timm takes for images meanwhile."""
    usual = tuple(_extensions())
    only = tuple(dataset.input_key.split(";")) if dataset.input_key else usual
    _set_extensions(only)
    try:
        yield only
    finally:
        _set_extensions(usual)


def _no_image(place: Path, only: Sequence[str]) -> ImageError:
    kinds = ", ".join(sorted(only))
    return ImageError(
        f"{place}: holds no image of the kinds {kinds}; name others with --input-key, as .webp;.png"
    )


def _joined(*parts: str) -> str:
    """A path inside of the data set, written in one way."""
    return normpath("/".join(part.replace(os.sep, "/") for part in parts if part))


def _labels(dataset: DatasetReference, labels: Sequence[str | None]) -> list[str | None] | None:
    """Classes, if they are asked for; the folder that is the data set itself is none."""
    if dataset.labels == "ignore":
        return None
    return [None if label in (None, "", ".") else label for label in labels]


# Tars


class _Members:
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


def _of_tar(dataset: DatasetReference, place: Path, split: str) -> Listing:
    if place.is_file() and place.suffix.lower() != ".tar":
        raise ImageError(f"{place}: is no .tar; unpack what is compressed")
    if place.is_dir() and not any(place.glob("*.tar")):
        raise ImageError(f"{place}: holds no .tar; for a folder of images it is --dataset folder")
    try:
        # The list of members that timm may keep beside large ones is not looked at: it stays when
        # the .tar is written anew.
        with _taken(dataset) as only:
            reader = _TarReader(str(place), cache_tarinfo=False)
    except ValueError as error:
        if "unpack" not in str(error):  # zip() of nothing, in timm
            raise _cannot_be_read(place, error) from None
        raise _no_image(place, only) from None
    except Exception as error:  # tarfile raises many kinds for damaged bytes
        raise _cannot_be_read(place, error) from None
    found = _Members()
    for member, parent, child in reader.samples:
        within = child.offset_data if child is not None else 0
        found.add(
            os.path.join(place, parent) if parent else str(place),
            within + member.offset_data,
            member.size,
        )
        found.names.append(_joined(split, parent or "", child.name if child else "", member.name))
    classes = reader.class_idx_to_name
    return Listing(
        split,
        found.contents(),
        found.names,
        _labels(dataset, [classes[int(target)] for target in reader.targets]),
        len(found.names),
        {},
        sorted_by=[member.path for member, _, _ in reader.samples],
        only=only,
    )


# torchvision


def _of_torch(dataset: DatasetReference, root: Path, split: str, allow_outside: bool) -> Listing:
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
        raise _no_split(f"--dataset torch/{name}", split, known)
    place = root if known else _part(root, split)
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
        raise _cannot_be_read(
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
        _labels(dataset, [classes[target] for target in targets.tolist()]),
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
        [_joined(os.path.relpath(path, root)) for path, _ in samples],
        _labels(dataset, [str(classes[target]) for _, target in samples]),
        len(samples),
        {str(name): str(number) for number, name in enumerate(classes)} if numbered else {},
        "torchvision lists its folders in no order" if name == "inaturalist" else None,
    )


# Hugging Face


def _of_hugging_face(
    dataset: DatasetReference, root: Path, split: str, data_dir: str | None, allow_outside: bool
) -> Listing:
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
        raise _cannot_be_read(f"{root}, split '{split}'", error) from None
    records, key = reader.dataset, reader.image_key
    places = _places_of_records(records, key)
    names = [_name_of_record(place, root, split) for place in places if place]
    return Listing(
        split,
        Records(records, key, Folder(root, allow_outside=allow_outside)),
        names if len(names) == len(places) else None,
        _labels(dataset, _labels_of_records(dataset, reader)),
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
        raise _cannot_be_read(card, error) from None
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
        return _joined(split, place)
    start = root.absolute() if Path(place).is_relative_to(root.absolute()) else root.resolve()
    return _joined(os.path.relpath(place, start))


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
    classes = _inverse(reader.class_to_idx)
    return [
        _as_label(classes.get(target, target) if isinstance(target, int) else target, dataset)
        for target in reader.iter_targets()
    ]


def _as_label(target: Any, dataset: DatasetReference) -> str | None:
    """The class as a word; none for what timm counts as unlabelled."""
    if target is None or (isinstance(target, int) and target < 0):
        return None
    if not isinstance(target, (int, str)):
        raise ImageError(
            f"--dataset {dataset.name}: a target is {json.dumps(target, default=str)[:40]}, not "
            "one class; name another field with --target-key, or take the CSV's labels alone with "
            "--dataset-labels ignore"
        )
    return str(target)


# webdataset


def _of_shards(dataset: DatasetReference, root: Path, split: str) -> Listing:
    if not root.is_dir():
        raise ImageError(f"--data-dir {root}: is no folder of shards")
    if split == WHOLE:
        raise OptionError(
            f"--dataset {dataset.name} has splits; name them with --train-split and so on, as "
            "_info.json does or by their shards, e.g. 'train-{0000..0015}.tar'"
        )
    try:
        import webdataset  # noqa: F401
    except ImportError:
        raise OptionError(
            f"--dataset {dataset.name} needs the package webdataset: pip install 'ceag[wds]'"
        ) from None
    keys = {"input_key": dataset.input_key, "target_key": dataset.target_key}
    _refuse_many_shards(root, split)
    try:
        reader = create_reader("wds/", root=str(root), split=split, **keys)
        shards = [str(name) for name in reader.split_info.filenames]
    except Exception as error:  # of many kinds, where its _info.json is damaged
        raise _cannot_be_read(f"{root}, split '{split}'", error) from None
    missing = [name for name in shards if outside(name) or not (root / name).is_file()]
    if missing:
        problems = [f"{root}: there is no shard '{name}'" for name in missing]
        raise ImageError([*first(problems), "nothing is downloaded: put the shards there"])
    found = _Members()
    labels: list[str | None] = []
    for shard in shards:
        try:
            with tarfile.open(root / shard, "r:") as tar:
                for sample in _samples_of(tar):
                    image = _image_of(sample, reader.input_key)
                    if image is not None:
                        found.add(str(root / shard), image.offset_data, image.size)
                        found.names.append(_joined(shard, image.name))
                        labels.append(_label_of_sample(dataset, tar, sample, reader))
        except ImageError:
            raise
        except Exception as error:  # tarfile raises many kinds for damaged bytes
            raise _cannot_be_read(root / shard, error) from None
    return Listing(
        split,
        found.contents(),
        found.names,
        _labels(dataset, labels),
        len(labels),
        {},
        "it is read shard by shard, and what cannot be read is passed over there",
        only=tuple(f".{extension}" for extension in reader.input_key.split(";")),
    )


def _refuse_many_shards(root: Path, split: str) -> None:
    """Refuse braces that stand for more shards than there can be; timm would name them all.

    Raises:
        ImageError: They do, in the name of the split or in a file that describes the splits.
    """
    said = {f"split '{split}'": split}
    for name in ("_info.json", "info.json", "_info.yaml", "info.yaml"):
        if (root / name).is_file():
            with (root / name).open("rb") as file:
                said[str(root / name)] = file.read(MOST_OF_A_MEMBER).decode("utf-8", "replace")
    for where, text in said.items():
        for word in _BRACED.findall(text):
            count = 1
            for low, high, listed in _BRACES.findall(word):
                count *= abs(int(high) - int(low)) + 1 if low else listed.count(",") + 1
            if count > MOST_SHARDS:
                raise ImageError(
                    f"{where}: stands for {count} shards; at most {MOST_SHARDS} are read"
                )


def _samples_of(tar: tarfile.TarFile) -> Iterator[dict[str, tarfile.TarInfo]]:
    """The members that belong together, by extension, as webdataset groups them."""
    from webdataset.tariterators import base_plus_ext

    key, members = None, dict[str, tarfile.TarInfo]()
    for member in tar:
        if not member.isreg() or _META.match(member.name):
            continue
        its_key, extension = base_plus_ext(member.name)
        if its_key is None:
            continue
        if its_key != key and members:
            yield members
            members = {}
        key = its_key
        if extension.lower() in members:
            raise tarfile.ReadError(f"'{member.name}' is in it twice")
        members[extension.lower()] = member
    if members:
        yield members


def _image_of(sample: Mapping[str, tarfile.TarInfo], keys: str) -> tarfile.TarInfo | None:
    return next((sample[key] for key in keys.split(";") if key in sample), None)


def _label_of_sample(
    dataset: DatasetReference,
    tar: tarfile.TarFile,
    sample: Mapping[str, tarfile.TarInfo],
    reader: Any,
) -> str | None:
    """The number in ``.cls``, or the field of ``.json`` that names the class."""
    if dataset.labels == "ignore":
        return None
    field = dataset.target_key or reader.split_info.alt_label
    member = sample.get("json" if field else "cls")
    file = None if member is None else tar.extractfile(member)
    if file is None:
        return None
    text = file.read(MOST_OF_A_MEMBER).decode("utf-8", "replace")
    if not field:
        return None if text.strip().startswith("-") else text.strip()
    try:
        about = strictjson.loads(text)
    except ValueError:
        raise tarfile.ReadError(f"'{member.name if member else ''}' is no JSON") from None
    return _as_label(get_field(about, field), dataset) if has_field(about, field) else None
