"""Intervals for shares of right answers: paired bootstrap over questions."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


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
