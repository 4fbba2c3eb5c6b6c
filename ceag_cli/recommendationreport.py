"""The recommendation of a sweep in plain sentences. Fractions become points here."""

from __future__ import annotations

from ceag_cli.findings import FAIL
from ceag_cli.inert import printable
from ceag_cli.report import percent, points, quantity, tolerance
from ceag_cli.sweepfindings import (
    BY_ALPHA,
    BY_VAL,
    INCOMPLETE,
    NOT_TESTED,
    Recommendation,
    Sequence,
    Step,
    Sweep,
)


def sparsity_of(sparsity: float) -> str:
    """``0.925`` → ``92.5 %``."""
    return f"{100 * sparsity:g} %"


def named(found: Sweep, criterion: str, method: str) -> str:
    """An approach as the recipe calls it; without a criterion where it names none."""
    return printable(f"{criterion}, {method}" if found.plan.criteria else method)


def recommendation_lines(found: Sweep) -> list[str]:
    """The recommendation, and what it rests on; one sentence or two a line."""
    said = found.recommendation
    if said is None:
        return ["No run has been audited, so nothing can be recommended."]
    return [_headline(found, said), *_others(found, said), _basis(said), _meaning(said)]


def _headline(found: Sweep, said: Recommendation) -> str:
    eps = tolerance(said.policy.eps)
    chosen = said.chosen
    if said.sparsity is None or chosen is None:
        line = f"No setting passes at eps {eps} points."
        if chosen is not None:
            name = named(found, chosen.criterion, chosen.method)
            line += f" With {name} {_stopped(found, chosen)}"
        return " ".join([line, *_nearest(found)])
    seeds = {1: "its seed", 2: "both seeds"}.get(said.seeds, f"all {said.seeds} seeds")
    name = named(found, chosen.criterion, chosen.method)
    line = f"{sparsity_of(said.sparsity)} passes at eps {eps} points in {seeds} ({name})"
    if chosen.stopped_at is None:
        return f"{line}, the sparsest setting there is."
    return f"{line}; {_stopped(found, chosen)}"


def _others(found: Sweep, said: Recommendation) -> list[str]:
    """What the approaches pass that are tested and not recommended, a line each."""
    tested = [each for each in said.sequences if each.alpha is not None and each != said.chosen]
    lines = []
    for each in tested:
        name = named(found, each.criterion, each.method)
        if each.passes_up_to is None:
            lines.append(f"{name}: {_stopped(found, each)}")
            continue
        line = f"{name}: {sparsity_of(each.passes_up_to)} passes"
        lines.append(line + (f"; {_stopped(found, each)}" if each.stopped_at else "."))
    return lines


def _nearest(found: Sweep) -> list[str]:
    """The smallest eps that some setting is shown to keep, where there are bounds."""
    shown = [limit for limit in found.limits if limit.shown_of_all is not None]
    if not shown or found.recommendation is None or found.recommendation.policy.gate == "point":
        return []
    least = min(shown, key=lambda limit: limit.shown_of_all or 0.0)
    return [
        f"The smallest eps that any setting is shown to keep is {percent(least.shown_of_all)} "
        f"points ({sparsity_of(least.sparsity)}, {named(found, least.criterion, least.method)})."
    ]


def _stopped(found: Sweep, each: Sequence) -> str:
    """Which setting does not pass, and why."""
    step = each.stopped_at
    if step is None:
        return ""
    return f"{sparsity_of(step.sparsity)} does not: {why(found, step)}"


def why(found: Sweep, step: Step) -> str:
    """Why a setting does not pass, as half a sentence with its full stop."""
    said = found.recommendation
    assert said is not None
    if step.verdict == INCOMPLETE or step.group is None:
        where = f" (seed {step.seed})" if step.seed is not None else ""
        return f"{printable(step.reason or step.verdict)}{where}."
    eps = said.policy.eps
    what = quantity(said.policy).removeprefix("the ")
    psi = f"seed {step.seed}: {what} {points(step.excess_gap, eps)}"
    if said.policy.gate == "point":
        return f"first violated group: {printable(step.group)} ({psi})."
    if step.verdict == FAIL:
        return f"first violated group: {printable(step.group)} ({psi}, shown to be above eps)."
    bound = f", which may be up to {points(step.upper, eps)}"
    return f"not shown for {printable(step.group)} ({psi}{bound})."


def _basis(said: Recommendation) -> str:
    count, alpha = len(said.sequences), said.policy.alpha
    where = ", ".join(said.gated)
    if said.policy.gate == "point":
        return (
            f"The measured values on {where} are compared with eps (gate point): nothing is shown "
            "about other images, and with few images a group they are mostly noise."
        )
    tested = f"tested on {where} at {alpha:g}"
    how = f"One approach is to be recommended, and is {tested}"
    if said.chosen_by == BY_VAL:
        how = f"The approach was chosen on val among {count}, and alone is {tested}"
    elif said.chosen_by == BY_ALPHA:
        how = f"Each of {count} approaches is {tested} / {count}: what they pass holds together"
    return (
        f"{how}; sparsities from the lightest on, until one does not pass. So a setting that "
        f"violates eps is said to pass in at most {alpha:g} of such sweeps"
        f"{' (nominally)' if said.policy.interval != 'exact' else ''}."
    )


def _meaning(said: Recommendation) -> str:
    if said.seeds == 1:
        return (
            "Passing is about this one model: another training seed makes another, about which "
            "nothing is known."
        )
    line = f"Passing means that the audit of each of the {said.seeds} models passes."
    if said.seeds_lower is None:
        return line
    return (
        f"{line} About other training seeds {said.seeds} say little: that at least "
        f"{100 * said.seeds_lower:.0f} % of them would pass."
    )


def verdict_of(said: Recommendation | None) -> str:
    """One word for the whole: PASS where something passes, else why the best does not."""
    if said is None:
        return "NO_DATA"
    if said.sparsity is not None:
        return "PASS"
    steps = [each.stopped_at for each in said.sequences if each.alpha is not None]
    verdicts = {step.verdict for step in steps if step is not None}
    return FAIL if verdicts == {FAIL} else "INCONCLUSIVE"


def sequence_rows(found: Sweep) -> list[list[str]]:
    """A table of approaches and how far each passes, its head first."""
    said = found.recommendation
    if said is None:
        return []
    by_val = said.chosen_by == BY_VAL
    head = ["approach", *(sparsity_of(s) for s in sorted(found.plan.sparsities))]
    rows = [[*head, *["val: sparsities kept", "val: mean max psi"] * by_val, "stops at"]]
    for each in said.sequences:
        step = each.stopped_at
        row = [named(found, each.criterion, each.method)]
        row += ["–" if s.verdict == NOT_TESTED else s.verdict for s in each.steps]
        row += [str(each.val_kept), points(each.val_excess_gap)] * by_val
        rows.append([*row, "" if step is None else why(found, step)])
    return rows
