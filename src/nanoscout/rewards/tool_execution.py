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
"""Turns that tried to call a tool, or to use one's result, well-formed or not; a malformed one
counts as one attempt."""


def tool_execution(trajectory: Trajectory) -> float:
    """Successful calls over attempts, times 1 - 2^-d for d distinct tools used; in [0, 1).

    The report weights success by the variety of tools. Halving what is missing with each further
    tool gives a plain search half the reward already, and a visit beside it a quarter more.
    """
    attempts = [turn for turn in trajectory.turns if turn.kind in ATTEMPTS]
    worked = [
        call.name
        for turn in attempts
        for call, result in zip(turn.calls, turn.results, strict=False)
        if result.ok
    ]
    if not worked:
        return 0.0
    tried = sum(max(1, len(turn.calls)) for turn in attempts)
    return len(worked) / tried * (1.0 - 0.5 ** len(set(worked)))
