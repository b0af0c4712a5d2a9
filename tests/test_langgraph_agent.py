"""LangGraph's agent over a real endpoint and a real MCP server, and when either of them fails."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import Reply
from serving import PAGES, running
from test_episode import turns
from test_serve import scripted, served

from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.evaluation.agents import Remote, Terms, open_agent
from nanoscout.evaluation.agents.final_answer import final_answer
from nanoscout.evaluation.agents.sampling_check import Asked, check_sampling
from nanoscout.evaluation.attempt import AgentFailed, Attempt
from nanoscout.records import Question
from nanoscout.rollout.episode import Limits
from nanoscout.search.index import SearchIndex

QUESTION = Question("q", "Where does Alma Voss live?", "Brell")
SEARCH = '<tool>{"name": "web_search", "args": {"query": "Alma Voss"}}</tool>'
VISIT = '<tool>{"name": "visit", "args": {"url": "https://w.org/Alma"}}</tool>'
TERMS = Terms(Sampling(temperature=0.7, top_p=0.8, top_k=20), Limits(20_000, 4, 400))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    SearchIndex.build(PAGES, folder)
    return folder


@pytest.fixture(scope="module")
def tools(index: Path) -> Iterator[str]:
    with running("-m", "nanoscout", "mcp", str(index), "--http", "--port", "0") as server:
        yield server.url


def ask(reply: Reply, tools: str) -> Attempt:
    async def attempt(url: str) -> Attempt:
        async with open_agent("langgraph", TERMS, Remote(url, "told", tools)) as agent:
            return await agent.attempt(QUESTION, seed=1)

    with served(scripted(reply)) as url:
        return asyncio.run(attempt(url))


def test_it_searches_visits_and_answers(tools: str) -> None:
    attempt = ask(turns(SEARCH, VISIT, "She does. <answer> Brell </answer>"), tools)
    assert (attempt.answer, attempt.stop) == ("Brell", "answered")
    assert (attempt.searches, attempt.visits) == (1, 1)
    roles = ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [message["role"] for message in attempt.messages] == roles
    assert "She lives in Brell." in str(attempt.messages[2]["content"])
    assert attempt.completion_tokens > 50
    assert attempt.prompt_tokens > attempt.completion_tokens


def test_it_starts_the_server_whose_command_it_is_given(index: Path) -> None:
    command = f"{sys.executable} -m nanoscout mcp {index}"
    attempt = ask(turns(SEARCH, "Brell"), command)
    assert (attempt.answer, attempt.searches) == ("Brell", 1)


def test_a_step_limit_is_scored_with_all_that_was_said(tools: str) -> None:
    attempt = ask(lambda so_far, seed: SEARCH, tools)
    assert (attempt.answer, attempt.stop) == (None, "turn_limit")
    assert attempt.searches == 4
    assert [m["role"] for m in attempt.messages].count("assistant") == 4


def test_a_call_that_is_none_is_an_answer_of_bad_form(tools: str) -> None:
    attempt = ask(turns('<tool>{"name": '), tools)
    assert (attempt.answer, attempt.stop) == (None, "malformed")


def test_a_turn_that_is_cut_has_no_answer(tools: str) -> None:
    attempt = ask(turns("<answer>Brell</answer> " + "and so on " * 400), tools)
    assert (attempt.answer, attempt.stop) == (None, "token_limit")


def test_a_wrong_call_is_answered_and_the_agent_goes_on(tools: str) -> None:
    wrong = '<tool>{"name": "web_search", "args": {"wrong": 1}}</tool>'
    attempt = ask(turns(wrong, "Brell"), tools)
    assert attempt.answer == "Brell"
    assert attempt.messages[2]["role"] == "tool"


def test_a_server_that_dies_midway_is_a_failure_not_an_answer(index: Path) -> None:
    with running("-m", "nanoscout", "mcp", str(index), "--http", "--port", "0") as server:

        def reply(so_far: str, seed: int) -> str:
            server.process.kill()
            return SEARCH

        with pytest.raises(AgentFailed, match="langgraph"):
            ask(reply, server.url)


def test_an_endpoint_that_is_gone_is_a_failure(tools: str) -> None:
    async def attempt() -> None:
        with served(scripted(turns("Brell"))) as url:
            agent = open_agent("langgraph", TERMS, Remote(url, "told", tools))
            await agent.__aenter__()
        try:
            await agent.attempt(QUESTION, seed=1)
        finally:
            await agent.__aexit__()

    with pytest.raises(AgentFailed, match="the endpoint fails"):
        asyncio.run(attempt())


def test_tools_that_are_not_there_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        ask(turns("Brell"), "http://127.0.0.1:9/mcp")


def test_sampling_that_a_framework_drops_is_named() -> None:
    asked = Asked(0.7, 0.8, 20, 400, 7, enable_thinking=False)

    async def ask_once(url: str) -> None:
        import openai

        async with openai.AsyncOpenAI(base_url=url, api_key="none") as api:
            await api.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "?"}], temperature=0.7, top_p=1,
                max_completion_tokens=400, seed=7,
                extra_body={"chat_template_kwargs": {"enable_thinking": False}},
            )  # fmt: skip

    with pytest.raises(UserError) as refused:
        asyncio.run(check_sampling("mine", asked, ask_once))
    assert str(refused.value) == (
        "--agent mine: the framework does not send top_p (0.8 asked, 1 sent), "
        "top_k (20 asked, None sent)"
    )


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<answer>Brell</answer>", "Brell"),
        ("<answer>Paris</answer>, or rather <answer>Brell</answer>", "Brell"),
        ("<answer>the tag <tool></answer>", "the tag <tool>"),
        ("<think>Paris?</think>It is Brell.", "It is Brell."),
        ("<think>Paris", None),
        ("", None),
        ('<tool_call>{"name"', None),
        ("<answer> </answer>", None),
    ],
)
def test_final_answers(said: str, answer: str | None) -> None:
    assert final_answer(said) == answer
