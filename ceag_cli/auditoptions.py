"""The options of the commands that look at models: audit, explain, exemplars and export."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ceag_cli.clauses import Group, Override, Waiver, read_overrides, read_required, read_waivers
from ceag_cli.declarations import option
from ceag_cli.sharedoptions import (
    DATA,
    METHOD,
    MODEL,
    OUTPUT,
    PERCENT,
    POINTS,
    RUN,
    ArchitectureOptions,
    DataOptions,
    RunOptions,
)

AUDIT_FORMATS = ("text", "json", "markdown", "github", "junit", "csv", "html")
"""What an audit can be written as; ``formats`` knows how."""

EXPLAIN_FORMATS = ("text", "json", "markdown", "html")
"""What an explanation can be written as; ``explanationformats`` knows how."""

EXEMPLARS_FORMATS = ("text", "json", "markdown", "csv", "html")
"""What identified exemplars can be written as; ``pieformats`` knows how."""

REPORT_EXAMPLES = {
    AUDIT_FORMATS: "junit=audit.xml",
    EXPLAIN_FORMATS: "markdown=why.md",
    EXEMPLARS_FORMATS: "csv=exemplars.csv",
}
"""For who has given something else."""


def _not_a_report(value: str, formats: tuple[str, ...]) -> str | None:
    kind, equals, file = value.partition("=")
    if not equals or not file:
        return f"'{value}' is not FORMAT=FILE, e.g. {REPORT_EXAMPLES[formats]}"
    if kind not in formats:
        return f"'{kind}' is not one of {', '.join(formats)}"
    return None


def _report(formats: tuple[str, ...]) -> Any:
    """The option ``--report`` of a command that has these formats."""
    return option(
        (),
        "FORMAT=FILE: also write the result to a file, as any of the formats; may be repeated.",
        OUTPUT,
        repeatable=True,
        rule=partial(_not_a_report, formats=formats),
    )


def _sparse_model() -> Any:
    """The argument of a command that looks at a sparse model."""
    return option(
        None,
        "Sparse model. [default: the newest mitigated, else the newest pruned one in the "
        "current folder]",
        MODEL,
        positional=True,
    )


def _its_dense_model() -> Any:
    """The option ``--dense`` of such a command."""
    return option(
        None,
        "Where the dense model lies that the sparse one was made from.",
        MODEL,
        shown="where the file names it",
    )


def _split() -> Any:
    """The option ``--split`` of a command that describes one."""
    return option(
        "test", "Split whose images are looked at.", DATA, choices=("train", "val", "test")
    )


PICTURES_SHOWN = "24; 0 where the environment variable CI is set"


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Compare a dense with a sparse model by group, on the same images."""

    checkpoint: str | None = _sparse_model()
    dense: str | None = _its_dense_model()
    baseline: str | None = option(
        None,
        "Another model to compare with, on purpose; reports say so. The two may see the images in "
        "different sizes.",
        MODEL,
        shown="none",
    )
    candidate: str | None = option(
        None, "Sparse model, where it is not given as FILE.", MODEL, shown="FILE"
    )
    predictions: str | None = option(
        None,
        "Answers of two models in place of the models: a .csv, .parquet or .npz with the columns "
        "id, label, split, dense, sparse and groups.",
        DATA,
        shown="none",
    )
    cluster_id: str | None = option(
        None,
        "Column that tells which images belong together, e.g. the person in them; bounds are "
        "widened for it, and are approximate then.",
        DATA,
        shown="every image counts for itself",
    )
    forbid_duplicates: bool = option(
        False,
        "Refuse images that are byte for byte in an earlier split, too; else they are counted, "
        "listed and warned of.",
        DATA,
    )
    reevaluate: bool = option(
        False, "Evaluate both models anew, even where their answers were kept.", RUN
    )
    eps: float | None = option(
        None,
        "Largest excess accuracy gap allowed, a fraction: 0.02 is 2 points.",
        METHOD,
        unit=POINTS,
        low=0,
        high=1,
        shown="the model's, else 0.02",
    )
    gate: str = option(
        "evidence",
        "What makes the audit fail: a violation that is shown (evidence); any group that is not "
        "shown to satisfy (strict); a measured psi beyond eps, the paper's criterion (point).",
        METHOD,
        choices=("evidence", "strict", "point"),
    )
    alpha: float = option(
        0.05,
        "Error level of a PASS, and of all FAILs together.",
        METHOD,
        above=0,
        below=0.5,
    )
    interval: str = option(
        "score",
        "Bounds of psi: score holds alpha nominally, exact never exceeds it.",
        METHOD,
        choices=("score", "exact"),
    )
    against: str = option(
        "overall",
        "What a group's gap is compared with: that of all images, or of all others (rest), which "
        "does not shrink with the group's share.",
        METHOD,
        choices=("overall", "rest"),
    )
    control: tuple[str, ...] = option(
        (),
        "Columns within whose levels groups are compared, too, e.g. age or age,light (crossed); "
        "described only. They make no groups unless --groups-by says so.",
        METHOD,
        shown="none",
    )
    max_drop: float | None = option(
        None,
        "Largest loss of accuracy over all images, a fraction.",
        METHOD,
        unit=POINTS,
        low=0,
        high=1,
        shown="no bound",
    )
    min_accuracy: float | None = option(
        None,
        "Smallest accuracy of the sparse model in any group.",
        METHOD,
        unit=PERCENT,
        low=0,
        high=1,
        shown="no bound",
    )
    min_coverage: float = option(
        0.5,
        "Share of the images that must lie in groups with a verdict, or the audit decides nothing "
        "(exit 3).",
        METHOD,
        unit=PERCENT,
        low=0,
        high=1,
    )
    gate_splits: tuple[str, ...] = option(
        ("test",),
        "Splits that the verdict rests on; those that a model was fitted or chosen on are refused.",
        METHOD,
        choices=("train", "val", "test"),
    )
    plan: bool = option(
        False,
        "Run no model: show from the CSV alone which groups could be decided, and how many images "
        "the others need.",
        METHOD,
    )
    plan_churn: tuple[float, ...] = option(
        (0.02, 0.05, 0.1),
        "Shares of the images on which one of the models alone is right, assumed by --plan.",
        METHOD,
        above=0,
        high=1,
        shown="0.02,0.05,0.1",
    )
    overrides: tuple[Override, ...] = option(
        (),
        "Groups with an eps of their own, each {feature, value, eps}.",
        METHOD,
        read=read_overrides,
    )
    required_groups: tuple[Group, ...] = option(
        (),
        "Groups that must PASS whatever the gate, each {feature, value}.",
        METHOD,
        read=read_required,
    )
    waivers: tuple[Waiver, ...] = option(
        (),
        "Violations that are accepted for a while, each {feature, value, eps, reason, expires}, "
        "and owner if you like.",
        METHOD,
        read=read_waivers,
    )

    format: str = option("text", "What is printed.", OUTPUT, choices=AUDIT_FORMATS)
    report: tuple[str, ...] = _report(AUDIT_FORMATS)
    gallery: int | None = option(
        None,
        "Images lost to the sparse model that are shown on the HTML page, and so copied into it, "
        "from the worst groups; 0 shows none.",
        OUTPUT,
        low=0,
        high=200,
        shown=PICTURES_SHOWN,
    )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Describe by group why pruning costs what it costs: gradients, curvature and margins.

    At the dense model, by the quantities of Tran et al. 2022, with the change of loss that they
    predict beside the one that is measured. Nothing of it is a verdict.
    """

    checkpoint: str | None = _sparse_model()
    dense: str | None = _its_dense_model()
    baseline: str | None = option(
        None, "Another dense model in its place, on purpose.", MODEL, shown="none"
    )
    split: str = _split()
    max_images_per_group: int = option(
        512,
        "Images of a group that losses, gradients and curvature are taken on, drawn by --seed; 0 "
        "takes all.",
        METHOD,
        low=0,
    )
    tol: float = option(
        0.01,
        "Residual of a largest eigenvalue, as a fraction of it, that ends Lanczos' method.",
        METHOD,
        above=0,
        below=1,
    )
    max_iterations: int = option(
        100, "Hessian-vector products a group after which it ends without that.", METHOD, low=1
    )
    output: str | None = option(
        None,
        "Folder for explanation.json and explanation.html.",
        OUTPUT,
        flags=("-o",),
        shown="the sparse model's run folder, where the audit has its reports",
    )
    format: str = option("text", "What is printed.", OUTPUT, choices=EXPLAIN_FORMATS)
    report: tuple[str, ...] = _report(EXPLAIN_FORMATS)


@dataclass(frozen=True, kw_only=True)
class ExemplarsOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Find the images that several dense and several sparse models answer differently.

    They are the pruning identified exemplars of Hooker et al. 2019, with their rate by group, and
    Welch's test of each group's excess gap over the models. Nothing of it is a verdict.
    """

    files: tuple[str, ...] = option(
        (),
        "Sparse models, e.g. seed-*/model.pruned.safetensors.",
        MODEL,
        positional=True,
        repeatable=True,
    )
    sparse: tuple[str, ...] = option(
        (),
        "Sparse model, where it is not given as FILE; may be repeated.",
        MODEL,
        repeatable=True,
    )
    dense: tuple[str, ...] = option(
        (),
        "Dense model; may be repeated.",
        MODEL,
        repeatable=True,
        shown="those that the sparse ones name",
    )
    predictions: tuple[str, ...] = option(
        (),
        "Answers of a dense and a sparse model in place of models, as ceag audit --predictions "
        "takes them or keeps them (predictions.npz); may be repeated, for several of either.",
        DATA,
        repeatable=True,
        shown="none",
    )
    split: str = _split()
    cluster_id: str | None = option(
        None,
        "Column that tells which images belong together, e.g. the person in them; bounds are "
        "widened for it, and are approximate then.",
        DATA,
        shown="every image counts for itself",
    )
    reevaluate: bool = option(
        False, "Evaluate all models anew, even where their answers were kept.", RUN
    )
    alpha: float = option(
        0.05,
        "Error level of each bound, and of what is said to be shown of any group, together.",
        METHOD,
        above=0,
        below=0.5,
    )
    interval: str = option(
        "score",
        "Bounds of a group's rate beside that of all images: score holds alpha nominally, exact "
        "never exceeds it.",
        METHOD,
        choices=("score", "exact"),
    )
    output: str | None = option(
        None,
        "Folder for exemplars.json and exemplars.html.",
        OUTPUT,
        flags=("-o",),
        shown="exemplars.run",
    )
    format: str = option("text", "What is printed.", OUTPUT, choices=EXEMPLARS_FORMATS)
    report: tuple[str, ...] = _report(EXEMPLARS_FORMATS)
    gallery: int | None = option(
        None,
        "Images shown on the HTML page, and so copied into it, the clearest ones; 0 shows none.",
        OUTPUT,
        low=0,
        high=200,
        shown=PICTURES_SHOWN,
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions(DataOptions, ArchitectureOptions, RunOptions):
    """Write a model as ONNX, which ONNX Runtime and OpenVINO run; compared with PyTorch.

    On images of noise, or with --groups on the CSV's test images. Needs 'ceag[onnx]'.
    """

    checkpoint: str | None = option(
        None,
        "Model to export. [default: the newest mitigated, else pruned, else dense one in the "
        "current folder]",
        MODEL,
        positional=True,
    )
    output: str | None = option(
        None,
        "File to write, or a folder ending in / for model.onnx.",
        OUTPUT,
        flags=("-o",),
        shown="beside the input",
    )
