"""Rewards for thinking: of the right length, or not at all."""

from statistics import NormalDist

from nanoscout.dialogue.thinking import CLOSE, OPEN
from nanoscout.records import Trajectory, TurnKind

LOCATION, SCALE, SKEW = 70.0, 200.0, 5.0
"""Of the skew-normal density over a thought's words; its mode is at 144."""

PEAK = 0.0036056853513317067
"""The density at its mode, as published."""

NORMAL = NormalDist()


def efficient_thinking(trajectory: Trajectory) -> float:
    """How near the mean thought before a tool call is to 144 words, in [0, 1].

    The skew-normal density 2/w phi(z) Phi(5z), z = (words - 70)/200, over its peak: .11 for 20
    words, .55 for 70, .28 for 400. 0.0 where no turn with a call thinks, or one has think tags that
    do not pair up. `efficient_thinking_reward_func` of the report's authors
    (menloresearch/verifiers-deepresearch, verifiers/rubrics/tool_rubric.py), without scipy.
    """
    words: list[int] = []
    for turn in trajectory.turns:
        if not turn.calls:
            continue
        thoughts = thoughts_of(turn.text)
        if thoughts is None:
            return 0.0
        words += [len(thought.split()) for thought in thoughts]
    if not words:
        return 0.0
    z = (sum(words) / len(words) - LOCATION) / SCALE
    return min(1.0, 2 / SCALE * NORMAL.pdf(z) * NORMAL.cdf(SKEW * z) / PEAK)


def tag_count(trajectory: Trajectory) -> float:
    """(Think blocks + calls) / turns of a conversation that is well-formed and answers, in [0, 2).

    0.0 where a turn is malformed, a think tag has no partner, or there is no answer. A turn counts
    for one think block at most. `num_xml_reward_func` of the report's authors
    (menloresearch/verifiers-deepresearch, verifiers/rubrics/tool_rubric.py), where thinking before
    each call is worth as much as the call; `xml_structure` grades the tags of each turn instead.
    """
    if not trajectory.turns or trajectory.turns[-1].kind is not TurnKind.ANSWER:
        return 0.0
    blocks = [thoughts_of(turn.text) for turn in trajectory.turns]
    if None in blocks or any(turn.kind.malformed for turn in trajectory.turns):
        return 0.0
    calls = sum(bool(turn.calls) for turn in trajectory.turns)
    return (sum(map(bool, blocks)) + calls) / len(trajectory.turns)


def no_thinking(trajectory: Trajectory) -> float:
    """1.0 where no turn has a think tag, opening or closing, else 0.0.

    The report forces non-thinking; this is the reward that can hold a model to it.
    """
    return float(not any(OPEN in turn.text or CLOSE in turn.text for turn in trajectory.turns))


def thoughts_of(text: str) -> list[str] | None:
    """What stands in a turn's think blocks; None where opening and closing tags do not pair up.

    The first block may lack its opening tag, since some templates put that into the prompt.
    """
    before = text.partition(OPEN)[0]
    if CLOSE in before:
        text = OPEN + text
    if text.count(OPEN) != text.count(CLOSE):
        return None
    return [part.partition(CLOSE)[0] for part in text.split(OPEN)[1:] if CLOSE in part]
