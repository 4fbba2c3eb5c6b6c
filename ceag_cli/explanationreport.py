"""What an explanation says, line by line and as a part of a page. All of it returns text.

Losses stay in nats and margins in logits; psi becomes percentage points here and nowhere earlier.
"""

from __future__ import annotations

from collections.abc import Callable

from ceag_cli.association import FEWEST, smallest_p
from ceag_cli.explanations import (
    QUANTITIES,
    TARGETS,
    Correlation,
    Explanation,
    FeatureExplanation,
    GroupExplanation,
)
from ceag_cli.inert import printable
from ceag_cli.report import percent, points
from ceag_cli.templates import template

CAVEAT = (
    "This describes the neighbourhood of the dense model; it is no cause that was tested and no "
    "verdict. The bound and both predictions leave out what grows as the third power of the "
    "distance, so that after fine-tuning at high sparsity they can be far from what is measured."
)


def number(value: float | None) -> str:
    """Three significant digits: ``0.01234`` → ``0.0123``; nothing known → ``–``."""
    return "–" if value is None else f"{value:z.3g}"


def signed(value: float | None) -> str:
    """The same with its sign."""
    return "–" if value is None else f"{value:+z.3g}"


def pair(dense: float | None, sparse: float | None) -> str:
    """``2.1 → 1.4``: in the dense and in the sparse model."""
    return "–" if dense is None else f"{number(dense)} → {number(sparse)}"


def eigenvalue(group: GroupExplanation) -> str:
    """The largest eigenvalue, with a star where Lanczos' method has not converged."""
    star = "" if group.converged or group.largest_eigenvalue is None else "*"
    return number(group.largest_eigenvalue) + star


Column = tuple[str, Callable[[GroupExplanation], str]]


def columns_of(found: Explanation) -> list[Column]:
    """Names and contents of a table of groups; what buffers do only where they differ."""
    columns: list[Column] = [
        ("n", lambda g: str(g.n) if g.used == g.n else f"{g.used} of {g.n}"),
        ("loss", lambda g: pair(g.loss_dense, g.loss_sparse)),
        ("change", lambda g: signed(g.loss_change)),
    ]
    if found.buffers_differ:
        columns += [
            ("by weights", lambda g: signed(g.change_by_weights)),
            ("by buffers", lambda g: signed(g.change_by_buffers)),
        ]
    return [
        *columns,
        ("1st order", lambda g: signed(g.first_order)),
        ("2nd order", lambda g: signed(g.second_order)),
        ("||g||", lambda g: number(g.gradient_norm)),
        ("lambda", eigenvalue),
        (
            "bound: gradient + curvature",
            lambda g: (
                "–"
                if g.bound is None
                else f"{number(g.bound_gradient)} + {number(g.bound_curvature)}"
            ),
        ),
        ("margin", lambda g: pair(g.margin_dense, g.margin_sparse)),
        ("p(1-p)", lambda g: pair(g.closeness_dense, g.closeness_sparse)),
        ("psi", lambda g: points(g.excess_gap)),
    ]


def headline(found: Explanation) -> str:
    """How far the weights have moved, on which images."""
    share = f" ({percent(found.distance / found.norm_dense)} % of theirs)" * bool(found.norm_dense)
    cap = found.max_images_per_group
    drawn = any(group.used < group.n for group in found.groups)
    of = f", at most {cap} images a group, drawn by seed {found.seed}" if drawn else ""
    return (
        f"{found.split}: {found.n} images{of}. From the dense to the sparse model {found.weights} "
        f"weights move by ||d|| = {number(found.distance)}, at a norm of "
        f"{number(found.norm_dense)}{share}."
    )


def notes(found: Explanation) -> list[str]:
    """What has to be known to read the numbers."""
    lines = []
    if found.buffers_differ:
        lines.append(
            "Buffers (BatchNorm's statistics) differ between the models: predicted is what the "
            "sparse weights do with the dense model's buffers ('by weights'); 'by buffers' is what "
            "the sparse model's do with the dense weights. They do not add up to the change."
        )
    open_ = [g for g in found.groups if g.used and not g.converged]
    if open_:
        lines.append(
            f"*: not within the tolerance {found.tolerance:g} after {found.max_iterations} "
            f"Hessian-vector products ({len(open_)} group{'s' if len(open_) > 1 else ''}); the "
            "largest eigenvalue may be larger (--max-iterations)."
        )
    if any(g.used and g.loss_change is None for g in found.groups):
        lines.append("–: the loss is not finite.")
    return lines


def feature_lines(feature: FeatureExplanation) -> list[str]:
    """How far the groups of a feature are apart, and how well that is predicted."""
    if not feature.groups:
        return [f"{printable(feature.feature)}: no group has images"]
    count = f"{feature.groups} group{'s' if feature.groups > 1 else ''}"
    lines = [
        f"{printable(feature.feature)}: {count}, changes of loss {number(feature.loss_gap)} nats "
        "apart"
    ]
    if feature.error_second_order is not None:
        lines.append(
            f"predictions miss by {percent(feature.error_first_order)} % (first order) and "
            f"{percent(feature.error_second_order)} % (second order) of what the weights change; "
            "100 % is no better than to predict no change"
        )
    if feature.groups < FEWEST:
        lines.append(f"no rank correlation: it takes {FEWEST} groups")
    return lines


def correlation_rows(feature: FeatureExplanation) -> list[list[str]]:
    """A table of rank correlations, its head first; empty for fewer than three groups."""
    if feature.groups < FEWEST:
        return []
    found = {(c.quantity, c.target): correlation(c) for c in feature.correlations}
    targets = [target for target in TARGETS if any(target == known for _, known in found)]
    head = ["rank correlation", *(f"with {TARGETS[target]}" for target in targets)]
    rows = [
        [name, *(found[quantity, target] for target in targets)]
        for quantity, name in QUANTITIES.items()
    ]
    return [head, *rows]


def correlation(found: Correlation) -> str:
    """``+0.83 (p 0.01)``."""
    if found.rho is None or found.p is None:
        return "–"
    return f"{found.rho:+z.2f} (p {found.p:.2g})"


def few(feature: FeatureExplanation) -> str:
    """How much the correlations of so many groups are worth."""
    count = sum(c.p is not None for c in feature.correlations)
    if not count:
        return "no rank correlation: the groups do not differ in what is to be compared"
    words = f"Spearman's; each p is for itself, of {count}; one in twenty is below 0.05 by chance"
    least = smallest_p(feature.groups)
    if least > 0.05:
        words = (
            f"{feature.groups} groups can show no correlation: even a perfect one has p {least:.2g}"
        )
    elif feature.groups < 10:
        words += f"; with {feature.groups} groups only very strong ones are told from chance"
    return words


def brief_lines(found: Explanation) -> list[str]:
    """A few lines for the text of an audit."""
    grown = [g for g in found.worst_first() if g.loss_change is not None][:1]
    most = [f"most in {printable(g.name)}: {signed(g.loss_change)} nats" for g in grown]
    lines = [f"why (ceag explain): {headline(found)}"]
    return lines + [f"  loss grows {line}" for line in most]


def explanation_html(found: Explanation) -> str:
    """The part of a page about an explanation; names are escaped."""
    part = template("explanation.html.jinja", printable=printable)
    return part.render(
        lines=[headline(found), *notes(found)],
        columns=columns_of(found),
        groups=found.worst_first(),
        caveat=CAVEAT,
        features=[(feature_lines(f), correlation_rows(f), few(f)) for f in found.features],
        split=found.split,
    )
