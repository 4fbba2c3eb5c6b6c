"""The sparsest setting that passes the audit, without the audit's images having chosen it.

A setting, an approach at a sparsity, **passes** if the audit of every seed's model passes: all
groups of all seeds (intersection-union test, Berger 1982), so that neither groups nor seeds need a
correction. More seeds make it harder to pass, never easier to be wrong.

The settings of an approach are tested from the lightest sparsity to the heaviest, each at the full
level, and the first that does not pass ends the test: heavier ones are not tested, whatever their
audits say. That controls the error of everything said to pass (fixed-sequence test, Maurer, Hothorn
and Lehmacher 1995): a wrong PASS takes a wrong PASS of the first setting in the order that violates
eps, and the order was there before the data. It does not need harm to grow with sparsity, but
gains by it.

With several approaches the test images must not choose among them either:

    val      there are val images: the approach is chosen on them, and it alone is tested on test
    recipe   only one approach is there to be recommended
    alpha    each of L approaches is tested at alpha / L (Bonferroni): what they pass holds
             together, so that any of them may be taken

FAIL, a violation that is shown, is another claim with its own error: judged at the approach's level
divided by its settings and seeds, and Holm's correction over the groups of each audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Listed
from dataclasses import replace
from functools import cache

import numpy as np

from ceag_cli.audit import audit
from ceag_cli.experiment import Approach, Cell, Plan
from ceag_cli.findings import FAIL, INCONCLUSIVE, PASS, AuditResult, GroupResult
from ceag_cli.heldout import SameImages
from ceag_cli.options import AuditOptions
from ceag_cli.policy import Policy, policy_of
from ceag_cli.sweepfindings import (
    BY_ALPHA,
    BY_RECIPE,
    BY_VAL,
    INCOMPLETE,
    NOT_TESTED,
    Recommendation,
    Row,
    Sequence,
    Step,
)


def policy_of_plan(plan: Plan) -> Policy:
    """What every setting is judged by: section ``audit`` of the recipe, with one eps for all."""
    return policy_of(AuditOptions(**(dict(plan.audit) | {"eps": plan.eps})))


def gated_of(plan: Plan) -> tuple[str, ...]:
    """The splits that verdicts rest on."""
    return tuple(plan.audit.get("gate_splits", ("test",)))


class Judge:
    """Audits the runs of a sweep anew at any level, from their answers.

    Args:
        plan: What is asked.
        images: The answers of the runs.
    """

    def __init__(self, plan: Plan, images: Listed[SameImages]) -> None:
        self.policy = policy_of_plan(plan)
        self.gated = gated_of(plan)
        self.places: Mapping[tuple[Cell, str], SameImages] = {
            (cell, each.split): each for each in images for cell in each.cells
        }
        self.audit_at = cache(self._audit_at)

    def has(self, cell: Cell) -> bool:
        """Whether a run has answered the images that the verdict rests on."""
        return all((cell, split) in self.places for split in self.gated)

    def _audit_at(self, cell: Cell, alpha: float) -> AuditResult:
        """The audit of a run with another error level."""
        found = [self.places[cell, split] for split in self.gated]
        return audit(
            [each.pair(cell) for each in found],
            found[0].grouping,
            replace(self.policy, alpha=alpha),
            self.gated,
            seed=None,
        )


def recommend(
    plan: Plan, images: Listed[SameImages], rows: Listed[Row] = ()
) -> Recommendation | None:
    """Look for the sparsest setting that passes; ``None`` where no run is there.

    Args:
        plan: The sweep.
        images: The answers of its runs.
        rows: Its runs by split; those on val choose, where every candidate has them.
    """
    judge = Judge(plan, images)
    if not any(judge.has(cell) for cell in plan.cells()):
        return None
    candidates = plan.recommendable
    policy, untested = judge.policy, tuple(Step(s, NOT_TESTED) for s in sorted(plan.sparsities))
    on_val = {} if len(candidates) == 1 or "val" in judge.gated else _on_val(plan, rows)
    tested: Listed[Approach]
    if len(candidates) == 1:
        chosen_by, tested, alpha = BY_RECIPE, candidates, policy.alpha
    elif on_val:
        chosen_by, alpha = BY_VAL, policy.alpha
        best = min(candidates, key=lambda a: (-on_val[a][0], on_val[a][1]))
        tested = (best,)
    else:
        chosen_by, tested, alpha = BY_ALPHA, candidates, policy.alpha / len(candidates)
    sequences = []
    for approach in candidates:
        steps = _steps(plan, judge, approach, alpha) if approach in tested else untested
        kept, gap = on_val.get(approach, (None, None))
        sequences.append(
            Sequence(
                criterion=plan.criterion_of(approach),
                method=approach.method,
                alpha=alpha if approach in tested else None,
                steps=steps,
                passes_up_to=max((s.sparsity for s in steps if s.verdict == PASS), default=None),
                val_kept=kept,
                val_excess_gap=gap,
            )
        )
    best_of_all = _best(sequences, rows, judge.gated)
    return Recommendation(
        policy=policy,
        seeds=len(plan.seeds),
        gated=judge.gated,
        chosen_by=chosen_by,
        sequences=tuple(sequences),
        criterion=best_of_all.criterion if best_of_all else None,
        method=best_of_all.method if best_of_all else None,
        sparsity=best_of_all.passes_up_to if best_of_all else None,
        seeds_lower=policy.alpha ** (1 / len(plan.seeds)) if best_of_all else None,
    )


def _on_val(plan: Plan, rows: Listed[Row]) -> dict[Approach, tuple[int, float]]:
    """How the candidates do on val; empty unless every run of each of them has val images."""
    found: dict[Approach, tuple[int, float]] = {}
    for approach in plan.recommendable:
        key = (plan.criterion_of(approach), approach.method)
        own = [row for row in rows if row.split == "val" and (row.criterion, row.method) == key]
        if len(own) < len(plan.seeds) * len(plan.sparsities):
            return {}
        means = [
            float(np.mean([row.max_excess_gap for row in own if row.sparsity == sparsity]))
            for sparsity in sorted(plan.sparsities)
        ]
        above = [i for i, mean in enumerate(means) if mean > plan.eps]
        found[approach] = (above[0] if above else len(means), float(np.mean(means)))
    return found


def _steps(plan: Plan, judge: Judge, approach: Approach, alpha: float) -> tuple[Step, ...]:
    """Test the settings of an approach from the lightest on."""
    steps: list[Step] = []
    for sparsity in sorted(plan.sparsities):
        if any(step.verdict != PASS for step in steps):
            steps.append(Step(sparsity, NOT_TESTED))
            continue
        cells = [Cell(s, sparsity, approach.method, approach.criterion) for s in plan.seeds]
        lacking = [cell for cell in cells if not judge.has(cell)]
        if lacking:
            is_ = "is" if len(lacking) == 1 else "are"
            reason = f"{len(lacking)} of {len(cells)} runs {is_} missing"
            steps.append(Step(sparsity, INCOMPLETE, reason=reason))
        else:
            strict = alpha / (len(plan.sparsities) * len(plan.seeds))
            steps.append(_step(judge, cells, sparsity, alpha, strict))
    return tuple(steps)


def _step(judge: Judge, cells: Listed[Cell], sparsity: float, alpha: float, strict: float) -> Step:
    """Judge a setting: PASS at alpha for every seed, FAIL at a level that all FAILs share."""
    found = {cell: judge.audit_at(cell, alpha) for cell in cells}
    if all(result.verdict == PASS for result in found.values()):
        return Step(sparsity, PASS)
    failed = {
        cell: result for cell in cells if (result := judge.audit_at(cell, strict)).verdict == FAIL
    }
    if judge.policy.gate == "point":
        failed = {cell: result for cell, result in found.items() if result.verdict == FAIL}
    blamed = [
        (group, cell)
        for cell, result in (failed or found).items()
        for group in result.groups
        if group.verdict == (FAIL if failed else INCONCLUSIVE)
    ]
    verdict = FAIL if failed else INCONCLUSIVE
    if not blamed:  # a bound on something else than psi, or too little that is decided
        cell, result = next((c, r) for c, r in (failed or found).items() if r.verdict != PASS)
        reason = result.reasons[0] if result.reasons else result.verdict
        return Step(sparsity, verdict, seed=cell.seed, reason=reason)
    group, cell = max(blamed, key=lambda pair: _beyond(pair[0], bool(failed)))
    shown = next(  # with the bounds at the level of PASS
        g
        for g in found[cell].groups
        if (g.split, g.feature, g.value) == (group.split, group.feature, group.value)
    )
    return Step(
        sparsity=sparsity,
        verdict=verdict,
        group=f"{group.feature}={group.value}",
        seed=cell.seed,
        excess_gap=found[cell].gated_gap(shown),
        lower=group.lower,
        upper=shown.upper,
    )


def _beyond(group: GroupResult, failed: bool) -> float:
    """How far a group is from what is asked of it, as far as that is shown."""
    bound = group.lower if failed else group.upper
    return -np.inf if bound is None else bound - group.eps


def _best(sequences: Listed[Sequence], rows: Listed[Row], gated: Listed[str]) -> Sequence | None:
    """The sequence that passes the sparsest setting; of equals the more accurate one there."""
    passing = [each for each in sequences if each.passes_up_to is not None]

    def accuracy(each: Sequence) -> float:
        own = [
            row.acc_sparse
            for row in rows
            if row.split in gated
            and (row.sparsity, row.criterion, row.method)
            == (each.passes_up_to, each.criterion, each.method)
        ]
        return float(np.mean(own)) if own else 0.0

    return max(passing, key=lambda each: (each.passes_up_to or 0.0, accuracy(each)), default=None)
