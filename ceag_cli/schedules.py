"""Schedules: how sparse the model is to be at each epoch, or after each round."""

import math


def cubic(epoch: int, end: int, final: float, initial: float = 0.0) -> float:
    """Sparsity of gradual pruning at the start of an epoch.

        s_t = s_f + (s_0 - s_f) (1 - t / T)^3

    Fast at first, while there is much to spare, slow at the end (Zhu and Gupta 2017, *To prune, or
    not to prune*, equation 1).

    Args:
        epoch: t, counted from 0.
        end: T, the epoch from which the final sparsity holds. 0 means at once.
        final: s_f, fraction removed.
        initial: s_0, fraction removed at epoch 0.

    Returns:
        The fraction to be removed; exactly ``final`` from ``end`` on.

    >>> [round(cubic(t, 3, 0.9), 3) for t in range(5)]
    [0.0, 0.633, 0.867, 0.9, 0.9]
    """
    if epoch >= end:
        return final
    return final + (initial - final) * (1 - epoch / end) ** 3


def geometric(done: int, rounds: int, final: float, initial: float = 0.0) -> float:
    """Sparsity after some rounds of iterative pruning.

        s_i = 1 - (1 - s_0) ((1 - s_f) / (1 - s_0))^(i / n)

    Each round keeps the same fraction of the weights that are left (Frankle and Carbin 2019, *The
    lottery ticket hypothesis*, section 2).

    Args:
        done: i, rounds that have taken place.
        rounds: n, all of them.
        final: s_f, fraction removed.
        initial: s_0, fraction removed before the first.

    Returns:
        The fraction to be removed; exactly ``final`` from the last round on.

    >>> [round(geometric(i, 2, 0.75), 3) for i in range(4)]
    [0.0, 0.5, 0.75, 0.75]
    """
    if done >= rounds:
        return final
    return float(1 - (1 - initial) * ((1 - final) / (1 - initial)) ** (done / rounds))


def rounds_of_a_fifth(final: float, initial: float = 0.0) -> int:
    """Rounds after which iterative pruning has removed enough, at most a fifth of the rest in each.

    The pace of Frankle and Carbin. At least 1.

    >>> rounds_of_a_fifth(0.2), rounds_of_a_fifth(0.36), rounds_of_a_fifth(0.9)
    (1, 2, 11)
    """
    needed = math.log((1 - final) / (1 - initial)) / math.log(0.8)
    return max(1, math.ceil(needed - 1e-9))
