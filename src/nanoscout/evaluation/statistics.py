"""How sure a share of right answers is, and a difference between two of them."""

from collections.abc import Sequence
from math import comb, sqrt

import numpy as np

RESAMPLES = 10_000
Z = 1.959963984540054
"""The normal distribution's 97.5% quantile."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """95% interval of a share of `right` out of n > 0, in [0, 1] (Wilson 1927).

    Unlike the textbook's p +- 1.96 sd it stays within [0, 1], and has a width where all are right.
    """
    if not 0 <= right <= n or not n:
        raise ValueError(f"need 0 <= right <= n and n > 0, got {right} of {n}")
    middle = (right + Z**2 / 2) / (n + Z**2)
    half = Z * sqrt(right * (n - right) / n + Z**2 / 4) / (n + Z**2)
    # Rounding must not leave a share of 0 or 1 outside of its own interval.
    return (0.0 if right == 0 else middle - half, 1.0 if right == n else middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that two answerers are equally good (McNemar 1947).

    Given are the questions that one of the two alone got right: if they are equally good, each
    falls to either with probability 1/2. 1.0 where there are none.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n)


def paired_difference(
    before: Sequence[bool], after: Sequence[bool], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """(points, ci95) of after - before on the same questions, in percentage points.

    The interval is the percentile bootstrap's (Efron 1979): the questions are drawn anew with
    replacement, both answers of a question together. Since a question's difference is -1, 0 or 1,
    counts of these three are drawn in place of the questions: the same distribution, in memory
    that does not grow with their number.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need the same, non-empty questions, got {len(before)} and {len(after)}")
    n = len(before)
    difference = np.asarray(after, dtype=int) - np.asarray(before, dtype=int)
    worse, _, better = counts = np.bincount(difference + 1, minlength=3)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    low, high = np.percentile(100 * (drawn[:, 2] - drawn[:, 0]) / n, [2.5, 97.5])
    return float(100 * (better - worse) / n), (float(low), float(high))
