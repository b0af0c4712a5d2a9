"""Each reward against values worked out by hand, and what must not earn it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoscout.errors import UserError
from nanoscout.records import (
    Grade,
    Question,
    Step,
    StopReason,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
    TurnKind,
)
from nanoscout.rewards import REWARDS, find_reward, score
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


RANGES = dict.fromkeys(REWARDS, (0.0, 1.0)) | {
    "visit_to_search": (-0.5, 1.0),
    "repeated_calls": (-1.0, 0.0),
    "tag_count": (0.0, 2.0),
}
TAGS = ("<tool>", "</tool>", "<answer>", "</answer>", "<result>", "<think>", "</think>", "words ")
TEXTS = st.lists(st.sampled_from(TAGS) | st.text(max_size=20), max_size=8).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
CALLS = st.builds(
    ToolCall,
    st.sampled_from(["web_search", "visit", "other"]),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=2),
)
RESULTS = st.builds(
    ToolResult, st.just("text"), st.booleans(), st.just(()) | st.just(("mill", "alma"))
)
TURNS = st.builds(
    Turn,
    st.just(0),
    st.just(0),
    TEXTS,
    st.sampled_from(TurnKind),
    st.lists(CALLS, max_size=2),
    st.lists(RESULTS, max_size=2),
)


@settings(deadline=None)
@given(
    st.lists(TURNS, max_size=6),
    st.sampled_from(StopReason),
    st.none() | st.text(max_size=30),
    st.sampled_from(Grade),
)
def test_every_reward_of_any_conversation_is_a_number_in_its_range(
    turns: list[Turn], stop: StopReason, answer: str | None, grade: Grade
) -> None:
    trajectory = Trajectory(QUESTION, turns=turns, stop=stop, answer=answer, grade=grade)
    for name, reward in REWARDS.items():
        low, high = RANGES[name]
        assert low <= reward(trajectory) <= high, name


def test_an_unknown_reward_names_the_nearest_known_one() -> None:
    assert all(find_reward(name) is reward for name, reward in REWARDS.items())
    with pytest.raises(UserError, match="no reward 'corectness'; did you mean 'correctness'"):
        find_reward("corectness")
    with pytest.raises(UserError, match="did you mean"):
        find_reward("")


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("Brell", 1.0),
        ("It is BRÉLL, in Onn.", 1.0),
        ("Tal or Brell or Onn or Mar", 1.0),
        ("Brellmoor", 1.0),
        ("Old", 0.0),
        ("Bre", 0.0),
        ("", 0.0),
        ("東京", 0.0),
        ("x" * 100_000, 0.0),
        ("x " * 50_000 + "Brell", 1.0),
    ],
)
def test_substring_wants_the_gold_answer_in_the_given_one(answer: str, reward: float) -> None:
    assert REWARDS["substring"](answered(answer=answer)) == reward


def test_substring_of_what_is_no_answer() -> None:
    for gold in ("", "the", "?!"):
        question = Question("q", "?", answer=gold)
        assert REWARDS["substring"](answered(answer="the?!", question=question)) == 0.0
    assert REWARDS["substring"](Trajectory(QUESTION, stop=StopReason.TURN_LIMIT)) == 0.0
    unanswered = Trajectory(QUESTION, stop=StopReason.TURN_LIMIT, answer="Brell")
    assert REWARDS["substring"](unanswered) == 0.0


def calls_of(**counts: int) -> list[Turn]:
    return [called(name) for name, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ([], -0.5),
        (calls_of(visit=3), -0.5),
        (calls_of(web_search=1), -0.5),
        (calls_of(web_search=2, visit=1), -0.5),
        (calls_of(web_search=1, visit=1), 0.0),
        (calls_of(web_search=2, visit=4), 0.25**0.25),
        (calls_of(web_search=1, visit=3), 0.5**0.25),
        (calls_of(web_search=1, visit=5), 1.0),
        (calls_of(web_search=1, visit=30), 1.0),
        ([*calls_of(web_search=1, visit=2), called("visit", ok=False)], 0.25**0.25),
        ([called(ok=False), *calls_of(visit=5)], -0.5),
        (calls_of(other=9, web_search=1, visit=5), 1.0),
    ],
)
def test_visits_a_search(turns: list[Turn], reward: float) -> None:
    assert REWARDS["visit_to_search"](answered(*turns)) == pytest.approx(reward)


def asked(name: str, **args: Any) -> Turn:
    return Turn(0, 0, "", TurnKind.CALL, [ToolCall(name, args)], [ToolResult("text", ok=True)])


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ([], 0.0),
        ([asked("web_search", query="mill")], 0.0),
        ([asked("web_search", query="mill"), asked("web_search", query="alma")], 0.0),
        ([asked("web_search", query="mill"), asked("visit", query="mill")], 0.0),
        ([asked("visit", url="u"), asked("visit", url="u", offset=100)], 0.0),
        ([asked("web_search", query="mill"), asked("web_search", query=" MILL ")], -1 / 2),
        ([asked("visit", url="u", offset=1), asked("visit", offset=1, url="u")], -1 / 2),
        ([asked("web_search", query="a"), asked("web_search", query="b")] * 2, -2 / 4),
        ([asked("web_search", query="a")] * 10, -9 / 10),
        ([malformed(TurnKind.BAD_JSON)] * 3, 0.0),
    ],
)
def test_the_same_call_again_costs(turns: list[Turn], reward: float) -> None:
    assert REWARDS["repeated_calls"](answered(*turns)) == pytest.approx(reward)


def thinking(*words: int, text: str = "<think>{}</think>") -> Turn:
    blocks = "".join(text.format(" word" * count) for count in words)
    return Turn(0, 0, blocks + SEARCH, TurnKind.CALL, [ToolCall("web_search", {})])


# 2/200 phi(z) Phi(5z) / 0.0036056853513317067 with z = (words - 70)/200, worked out with mpmath.
@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ([thinking(20)], 0.11329718),
        ([thinking(70)], 0.55321283),
        ([thinking(144)], 0.99999953),
        ([thinking(270)], 0.67108089),
        ([thinking(1_000)], 2.2318039e-5),
        ([thinking(0)], 0.041689195),
        ([thinking(40), thinking(100)], 0.55321283),
        ([thinking(40, 100)], 0.55321283),
        ([thinking(70), called()], 0.55321283),
        ([thinking(70, text="{}</think>")], 0.55321283),
        ([called()], 0.0),
        ([thinking(70), thinking(70, text="<think>{}")], 0.0),
        ([thinking(70), thinking(70, text="<think>{}</think></think>")], 0.0),
        ([malformed(TurnKind.NO_TAG, "<think>" + "word " * 144 + "</think>")], 0.0),
    ],
)
def test_thoughts_of_the_right_length(turns: list[Turn], reward: float) -> None:
    trajectory = answered(*turns)
    assert REWARDS["efficient_thinking"](trajectory) == pytest.approx(reward, rel=1e-6)


def test_a_thought_about_the_answer_has_no_length_to_keep() -> None:
    trajectory = answered(thinking(70))
    trajectory.turns[-1].text = "<think>" + "word " * 5_000 + "</think><answer>Brell</answer>"
    assert REWARDS["efficient_thinking"](trajectory) == pytest.approx(0.55321283)


@pytest.mark.parametrize("text", ["<think>" * 50_000, "</think><think>" * 20_000])
def test_tags_without_end_take_no_time(text: str) -> None:
    hostile = Turn(0, 0, text + SEARCH, TurnKind.CALL, [ToolCall("web_search", {})])
    for name in ("efficient_thinking", "tag_count", "no_thinking"):
        assert REWARDS[name](answered(hostile)) == 0.0


@pytest.mark.parametrize(
    ("trajectory", "reward"),
    [
        (answered(), 0.0),
        (answered(called()), 1 / 2),
        (answered(called(), called(), called("visit")), 3 / 4),
        (answered(thinking(5), thinking(5)), (2 + 2) / 3),
        (answered(thinking(5, 5, 5)), (1 + 1) / 2),
        (answered(thinking(5, text="{}</think>")), (1 + 1) / 2),
        (answered(thinking(5, text="<think>{}")), 0.0),
        (answered(called(), malformed(TurnKind.SEVERAL, SEARCH * 9)), 0.0),
        (cut(called(), called()), 0.0),
        (cut(), 0.0),
    ],
)
def test_the_number_of_tags(trajectory: Trajectory, reward: float) -> None:
    assert REWARDS["tag_count"](trajectory) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (SEARCH, 1.0),
        ("I think, so I search. " + SEARCH, 1.0),
        ("<think></think>" + SEARCH, 0.0),
        ("<think>endless", 0.0),
        ("thought</think>" + SEARCH, 0.0),
    ],
)
def test_not_to_think(text: str, reward: float) -> None:
    for turns in ([malformed(TurnKind.NO_TAG, text)], [called(), malformed(TurnKind.CALL, text)]):
        assert REWARDS["no_thinking"](cut(*turns)) == reward
    assert REWARDS["no_thinking"](cut()) == 1.0


def test_a_judged_answer_is_worth_what_the_judge_says() -> None:
    worth = {Grade.CORRECT: 1.0, Grade.INCORRECT: 0.0, Grade.NOT_ATTEMPTED: 0.0}
    for grade, reward in worth.items():
        assert REWARDS["judge"](Trajectory(QUESTION, answer="Onn", grade=grade)) == reward
    with pytest.raises(ValueError, match="no grade"):
        REWARDS["judge"](answered())


@pytest.mark.parametrize(
    ("sampled_tokens", "penalty"),
    [(0, 0.0), (16_384, 0.0), (16_385, -1 / 4_096), (18_432, -0.5), (20_480, -1.0), (99_999, -1.0)],
)
def test_soft_overlong_with_the_numbers_of_dapo(sampled_tokens: int, penalty: float) -> None:
    # Section 3.4: an expected length of 16,384 tokens and a cache of 4,096 on top of it.
    assert soft_overlong(sampled_tokens, 20_480, 4_096) == pytest.approx(penalty)
