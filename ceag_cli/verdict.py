"""The verdict on a whole audit, its exit code, and the reasons, from what its parts found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ceag_cli.clauses import Group, Waiver
from ceag_cli.findings import (
    CONCLUSIVE,
    FAIL,
    INCONCLUSIVE,
    NO_DATA,
    PASS,
    REFERENCE,
    TOO_SMALL,
    WAIVED,
    Check,
    GroupResult,
    SplitResult,
)
from ceag_cli.groups import look_alikes
from ceag_cli.policy import Policy


def overall(
    policy: Policy,
    splits: Sequence[SplitResult],
    groups: Sequence[GroupResult],
    checks: Sequence[Check],
    waivers: Mapping[Group, Waiver],
) -> tuple[str, int, list[str]]:
    """The verdict on everything, the exit code, and why."""
    gated = {split.split for split in splits if split.gated}
    counted = [g for g in groups if g.split in gated and g.verdict != REFERENCE]

    def some(verdict: str) -> list[GroupResult]:
        return [g for g in counted if g.verdict == verdict]

    def listed(found: Sequence[GroupResult]) -> str:
        return _listed([_name(g, gated) for g in found])

    def excused(group: GroupResult) -> bool:
        """Whether what is accepted of an undecided group is shown not to be exceeded."""
        waiver = waivers.get((group.feature, group.value))
        return waiver is not None and group.upper is not None and group.upper <= waiver.eps

    undecided = some(INCONCLUSIVE)
    pressing = [g for g in undecided if not excused(g)]
    unclear = [_check_name(check) for check in checks if check.verdict == INCONCLUSIVE]
    failing = _failing(policy, some(FAIL), checks, gated)
    every = [g for g in groups if g.split in gated and g.verdict == REFERENCE]
    reasons = _lacking(some(NO_DATA), pressing, every, gated)
    if failing:
        return FAIL, 1, failing + reasons
    if not any(g.verdict in CONCLUSIVE for g in counted):
        reasons.append("no group has a verdict, so nothing is shown")
        return (INCONCLUSIVE if undecided else NO_DATA), 3, reasons
    for split in splits:
        if split.gated and split.coverage is not None and split.coverage < policy.min_coverage:
            reasons.append(
                f"groups with a verdict hold {split.coverage:.0%} of the images of {split.split}, "
                f"less than {policy.min_coverage:.0%}"
            )
    code = 3 if reasons else 0
    if policy.gate == "strict" and (pressing or unclear or some(NO_DATA)):
        code = 3
    open_ = [_name(g, gated) for g in pressing if not g.required] + unclear
    if open_:
        reasons.append(f"not decided: {_listed(open_)}")
    waived = some(WAIVED)
    if waived:
        reasons.append(f"above eps, but accepted for now: {listed(waived)}")
    spared = [g for g in undecided if excused(g)]
    if spared:
        reasons.append(f"not decided, but within what is accepted for now: {listed(spared)}")
    empty = [g for g in some(NO_DATA) if not g.required]
    if empty:
        reasons.append(f"without images: {listed(empty)}")
    if code or undecided or unclear:
        return INCONCLUSIVE, code, reasons
    return PASS, 0, reasons


def _failing(
    policy: Policy, groups: Sequence[GroupResult], checks: Sequence[Check], gated: set[str]
) -> list[str]:
    """What violates the policy."""
    reasons = []
    shown = "" if policy.gate == "point" else "shown to be "
    if groups:
        what = "the gap against the rest" if policy.against == "rest" else "psi"
        names = _listed([_name(g, gated) for g in groups])
        reasons.append(f"{what} is {shown}above eps: {names}")
    broken = [_check_name(check) for check in checks if check.verdict == FAIL]
    if broken:
        reasons.append(f"{shown}beyond the bound: {_listed(broken)}")
    return reasons


def _lacking(
    empty: Sequence[GroupResult],
    undecided: Sequence[GroupResult],
    every: Sequence[GroupResult],
    gated: set[str],
) -> list[str]:
    """Which required groups are not shown to pass."""
    reasons = []
    for why, groups in (
        ("without images", empty),
        ("not decided", undecided),
        # psi is 0 by definition, which is not what was asked.
        ("of all images, so that nothing is asked", every),
    ):
        names = [_name(g, gated) for g in groups if g.required]
        if names:
            reasons.append(f"required, but {why}: {_listed(names)}")
    return reasons


def corrected(
    groups: Sequence[GroupResult], checks: Sequence[Check], family_size: int
) -> list[str]:
    """What is beyond its limit by itself, and no FAIL since there are others.

    Args:
        groups: Of all splits.
        checks: Bounds on something else than psi.
        family_size: Number of questions about psi.
    """
    gated = {group.split for group in groups if group.verdict == INCONCLUSIVE}
    beyond = [_name(group, gated) for group in groups if group.beyond_by_itself]
    floors = [check for check in checks if check.name == "min_accuracy"]
    below = [
        _check_name(check)
        for check in floors
        if check.verdict == INCONCLUSIVE and check.upper < check.limit
    ]
    by_itself = "shown to be {} by itself, but not after correcting for {} groups: {}"
    found = [by_itself.format("above eps", family_size, _listed(beyond))] if beyond else []
    found += [by_itself.format("below its bound", len(floors), _listed(below))] if below else []
    return found


def _alike(split: SplitResult) -> bool:
    """Whether nothing is known to differ between the models' answers."""
    return split.n > 0 and not (split.lost or split.gained or split.lateral)


def _name(group: GroupResult, gated: set[str]) -> str:
    name = f"{group.feature}={group.value}"
    return f"{name} ({group.split})" if len(gated) > 1 else name


def _check_name(check: Check) -> str:
    return f"--{check.name.replace('_', '-')}" + (f" of {check.group}" if check.group else "")


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def warnings_of(
    policy: Policy,
    splits: Sequence[SplitResult],
    groups: Sequence[GroupResult],
    identical: bool,
) -> list[str]:
    """What a reader should know beside the verdict: noise, groups too small, and the like."""
    found = []
    if identical:
        found.append("both models are the same file, so every psi is 0 and nothing is compared")
    elif alike := [split for split in splits if split.gated and _alike(split)]:
        # Mostly one model under two names; the bounds are right all the same if it is not.
        same = all(split.lateral is not None for split in alike)
        found.append(
            f"{_listed([split.split for split in alike])}: both models "
            f"{'give the same answer to every image' if same else 'are right on the same images'}, "
            "so there is no difference to judge; make sure that these are two models"
        )
    found += look_alikes(dict.fromkeys((group.feature, group.value) for group in groups))
    for split in splits:
        if split.gated and policy.gate == "point" and (split.noise_floor or 0) > policy.eps:
            found.append(
                f"{split.split}: without any disparity the largest psi would be about "
                f"{100 * (split.noise_floor or 0):.1f} points, which is more than eps: the verdict "
                "is mostly noise"
            )
    gated = {split.split for split in splits if split.gated}
    by_feature: dict[str, list[GroupResult]] = {}
    for group in groups:
        if group.split in gated:
            by_feature.setdefault(group.feature, []).append(group)
    decided = any(group.verdict in CONCLUSIVE for group in groups)
    for feature, of_feature in by_feature.items():
        verdicts = {group.verdict for group in of_feature}
        if REFERENCE in verdicts:
            found.append(
                f"{feature} has a group of all images, about which there is nothing to ask"
            )
        elif decided and INCONCLUSIVE in verdicts and not verdicts & set(CONCLUSIVE):
            found.append(f"no group of {feature} has a verdict: of this feature nothing is shown")
    small = [g for g in groups if g.reason == TOO_SMALL]
    if small:
        names = _listed([f"{g.feature}={g.value}" for g in small])
        found.append(f"too few images to pass at this eps even if no answer had changed: {names}")
    if policy.eps == 0 and policy.gate != "point":
        found.append("eps is 0: a group can pass only by losing less than the others do")
    return found
