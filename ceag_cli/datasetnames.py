"""What a data set that images come from may be called (``--dataset``), as timm names them."""

from __future__ import annotations

from ceag_cli.errors import nearest

ARRAYS_OF_TORCH = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
FILES_OF_TORCH = ("image_folder", "imagenet", "places365", "inaturalist")
DATASETS = ("csv", "folder", "tar", "torch/NAME", "hfds/PATH", "wds")

_STREAMS = {
    "tfds": "decodes images by itself; write them to a folder, and say --dataset folder",
    "hfids": "is a stream, whose images cannot be named; say hfds/PATH for the same data",
}
"""Kinds of data sets that timm reads and ceag does not, and what to do instead."""


def not_a_dataset(value: str) -> str | None:
    """What is wrong with the name of a data set, if anything.

    timm takes any word that it does not know for a folder.
    """
    kind, slash, rest = value.partition("/")
    if kind in _STREAMS:
        return f"'{value}' {_STREAMS[kind]}"
    if kind == "torch" and slash:
        known = (*ARRAYS_OF_TORCH, *FILES_OF_TORCH)
        if rest in known:
            return None
        listed = ", ".join(known)
        return (
            f"'{value}' is no data set of torchvision that is read{nearest(rest, known)} ({listed})"
        )
    if value in ("csv", "folder", "tar") or kind == "wds" or (kind == "hfds" and rest):
        return None
    return f"'{value}' is not one of {', '.join(DATASETS)}{nearest(value, DATASETS)}"
