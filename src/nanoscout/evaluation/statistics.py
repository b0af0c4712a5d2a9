"""Intervals for shares of right answers: paired bootstrap over questions."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def paired_difference(
    before: Sequence[bool], after: Sequence[bool], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """(points, ci95) of after - before on the same questions, in percentage points.

    The interval is the percentile bootstrap's (Efron 1979): the questions are drawn anew with
    replacement, both answers of a question together.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"need the same, non-empty questions, got {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    return 100 * difference.mean(), (100 * low, 100 * high)
