"""Where an audit's answers come from: a table of predictions, or two models and their images.

The answers of a model are kept with hashes of all that they depend on, and never computed twice:
those of the dense model in ``answers.npz`` in its own run folder, where the audit of another sparse
model finds them, those of both in ``predictions.npz`` in the folder of the audit.
docs/predictions.md has the layout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ceag_cli.arrays import Integers, Numbers
from ceag_cli.audit import Paired
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.classes import class_index
from ceag_cli.columns import AT_ONCE, FORMAT, NAMES, Anything, read_npz, write_npz
from ceag_cli.destinations import unwritable
from ceag_cli.errors import LabelsError, OptionError, OutputError, first
from ceag_cli.evaluation import Compute, Predictions, evaluate_together
from ceag_cli.findings import Subject
from ceag_cli.inputs import (
    Data,
    Duplicate,
    check_targets,
    choose,
    left_out,
    masks_of,
    open_checkpoint,
    open_data,
)
from ceag_cli.labels import SPLITS
from ceag_cli.models import Preprocessing, architecture_of
from ceag_cli.options import (
    OF_DATASET,
    ArchitectureOptions,
    AuditOptions,
    flag,
    given,
)
from ceag_cli.pairing import find_dense, refuse_trained_on, remarks_on
from ceag_cli.policy import policy_of
from ceag_cli.predictions import MODELS, SMALLEST, AnswerTable, as_arrays, read_as_asked
from ceag_cli.progress import Reporter
from ceag_cli.runs import folder_of

KEPT = "answers.npz"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Answered:
    """Both models' answers, and what is known about the models."""

    table: AnswerTable
    subject: Subject
    eps: tuple[str, float | None]
    """Who names the eps that the sparse model was made for, and that."""
    chosen_on: str | None
    """The split that the sparse model was chosen on, besides train."""
    folder: Path
    """Where the report goes."""
    read: Callable[[str], bytes] | None = None
    """Gives the bytes of an image, where images are at hand."""


def answers(options: AuditOptions, reporter: Reporter) -> Answered:
    """The answers that an audit is about.

    Raises:
        CeagError: Something given cannot be used.
    """
    if options.predictions is not None:
        return _from_file(Path(options.predictions), options, reporter)
    return _from_models(options, reporter)


def pairs_of(table: AnswerTable) -> list[Paired]:
    """A table as the audit takes it, one entry per split."""
    pairs = []
    for name in table.splits:
        part = table.only(name)
        pairs.append(
            Paired(
                split=name,
                dense=torch.from_numpy(part.correct("dense")),
                sparse=torch.from_numpy(part.correct("sparse")),
                groups=torch.from_numpy(part.groups),
                changed=torch.from_numpy(part.changed),
                clusters=None if part.clusters is None else torch.from_numpy(part.clusters),
            )
        )
    return pairs


def refuse_seen(gated: Sequence[str], chosen_on: str | None) -> None:
    """Images that a model was fitted or chosen on say nothing about others.

    Raises:
        OptionError: The verdict is to rest on such a split.
    """
    seen = {"train": "the models were trained on it"}
    if chosen_on == "val":
        seen["val"] = "the model was chosen on it"
    for name in gated:
        if name in seen:
            raise OptionError(
                f"--gate-splits {name}: {seen[name]}, so it is described only and no verdict can "
                "rest on it; name another split"
            )


# A table of predictions


def _from_file(path: Path, options: AuditOptions, reporter: Reporter) -> Answered:
    _refuse_models(options)
    table = read_as_asked(path, options)
    about = table.about or {}
    models = about.get("models", {})
    origin = about.get("data", {})
    refuse_seen(options.gate_splits, about.get("chosen_on"))
    lacking = [name for name in options.gate_splits if name not in table.splits]
    if lacking:
        raise LabelsError([f"{path}: no row has split '{name}'" for name in lacking])
    policy_of(options).check_groups(table.grouping.names)
    count = table.grouping.num_groups
    reporter.say(
        f"{len(table)} images in {path}, {count} group{'s' if count != 1 else ''} by "
        f"{table.groups_by}"
    )
    if about:
        for model in MODELS:
            found = models.get(model, {})
            reporter.say(
                f"{model} model {found.get('path')} (sha256 {found.get('sha256', '')[:12]}…)"
            )
        digest = str(origin.get("groups_file_sha256"))[:12]
        reporter.say(f"groups from {origin.get('groups_file')} (sha256 {digest}…)")
    if table.dropped:
        reporter.say(left_out(table.dropped, path))
    subject = Subject(
        dense=models.get("dense", {}).get("path", f"column '{table.columns['dense']}'"),
        dense_sha256=models.get("dense", {}).get("sha256"),
        sparse=models.get("sparse", {}).get("path", f"column '{table.columns['sparse']}'"),
        sparse_sha256=models.get("sparse", {}).get("sha256"),
        architecture=about.get("architecture"),
        sparsity=about.get("sparsity"),
        method=about.get("method"),
        groups=origin.get("groups_file", str(path)),
        groups_sha256=origin.get("groups_file_sha256", table.sha256),
        label_column=origin.get("label_column", table.label_column),
        groups_by=table.groups_by,
        missing=table.missing,
        dropped=table.dropped + origin.get("dropped", 0),
        cluster_id=table.cluster_id,
        predictions=str(path),
        predictions_sha256=table.sha256,
        dataset=origin.get("dataset"),
        pairing=tuple(about.get("pairing", ())),
        duplicates=_duplicates_in(origin, path) if about else None,
    )
    if options.forbid_duplicates:
        if not about:
            raise OptionError(
                f"--forbid-duplicates: {path} holds answers and no images, so that equal ones "
                "cannot be found"
            )
        _refuse_duplicates(subject.duplicates or (), str(path))
    kept_by_audit = about and path.name == PREDICTIONS
    beside = path.parent if kept_by_audit else folder_of(path)
    return Answered(
        table=table,
        subject=subject,
        eps=(subject.sparse, about.get("eps")),
        chosen_on=about.get("chosen_on"),
        folder=Path(options.output) if options.output is not None else beside,
    )


def _refuse_models(options: AuditOptions) -> None:
    """What is said about models and images has no meaning for a table of their answers.

    A file that the project has for all its audits may say it all the same.

    Raises:
        OptionError: It was given as a flag, or in Python.
    """
    names = {"checkpoint", "candidate", "dense", "baseline", "groups", "data_dir", "class_map"}
    names |= {"reevaluate", "dataset", *OF_DATASET, *ArchitectureOptions.__dataclass_fields__}
    names |= {
        "amp",
        "amp_dtype",
        "torchcompile",
        "device",
        "batch_size",
        "workers",
        "cache",
        "cache_size",
    }
    said = [
        name
        for name in given(options, sorted(names))
        if options.origins.get(name, "--").startswith("--")
    ]
    if said:
        listed = ", ".join("FILE" if name == "checkpoint" else flag(name) for name in said)
        raise OptionError(
            f"--predictions {options.predictions}: holds the answers already, so {listed} would "
            "have no effect; leave out one or the other"
        )


# Two models


@dataclass(frozen=True)
class _Said:
    """A model's answers to all rows."""

    predicted: Integers
    p: Numbers
    p_label: Numbers


def _from_models(options: AuditOptions, reporter: Reporter) -> Answered:
    if options.checkpoint is not None and options.candidate is not None:
        raise OptionError(
            f"FILE {options.checkpoint} and --candidate {options.candidate} both name the sparse "
            "model; give one"
        )
    wanted = options.checkpoint if options.candidate is None else options.candidate
    path = choose(wanted, ("mitigated", "pruned"), "audit", reporter)
    sparse = open_checkpoint(path, options, reporter)
    if sparse.lineage is not None and sparse.lineage.sparsity is not None:
        masks_of(sparse)  # refuses a file that was changed after pruning
    dense = find_dense(sparse, options, reporter, inputs_may_differ=True)
    data = open_data(
        options, [sparse, dense], reporter, "audit", options.control, options.cluster_id
    )
    check_targets(data, sparse, options.class_map)
    chosen_on = _chosen_on(sparse)
    refuse_seen(options.gate_splits, chosen_on)
    data.require(list(options.gate_splits), seen_in_train=True)
    policy_of(options).check_groups(data.labels.grouping.names)
    refuse_trained_on(data, (sparse, dense), options.gate_splits, chosen_on, reporter)
    folder = Path(options.output) if options.output is not None else folder_of(path)
    compute = Compute.of(options)

    models = {"dense": dense, "sparse": sparse}
    keys = {name: _key(model, data, options, compute) for name, model in models.items()}
    own, shared = folder_of(dense.path) / KEPT, folder / PREDICTIONS
    world = compute.world
    problem = world.on_first(lambda: unwritable(shared))
    if problem is not None:  # known before the models are run
        raise OutputError(f"{shared}: {problem}; name another folder with -o")
    places = {"dense": (own, shared), "sparse": (shared,)}
    found: dict[str, _Said] = {}
    taken: dict[str, Path] = {}
    duplicates = None
    for name in () if options.reevaluate else models:
        # Other machines may not see these folders, and all have to go on alike.
        kept = world.on_first(partial(_look_up, name, keys[name], places[name], reporter))
        if kept is not None:
            found[name], taken[name], duplicates = kept
    if taken:
        listed = " and ".join(f"{place} ({name})" for name, place in taken.items())
        reporter.say(
            f"answers taken from {listed}: nothing that they depend on has changed; --reevaluate "
            "computes them anew"
        )
    if duplicates is None:
        duplicates = tuple(data.duplicates())
    if options.forbid_duplicates:
        _refuse_duplicates(duplicates, str(data.labels.csv))
    missing = {name: model for name, model in models.items() if name not in found}
    found |= _evaluate(missing, data, compute, options, reporter)
    table = _table(found, data, sparse, options)
    subject = replace(subject_of(dense, sparse, data), duplicates=duplicates)
    eps = sparse.lineage.eps if sparse.lineage is not None else None
    about = _about(subject, eps, keys, data, chosen_on)
    if taken.get("dense") != own:
        world.on_first(lambda: _keep_dense(own, table, about, reporter))
    world.on_first(lambda: write_npz(shared, as_arrays(table), about))
    return Answered(table, subject, (str(path), eps), chosen_on, folder, data.store.read)


def subject_of(dense: Checkpoint, sparse: Checkpoint, data: Data) -> Subject:
    """What is said of two models and their images wherever they are compared."""
    labels, lineage = data.labels, sparse.lineage
    record = lineage.sparsity if lineage else None
    mitigated = lineage is not None and lineage.stage == "mitigated"
    return Subject(
        dense=str(dense.path),
        dense_sha256=dense.sha256,
        sparse=str(sparse.path),
        sparse_sha256=sparse.sha256,
        architecture=architecture_of(sparse.model),
        sparsity=record.achieved if record else None,
        method=str(lineage.recipe.get("method")) if lineage and mitigated else None,
        groups=str(labels.csv),
        groups_sha256=labels.sha256,
        label_column=labels.label_column,
        groups_by=labels.groups_by,
        missing=labels.missing,
        dropped=labels.dropped,
        cluster_id=labels.cluster_id,
        dataset=data.about_dataset(),
        pairing=tuple(remarks_on(dense, sparse, labels)),
    )


def _chosen_on(sparse: Checkpoint) -> str | None:
    recipe = sparse.lineage.recipe if sparse.lineage is not None else {}
    chosen = recipe.get("keep") or ("val" if recipe.get("method") == "naive-es" else None)
    return str(chosen) if chosen is not None else None


def _evaluate(
    models: Mapping[str, Checkpoint],
    data: Data,
    compute: Compute,
    options: AuditOptions,
    reporter: Reporter,
) -> dict[str, _Said]:
    """Run models over every split that has rows, all that see the same inputs in one pass."""
    if not models:
        return {}
    count = len(data.labels.paths)
    found = {
        name: _Said(np.zeros(count, np.int64), np.zeros(count), np.zeros(count)) for name in models
    }
    alike: dict[Preprocessing, list[str]] = {}  # one and the same, unless compared on purpose
    for name, model in models.items():
        alike.setdefault(model.preprocessing, []).append(name)
    splits = [name for name in SPLITS if name in data.labels.splits]
    for (preprocessing, names), split_name in product(alike.items(), splits):
        split = data.split(split_name, preprocessing, options, reporter, keep=False)
        rows = data.labels.rows(split_name).numpy()
        titles = {f"{name} on {split_name}": name for name in names}
        says = evaluate_together(
            {title: models[name].model for title, name in titles.items()},
            split,
            preprocessing,
            compute,
            reporter,
            f"{' and '.join(names)} on {split_name}",
        )
        for title, name in titles.items():
            said: Predictions = says[title]
            found[name].predicted[rows] = said.predicted.numpy()
            found[name].p[rows] = said.confidence.numpy()
            found[name].p_label[rows] = said.loss.neg().exp().numpy()
    return found


def _table(
    said: Mapping[str, _Said], data: Data, sparse: Checkpoint, options: AuditOptions
) -> AnswerTable:
    labels = data.labels
    assert data.targets is not None
    outputs = int(sparse.model.num_classes)  # type: ignore[arg-type]
    cells = labels.cells
    return AnswerTable(
        ids=tuple(labels.paths),
        split=labels.split,
        classes=_output_names(class_index(sparse.label_names, options.class_map, outputs), outputs),
        label=data.targets.numpy(),
        dense=said["dense"].predicted,
        sparse=said["sparse"].predicted,
        grouping=labels.grouping,
        groups=labels.groups.numpy(),
        probabilities={
            f"{model}_{kind}": _as_kept(getattr(said[model], kind))
            for kind in ("p", "p_label")
            for model in MODELS
        },
        clusters=None if labels.cluster_id is None else cells[labels.cluster_id].codes,
        cells=cells,
        label_column=labels.label_column,
        groups_by=labels.groups_by,
        missing=labels.missing,
        cluster_id=labels.cluster_id,
        dropped=labels.dropped,
        source=labels.csv,
        sha256=labels.sha256,
    )


def _as_kept(probabilities: Numbers) -> Numbers:
    """As the file has them, so that it makes no difference where they come from."""
    return np.maximum(probabilities, SMALLEST).astype(np.float32).astype(np.float64)


def _output_names(index: Mapping[str, int], outputs: int) -> tuple[str, ...]:
    """A name for each output of a model: the first that is given to it, or its number."""
    names: dict[int, str] = {}
    for name, output in index.items():
        names.setdefault(output, name)
    for output in range(outputs):
        name = f"output {output}"
        while output not in names and name in index:
            name += "'"
        names.setdefault(output, name)
    return tuple(names[output] for output in range(outputs))


# What is kept


def _key(
    model: Checkpoint, data: Data, options: AuditOptions, compute: Compute
) -> dict[str, str | bool]:
    """Everything that a model's answers depend on, by name."""
    labels = data.labels
    assert data.targets is not None
    return {
        "model": model.sha256,
        "averaged weights": options.use_ema,
        "architecture and preprocessing": _digest(model.config, str(model.preprocessing)),
        "rows": _digest(labels.paths, labels.split.tolist(), data.targets.tolist()),
        "images": _digest(map(data.store.state, labels.paths)),
        "amp": compute.amp and str(compute.amp_dtype),
        "compiled": str(compute.backend),
        "device": compute.device.type,
        "versions": " ".join(f"{name} {version(name)}" for name in ("ceag", "torch", "timm")),
    }


def _digest(*parts: Any) -> str:
    """A hash of some things one after the other; of rows a few at a time, since they are many."""
    digest = hashlib.sha256()
    for part in parts:
        rows = iter([part] if isinstance(part, (str, Mapping)) else part)
        while some := list(islice(rows, AT_ONCE)):
            text = json.dumps(some, sort_keys=True, ensure_ascii=False, default=str)
            digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


def _look_up(
    model: str, key: Mapping[str, Any], places: Sequence[Path], reporter: Reporter
) -> tuple[_Said, Path, tuple[Duplicate, ...]] | None:
    """Answers that were kept, if they are of the same model, images and everything else."""
    reasons = []
    for place in places:
        if not place.is_file():
            continue
        try:
            arrays, about = read_npz(place)
            had = (about or {})["keys"][model]
            said = _Said(
                arrays[model].astype(np.int64),
                arrays[f"{model}_p"].astype(np.float64),
                arrays[f"{model}_p_label"].astype(np.float64),
            )
            duplicates = _duplicates_in((about or {})["data"], place)
        except LabelsError as error:
            reasons.append(f"{error}")
            continue
        except (KeyError, TypeError, ValueError, AttributeError):
            reasons.append(f"{place}: holds no answers of the {model} model")
            continue
        other = [name for name, value in key.items() if had.get(name) != value]
        if not other:
            return said, place, duplicates
        reasons.append(f"{place}: was made with other {', '.join(other)}")
    for reason in reasons[:1]:
        reporter.say(f"{reason}; the {model} model is evaluated anew")
    return None


def _about(
    subject: Subject,
    eps: float | None,
    keys: Mapping[str, Mapping[str, Any]],
    data: Data,
    chosen_on: str | None,
) -> dict[str, Any]:
    """What is kept with the answers: where they come from, and what they depend on."""
    return {
        "format": FORMAT,
        "models": {
            "dense": {"path": subject.dense, "sha256": subject.dense_sha256},
            "sparse": {"path": subject.sparse, "sha256": subject.sparse_sha256},
        },
        "architecture": subject.architecture,
        "sparsity": subject.sparsity,
        "method": subject.method,
        "pairing": list(subject.pairing),
        "eps": eps,
        "chosen_on": chosen_on,
        "data": {
            "groups_file": subject.groups,
            "groups_file_sha256": subject.groups_sha256,
            "images": str(data.store.root),
            "dataset": subject.dataset,
            "label_column": subject.label_column,
            "groups_by": subject.groups_by,
            "missing": subject.missing,
            "dropped": subject.dropped,
            "cluster_id": subject.cluster_id,
            "duplicates": [list(each) for each in subject.duplicates or ()],
        },
        "keys": {name: dict(key) for name, key in keys.items()},
    }


def _duplicates_in(origin: Mapping[str, Any], path: Path) -> tuple[Duplicate, ...]:
    """The duplicates that were found when answers were kept.

    Raises:
        LabelsError: The file says it in another way, as versions before this one did.
    """
    try:
        return tuple(Duplicate(*map(str, each)) for each in origin["duplicates"])
    except (KeyError, TypeError):
        raise LabelsError(
            [f"{path}: does not say which images are in several splits; audit the models anew"]
        ) from None


def _refuse_duplicates(duplicates: Sequence[Duplicate], source: str) -> None:
    """Refuse images that are in several splits.

    Raises:
        LabelsError: There are any.
    """
    problems = [
        f"{source}: image '{each.path}' (split {each.split}) is byte for byte '{each.same_as}' "
        f"(split {each.of_split}), and --forbid-duplicates is set"
        for each in duplicates
    ]
    if problems:
        raise LabelsError(first(problems))


def _keep_dense(
    place: Path, table: AnswerTable, about: Mapping[str, Any], reporter: Reporter
) -> None:
    """Keep the dense model's answers beside it, for the next sparse one."""
    part: dict[str, Anything] = {
        name: array
        for name, array in as_arrays(table).items()
        if name.removesuffix(NAMES) in ("id", "split", "label", "dense", "dense_p", "dense_p_label")
    }
    of_dense = {
        "format": FORMAT,
        "models": {"dense": about["models"]["dense"]},
        "data": about["data"],
        "keys": {"dense": about["keys"]["dense"]},
    }
    try:
        write_npz(place, part, of_dense)
    except OutputError as error:  # models may lie where nothing can be written
        reporter.say(f"{error}; the dense model's answers are kept with the report only")
