"""Intervals: known answers and sane properties."""

import numpy as np
import pytest

from nanoscout.evaluation.comparison import compare
from nanoscout.evaluation.evaluate import Evaluation, Outcome
from nanoscout.evaluation.statistics import paired_difference


def test_known_answers() -> None:
    assert paired_difference([False] * 9, [True] * 9) == (100.0, (100.0, 100.0))
    assert paired_difference([True, False], [True, False]) == (0.0, (0.0, 0.0))


def test_interval_covers_the_estimate_and_narrows_with_more_questions() -> None:
    before, after = [False, True] * 20, [True, True, False, True] * 10
    points, (low, high) = paired_difference(before, after)
    assert points == pytest.approx(25.0)
    assert low < points < high
    _, (more_low, more_high) = paired_difference(before * 9, after * 9)
    assert more_high - more_low < (high - low) / 2
    assert paired_difference(before, after) == paired_difference(before, after)


def test_pairing_is_used() -> None:
    """All that changes sides cancels: the same shares, but never a wide interval for no change."""
    same = [True, False] * 50
    _, (low, high) = paired_difference(same, same)
    assert low == high == 0.0
    flipped = [not value for value in same]
    points, (low, high) = paired_difference(same, flipped)
    assert points == 0.0
    assert high - low > 20


def test_unequal_or_empty_samples_are_errors() -> None:
    with pytest.raises(ValueError, match="same, non-empty"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="same, non-empty"):
        paired_difference([True], [True, False])


def test_interval_is_that_of_drawing_the_questions_anew() -> None:
    before, after = [False] * 60 + [True] * 40, [True] * 25 + [False] * 45 + [True] * 30
    difference = np.array(after, dtype=float) - np.array(before, dtype=float)
    draws = np.random.default_rng(1).integers(100, size=(10_000, 100))
    wanted = np.percentile(100 * difference[draws].mean(axis=1), [2.5, 97.5])
    _, interval = paired_difference(before, after)
    assert interval == pytest.approx(wanted, abs=1.0)


def test_comparison_pairs_by_question_and_splits_by_hops() -> None:
    def outcomes(**right: bool) -> dict[str, list[Outcome]]:
        return {
            "greedy": [
                Outcome(name, hops=int(name[1]), correct=value, calls=1, stop="answered")
                for name, value in right.items()
            ]
        }

    before = Evaluation(outcomes(a1=False, b1=True, c2=False, d1=True), {"greedy": 0}, 1.0)
    after = Evaluation(outcomes(c2=True, b1=True, a1=True), {"greedy": 1}, 1.0)
    difference = compare(before, after)["greedy"]
    assert difference["n"] == 3
    assert difference["points"] == pytest.approx(200 / 3)
    assert {hops: part["points"] for hops, part in difference["by_hops"].items()} == {
        "1": 50.0,
        "2": 100.0,
    }
