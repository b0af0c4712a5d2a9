"""A served model where it is easy to get wrong: forced calls, stops, seeds, thoughts, old ids."""

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from smolagents import OpenAIServerModel
from test_episode import ANSWER, QUESTION, SEARCH, TOKENIZER, environment, turns
from test_serve import CALL, MAYOR, TOOL, Search, client, listening, scripted, served

from nanoscout.dialogue.format import Format, HermesFormat, XmlFormat
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Generation, Sampling
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.models import load_model
from nanoscout.recipe import ModelSpec
from nanoscout.records import ToolCall
from nanoscout.rollout.episode import Limits, run_episode
from nanoscout.serving import chat_model
from nanoscout.serving.chat_request import BadRequest, read_request
from nanoscout.serving.opening import open_chat_model

FORMATS = pytest.mark.parametrize("fmt", [XmlFormat(), HermesFormat()], ids=["xml", "hermes"])
ASK = {"model": "told", "messages": [{"role": "user", "content": MAYOR}]}


def rest_of_call(fmt: Format, begun: str) -> str:
    return fmt.render_call(ToolCall(CALL["name"], CALL["args"])).removeprefix(begun)


@FORMATS
def test_smolagents_demands_a_call_and_its_stops_keep_the_conversation(fmt: Format) -> None:
    model = scripted(turns(rest_of_call(fmt, fmt.begin_call())), fmt)
    with served(model) as url:
        api = OpenAIServerModel("told", api_base=url, api_key="none")
        messages = [{"role": "user", "content": [{"type": "text", "text": MAYOR}]}]
        said = api.generate(messages, ["Observation:"], tools_to_call_from=[Search()])
    (call,) = said.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == tuple(CALL.values())
    assert model.open_conversations == 1


@FORMATS
def test_one_tool_can_be_demanded_and_the_turn_goes_on_from_there(fmt: Format) -> None:
    begun = fmt.begin_call(CALL["name"])
    # The forced beginning is not sampled anew when the conversation goes on.
    model = scripted(turns(rest_of_call(fmt, begun), "Tia Ron"), fmt)
    choice = {"type": "function", "function": {"name": CALL["name"]}}
    with served(model) as url, client(url) as api:
        ask: dict[str, Any] = ASK | {"tools": [TOOL]}
        for stream in (False, True):
            done = api.chat.completions.create(**ask, tool_choice=choice, stream=stream)
            if stream:
                deltas = [chunk.choices[0].delta for chunk in done]
                assert not any(delta.content for delta in deltas)
                (call,) = [d.tool_calls[0] for d in deltas if d.tool_calls]
            else:
                said = done.choices[0].message
                (call,) = said.tool_calls
            assert json.loads(call.function.arguments) == CALL["args"]
        result = {"role": "tool", "tool_call_id": "x", "content": "Tia Ron"}
        ask["messages"] = [*ask["messages"], said, result]
        assert api.chat.completions.create(**ask).choices[0].message.content == "Tia Ron"
    text = TOKENIZER.decode(model.engine.conversations[-1].token_ids)  # type: ignore[attr-defined]
    assert text.count(fmt.render_call(ToolCall(CALL["name"], CALL["args"]))) == 1


def test_a_system_message_of_the_clients_does_not_hide_the_tools() -> None:
    def prompt(asked: str, **more: Any) -> str:
        model = scripted(turns("Hi"), **more)
        messages = [{"role": "system", "content": asked}] if asked else []
        with served(model) as url, client(url) as api:
            ask = ASK | {"messages": messages + ASK["messages"], "tools": [TOOL]}  # type: ignore[operator]
            api.chat.completions.create(**ask)
        (conversation,) = model.engine.conversations  # type: ignore[attr-defined]
        return str(TOKENIZER.decode(conversation.token_ids))

    call = '<tool>{"name": "web_search"'
    assert call in prompt("")
    assert call in prompt("You help.")
    assert "You help." in prompt("You help.")
    assert call not in prompt("", system="The run's own.")
    assert prompt("Use web_search well.").count("web_search") == 1


def test_only_a_stop_string_that_is_hit_forgets_the_conversation() -> None:
    model = scripted(turns("one, two"))
    with served(model) as url, client(url) as api:
        api.chat.completions.create(**ASK, stop=["zz"])
        assert model.open_conversations == 1
        api.chat.completions.create(**ASK, stop=[", t"], seed=2)
        assert model.open_conversations == 1


def test_the_seed_decides_whether_or_not_the_cache_is_there() -> None:
    model = open_chat_model("tiny:qwen3", None, context=512, concurrency=2, idle=2)
    exact, _ = load_model(ModelSpec(source="tiny:qwen3", dtype="float32"))
    model.engine = TorchEngine(exact, concurrency=4, context=512)
    ask = {"model": "tiny:qwen3", "max_tokens": 12, "seed": 5, "messages": ASK["messages"]}
    with listening(model) as url, client(url) as api:
        first = api.chat.completions.create(**ask).choices[0].message
        more = [*ask["messages"], first, {"role": "user", "content": "And?"}]  # type: ignore[misc]
        done = [api.chat.completions.create(**ask | {"messages": more}) for _ in range(2)]
    cached = [one.usage.prompt_tokens_details.cached_tokens for one in done]
    assert cached[0] > 0 == cached[1]
    assert done[0].choices[0].message.content == done[1].choices[0].message.content
    assert done[0].usage.prompt_tokens == done[1].usage.prompt_tokens


def test_thoughts_leave_the_history_as_in_the_episode() -> None:
    dialogue = Dialogue(TOKENIZER, XmlFormat(), thinking=True, strip_thinking=True)
    env = environment()
    env = type(env)(dialogue, env.toolbox, env.system)
    thought = f"<think>\nHm, who?\n</think>\n\n{SEARCH}"
    reply = turns(thought, ANSWER)
    model = scripted(reply, system=env.system)
    episode = asyncio.run(
        run_episode(QUESTION, env, model.engine, Limits(20_000, 4, 400), Sampling(), seed=1)
    )
    assert episode.restarts
    model.dialogues[True] = dialogue
    model.thinking = True
    tools = [
        {"type": "function", "function": {"name": s.name, "parameters": s.parameters}}
        for s in env.toolbox.specs
    ]
    messages: list[Any] = [{"role": "user", "content": QUESTION.text}]
    with served(model) as url, client(url) as api:
        ask = {"model": "told", "tools": tools}
        said = api.chat.completions.create(**ask, messages=messages).choices[0].message
        assert said.reasoning_content == "Hm, who?"
        result = {"role": "tool", "tool_call_id": "x", "content": episode.results[0].text}
        messages += [{"role": "assistant", "tool_calls": said.tool_calls}, result]
        api.chat.completions.create(**ask, messages=messages)
    conversation = model.engine.conversations[-1]  # type: ignore[attr-defined]
    assert conversation.token_ids == episode.token_ids[episode.restarts[-1] :]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_model, "KEPT_TOKENS", 200)
    model = scripted(turns("Hi"), idle_tokens=100)
    with served(model) as url, client(url) as api:
        for number in range(30):
            messages = [{"role": "user", "content": f"Question {number}"}]
            api.chat.completions.create(model="told", messages=messages)
    kept = list(model._past.values())
    assert 0 < sum(len(past.token_ids) for past in kept) == model._tokens <= 200
    with_cache = [past for past in kept if past.conversation]
    assert 0 < sum(len(past.token_ids) for past in with_cache) <= 100
    conversations = model.engine.conversations  # type: ignore[attr-defined]
    assert sum(not conversation.closed for conversation in conversations) == len(with_cache)


def test_a_temperature_near_zero_does_not_fail_those_beside_it() -> None:
    model = open_chat_model("tiny:qwen3", None, context=512, concurrency=2, idle=0)
    with listening(model) as url, client(url) as api:
        ask = {"model": "tiny:qwen3", "max_tokens": 8, "messages": ASK["messages"]}
        texts = [
            api.chat.completions.create(**ask, temperature=t).choices[0].message.content
            for t in (0, 1e-45, 1e-300)
        ]
    assert len(set(texts)) == 1


def test_what_the_template_refuses_is_refused() -> None:
    dialogue = Dialogue(TOKENIZER, XmlFormat(), thinking=False)
    model = scripted(turns("Hi"))

    def render(*args: Any, **kwargs: Any) -> list[int]:
        from jinja2 import TemplateError

        raise TemplateError("roles must alternate")

    dialogue.prompt = render  # type: ignore[method-assign]
    model.dialogues[False] = dialogue
    with served(model) as url:
        answer = httpx2.post(f"{url}/chat/completions", json=ASK)
    assert answer.status_code == 400
    assert "roles must alternate" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": bad}}]}
        for bad in ({"properties": 1}, {"properties": {"x": 1}}, {"required": [1]})
    ]
    + [
        {"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [TOOL]},
        {"tool_choice": "always", "tools": [TOOL]},
    ],
)
def test_tools_that_cannot_be_shown_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        read_request(json.dumps(ASK | change).encode()).chat()


@pytest.mark.parametrize("arguments", ['{"a": "\\ud800"}', '{"a": NaN}', "[]", "{", "[" * 9999])
def test_arguments_that_no_tool_can_get_are_refused(arguments: str) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        *ASK["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "y"},
    ]
    with pytest.raises(BadRequest):
        read_request(json.dumps(ASK | {"messages": messages}).encode()).chat()


def test_a_stream_that_hangs_up_in_the_queue_leaves_it() -> None:
    model = scripted(turns("Hi"))
    gate = asyncio.Event()
    wait_once = model.engine.conversation

    def conversation(seed: int) -> Any:
        made = wait_once(seed)
        generate = made.generate

        async def gated(*args: Any) -> Generation:
            await gate.wait()
            return await generate(*args)

        made.generate = gated  # type: ignore[method-assign]
        return made

    model.engine.conversation = conversation  # type: ignore[method-assign, assignment]
    with served(model) as url:
        api = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=0.5)
        with pytest.raises(openai.APITimeoutError):
            api.chat.completions.create(**ASK, stream=True)
        health = url.replace("/v1", "/health")
        for _ in range(500):
            if not httpx2.get(health).json()["requests"]:
                break
        assert httpx2.get(health).json()["requests"] == 0
