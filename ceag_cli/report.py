"""An audit as text, sentence by sentence, and as a table. Everything here returns; nothing prints.

Fractions become percentage points here and nowhere earlier.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

from rich.table import Table
from rich.text import Text

from ceag_cli.findings import (
    DESCRIPTIVE,
    FAIL,
    HIGH,
    IDENTICAL,
    INCONCLUSIVE,
    LOW,
    NO_DATA,
    PASS,
    REFERENCE,
    TOO_SMALL,
    WAIVED,
    AuditResult,
    Check,
    GroupResult,
    SplitResult,
)
from ceag_cli.inert import printable
from ceag_cli.options import flag
from ceag_cli.policy import Policy

MEANING = {
    PASS: "every audited group is shown to have psi <= eps",
    FAIL: "psi > eps is shown for at least one group",
    INCONCLUSIVE: "neither psi <= eps for every group nor psi > eps for any is shown",
    NO_DATA: "no group could be audited, so nothing is shown",
}
MEASURED = {
    PASS: "every audited group has a measured psi <= eps",
    FAIL: "the measured psi of at least one group is beyond eps",
}
CAVEAT = (
    "It is about excess accuracy gaps between these two models on images like these; it says "
    "nothing about whether the dense model itself is fair."
)


VERDICTS = (FAIL, WAIVED, INCONCLUSIVE, PASS, NO_DATA, REFERENCE, DESCRIPTIVE)
"""In the order in which they are counted."""

WHY = {
    HIGH: "{quantity} is above eps, but not shown to be",
    LOW: "{quantity} is at most eps, but not shown to be",
    TOO_SMALL: "too few images to pass even if no answer had changed",
}
SHORT = {HIGH: "high", LOW: "low", TOO_SMALL: "small"}

ROOMY = 90
"""Characters that most tables of an audit take with two between columns."""


def basis(result: AuditResult) -> str:
    """What the verdict rests on, in a sentence."""
    policy = result.policy
    if policy.gate == "point":
        return (
            "The measured values are compared with eps, as in the paper; the bounds play no part, "
            "and with few images per group psi is mostly sampling noise."
        )
    level = "exactly" if policy.interval == "exact" else "nominally"
    return (
        f"One-sided bounds at {policy.alpha:g} ({policy.interval} interval, {level}); FAIL is "
        f"corrected for {result.family_size} groups (Holm), PASS needs no correction"
        + (
            "; they are approximate, since images that belong together count as fewer."
            if result.clustered
            else "."
        )
    )


def percent(fraction: float | None) -> str:
    """``0.1234`` → ``12.3``; nothing known → ``–``."""
    return "–" if fraction is None else f"{100 * fraction:z.1f}"


def points(gap: float | None, eps: float | None = None) -> str:
    """A gap in points with its sign: ``0.0312`` → ``+3.1``.

    With ``eps``, as many digits as it takes to see on which side of it the gap lies.
    """
    if gap is None:
        return "–"
    text = f"{100 * gap:+z.1f}"  # z: no -0.0
    if eps is None:
        return text
    limit = 100 * Decimal(repr(eps))
    for digits in range(1, 17):
        text = f"{100 * gap:+z.{digits}f}"
        shown = Decimal(text)
        if (shown > limit, shown < limit) == (gap > eps, gap < eps):
            break
    return text


def tolerance(eps: float) -> str:
    """Eps in points, exactly: ``0.0206`` → ``2.06``."""
    return f"{(100 * Decimal(repr(eps))).normalize():f}"


def quantity(policy: Policy) -> str:
    """What is compared with eps, in words."""
    return "the gap against the rest" if policy.against == "rest" else "psi"


def counted(groups: Iterable[GroupResult]) -> list[tuple[str, int]]:
    """How many groups have each verdict; those that none has are left out."""
    found = Counter(group.verdict for group in groups)
    return [(verdict, found[verdict]) for verdict in VERDICTS if found[verdict]]


def counted_line(groups: Iterable[GroupResult]) -> str:
    """``3 FAIL, 270 PASS``."""
    return ", ".join(f"{count} {verdict}" for verdict, count in counted(groups))


def why(group: GroupResult, result: AuditResult) -> str:
    """Why a group has its verdict and what would decide it; empty where that says itself."""
    if group.verdict == WAIVED:
        return printable(group.reason or "")
    if group.reason == IDENTICAL:
        return "both models are the same file"
    if group.verdict != INCONCLUSIVE:
        return "required" if group.required and group.verdict in (NO_DATA, REFERENCE) else ""
    reason = WHY.get(group.reason or "", "").format(quantity=quantity(result.policy))
    if group.beyond_by_itself:
        reason = (
            f"{quantity(result.policy)} is shown to be above eps by itself, but not after "
            f"correcting for {result.family_size} groups"
        )
    if group.n_needed is None:
        need = "no number of images like these would decide it"
    else:
        need = f"needs {group.n_needed} more image{'s' if group.n_needed > 1 else ''}"
        need += ", with the others growing alike" if group.grows == "split" else ""
    return "; ".join(filter(None, [reason, need, "required" if group.required else ""]))


def meaning(result: AuditResult) -> str:
    """What the verdict means, in half a sentence."""
    gated = {split.split for split in result.splits if split.gated}
    groups = [group for group in result.groups if group.split in gated]
    verdicts = {group.verdict for group in groups}
    beside = sorted({flag(c.name) for c in result.checks if c.verdict == result.verdict})
    words = (MEANING | (MEASURED if result.gate == "point" else {}))[result.verdict]
    if result.verdict == FAIL and beside:
        bound = f"{' and '.join(beside)} does not hold"
        words = f"{words}, and {bound}" if FAIL in verdicts else bound
    elif result.verdict == PASS and WAIVED in verdicts:
        words += ", or is accepted for now"
    elif result.verdict == INCONCLUSIVE and INCONCLUSIVE not in verdicts:
        words = f"{' and '.join(beside)} is not decided" if beside else "not enough is decided"
    if result.verdict == INCONCLUSIVE and result.exit_code and result.gate == "strict":
        words += "; the gate strict lets pass only what is shown to satisfy"
    return words.replace("psi", quantity(result.policy))


def audit_headline(result: AuditResult) -> str:
    """The verdict in one sentence."""
    policy = result.policy
    where = ", ".join(split.split for split in result.splits if split.gated)
    sentence = f"{result.verdict}: {meaning(result)}"
    gated = {split.split for split in result.splits if split.gated}
    known = [(result.gated_gap(g), g) for g in result.groups if g.split in gated]
    found = [(value, group) for value, group in known if value is not None]
    if not found:
        return f"{sentence} ({where or 'no split is gated'})."
    value, worst = max(found, key=lambda pair: pair[0])
    return (
        f"{sentence} (split {where}, eps {tolerance(policy.eps)} points; largest "
        f"{quantity(policy).removeprefix('the ')} {points(value, worst.eps)}, "
        f"{printable(f'{worst.feature}={worst.value}')})."
    )


def split_line(split: SplitResult) -> str:
    """A split as a whole, in one line."""
    role = "gated" if split.gated else "described only"
    chance = f" ({points(split.noise_floor)} by chance alone)" if split.noise_floor else ""
    line = (
        f"{split.split} ({role}): {split.n} images, accuracy {percent(split.acc_dense)} % dense, "
        f"{percent(split.acc_sparse)} % sparse, gap {points(split.gap)}; max psi "
        f"{points(split.max_excess_gap)}{chance}, pairwise disparity "
        f"{percent(split.pairwise_disparity)}"
    )
    if split.omnibus_p is not None:
        line += f"; p {split.omnibus_p:.2g} for no disparity at all"
    return line


def audit_table(
    result: AuditResult, split: str, most: int | None = 25, width: int | None = None
) -> Table:
    """Groups of a split, worst first; the rest is counted when there are more than ``most``.

    With a ``width`` below ``ROOMY`` columns stand closer, and from 80 on a verdict is one line.
    """
    tight = width is not None and width < ROOMY
    padding = (0, 1, 0, 0) if tight else (0, 1)
    table = Table(box=None, pad_edge=False, expand=False, header_style="bold", padding=padding)
    table.add_column("group", overflow="fold", min_width=12)
    groups = result.by_split(split)
    judged = any(group.verdict != DESCRIPTIVE for group in groups)
    gap = "gap" if result.policy.against == "rest" else "psi"
    for name in ("n", "dense", "sparse", gap, *(["bounds"] if judged else [])):
        table.add_column(name, justify="right", no_wrap=True)
    open_ = any(group.verdict == INCONCLUSIVE for group in groups)
    if judged:
        one_line = width is not None and 80 <= width < ROOMY
        table.add_column("verdict", min_width=12, no_wrap=one_line)
    if open_:
        table.add_column("needs", justify="right", no_wrap=True)
    several = len({group.feature for group in result.groups}) > 1
    shown = groups if most is None else groups[:most]
    for group in shown:
        whole = several or not group.value
        name = printable(f"{group.feature}={group.value}" if whole else group.value)
        style = {FAIL: "red", PASS: "green", INCONCLUSIVE: "yellow"}.get(group.verdict, "")
        reason = SHORT.get(group.reason or "", "") if group.verdict == INCONCLUSIVE else ""
        cells: list[str | Text] = [
            # After a name from right to left, a mark keeps the numbers in their order.
            ("\u200e" if _right_to_left(name) else "") + str(group.n),
            percent(group.acc_dense),
            percent(group.acc_sparse),
            points(result.gated_gap(group), group.eps),
        ]
        if judged:
            verdict = f"{group.verdict} {reason}".strip()
            cells += [interval(group), Text(verdict, style=style)]
        if open_:
            star = "*" if group.grows == "split" else ""
            count = _count(group.n_needed) + star
            cells.append("–" if reason and group.n_needed is None else count)
        table.add_row(Text(name), *cells)
    rest = groups[len(shown) :]
    notes = []
    if rest:
        counts = counted_line(rest) if judged else ""
        notes.append(f"and {len(rest)} more groups{': ' if counts else ''}{counts}")
    if any(group.grows == "split" for group in shown):
        notes.append("*: if all groups grow alike")
    for reason, short in SHORT.items():
        if any(group.verdict == INCONCLUSIVE and group.reason == reason for group in shown):
            notes.append(f"{short}: {WHY[reason].format(quantity=gap)}")
    if notes:
        text = Text("\n".join(notes))
        table.caption, table.caption_justify, table.caption_style = text, "left", ""
    return table


def _right_to_left(name: str) -> bool:
    return any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in name)


def _count(number: int | None) -> str:
    """``+1240``; large ones ``+1.2M``."""
    if number is None:
        return ""
    return f"+{number}" if number < 100_000 else f"+{number / 1e6:.1f}M"


def interval(group: GroupResult) -> str:
    """The bounds of a group: ``+0.3 to +2.1``."""
    if group.lower is None:
        return ""
    return f"{points(group.lower, group.eps)} to {points(group.upper, group.eps)}"


def check_line(check: Check) -> str:
    """A bound beside psi, in one line."""
    of = f" of {printable(check.group)}" if check.group else ""
    drop = check.name == "max_drop"
    shown = points if drop else percent
    numbers = [shown(number) for number in (check.value, check.lower, check.upper)]
    limit = f"at {'most' if drop else 'least'} {tolerance(check.limit)}"
    return (
        f"{flag(check.name)}{of} on {check.split}: {numbers[0]} ({numbers[1]} to {numbers[2]}), "
        f"{limit}: {check.verdict}"
    )


def worst_checks(result: AuditResult) -> list[Check]:
    """Bounds beside psi, the worst first."""

    def key(check: Check) -> tuple[int, float]:
        sign = 1 if check.name == "min_accuracy" else -1
        return VERDICTS.index(check.verdict), sign * (check.value - check.limit)

    return sorted(result.checks, key=key)


def check_lines(result: AuditResult, most: int = 5) -> list[str]:
    """The worst bounds beside psi, and how many more there are with which verdict."""
    checks = worst_checks(result)
    lines = [check_line(check) for check in checks[:most]]
    rest = Counter(check.verdict for check in checks[most:])
    if rest:
        counts = ", ".join(f"{rest[v]} {v}" for v in VERDICTS if rest[v])
        lines.append(f"and {sum(rest.values())} more bounds: {counts}")
    return lines
