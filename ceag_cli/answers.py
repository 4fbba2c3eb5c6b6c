"""Where an audit's answers come from: a table of predictions, or two models and their images.

Those of models are kept, and never computed twice (``kept``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ceag_cli.answercolumns import MODELS
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.classes import class_index
from ceag_cli.columns import Column
from ceag_cli.data import Data, Duplicate, left_out, open_data
from ceag_cli.declarations import called, given
from ceag_cli.destinations import unwritable
from ceag_cli.errors import LabelsError, OptionError, OutputError, first
from ceag_cli.evaluation import Compute
from ceag_cli.findings import Subject
from ceag_cli.headers import SPLITS
from ceag_cli.inputs import check_targets, choose, open_checkpoint
from ceag_cli.kept import (
    KEPT,
    PREDICTIONS,
    Said,
    as_kept,
    evaluated,
    keep,
    key_of,
    look_up,
    look_up_by_split,
    output_names,
    refuse_changed,
    rows_of,
)
from ceag_cli.npzfiles import FORMAT, write_npz
from ceag_cli.options import AuditOptions, ExemplarsOptions
from ceag_cli.paired import Paired
from ceag_cli.pairing import find_dense, refuse_trained_on
from ceag_cli.policy import policy_of
from ceag_cli.predictions import AnswerTable, as_arrays, read_as_asked
from ceag_cli.progress import Reporter
from ceag_cli.pruned import masks_of
from ceag_cli.runs import folder_of
from ceag_cli.sharedoptions import OF_DATASET, ArchitectureOptions
from ceag_cli.subjects import about_data, subject_of, subject_of_table


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


def answers(
    options: AuditOptions, reporter: Reporter, claim: Callable[[Path], None] = lambda folder: None
) -> Answered:
    """The answers that an audit is about.

    Args:
        options: See ``ceag audit --help``.
        reporter: Hears how it goes.
        claim: Called with the folder of the report before models are run and anything is written.

    Raises:
        CeagError: Something given cannot be used.
    """
    if options.predictions is not None:
        found = _from_file(Path(options.predictions), options, reporter)
        claim(found.folder)
        return found
    return _from_models(options, reporter, claim)


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
    refuse_models(options, str(path))
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
    subject = subject_of_table(table, path)
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


def refuse_models(options: AuditOptions | ExemplarsOptions, path: str) -> None:
    """What is said about models and images has no meaning for a table of their answers.

    A file that the project has for all its audits may say it all the same.

    Args:
        options: Of the command.
        path: The table.

    Raises:
        OptionError: It was given as a flag, or in Python.
    """
    names = {*("checkpoint", "candidate", "files", "dense", "baseline", "sparse", "groups")}
    names |= {"data_dir", "class_map", "reevaluate", "dataset", *OF_DATASET}
    names |= {*ArchitectureOptions.__dataclass_fields__, *OF_RUNNING}
    known = names & options.__dataclass_fields__.keys()
    said = [name for name in given(options, sorted(known)) if options.file_of(name) is None]
    if said:
        listed = ", ".join(called(type(options), name) for name in said)
        raise OptionError(
            f"--predictions {path}: holds the answers already, so {listed} would have no effect; "
            "leave out one or the other"
        )


OF_RUNNING = (
    *("amp", "amp_dtype", "torchcompile", "device", "batch_size", "workers"),
    *("cache", "cache_size"),
)
"""Options of running that change nothing where no model runs."""


# Two models


def _from_models(
    options: AuditOptions, reporter: Reporter, claim: Callable[[Path], None]
) -> Answered:
    path, dense, sparse, data = _opened(options, reporter)
    chosen_on = _chosen_on(sparse)
    refuse_seen(options.gate_splits, chosen_on)
    data.require(list(options.gate_splits), seen_in_train=True)
    policy_of(options).check_groups(data.labels.grouping.names)
    refuse_trained_on(data, (sparse, dense), options.gate_splits, chosen_on, reporter)
    folder = Path(options.output) if options.output is not None else folder_of(path)
    compute = Compute.of(options)

    models = {"dense": dense, "sparse": sparse}
    rows = rows_of(data)
    keys = {name: key_of(model, options, compute, rows) for name, model in models.items()}
    own, shared = folder_of(dense.path) / KEPT, folder / PREDICTIONS
    places = {"dense": (own, shared), "sparse": (shared,)}
    world = compute.world
    problem = world.on_first(lambda: unwritable(shared))
    if problem is not None:  # known before the models are run
        raise OutputError(f"{shared}: {problem}; name another folder with -o")
    claim(folder)
    kept = _Kept(data, options, compute, reporter)
    if not options.reevaluate:
        for name, model in models.items():
            kept.look_up(name, model, keys[name], places[name])
        kept.say_where()
    duplicates = kept.duplicates
    if duplicates is None:
        duplicates = tuple(data.duplicates())
    if options.forbid_duplicates:
        _refuse_duplicates(duplicates, str(data.labels.csv))
    said = evaluated(models, data, compute, options, reporter, kept=kept.by_split)
    if kept.whole.keys() != models.keys():
        with world.agreeing():
            refuse_changed(data, rows)
    table = _table(said, data, sparse, options)
    subject = replace(subject_of(dense, sparse, data), duplicates=duplicates)
    eps = sparse.lineage.eps if sparse.lineage is not None else None
    about = _about(subject, eps, keys, data, chosen_on)
    if kept.whole.get("dense") != own:
        world.on_first(lambda: _keep_dense(own, table, said["dense"], about, reporter))
    world.on_first(lambda: write_npz(shared, as_arrays(table), about))
    return Answered(table, subject, (str(path), eps), chosen_on, folder, data.store.read)


def _opened(options: AuditOptions, reporter: Reporter) -> tuple[Path, Checkpoint, Checkpoint, Data]:
    """The path of the sparse model, the dense and the sparse one, and their images."""
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
    return path, dense, sparse, data


@dataclass
class _Kept:
    """The answers of both models that need not be computed."""

    data: Data
    options: AuditOptions
    compute: Compute
    reporter: Reporter
    by_split: dict[str, dict[str, Said]] = field(default_factory=dict)
    """By model and split."""
    whole: dict[str, Path] = field(default_factory=dict)
    """By model, the file of those to all splits."""
    places: list[str] = field(default_factory=list)
    """All files, for the message."""
    duplicates: tuple[Duplicate, ...] | None = None
    """Images that are in several splits, where an audit has looked for them."""

    def look_up(
        self, name: str, model: Checkpoint, key: Mapping[str, Any], places: Sequence[Path]
    ) -> None:
        """Look for those of a model: to all splits in some files, else in one file a split.

        Other machines may not see these folders, and all have to go on alike.
        """
        labels, on_first = self.data.labels, self.compute.world.on_first
        found, reason = on_first(partial(look_up, name, model, key, len(labels.paths), places))
        if found is not None:
            rows = {split: labels.rows(split).numpy() for split in labels.splits}
            self.by_split[name] = {split: found.said.only(chosen) for split, chosen in rows.items()}
            self.whole[name], self.duplicates = found.place, found.duplicates
            self.places.append(f"{found.place} ({name})")
            return
        parts = on_first(
            partial(look_up_by_split, name, model, self.data, self.options, self.compute)
        )
        self.by_split[name] = {split: part.said for split, part in parts.items()}
        self.places += [f"{part.place} ({name} on {split})" for split, part in parts.items()]
        if reason is not None and len(parts) < len(labels.splits):
            self.reporter.say(f"{reason}; the {name} model is evaluated anew")

    def say_where(self) -> None:
        """Say which answers are taken."""
        if self.places:
            *others, last = self.places
            listed = " and ".join([*([", ".join(others)] if others else []), last])
            self.reporter.say(
                f"answers taken from {listed}: nothing that they depend on has changed; "
                "--reevaluate computes them anew"
            )


def _chosen_on(sparse: Checkpoint) -> str | None:
    recipe = sparse.lineage.recipe if sparse.lineage is not None else {}
    chosen = recipe.get("keep") or ("val" if recipe.get("method") == "naive-es" else None)
    return str(chosen) if chosen is not None else None


def _table(
    said: Mapping[str, Said], data: Data, sparse: Checkpoint, options: AuditOptions
) -> AnswerTable:
    labels = data.labels
    assert data.targets is not None
    outputs = int(sparse.model.num_classes)  # type: ignore[arg-type]
    cells = labels.cells
    return AnswerTable(
        ids=tuple(labels.paths),
        split=labels.split,
        classes=output_names(class_index(sparse.label_names, options.class_map, outputs), outputs),
        label=data.targets.numpy(),
        dense=said["dense"].predicted,
        sparse=said["sparse"].predicted,
        grouping=labels.grouping,
        groups=labels.groups.numpy(),
        probabilities={
            f"{model}_{kind}": as_kept(getattr(said[model], kind))
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


# What is kept


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
        "data": about_data(subject, data),
        "keys": {name: dict(key) for name, key in keys.items()},
    }


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
    place: Path, table: AnswerTable, said: Said, about: Mapping[str, Any], reporter: Reporter
) -> None:
    """Keep the dense model's answers beside it, for the next sparse one."""
    of_dense = {
        "format": FORMAT,
        "models": {"dense": about["models"]["dense"]},
        "data": about["data"],
        "keys": {"dense": about["keys"]["dense"]},
    }
    columns = {"split": Column(table.split, SPLITS), "label": Column(table.label, table.classes)}
    try:
        keep(place, "dense", said, table.ids, columns, table.classes, of_dense)
    except OutputError as error:  # models may lie where nothing can be written
        reporter.say(f"{error}; the dense model's answers are kept with the report only")
