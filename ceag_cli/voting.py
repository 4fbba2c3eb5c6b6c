"""Populations of models: each is run over a split, unless its answers were kept.

What is computed is kept in the run folder of the model, so that the next time nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ceag_cli.arrays import Integers
from ceag_cli.checkpoints import Checkpoint
from ceag_cli.classes import class_index
from ceag_cli.clusters import numbered
from ceag_cli.columns import Column
from ceag_cli.data import Data, open_data
from ceag_cli.errors import CheckpointError, OptionError, OutputError
from ceag_cli.evaluation import Compute
from ceag_cli.headers import SPLITS
from ceag_cli.inputs import check_targets, open_checkpoint
from ceag_cli.kept import (
    KEPT,
    PREDICTIONS,
    Said,
    evaluated,
    keep,
    key_of,
    look_up,
    of_split,
    output_names,
    rows_of,
)
from ceag_cli.npzfiles import FORMAT
from ceag_cli.options import ExemplarsOptions
from ceag_cli.pairing import check_classes, check_inputs, named_dense
from ceag_cli.populations import DENSE, SPARSE, Member, Populations, data_document, pairs_of
from ceag_cli.progress import Reporter
from ceag_cli.pruned import masks_of
from ceag_cli.runs import folder_of
from ceag_cli.subjects import about_data, subject_of
from ceag_cli.weightsfiles import weights_in

ELSEWHERE = "name all dense models with --dense"

AT_ONCE = 8
"""Models that are in memory together, and go through the images together."""


def from_models(options: ExemplarsOptions, reporter: Reporter) -> Populations:
    """The answers of the models given.

    Raises:
        CeagError: Something given cannot be used.
    """
    sparse_paths = [weights_in(Path(name)) for name in (*options.files, *options.sparse)]
    if not sparse_paths:
        raise OptionError(
            "ceag exemplars needs the sparse models, e.g. 'ceag exemplars "
            "seed-*/model.pruned.safetensors', or tables of answers (--predictions)"
        )
    example = open_checkpoint(sparse_paths[0], options, reporter)
    data = open_data(options, [example], reporter, "exemplars", cluster_id=options.cluster_id)
    check_targets(data, example, options.class_map)
    data.require([options.split], seen_in_train=False)
    work = _Work(options, reporter, data, Compute.of(options), example)
    for path in sparse_paths:
        work.add(SPARSE, path)
    dense_paths = [weights_in(Path(name)) for name in options.dense] or list(work.dense_named)
    for path in dense_paths:
        work.add(DENSE, path)
    work.evaluate()
    work.say_what_was_kept()
    labels, rows = data.labels, work.rows
    subject = work.subject
    return Populations(
        dense=tuple(work.members[DENSE]),
        sparse=tuple(work.members[SPARSE]),
        dense_answers=work.answers(DENSE),
        sparse_answers=work.answers(SPARSE),
        pairs=pairs_of(
            [member.sha256 for member in work.members[DENSE]],
            [work.made_of[member.sha256] for member in work.members[SPARSE]],
        ),
        split=options.split,
        ids=tuple(labels.paths[row] for row in rows.tolist()),
        classes=work.classes,
        label=work.targets[rows],
        grouping=labels.grouping,
        groups=labels.groups.numpy()[rows],
        clusters=None
        if labels.cluster_id is None
        else numbered(labels.cells[labels.cluster_id].codes[rows]),
        architecture=subject.architecture,
        data=data_document(subject, ()),
        files=(*sparse_paths, *dense_paths, *subject.files),
        read=data.store.read,
    )


@dataclass
class _Work:
    """Models that are opened one after the other, and kept in memory only until they answered."""

    options: ExemplarsOptions
    reporter: Reporter
    data: Data
    compute: Compute
    example: Checkpoint
    members: dict[str, list[Member]] = field(default_factory=lambda: {DENSE: [], SPARSE: []})
    made_of: dict[str | None, str | None] = field(default_factory=dict)
    """By sha256 of each sparse model, that of the dense model that it names."""
    dense_named: dict[Path, None] = field(default_factory=dict)
    """The dense models that sparse ones name, where none is given."""
    said: dict[str, Integers] = field(default_factory=dict)
    """Answers to the split, by sha256."""
    open: dict[str, tuple[str, Checkpoint]] = field(default_factory=dict)
    """Models that have to be evaluated, with their role, by sha256."""
    taken: int = 0
    """Models whose answers were kept."""

    def __post_init__(self) -> None:
        labels = self.data.labels
        self.subject = subject_of(self.example, self.example, self.data)
        assert self.data.targets is not None
        self.rows = labels.rows(self.options.split).numpy()
        self.targets = self.data.targets.numpy()
        self.rows_of_split = rows_of(self.data, self.rows)
        outputs = int(self.example.model.num_classes)  # type: ignore[arg-type]
        index = class_index(self.example.label_names, self.options.class_map, outputs)
        self.classes = output_names(index, outputs)

    @cached_property
    def _rows_of_all(self) -> dict[str, str]:
        """Only where an audit has kept answers: every image is asked for its state."""
        return rows_of(self.data)

    def answers(self, role: str) -> Integers:
        """Of a population, shape ``(M, N)``."""
        return np.stack([self.said[str(member.sha256)] for member in self.members[role]])

    def add(self, role: str, path: Path) -> None:
        """Open a model, and look for its answers; evaluate it with others if there are none.

        Raises:
            CheckpointError: It cannot be compared with the others, or has a vote already.
        """
        if not self.members[SPARSE]:
            model = self.example
        else:
            child = self.example.config if role == DENSE and not self.options.dense else None
            model = open_checkpoint(path, self.options, self.reporter, child)
        self._check(role, model)
        lineage, member = model.lineage, subject_of(model, model, self.data)
        self.members[role].append(Member(str(path), model.sha256, member.sparsity, member.method))
        if role == SPARSE:
            parent = lineage.parents.get(DENSE) if lineage is not None else None
            self.made_of[model.sha256] = parent.sha256 if parent is not None else None
            if not self.options.dense:
                self.dense_named.setdefault(named_dense(model, ELSEWHERE))
        kept = None if self.options.reevaluate else self._kept(role, model)
        if kept is not None:
            self.said[model.sha256] = kept.predicted
            self.taken += 1
            return
        self.open[model.sha256] = (role, model)
        if len(self.open) == AT_ONCE:
            self.evaluate()

    def _check(self, role: str, model: Checkpoint) -> None:
        stage = model.lineage.stage if model.lineage is not None else None
        if role == SPARSE and stage == DENSE:
            raise CheckpointError(
                f"{model.path}: is a dense model, named among the sparse ones; give each dense "
                "model a --dense of its own, as '--dense a.safetensors --dense b.safetensors'"
            )
        if model.lineage is not None and model.lineage.sparsity is not None:
            masks_of(model)  # refuses a file that was changed after pruning
        for other_role, members in self.members.items():
            for other in members:
                if other.sha256 == model.sha256:
                    raise CheckpointError(
                        f"{model.path}: is the same model as {other.path}, which is one of the "
                        f"{other_role} ones already; each model has one vote"
                    )
        check_inputs(model, self.example, "models")
        check_classes(model, self.example)

    def _place(self, model: Checkpoint) -> Path:
        """Where a model's answers to the split are kept."""
        return folder_of(model.path) / of_split(self.options.split)

    def _kept(self, role: str, model: Checkpoint) -> Said | None:
        key = key_of(model, self.options, self.compute, self.rows_of_split)
        found, _ = look_up(role, model, key, len(self.rows), [self._place(model)])
        if found is not None:
            return found.said
        folder = folder_of(model.path)
        of_audits = [folder / name for name in (KEPT, PREDICTIONS) if (folder / name).is_file()]
        if not of_audits:
            return None
        whole = key_of(model, self.options, self.compute, self._rows_of_all)
        found, reason = look_up(role, model, whole, len(self.data.labels.paths), of_audits)
        if reason is not None:
            self.reporter.say(f"{reason}; {model.path} is evaluated anew")
        return None if found is None else found.said.only(self.rows)

    def evaluate(self) -> None:
        """Run the models that are open over the split, and close them."""
        models = {str(model.path): model for _, model in self.open.values()}
        says = evaluated(
            models,
            self.data,
            self.compute,
            self.options,
            self.reporter,
            [self.options.split],
        )
        for digest, (role, model) in self.open.items():
            said = says[str(model.path)].only(self.rows)
            self._keep(role, model, said)
            self.said[digest] = said.predicted
        self.open.clear()

    def _keep(self, role: str, model: Checkpoint, said: Said) -> None:
        place, labels = self._place(model), self.data.labels
        about = {
            "format": FORMAT,
            "models": {role: {"path": str(model.path), "sha256": model.sha256}},
            "data": about_data(self.subject, self.data),
            "keys": {role: key_of(model, self.options, self.compute, self.rows_of_split)},
        }
        columns = {
            "split": Column(labels.split[self.rows], SPLITS),
            "label": Column(self.targets[self.rows], self.classes),
        }
        ids = [labels.paths[row] for row in self.rows.tolist()]
        try:
            keep(place, role, said, ids, columns, self.classes, about)
        except OutputError as error:  # models may lie where nothing can be written
            self.reporter.say(f"{error}; its answers are not kept")

    def say_what_was_kept(self) -> None:
        """Say of how many models the answers were there."""
        if self.taken:
            which = "1 model" if self.taken == 1 else f"{self.taken} models"
            self.reporter.say(
                f"answers of {which} taken from their run folders: nothing that they depend on has "
                "changed; --reevaluate computes them anew"
            )
