"""Images: where their pixels are decoded, and where they are kept.

Pixels are decoded, resized and cropped by timm's evaluation transform to uint8 of one size. A data
set whose pixels fit in memory is decoded once and kept, on the device where they fit there; a
larger one is decoded again on every pass. With a folder for pixels (``pixels``) either is decoded
once for all runs.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import PIL
import torch
from PIL import UnidentifiedImageError, features
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ceag_cli.decoding import DECODING, decode
from ceag_cli.distributed import ALONE, World
from ceag_cli.errors import ImageError, first
from ceag_cli.pixels import KeptPixels, PixelCache
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.stores import Store

KEPT_IN_MEMORY = 2 * 1024**3
"""Bytes of decoded pixels up to which a data set is decoded once and kept."""

DECODED_AT_ONCE = 256
"""Images that are decoded together when all of them are."""

TIMED = 8
"""Images whose decoding is timed, if there are many."""

WORTH_WORKERS = 3.0
"""Seconds of decoding from which processes of their own do it."""

DEVICE_SHARE = 0.25
"""Share of a device's free memory that pixels may take; models and activations need the rest."""

CPU = torch.device("cpu")

SHOWN_PROBLEMS = 20


class _Decoded(Dataset[Tensor | str]):
    """Row number → uint8 pixels, or what is wrong with the image."""

    def __init__(
        self,
        store: Store,
        paths: Sequence[str],
        preprocessing: Preprocessing,
        place: Callable[[int], str] | None,
    ) -> None:
        self.store, self.paths, self.place = store, paths, place
        self.channels = preprocessing.input_size[0]
        self.transform = preprocessing.transform()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor | str:
        path = self.paths[row]
        try:
            return self.transform(decode(self.store.read(path), self.channels))
        except Exception as error:  # Pillow and zipfile raise many kinds for damaged bytes
            reason = " ".join(str(error).replace(str(self.store.root / path), "it").split())
            if isinstance(error, UnidentifiedImageError):
                reason = "not an image of a known format"
            place = "" if self.place is None else f"{self.place(row)}: "
            return f"{place}image '{path}' in {self.store.root} cannot be read: {reason}"


def _collate(items: list[Tensor | str]) -> tuple[Tensor, list[str]]:
    pixels = [item for item in items if isinstance(item, Tensor)]
    wrong = [item for item in items if isinstance(item, str)]
    return (torch.stack(pixels) if pixels else torch.empty(0, dtype=torch.uint8)), wrong


class Images:
    """The images of some rows as batches of uint8 pixels of one size.

    Where pixels are kept and how many processes decode makes no difference to them.

    Args:
        store: Where they lie.
        paths: Their paths.
        preprocessing: What becomes of them.
        workers: Processes that decode; ``None`` takes as many as help.
        progress: Hears how many are decoded.
        place: Where each of them is named, for errors.
        keep: Decode all of them now and keep the pixels, where they fit in memory; else they are
            decoded while they are gone through, beside what is done with them.
        cache: The folder where pixels are kept for all runs.
        device: Where batches are going to be needed.
        world: The processes that share the decoding of what is kept in memory.

    Raises:
        ImageError: With every image that cannot be read, where all are decoded at once.
    """

    def __init__(
        self,
        store: Store,
        paths: Sequence[str],
        preprocessing: Preprocessing,
        workers: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
        place: Callable[[int], str] | None = None,
        keep: bool = True,
        cache: PixelCache | None = None,
        device: torch.device = CPU,
        world: World = ALONE,
    ) -> None:
        self.source = _Decoded(store, paths, preprocessing, place)
        self.workers, self.cache = workers, cache
        self.shape = (len(paths), *preprocessing.input_size)
        self.kept: Tensor | None = None
        self.in_cache: KeptPixels | None = None
        self.size = size = math.prod(self.shape)  # in bytes
        key = self._key(preprocessing) if cache is not None and size else None
        if cache is not None and key is not None:
            self.in_cache = cache.open(key, self.shape, lambda: self._decode_all(progress))
        if keep and size <= KEPT_IN_MEMORY:
            # One process may have found them in a folder that another has not.
            together = world if world.is_true_of_all(self.in_cache is None) else ALONE
            if self.in_cache is None:
                own = self._joined(self._decode_all(progress, together), CPU, together)
                self.kept = together.whole(own, together.share(len(paths)), len(paths))
        if (self.kept is not None or self.in_cache is not None) and size <= room_on(device):
            everything = self.batches(torch.arange(len(paths)), DECODED_AT_ONCE)
            self.kept = self._joined((pixels for _, pixels in everything), device)

    def _key(self, preprocessing: Preprocessing) -> str | None:
        """A hash of all that the pixels depend on; ``None`` if an image is gone by now."""
        store = self.source.store
        made_by = f"{DECODING} {PIL.__version__} {features.version_feature('libjpeg_turbo')}"
        digest = hashlib.sha256(f"{made_by} {preprocessing.of_pixels}\n".encode())
        digest.update(f"{store.root.resolve()}".encode("utf-8", "surrogatepass"))
        try:
            for path in self.source.paths:
                digest.update(f"\n{store.state(path)} {path}".encode("utf-8", "surrogatepass"))
        except OSError:  # decoding says which one
            return None
        return digest.hexdigest()

    def _joined(
        self, batches: Iterator[Tensor], device: torch.device, world: World = ALONE
    ) -> Tensor:
        """The pixels of all batches of a process's share as one tensor."""
        count, *shape = self.shape
        found = torch.empty(
            (len(world.share(count).of(torch.arange(count))), *shape),
            dtype=torch.uint8,
            device=device,
        )
        done = 0
        for pixels in batches:
            found[done : done + len(pixels)] = pixels
            done += len(pixels)
        return found

    def _decode_all(
        self, progress: Callable[[int], None], world: World = ALONE
    ) -> Iterator[Tensor]:
        """The pixels of a process's share in order; raises at the end if some cannot be read."""
        count = len(self.source)
        share = world.share(count)
        rows = share.of(torch.arange(count))
        problems: list[str] = []
        done = 0
        for pixels, wrong in self._load(torch.split(rows, DECODED_AT_ONCE), shared=world.size > 1):
            problems += wrong
            done += len(pixels) + len(wrong)
            progress(min(done * world.size, count))
            if not problems:
                yield pixels
        problems = world.everyones(problems if share.counts else [])
        if problems:
            raise ImageError(first(problems, SHOWN_PROBLEMS, " images that cannot be read"))

    def _load(
        self, rows: Sequence[Tensor], *, shared: bool = True
    ) -> Iterator[tuple[Tensor, list[str]]]:
        """Decode rows, with all cores unless they are shared with other processes of the run."""
        workers = self.workers
        if workers is None:
            workers = workers_for(sum(map(len, rows)) * self._seconds_each, cores(shared=shared))
        return iter(
            DataLoader(
                self.source,
                batch_sampler=[chunk.tolist() for chunk in rows],
                num_workers=workers,
                collate_fn=_collate,
                # One of its own, or it draws from that of dropout.
                generator=torch.Generator(),
            )
        )

    @cached_property
    def _seconds_each(self) -> float:
        """How long an image takes to decode, by a few of them."""
        count = len(self.source)
        if count <= TIMED**2:
            return 0.0
        self.source[0]  # the first one also loads what decodes it
        started = time.perf_counter()
        for row in range(0, count, count // TIMED)[:TIMED]:
            self.source[row]
        return (time.perf_counter() - started) / TIMED

    def batches(self, order: Tensor, sizes: int | list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows in the order given, each once: ``(row numbers (B,), pixels (B, C, H, W))``.

        Row numbers are on the CPU; pixels where they are kept.

        Args:
            order: Row numbers.
            sizes: Of every batch (of all but the last, which may be smaller), or of each.
        """
        rows = torch.split(order, sizes)
        if self.kept is not None:
            for chunk in rows:
                yield chunk, self.kept[chunk.to(self.kept.device)]
            return
        if self.in_cache is not None:
            for chunk in rows:
                yield chunk, self._from_cache(self.in_cache, chunk)
            return
        loaded = self._load(rows)
        for chunk, (pixels, wrong) in zip(rows, loaded, strict=True):
            if wrong:  # the rest is looked at too, so that all of them are named at once
                wrong += [problem for _, more in loaded for problem in more]
                raise ImageError(first(wrong, SHOWN_PROBLEMS, " images that cannot be read"))
            yield chunk, pixels

    def _from_cache(self, found: KeptPixels, rows: Tensor) -> Tensor:
        """Pixels from a file; those of them that are damaged are decoded anew."""
        pixels, damaged = found.take(rows)
        if damaged and self.cache is not None:
            self.cache.discard(found)
        for place in damaged:
            decoded = self.source[int(rows[place])]
            if isinstance(decoded, str):
                raise ImageError(decoded)
            pixels[place] = decoded
        return pixels


def cores(*, shared: bool = True) -> int:
    """Processor cores that this process may use; its share, where those of torchrun share them."""
    try:
        here = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        here = os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if shared else 1
    return max(here // processes, 1)


def workers_for(seconds: float, cores: int) -> int:
    """How many processes to decode with what would take one process so many seconds.

    To start one and to hand its pixels over takes some tenths of a second, and a single one decodes
    no faster than the process that waits for it.
    """
    return min(cores, int(seconds)) if cores > 1 and seconds >= WORTH_WORKERS else 0


def room_on(device: torch.device) -> int:
    """Bytes of pixels that may be held on a device; none on a CPU, where they are anyway."""
    if device.type != "cuda":
        return -1
    return int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE)
