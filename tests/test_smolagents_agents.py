"""smolagents' agents over a real endpoint and a real MCP server, and when either of them fails."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest
from scripted import Reply
from serving import PAGES, running
from test_episode import turns
from test_serve import scripted, served

from nanoscout.dialogue.format import HermesFormat
from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.evaluation.agents import Remote, Terms, open_agent
from nanoscout.evaluation.agents.smolagents import SmolAgent
from nanoscout.evaluation.attempt import AgentFailed, Attempt
from nanoscout.records import Question
from nanoscout.rollout.episode import Limits
from nanoscout.search.index import SearchIndex

QUESTION = Question("q", "Where does Alma Voss live?", "Brell")
TERMS = Terms(Sampling(temperature=0.7, top_p=0.8, top_k=20), Limits(20_000, 4, 400))
AGENTS = ["smolagents-code", "smolagents-tools"]


def code(text: str) -> str:
    return f"Thought: so.\n<code>\n{text}\n</code>"


def call(name: str, **arguments: object) -> str:
    """What a model says whose turn has begun with `<tool_call>` already, since a call is forced."""
    return json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


SEARCH = {
    "smolagents-code": code('print(web_search(query="Alma Voss"))'),
    "smolagents-tools": call("web_search", query="Alma Voss"),
}
VISIT = {
    "smolagents-code": code('page = visit(url="https://w.org/Alma")\nprint(page)'),
    "smolagents-tools": call("visit", url="https://w.org/Alma"),
}
ANSWER = {
    "smolagents-code": code('final_answer("Brell" if "Brell" in page else "?")'),
    "smolagents-tools": call("final_answer", answer="<answer> Brell </answer>"),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    SearchIndex.build(PAGES, folder)
    return folder


@pytest.fixture(scope="module")
def tools(index: Path) -> Iterator[str]:
    with running("-m", "nanoscout", "mcp", str(index), "--http", "--port", "0") as server:
        yield server.url


def started_since(before: set[psutil.Process]) -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if process not in before]


def ask(
    name: str, reply: Reply, tools: str, terms: Terms = TERMS, questions: int = 1
) -> list[Attempt]:
    async def attempts(url: str) -> list[Attempt]:
        async with open_agent(name, terms, Remote(url, "told", tools)) as agent:
            asked = [Question(f"q{n}", QUESTION.text, "Brell") for n in range(questions)]
            return await asyncio.gather(*(agent.attempt(one, seed=1) for one in asked))

    with served(scripted(reply, HermesFormat())) as url:
        return asyncio.run(attempts(url))


@pytest.mark.parametrize("name", AGENTS)
def test_it_searches_visits_and_answers(name: str, tools: str) -> None:
    [attempt] = ask(name, turns(SEARCH[name], VISIT[name], ANSWER[name]), tools)
    assert (attempt.answer, attempt.stop) == ("Brell", "answered")
    assert (attempt.searches, attempt.visits) == (1, 1)
    assert [m["role"] for m in attempt.messages[:2]] == ["system", "user"]
    assert "You are an expert assistant" in attempt.messages[0]["content"]
    assert QUESTION.text in attempt.messages[1]["content"]
    assert "She lives in Brell." in attempt.messages[3]["content"]
    assert attempt.completion_tokens > 30
    assert attempt.prompt_tokens > 3 * attempt.completion_tokens


@pytest.mark.parametrize("name", AGENTS)
def test_many_at_once_over_one_session_with_a_server_that_is_a_command(
    name: str, index: Path
) -> None:
    before = set(psutil.Process().children())
    command = f"{sys.executable} -m nanoscout mcp {index}"
    attempts = ask(name, turns(SEARCH[name], VISIT[name], ANSWER[name]), command, questions=6)
    assert [attempt.answer for attempt in attempts] == ["Brell"] * 6
    assert [attempt.question_id for attempt in attempts] == [f"q{n}" for n in range(6)]
    assert [attempt.searches for attempt in attempts] == [1] * 6
    assert not started_since(before)


@pytest.mark.parametrize("name", AGENTS)
def test_a_turn_limit_is_scored_without_a_last_word(name: str, tools: str) -> None:
    asked = []

    def reply(so_far: str, seed: int) -> str:
        asked.append(so_far)
        return SEARCH[name]

    [attempt] = ask(name, reply, tools)
    assert (attempt.answer, attempt.stop) == (None, "turn_limit")
    assert (attempt.searches, len(asked)) == (4, 4)
    assert "She lives in Brell." in attempt.messages[-1]["content"]


@pytest.mark.parametrize("name", AGENTS)
def test_a_turn_that_is_cut_has_no_answer(name: str, tools: str) -> None:
    cut = {
        "smolagents-code": code('final_answer("Brell")\n' + "# and so on " * 400),
        "smolagents-tools": call("final_answer", answer="Brell") + " and so on" * 400,
    }
    [attempt] = ask(name, lambda so_far, seed: cut[name], tools)
    assert attempt.answer is None
    assert attempt.stop in ("token_limit", "turn_limit")


@pytest.mark.parametrize("name", AGENTS)
def test_a_conversation_that_outgrows_the_context_is_scored(name: str, tools: str) -> None:
    async def attempt(url: str) -> Attempt:
        async with open_agent(name, TERMS, Remote(url, "told", tools)) as agent:
            return await agent.attempt(QUESTION, seed=1)

    def reply(so_far: str, seed: int) -> str:
        model.engine.context_limit = 429  # type: ignore[misc]
        return SEARCH[name]

    model = scripted(reply, HermesFormat())
    with served(model) as url:
        made = asyncio.run(attempt(url))
    assert (made.answer, made.stop) == (None, "context_limit")


@pytest.mark.parametrize("name", AGENTS)
def test_what_is_wrong_is_told_and_the_agent_goes_on(name: str, tools: str) -> None:
    wrong = {
        "smolagents-code": code("web_search(nothing=1)"),
        "smolagents-tools": call("web_search", nothing=1),
    }
    # The framework's history has no turn for a call that it did not make.
    replies = iter((wrong[name], "no code and no call", VISIT[name], ANSWER[name]))
    [attempt] = ask(name, lambda so_far, seed: next(replies), tools)
    assert attempt.answer == "Brell"


@pytest.mark.parametrize("name", AGENTS)
def test_a_server_that_dies_midway_is_a_failure_not_an_answer(name: str, index: Path) -> None:
    with running("-m", "nanoscout", "mcp", str(index), "--http", "--port", "0") as server:

        def reply(so_far: str, seed: int) -> str:
            server.process.kill()
            return SEARCH[name]

        with pytest.raises(AgentFailed, match="tools could not be reached"):
            ask(name, reply, server.url)


@pytest.mark.parametrize("name", AGENTS)
def test_a_command_that_dies_midway_is_a_failure_once(name: str, index: Path) -> None:
    before = set(psutil.Process().children())
    replies = turns(SEARCH[name], VISIT[name], ANSWER[name])
    killed: list[psutil.Process] = []

    def reply(so_far: str, seed: int) -> str:
        if not killed:
            killed.extend(one for one in started_since(before) if "mcp" in one.cmdline())
            killed[0].kill()
        return replies(so_far, seed)

    async def twice(url: str) -> Attempt:
        command = f"{sys.executable} -m nanoscout mcp {index}"
        async with open_agent(name, TERMS, Remote(url, "told", command)) as agent:
            with pytest.raises(AgentFailed, match="tools could not be reached"):
                await agent.attempt(QUESTION, seed=1)
            return await agent.attempt(QUESTION, seed=1)

    with served(scripted(reply, HermesFormat())) as url:
        assert asyncio.run(twice(url)).answer == "Brell"


@pytest.mark.parametrize("name", AGENTS)
def test_an_endpoint_that_is_gone_is_a_failure(name: str, tools: str) -> None:
    async def attempt() -> None:
        with served(scripted(turns("Brell"), HermesFormat())) as url:
            agent = open_agent(name, TERMS, Remote(url, "told", tools))
            await agent.__aenter__()
        try:
            await agent.attempt(QUESTION, seed=1)
        finally:
            await agent.__aexit__()

    with pytest.raises(AgentFailed, match="the endpoint fails"):
        asyncio.run(attempt())


def test_tools_that_are_not_there_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        ask("smolagents-tools", turns("Brell"), "http://127.0.0.1:9/mcp")


@pytest.mark.parametrize("name", AGENTS)
def test_sampling_that_the_framework_would_drop_is_named(
    name: str, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = openai.resources.chat.Completions.create

    def dropping(self: object, **asked: object) -> object:
        del asked["top_p"], asked["extra_body"]
        return create(self, **asked)  # type: ignore[call-overload]

    monkeypatch.setattr(openai.resources.chat.Completions, "create", dropping)
    with pytest.raises(UserError, match=r"does not send top_p \(0\.8 asked, None sent\), top_k"):
        ask(name, turns("Brell"), tools)


def test_what_a_tool_does_not_require_is_optional(tools: str) -> None:
    """smolagents' adapter of MCP tools takes all arguments for required."""

    async def listed(url: str) -> dict[str, bool]:
        async with open_agent("smolagents-tools", TERMS, Remote(url, "told", tools)) as agent:
            assert isinstance(agent, SmolAgent)
            search = agent._tool(agent._listed[0], [])
            return {name: schema.get("nullable", False) for name, schema in search.inputs.items()}

    with served(scripted(turns("Brell"))) as url:
        assert asyncio.run(listed(url)) == {"query": False, "page": True}
