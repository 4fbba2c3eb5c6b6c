"""Splits: images with their classes and groups, and the batches of them that processes share.

Batches are of the whole run; where several processes share it (``distributed``), each has its
portion of every batch. Flipping and normalisation happen on whole batches, on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ceag_cli.distributed import Share, World


class Batched(Protocol):
    """Images that can be gone through in batches."""

    def batches(self, order: Tensor, sizes: int | list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``images.Images.batches``."""


@dataclass(frozen=True)
class Part:
    """Some of the images, numbered anew from 0; the pixels are not copied."""

    images: Batched
    rows: Tensor
    """Their numbers among all images, int64."""

    def batches(self, order: Tensor, sizes: int | list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``images.Images.batches``."""
        taken = self.images.batches(self.rows[order], sizes)
        for rows, (_, pixels) in zip(torch.split(order, sizes), taken, strict=True):
            yield rows, pixels


@dataclass(frozen=True)
class Split:
    """The images of one split with everything that the CSV says about them."""

    name: str
    images: Batched
    targets: Tensor
    """Class index of each image, int64, shape ``(N,)``."""
    groups: Tensor
    """Group ids of each image, int64, shape ``(N, F)``."""

    def __len__(self) -> int:
        return len(self.targets)

    def only(self, chosen: Tensor, name: str) -> Split:
        """The part of the split that a bool tensor of shape ``(N,)`` chooses."""
        rows = torch.nonzero(chosen).reshape(-1)
        return Split(name, Part(self.images, rows), self.targets[rows], self.groups[rows])


@dataclass(frozen=True)
class Portion:
    """What one process has of a batch."""

    rows: Tensor
    """Row numbers of the whole batch, shape ``(B,)``."""
    share: Share
    pixels: Tensor
    """Of the share, uint8, shape ``(b, C, H, W)``; led by those of one more image, if ``led``."""
    led: bool = False
    """Whether the image before the first of the share comes first, to be mixed with it."""

    def pick(self, values: Tensor) -> Tensor:
        """Of something with one entry per image of the batch, those that ``pixels`` shows."""
        return _picked(values, self.share, self.led)

    def own(self, shown: Tensor) -> Tensor:
        """The share of something that has one entry per image in ``pixels``."""
        return shown[1:] if self.led else shown


def portions(
    images: Batched, batches: Sequence[Tensor], world: World, *, with_one_before: bool = False
) -> Iterator[Portion]:
    """Go through batches; only the images of the process's own share are decoded.

    Args:
        images: Where the pixels are.
        batches: Row numbers of each whole batch.
        world: The processes that share them.
        with_one_before: The share of a batch is to be mixed (``mixing``): the first image of a
            share with the last of the share before it, which therefore comes too. A whole batch
            needs no other.
    """
    led = with_one_before and world.size > 1
    shares = [world.share(len(rows)) for rows in batches]
    parts = [_picked(rows, share, led) for rows, share in zip(batches, shares, strict=True)]
    if not parts:
        return
    loaded = images.batches(torch.cat(parts), [len(part) for part in parts])
    for rows, share, (_, pixels) in zip(batches, shares, loaded, strict=True):
        yield Portion(rows, share, pixels, led)


def _picked(values: Tensor, share: Share, led: bool) -> Tensor:
    if not led:
        return share.of(values)
    return torch.cat([share.of(values.roll(1, dims=0))[:1], share.of(values)])


def normalized(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 pixels as the model's input: ``(pixels / 255 - mean) / std`` by channel, float32."""
    return (pixels.float() / 255 - mean) / std


def draw_flips(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which images of a batch are to be mirrored, bool, shape ``(B,)``; drawn unless none can be.

    Drawn for whole batches, apart from mirroring, since a process may have a part of one only.
    """
    if probability == 0:
        return torch.zeros(count, dtype=torch.bool)
    return torch.rand(count, generator=generator) < probability


def flipped(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Mirror some images of a batch, those that a bool tensor on the CPU chooses."""
    if not bool(chosen.any()):
        return pixels
    return torch.where(chosen.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels)
