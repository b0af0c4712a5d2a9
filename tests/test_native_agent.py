"""The native agent: its attempts are the episodes, in OpenAI's words."""

import asyncio
import json

import pytest
from scripted import Reply, ScriptedEngine
from serving import PAGES

from nanoscout.dialogue.format import XmlFormat
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.evaluation.agents import InProcess, Remote, Terms, open_agent
from nanoscout.evaluation.attempt import AgentFailed, Attempt
from nanoscout.models import load_tokenizer
from nanoscout.recipe import ModelSpec
from nanoscout.records import Question
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits, run_episode
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.protocol import SearchEngine, SearchUnavailable
from nanoscout.tools import toolbox as toolbox_module
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

TOKENIZER = load_tokenizer(ModelSpec(source="tiny:qwen3"))
QUESTION = Question("q", "Where does Alma Voss live?", "Brell")
SEARCH = 'I look. <tool>{"name": "web_search", "args": {"query": "Alma Voss"}}</tool>'
VISIT = '<tool>{"name": "visit", "args": {"url": "https://w.org/Alma"}}</tool>'
TERMS = Terms(Sampling(temperature=0.0), Limits(20_000, turns=4, turn_tokens=400))


def environment(search: SearchEngine, repeat_question: bool = False) -> Environment:
    dialogue = Dialogue(TOKENIZER, XmlFormat(), thinking=False)
    toolbox = Toolbox(search_tools(search, 10, 2_000))
    shown = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "shown"}]
    return Environment(dialogue, toolbox, "Search.", (shown,), repeat_question)


def ask(*turns: str, search: SearchEngine | None = None, repeat_question: bool = False) -> Attempt:
    """What becomes of the question when the model says these turns one after the other."""
    said = iter(turns)
    replies: Reply = lambda so_far, seed: next(said)  # noqa: E731
    home = environment(search or LocalSearch(SearchIndex.build(PAGES)), repeat_question)

    async def attempt() -> Attempt:
        engine = ScriptedEngine(TOKENIZER, replies)
        async with open_agent("native", TERMS, InProcess(home, engine)) as agent:
            assert agent.name == "native"
            return await agent.attempt(QUESTION, seed=1)

    return asyncio.run(attempt())


def test_an_attempt_tells_the_episode_in_openai_messages() -> None:
    attempt = ask(SEARCH, "Nothing.", VISIT, "Seen. <answer> Brell </answer>", repeat_question=True)
    question = {"role": "user", "content": QUESTION.text}
    system, asked, first, found, again, lost, error, *_ = attempt.messages
    assert (system, asked, again) == ({"role": "system", "content": "Search."}, question, question)
    [call] = first["tool_calls"]
    assert first["content"] == "I look."
    assert call["function"]["name"] == "web_search"
    assert json.loads(call["function"]["arguments"]) == {"query": "Alma Voss"}
    assert found["role"] == "tool"
    assert found["tool_call_id"] == call["id"]
    assert "https://w.org/Alma" in found["content"]
    assert lost == {"role": "assistant", "content": "Nothing."}
    assert error["role"] == "user"
    assert "neither a tool call nor an answer" in error["content"]
    last = attempt.messages[-1]
    assert last == {"role": "assistant", "content": "Seen. <answer> Brell </answer>"}
    assert (attempt.question_id, attempt.answer, attempt.stop) == ("q", "Brell", "answered")
    assert (attempt.searches, attempt.visits, attempt.calls) == (1, 1, 2)


def test_tokens_are_those_of_the_trajectory() -> None:
    home = environment(LocalSearch(SearchIndex.build(PAGES)))
    turns = (SEARCH, "<answer>Brell</answer>")
    said = iter(turns)
    engine = ScriptedEngine(TOKENIZER, lambda so_far, seed: next(said))
    trajectory = asyncio.run(
        run_episode(QUESTION, home, engine, TERMS.limits, TERMS.sampling, seed=1)
    )
    attempt = ask(*turns)
    assert attempt.completion_tokens == trajectory.sampled_tokens
    assert attempt.prompt_tokens + attempt.completion_tokens == len(trajectory.token_ids)


def test_a_limit_is_an_attempt() -> None:
    attempt = ask(SEARCH, SEARCH, SEARCH, SEARCH)
    assert (attempt.answer, attempt.stop) == (None, "turn_limit")
    assert attempt.searches == 3  # the last call was not made
    assert len(attempt.messages) == 9


class Down:
    name = "down"

    async def search(self, query: str, k: int, page: int = 1) -> list[object]:
        raise SearchUnavailable("down")

    visit = search


def test_tools_that_cannot_be_reached_are_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox_module, "RETRY_SECONDS", (0.0,))
    with pytest.raises(AgentFailed, match="tools could not be reached"):
        ask(SEARCH, search=Down())  # type: ignore[arg-type]


def test_the_prefix_that_all_questions_share_is_announced() -> None:
    class Listening(ScriptedEngine):
        announced = ""

        def share_prefix(self, prefix_ids) -> None:  # type: ignore[no-untyped-def]
            self.announced = TOKENIZER.decode(prefix_ids)

    engine = Listening(TOKENIZER, lambda so_far, seed: "<answer>x</answer>")
    home = InProcess(environment(LocalSearch(SearchIndex.build(PAGES))), engine)

    async def opened() -> None:
        async with open_agent("native", TERMS, home):
            pass

    asyncio.run(opened())
    assert "Search." in engine.announced
    assert "shown" in engine.announced
    assert engine.announced.endswith("user\n")


@pytest.mark.parametrize(("name", "said"), [("nativ", "no such agent"), ("native", "in this proc")])
def test_wrong_names_and_places_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_agent(name, TERMS, Remote("http://127.0.0.1:1/v1", "m", "nanoscout mcp x"))
