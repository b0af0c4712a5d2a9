"""smolagents' two agents over MCP: CodeAgent acts by Python, ToolCallingAgent by tool calls.

The model is reached over an OpenAI-compatible endpoint alone, the tools over MCP alone. Prompts,
parsing and history are the framework's own. What differs from its defaults: code runs in a sandbox
(sandbox.py); arguments that an MCP tool does not require are optional, which the framework's
adapter forgets; and a turn limit is one, where the framework would ask once more for an answer.

The tools are made by smolagents' own adapter (mcpadapt's), but the session is ours: that of its
MCPClient never answers once its server is gone.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import openai
from mcp import ClientSession
from mcp.types import CallToolResult
from mcp.types import Tool as McpTool
from mcpadapt.smolagents_adapter import SmolAgentsAdapter
from smolagents import (
    ActionStep,
    AgentGenerationError,
    ChatMessage,
    CodeAgent,
    LogLevel,
    MultiStepAgent,
    OpenAIModel,
    Tool,
    ToolCallingAgent,
)
from smolagents.models import get_clean_message_list, tool_role_conversions

from nanoscout.errors import UserError
from nanoscout.evaluation.agents.final_answer import final_answer
from nanoscout.evaluation.agents.sampling_check import Asked, check_sampling
from nanoscout.evaluation.agents.sandbox import Sandbox
from nanoscout.evaluation.agents.tally import tally
from nanoscout.evaluation.agents.terms import Remote, Terms
from nanoscout.evaluation.agents.threads import in_thread
from nanoscout.evaluation.agents.unreachable import OutOfTurns, Unreachable
from nanoscout.evaluation.attempt import AgentFailed, Attempt
from nanoscout.records import Question, StopReason
from nanoscout.search.http_search import TOKEN_VARIABLE
from nanoscout.search.mcp_client import McpClient
from nanoscout.search.protocol import SearchUnavailable

CODE = "smolagents-code"


class SmolAgent:
    """Each conversation runs in a thread; the calls of their tools in the event loop, in which one
    session with the MCP server serves them all."""

    def __init__(self, name: str, terms: Terms, where: Remote):
        self.name = name
        self._terms = terms
        self._where = where
        self._client = McpClient(where.tools, os.environ.get(TOKEN_VARIABLE, ""), self._begin)
        self._listed: Sequence[McpTool] = ()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            await self._client.open()
            if self.name == CODE:
                await in_thread(_check_sandbox)
            await check_sampling(
                self.name, Asked.of(self._terms, self._where, seed=7), self._ask_once
            )
        except SearchUnavailable as error:
            raise UserError(f"the MCP server {self._where.tools} cannot be reached") from error
        except Unreachable as error:
            raise UserError(f"--agent {self.name}: {error}") from None
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def attempt(self, question: Question, seed: int) -> Attempt:
        called: list[str] = []
        agent = self._agent(self._where.url, seed, self._terms.limits.turns, called)
        started = time.perf_counter()
        try:
            answer, stop = await in_thread(partial(self._run, agent, question.text))
        except asyncio.CancelledError:
            agent.interrupt()
            raise
        except Unreachable as error:
            raise AgentFailed(f"{self.name}: its tools could not be reached: {error}") from error
        return _attempt(question, agent, answer, stop, called, time.perf_counter() - started)

    def _run(self, agent: MultiStepAgent, question: str) -> tuple[Any, StopReason]:
        """The framework's final answer, and how it came to an end."""
        try:
            return agent.run(question), StopReason.ANSWERED
        except OutOfTurns:
            return None, StopReason.TURN_LIMIT
        except AgentGenerationError as error:
            cause = error.__cause__
            if not isinstance(cause, openai.BadRequestError):
                raise AgentFailed(f"{self.name}: the endpoint fails: {cause}") from cause
            if cause.code != "context_length_exceeded":
                raise AgentFailed(f"{self.name}: {cause.message}") from cause
            return None, StopReason.CONTEXT_LIMIT
        finally:
            if isinstance(agent, CodeAgent):
                agent.cleanup()

    def _agent(self, url: str, seed: int, turns: int, called: list[str]) -> MultiStepAgent:
        """`called` gets the names of the tools that are called."""
        model = _Model(
            turns,
            self._where,
            url,
            Asked.of(self._terms, self._where, seed),
            calls_tools=self.name != CODE,
        )
        tools = [self._tool(listed, called) for listed in self._listed]
        more: Any = {"max_steps": turns, "verbosity_level": LogLevel.OFF}
        if self.name == CODE:
            return CodeAgent(tools, model, executor=Sandbox(), **more)
        return ToolCallingAgent(tools, model, **more)

    def _tool(self, listed: McpTool, called: list[str]) -> Tool:
        def call(args: dict[str, Any] | None) -> CallToolResult:
            called.append(listed.name)
            asking = self._client.call(listed.name, args or {}, {})
            try:
                answer = asyncio.run_coroutine_threadsafe(asking, self._loop).result()
            except (SearchUnavailable, UserError) as error:
                raise Unreachable(str(error)) from error
            return CallToolResult.model_validate(answer)

        tool: Tool = SmolAgentsAdapter().adapt(call, listed)
        for name, schema in tool.inputs.items():
            if name not in listed.inputSchema.get("required", ()):
                schema["nullable"] = True
        return tool

    async def _ask_once(self, url: str) -> None:
        agent = self._agent(url, seed=7, turns=1, called=[])
        await in_thread(partial(self._run, agent, "?"))

    async def _begin(self, session: ClientSession) -> None:
        await session.initialize()
        self._listed = (await session.list_tools()).tools


class _Model(OpenAIModel):
    """The framework's client, for so many turns."""

    def __init__(self, turns: int, where: Remote, url: str, asked: Asked, *, calls_tools: bool):
        more: dict[str, Any] = {}
        if calls_tools and asked.enable_thinking:
            more["tool_choice"] = "auto"  # a call cannot be forced where thoughts come first
        super().__init__(
            where.model,
            api_base=url,
            api_key=os.environ.get(where.api_key_env, "") or "none",
            client_kwargs={"max_retries": 3},
            retry=False,  # it takes any error with 429 in its text for a limit, and waits a minute
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            max_tokens=asked.max_tokens,
            extra_body={
                "top_k": asked.top_k,
                "chat_template_kwargs": {"enable_thinking": asked.enable_thinking},
            },
            **more,
        )
        self._turns_left = turns

    def generate(self, *args: Any, **kwargs: Any) -> ChatMessage:
        """Raises OutOfTurns."""
        if not self._turns_left:
            raise OutOfTurns
        self._turns_left -= 1
        return super().generate(*args, **kwargs)


def _attempt(
    question: Question,
    agent: MultiStepAgent,
    given: Any,
    stop: StopReason,
    called: Sequence[str],
    seconds: float,
) -> Attempt:
    steps = [step for step in agent.memory.steps if isinstance(step, ActionStep)]
    completions = [s.model_output_message.raw for s in steps if s.model_output_message]
    answer = None
    if stop is StopReason.ANSWERED:
        # A turn that was cut has no answer, as in an episode.
        cut = completions[-1].choices[0].finish_reason == "length"
        answer = None if cut or given is None else final_answer(str(given))
        if answer is None:
            stop = StopReason.TOKEN_LIMIT if cut else StopReason.MALFORMED
    usages = [completion.usage for completion in completions]
    details = [usage.completion_tokens_details for usage in usages]
    return Attempt(
        question_id=question.id,
        answer=answer,
        stop=str(stop),
        messages=_messages(agent),
        **tally(called),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        think_tokens=sum((of and of.reasoning_tokens) or 0 for of in details),
        seconds=seconds,
    )


def _messages(agent: MultiStepAgent) -> list[dict[str, Any]]:
    """The conversation as the framework sends it: calls and results are text there."""
    said = get_clean_message_list(
        agent.write_memory_to_messages(),
        role_conversions=tool_role_conversions,
        flatten_messages_as_text=True,
    )
    return [{"role": str(one["role"].value), "content": one["content"]} for one in said]


def _check_sandbox() -> None:
    if sys.platform != "linux":
        raise Unreachable("generated code can be contained on Linux alone")
    sandbox = Sandbox()
    sandbox.start()
    sandbox.cleanup()
