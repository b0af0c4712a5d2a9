"""Reward for an answer that a judge, a language model, holds to be right (judge/)."""

from nanoscout.records import Grade, Trajectory


def judged(trajectory: Trajectory) -> float:
    """1.0 where the judge's grade is CORRECT, else 0.0 (SimpleQA's grades, arXiv 2411.04368).

    A trajectory that no judge has graded has no score: ValueError.
    """
    if trajectory.grade is None:
        raise ValueError("the trajectory has no grade")
    return float(trajectory.grade is Grade.CORRECT)
