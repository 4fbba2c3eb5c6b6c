"""The one training loop. It knows nothing of constraints, groups' buffers or multipliers.

A method (an ``Objective``) sees the outcome of each batch and answers with one weight per sample;
the loop multiplies, sums, differentiates, steps, and puts the masks back on. Which iterate is kept
is the business of a ``Keeper``.

Every epoch draws its random numbers from the seed and its own number, so that a run that was
interrupted continues with the numbers that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from ceag_cli import distillation, mixing, strictjson
from ceag_cli.baselines import NaiveFineTuning
from ceag_cli.distributed import has_unused, synchronised, unsynchronised
from ceag_cli.errors import TrainingError
from ceag_cli.evaluation import Compute
from ceag_cli.gaps import excess_gap, max_excess_gap
from ceag_cli.groups import BatchOutcome, GroupStats
from ceag_cli.iterates import Keeper
from ceag_cli.masks import Masks
from ceag_cli.optimizers import lr_scheduler_of, optimizer_of
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Reporter, Update
from ceag_cli.runs import Run, damaged_state
from ceag_cli.sharedoptions import TrainingOptions
from ceag_cli.splits import Portion, Split, draw_flips, flipped, portions


class Objective(Protocol):
    """A fine-tuning method: what it makes of each batch, and what it remembers."""

    def weights(self, batch: BatchOutcome) -> Tensor:
        """One weight per sample, shape ``(B,)``; the weighted sum of losses is differentiated."""

    def status(self) -> dict[str, float]:
        """What it adds to the log of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What has to be kept to continue later."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


class Schedule(Protocol):
    """Pruning at the start of epochs; the objective sets in with the last of them."""

    @property
    def end(self) -> int:
        """The epoch that reaches the final sparsity, counted from 0."""

    def prune(self, model: nn.Module, epoch: int) -> Masks | None:
        """Prune in place at the start of an epoch, where that is due; called up to ``end``."""


@dataclass
class Training:
    """A model being trained.

    Attributes are what the constructor takes; ``masks``, ``epoch`` and ``log`` change as it runs.
    """

    model: nn.Module
    split: Split
    preprocessing: Preprocessing
    compute: Compute
    options: TrainingOptions
    epochs: int
    seed: int
    num_groups: int
    run: Run
    reporter: Reporter
    title: str
    objective: Objective = field(default_factory=NaiveFineTuning)
    masks: Masks | None = None
    schedule: Schedule | None = None
    dense: GroupStats | None = None
    """Statistics of the dense model on the split, for the max psi of the log."""
    keeper: Keeper | None = None
    """Chooses the iterate that the model ends with; without one it is the last."""
    measure: str = "train"
    """Where the method sees each sample's correctness: as ``train`` went, on the same inputs in
    ``eval`` mode, or on ``mixed`` ones in evaluation mode, beside the dense model's."""
    mix_share: float = mixing.SHARE
    dense_model: nn.Module | None = None
    """In evaluation mode, on the device; needed to distil from and for ``mixed``."""
    distill: float = 0.0
    """Share of the divergence from the dense model in each sample's loss."""
    temperature: float = distillation.TEMPERATURE
    decay_on: str = "all"
    """See ``optimizer_of``."""
    watch: Callable[[Sequence[dict[str, Any]]], list[str]] = lambda log: []
    """Reads the log after every epoch and says what the user should be warned of."""
    cycle: int | None = None
    """Epochs after which optimiser, learning rate and averages start anew; ``None`` for never."""
    early_epoch: int | None = None
    """The number of epochs after which the state of the model is set aside in ``early``."""

    epoch: int = 0
    """Finished epochs."""
    log: list[dict[str, Any]] = field(default_factory=list)
    early: dict[str, Tensor] | None = None
    """The model as it was after ``early_epoch`` epochs."""
    averaged: ModelEmaV3 | None = field(init=False, default=None)
    """Moving averages of the model's state, with ``--model-ema``."""

    def __post_init__(self) -> None:
        if len(self.split) < 2:
            raise TrainingError("training needs at least two images with split 'train'")
        self.world = self.compute.world
        self.model = synchronised(self.model, self.compute.device, self.world)
        self.compute.place(self.model)
        self.optimizer = optimizer_of(self.model, self.options, self.decay_on)
        # Small gradients vanish in float16 unless they are scaled up; bfloat16 has float32's range.
        small = self.compute.amp and self.compute.amp_dtype is torch.float16
        self._scaler = GradScaler(self.compute.device.type, enabled=small)
        self.steps = len(self._batches(torch.arange(len(self.split))))
        self._cycle = self.cycle or max(self.epochs, 1)
        self.lr_scheduler = lr_scheduler_of(self.optimizer, self.options, self._cycle, self.steps)
        if self.options.model_ema:
            decay = self.options.model_ema_decay
            self.averaged = ModelEmaV3(self.model, decay, use_warmup=True)
        self._parallel = self.world.parallel(self.model, self._has_unused)
        self._own_statistics = unsynchronised(self.model)

    def _has_unused(self) -> bool:
        example = torch.zeros(1, *self.preprocessing.input_size, device=self.compute.device)
        return has_unused(self.model, example)

    def _batches(self, order: Tensor) -> list[Tensor]:
        """Batches of an epoch; a last batch of one image is left out (BatchNorm needs two)."""
        batches = list(torch.split(order, self.compute.batch_size))
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def fit(self, state: dict[str, Any] | None) -> None:
        """Train to the last epoch, from the beginning or from a state; saves one every epoch.

        At the end the model has the weights of the iterate to keep.

        Raises:
            TrainingError: The loss became NaN or infinite.
        """
        if state is not None:
            try:
                self._restore(state)
            except Exception:  # torch raises many kinds for values of other types and shapes
                raise damaged_state(self.run.state_path) from None
            self.reporter.say(f"continuing after epoch {self.epoch} of {self.epochs}")
        with self.reporter.bar(self.title, self.epochs * self.steps) as update:
            while self.epoch < self.epochs and not self._out_of_patience():
                if self.epoch == self.early_epoch:
                    self.early = {k: v.clone() for k, v in self.model.state_dict().items()}
                line = self._one_epoch(update)
                self.epoch += 1
                self.log.append(line | self._offer())
                for warning in self.watch(self.log):
                    self.reporter.warn(warning)
                self.world.on_first(lambda: self.run.save_state(self._state(), self.log))
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())
        if self.keeper is not None:
            self.keeper.restore(self.model)

    def _out_of_patience(self) -> bool:
        return self.keeper is not None and self.keeper.exhausted(self.epoch)

    def _offer(self) -> dict[str, Any]:
        """Show the iterate to the keeper; what was measured, for the log."""
        if self.keeper is None or (self.schedule is not None and self.epoch <= self.schedule.end):
            return {}
        shown = self.model if self.averaged is None else self.averaged.module
        found = self.keeper.offer(self.epoch, shown)
        if found is None:
            return {}
        return {"judged_accuracy": found.accuracy, "judged_max_excess_gap": found.max_excess_gap}

    def _one_epoch(self, update: Update) -> dict[str, Any]:
        epoch = self.epoch
        seed = (self.seed << 24) + epoch + 1
        torch.manual_seed(self.world.seed(seed))  # dropout and the like
        generator = torch.Generator().manual_seed(seed)
        objective: Objective = self.objective
        if self.schedule is not None and epoch <= self.schedule.end:
            self._prune(self.schedule)
            if epoch < self.schedule.end:
                objective = NaiveFineTuning()
        if epoch % self._cycle == 0:
            self._start_anew()
        self.model.train()
        stats = GroupStats.zeros(self.num_groups, self.compute.device)
        batches = self._batches(torch.randperm(len(self.split), generator=generator))
        mixes = self.measure == "mixed"
        accumulated = self.options.grad_accum_steps
        shared = portions(self.split.images, batches, self.world, with_one_before=mixes)
        for step, batch in enumerate(shared, start=1):
            flips = draw_flips(len(batch.rows), self.options.hflip, generator)
            pixels = flipped(batch.pixels.to(self.compute.device), batch.pick(flips))
            first = (step - 1) // accumulated * accumulated  # of those that make one step
            together = min(accumulated, self.steps - first)
            stats.add_(self._gradient(batch, pixels, objective, together))
            in_cycle = epoch % self._cycle * self.steps + step
            if step == first + together:
                self._primal_step(in_cycle)
            if self.lr_scheduler is not None:
                self.lr_scheduler.step_update(in_cycle)
            if step % 10 == 0 or step == self.steps:  # reading the numbers stops the device
                update(epoch * self.steps + step, self._words(stats))
        line = self._line(epoch, stats)
        if not torch.isfinite(stats.total_loss):
            raise TrainingError(
                f"the loss became {line['loss']} in epoch {epoch + 1}; try a smaller --lr or "
                "--clip-grad 1"
            )
        return line

    def _prune(self, schedule: Schedule) -> None:
        masks = schedule.prune(self.model, self.epoch)
        if masks is None:
            return
        # Scores of a GPU may differ in their last bits, and then the weights that are chosen.
        self.world.from_first_([*masks.pruned.values(), *self.model.state_dict().values()])
        self.masks = masks
        if self.averaged is not None:
            Masks(self.averaged.module, masks.pruned).apply_()

    def _start_anew(self) -> None:
        """The beginning of a cycle."""
        self.optimizer.state.clear()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step_update(0)
        if self.averaged is not None:
            self.averaged.set(self.model)  # type: ignore[no-untyped-call]

    def _gradient(
        self, batch: Portion, pixels: Tensor, objective: Objective, together: int
    ) -> BatchOutcome:
        """Add a batch's share of the gradient of one step.

        Outcome of the whole batch, weights from the method, gradient of the weighted sum divided by
        the number of batches that are taken together.

        Args:
            batch: What this process has of it.
            pixels: Those of the batch, flipped.
            objective: The method.
            together: Batches of the step.
        """
        device, share = self.compute.device, batch.share
        targets = self.split.targets[batch.rows].to(device, non_blocking=True)
        groups = self.split.groups[batch.rows].to(device, non_blocking=True)
        own_targets = share.of(targets)
        shown = self.compute.to_inputs(pixels, self.preprocessing)
        inputs = batch.own(shown)
        try:
            logits = self.compute.forward(self._parallel, inputs)
        except ValueError as error:
            fewer = ", or fewer processes" if self.world.size > 1 else ""
            raise TrainingError(
                f"{error}; try a larger --batch-size or --img-size{fewer}"
            ) from None
        self.world.mean_(self._own_statistics, share, len(batch.rows))
        losses = functional.cross_entropy(
            logits, own_targets, reduction="none", label_smoothing=self.options.smoothing
        )
        outcome = BatchOutcome(
            self._whole(losses.detach(), batch),
            self._whole(logits.argmax(dim=1) == own_targets, batch),
            groups,
        )
        measured = outcome
        if not isinstance(objective, NaiveFineTuning):
            measured = self._as_measured(outcome, batch, shown, own_targets)
        weights = share.of(objective.weights(measured).to(losses.dtype))
        if self.distill:
            dense_logits = self._dense_logits(inputs)
            losses = distillation.distilled(
                losses, logits, dense_logits, self.distill, self.temperature
            )
        # The gradient that is stepped down is the mean over the processes, and their sum is wanted.
        weights = weights * (self.world.size if share.counts else 0)
        loss = self._scaler.scale((weights * losses).sum() / together)
        loss.backward()  # type: ignore[no-untyped-call]
        return outcome

    def _whole(self, part: Tensor, batch: Portion) -> Tensor:
        return self.world.whole(part, batch.share, len(batch.rows))

    def _as_measured(
        self, outcome: BatchOutcome, batch: Portion, shown: Tensor, own_targets: Tensor
    ) -> BatchOutcome:
        """The batch as the method is to see it."""
        if self.measure == "train":
            return outcome
        inputs, dense_correct = batch.own(shown), None
        if self.measure == "mixed":
            inputs = batch.own(mixing.mixed(shown, self.mix_share))
            dense_right = self._dense_logits(inputs).argmax(dim=1) == own_targets
            dense_correct = self._whole(dense_right, batch)
        correct = self._whole(self._says_in_eval_mode(inputs) == own_targets, batch)
        return replace(outcome, correct=correct, dense_correct=dense_correct)

    @torch.no_grad()
    def _dense_logits(self, inputs: Tensor) -> Tensor:
        assert self.dense_model is not None
        return self.compute.forward(self.dense_model, inputs)

    def _primal_step(self, in_cycle: int) -> None:
        """Step down the gradient and put the masks back on; the averages follow."""
        if self.options.clip_grad is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_grad)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masks is not None:
            self.masks.apply_()
        if self.averaged is not None:
            self.averaged.update(self.model, in_cycle // self.options.grad_accum_steps)

    @torch.no_grad()
    def _says_in_eval_mode(self, inputs: Tensor) -> Tensor:
        """The class of each sample, by the weights before the step."""
        said = self.compute.forward(self.model.eval(), inputs).argmax(dim=1)
        self.model.train()
        return said

    def _line(self, epoch: int, stats: GroupStats) -> dict[str, Any]:
        """The log entry of an epoch; accuracies are those met while training."""
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": float(stats.overall_loss),
            "accuracy": float(stats.overall_accuracy),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        if self.dense is not None:
            line["max_excess_gap"] = float(max_excess_gap(excess_gap(self.dense, stats)))
        if self.masks is not None:
            line["sparsity"] = self.masks.sparsity
        return line | self.objective.status()

    def _words(self, stats: GroupStats) -> str:
        words = f"loss {stats.overall_loss:.3f} acc {stats.overall_accuracy:.1%}"
        if self.dense is not None:
            psi = max_excess_gap(excess_gap(self.dense, stats))
            words += f" max psi {100 * psi:+z.1f}"
        extra = self.objective.status()
        if "max_multiplier" in extra:
            words += f" max λ {extra['max_multiplier']:.2f}"
        return words

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "masks": self.masks.pruned if self.masks is not None else None,
            "objective": self.objective.state_dict(),
            "keeper": self.keeper.state_dict() if self.keeper is not None else None,
            "averaged": self.averaged and self.averaged.module.state_dict(),
            "early": self.early,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch = strictjson.whole(state["epoch"], "the epoch", self.epochs)
        self.log = list(state["log"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.objective.load_state_dict(state["objective"])
        if self.keeper is not None:
            self.keeper.load_state_dict(state["keeper"])
        self.early = state["early"]
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["averaged"])
        if state["masks"] is not None:
            self.masks = Masks(self.model, state["masks"])
