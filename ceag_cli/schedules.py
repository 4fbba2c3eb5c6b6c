"""Schedules: how sparse the model is to be at each epoch."""


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
