"""A run that is spread over several processes, each with a device of its own.

``torchrun --nproc-per-node N -m ceag_cli mitigate ...`` starts the same command N times. All of
them read the same files, draw the same random numbers and take the same steps, so nearly nothing
has to be agreed upon. What they share is the work on each batch:

1. A batch is one of the whole run. Each process decodes its ``Share`` of it and puts that through
   the model (``splits.portions``).
2. What the models say is put together again (``World.whole``): the method sees the whole batch on
   every process, so its buffers and multipliers are the same on all of them.
3. Gradients are added up by torch's DistributedDataParallel.
4. Files are written by the first process (``World.on_first``), and it alone speaks.

Everything here does nothing in a run of one process. docs/distributed.md is for users.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ceag_cli.batchnorm import norms_of
from ceag_cli.errors import CeagError, OptionError
from ceag_cli.progress import Quiet, Reporter

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """Which images of a batch a process puts through the model: consecutive ones."""

    place: slice
    counts: bool = True
    """False where a batch has fewer images than there are processes: a process without an image
    computes on the first one, since all have to take part in each step, and it counts for nothing.
    """

    def of(self, batch: Tensor) -> Tensor:
        """The share of something that has one entry per image of the batch."""
        return batch[self.place]

    def __len__(self) -> int:
        """The images that count."""
        return self.place.stop - self.place.start if self.counts else 0


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them. By default there is no other."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""

    @classmethod
    def current(cls) -> World:
        """The processes that torch.distributed has brought together, if it has."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed for what a model draws by itself (dropout), so that no two processes draw alike.

        All else is drawn by the seed itself, for the whole batch, on every process.
        """
        return seed + (self.rank << 16)

    def share(self, count: int) -> Share:
        """This process's share of a batch of so many images; sizes differ by one at most."""
        start, stop = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return Share(slice(start, stop)) if start < stop else Share(slice(0, 1), counts=False)

    def total_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def whole(self, part: Tensor, share: Share, count: int) -> Tensor:
        """Put together what has one entry per image, from the shares of all processes.

        Args:
            part: Of this process's share, shape ``(b, ...)``.
            share: As :meth:`share` gave it.
            count: B, the images of the whole batch.

        Returns:
            Shape ``(B, ...)``, equal on all processes; ``part`` itself in a run of one.
        """
        if self.size == 1:
            return part
        # Zeros but for this share: the sum over all processes changes no number.
        kind = torch.uint8 if part.dtype == torch.bool else part.dtype
        found = torch.zeros((count, *part.shape[1:]), dtype=kind, device=part.device)
        if share.counts:
            found[share.place] = part.to(kind)
        return self.total_(found).to(part.dtype)

    def is_true_of_all(self, said: bool) -> bool:
        """Whether all processes say yes."""
        return int(self.total_(torch.tensor(int(said)))) == self.size

    def everyones(self, found: list[str]) -> list[str]:
        """What all processes have found, in their order."""
        if self.size == 1:
            return found
        lists: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(lists, found)
        return [each for some in lists for each in some]

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Raise on all processes what any of them finds wrong.

        Only for what is done without the others: one that waits for another inside waits for long.
        """
        problems: list[str] = []
        try:
            yield
        except CeagError as error:
            if self.size == 1:
                raise
            problems = error.problems
        found = list(dict.fromkeys(self.everyones(problems)))
        if found:
            raise CeagError(found)

    def mean_(self, tensors: Sequence[Tensor], share: Share, count: int) -> None:
        """Average tensors over all processes in place, by the images of each one's share."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * (len(share) / count)
        parts = torch.split(self.total_(flat), [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            # Autograd takes them for inputs of the backward pass to come, which does not use them.
            tensor.data.copy_(part.view_as(tensor))

    def from_first_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors in place by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(
                    tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0
                )

    def on_first(self, action: Callable[[], Result]) -> Result:
        """Let the first process do something when all have come here, and tell all what came of it.

        Its errors are raised on all processes, so that they end together.
        """
        if self.size == 1:
            return action()
        self.total_(torch.zeros(1))  # all are here
        found: list[Any] = [None, None]
        failed: Exception | None = None
        if self.is_first:
            try:
                found[0] = action()
            except Exception as error:
                failed, found[1] = error, _without_frills(error)
        dist.broadcast_object_list(found, 0, device=torch.device("cpu"))
        if failed is not None:
            raise failed
        if found[1] is not None:
            raise found[1]
        result: Result = found[0]
        return result

    def parallel(self, model: nn.Module, has_unused: Callable[[], bool]) -> nn.Module:
        """The model for the forward pass whose gradient is wanted.

        Its backward pass leaves the *mean* of all processes' gradients on each of them.

        Args:
            model: On its device; the same on all processes.
            has_unused: Whether it has parameters that have no part in its output.
        """
        if self.size == 1:
            return model
        # Costs nothing but a copy, in a layer whose parameters have a dimension of size one.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # Statistics of BatchNorm are averaged by mean_, not taken from the first process.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        buffers: dict[str, Any] = {name: False}
        return DistributedDataParallel(model, **buffers, find_unused_parameters=has_unused())

    def check_batch_size(self, count: int) -> None:
        """Refuse batches that are too small to be shared.

        Raises:
            OptionError: There are fewer images in a batch than processes.
        """
        if count < self.size:
            raise OptionError(
                f"--batch-size {count}: is the batch of all {self.size} processes together, which "
                "leaves some without an image; take a larger one, or fewer processes"
            )

    def device(self, name: str | None) -> torch.device:
        """The device asked for; of several GPUs each process on a machine takes another.

        Raises:
            OptionError: There is no such device, or all processes are to have the same one.
        """
        device = device_of(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise OptionError(
                f"--device {name}: would be that of all {self.size} processes; give 'cuda', and "
                "each takes one of its own (CUDA_VISIBLE_DEVICES says which there are)"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device


ALONE = World()


def device_of(name: str | None) -> torch.device:
    """The device asked for, else CUDA where there is one, else the CPU.

    Raises:
        OptionError: There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"--device: '{name}' cannot be used: {str(error).splitlines()[0]}"
        ) from None
    return device


def speaking(reporter: Reporter | None) -> Reporter:
    """The reporter given, where this process is the one that speaks."""
    return reporter if reporter is not None and World.current().is_first else Quiet()


# Models


def synchronised(model: nn.Module, device: torch.device, world: World) -> nn.Module:
    """Let BatchNorm go by the whole batch while training, where torch can do that: on GPUs.

    Layers are exchanged in place, names and parameters stay.
    """
    if world.size == 1 or device.type != "cuda" or not norms_of(model):
        return model
    found: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return found


def unsynchronised(model: nn.Module) -> list[Tensor]:
    """The running statistics of layers that go by the share of one process alone."""
    return [
        statistic
        for norm in norms_of(model)
        if not isinstance(norm, nn.SyncBatchNorm)
        for statistic in (norm.running_mean, norm.running_var)
        if statistic is not None
    ]


def has_unused(model: nn.Module, example: Tensor) -> bool:
    """Whether parameters have no part in what a model says of an input; nothing is changed."""
    was_training = model.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    logits = model.eval()(example)
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    model.train(was_training)
    return any(gradient is None for gradient in gradients)


def _without_frills(error: Exception) -> Exception:
    """An error as it can be sent to the other processes."""
    if isinstance(error, CeagError):
        return CeagError(error.problems)
    if type(error).__module__.startswith("ceag_cli"):
        return error
    return RuntimeError(f"the first process failed: {type(error).__name__}: {error}")
