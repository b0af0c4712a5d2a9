"""Intervals: known answers and sane properties."""

import pytest

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
