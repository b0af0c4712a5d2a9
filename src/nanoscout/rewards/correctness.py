"""Rewards for the answer itself."""

from nanoscout.answers import contains, exact_match, f1
from nanoscout.records import StopReason, Trajectory


def correctness(trajectory: Trajectory) -> float:
    """1.0 where the episode ended in an answer that exactly matches the gold one or an alias."""
    return float(exact_match(given_answer(trajectory), _golds(trajectory)))


def answer_f1(trajectory: Trajectory) -> float:
    """Token F1 of the answer against the best of gold and aliases, in [0, 1]."""
    return f1(given_answer(trajectory), _golds(trajectory))


def substring(trajectory: Trajectory) -> float:
    """1.0 where the answer contains the gold one or an alias, wherever it stands.

    What the report's authors trained on (`subem_check` in menloresearch/verifiers-deepresearch,
    verifiers/rubrics/tool_rubric.py; Search-R1's of the same name): one direction only, no word
    boundaries. It pays for listing candidates, so it is no measure of being right. There an empty
    gold answer is contained in everything; here in nothing.
    """
    return float(contains(given_answer(trajectory), _golds(trajectory)))


def given_answer(trajectory: Trajectory) -> str:
    """Empty, which never matches, where the episode ended without an answer."""
    return (trajectory.answer or "") if trajectory.stop is StopReason.ANSWERED else ""


def _golds(trajectory: Trajectory) -> tuple[str, ...]:
    return (trajectory.question.answer, *trajectory.question.aliases)
