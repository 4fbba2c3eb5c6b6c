"""An explanation: what the dense model's loss looks like for each group, and what follows from it.

Tran, Fioretto, Kim and Naidu, *Pruning has a disparate impact on model accuracy* (NeurIPS 2022),
theorem 1: for a group a with mean loss J_a, its gradient g_a and Hessian H_a at the dense weights
theta, and sparse weights theta' = theta + d,

    R(a) = J_a(theta') - J_a(theta) <= ||g_a|| ||d|| + 1/2 lambda_max(H_a) ||d||^2 + O(||d||^3).

The bound knows only how far the weights have moved. In which direction is known here as well, so
that the same expansion predicts the change itself: g_a . d to first order, g_a . d + 1/2 d' H_a d
to second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ceag_cli import strictjson
from ceag_cli.arrays import Numbers
from ceag_cli.association import RankCorrelation, rank_correlation
from ceag_cli.companions import companion, other_groups
from ceag_cli.findings import Subject


@dataclass(frozen=True)
class GroupExplanation:
    """One group. Losses are means of the cross-entropy in nats over the images used.

    ``None`` where there is nothing to say: a group without images, or outputs that are no numbers.
    """

    feature: str
    value: str
    n: int
    """Images in the split."""
    used: int
    """Images drawn, which everything but psi is about."""
    loss_dense: float | None = None
    loss_sparse: float | None = None
    loss_change: float | None = None
    """Sparse less dense: the excessive loss R(a)."""
    change_by_weights: float | None = None
    """Of it, what the sparse weights do with the dense model's buffers: what is predicted."""
    change_by_buffers: float | None = None
    """What the sparse model's buffers do with the dense weights. The two do not add up to the
    whole, since each was made for its partner."""
    excess_gap: float | None = None
    """psi, over all images of the split, a fraction."""
    gradient_norm: float | None = None
    """||g||, nats per unit of weight."""
    largest_eigenvalue: float | None = None
    """Of the Hessian, algebraically."""
    smallest_eigenvalue: float | None = None
    """From above, and no closer than it has become on the way to the largest."""
    residual: float | None = None
    """Distance within which the largest eigenvalue found has a true one."""
    iterations: int = 0
    """Hessian-vector products that it took."""
    converged: bool = False
    """Whether the residual is within the tolerance."""
    bound_gradient: float | None = None
    """||g|| ||d||, nats."""
    bound_curvature: float | None = None
    """1/2 lambda ||d||^2, nats."""
    bound: float | None = None
    """Both together."""
    first_order: float | None = None
    """g . d, nats."""
    second_order: float | None = None
    """g . d + 1/2 d' H d, nats."""
    margin_dense: float | None = None
    """Mean of the label's logit less the largest other (``margins.margins``)."""
    margin_sparse: float | None = None
    closeness_dense: float | None = None
    """Mean of p (1 - p) of the predicted class (``margins.closeness``), 0 to 1/4."""
    closeness_sparse: float | None = None

    @property
    def name(self) -> str:
        """``feature=value``."""
        return f"{self.feature}={self.value}"


QUANTITIES = {
    "gradient_norm": "gradient norm",
    "largest_eigenvalue": "largest eigenvalue",
    "bound": "bound",
    "first_order": "first order",
    "second_order": "second order",
    "loss_dense": "loss of the dense model",
    "margin_dense": "margin in the dense model",
    "closeness_dense": "p(1-p) in the dense model",
}
"""What is known before a group has lost anything, with its name."""

TARGETS = {
    "loss_change": "change of loss",
    "change_by_weights": "change by weights",
    "excess_gap": "psi",
}
"""What is measured, with its name."""


@dataclass(frozen=True)
class Correlation:
    """How a quantity orders the groups of a feature, beside what is measured."""

    quantity: str
    """One of ``QUANTITIES``."""
    target: str
    """One of ``TARGETS``."""
    n: int
    rho: float | None
    """Spearman's rank correlation; ``None`` for fewer than three groups, or no differences."""
    p: float | None
    """Two-sided, by itself: nothing is corrected for how many of them there are."""


@dataclass(frozen=True)
class FeatureExplanation:
    """The groups of one feature together. Groups of different features share images."""

    feature: str
    groups: int
    """Groups that have images."""
    loss_gap: float | None
    """Largest less smallest change of loss: the fairness gap of Tran et al."""
    error_first_order: float | None
    """Sum over groups of |predicted - measured change by weights| over that of |measured|: 0 is
    exact, 1 is no better than to predict no change."""
    error_second_order: float | None
    correlations: tuple[Correlation, ...]


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found in a split."""

    split: str
    n: int
    """Images of the split."""
    max_images_per_group: int
    """0 takes all."""
    seed: int
    tolerance: float
    """Relative residual at which Lanczos' method ends."""
    max_iterations: int
    weights: int
    """Number of weights P that theta consists of."""
    norm_dense: float
    """||theta||."""
    distance: float
    """||d||: how far the sparse model's weights are from the dense model's."""
    buffers_differ: bool
    """Whether the models differ in anything else, as in BatchNorm's statistics."""
    groups: tuple[GroupExplanation, ...]
    features: tuple[FeatureExplanation, ...]

    def worst_first(self) -> list[GroupExplanation]:
        """Groups by how much their loss grows; those without images last."""
        return sorted(
            self.groups,
            key=lambda g: (g.loss_change is None, -(g.loss_change or 0.0), g.feature, g.value),
        )


def features_of(
    groups: Sequence[GroupExplanation], buffers_differ: bool
) -> tuple[FeatureExplanation, ...]:
    """What the groups of each feature say together, in the order of the features.

    Args:
        groups: Of all features.
        buffers_differ: Without that, the change by weights is the change of loss, and is left out.
    """
    found = []
    for feature in dict.fromkeys(group.feature for group in groups):
        own = [group for group in groups if group.feature == feature and group.used]
        targets = [t for t in TARGETS if buffers_differ or t != "change_by_weights"]
        changes = [group.loss_change for group in own if group.loss_change is not None]
        found.append(
            FeatureExplanation(
                feature=feature,
                groups=len(own),
                loss_gap=max(changes) - min(changes) if changes else None,
                error_first_order=_error(own, "first_order"),
                error_second_order=_error(own, "second_order"),
                correlations=tuple(
                    _correlation(own, quantity, target)
                    for target in targets
                    for quantity in QUANTITIES
                ),
            )
        )
    return tuple(found)


def _column(groups: Sequence[GroupExplanation], name: str) -> Numbers:
    values = (getattr(group, name) for group in groups)
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _correlation(groups: Sequence[GroupExplanation], quantity: str, target: str) -> Correlation:
    found: RankCorrelation = rank_correlation(_column(groups, quantity), _column(groups, target))
    return Correlation(quantity, target, found.n, found.rho, found.p)


def _error(groups: Sequence[GroupExplanation], predicted: str) -> float | None:
    measured, guess = _column(groups, "change_by_weights"), _column(groups, predicted)
    both = np.isfinite(measured) & np.isfinite(guess)
    whole = float(np.abs(measured[both]).sum())
    return float(np.abs(guess - measured)[both].sum()) / whole if whole else None


# As JSON


def explanation_document(found: Explanation) -> dict[str, Any]:
    """As JSON; fractions, never percent; ``null`` where nothing is known."""
    plain = asdict(found)
    plain["groups"] = list(plain["groups"])
    plain["features"] = [
        feature | {"correlations": list(feature["correlations"])} for feature in plain["features"]
    ]
    return plain


def explanation_from(plain: Mapping[str, Any]) -> Explanation:
    """The explanation that a document holds.

    Raises:
        ValueError: It is none of this version.
    """
    return strictjson.record(Explanation, plain, "the explanation")


KEPT = "explanation.json"

SCHEMA_VERSION = 1
"""Of what ``explain`` says with ``--format json``, and of what it keeps."""


def kept_explanation(folder: Path, subject: Subject) -> tuple[Explanation | None, str | None]:
    """The explanation that lies beside an audit's reports, if it is of the same files.

    Args:
        folder: The run folder.
        subject: The models and groups that the audit is about.

    Returns:
        The explanation, or ``None`` and, where there is a file all the same, why it is not taken.
    """

    def read(document: Mapping[str, Any]) -> tuple[Explanation, list[str]]:
        models = strictjson.mapping(document["models"], "models")
        digests = {
            role: strictjson.mapping(models[role], f"the {role} model")["sha256"]
            for role in ("dense", "sparse")
        }
        pairs = {
            "another dense model": (digests["dense"], subject.dense_sha256),
            "another sparse model": (digests["sparse"], subject.sparse_sha256),
        }
        other = [name for name, (one, two) in pairs.items() if one != two]
        found = explanation_from(document["explanation"])
        return found, other + other_groups(document, subject)

    return companion(folder / KEPT, "explanation", "explain", SCHEMA_VERSION, read)


@dataclass(frozen=True)
class Explained:
    """What ``explain`` found, about which files, and where the page is."""

    explanation: Explanation
    subject: Subject
    document: dict[str, Any]
    """The JSON document."""
    page: Path
    version: str
    """Of ceag."""
