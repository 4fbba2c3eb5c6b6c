"""What ``ceag exemplars`` finds: the images, their rate by group, and Welch's test of each group.

Two kinds of chance are kept apart. Rates of images have bounds for other images, the models being
what they are. psi has bounds for other models trained alike, the images being what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ceag_cli import strictjson
from ceag_cli.companions import companion, other_groups
from ceag_cli.findings import Subject
from ceag_cli.means import Bounded
from ceag_cli.populations import Populations

MOST_LISTED = 10_000
"""Images that the JSON document lists; the CSV has all."""


@dataclass(frozen=True, slots=True)
class Pie:
    """One image."""

    id: str
    label: str
    dense: tuple[str, ...]
    """The modal label of the dense models; several where they are tied."""
    sparse: tuple[str, ...]
    votes_dense: int
    """Dense models that give it (each of them)."""
    votes_sparse: int
    margin: float
    """How clearly the populations disagree, above 0 to 1 (``modes.Identified``)."""
    groups: tuple[str, ...]
    """``feature=value``, one for each feature."""


@dataclass(frozen=True, slots=True)
class GroupPies:
    """One group. ``None``: there is nothing to say."""

    feature: str
    value: str
    n: int
    count: int
    """Images of it that are identified."""
    rate: Bounded | None
    """Share of its images."""
    excess: Bounded | None
    """The rate less that of all images."""
    p: float | None
    """Of "its rate is at most that of all images"."""
    p_holm: float | None
    """Corrected for the number of groups."""
    rate_by_chance: float | None
    """The rate if it made no difference which models are the sparse ones (``modes.by_dealing``)."""
    acc_dense: float | None
    """Mean over the dense models."""
    acc_sparse: float | None
    excess_gap: Bounded | None
    """Mean psi; its bounds are over models, by Welch's test."""
    t: float | None
    degrees_of_freedom: float | None
    p_welch: float | None
    """Of "the mean psi is 0", two-sided."""
    p_welch_holm: float | None
    models_needed: int | None
    """So many models in each population, like these, would show that psi is not 0."""

    @property
    def name(self) -> str:
        """``feature=value``."""
        return f"{self.feature}={self.value}"


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over the models of a population; ``None`` without any such image."""

    overall: float
    on_identified: float | None
    on_others: float | None


@dataclass(frozen=True)
class Pies:
    """What was found in a split."""

    split: str
    modal: bool
    """Whether there are models enough to speak of modal labels, and so of PIEs. With fewer, the
    same is called disagreements."""
    models_dense: int
    models_sparse: int
    n: int
    count: int
    rate: Bounded | None
    by_chance: float | None
    """How many there would be if it made no difference which models are the sparse ones;
    ``None`` where there are too few models for that."""
    p_by_chance: float | None
    deals: int | None
    """Ways to deal the models that these two are of."""
    within_pairs: bool | None
    tied_dense: int
    """Images with several modal labels in the dense population."""
    tied_sparse: int
    count_largest_label: int
    """Identified images if the largest number won every tie, as in the code of the paper."""
    dense: Accuracy
    sparse: Accuracy
    dense_right: int
    """Identified images whose modal label in the dense population is the true one; it never is in
    both. Of tied labels one has to be."""
    sparse_right: int
    neither_right: int
    alpha: float
    interval: str
    clustered: bool
    groups_tested: int
    """Number of distinct groups that p_holm is corrected for."""
    groups_tested_welch: int
    groups: tuple[GroupPies, ...]
    images: tuple[Pie, ...]
    """The clearest first."""

    def worst_first(self) -> list[GroupPies]:
        """Groups by the lower bound of their excess rate; those without images last."""

        def key(group: GroupPies) -> tuple[bool, float, str, str]:
            excess = group.excess
            lower = 0.0 if excess is None or excess.lower is None else excess.lower
            return excess is None, -lower, group.feature, group.value

        return sorted(self.groups, key=key)


# As JSON


def pies_document(found: Pies) -> dict[str, Any]:
    """As JSON; fractions, never percent; ``null`` where nothing is known."""
    plain = asdict(found)
    plain["groups"] = list(plain["groups"])
    listed = found.images[:MOST_LISTED]
    plain["images"] = [
        asdict(image) | {name: list(getattr(image, name)) for name in ("dense", "sparse", "groups")}
        for image in listed
    ]
    return plain | {"images_left_out": len(found.images) - len(listed)}


def pies_from(plain: Any) -> Pies:
    """What a document holds, with as many images as it lists.

    Raises:
        ValueError: It is none of this version; with the place in it and the value.
    """
    found = strictjson.mapping(plain, "the exemplars")
    fields = {name: value for name, value in found.items() if name != "images_left_out"}
    return strictjson.record(Pies, fields, "the exemplars")


KEPT = "exemplars.json"

SCHEMA_VERSION = 1
"""Of what ``exemplars`` says with ``--format json``, and of what it keeps."""


def kept_pies(folder: Path, subject: Subject) -> tuple[Pies | None, str | None]:
    """The exemplars that lie beside an audit's reports, if its models are among the populations.

    Args:
        folder: The run folder.
        subject: The models and groups that the audit is about.

    Returns:
        What was found, or ``None`` and, where there is a file all the same, why it is not taken.
    """

    def read(document: Mapping[str, Any]) -> tuple[Pies, list[str]]:
        models = strictjson.mapping(document["models"], "models")
        digests = {"dense": subject.dense_sha256, "sparse": subject.sparse_sha256}
        other = [
            f"other {role} models"
            for role, digest in digests.items()
            if digest not in _digests(models[role], f"the {role} models")
        ]
        found = pies_from(document["exemplars"])
        return found, other + other_groups(document, subject)

    return companion(folder / KEPT, "exemplars", "exemplars", SCHEMA_VERSION, read)


def _digests(models: Any, what: str) -> list[Any]:
    return [
        strictjson.mapping(model, f"one of {what}")["sha256"]
        for model in strictjson.listed(models, what)
    ]


@dataclass(frozen=True)
class Picture:
    """An image on the page."""

    pie: Pie
    thumbnail: str
    """Made small, as a data URI."""


@dataclass(frozen=True)
class Exemplars:
    """What ``ceag exemplars`` found, about which models, and where the page is."""

    pies: Pies
    populations: Populations
    document: dict[str, Any]
    """The JSON document."""
    page: Path
    version: str
    """Of ceag."""
    pictures: tuple[Picture, ...] = ()
    """A few of the clearest images."""
