"""How often the audit's bounds and verdicts are wrong, what they notice, and how fast they are.

    make bench-audit      # the results are in docs/benchmarks.md and docs/audit.md

Parts, all of them or those that are named: `errors` (all outcomes of a small group, at the worst
rates), `coverage` (larger groups, simulated), `gates` (whole audits, simulated), `clusters`
(several images of a person), `speed` (a million images in ten thousand groups, beside fairlearn).
Simulated figures are means over five seeds, with their standard deviation.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import special

from ceag_cli.audit import audit
from ceag_cli.clusters import psi_effects
from ceag_cli.groups import Grouping
from ceag_cli.intervals import Counts, exact, psi_bounds, quantile_of, tango
from ceag_cli.judging import Questions, answers
from ceag_cli.paired import Paired
from ceag_cli.policy import Policy

SEEDS = range(5)
Array = np.ndarray


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def header(*cells: str) -> None:
    print()
    row(*cells)
    row(*["---"] * len(cells))


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """Fractions as percent."""
    mean, spread = 100 * statistics.mean(values), 100 * statistics.stdev(values)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


# All outcomes


def outcomes(n: int) -> tuple[Array, Array]:
    lost, gained = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    some = lost + gained <= n
    return lost[some], gained[some]


def worst(n: int, eps: float, bounds: Callable[[Array, Array], tuple[Array, Array]]) -> list[float]:
    """False FAIL and false PASS where the truth is eps, at the worst of 250 rates of gains."""
    lost, gained = outcomes(n)
    lower, upper = bounds(lost, gained)
    fails, passes = lower > eps, upper <= eps
    ways = special.gammaln(n + 1) - special.gammaln(lost + 1) - special.gammaln(gained + 1)
    ways -= special.gammaln(n - lost - gained + 1)
    found = [0.0, 0.0]
    for rate in np.r_[0, np.geomspace(1e-4, 0.45 * (1 - eps), 250)]:
        likelihood = ways + special.xlogy(lost, rate + eps) + special.xlogy(gained, rate)
        p = np.exp(likelihood + special.xlogy(n - lost - gained, 1 - 2 * rate - eps))
        found = [max(found[0], p[fails].sum()), max(found[1], p[passes].sum())]
    return found


def errors() -> None:
    """The group alone, beside infinitely many images, as its share of the error is the larger."""
    header(
        "eps", "n", *(f"{kind}, alpha {a:g}" for a in (0.05, 0.0005) for kind in ("score", "exact"))
    )
    quantiles = {alpha: quantile_of(alpha) for alpha in (0.05, 0.005, 0.0005)}
    most: dict[tuple[float, str], list[float]] = {}
    for eps in (0.01, 0.02, 0.05):
        for n in (10, 30, 50, 100, 200, 400):
            cells = []
            for alpha, z in quantiles.items():
                kinds: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
                    "score": lambda b, c, n=n, z=z: tango(b, c, n, z),
                    "exact": lambda b, c, n=n, alpha=alpha: exact(b, c, n, alpha),
                }
                for kind, bounds in kinds.items():
                    found = [x / alpha for x in worst(n, eps, bounds)]
                    before = most.get((alpha, kind), [0.0, 0.0])
                    most[alpha, kind] = [max(pair) for pair in zip(before, found, strict=True)]
                    if alpha != 0.005:
                        cells.append(" / ".join(f"{x:.2f}" for x in found))
            row(f"{100 * eps:g} %", n, *cells)
    header("alpha", "interval", "worst false FAIL", "worst false PASS")
    for (alpha, kind), found in most.items():
        row(f"{alpha:g}", kind, *(f"{x:.2f} alpha" for x in found))


# Larger groups


def misses(
    generator: np.random.Generator,
    n: int,
    rates: Sequence[float],
    rest: Sequence[float],
    draws: int,
) -> dict[str, list[float]]:
    """How often the true psi is above the upper or below the lower bound, of n in 10,000 images."""
    others = 10_000 - n
    group = generator.multinomial(n, [*rates, 1 - sum(rates)], draws).T.astype(float)
    beside = generator.multinomial(others, [*rest, 1 - sum(rest)], draws).T.astype(float)
    counts = Counts(
        np.full(draws, float(n)),
        group[0],
        group[1],
        np.full(draws, 10_000.0),
        group[0] + beside[0],
        group[1] + beside[1],
    )
    share = others / 10_000
    truth = share * ((rates[0] - rates[1]) - (rest[0] - rest[1]))
    z = quantile_of(0.05)
    d, d_rest = (group[0] - group[1]) / n, (beside[0] - beside[1]) / others
    variance = (group[0] + group[1]) / n - d**2
    rest_variance = (beside[0] + beside[1]) / others - d_rest**2
    error = share * np.sqrt(variance / n + rest_variance / others)
    psi = share * (d - d_rest)
    found = {
        kind: [np.mean(truth > upper), np.mean(truth < lower)]
        for kind in ("score", "exact")
        for _, lower, upper in [psi_bounds(counts, z, kind)]
    }
    found["Wald"] = [np.mean(truth > psi + z * error), np.mean(truth < psi - z * error)]
    some = slice(0, draws // 10)
    quantiles = [
        np.quantile(
            share
            * (
                resampled(generator, n, group[:, i], 400)
                - resampled(generator, others, beside[:, i], 400)
            ),
            [0.05, 0.95],
        )
        for i in range(draws)[some]
    ]
    low, high = np.array(quantiles).T
    found["bootstrap"] = [np.mean(truth > high), np.mean(truth < low)]
    return found


def resampled(generator: np.random.Generator, n: int, counts: Array, times: int) -> Array:
    rates = counts / n
    drawn = generator.multinomial(n, [*rates, max(1 - rates.sum(), 0)], times)
    return (drawn[:, 0] - drawn[:, 1]) / n


def coverage() -> None:
    kinds = ("score", "exact", "Wald", "bootstrap")
    for rates, rest in (
        ((0.03, 0.02), (0.02, 0.01)),
        ((0.012, 0.004), (0.012, 0.004)),
        ((0.08, 0.02), (0.05, 0.04)),
    ):
        print(f"\nGroup {rates}, rest {rest}: psi above U / psi below L, percent")
        header("n", *kinds)
        for n in (10, 30, 100, 300, 1000, 5000):
            by_seed = [
                misses(np.random.default_rng(seed), n, rates, rest, 10_000) for seed in SEEDS
            ]
            row(
                n,
                *(
                    " / ".join(
                        over_seeds([found[kind][side] for found in by_seed]) for side in (0, 1)
                    )
                    for kind in kinds
                ),
            )


# Whole audits


def equal(number: int, size: int) -> list[int]:
    return [size] * number


SCENARIOS: dict[str, tuple[list[int], dict[int, float]]] = {
    "100 × 100, no disparity": (equal(100, 100), {}),
    "100 × 100, one psi +14.9": (equal(100, 100), {0: 0.15}),
    "20 × 500, no disparity": (equal(20, 500), {}),
    "20 × 500, half at +2": (equal(20, 500), dict.fromkeys(range(10), 0.04)),
    "7 × 1565, no disparity": (equal(7, 1565), {}),
    "7 × 1565, one psi +3.4": (equal(7, 1565), {0: 0.04}),
    "7 × 1565, one psi +6": (equal(7, 1565), {0: 0.07}),
    "sizes 40 to 6200, no disparity": ([40, 100, 250, 600, 1500, 3000, 6200], {}),
}


def simulated(
    seed: int, sizes: list[int], more: dict[int, float], churn: float, runs: int
) -> list[float]:
    """In order of the columns of ``gates``."""
    generator = np.random.default_rng(seed)
    n, extra = np.array(sizes, float), np.array([more.get(g, 0.0) for g in range(len(sizes))])
    base = [churn * 5 / 9, churn * 4 / 9]
    policy = Policy()
    found = []
    for _ in range(runs):
        drawn = [
            generator.multinomial(size, [base[0] + add, base[1], 1 - sum(base) - add])
            for size, add in zip(sizes, extra.tolist(), strict=True)
        ]
        lost, gained = np.array(drawn, float).T[:2]
        everybody = [np.full(len(n), x.sum()) for x in (n, lost, gained)]
        number = len(n)
        asked = Questions(
            Counts(n, lost, gained, *everybody),
            np.full(number, policy.eps),
            np.full(number, policy.eps),
            np.zeros(number, bool),
            np.arange(number),
        )
        said = answers(asked, policy.alpha, policy.interval, policy.against)
        psi = (lost - gained) / n - (lost.sum() - gained.sum()) / n.sum()
        covered = n[said.passes | said.fails].sum() / n.sum()
        fails = bool(said.fails.any())
        found.append(
            [
                (psi > policy.eps).any(),
                (said.lower > policy.eps).any(),
                fails,
                not fails and covered < policy.min_coverage,
                said.passes.all(),
            ]
        )
    return np.mean(np.array(found, float), axis=0).tolist()


def gates() -> None:
    for churn in (0.09, 0.02):
        print(f"\neps 2 points, {100 * churn:g} % of the images changed, in percent of the audits")
        header(
            "groups",
            "point fails",
            "any L > eps",
            "evidence fails",
            "evidence exits 3",
            "strict passes",
        )
        for name, (sizes, more) in SCENARIOS.items():
            by_seed = [simulated(seed, sizes, more, churn, 100) for seed in SEEDS]
            row(name, *(over_seeds(column) for column in zip(*by_seed, strict=True)))


# Clusters


def clustered(seed: int, k: int, each: int, alike: float, runs: int) -> list[float]:
    """How often psi = 0 is above U or below L, for k clusters in the group: without and with."""
    generator = np.random.default_rng(seed)
    rates, others = np.array([0.05, 0.04, 0.91]), 200
    number = k + others
    clusters = np.arange(number).repeat(each)
    ids = (clusters >= k).astype(np.int64)[:, None]
    found = []
    for _ in range(runs):
        p = generator.dirichlet(rates * (1 - alike) / alike, number)
        u = generator.random((number, each))
        lost, gained = u < p[:, :1], (u >= p[:, :1]) & (u < p[:, :2].sum(1, keepdims=True))
        change = (lost.astype(float) - gained).ravel()
        effect = psi_effects(change, ids, clusters, 2)[0]
        line = []
        for by in (1.0, effect):
            values = [
                k * each,
                lost[:k].sum(),
                gained[:k].sum(),
                number * each,
                lost.sum(),
                gained.sum(),
            ]
            counts = Counts(*(np.array([value / by]) for value in values))
            _, lower, upper = psi_bounds(counts, quantile_of(0.05))
            line += [upper[0] < 0, lower[0] > 0]
        found.append(line)
    return np.mean(found, axis=0).tolist()


def clusters() -> None:
    header("persons", "images each", "likeness", "without --cluster-id", "with")
    for k, each, alike in (
        (5, 20, 0.1),
        (5, 20, 0.4),
        (20, 5, 0.4),
        (20, 20, 0.1),
        (20, 20, 0.4),
        (100, 5, 0.4),
    ):
        by_seed = [clustered(seed, k, each, alike, 400) for seed in SEEDS]
        cells = [over_seeds([line[i] for line in by_seed]) for i in range(4)]
        row(k, each, alike, f"{cells[0]} / {cells[1]}", f"{cells[2]} / {cells[3]}")


# Speed


def speed(images: int = 1_000_000, number: int = 10_000) -> None:
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score

    generator = np.random.default_rng(0)
    label = generator.integers(0, 100, images)
    group = generator.integers(0, number, images)
    dense = np.where(generator.random(images) < 0.9, label, (label + 1) % 100)
    sparse = np.where(generator.random(images) < 0.06, (dense + 3) % 100, dense)
    names = tuple(f"g{g}" for g in range(number))
    pair = Paired(
        "test",
        torch.from_numpy(dense == label),
        torch.from_numpy(sparse == label),
        torch.from_numpy(group[:, None]),
        torch.from_numpy(dense != sparse),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, theirs = [], []
    for _ in range(5):
        start = time.perf_counter()
        result = audit([pair], Grouping(("g",), (names,)), Policy())
        ours.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    audit([pair], Grouping(("g",), (names,)), Policy(interval="exact"))
    exactly = time.perf_counter() - start
    for _ in range(2):
        start = time.perf_counter()
        frames = [
            MetricFrame(
                metrics=accuracy_score, y_true=label, y_pred=given, sensitive_features=group
            ).by_group
            for given in (dense, sparse)
        ]
        theirs.append(time.perf_counter() - start)
    for group_ in result.groups:
        assert group_.acc_dense is not None
        assert abs(frames[0].iloc[int(group_.value[1:])] - group_.acc_dense) < 1e-12
    header("1,000,000 images, 10,000 groups", "seconds, median (least to most)", "memory")
    shown = f"{statistics.median(ours):.2f} ({min(ours):.2f} to {max(ours):.2f})"
    row(
        "audit: intervals, verdicts, noise floor, images needed",
        shown,
        f"{(peak - before) / 1e6:.2f} GB more, {peak / 1e6:.2f} GB in all",
    )
    row("the same with the exact interval", f"{exactly:.1f}", "")
    shown = f"{statistics.median(theirs):.1f} ({min(theirs):.1f} to {max(theirs):.1f})"
    row("fairlearn: accuracies of both models", shown, "")
    row("ratio", f"{statistics.median(theirs) / statistics.median(ours):.0f}", "")


PARTS = {
    "errors": errors,
    "coverage": coverage,
    "gates": gates,
    "clusters": clusters,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them by default")
    chosen = parser.parse_args().parts or list(PARTS)
    for name in chosen:
        print(f"\n## {name}")
        PARTS[name]()


if __name__ == "__main__":
    main()
