"""Data sets of webdataset: shards, which are .tar files whose members belong together by name."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timm.data.readers.reader_factory import create_reader
from timm.data.readers.targets import get_field, has_field

from ceag_cli import strictjson
from ceag_cli.errors import ImageError, OptionError, first
from ceag_cli.imagetars import Members
from ceag_cli.labels import outside
from ceag_cli.listings import WHOLE, Listing, as_label, cannot_be_read, inside, labels_of
from ceag_cli.references import DatasetReference

MOST_SHARDS = 1_000_000
MOST_OF_A_MEMBER = 1 << 20
"""Bytes of what describes an image or a data set."""

_BRACED = re.compile(r"[^\s\"',]*\{[^\"']{1,1000}\}[^\s\"']*")
_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})[^{}]*|([^{}]*))\}")

_META = re.compile(r"__[^/]*__($|/)")
"""Members of a shard that webdataset skips."""


def of_shards(dataset: DatasetReference, root: Path, split: str) -> Listing:
    """The images of some shards, which the split names or ``_info.json`` lists.

    Raises:
        OptionError: No split is named, or the package is missing.
        ImageError: A shard is missing, or cannot be read.
    """
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
        raise cannot_be_read(f"{root}, split '{split}'", error) from None
    missing = [name for name in shards if outside(name) or not (root / name).is_file()]
    if missing:
        problems = [f"{root}: there is no shard '{name}'" for name in missing]
        raise ImageError([*first(problems), "nothing is downloaded: put the shards there"])
    found = Members()
    labels: list[str | None] = []
    for shard in shards:
        try:
            with tarfile.open(root / shard, "r:") as tar:
                for sample in _samples_of(tar):
                    image = _image_of(sample, reader.input_key)
                    if image is not None:
                        found.add(str(root / shard), image.offset_data, image.size)
                        found.names.append(inside(shard, image.name))
                        labels.append(_label_of_sample(dataset, tar, sample, reader))
        except ImageError:
            raise
        except Exception as error:  # tarfile raises many kinds for damaged bytes
            raise cannot_be_read(root / shard, error) from None
    return Listing(
        split,
        found.contents(),
        found.names,
        labels_of(dataset, labels),
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
    return as_label(get_field(about, field), dataset) if has_field(about, field) else None
