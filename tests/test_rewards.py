"""Each reward against values worked out by hand, and what must not earn it."""

import pytest

from nanoscout.errors import UserError
from nanoscout.records import (
    Question,
    Step,
    StopReason,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
    TurnKind,
)
from nanoscout.rewards import REWARDS, check_names, score
from nanoscout.rewards.overlong import soft_overlong

QUESTION = Question(
    id="q",
    text="Where was the painter of The Mill born?",
    answer="Brell",
    aliases=("Old Brell",),
    hop_type="2hop",
    steps=(Step("Who painted The Mill?", "Alma", "mill"), Step("Where?", "Brell", "alma")),
)
SEARCH = '<tool>{"name": "web_search", "args": {"query": "The Mill"}}</tool>'


def called(name: str = "web_search", *, ok: bool = True, shown: tuple[str, ...] = ()) -> Turn:
    result = ToolResult("text", ok=ok, shown=shown)
    return Turn(0, 0, SEARCH, TurnKind.CALL, [ToolCall(name, {})], [result])


def malformed(kind: TurnKind, text: str = "") -> Turn:
    return Turn(0, 0, text, kind, results=[ToolResult("Error", ok=False)])


def answered(*turns: Turn, answer: str = "Brell", question: Question = QUESTION) -> Trajectory:
    last = Turn(0, 0, f"<answer>{answer}</answer>", TurnKind.ANSWER)
    return Trajectory(question, turns=[*turns, last], answer=answer)


def cut(*turns: Turn, stop: StopReason = StopReason.TURN_LIMIT) -> Trajectory:
    return Trajectory(QUESTION, turns=list(turns), stop=stop)


@pytest.mark.parametrize(
    ("answer", "correctness", "f1"),
    [
        ("Brell", 1.0, 1.0),
        ("the old brell.", 1.0, 1.0),
        ("Old Brell, Onn", 0.0, 0.8),
        ("Brell or Onn", 0.0, 0.5),
        ("Onn", 0.0, 0.0),
        ("the", 0.0, 0.0),
    ],
)
def test_correctness_and_f1_of_an_answer(answer: str, correctness: float, f1: float) -> None:
    trajectory = answered(answer=answer)
    assert REWARDS["correctness"](trajectory) == correctness
    assert REWARDS["f1"](trajectory) == pytest.approx(f1)


def test_an_episode_that_did_not_end_in_an_answer_is_not_correct() -> None:
    for stop in StopReason:
        trajectory = Trajectory(QUESTION, stop=stop, answer="Brell")
        right = float(stop is StopReason.ANSWERED)
        assert REWARDS["correctness"](trajectory) == REWARDS["f1"](trajectory) == right
    assert REWARDS["correctness"](cut(called())) == 0.0


def test_an_empty_gold_answer_is_never_met() -> None:
    for gold in ("", "the", "?"):
        question = Question("q", "?", answer=gold)
        for answer in ("", gold, "x"):
            assert REWARDS["correctness"](answered(answer=answer, question=question)) == 0.0
            assert REWARDS["f1"](answered(answer=answer, question=question)) == 0.0


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ([], 0.0),
        ([called()], 0.5),
        ([called(), called(), called()], 0.5),
        ([called(), called("visit")], 0.75),
        ([called(ok=False)], 0.0),
        ([called(), called("visit", ok=False)], 0.25),
        ([called(), malformed(TurnKind.NO_TAG)], 0.5),
        ([called(), malformed(TurnKind.EMPTY_ANSWER)], 0.5),
        ([called(), malformed(TurnKind.BAD_JSON)], 0.25),
        ([called(), malformed(TurnKind.BAD_CALL), malformed(TurnKind.UNCLOSED), called()], 0.25),
        ([called(), called("visit"), malformed(TurnKind.FORGED_RESULT)], 0.5),
    ],
)
def test_tool_execution(turns: list[Turn], reward: float) -> None:
    assert REWARDS["tool_execution"](answered(*turns)) == pytest.approx(reward)


@pytest.mark.parametrize(
    "kind",
    [
        TurnKind.BAD_JSON,
        TurnKind.BAD_CALL,
        TurnKind.UNCLOSED,
        TurnKind.SEVERAL,
        TurnKind.CALL_AND_ANSWER,
        TurnKind.TRAILING_TEXT,
        TurnKind.FORGED_RESULT,
    ],
)
def test_a_call_that_went_wrong_is_an_attempt(kind: TurnKind) -> None:
    assert REWARDS["tool_execution"](answered(called(), malformed(kind))) == 0.25


@pytest.mark.parametrize(
    ("trajectory", "reward"),
    [
        (answered(), 1.0),
        (answered(called(), called(ok=False)), 1.0),
        (answered(called(), malformed(TurnKind.NO_TAG), called()), 3 / 4 / 2),
        (cut(called(), called()), 1 / 2),
        (cut(called(), malformed(TurnKind.UNCLOSED), stop=StopReason.TOKEN_LIMIT), 1 / 4),
        (cut(malformed(TurnKind.NO_TAG), stop=StopReason.MALFORMED), 0.0),
        (cut(stop=StopReason.CONTEXT_LIMIT), 0.0),
    ],
)
def test_format(trajectory: Trajectory, reward: float) -> None:
    assert REWARDS["format"](trajectory) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("text", "credit"),
    [
        (SEARCH, 1.0),
        (f"I will search.\n{SEARCH}\n", 1.0),
        ("<answer>Brell</answer>", 1.0),
        (f"{SEARCH} and more", 0.75),
        (SEARCH + SEARCH, 0.5),
        ('<tool>{"name":', 0.5),
        ("Brell</answer>", 0.0),
        ("</tool><tool>", 0.75),
        (f"{SEARCH}<answer>Brell</answer>", 0.75),
        (f"{SEARCH}<result>forged</result>", 0.5),
        ("The answer is Brell.", 0.0),
        ("", 0.0),
        ("<answer>" * 1_000, 0.25),
    ],
)
def test_the_structure_of_a_turn(text: str, credit: float) -> None:
    assert REWARDS["xml_structure"](cut(malformed(TurnKind.NO_TAG, text))) == credit


def test_structure_is_the_mean_over_turns() -> None:
    trajectory = answered(called(), malformed(TurnKind.NO_TAG, "Brell"))
    assert REWARDS["xml_structure"](trajectory) == pytest.approx(2 / 3)
    assert REWARDS["xml_structure"](cut()) == 0.0


def test_evidence_is_the_share_of_supporting_pages_seen() -> None:
    evidence = REWARDS["evidence"]
    assert evidence(answered(called(shown=("mill", "other")))) == 0.5
    assert evidence(answered(called(shown=("mill",)), called("visit", shown=("mill",)))) == 0.5
    assert evidence(answered(called(shown=("mill",)), called(shown=("alma", "x")))) == 1.0
    assert evidence(cut(called(shown=("alma", "mill")))) == 1.0
    assert evidence(answered(called(shown=("other",)))) == 0.0
    assert evidence(answered()) == 0.0
    nothing_to_show = Question("q", "?", "Brell")
    assert evidence(answered(called(shown=("mill",)), question=nothing_to_show)) == 0.0


def test_evidence_never_makes_an_answer_correct() -> None:
    trajectory = answered(called(shown=("mill", "alma")), answer="Onn")
    scores = score(trajectory, {"correctness": 1.0, "evidence": 0.25})
    assert scores.parts == {"correctness": 0.0, "evidence": 1.0}
    assert scores.total == 0.25


def test_a_score_is_the_weighted_sum_of_the_named_rewards() -> None:
    trajectory = answered(called())
    scores = score(trajectory, {"correctness": 2.0, "tool_execution": 0.5, "format": -1.0})
    assert scores.parts == {"correctness": 1.0, "tool_execution": 0.5, "format": 1.0}
    assert scores.total == pytest.approx(2.0 + 0.25 - 1.0)
    assert score(trajectory, {}).total == 0.0


def test_every_reward_of_every_kind_of_turn_is_a_share() -> None:
    texts = ("", SEARCH, "<tool>", "<answer>x</answer>", "<result>")
    turns = [malformed(kind, text) for kind in TurnKind for text in texts]
    for trajectory in (answered(*turns), cut(*turns), *(cut(turn) for turn in turns)):
        for reward in REWARDS.values():
            assert 0.0 <= reward(trajectory) <= 1.0


def test_an_unknown_reward_names_the_nearest_known_one() -> None:
    check_names(dict.fromkeys(REWARDS, 1.0))
    with pytest.raises(UserError, match="no reward 'corectness'; did you mean 'correctness'"):
        check_names({"format": 0.2, "corectness": 1.0})
    with pytest.raises(UserError, match="did you mean"):
        check_names({"": 1.0})


@pytest.mark.parametrize(
    ("sampled_tokens", "penalty"),
    [(0, 0.0), (16_384, 0.0), (16_385, -1 / 4_096), (18_432, -0.5), (20_480, -1.0), (99_999, -1.0)],
)
def test_soft_overlong_with_the_numbers_of_dapo(sampled_tokens: int, penalty: float) -> None:
    # Section 3.4: an expected length of 16,384 tokens and a cache of 4,096 on top of it.
    assert soft_overlong(sampled_tokens, 20_480, 4_096) == pytest.approx(penalty)
