import copy
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from toys import CPU, HALF, PLAIN_DESCENT, Watching, a_split, tiny_model, training, write_images

from ceag_cli.errors import EvaluationError, OptionError, TrainingError
from ceag_cli.evaluation import Compute, evaluate, evaluate_in_training_mode, evaluate_together
from ceag_cli.groups import BatchOutcome, GroupStats
from ceag_cli.iterates import Keeper
from ceag_cli.lineage import Lineage
from ceag_cli.masks import Masks
from ceag_cli.options import DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.progress import Quiet
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import GradualPruning, magnitude_uniform
from ceag_cli.runs import Run
from ceag_cli.stages import dense, mitigate, prune
from ceag_cli.weightsfiles import read_metadata


def pruned(model: nn.Module, sparsity: float) -> Masks:
    return magnitude_uniform(model, prunable_parameters(model), sparsity)


def gradual(model: nn.Module, final: float, end: int) -> GradualPruning:
    return GradualPruning.of(model, prunable_parameters(model), final, end)


# What a method sees


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(8, [8, 8, 8]), (24, [24]), (100, [24]), (10, [10, 10, 4]), (23, [23])],
)
def test_an_epoch_shows_every_image_once_but_for_a_last_batch_of_one(
    tmp_path: Path, batch_size: int, sizes: list[int]
) -> None:
    watching = Watching()
    training(tmp_path, epochs=1, objective=watching, batch_size=batch_size).fit(None)
    assert [len(batch.loss) for batch in watching.seen] == sizes


def test_a_method_sees_loss_correctness_and_group_of_each_sample(tmp_path: Path) -> None:
    watching = Watching()
    training(tmp_path, epochs=1, objective=watching).fit(None)
    assert all(batch.groups.shape == (8, 1) for batch in watching.seen)
    assert all(batch.correct.dtype == torch.bool for batch in watching.seen)
    assert not any(batch.loss.requires_grad for batch in watching.seen)
    groups = torch.cat([batch.groups for batch in watching.seen])[:, 0]
    assert torch.bincount(groups).tolist() == [12, 12]


def test_what_a_method_sees_belongs_to_the_same_image(tmp_path: Path) -> None:
    """A model that answers with the colour is right, and a wrong label is seen in its group."""

    class Colour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(10.0))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.scale * inputs.mean(dim=(2, 3))

    split = a_split()
    wrong = split.targets.clone()
    wrong[1::2] = (wrong[1::2] + 1) % 3  # the whole of group 1
    watching = Watching()
    split = dataclasses.replace(split, targets=wrong)
    training(tmp_path, Colour(), split=split, epochs=1, objective=watching).fit(None)
    for batch in watching.seen:
        assert torch.equal(batch.correct, batch.groups[:, 0] == 0)
        assert bool((batch.loss[batch.correct] < 0.1).all())
        assert bool((batch.loss[~batch.correct] > 1).all())


def test_the_gradient_is_that_of_the_weighted_sum(tmp_path: Path) -> None:
    """Weights of zero: without momentum and weight decay nothing moves."""

    class Zero(Watching):
        def weights(self, batch: BatchOutcome) -> Tensor:
            return torch.zeros(len(batch.loss), dtype=torch.float64)

    model = tiny_model("test_resnet")
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    training(tmp_path, model, objective=Zero(), weight_decay=0.0).fit(None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())


def test_one_step_is_the_gradient_step_on_the_mean_loss(tmp_path: Path) -> None:
    model, split = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), a_split()
    weight = model.get_parameter("1.weight").detach().clone().requires_grad_()
    bias = model.get_parameter("1.bias").detach().clone()
    pixels: Any = split.images
    inputs = (pixels.pixels.flatten(1).float() / 255 - 0.5) / 0.5
    loss = functional.cross_entropy(inputs @ weight.T + bias, split.targets)
    (gradient,) = torch.autograd.grad(loss, weight)
    plain = PLAIN_DESCENT | {"hflip": 0.0, "lr": 0.1}
    training(tmp_path, model, epochs=1, batch_size=24, **plain).fit(None)
    stepped = weight.detach() - 0.1 * gradient
    assert torch.allclose(model.get_parameter("1.weight"), stepped, atol=1e-6)


def test_epochs_see_the_images_in_another_order_and_seeds_too(tmp_path: Path) -> None:
    def order(seed: int) -> list[Tensor]:
        watching = Watching()
        split = a_split()
        split = dataclasses.replace(split, groups=torch.arange(24)[:, None])
        one = training(tmp_path, split=split, seed=seed, num_groups=24, objective=watching)
        one.fit(None)
        return [batch.groups[:, 0] for batch in watching.seen]

    first, again, other = order(1), order(1), order(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(torch.cat(first[:3]), torch.cat(first[3:]))
    assert not torch.equal(torch.cat(first), torch.cat(other))
    assert sorted(torch.cat(first[:3]).tolist()) == list(range(24))
    assert sorted(torch.cat(first[3:]).tolist()) == list(range(24))


# Masks


@pytest.mark.parametrize(
    "options",
    [
        {"opt": "sgd", "momentum": 0.9, "weight_decay": 0.1, "lr": 0.1},
        {"opt": "momentum", "momentum": 0.9, "lr": 0.1},
        {"opt": "adamw", "weight_decay": 0.1, "lr": 0.01},
        {"opt": "rmsprop", "lr": 0.001},
    ],
    ids=lambda options: options["opt"],
)
def test_pruned_weights_are_exactly_zero_after_every_step(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = tiny_model("test_resnet")
    masks = pruned(model, 0.5)
    left: list[int] = []

    def look() -> None:
        """Called in every step, before the weights move again."""
        for name, mask in masks.pruned.items():
            weights = model.get_parameter(name).detach()[mask]
            # The bits, so that -0.0 counts as something else.
            left.append(int(weights.view(torch.int32).count_nonzero()))

    training(tmp_path, model, masks=masks, objective=Watching(look), **options).fit(None)
    look()
    assert left == [0] * (7 * len(masks.pruned))


def test_weights_that_are_not_pruned_move(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    masks = pruned(model, 0.5)
    before = {name: model.get_parameter(name).detach().clone() for name in masks.pruned}
    training(tmp_path, model, masks=masks).fit(None)
    for name, mask in masks.pruned.items():
        moved = model.get_parameter(name).detach() != before[name]
        assert not bool(moved[mask].any())
        assert float(moved[~mask].float().mean()) > 0.9


def test_masks_of_gradual_pruning_are_nested_and_follow_the_schedule(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    masks: list[Masks] = []

    class Kept(GradualPruning):
        def prune(self, model: nn.Module, epoch: int) -> Masks:
            masks.append(super().prune(model, epoch))
            return masks[-1]

    schedule = Kept.of(model, prunable_parameters(model), 0.9, 3)
    one = training(tmp_path, model, epochs=5, schedule=schedule)
    one.fit(None)
    assert len(masks) == 4
    assert [round(line["sparsity"], 3) for line in one.log] == [0.0, 0.633, 0.867, 0.9, 0.9]
    for earlier, later in pairwise(masks):
        for name, mask in earlier.pruned.items():
            assert bool(later.pruned[name][mask].all())
    for name, mask in masks[-1].pruned.items():
        assert int((model.get_parameter(name) == 0).sum()) == int(mask.sum())


@pytest.mark.parametrize(("end", "calls"), [(0, 12), (1, 9), (2, 6), (3, 3)])
def test_the_method_sets_in_with_the_last_pruning(tmp_path: Path, end: int, calls: int) -> None:
    """Three steps in each of the four epochs from ``end`` on."""
    watching = Watching()
    model = tiny_model("test_resnet")
    schedule = gradual(model, 0.9, end)
    training(tmp_path, model, epochs=4, schedule=schedule, objective=watching).fit(None)
    assert len(watching.seen) == calls


# Learning rate and optimiser


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sched": "constant"}, [0.1] * 10),
        (
            {"sched": "cosine"},
            [0.09755, 0.09045, 0.07939, 0.06545, 0.05, 0.03455, 0.02061, 0.00955, 0.00245, 0.0],
        ),
        ({"sched": "multistep"}, [0.1] * 5 + [0.01] * 2 + [0.001] + [0.0001] * 2),
        (
            {"sched": "multistep", "decay_milestones": (2, 4), "decay_rate": 0.5},
            [0.1, 0.05, 0.05] + [0.025] * 7,
        ),
        ({"sched": "constant", "warmup_epochs": 2}, [0.05] + [0.1] * 9),
    ],
    ids=["constant", "cosine", "60, 80 and 90 %", "milestones", "warm-up"],
)
def test_the_learning_rate_after_each_epoch(
    tmp_path: Path, options: dict[str, Any], expected: list[float]
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    one = training(tmp_path, model, epochs=10, lr=0.1, **options)
    one.fit(None)
    assert [line["lr"] for line in one.log] == pytest.approx(expected, abs=1e-5)


def test_weight_decay_leaves_biases_and_norms_alone(tmp_path: Path) -> None:
    one = training(tmp_path, weight_decay=0.3)
    decay = {group["weight_decay"] for group in one.optimizer.param_groups}
    assert decay == {0.0, 0.3}
    for group in one.optimizer.param_groups:
        dimensions = {parameter.ndim for parameter in group["params"]}
        assert dimensions == ({1} if group["weight_decay"] == 0 else {2, 4})


def test_an_optimiser_that_timm_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--opt nonsense: "):
        training(tmp_path, opt="nonsense")


@pytest.mark.parametrize("sched", ["cosine", "multistep", "constant"])
def test_a_warm_up_that_never_ends_is_refused(tmp_path: Path, sched: str) -> None:
    with pytest.raises(OptionError, match="--warmup-epochs 2 leaves nothing of --epochs 2"):
        training(tmp_path, sched=sched, warmup_epochs=2)


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """One step of plain gradient descent at rate 1 moves all weights by 0.01 in norm."""
    model = tiny_model("test_resnet")

    def weights() -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    before = weights()
    options = PLAIN_DESCENT | {"lr": 1.0, "clip_grad": 0.01}
    training(tmp_path, model, epochs=1, batch_size=24, **options).fit(None)
    assert float((weights() - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_may_be_on_the_classifier_alone(tmp_path: Path) -> None:
    """As the paper's code has it, biases included."""
    one = training(tmp_path, weight_decay=0.3, decay_on="classifier")
    decay, rest = one.optimizer.param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    head = [one.model.get_parameter(name) for name in ("fc.weight", "fc.bias")]
    assert {id(parameter) for parameter in decay["params"]} == {id(p) for p in head}
    assert len(decay["params"]) + len(rest["params"]) == len(list(one.model.parameters()))


@pytest.mark.parametrize("decay_on", ["all", "classifier"])
def test_weights_that_decay_do_decay(tmp_path: Path, decay_on: str) -> None:
    """With a gradient of zero, one step of rate 0.5 and decay 0.5 leaves three quarters."""

    class Zero(Watching):
        def weights(self, batch: BatchOutcome) -> Tensor:
            return torch.zeros_like(batch.loss)

    model = tiny_model("test_resnet")
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    options = PLAIN_DESCENT | {"lr": 0.5, "weight_decay": 0.5, "decay_on": decay_on}
    one = training(tmp_path, model, epochs=1, batch_size=24, objective=Zero(), **options)
    one.fit(None)
    for name, share in {
        "layer1.0.conv1.weight": 0.75 if decay_on == "all" else 1.0,
        "layer1.0.bn1.weight": 1.0,
        "fc.weight": 0.75,
        "fc.bias": 1.0 if decay_on == "all" else 0.75,
    }.items():
        assert torch.equal(model.get_parameter(name), share * before[name]), name


# The iterate that is kept


class Found:
    """Right ones of group 0 and of group 1 after each epoch, of twelve each."""

    def __init__(self, *right: tuple[int, int]) -> None:
        self.right = list(right)
        self.asked: list[int] = []

    def __call__(self, model: nn.Module) -> GroupStats:
        self.asked.append(len(self.asked) + 1)
        return stats_of(*self.right.pop(0))


def stats_of(right_0: int, right_1: int) -> GroupStats:
    rows = torch.arange(24)
    correct = torch.where(rows % 2 == 0, rows // 2 < right_0, rows // 2 < right_1)
    return GroupStats.of(BatchOutcome(torch.zeros(24), correct, (rows % 2)[:, None]), 2)


def a_keeper(rule: str, *right: tuple[int, int], **options: Any) -> Keeper:
    dense = stats_of(12, 12)
    return Keeper(rule, Found(*right), dense, 0.1, **({"first": 1} | options))


def test_the_model_ends_with_the_weights_of_the_iterate_to_keep(tmp_path: Path) -> None:
    model, after = tiny_model("test_resnet"), []

    class Remembering(Run):
        def save_state(self, state: Any, log: Any) -> None:
            after.append(state["model"]["fc.weight"].clone())
            super().save_state(state, log)

    run = Remembering(tmp_path / "m.safetensors", {"command": "dense"}, {})
    # Of four epochs the second and the third hold (psi 0 and 0), so the third is kept.
    keeper = a_keeper("feasible", (12, 6), (9, 9), (6, 6), (12, 6))
    one = training(tmp_path, model, epochs=4, keeper=keeper, run=run)
    one.fit(None)
    assert keeper.kept is not None
    assert keeper.kept.epoch == 3
    assert torch.equal(model.get_parameter("fc.weight"), after[2])
    assert not torch.equal(after[2], after[3])
    judged = [line["judged_max_excess_gap"] for line in one.log]
    assert judged == pytest.approx([0.25, 0.0, 0.0, 0.25])
    assert [line["judged_accuracy"] for line in one.log] == pytest.approx([0.75, 0.75, 0.5, 0.75])


def test_only_iterates_at_the_final_sparsity_are_candidates(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    keeper = a_keeper("accuracy", (12, 12), (6, 6))
    training(tmp_path, model, epochs=4, keeper=keeper, schedule=gradual(model, 0.9, 2)).fit(None)
    # Epochs 1 and 2 were less sparse. The first with the final sparsity is the third.
    assert keeper.kept is not None
    assert keeper.kept.epoch == 3


def test_training_stops_when_patience_runs_out(tmp_path: Path) -> None:
    keeper = a_keeper("accuracy", (6, 6), (12, 12), (6, 6), (6, 6), (12, 12), patience=2)
    one = training(tmp_path, epochs=9, keeper=keeper)
    one.fit(None)
    assert one.epoch == 4
    assert len(one.log) == 4


def test_what_the_log_gives_reason_for_is_warned_of(tmp_path: Path) -> None:
    warned: list[str] = []

    class Hearing(Quiet):
        def warn(self, text: str) -> None:
            warned.append(text)

    def watch(log: Any) -> list[str]:
        return [f"epoch {line['epoch']}" for line in log[-1:] if line["epoch"] != 2]

    training(tmp_path, epochs=3, reporter=Hearing(), watch=watch).fit(None)
    assert warned == ["epoch 1", "epoch 3"]


# Modes of measurement


class Moody(nn.Module):
    """Always answers class 0 in evaluation mode and class 1 in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        answer = torch.zeros(len(inputs), 3)
        answer[:, 1 if self.training else 0] = 1
        return self.scale * answer


@pytest.mark.parametrize("in_eval_mode", [True, False])
def test_correctness_is_measured_in_the_mode_asked_for(tmp_path: Path, in_eval_mode: bool) -> None:
    watching, seen = Watching(), []

    class Targets(Watching):
        def weights(self, batch: BatchOutcome) -> Tensor:
            # The loss is that of training mode in both cases: small for class 1 alone.
            seen.append((batch.loss < 0.9, batch.correct))
            return super().weights(batch)

    watching = Targets()
    measure = "eval" if in_eval_mode else "train"
    one = training(tmp_path, Moody(), epochs=1, objective=watching, measure=measure)
    one.fit(None)
    assert one.model.training
    for is_class_1, correct in seen:
        assert bool(is_class_1.any())
        assert torch.equal(is_class_1, correct) == (not in_eval_mode)
        assert int(correct.sum()) > 0


class Mean(nn.Module):
    """Class 1 for images brighter than a threshold, else class 0; remembers what it saw."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.threshold = threshold
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append((self.training, inputs))
        bright = self.scale * (inputs.mean(dim=(1, 2, 3)) - self.threshold)
        return torch.stack([-bright, bright, torch.full_like(bright, -99.0)], dim=1)


def test_both_models_are_measured_on_the_same_mixed_images(tmp_path: Path) -> None:
    sparse, dense, watching = Mean(0.0), Mean(0.1).eval(), Watching()
    given = {"measure": "mixed", "mix_share": 0.6, "dense_model": dense}
    training(tmp_path, sparse, epochs=1, objective=watching, lr=1e-9, **given).fit(None)
    assert len(watching.seen) == len(dense.seen) == 3
    # Training mode for the step, evaluation mode for the measurement, and so on.
    assert [mode for mode, _ in sparse.seen] == [True, False] * 3
    for step, batch in enumerate(watching.seen):
        inputs, on_mixed = sparse.seen[2 * step][1], sparse.seen[2 * step + 1][1]
        expected = 0.6 * inputs + 0.4 * inputs.roll(1, 0)
        assert torch.allclose(on_mixed, expected, atol=1e-6)
        assert torch.equal(on_mixed, dense.seen[step][1])
        assert batch.dense_correct is not None
        disagree = (on_mixed.mean(dim=(1, 2, 3)) > 0) != (on_mixed.mean(dim=(1, 2, 3)) > 0.1)
        in_question = disagree & (batch.loss < 9)  # not of class 2, on which both are wrong
        assert torch.equal(batch.correct != batch.dense_correct, in_question)


def test_distillation_alone_moves_nothing_of_a_model_that_agrees(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    twin = copy.deepcopy(model).eval()
    plain = PLAIN_DESCENT | {"dense_model": twin, "temperature": 2.0}
    training(tmp_path / "1", model, epochs=1, distill=1.0, **plain).fit(None)
    for name, tensor in model.named_parameters():
        assert torch.allclose(before[name], tensor, atol=1e-7)
    training(tmp_path / "2", model, epochs=1, distill=0.9, **plain).fit(None)
    assert not torch.allclose(before["1.weight"], model.get_parameter("1.weight"), atol=1e-7)


def test_evaluation_in_training_mode_answers_as_in_training() -> None:
    split = a_split()
    for batch_size in (5, 8, 23, 24, 100):
        compute = Compute(CPU, batch_size=batch_size)
        found = evaluate_in_training_mode(Moody(), split, HALF, compute, 0.5, 1, Quiet(), "test")
        assert found.predicted.tolist() == [1] * 24
        assert found.correct.tolist() == [False, True, False] * 8


def test_evaluation_in_training_mode_changes_nothing_about_the_model() -> None:
    model = tiny_model("test_resnet", drop_rate=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = (a_split(), HALF, Compute(CPU, batch_size=23), 0.5)  # a last batch of one image
    first = evaluate_in_training_mode(model, *arguments, 1, Quiet(), "test")
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = evaluate_in_training_mode(model, *arguments, 1, Quiet(), "test")
    other = evaluate_in_training_mode(model, *arguments, 2, Quiet(), "test")
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, other.loss)


def test_a_model_without_randomness_says_the_same_in_both_modes() -> None:
    compute = Compute(CPU, batch_size=7)
    split = a_split()
    trained = evaluate_in_training_mode(FromPixels(), split, HALF, compute, 0.0, 1, Quiet(), "test")
    assert torch.equal(
        trained.loss, evaluate(FromPixels(), split, HALF, compute, Quiet(), "test").loss
    )


# What goes wrong


@pytest.mark.parametrize("lr", [1e10, 1e30])
def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, lr: float) -> None:
    one = training(tmp_path, lr=lr, sched="constant", epochs=5)
    with pytest.raises(TrainingError, match=r"the loss became .* in epoch \d; try a smaller --lr"):
        one.fit(None)


def test_weights_that_are_no_number_stop_the_training(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    with torch.no_grad():
        model.get_parameter("fc.bias")[0] = torch.nan
    with pytest.raises(TrainingError, match="the loss became nan in epoch 1; try a smaller --lr"):
        training(tmp_path, model).fit(None)


def test_one_image_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs at least two images with split 'train'"):
        training(tmp_path, split=a_split(1))


# The log


def test_the_log_has_one_line_per_epoch_that_any_json_reader_takes(tmp_path: Path) -> None:
    split = a_split()
    outcome = BatchOutcome(torch.zeros(24), torch.ones(24, dtype=torch.bool), split.groups)
    stats = GroupStats.of(outcome, 2)
    one = training(tmp_path, epochs=3, dense=stats, objective=Watching())
    one.fit(None)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = [
        json.loads(line, parse_constant=refuse)
        for line in (tmp_path / "m.run/log.jsonl").read_text().splitlines()
    ]
    assert lines == one.log
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    names = {"epoch", "loss", "accuracy", "lr", "max_excess_gap", "max_multiplier"}
    assert lines[0].keys() == names


# Evaluation


class FromPixels(nn.Module):
    """Logits are the means of the three colours."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(2, 3))


@pytest.mark.parametrize("batch_size", [1, 5, 24, 100])
def test_every_image_is_evaluated_exactly_once_whatever_the_batch_size(batch_size: int) -> None:
    split = a_split()
    compute = Compute(CPU, batch_size=batch_size)
    found = evaluate(FromPixels(), split, HALF, compute, Quiet(), "test")
    assert found.predicted.tolist() == [0, 1, 2] * 8
    assert found.correct.tolist() == [True] * 24
    assert found.loss.shape == (24,)
    stats = found.stats(split.groups, 2)
    assert stats.count.tolist() == [12, 12]
    assert int(stats.total_count) == 24


def test_models_evaluated_together_answer_as_they_do_alone() -> None:
    split, compute = a_split(), Compute(CPU, batch_size=7)
    models = {"a": tiny_model(seed=1).train(), "b": FromPixels().eval()}
    together = evaluate_together(models, split, HALF, compute, Quiet(), "test")
    for name, model in models.items():
        alone = evaluate(model, split, HALF, compute, Quiet(), "test")
        for part in ("predicted", "correct", "loss", "confidence"):
            assert torch.equal(getattr(together[name], part), getattr(alone, part))
    assert [model.training for model in models.values()] == [True, False]


def test_among_equal_logits_the_first_class_wins() -> None:
    class Equal(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros(len(inputs), 3)

    found = evaluate(Equal(), a_split(), HALF, Compute(CPU), Quiet(), "test")
    assert found.predicted.tolist() == [0] * 24
    assert int(found.correct.sum()) == 8


def test_the_probabilities_of_the_predicted_and_of_the_true_class() -> None:
    class OneTwoFive(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.tensor([1.0, 2.0, 5.0]).log().expand(len(inputs), 3)

    found = evaluate(OneTwoFive(), a_split(), HALF, Compute(CPU, batch_size=5), Quiet(), "test")
    assert found.confidence.tolist() == pytest.approx([5 / 8] * 24)
    assert (-found.loss).exp().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8] * 8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_refused(bad: float) -> None:
    class Sometimes(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits = inputs.mean(dim=(2, 3))
            logits[:, 1][logits.argmax(dim=1) == 2] = bad
            return logits

    with pytest.raises(EvaluationError, match="test: NaN or infinite outputs for 8 of 24 images"):
        evaluate(Sometimes(), a_split(), HALF, Compute(CPU, batch_size=7), Quiet(), "test")


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_leaves_the_model_as_it_was(mode: bool) -> None:
    model = tiny_model("test_resnet").train(mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, a_split(), HALF, Compute(CPU), Quiet(), "test")
    assert model.training == mode
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_can_be_pruned_and_trained_after_its_evaluation(tmp_path: Path) -> None:
    model = tiny_model("test_resnet")
    evaluate(model, a_split(), HALF, Compute(CPU), Quiet(), "test")
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    masks = pruned(model, 0.5)
    training(tmp_path, model, masks=masks).fit(None)


# Whole stages


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    write_images(folder)
    dense(dense_options(folder, "model.safetensors"))
    return folder


COMMON: dict[str, Any] = {"batch_size": 8, "workers": 0}


def dense_options(folder: Path, output: str, **changes: Any) -> DenseOptions:
    options: dict[str, Any] = COMMON | {
        "groups": str(folder / "labels.csv"),
        "model": "test_resnet",
        "img_size": 16,
        "epochs": 1,
        "output": str(folder / output),
    }
    return DenseOptions(**(options | changes))


def tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


@pytest.mark.parametrize(
    "change", [{"smoothing": 0.5}, {"hflip": 0.0}, {"weight_decay": 0.5}], ids=str
)
def test_every_training_option_has_an_effect(prepared: Path, change: dict[str, Any]) -> None:
    output = prepared / f"{next(iter(change))}.safetensors"
    dense(dense_options(prepared, output.name, **change))
    plain, changed = tensors(prepared / "model.safetensors"), tensors(output)
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)


def zeros(path: Path) -> dict[str, tuple[int, int]]:
    """Zeros that the metadata promises and that the file has, by tensor."""
    lineage = Lineage.from_metadata(read_metadata(path), path)
    assert lineage is not None
    assert lineage.sparsity is not None
    with safe_open(path, framework="pt") as file:
        return {
            name: (count, int((file.get_tensor(name) == 0).sum()))
            for name, (count, _) in lineage.sparsity.tensors.items()
        }


def test_pruned_weights_are_zero_in_the_file_before_and_after_mitigation(prepared: Path) -> None:
    source, output = prepared / "p.safetensors", prepared / "m.safetensors"
    model = str(prepared / "model.safetensors")
    prune(PruneOptions(checkpoint=model, sparsity=0.7, output=str(source)))
    mitigate(
        MitigateOptions(checkpoint=str(source), epochs=2, output=str(output), opt="adamw", **COMMON)
    )
    before, after = tensors(source), tensors(output)
    assert zeros(source) == zeros(output)
    assert all(promised == found for promised, found in zeros(output).values())
    for name in zeros(source):
        assert torch.equal(before[name] == 0, after[name] == 0)
        assert not torch.equal(before[name], after[name])


def gradually(folder: Path, model: Path, command: str) -> Path:
    """Prune to 90 % over two epochs, by either of the two commands that can."""
    output = folder / f"{model.stem}.{command}.safetensors"
    shared: dict[str, Any] = COMMON | {
        "checkpoint": str(model),
        "groups": str(folder / "labels.csv"),
        "sparsity": 0.9,
        "prune_epochs": 1,
        "output": str(output),
    }
    if command == "prune":
        prune(PruneOptions(epochs=2, **shared))
    else:
        mitigate(MitigateOptions(epochs=3, **shared))
    return output


@pytest.mark.parametrize("command", ["prune", "mitigate"])
def test_gradual_pruning_ends_with_the_exact_count(prepared: Path, command: str) -> None:
    """``ceil(0.9 n)``; n is known from the dense model."""
    output = gradually(prepared, prepared / "model.safetensors", command)
    sizes = {name: t.numel() for name, t in tensors(prepared / "model.safetensors").items()}
    found = zeros(output)
    assert len(found) == 14
    for name, pair in found.items():
        assert pair == (-(-9 * sizes[name] // 10),) * 2


@pytest.mark.parametrize("command", ["prune", "mitigate"])
def test_gradual_pruning_starts_from_a_model_that_has_a_few_zeros(
    prepared: Path, command: str
) -> None:
    """As a checkpoint in half precision has them; they are far fewer than the final 90 %."""
    state = tensors(prepared / "model.safetensors")
    state["layer1.0.conv1.weight"].view(-1)[:50] = 0
    some = prepared / "some.safetensors"
    save_file(state, some, metadata=read_metadata(prepared / "model.safetensors"))
    output = gradually(prepared, some, command)
    assert all(promised == found for promised, found in zeros(output).values())


# Cycles


def test_a_new_cycle_forgets_the_momentum(tmp_path: Path) -> None:
    """With one step a cycle, momentum never comes to anything."""
    found = []
    for momentum, cycle in ((0.0, None), (0.9, 1), (0.9, None)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
        options = PLAIN_DESCENT | {"lr": 0.1, "momentum": momentum, "cycle": cycle}
        training(tmp_path, model, epochs=3, batch_size=24, **options).fit(None)
        found.append(model.get_parameter("1.weight").detach())
    plain, forgetful, remembering = found
    assert torch.equal(plain, forgetful)
    assert not torch.allclose(plain, remembering, atol=1e-4)


def test_a_new_cycle_begins_with_the_first_learning_rate(tmp_path: Path) -> None:
    """At the end of a cosine the rate is 0, and a step at that rate would be none."""
    rates: list[float] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    watching = Watching(lambda: rates.append(one.optimizer.param_groups[0]["lr"]))
    changes: dict[str, Any] = {"lr": 0.1, "sched": "cosine", "cycle": 1, "objective": watching}
    one = training(tmp_path, model, epochs=2, **changes)
    one.fit(None)
    # 0.1 (1 + cos(pi t / 3)) / 2 before each of three steps, twice.
    assert rates == pytest.approx([0.1, 0.075, 0.025] * 2)
