"""What identified exemplars say, line by line and as a part of a page. All of it returns text.

Fractions become percentages and percentage points here and nowhere earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ceag_cli.inert import printable
from ceag_cli.modes import FEWEST
from ceag_cli.pies import GroupPies, Picture, Pie, Pies
from ceag_cli.report import bounded_percent, bounded_points, percent
from ceag_cli.templates import template

ADVISABLE = 10
"""Models of a kind from which on nothing is said about their number. The paper took 30."""

MOST_GROUPS = 25
MOST_IMAGES = 100
"""Rows of tables on the page; the JSON document and the CSV have more."""

CAVEAT = (
    "This describes; it is no verdict. Images on which models of one kind disagree among "
    "themselves are easily among these, and they are hard ones by the way they are found."
)


def kind(found: Pies, count: int = 2) -> str:
    """What the images are called."""
    word = "pruning identified exemplar" if found.modal else "disagreement"
    return word if count == 1 else f"{word}s"


def probability(value: float | None) -> str:
    """Two significant digits."""
    return "–" if value is None else f"{value:.2g}"


def models(found: Pies) -> str:
    """``5 dense and 5 sparse models``."""
    last = f"{found.models_sparse} sparse model{'s' if found.models_sparse > 1 else ''}"
    return f"{found.models_dense} dense and {last}"


def headline(found: Pies) -> str:
    """How many images there are."""
    what = "modal label" if found.modal else "label"
    return (
        f"{found.split}: {found.n} images, {models(found)}. {found.count} "
        f"{kind(found, found.count)}, {bounded_percent(found.rate)} % of the images: the "
        f"{what} of the dense models is another one than that of the sparse models."
    )


def lines(found: Pies) -> list[str]:
    """What has to be known beside the tables, in sentences."""
    said = [*_by_chance(found), _accuracy(found), *_right(found)]
    if found.tied_dense or found.tied_sparse:
        said.append(
            f"Several labels have the most votes for {found.tied_dense} images among the dense "
            f"models and for {found.tied_sparse} among the sparse ones; such an image counts only "
            "if none of these labels has the most votes among the others. If the largest class "
            f"number won ties, as in the code of the paper, {found.count_largest_label} images "
            "would count."
        )
    if not found.modal:
        said.append(
            f"With fewer than {FEWEST} models of a kind no label is modal, so that these are no "
            "pruning identified exemplars: other models would disagree on other images."
        )
    elif min(found.models_dense, found.models_sparse) < ADVISABLE:
        said.append(
            f"With so few models chance has a large part in it; {ADVISABLE} or more of each kind "
            "are advisable."
        )
    if all(group.p_welch is None for group in found.groups if group.n):
        said.append("No test of psi: it takes two models of each kind that are not all equal.")
    return said


def _by_chance(found: Pies) -> list[str]:
    if found.by_chance is None:
        return []
    how = "the two models of pairs exchanged" if found.within_pairs else "all models dealt anew"
    return [
        f"If it made no difference which models are the sparse ones, there would be "
        f"{found.by_chance:.1f} ({percent(found.by_chance / max(found.n, 1))} %); p "
        f"{probability(found.p_by_chance)} ({how}, {found.deals} ways)."
    ]


def _accuracy(found: Pies) -> str:
    parts = [
        f"{name} {percent(of.on_identified)} % on them, {percent(of.on_others)} % on all others, "
        f"{percent(of.overall)} % on all"
        for name, of in (("dense", found.dense), ("sparse", found.sparse))
    ]
    return f"Mean accuracy: {'; '.join(parts)}."


def _right(found: Pies) -> list[str]:
    if not found.count:
        return []
    what = "modal label" if found.modal else "label"
    return [
        f"The {what} of the dense models is right on {found.dense_right} of them, that of the "
        f"sparse models on {found.sparse_right}, neither on {found.neither_right}."
    ]


Column = tuple[str, Callable[[GroupPies], str]]


def columns_of(found: Pies) -> list[Column]:
    """Names and contents of a table of groups."""
    columns: list[Column] = [
        ("n", lambda g: str(g.n)),
        ("PIEs" if found.modal else "disagreements", lambda g: str(g.count)),
        ("rate %", lambda g: bounded_percent(g.rate)),
        ("excess", lambda g: bounded_points(g.excess)),
        ("p", lambda g: probability(g.p_holm)),
    ]
    if found.by_chance is not None:
        columns.append(("by chance %", lambda g: percent(g.rate_by_chance)))
    return [
        *columns,
        ("dense %", lambda g: percent(g.acc_dense)),
        ("sparse %", lambda g: percent(g.acc_sparse)),
        ("psi", lambda g: bounded_points(g.excess_gap)),
        ("p of psi", lambda g: probability(g.p_welch_holm)),
        ("models", lambda g: "–" if g.models_needed is None else str(g.models_needed)),
    ]


def legend(found: Pies) -> str:
    """What the columns of the table of groups are."""
    approximate = ", approximate since images belong together" if found.clustered else ""
    return (
        f"Excess: the rate less that of all images, in points. Bounds are one-sided at "
        f"{found.alpha:g}, each by itself: of rate and excess over images{approximate}; of psi, "
        'the mean excess accuracy gap, over models (Welch). p: of "the rate is at most that of '
        f'all images", corrected for {found.groups_tested} groups (Holm); p of psi: of "psi is '
        f'0", corrected for {found.groups_tested_welch}. Models: so many of each kind, like these, '
        "would show that psi is not 0."
    )


def image_rows(images: Sequence[Pie], found: Pies) -> list[list[str]]:
    """A table of images, its head first."""
    head = ["image", "label", "dense", "sparse", "margin", "groups"]
    return [head, *(_image_row(image, found) for image in images)]


def _image_row(image: Pie, found: Pies) -> list[str]:
    return [
        image.id,
        image.label,
        f"{voted(image.dense)} ({image.votes_dense}/{found.models_dense})",
        f"{voted(image.sparse)} ({image.votes_sparse}/{found.models_sparse})",
        f"{image.margin:.2f}",
        ", ".join(image.groups),
    ]


def voted(labels: Sequence[str]) -> str:
    """Labels that are tied: ``cat|dog``."""
    return "|".join(labels)


def brief_lines(found: Pies) -> list[str]:
    """A few lines for the text of an audit."""
    said = [f"exemplars (ceag exemplars): {headline(found)}"]
    worst = [g for g in found.worst_first() if g.p_holm is not None and g.p_holm <= found.alpha]
    if worst:
        named = "; ".join(f"{printable(g.name)} {bounded_percent(g.rate)} %" for g in worst[:3])
        more = f", and {len(worst) - 3} more" if len(worst) > 3 else ""
        said.append(f"  more often than in all images: {named}{more}")
    return said


def pies_html(found: Pies, pictures: Sequence[Picture] = ()) -> str:
    """The part of a page about exemplars; names are escaped."""
    part = template("pies.html.jinja", printable=printable, voted=voted)
    return part.render(
        found=found,
        title=f"{kind(found)[0].upper()}{kind(found)[1:]}",
        lines=[headline(found), *lines(found)],
        columns=columns_of(found),
        groups=found.worst_first(),
        legend=legend(found),
        caveat=CAVEAT,
        images=image_rows(found.images[:MOST_IMAGES], found),
        pictures=pictures,
        left_out=max(found.count - MOST_IMAGES, 0),
    )
