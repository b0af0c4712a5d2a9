"""Rewards for the form of a conversation (Jan-nano's stage 1)."""

from nanoscout.dialogue.format import FORMATS, Format
from nanoscout.dialogue.thinking import after_thinking
from nanoscout.records import StopReason, Trajectory, Turn, TurnKind

TAG_CREDIT = 0.25


def format_(trajectory: Trajectory) -> float:
    """1.0 where every turn is a call or an answer and the last one answers.

    Otherwise half the share of well-formed turns, so that there is a way up.
    """
    kinds = [turn.kind for turn in trajectory.turns]
    if not kinds:
        return 0.0
    well_formed = sum(not kind.malformed for kind in kinds) / len(kinds)
    answered = trajectory.stop is StopReason.ANSWERED and kinds[-1] is TurnKind.ANSWER
    return 1.0 if answered and well_formed == 1.0 else well_formed / 2


def xml_structure(trajectory: Trajectory) -> float:
    """Mean over turns of the credit for tags, in [0, 1].

    A turn earns a quarter each for exactly one opening tag, exactly one closing tag (or one a call,
    where it makes several), nothing after it, and no tag of another kind; as in the tag-count
    rewards of open-r1. What it thought before does not count.
    """
    if not trajectory.turns:
        return 0.0
    form = FORMATS[trajectory.format]
    return sum(_tag_credit(turn, form) for turn in trajectory.turns) / len(trajectory.turns)


def _tag_credit(turn: Turn, form: type[Format]) -> float:
    text, call = after_thinking(turn.text), form.call_tag
    name, other = ("answer", call) if "<answer>" in text else (call, "answer")
    if f"<{name}>" not in text:
        return 0.0
    wanted = max(1, len(turn.calls))
    strange = [f"<{slash}{tag}>" for tag in (other, form.result_tag) for slash in ("", "/")]
    return TAG_CREDIT * (
        (text.count(f"<{name}>") == wanted)
        + (text.count(f"</{name}>") == wanted)
        + text.rstrip().endswith(f"</{name}>")
        + (not any(tag in text for tag in strange))
    )
