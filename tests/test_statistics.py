"""Intervals: known answers and sane properties."""

import math

import numpy as np
import pytest

from nanoscout.evaluation.comparison import compare
from nanoscout.evaluation.evaluate import Evaluation, Outcome
from nanoscout.evaluation.statistics import mcnemar, paired_difference, wilson


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


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775328),  # 0 of n: high = z^2 / (n + z^2)
        (10, 10, 0.7224672, 1.0),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2552906, 0.3662105),  # Newcombe (1998), table I: .2553 to .3662
        (15, 148, 0.0624, 0.1605),  # the same table
    ],
)
def test_wilson_intervals_are_the_published_ones(
    right: int, n: int, low: float, high: float
) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_refuses_what_is_no_share() -> None:
    for right, n in ((0, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="need 0 <= right <= n"):
            wilson(right, n)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (0, 6, 2 / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),  # twice the lower half would be above 1
        (1, 9, 2 * (1 + 10) / 1024),
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_questions_is_near_the_normal_approximation() -> None:
    """With continuity correction: chi = (|b - c| - 1) / sqrt(b + c)."""
    b, c = 1_000, 1_100
    chi = (abs(b - c) - 1) / math.sqrt(b + c)
    assert mcnemar(b, c) == pytest.approx(math.erfc(chi / math.sqrt(2)), rel=0.02)


def test_bootstrap_is_near_the_analytic_interval() -> None:
    """For many questions the interval is d +- 1.96 sqrt((b + c)/n - d^2) / sqrt(n)."""
    n, b, c = 4_000, 300, 500
    before = [True] * b + [False] * c + [True] * (n - b - c)
    after = [False] * b + [True] * c + [True] * (n - b - c)
    points, interval = paired_difference(before, after)
    difference = (c - b) / n
    half = 1.96 * math.sqrt(((b + c) / n - difference**2) / n)
    assert points == pytest.approx(5.0)
    assert interval == pytest.approx(
        (100 * (difference - half), 100 * (difference + half)), abs=0.06
    )
