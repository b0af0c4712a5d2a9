"""Reward for calls that work (Jan-nano's stage 1)."""

from nanoscout.records import Trajectory, TurnKind

ATTEMPTS = frozenset(
    {
        TurnKind.CALL,
        TurnKind.UNCLOSED,
        TurnKind.SEVERAL,
        TurnKind.CALL_AND_ANSWER,
        TurnKind.TRAILING_TEXT,
        TurnKind.BAD_JSON,
        TurnKind.BAD_CALL,
        TurnKind.FORGED_RESULT,
    }
)
"""Turns that tried to call a tool, or to use one's result, well-formed or not."""


def tool_execution(trajectory: Trajectory) -> float:
    """Successful calls over attempts, times 1 - 2^-d for d distinct tools used; in [0, 1).

    The report weights success by the variety of tools. Halving what is missing with each further
    tool gives a plain search half the reward already, and a visit beside it a quarter more.
    """
    attempts = [turn for turn in trajectory.turns if turn.kind in ATTEMPTS]
    worked = [turn.call.name for turn in attempts if turn.call and turn.result and turn.result.ok]
    if not worked:
        return 0.0
    return len(worked) / len(attempts) * (1.0 - 0.5 ** len(set(worked)))
