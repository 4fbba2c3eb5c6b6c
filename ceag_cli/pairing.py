"""Whether a dense model, a sparse one and a groups CSV belong together.

A sparse model that names its parent is compared with that one (``--dense`` says where it is now),
on inputs made alike, and by the CSV that it names. Any other pair may be compared on purpose with
``--baseline``, and another CSV be given with ``--groups``; reports then say so. Images that a model
was trained on bear no verdict, whatever another CSV calls them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ceag_cli.checkpoints import Checkpoint
from ceag_cli.data import Data
from ceag_cli.errors import CheckpointError, LabelsError, LineageError, OptionError, first
from ceag_cli.inputs import open_checkpoint
from ceag_cli.labels import Labels, read_labels
from ceag_cli.options import AuditOptions, ExplainOptions, MitigateOptions
from ceag_cli.progress import Reporter
from ceag_cli.reading import images_of
from ceag_cli.references import GroupsReference
from ceag_cli.stores import open_store
from ceag_cli.weightsfiles import identity_of, weights_in

ELSEWHERE = "say where it is with --dense, or compare with another one on purpose by --baseline"


def find_dense(
    sparse: Checkpoint,
    options: AuditOptions | ExplainOptions | MitigateOptions,
    reporter: Reporter,
    *,
    inputs_may_differ: bool = False,
) -> Checkpoint:
    """The dense model that a sparse one is compared with.

    The parent that the file names, at its place or where ``--dense`` says; or, on purpose, what
    ``--baseline`` names.

    Args:
        sparse: The model that was made of it.
        options: Of the command.
        reporter: Hears which one it is.
        inputs_may_differ: Two models that are compared on purpose may see the same images in
            different sizes and the like, each as it is used.

    Raises:
        LineageError: The sparse file names none, it is gone or changed, or the one given with
            ``--dense`` is another.
        CheckpointError: The two differ in preprocessing or classes.
    """
    if options.dense is not None and options.baseline is not None:
        raise OptionError(
            f"--dense {options.dense} and --baseline {options.baseline} both name the model to "
            "compare with; give one"
        )
    given = options.dense if options.baseline is None else options.baseline
    reference = sparse.lineage and sparse.lineage.parents.get("dense")
    path = named_dense(sparse) if given is None else weights_in(Path(given))
    if options.dense is not None and reference and path.is_file():
        found = identity_of(path)
        if found != reference.sha256:
            raise LineageError(
                f"--dense {given}: is not the dense model that {sparse.path} was made from (sha256 "
                f"{found[:12]}…, not {reference.sha256[:12]}… as its metadata says); leave it out, "
                f"or compare with it on purpose by --baseline {given}"
            )
    dense = open_checkpoint(path, options, reporter, sparse.config if given is None else None)
    allowed = " (--baseline compares them on purpose)" if inputs_may_differ else ""
    if not (inputs_may_differ and options.baseline is not None):
        check_inputs(dense, sparse, "the dense and the sparse model", allowed)
    check_classes(dense, sparse)
    return dense


def named_dense(sparse: Checkpoint, remedy: str = ELSEWHERE) -> Path:
    """Where the dense model is that a sparse one names.

    Raises:
        LineageError: It names none, or that is gone or changed.
    """
    reference = sparse.lineage and sparse.lineage.parents.get("dense")
    if not reference:
        raise LineageError(f"{sparse.path}: names no dense model; name it with --dense")
    return reference.find(sparse.path, "dense model", remedy)


def check_inputs(one: Checkpoint, other: Checkpoint, who: str, allowed: str = "") -> None:
    """Refuse models that see different inputs.

    Raises:
        CheckpointError: Their preprocessing differs.
    """
    if one.preprocessing != other.preprocessing:
        raise CheckpointError(
            [
                f"{who} see different inputs, so their accuracies cannot be compared{allowed}:",
                f"  {one.path}: {one.preprocessing}",
                f"  {other.path}: {other.preprocessing}",
            ]
        )


def check_classes(one: Checkpoint, other: Checkpoint) -> None:
    """Refuse models of other classes.

    Raises:
        CheckpointError: They differ in number or name.
    """
    if one.model.num_classes != other.model.num_classes or (
        one.label_names and other.label_names and one.label_names != other.label_names
    ):
        raise CheckpointError(
            f"{one.path} and {other.path} have different classes, so they cannot be compared"
        )


def remarks_on(dense: Checkpoint, sparse: Checkpoint, labels: Labels) -> list[str]:
    """What a reader has to know of a pair that does not belong together by its metadata."""
    remarks = []
    lineage = sparse.lineage
    reference = lineage and lineage.parents.get("dense")
    if reference and dense.sha256 != reference.sha256:
        remarks.append(
            f"{dense.path} is not the dense model that {sparse.path} was made from; they were "
            "compared on purpose (--baseline), and the gaps are not those of the pruning alone"
        )
    held_against = lineage and lineage.recipe.get("baseline")
    if held_against:
        remarks.append(
            f"{sparse.path} was fine-tuned with --baseline {held_against}: its psi was held "
            "against that model, which need not be the one that it was pruned from"
        )
    if dense.preprocessing != sparse.preprocessing:
        remarks.append(
            f"the models see different inputs: {dense.path} {dense.preprocessing}, {sparse.path} "
            f"{sparse.preprocessing}"
        )
    groups = lineage and lineage.groups
    if groups and groups.csv.sha256 != labels.sha256:
        remarks.append(
            f"{labels.csv} is not the groups CSV that {sparse.path} names ('{groups.csv.path}', "
            f"sha256 {groups.csv.sha256[:12]}…); it was given with --groups"
        )
    return remarks


def refuse_trained_on(
    data: Data,
    models: Sequence[Checkpoint],
    splits: Sequence[str],
    chosen_on: str | None,
    reporter: Reporter,
) -> None:
    """Refuse to judge by images that a model was trained or chosen on, by the CSV that it names.

    Only where another CSV is given does this need a look. Images are the same where they lie at the
    same place; where the CSV is gone, or images come from a data set, it cannot be told, and is
    said.

    Args:
        data: The images to judge by.
        models: Both models.
        splits: The gated ones.
        chosen_on: The split that the sparse model was chosen on, besides train.
        reporter: Hears what cannot be told.

    Raises:
        LabelsError: There are such rows.
    """
    looked_at = {data.labels.sha256}
    for model in models:
        reference = model.lineage and model.lineage.groups
        if not reference or reference.csv.sha256 in looked_at:
            continue
        looked_at.add(reference.csv.sha256)
        try:
            seen = _places_seen(model, reference, data, chosen_on)
        except LineageError as error:
            reporter.warn(
                f"{error}; so whether {model.path} was trained on any of these images is not known"
            )
            continue
        root = os.path.realpath(data.store.root)
        problems = [
            f"{data.labels.csv} row {line}: {model.path} was made with the image '{path}' (split "
            f"'{split}' of {reference.csv.path}), so that it says nothing about others"
            for name in splits
            for line, path in _rows(data.labels, name)
            if (split := seen.get(_place(root, path))) is not None
        ]
        if problems:
            raise LabelsError(first(problems))


def _places_seen(
    model: Checkpoint, reference: GroupsReference, data: Data, chosen_on: str | None
) -> dict[str, str]:
    """Where each image lies that a model was trained or chosen on, and the split of it."""
    if reference.dataset is not None or data.dataset is not None:
        raise LineageError(
            f"{model.path} names another groups CSV ('{reference.csv.path}'), and images of a data "
            "set are told apart by name alone"
        )
    csv = reference.csv.find(model.path, "groups CSV", "look at what the two have in common")
    missing = reference.missing
    labels = read_labels(csv, reference.label_column, reference.groups_by, missing)
    folder = reference.data_dir and images_of(model.path, reference.data_dir, csv)
    root = os.path.realpath(open_store(csv, folder, labels.paths).root)
    names = [name for name in ("train", chosen_on) if name in labels.splits]
    return {_place(root, path): name for name in names for _, path in _rows(labels, name)}


def _rows(labels: Labels, split: str) -> Iterator[tuple[int, str]]:
    """Line and path of each row of a split."""
    rows = labels.rows(split).tolist()
    return ((int(labels.lines[row]), labels.paths[row]) for row in rows)


def _place(root: str, path: str) -> str:
    return os.path.normpath(os.path.join(root, path))
