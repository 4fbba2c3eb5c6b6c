from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ceag_cli import distillation, mixing
from ceag_cli.baselines import EqualizedLoss, GroupDRO, NaiveFineTuning, Reweighting
from ceag_cli.ceag import ConstrainedExcessAccuracyGap
from ceag_cli.errors import OptionError
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.methods import (
    check_options,
    distill_share,
    dual_step,
    first_candidate,
    measured_where,
    objective,
    prune_epochs,
    rule_of_keeping,
)
from ceag_cli.options import MitigateOptions
from ceag_cli.replay import LONGEST, GroupReplay
from ceag_cli.stageoptions import METHODS

GROUPS = Grouping(("group",), (("a", "b", "c"),))


def dense(*counts: int) -> GroupStats:
    count = torch.tensor(counts)
    zeros = torch.zeros(len(counts), dtype=torch.float64)
    return GroupStats(count, count.clone(), zeros, count.sum(), count.sum(), zeros.sum())


DENSE = dense(700, 290, 10)


def built(**options: Any) -> Any:
    return objective(MitigateOptions(**options), GROUPS, DENSE, steps=8)


# From names to objects


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_an_object_of_the_same_shape(method: str) -> None:
    kinds = {
        "ceag": ConstrainedExcessAccuracyGap,
        "equalized-loss": EqualizedLoss,
        "reweight": Reweighting,
        "group-dro": GroupDRO,
    }
    assert type(built(method=method)) is kinds.get(method, NaiveFineTuning)


def test_the_default_buffers_are_as_large_as_the_groups_up_to_a_limit() -> None:
    replay = built().replay
    assert replay.capacity.tolist() == [LONGEST, LONGEST, 10]
    assert replay.min_count.tolist() == [LONGEST // 2, LONGEST // 2, 5]


@pytest.mark.parametrize(
    ("options", "capacity", "enough"),
    [
        ({"buffer": 40}, 40, 20),
        ({"buffer": 41}, 41, 21),
        ({"buffer": 1}, 1, 1),
        ({"buffer": 40, "min_count": 3}, 40, 3),
        ({"buffer": 40, "full_buffers": True}, 40, 40),
    ],
)
def test_a_buffer_that_was_asked_for_is_the_same_for_every_group(
    options: dict[str, int], capacity: int, enough: int
) -> None:
    replay: GroupReplay = built(**options).replay
    assert replay.capacity.tolist() == [capacity] * 3
    assert replay.min_count.tolist() == [enough] * 3


@pytest.mark.parametrize("method", ["ceag", "equalized-loss"])
def test_a_buffer_of_zero_is_none(method: str) -> None:
    assert built(method=method, buffer=0).replay is None


def test_losses_are_kept_exactly_and_flags_as_whole_numbers() -> None:
    assert built().replay.slots.dtype == torch.int64
    assert built(method="equalized-loss").replay.slots.dtype == torch.float64


def test_the_controller_and_the_bounds_reach_the_multipliers() -> None:
    multipliers = built(dual_opt="nupi", dual_kp=0.25, dual_nu=0.5, dual_restarts=True).multipliers
    # A quarter of an epoch of 8 batches.
    assert (multipliers.kp, multipliers.nu, multipliers.restart) == (2.0, 0.5, True)
    assert built(dual_kp=0.25).multipliers.kp == 0.0
    bounded = built(max_multiplier_sum=0.5, max_upweight=2.0).multipliers
    assert bounded.max_sum == 0.5
    # Twice the shares 0.7, 0.29 and 0.01, or a third where that is more.
    assert bounded.max_each.tolist() == pytest.approx([1.4, 2 / 3, 2 / 3])
    unbounded = built(max_multiplier_sum=0, max_upweight=0).multipliers
    assert (unbounded.max_sum, unbounded.max_each) == (None, None)


# The published settings


def test_paper_is_short_for_the_published_settings() -> None:
    options = MitigateOptions(paper=True)
    published = {
        "buffer": 40,
        "full_buffers": True,
        "macro_overall": True,
        "batch_means": True,
        "measure": "train",
        "dual_opt": "ascent",
        "dual_lr": 0.01,
        "max_multiplier_sum": 0.0,
        "max_upweight": 0.0,
        "decay_on": "classifier",
        "keep": "last",
        "opt": "momentum",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "sched": "multistep",
        "batch_size": 128,
        "epochs": 60,
        "prune_epochs": 15,
        "detach_overall": False,
        "dual_restarts": False,
    }
    assert {name: getattr(options, name) for name in published} == published


def test_what_is_given_beats_what_is_published() -> None:
    options = MitigateOptions(paper=True, lr=0.05, epochs=30)
    assert (options.lr, options.epochs, options.buffer) == (0.05, 30, 40)


def test_the_published_algorithm_is_what_is_built() -> None:
    method = built(paper=True)
    assert method.macro_overall
    assert method.prevalence is None
    assert method.replay.min_count.tolist() == [40] * 3
    assert method.multipliers.lr.tolist() == [0.01] * 3
    assert (method.multipliers.max_sum, method.multipliers.max_each) == (None, None)


# The dual step


def test_the_step_goes_by_group_size_and_batches() -> None:
    # Speed 10, 8 batches an epoch; 700, 290 and 10 of 1,000 images.
    step = dual_step(MitigateOptions(), DENSE, steps=8)
    assert step.tolist() == pytest.approx([10 / 8 * share for share in (0.7, 0.29, 0.01)])


def test_a_violation_of_ten_points_all_through_an_epoch_doubles_a_groups_weight() -> None:
    method = objective(MitigateOptions(max_upweight=0), GROUPS, DENSE, steps=8)
    for _ in range(8):
        method.multipliers.ascend_(torch.full((3,), 0.1, dtype=torch.float64))  # type: ignore[attr-defined]
    relative = method.multipliers.values / DENSE.prevalence  # type: ignore[attr-defined]
    # All three sum to 1, so they are scaled to 0.9.
    assert relative.tolist() == pytest.approx([0.9] * 3)


def test_a_step_that_was_asked_for_is_taken_as_it_is() -> None:
    assert dual_step(MitigateOptions(dual_lr=0.5), DENSE, 8).tolist() == [0.5] * 3
    slow = dual_step(MitigateOptions(dual_speed=1.0), DENSE, 8)
    assert slow.tolist() == pytest.approx([share / 8 for share in (0.7, 0.29, 0.01)])


# What is refused, and what has no effect


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "fairgrape"}, "--method fairgrape chooses the weights to prune itself"),
        ({"buffer": 3, "min_count": 4}, "--min-count 4 must be at most --buffer 3"),
        ({"sparsity": 0.5, "epochs": 3, "prune_epochs": 3}, "must be less than --epochs 3"),
        ({"method": "naive-es", "keep": "train"}, "--keep train: early stopping"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_options(MitigateOptions(**options))


@pytest.mark.parametrize(
    ("options", "without_effect"),
    [
        ({}, []),
        ({"dual_lr": 0.1, "patience": 3}, ["--patience"]),
        ({"method": "naive", "dual_lr": 0.1, "buffer": 3}, ["--dual-lr", "--buffer"]),
        ({"method": "naive", "paper": True}, []),
        ({"method": "group-dro", "dual_lr": 0.1, "dual_opt": "nupi"}, ["--dual-opt"]),
        ({"method": "equalized-loss", "dual_restarts": True}, ["--dual-restarts"]),
        ({"method": "naive-es", "patience": 3, "val_share": 0.2}, []),
    ],
)
def test_options_without_effect_are_named(
    options: dict[str, Any], without_effect: list[str]
) -> None:
    method = options.get("method", "ceag")
    found = check_options(MitigateOptions(**options))
    assert sorted(found) == sorted(
        f"{name} has no effect with --method {method}" for name in without_effect
    )


def test_the_defaults_of_the_command_are_those_of_the_modules() -> None:
    """The options name them once more, so that --help needs no torch."""
    options = MitigateOptions()
    assert (options.mix_share, options.temperature) == (mixing.SHARE, distillation.TEMPERATURE)


@pytest.mark.parametrize(
    ("options", "where", "share"),
    [
        ({}, "mixed", 0.9),
        ({"paper": True}, "train", 0.0),
        ({"measure": "matched", "distill": 0.25}, "matched", 0.25),
        ({"method": "naive"}, "train", 0.0),
        ({"method": "naive", "distill": 0.9}, "train", 0.9),
        ({"method": "group-dro"}, "train", 0.0),
    ],
    ids=str,
)
def test_ceag_alone_measures_on_mixed_images_and_distils_by_default(
    options: dict[str, Any], where: str, share: float
) -> None:
    found = MitigateOptions(**options)
    assert measured_where(found) == where
    assert distill_share(found) == share


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({"dual_kp": 1.0}, ["--dual-kp has no effect without --dual-opt nupi"]),
        (
            {"method": "equalized-loss", "dual_kp": 0.5, "dual_nu": 0.5},
            [
                "--dual-kp has no effect without --dual-opt nupi",
                "--dual-nu has no effect without --dual-opt nupi",
            ],
        ),
        ({"dual_kp": 1.0, "dual_nu": 0.5, "dual_opt": "nupi"}, []),
        ({"method": "naive", "dual_nu": 0.5}, ["--dual-nu has no effect with --method naive"]),
        ({"mix_share": 0.8}, []),
        (
            {"mix_share": 0.8, "measure": "eval"},
            ["--mix-share has no effect without --measure mixed"],
        ),
        ({"method": "naive", "mix_share": 0.8}, ["--mix-share has no effect with --method naive"]),
        (
            {"method": "equalized-loss", "measure": "eval"},
            ["--measure has no effect with --method equalized-loss"],
        ),
        ({"temperature": 2.0}, []),
        (
            {"temperature": 2.0, "distill": 0.0},
            ["--temperature has no effect without --distill"],
        ),
        (
            {"method": "naive", "temperature": 2.0},
            ["--temperature has no effect without --distill"],
        ),
        ({"method": "naive", "temperature": 2.0, "distill": 0.5}, []),
        ({"val_share": 0.2}, ["--val-share has no effect without --keep val"]),
        ({"val_share": 0.2, "keep": "last"}, ["--val-share has no effect without --keep val"]),
        ({"val_share": 0.2, "keep": "val"}, []),
        ({"prune_epochs": 3}, ["--prune-epochs has no effect without --sparsity"]),
        ({"prune_epochs": 3, "sparsity": 0.9}, []),
        ({"paper": True}, []),
        ({"dual_lr": 0.1, "dual_speed": 3}, ["--dual-speed has no effect with --dual-lr"]),
        ({"paper": True, "dual_speed": 3}, ["--dual-speed has no effect with --dual-lr"]),
        (
            {"buffer": 0, "min_count": 3, "full_buffers": True, "macro_overall": True},
            [
                "--min-count has no effect with --buffer 0",
                "--full-buffers has no effect with --buffer 0",
                "--macro-overall has no effect with --buffer 0",
            ],
        ),
        (
            {"buffer": 9, "min_count": 3, "full_buffers": True},
            ["--full-buffers has no effect with --min-count"],
        ),
        (
            {"weight_decay": 0, "decay_on": "classifier"},
            ["--decay-on has no effect with --weight-decay 0"],
        ),
        ({"model_ema_decay": 0.9}, ["--model-ema-decay has no effect without --model-ema"]),
        ({"model_ema_decay": 0.9, "model_ema": True}, []),
        ({"paper": True, "decay_milestones": (3,)}, []),
        (
            {"decay_milestones": (3,), "decay_rate": 0.5},
            [
                "--decay-milestones has no effect with --sched cosine",
                "--decay-rate has no effect with --sched cosine",
            ],
        ),
        ({"opt": "adamw", "momentum": 0.8}, ["--momentum has no effect with --opt adamw"]),
        ({"opt": "rmsprop", "momentum": 0.8}, []),
        ({"paper": True, "prune_epochs": 3}, ["--prune-epochs has no effect without --sparsity"]),
    ],
)
def test_an_option_that_needs_another_one_is_named_with_it(
    options: dict[str, Any], warnings: list[str]
) -> None:
    assert check_options(MitigateOptions(**options)) == warnings


def test_gradual_pruning_takes_fifteen_epochs_or_half() -> None:
    assert prune_epochs(MitigateOptions(epochs=30)) == 15
    assert prune_epochs(MitigateOptions(epochs=9)) == 4
    assert prune_epochs(MitigateOptions(epochs=1)) == 0
    assert prune_epochs(MitigateOptions(epochs=60, prune_epochs=50)) == 50


# The iterate to keep


@pytest.mark.parametrize(
    ("options", "rule", "first"),
    [
        ({}, ("feasible", "train"), 21),
        ({"epochs": 1}, ("feasible", "train"), 1),
        ({"epochs": 5}, ("feasible", "train"), 5),
        ({"keep": "last"}, None, 1),
        ({"keep": "val"}, ("best", "val"), 1),
        ({"paper": True}, None, 1),
        ({"method": "naive"}, None, 1),
        ({"method": "naive", "keep": "train"}, ("feasible", "train"), 21),
        ({"method": "naive-es"}, ("accuracy", "val"), 1),
    ],
)
def test_how_the_iterate_is_chosen(
    options: dict[str, Any], rule: tuple[str, str] | None, first: int
) -> None:
    assert rule_of_keeping(MitigateOptions(**options)) == rule
    assert first_candidate(MitigateOptions(**options)) == first


# Cost


class ReadsBack(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes a host wait for its device: values, sizes or truths of tensors."""

    NAMES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "unique")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = func.overloadpacket.__name__
        if any(name.startswith(stop) for stop in self.NAMES):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_what_reads_back() -> None:
    values = torch.tensor([1.0, 0.0])
    with ReadsBack() as watch:
        float(values.sum())
        values[values > 0]
    assert watch.found


@pytest.mark.parametrize(
    "options",
    [
        *({"method": method} for method in METHODS),
        {"paper": True},
        {"buffer": 0},
        {"dual_opt": "nupi", "dual_restarts": True, "detach_overall": True},
        {"method": "equalized-loss", "buffer": 0},
    ],
    ids=str,
)
def test_a_step_reads_nothing_back_and_makes_as_many_calls_for_many_groups(
    options: dict[str, Any],
) -> None:
    """No loop over groups, and no waiting for the device, whatever the number of groups."""
    calls = []
    for groups in (2, 500):
        grouping = Grouping(("group",), (tuple(map(str, range(groups))),))
        method = objective(MitigateOptions(**options), grouping, dense(*[9] * groups), steps=4)
        generator = torch.Generator().manual_seed(0)
        batch = BatchOutcome(
            torch.rand(32, generator=generator),
            torch.rand(32, generator=generator) < 0.5,
            torch.randint(groups, (32, 1), generator=generator),
            torch.rand(32, generator=generator) < 0.9,
        )
        with ReadsBack() as watch:
            for _ in range(3):
                method.weights(batch)
        assert watch.found == []
        calls.append(watch.calls)
    assert calls[0] == calls[1]
