"""Rewards for the answer itself."""

from nanoscout.answers import exact_match, f1
from nanoscout.records import Trajectory


def correctness(trajectory: Trajectory) -> float:
    """1.0 where the episode ended in an answer that exactly matches the gold one or an alias."""
    question = trajectory.question
    if trajectory.answer is None:
        return 0.0
    return float(exact_match(trajectory.answer, (question.answer, *question.aliases)))


def answer_f1(trajectory: Trajectory) -> float:
    """Token F1 of the answer against the best of gold and aliases, in [0, 1]."""
    question = trajectory.question
    if trajectory.answer is None:
        return 0.0
    return f1(trajectory.answer, (question.answer, *question.aliases))
