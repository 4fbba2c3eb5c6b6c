"""``ceag explain``: why a group pays for the pruning, as far as loss and curvature tell.

What is taken at the dense model: each group's gradient, the largest eigenvalue of its Hessian, its
distance to the decision boundary, and the change of loss that these predict on the way to the
sparse model (``explanations`` has the formulas). Beside it the change that is measured, on the same
images. All of it describes; the audit decides.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ceag_cli.checkpoints import Checkpoint, first_difference
from ceag_cli.curvature import MeanLoss, extremes, flat, weights_of
from ceag_cli.data import Data, open_data
from ceag_cli.declarations import no_effect
from ceag_cli.documents import subject_document
from ceag_cli.errors import CheckpointError, EvaluationError
from ceag_cli.evaluation import Compute
from ceag_cli.explanationformats import render
from ceag_cli.explanations import (
    SCHEMA_VERSION,
    Explained,
    Explanation,
    GroupExplanation,
    explanation_document,
    features_of,
)
from ceag_cli.gaps import excess_gap
from ceag_cli.groups import BatchOutcome, Grouping, GroupStats
from ceag_cli.inert import printable
from ceag_cli.inputs import check_targets, choose, open_checkpoint
from ceag_cli.locks import claimed
from ceag_cli.margins import closeness, margins
from ceag_cli.options import ExplainOptions
from ceag_cli.pairing import find_dense
from ceag_cli.preprocessing import Preprocessing
from ceag_cli.progress import Quiet, Reporter
from ceag_cli.pruned import masks_of
from ceag_cli.reportfiles import refuse_file, report_files, write_reports
from ceag_cli.runs import folder_of
from ceag_cli.splits import Split
from ceag_cli.subjects import subject_of
from ceag_cli.versions import versions

WITHOUT_EFFECT = ("resume", "overwrite", "amp", "amp_dtype", "torchcompile")
"""Options of every command that change nothing here."""


def explain(options: ExplainOptions, reporter: Reporter | None = None) -> Explained:
    """Describe by group why pruning costs what it costs, on the images of one split.

    ``explanation.json`` and ``explanation.html`` are written to the run folder of the sparse
    model, or to ``output``. The next audit into that folder shows what they say.

    Args:
        options: See ``ceag explain --help``.
        reporter: Hears how it goes.

    Raises:
        NotWritten: A report could not be written; the error carries what was found.
        CheckpointError: The two models are not of the same tensors.
        EvaluationError: Outputs or gradients are NaN or infinite, or the model cannot be
            differentiated twice.
        CeagError: Something else given cannot be used.
    """
    reporter = reporter or Quiet()
    for warning in no_effect(options, {"on explain": (True, WITHOUT_EFFECT)}):
        reporter.warn(warning)
    given = None if options.output is None else Path(options.output)
    if given is not None:
        refuse_file(given, "explanation")
    report_files(options.report, given, stem="explanation")  # known before any model is run
    models = _open(options, reporter)
    folder = given if given is not None else folder_of(models.sparse.path)
    subject = subject_of(models.dense, models.sparse, models.data)
    files = report_files(options.report, folder, subject.files, "explanation")
    remedy = "wait for it, or name another folder with -o"
    with claimed(folder / "explanation.lock", remedy, reporter):
        found = _explanation(models, options, reporter)
        document = {
            "schema_version": SCHEMA_VERSION,
            "tool": "ceag",
            "version": version("ceag"),
            "command": "explain",
            "seed": options.seed,
            "versions": versions(),
            **subject_document(subject),
            "explanation": explanation_document(found),
        }
        page = folder / "explanation.html"
        explained = Explained(found, subject, document, page, version("ceag"))
        write_reports(explained, files, render)
    return explained


# What it is about


@dataclass(frozen=True)
class _Models:
    """Both models and the images."""

    dense: Checkpoint
    sparse: Checkpoint
    data: Data

    @property
    def preprocessing(self) -> Preprocessing:
        """Of both of them."""
        return self.sparse.preprocessing


def _open(options: ExplainOptions, reporter: Reporter) -> _Models:
    path = choose(options.checkpoint, ("mitigated", "pruned"), "explain", reporter)
    sparse = open_checkpoint(path, options, reporter)
    if sparse.lineage is not None and sparse.lineage.sparsity is not None:
        masks_of(sparse)  # refuses a file that was changed after pruning
    dense = find_dense(sparse, options, reporter)
    _check_alike(dense, sparse)
    data = open_data(options, [sparse, dense], reporter, "explain")
    check_targets(data, sparse, options.class_map)
    data.require([options.split], seen_in_train=False)
    return _Models(dense, sparse, data)


def _check_alike(dense: Checkpoint, sparse: Checkpoint) -> None:
    """Refuse models between which there is no difference of weights.

    Raises:
        CheckpointError: One has a tensor that the other has not, or of another shape.
    """
    name = first_difference(dense, sparse)
    if name is not None:
        raise CheckpointError(
            f"{sparse.path}: tensor '{name}' is not as in {dense.path}, so the two are no "
            "points of one loss; compare it with the dense model that it was pruned from"
        )


# What is measured


@dataclass(frozen=True)
class _Said:
    """What a model says about each image of a split, on the CPU, each of shape ``(N,)``."""

    loss: Tensor
    correct: Tensor
    margin: Tensor
    closeness: Tensor
    finite: Tensor

    def mean(self, name: str, rows: Tensor) -> float | None:
        """The mean of something over some images, in float64; ``None`` where it is no number."""
        found = float(getattr(self, name)[rows].double().mean())
        return found if math.isfinite(found) else None


@torch.no_grad()
def _said(
    models: Mapping[str, nn.Module],
    split: Split,
    rows: Tensor,
    preprocessing: Preprocessing,
    compute: Compute,
    reporter: Reporter,
) -> dict[str, _Said]:
    """Run models in evaluation mode over some images of a split, the others staying NaN."""
    fields = ("loss", "correct", "margin", "closeness", "finite")
    found = {
        model: {field: torch.full((len(split),), torch.nan) for field in fields} for model in models
    }
    title = f"{' and '.join(models)} on {split.name}"
    for model in models.values():
        compute.place(model.eval())
    done = 0
    with reporter.bar(title, len(rows)) as update:
        for which, pixels in split.images.batches(rows, compute.batch_size):
            inputs = compute.to_inputs(pixels, preprocessing)
            targets = split.targets[which].to(compute.device)
            for name, model in models.items():
                logits = compute.forward(model, inputs)
                values = (
                    functional.cross_entropy(logits, targets, reduction="none"),
                    (logits.argmax(dim=1) == targets).float(),
                    margins(logits, targets),
                    closeness(logits),
                    logits.isfinite().all(dim=1).float(),
                )
                for field, value in zip(fields, values, strict=True):
                    found[name][field][which] = value.cpu()
            done += len(which)
            update(done, "")
    return {name: _Said(**columns) for name, columns in found.items()}


def _check_finite(said: Mapping[str, _Said], split: str) -> None:
    for name, answers in said.items():
        bad = int((answers.finite != 1).sum())
        if bad:
            raise EvaluationError(
                f"{name} on {split}: NaN or infinite outputs for {bad} of {len(answers.finite)} "
                "images; nothing can be explained of such a model"
            )


def _with_others_buffers(weights: nn.Module, buffers: nn.Module) -> nn.Module:
    """A copy of a model with all of another that is no weight."""
    mixed = copy.deepcopy(weights)
    own = weights_of(mixed)
    others = {k: v for k, v in buffers.state_dict().items() if k not in own}
    mixed.load_state_dict(others, strict=False)
    return mixed


def _buffers_differ(dense: nn.Module, sparse: nn.Module) -> bool:
    """Whether two models differ in anything besides their weights that changes an answer."""
    own, other = weights_of(dense), sparse.state_dict()
    return any(
        not torch.equal(value, other[name])
        for name, value in dense.state_dict().items()
        # BatchNorm's count of batches is for training alone.
        if name not in own and not name.endswith("num_batches_tracked")
    )


# By group


def _explanation(models: _Models, options: ExplainOptions, reporter: Reporter) -> Explanation:
    # Curvature is nothing for half precision, and compiled models have no second derivatives.
    compute = replace(Compute.of(options), amp=False, backend=None)
    split = models.data.split(options.split, models.preprocessing, options, reporter)
    grouping = models.data.labels.grouping
    chosen = drawn(split.groups, grouping.num_groups, options.max_images_per_group, options.seed)
    used = torch.unique(torch.cat(chosen))
    dense, sparse = models.dense.model, models.sparse.model
    with_buffers = _buffers_differ(dense, sparse)
    see = partial(_said, preprocessing=models.preprocessing, compute=compute, reporter=reporter)
    said = see({"dense": dense, "sparse": sparse}, split, torch.arange(len(split)))
    _check_finite(said, split.name)
    if with_buffers:
        said |= see(
            {
                "sparse weights": _with_others_buffers(sparse, dense),
                "sparse buffers": _with_others_buffers(dense, sparse),
            },
            split,
            used,
        )
    theta = flat(weights_of(dense).values())
    direction = flat(weights_of(sparse).values()) - theta
    measured = _measured(said, split, grouping, chosen)
    groups = []
    with reporter.bar(f"curvature on {split.name}", len(measured)) as update:
        for done, (group, rows) in enumerate(zip(measured, chosen, strict=True), start=1):
            if group.used:
                batches = _kept_batches(split, rows, models.preprocessing, compute)
                loss = MeanLoss(dense, partial(iter, batches))
                group = replace(group, **_local(loss, direction, options))
            groups.append(group)
            update(done, printable(group.name))
    return Explanation(
        split=split.name,
        n=len(split),
        max_images_per_group=options.max_images_per_group,
        seed=options.seed,
        tolerance=options.tol,
        max_iterations=options.max_iterations,
        weights=len(theta),
        norm_dense=float(theta.norm()),
        distance=float(direction.norm()),
        buffers_differ=with_buffers,
        groups=tuple(groups),
        features=features_of(groups, with_buffers),
    )


def drawn(groups: Tensor, num_groups: int, most: int, seed: int) -> list[Tensor]:
    """The images of each group that are looked at, rows of the split in ascending order.

    Args:
        groups: Group ids, shape ``(N, F)``.
        num_groups: G.
        most: Images of a group; 0 takes all.
        seed: One random order of all images is drawn; of each group, the first ones are taken.

    Returns:
        One int64 tensor per group, empty for a group without images.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(groups), generator=generator)
    shuffled = groups[order]
    found = []
    for group in range(num_groups):
        rows = order[(shuffled == group).any(dim=1)]
        found.append((rows[:most] if most else rows).sort().values)
    return found


def _measured(
    said: Mapping[str, _Said], split: Split, grouping: Grouping, chosen: Iterable[Tensor]
) -> list[GroupExplanation]:
    """What needs no derivatives: losses, margins, psi."""
    dense, sparse = said["dense"], said["sparse"]
    stats = [
        GroupStats.of(
            BatchOutcome(model.loss, model.correct.bool(), split.groups), grouping.num_groups
        )
        for model in (dense, sparse)
    ]
    psi = excess_gap(*stats)
    found = []
    for g, ((feature, value), rows) in enumerate(zip(grouping.names, chosen, strict=True)):
        group = GroupExplanation(feature, value, int(stats[0].count[g]), len(rows))
        if len(rows):
            losses = {name: model.mean("loss", rows) for name, model in said.items()}
            change = _less(losses["sparse"], losses["dense"])
            mixed = "sparse weights" in said
            group = replace(
                group,
                loss_dense=losses["dense"],
                loss_sparse=losses["sparse"],
                loss_change=change,
                change_by_weights=_less(losses["sparse weights"], losses["dense"])
                if mixed
                else change,
                change_by_buffers=_less(losses["sparse buffers"], losses["dense"])
                if mixed
                else 0.0,
                excess_gap=float(psi[g]),
                margin_dense=dense.mean("margin", rows),
                margin_sparse=sparse.mean("margin", rows),
                closeness_dense=dense.mean("closeness", rows),
                closeness_sparse=sparse.mean("closeness", rows),
            )
        found.append(group)
    return found


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _kept_batches(
    split: Split, rows: Tensor, preprocessing: Preprocessing, compute: Compute
) -> list[tuple[Tensor, Tensor]]:
    """The inputs and targets of some images, which every product with the Hessian goes through."""
    return [
        (compute.to_inputs(pixels, preprocessing), split.targets[which].to(compute.device))
        for which, pixels in split.images.batches(rows, compute.batch_size)
    ]


def _local(loss: MeanLoss, direction: Tensor, options: ExplainOptions) -> dict[str, Any]:
    """Everything that derivatives at the dense weights say of a group."""
    device = loss.weights[0].device
    gradient = loss.gradient()
    step = direction.to(device)
    first = float(gradient @ step)
    norm, distance = float(gradient.norm()), float(step.norm())
    # A vector of length 1 is safe from overflow in the precision of the model.
    curved = float(loss.product(step / distance) @ step) * distance if distance else 0.0
    top = extremes(
        loss.product,
        loss.size,
        tolerance=options.tol,
        most=options.max_iterations,
        seed=options.seed,
        device=device,
    )
    by_gradient, by_curvature = norm * distance, 0.5 * top.largest * distance**2
    return {
        "gradient_norm": norm,
        "largest_eigenvalue": top.largest,
        "smallest_eigenvalue": top.smallest,
        "residual": top.residual,
        "iterations": top.iterations,
        "converged": top.converged,
        "bound_gradient": by_gradient,
        "bound_curvature": by_curvature,
        "bound": by_gradient + by_curvature,
        "first_order": first,
        "second_order": first + 0.5 * curved,
    }
