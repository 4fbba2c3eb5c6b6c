"""What two processes compute together and one computes alone, for ``test_distributed.py``.

``torchrun ... ranks.py FOLDER`` lets every process write what it came to, as ``FOLDER/RANK.pt``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from toys import CPU, HALF, a_split, tiny_model, training, write_images

from ceag_cli import stages
from ceag_cli.auditing import run_audit
from ceag_cli.distributed import World
from ceag_cli.errors import CeagError, OptionError
from ceag_cli.evaluation import (
    Compute,
    evaluate,
    evaluate_in_training_mode,
    evaluate_mixed,
    sampled_batches,
)
from ceag_cli.fairgrape import prune_fairly
from ceag_cli.groups import Grouping, GroupStats
from ceag_cli.images import Images
from ceag_cli.iterates import Keeper
from ceag_cli.launching import joined
from ceag_cli.masks import Masks
from ceag_cli.methods import objective
from ceag_cli.options import AuditOptions, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.progress import Quiet
from ceag_cli.prunable import prunable_parameters
from ceag_cli.pruning import GradualPruning, IterativePruning
from ceag_cli.splits import Split
from ceag_cli.stores import Folder

Found = dict[str, Any]

GROUPING = Grouping(("group",), (("even", "odd"),))


def compute_with(batch_size: int) -> Compute:
    return Compute(CPU, batch_size=batch_size, world=World.current())


def stats(model: nn.Module, split: Split, compute: Compute) -> GroupStats:
    said = evaluate_mixed(model, split, HALF, compute, 0.7, 1, Quiet(), "test")
    return said.stats(split.groups, GROUPING.num_groups)


def trained(folder: Path, method: str, model: nn.Module | None = None, **changes: Any) -> Found:
    """Fine-tune a tiny model; 24 images in batches of 7, the last one of 3."""
    model = tiny_model("test_vit") if model is None else model
    compute, split = compute_with(changes.pop("batch_size", 7)), a_split()
    where = changes.get("measure", "train")
    options = MitigateOptions(method=method, eps=0.0, dual_speed=3.0, measure=where)
    dense = tiny_model("test_vit", seed=5)
    run = training(
        folder,
        model,
        compute=compute,
        lr=0.005,
        dense_model=dense,
        masks=Masks.from_zeros(model, prunable_parameters(model)),
        **changes,
    )
    if changes.get("keeper") is not None:
        measure = partial(stats, split=split, compute=compute)
        run.keeper = Keeper("feasible", measure, measure(dense), 0.0, first=1)
    run.objective = objective(options, GROUPING, stats(dense, split, compute), run.steps)
    run.fit(None)
    assert run.masks is not None
    return {
        "weights": dict(model.state_dict()),
        "masks": run.masks.sha256(),
        "method": run.objective.state_dict(),
        "log": run.log,
    }


def by_magnitude(folder: Path) -> Found:
    model = tiny_model("test_vit")
    schedule = GradualPruning.of(model, prunable_parameters(model), 0.8, end=1)
    return trained(folder, "naive", model, schedule=schedule)


def by_group(folder: Path) -> Found:
    model = tiny_model("test_vit")
    names, compute = list(prunable_parameters(model)), compute_with(7)

    def batches() -> Any:
        return sampled_batches(a_split(), HALF, compute, 1, None, Quiet(), "test")

    def fairly(model: nn.Module, sparsity: float, *, on_the_way: bool = False) -> Masks:
        return prune_fairly(model, names, sparsity, batches, 2, on_the_way=on_the_way)

    schedule = IterativePruning(fairly, 0.8, rounds=2, epochs_between=1)
    return trained(folder, "fairgrape", model, schedule=schedule)


def with_a_weight_to_spare(folder: Path) -> Found:
    """It has no part in the model's output, which DistributedDataParallel minds."""
    model = tiny_model("test_vit")
    model.register_parameter("spare", nn.Parameter(torch.ones(3)))
    return trained(folder, "naive", model)


def answers(_: Path) -> Found:
    """Of 23 images in batches of 11, the last one of one image or joined to the one before."""
    model, split = tiny_model("test_vit"), a_split(23)
    compute = compute_with(11)
    common = (compute, Quiet(), "test")
    return {
        "as they are": vars(evaluate(model, split, HALF, *common)),
        "mixed": vars(evaluate_mixed(model, split, HALF, compute, 0.7, 1, Quiet(), "test")),
        "training": vars(
            evaluate_in_training_mode(model, split, HALF, compute, 0.5, 1, Quiet(), "test")
        ),
    }


def by_stages(folder: Path) -> Found:
    """Train a dense model, prune it gradually, audit: the files that are written, and the report.

    Gradual pruning goes by a criterion that looks at images.
    """
    World.current().on_first(partial(write_images, folder))
    common: dict[str, Any] = {"workers": 0, "batch_size": 7}
    dense, pruned = (str(folder / f"{name}.safetensors") for name in ("dense", "pruned"))
    stages.dense(
        DenseOptions(
            groups=str(folder / "labels.csv"),
            groups_by="label,group",
            model="test_vit",
            img_size=16,
            epochs=2,
            early_epoch=1,
            output=dense,
            **common,
        )
    )
    pruning = PruneOptions(
        checkpoint=dense, sparsity=0.8, criterion="taylor", epochs=2, output=pruned, **common
    )
    stages.prune(pruning)
    found = run_audit(AuditOptions(checkpoint=pruned, eps=0.0, **common))
    weights = {name: load_file(folder / f"{name}.safetensors") for name in FILES}
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return {"weights": weights, "splits": found.document["splits"], "written": written}


FILES = ("dense", "dense.early", "pruned")


def refused(problem: str) -> None:
    raise OptionError(problem)


def problems_of(action: Callable[[], None]) -> list[str]:
    """What an action is refused for."""
    try:
        action()
    except CeagError as error:
        return error.problems
    return []


def found_wrong(folder: Path) -> dict[str, list[str]]:
    """What processes learn of each other's errors."""
    world = World.current()

    def second_alone() -> None:
        with world.agreeing():
            if world.rank == 1:
                refused("the second process")

    def images() -> None:
        world.on_first(partial(write_images, folder))
        if world.rank == 1:
            (folder / "images" / "1.png").write_bytes(b"no image")
            (folder / "images" / "30.png").write_bytes(b"no image")
        world.on_first(lambda: None)
        paths = [f"images/{i}.png" for i in range(36)]
        Images(Folder(folder), paths, HALF, 0, world=world)

    return {
        "of the first": problems_of(lambda: world.on_first(partial(refused, "the first process"))),
        "of the second": problems_of(second_alone),
        "of images": problems_of(images),
    }


CASES: dict[str, Callable[[Path], Found]] = {
    "ceag": partial(trained, method="ceag", measure="mixed", distill=0.5, keeper="yes"),
    "ceag in evaluation mode": partial(trained, method="ceag", measure="eval"),
    "equalized loss": partial(
        trained, method="equalized-loss", grad_accum_steps=3, clip_grad=0.5, model_ema=True
    ),
    "group dro": partial(trained, method="group-dro", smoothing=0.1),
    "reweight": partial(trained, method="reweight"),
    "magnitude": by_magnitude,
    "fairgrape": by_group,
    "a weight to spare": with_a_weight_to_spare,
    "answers": answers,
    "stages": by_stages,
}
"""What does not depend on the number of processes."""

OTHERWISE: dict[str, Callable[[Path], Found]] = {
    "batchnorm": lambda folder: trained(
        folder, "ceag", tiny_model("test_resnet"), measure="eval", batch_size=8
    ),
    "dropout": lambda folder: trained(folder, "ceag", tiny_model("test_vit", drop_rate=0.5)),
}
"""What does."""


def main(folder: Path) -> None:
    with joined() as world:
        cases = CASES | OTHERWISE
        found = {name: case(folder / name.replace(" ", "-")) for name, case in cases.items()}
        found["wrong"] = found_wrong(folder / "wrong")
        torch.save(found, folder / f"{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
