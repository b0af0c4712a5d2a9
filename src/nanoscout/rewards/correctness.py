"""Rewards for the answer itself."""

from nanoscout.answers import exact_match, f1
from nanoscout.records import StopReason, Trajectory


def correctness(trajectory: Trajectory) -> float:
    """1.0 where the episode ended in an answer that exactly matches the gold one or an alias."""
    return float(exact_match(_answer(trajectory), _golds(trajectory)))


def answer_f1(trajectory: Trajectory) -> float:
    """Token F1 of the answer against the best of gold and aliases, in [0, 1]."""
    return f1(_answer(trajectory), _golds(trajectory))


def _answer(trajectory: Trajectory) -> str:
    """Empty, which never matches, where the episode ended without an answer."""
    return (trajectory.answer or "") if trajectory.stop is StopReason.ANSWERED else ""


def _golds(trajectory: Trajectory) -> tuple[str, ...]:
    return (trajectory.question.answer, *trajectory.question.aliases)
