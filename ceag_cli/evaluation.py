"""Evaluation: what a model says about every image of a split, each image exactly once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional

from ceag_cli.distributed import ALONE, World, synchronised
from ceag_cli.errors import EvaluationError, OptionError
from ceag_cli.groups import BatchOutcome, GroupStats
from ceag_cli.mixing import mixed
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Reporter
from ceag_cli.sharedoptions import RunOptions
from ceag_cli.splits import Portion, Split, draw_flips, flipped, normalized, portions


@dataclass(frozen=True)
class Compute:
    """Where and how forward passes run."""

    device: torch.device
    amp: bool = False
    """Whether forward passes run in autocast. Losses, gaps and counts never do."""
    amp_dtype: torch.dtype = torch.bfloat16
    backend: str | None = None
    """Of ``torch.compile``; ``None`` runs models as they are."""
    batch_size: int = 128
    """Images of a batch, over all processes."""
    world: World = ALONE
    """The processes that share each batch."""

    @classmethod
    def of(cls, options: RunOptions) -> Compute:
        """As the options say it.

        Raises:
            OptionError: There is no such device or backend, or a batch has too few images for the
                processes.
        """
        world = World.current()
        world.check_batch_size(options.batch_size)
        return cls(
            device=world.device(options.device),
            amp=options.amp,
            amp_dtype=getattr(torch, options.amp_dtype),
            backend=_backend(options.torchcompile),
            batch_size=options.batch_size,
            world=world,
        )

    def place(self, model: nn.Module) -> None:
        """Move a model to the device, its convolutions in the layout that is fastest there.

        It is compiled when it is first called. Its parameters keep their names.
        """
        model.to(self.device)
        model.to(memory_format=torch.channels_last)
        if self.backend is not None:
            model.compile(backend=self.backend)

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Logits in float32, whatever the pass was computed in.

        Raises:
            OptionError: The model cannot be compiled.
        """
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp):
            try:
                logits = model(inputs)
            except TorchDynamoException as error:
                reason = " ".join(str(error).split("\n\n")[0].split())
                raise OptionError(
                    f"--torchcompile {self.backend}: {reason}; leave it out, or try another backend"
                ) from None
        if isinstance(logits, (tuple, list)):  # distilled models give two heads in train mode
            logits = torch.stack(list(logits)).mean(dim=0)
        result: Tensor = logits.float()
        return result

    def to_inputs(self, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
        """A batch of uint8 pixels as the model's input, on the device."""
        mean = _by_channel(preprocessing.mean, self.device)
        std = _by_channel(preprocessing.std, self.device)
        inputs = normalized(pixels.to(self.device, non_blocking=True), mean, std)
        return inputs.contiguous(memory_format=torch.channels_last)


def _backend(name: str | None) -> str | None:
    """A backend of torch.compile that there is."""
    if name is not None and name not in (known := torch.compiler.list_backends(())):
        raise OptionError(f"--torchcompile {name}: is not one of {', '.join(known)}")
    return name


@lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers for the channels of a batch, shape ``(C, 1, 1)``; sent to the device once."""
    return torch.tensor(values, device=device)[:, None, None]


@dataclass(frozen=True)
class Predictions:
    """A model's answer for each image of a split, in the split's order, on the CPU."""

    predicted: Tensor
    """Class index, int64, shape ``(N,)``; among equal logits the first."""
    correct: Tensor
    """bool, shape ``(N,)``."""
    loss: Tensor
    """Cross-entropy, float32, shape ``(N,)``: minus the logarithm of the label's probability."""
    confidence: Tensor
    """Probability of the predicted class, float32, shape ``(N,)``."""

    def stats(self, groups: Tensor, num_groups: int) -> GroupStats:
        """Counts by group and overall."""
        return GroupStats.of(BatchOutcome(self.loss, self.correct, groups), num_groups)


def evaluate(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    compute: Compute,
    reporter: Reporter,
    title: str,
) -> Predictions:
    """Run a model in evaluation mode over a split.

    Raises:
        EvaluationError: The model gives NaN or infinite outputs.
    """
    return evaluate_together({title: model}, split, preprocessing, compute, reporter, title)[title]


def evaluate_mixed(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    compute: Compute,
    share: float,
    seed: int,
    reporter: Reporter,
    title: str,
) -> Predictions:
    """Run a model in evaluation mode over a split, each image mixed with another of its batch.

    The partners are drawn by the seed, so all models see the same mixtures; see ``mixing``.

    Raises:
        EvaluationError: The model gives NaN or infinite outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = _in_random_order(len(split), compute.batch_size, generator)
    shared = portions(split.images, batches, compute.world, with_one_before=True)
    shown = ((each, each.own(mixed(each.pixels.float(), share))) for each in shared)
    was_training = model.training
    compute.place(model.eval())
    models = {title: model}
    found = _predict(models, split, shown, preprocessing, compute, reporter, title)[title]
    model.train(was_training)
    return found


def evaluate_together(
    models: Mapping[str, nn.Module],
    split: Split,
    preprocessing: Preprocessing,
    compute: Compute,
    reporter: Reporter,
    title: str,
) -> dict[str, Predictions]:
    """Run models in evaluation mode over a split; each image is decoded and sent once.

    Args:
        models: By name, for the result and for errors.
        split: The images, which all of them see in the same batches.
        preprocessing: Of all of them.
        compute: Where and how.
        reporter: Shows a bar.
        title: Of the bar.

    Raises:
        EvaluationError: A model gives NaN or infinite outputs.
    """
    were_training = [model.training for model in models.values()]
    for model in models.values():
        compute.place(model.eval())
    batches = torch.split(torch.arange(len(split)), compute.batch_size) if len(split) else ()
    shared = portions(split.images, batches, compute.world)
    shown = ((each, each.pixels) for each in shared)
    found = _predict(models, split, shown, preprocessing, compute, reporter, title)
    for model, was_training in zip(models.values(), were_training, strict=True):
        model.train(was_training)
    return found


def evaluate_in_training_mode(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    compute: Compute,
    hflip: float,
    seed: int,
    reporter: Reporter,
    title: str,
) -> Predictions:
    """Run a model over a split under the conditions of a training epoch, each image once.

    Batches come in random order, images are flipped at random, dropout is on, BatchNorm goes by
    the statistics of the batch. The model itself is not changed.

    Raises:
        EvaluationError: The model gives NaN or infinite outputs.
    """
    torch.manual_seed(compute.world.seed(seed))
    generator = torch.Generator().manual_seed(seed)
    batches = _in_random_order(len(split), compute.batch_size, generator)
    shown = (
        (
            each,
            flipped(
                each.pixels.to(compute.device),
                each.pick(draw_flips(len(each.rows), hflip, generator)),
            ),
        )
        for each in portions(split.images, batches, compute.world)
    )
    in_training = copy.deepcopy(model)  # its BatchNorm may update what it likes
    in_training = synchronised(in_training, compute.device, compute.world).train()
    compute.place(in_training)
    models = {title: in_training}
    return _predict(models, split, shown, preprocessing, compute, reporter, title)[title]


def _in_random_order(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """The rows of all images, batch by batch.

    A last image that is left over joins the batch before it: BatchNorm in training mode cannot
    normalise it alone, and there is none that it could be mixed with.
    """
    order = torch.randperm(count, generator=generator)
    whole = len(order) - size - 1 if len(order) > size and len(order) % size == 1 else len(order)
    return [
        rows
        for part, most in ((order[:whole], size), (order[whole:], size + 1))
        for rows in torch.split(part, most)
        if len(rows)
    ]


def sampled_batches(
    split: Split,
    preprocessing: Preprocessing,
    compute: Compute,
    seed: int,
    count: int | None,
    reporter: Reporter,
    title: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets and groups of images drawn at random, always the same ones of a seed.

    Images are as in evaluation, not flipped. A last batch of one image is left out.

    Args:
        split: Where they are drawn from, without replacement.
        preprocessing: Of the model that is to see them.
        compute: Says the batch size and the device.
        seed: Draws them.
        count: Number of images; ``None`` takes all.
        reporter: Shows a bar.
        title: Of the bar.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator)[:count]
    size, device = compute.batch_size, compute.device
    if len(order) > size and len(order) % size == 1:
        order = order[:-1]
    with reporter.bar(title, len(order)) as update:
        for done, (rows, pixels) in enumerate(split.images.batches(order, size), start=1):
            inputs = compute.to_inputs(pixels, preprocessing)
            yield inputs, split.targets[rows].to(device), split.groups[rows].to(device)
            update(min(done * size, len(order)), "")


@torch.no_grad()
def _predict(
    models: Mapping[str, nn.Module],
    split: Split,
    shown: Iterable[tuple[Portion, Tensor]],
    preprocessing: Preprocessing,
    compute: Compute,
    reporter: Reporter,
    title: str,
) -> dict[str, Predictions]:
    """What models say about images, from batches and the pixels that this process is to show."""
    said = {name: _Said([], [], [], []) for name in models}
    order: list[Tensor] = []
    done = 0
    # In training mode layers may ask the other processes.
    alone = not any(model.training for model in models.values())
    agreeing = compute.world.agreeing() if alone else nullcontext()
    with agreeing, reporter.bar(title, len(split)) as update:
        for batch, pixels in shown:
            rows = batch.share.of(batch.rows)
            inputs = compute.to_inputs(pixels, preprocessing)
            targets = split.targets[rows].to(compute.device)
            for name, model in models.items():
                try:
                    logits = compute.forward(model, inputs)
                except ValueError as error:  # BatchNorm in training mode and a batch of one pixel
                    raise EvaluationError(
                        f"{name}: {error}; try a larger --batch-size or --img-size"
                    ) from None
                if batch.share.counts:
                    said[name].add(logits, targets)
            order.append(rows[: len(batch.share)])
            done += len(batch.rows)
            update(done, "")
    rows = torch.cat(order) if order else torch.zeros(0, dtype=torch.int64)
    return {
        name: answers.joined(rows, split.targets, name, compute.world)
        for name, answers in said.items()
    }


@dataclass(frozen=True)
class _Said:
    """A model's answers, batch by batch, on the device: nothing waits for a batch to arrive."""

    predicted: list[Tensor]
    loss: list[Tensor]
    confidence: list[Tensor]
    finite: list[Tensor]

    def add(self, logits: Tensor, targets: Tensor) -> None:
        log_probabilities = functional.log_softmax(logits, dim=1)
        self.predicted.append(logits.argmax(dim=1))
        self.loss.append(functional.nll_loss(log_probabilities, targets, reduction="none"))
        self.confidence.append(log_probabilities.amax(dim=1).exp())
        self.finite.append(logits.isfinite().all(dim=1))

    def joined(self, rows: Tensor, targets: Tensor, name: str, world: World) -> Predictions:
        """All batches of all processes, in the split's order."""

        def whole(parts: list[Tensor], kind: torch.dtype) -> Tensor:
            found = torch.zeros(len(targets), dtype=kind)
            if parts:
                found[rows] = torch.cat(parts).cpu().to(kind)
            return world.total_(found)  # each image is one process's alone

        bad = len(targets) - int(whole(self.finite, torch.uint8).sum())
        if bad:
            raise EvaluationError(
                f"{name}: NaN or infinite outputs for {bad} of {len(targets)} images; no accuracy "
                "can be given for such a model"
            )
        predicted = whole(self.predicted, torch.int64)
        loss = whole(self.loss, torch.float32)
        confidence = whole(self.confidence, torch.float32)
        return Predictions(predicted, predicted == targets, loss, confidence)
