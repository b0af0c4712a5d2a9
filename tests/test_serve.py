"""A served model: OpenAI's own client and others unchanged, exact tokens, no slot lost."""

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import openai
import pytest
import torch
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from scripted import Reply, ScriptedEngine
from serving import running
from smolagents import OpenAIServerModel, Tool
from test_episode import ANSWER, QUESTION, SEARCH, TOKENIZER, VISIT, environment, turns

from nanoscout.dialogue.format import Format, HermesFormat, XmlFormat
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Sampling
from nanoscout.engine.sampling import choose_tokens
from nanoscout.errors import UserError
from nanoscout.questions import load_questions
from nanoscout.recipe_file import load_recipe
from nanoscout.rollout.episode import Limits, run_episode
from nanoscout.serving.chat_model import ChatModel
from nanoscout.serving.chat_request import Chat, Said
from nanoscout.serving.opening import open_chat_model
from nanoscout.serving.server import Server
from nanoscout.serving.turn_text import TurnText
from nanoscout.setting import prepare_folder, read_prompt

ROOT = Path(__file__).parents[1]
MAYOR = "Who is the mayor of Velmora?"
PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "web_search", "parameters": PARAMETERS}}
CALL = {"name": "web_search", "args": {"query": "mayor of Velmora"}}


def scripted(reply: Reply, fmt: Format | None = None, **more: Any) -> ChatModel:
    fmt = fmt or XmlFormat()
    return ChatModel(
        name="told",
        engine=ScriptedEngine(TOKENIZER, reply),  # type: ignore[arg-type]
        dialogues={t: Dialogue(TOKENIZER, fmt, thinking=t) for t in (False, True)},
        thinking=False,
        concurrency=4,
        idle=4,
        **more,
    )


@contextmanager
def served(model: ChatModel, token: str = "") -> Iterator[str]:
    """The address of a real server in a thread of this process."""
    model.engine.open_slots = 0  # type: ignore[misc]
    with listening(model, token) as url:
        yield url


@contextmanager
def listening(model: ChatModel, token: str = "") -> Iterator[str]:
    config = uvicorn.Config(Server(model, token).app(), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        pass
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """The whole command, with a tiny random model."""
    with running("-m", "nanoscout", "serve", "tiny:qwen3", "--port", "0") as server:
        yield server.url


# Clients of others.


def test_openais_client_converses_and_streams_the_same(tiny: str) -> None:
    ask = {
        "model": "tiny:qwen3",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}],
        "seed": 7,
        "max_tokens": 40,
    }
    with client(tiny) as api:
        assert [model.id for model in api.models.list()] == ["tiny:qwen3"]
        # The first one fills the cache: in bfloat16 what is in it differs from what is computed
        # beside the rest in the last bits, which can turn a near tie.
        api.chat.completions.create(**ask)
        whole = api.chat.completions.create(**ask)
        chunks = list(
            api.chat.completions.create(
                **ask, stream=True, stream_options={"include_usage": True}, logprobs=True
            )
        )
    usage = whole.usage
    assert usage.completion_tokens <= 40
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(deltas) > 2
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == usage.completion_tokens
    (logprobs,) = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    assert len(logprobs.content) == usage.completion_tokens


def test_sampling_is_as_asked(tiny: str) -> None:
    ask = {"model": "tiny:qwen3", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24}
    greedy = {"temperature": 0}
    near_greedy = {"temperature": 1, "extra_body": {"min_p": 1.0}}
    one = {"temperature": 1, "extra_body": {"top_k": 1}}
    with client(tiny) as api:
        said = [
            api.chat.completions.create(**ask, **how).choices[0].message.content
            for how in (greedy, near_greedy, one)
        ]
        several = api.chat.completions.create(**ask, temperature=1.5, n=3, seed=1)
        again = api.chat.completions.create(**ask, temperature=1.5, n=3, seed=1)
    assert said[0] == said[1] == said[2]
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]


def test_min_p_leaves_out_what_is_too_unlikely() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(1000, 1)
    uniforms = [(i + 0.5) / 1000 for i in range(1000)]
    chosen, logprobs = choose_tokens(logits, [Sampling(min_p=0.4)] * 1000, uniforms)
    # 0.5 and 0.3 stay, as 5 to 3; the log-probability is that of the whole distribution.
    assert [chosen.count(token) for token in range(4)] == [625, 375, 0, 0]
    assert logprobs[0] == pytest.approx(torch.tensor(0.5).log().item(), abs=1e-6)


@pytest.mark.parametrize("fmt", [XmlFormat(), HermesFormat()], ids=["xml", "hermes"])
def test_langchain_calls_tools_and_sends_their_results(fmt: Format) -> None:
    from nanoscout.records import ToolCall

    call = fmt.render_call(ToolCall(CALL["name"], CALL["args"]))
    with served(scripted(turns(f"I look.\n{call}", "Tia Ron"), fmt)) as url:
        model = ChatOpenAI(model="told", base_url=url, api_key="none")
        asked = HumanMessage(MAYOR)
        called = model.bind_tools([TOOL]).invoke([asked])
        assert isinstance(called, AIMessage)
        assert called.content.strip() == "I look."
        assert [(c["name"], c["args"]) for c in called.tool_calls] == [(CALL["name"], CALL["args"])]
        result = ToolMessage("Its mayor is Tia Ron.", tool_call_id=called.tool_calls[0]["id"])
        assert model.bind_tools([TOOL]).invoke([asked, called, result]).content == "Tia Ron"
        streamed = list(model.bind_tools([TOOL]).stream([asked]))
    whole = streamed[0]
    for chunk in streamed[1:]:
        whole = whole + chunk
    assert whole.tool_calls[0]["args"] == CALL["args"]


class Search(Tool):
    name = "web_search"
    description = "Searches."
    inputs: ClassVar = {"query": {"type": "string", "description": "What for."}}
    output_type = "string"

    def forward(self, query: str) -> str:
        return query


def test_smolagents_model_gets_its_call() -> None:
    with served(scripted(turns(SEARCH))) as url:
        model = OpenAIServerModel("told", api_base=url, api_key="none")
        messages = [{"role": "user", "content": [{"type": "text", "text": MAYOR}]}]
        said = model.generate(messages, tools_to_call_from=[Search()], tool_choice="auto")
    (call,) = said.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == tuple(CALL.values())


# The same tokens as in training.


@pytest.mark.parametrize("repeat", [False, True])
def test_a_conversation_has_the_token_ids_of_the_episode(repeat: bool) -> None:
    env = environment(repeat_question=repeat)
    reply = turns(SEARCH, VISIT, ANSWER)
    episode = asyncio.run(
        run_episode(
            QUESTION,
            env,
            ScriptedEngine(TOKENIZER, reply),
            Limits(20_000, 4, 400),
            Sampling(),
            seed=1,
        )
    )
    model = scripted(reply, system=env.system, repeat_question=repeat)
    tools = [
        {
            "type": "function",
            "function": {"name": s.name, "description": s.description, "parameters": s.parameters},
        }
        for s in env.toolbox.specs
    ]
    messages: list[Any] = [{"role": "user", "content": QUESTION.text}]
    results = iter(episode.results)
    with served(model) as url, client(url) as api:
        while True:
            done = api.chat.completions.create(model="told", messages=messages, tools=tools)
            said = done.choices[0].message
            if not said.tool_calls:
                break
            messages += [
                said,
                {
                    "role": "tool",
                    "tool_call_id": said.tool_calls[0].id,
                    "content": next(results).text,
                },
            ]
    assert said.content == ANSWER
    (conversation,) = model.engine.conversations  # type: ignore[attr-defined]
    assert conversation.token_ids == episode.token_ids
    assert done.usage.prompt_tokens == len(episode.token_ids) - episode.turns[-1].end + (
        episode.turns[-1].start
    )
    assert done.usage.prompt_tokens_details.cached_tokens == episode.turns[1].end


@pytest.mark.parametrize(
    "said",
    [
        '<tool>{"name": "web_search", "args": {"query": </tool>',
        '<tool>{"name": "web_search"',
        f"{SEARCH} and more",
        f"{SEARCH}{SEARCH}",
        f"{SEARCH}<answer>x</answer>",
        "<answer>Tia Ron</answer>",
        "a < b, <too",
    ],
)
def test_a_malformed_call_is_content_whole_and_streamed(said: str) -> None:
    with served(scripted(lambda so_far, seed: said)) as url, client(url) as api:
        ask = {
            "model": "told", "tools": [TOOL], "messages": [{"role": "user", "content": MAYOR}],
        }  # fmt: skip
        whole = api.chat.completions.create(**ask).choices[0]
        streamed = [c.choices[0].delta for c in api.chat.completions.create(**ask, stream=True)]
    assert whole.message.content == said
    assert not whole.message.tool_calls
    assert "".join(delta.content or "" for delta in streamed) == said
    assert not any(delta.tool_calls for delta in streamed)


def test_thoughts_are_apart_and_counted() -> None:
    said = "<think>\nHm, a mayor.\n</think>\n\nTia Ron"
    with served(scripted(lambda so_far, seed: said)) as url, client(url) as api:
        ask = {
            "model": "told",
            "messages": [{"role": "user", "content": MAYOR}],
            "extra_body": {"chat_template_kwargs": {"enable_thinking": True}},
        }
        whole = api.chat.completions.create(**ask)
        streamed = [c.choices[0].delta for c in api.chat.completions.create(**ask, stream=True)]
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("Tia Ron", "Hm, a mayor.")
    thought = TOKENIZER.encode("<think>\nHm, a mayor.\n</think>")
    assert whole.usage.completion_tokens_details.reasoning_tokens == len(thought)
    assert "".join(delta.content or "" for delta in streamed) == "Tia Ron"
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in streamed]
    assert "".join(thoughts) == "Hm, a mayor."


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.booleans())
def test_what_is_shown_while_writing_is_the_beginning_of_the_turn(
    said: str, stops: list[str], tools: bool
) -> None:
    text = TurnText(TOKENIZER, stops, "<tool>" if tools else "")
    shown = ""
    ids = TOKENIZER.encode(said, add_special_tokens=False)
    whole = TOKENIZER.decode(ids)
    for token_id in ids:
        ended = text.add(token_id)
        thought, content = text.fresh()
        shown += thought + content
        if ended:
            break
    assert whole.startswith(text.text) or "\ufffd" in whole
    assert not any(stop in text.text for stop in stops)
    if "<think>" not in said:
        assert text.text.startswith(shown)


def test_stop_strings_end_a_turn_across_tokens() -> None:
    with served(scripted(lambda so_far, seed: "one, two, three")) as url, client(url) as api:
        ask = {
            "model": "told",
            "messages": [{"role": "user", "content": "?"}],
            "stop": [", thr", "zz"],
        }
        whole = api.chat.completions.create(**ask).choices[0]
        streamed = [c.choices[0].delta for c in api.chat.completions.create(**ask, stream=True)]
    assert (whole.message.content, whole.finish_reason) == ("one, two", "stop")
    assert "".join(delta.content or "" for delta in streamed) == "one, two"


# A run.


def test_another_model_is_served_in_a_runs_prompt(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes/smoke.toml")
    run = tmp_path / "run"
    prepare_folder(recipe, run, load_questions(recipe.questions, recipe.seed))
    sizes = {"context": 2048, "concurrency": 2, "idle": 2}
    model = open_chat_model(str(run), None, model="tiny:qwen3", **sizes)
    said = (Said("user", "Who?"),)
    chat = Chat(said, (), Sampling(temperature=0.0, max_tokens=2), (), 1, 1, None)
    turn = asyncio.run(model.write(chat))
    system, examples = read_prompt(run)
    shown = [{"role": "system", "content": system}, *examples[0]]
    ids = model.dialogue(chat).prompt([*shown, {"role": "user", "content": "Who?"}])
    assert (model.name, turn.prompt_tokens) == ("tiny:qwen3", len(ids))
    own = [{"role": "system", "content": "Write code."}, {"role": "user", "content": "Who?"}]
    chat = replace(chat, said=(Said("system", "Write code."), *said))
    turn = asyncio.run(model.write(chat))
    assert turn.prompt_tokens == len(model.dialogue(chat).prompt(own))  # no calls are shown to it
    with pytest.raises(UserError, match="not trained yet"):
        open_chat_model(str(run), None, **sizes)
    with pytest.raises(UserError, match="--model is for a run"):
        open_chat_model("tiny:qwen3", None, model="tiny:llama", **sizes)


# What cannot be.


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "gpt"}, 404, "no model 'gpt' here"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "last message"),
        ({"messages": [{"role": "user"}]}, 400, "content is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "'image_url' is not supported",
        ),
        ({"tool_choice": "required"}, 400, "not in tools"),
        ({"tools": [TOOL, TOOL]}, 400, "same name"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "only text"),
        ({"temperature": 3}, 400, "temperature"),
        ({"n": 1000}, 400, "n: "),
        ({"messages": [{"role": "user", "content": "x " * 60_000}]}, 400, "the context holds"),
        (
            {"messages": [{"role": "user", "content": "x " * 60_000}], "stream": True},
            400,
            "the context holds",
        ),
    ],
)
def test_refusals_say_what_to_mend(
    tiny: str, change: dict[str, Any], status: int, says: str
) -> None:
    ask = {"model": "tiny:qwen3", "messages": [{"role": "user", "content": "Hi"}]} | change
    answer = httpx2.post(f"{tiny}/chat/completions", json=ask, timeout=60)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_what_has_no_effect_is_taken(tiny: str) -> None:
    ask = {
        "model": "tiny:qwen3", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2,
        "frequency_penalty": 0, "response_format": {"type": "text"}, "logit_bias": None,
        "user": "me", "store": True, "tool_choice": "auto",
    }  # fmt: skip
    assert httpx2.post(f"{tiny}/chat/completions", json=ask, timeout=60).status_code == 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ["messages", "tools", "tool_choice", "temperature", "stop", "seed", "n", "stream", "top_k"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_no_body_makes_the_server_fail(tiny: str, change: dict[str, Any]) -> None:
    ask = {"model": "tiny:qwen3", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    answer = httpx2.post(f"{tiny}/chat/completions", json=ask | change, timeout=60)
    assert answer.status_code in (200, 400, 404)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed", "messages"])
def test_numbers_that_are_none_are_refused(tiny: str, field: str, number: str) -> None:
    said = '{"model": "tiny:qwen3", "messages": [{"role": "user", "content": "Hi"}]'
    answer = httpx2.post(f"{tiny}/chat/completions", content=f'{said}, "{field}": {number}}}')
    assert answer.status_code == 400


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b'{"model": "tiny:qwen3", "mess'])
def test_a_body_that_is_no_json_is_refused(tiny: str, body: bytes) -> None:
    assert httpx2.post(f"{tiny}/chat/completions", content=body).status_code == 400


def test_a_token_is_wanted_where_one_is_set() -> None:
    with served(scripted(turns("Hi")), token="secret") as url:
        with client(url) as api, pytest.raises(openai.AuthenticationError):
            api.models.list()
        assert len(list(openai.OpenAI(base_url=url, api_key="secret").models.list())) == 1


# Many at once.


def test_a_hundred_clients_some_of_whom_hang_up_lose_no_slot() -> None:
    model = open_chat_model("tiny:qwen3", None, context=512, concurrency=8, idle=4)

    async def all_of_them(url: str) -> list[Any]:
        api = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        draw = random.Random(0)

        async def one(number: int) -> str:
            stream = await api.chat.completions.create(
                model="tiny:qwen3",
                messages=[{"role": "user", "content": f"Question {number}?"}],
                max_tokens=30,
                seed=number,
                stream=number % 2 == 0,
            )
            if number % 2:
                return "whole"
            async for chunk in stream:
                if number % 4 == 0 and chunk.choices and draw.random() < 0.5:
                    await stream.close()
                    return "closed"
            return "streamed"

        tasks = [asyncio.create_task(one(number)) for number in range(100)]
        await asyncio.sleep(1.0)
        for task in tasks[1::4]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await api.close()
        return done

    with listening(model) as url:
        done = asyncio.run(all_of_them(url))
        kinds = {str(one) if isinstance(one, str) else type(one).__name__ for one in done}
        assert kinds <= {"whole", "streamed", "closed", "CancelledError"}
        assert {"whole", "streamed", "closed"} <= kinds
        for _ in range(200):
            health = httpx2.get(url.replace("/v1", "/health")).json()
            if not health["requests"] and health["slots"] == health["conversations"]:
                break
        assert health["requests"] == 0
        assert health["slots"] == health["conversations"] <= 4
        ask = {"model": "tiny:qwen3", "messages": [{"role": "user", "content": "Still there?"}]}
        answer = httpx2.post(f"{url}/chat/completions", json=ask | {"max_tokens": 3}, timeout=60)
        assert answer.status_code == 200
