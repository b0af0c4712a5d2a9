"""Reward for having found what the answer rests on: a path to questions of several hops."""

from nanoscout.records import Trajectory


def evidence(trajectory: Trajectory) -> float:
    """Share of the question's supporting pages that some tool result has shown, in [0, 1].

    0 where the question names none. It stands beside correctness and never in its place.
    """
    supporting = trajectory.question.supporting
    if not supporting:
        return 0.0
    return len(trajectory.shown.intersection(supporting)) / len(supporting)
