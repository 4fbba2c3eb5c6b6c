"""What is compared: what reports and kept answers say of two models, and of images and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ceag_cli.checkpoints import Checkpoint
from ceag_cli.data import Data
from ceag_cli.findings import Subject
from ceag_cli.kept import duplicates_in
from ceag_cli.models import architecture_of
from ceag_cli.pairing import remarks_on
from ceag_cli.predictions import AnswerTable


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


def subject_of_table(table: AnswerTable, path: Path) -> Subject:
    """What is said of a table of answers, and of the models where the table says more of them."""
    about = table.about or {}
    models, origin = about.get("models", {}), about.get("data", {})
    return Subject(
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
        duplicates=duplicates_in(origin, path) if about else None,
    )


def about_data(subject: Subject, data: Data) -> dict[str, Any]:
    """What is kept with answers about the images."""
    found = subject.duplicates
    return {
        "groups_file": subject.groups,
        "groups_file_sha256": subject.groups_sha256,
        "images": str(data.store.root),
        "dataset": subject.dataset,
        "label_column": subject.label_column,
        "groups_by": subject.groups_by,
        "missing": subject.missing,
        "dropped": subject.dropped,
        "cluster_id": subject.cluster_id,
        "duplicates": None if found is None else [list(each) for each in found],
    }
