"""A plan of an audit as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ceag_cli.findings import REFERENCE
from ceag_cli.inert import printable
from ceag_cli.planning import HARDLY, PARTLY, POWER, TOO_SMALL, GroupPlan, Need, Plan
from ceag_cli.sizes import is_missing
from ceag_cli.texttables import aligned


def document(found: Plan, version: str) -> dict[str, Any]:
    """A plan as JSON."""
    sizes, policy = found.sizes, found.policy
    return {
        "schema_version": 1,
        "tool": "ceag",
        "version": version,
        "command": "groups",
        "groups_file": sizes.file,
        "groups_file_sha256": sizes.sha256,
        "eps": policy.eps,
        "alpha": policy.alpha,
        "interval": policy.interval,
        "against": policy.against,
        "sources": dict(policy.sources),
        "power": POWER,
        "churn": list(found.churn),
        "splits": [
            {"split": split, "gated": split in found.gated, "n": n}
            for split, n in sizes.total.items()
        ],
        "features": [
            {
                "feature": feature,
                "groups": sum(not is_missing(value) for value in values),
                "missing": dict(sizes.missing.get(feature, dict.fromkeys(sizes.total, 0))),
            }
            for feature, values in zip(sizes.grouping.features, sizes.grouping.values, strict=True)
        ],
        "sizes": [
            {
                "feature": feature,
                "value": value,
                "n": {split: int(counts[g]) for split, counts in sizes.by_group.items()},
            }
            for g, (feature, value) in enumerate(sizes.grouping.names)
        ],
        "groups": [_group(group, found.churn) for group in found.groups],
        "notes": list(found.notes),
    }


def _group(group: GroupPlan, churn: Sequence[float]) -> dict[str, Any]:
    # vars(), since asdict() copies everything below as well: of 10,000 groups it takes seconds.
    return vars(group) | {
        "smallest": vars(group.smallest),
        "needed": [
            {"churn": share} | vars(need) for share, need in zip(churn, group.needed, strict=True)
        ],
    }


def lines(found: Plan) -> list[str]:
    """A plan as text: a table per gated split and feature, smallest groups first."""
    sizes, policy = found.sizes, found.policy
    per_split = ", ".join(f"{n} {split}" for split, n in sizes.total.items())
    text = [
        f"{sizes.file}: {per_split} images",
        policy.origin_line(also=("alpha", "interval")),
    ]
    size_of = {
        (split, name): int(counts[g])
        for split, counts in sizes.by_group.items()
        for g, name in enumerate(sizes.grouping.names)
    }
    alike = False
    for split in found.gated:
        for feature in sizes.grouping.features:
            groups = [g for g in found.groups if (g.split, g.feature) == (split, feature)]
            others = [name for name in sizes.total if name != split]
            heads = ["unchanged", *(f"churn {100 * share:g}%" for share in found.churn)]
            rows = [[printable(feature), *others, split, *heads, ""]]
            for group in sorted(groups, key=lambda g: (g.n, g.value)):
                name = (group.feature, group.value)
                whole = group.status == REFERENCE
                needs = [group.smallest, *group.needed]
                alike |= not whole and any(n.n is not None and n.grows == "split" for n in needs)
                rows.append(
                    [
                        printable(group.value),
                        *(str(size_of.get((other, name), 0)) for other in others),
                        str(group.n),
                        *("" if whole else _shown(need) for need in needs),
                        _words(group),
                    ]
                )
            text += ["", *aligned(rows, left=(0, -1))]
    text += [
        "",
        "unchanged: images that a group needs to PASS if nothing changed; with fewer it cannot.",
        f"churn: images for a PASS in {POWER:.0%} of cases, if psi is 0 and one of the models "
        "alone is right on that share.",
        *_meanings(found.groups),
    ]
    if alike:
        text.append("*: if all groups grow alike; alone it would outgrow all others together.")
    return [*text, *found.notes]


_MEANINGS = {
    TOO_SMALL: "too small: cannot PASS even if no answer changes; it takes more images or a larger "
    "eps.",
    HARDLY: "hardly: can PASS, yet at none of these churns in so many cases.",
    PARTLY: "up to: the largest of these churns at which the test images are enough.",
}


def _meanings(groups: Sequence[GroupPlan]) -> list[str]:
    """What the last column says, where it does not speak for itself."""
    statuses = {group.status for group in groups}
    return [text for status, text in _MEANINGS.items() if status in statuses]


def _words(group: GroupPlan) -> str:
    words = group.status.replace("_", " ")
    if group.status == PARTLY and group.decidable_to is not None:
        words = f"up to {100 * group.decidable_to:g}%"
    own = "" if not group.required else ", required"
    return words + own


def _shown(need: Need) -> str:
    if need.n is None:
        return "never"
    return f"{need.n}{'*' if need.grows == 'split' else ''}"
