"""LangGraph's ReAct agent (`langchain.agents.create_agent`) over MCP.

The model is reached over an OpenAI-compatible endpoint alone, the tools over MCP alone. No system
prompt is sent: a served run answers with the one that it was trained with, and other models with
their template's own.
"""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import httpx
import openai
from anyio import BrokenResourceError, ClosedResourceError
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError
from mcp.shared.exceptions import McpError
from pydantic import SecretStr

from nanoscout.errors import UserError
from nanoscout.evaluation.agents.final_answer import final_answer
from nanoscout.evaluation.agents.sampling_check import Asked, check_sampling
from nanoscout.evaluation.agents.tally import tally
from nanoscout.evaluation.agents.terms import Remote, Terms
from nanoscout.evaluation.attempt import AgentFailed, Attempt
from nanoscout.records import Question, StopReason

LOST = (McpError, ClosedResourceError, BrokenResourceError, httpx.TransportError)
"""What is raised when the MCP server is gone."""


class LangGraphAgent:
    name = "langgraph"

    def __init__(self, terms: Terms, where: Remote):
        self._terms = terms
        self._where = where
        self._stack = AsyncExitStack()
        self._tools: list[BaseTool] = []

    async def __aenter__(self) -> Self:
        connection = _connection(self._where.tools)
        client = MultiServerMCPClient({"tools": connection})
        try:
            if connection["transport"] == "stdio":
                session = await self._stack.enter_async_context(client.session("tools"))
                self._tools = await load_mcp_tools(session)
            else:  # A session for each call: one whose server dies would take this task with it.
                self._tools = await client.get_tools()
        except (*LOST, OSError, ExceptionGroup) as error:
            raise UserError(f"the MCP server {self._where.tools} cannot be reached") from error
        try:
            await check_sampling(
                self.name, Asked.of(self._terms, self._where, seed=7), self._ask_once
            )
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def attempt(self, question: Question, seed: int) -> Attempt:
        agent = self._agent(self._where.url, seed)
        # A turn with a call is two steps of the graph, the model's and the tools'.
        config: Any = {"recursion_limit": 2 * self._terms.limits.turns}
        messages: Sequence[BaseMessage] = ()
        stop = StopReason.ANSWERED
        started = time.perf_counter()
        try:
            first: Any = {"messages": [{"role": "user", "content": question.text}]}
            async for state in agent.astream(first, config, stream_mode="values"):
                messages = state["messages"]
        except GraphRecursionError:
            stop = StopReason.TURN_LIMIT
        except openai.BadRequestError as error:
            if error.code != "context_length_exceeded":
                raise AgentFailed(f"langgraph: {error.message}") from error
            stop = StopReason.CONTEXT_LIMIT
        except openai.APIError as error:
            raise AgentFailed(f"langgraph: the endpoint fails: {error.message}") from error
        except (*LOST, ExceptionGroup) as error:
            raise AgentFailed("langgraph: its tools could not be reached") from error
        return self._attempt(question, messages, stop, time.perf_counter() - started)

    def _attempt(
        self, question: Question, messages: Sequence[BaseMessage], stop: StopReason, seconds: float
    ) -> Attempt:
        turns = [message for message in messages if isinstance(message, AIMessage)]
        answer = None
        if stop is StopReason.ANSWERED and turns:
            # A turn that was cut has no answer, as in an episode.
            cut = turns[-1].response_metadata.get("finish_reason") == "length"
            answer = None if cut else final_answer(turns[-1].text)
            if answer is None:
                stop = StopReason.TOKEN_LIMIT if cut else StopReason.MALFORMED
        usages = [turn.usage_metadata for turn in turns if turn.usage_metadata]
        return Attempt(
            question_id=question.id,
            answer=answer,
            stop=str(stop),
            messages=list(convert_to_openai_messages(messages)),
            **tally(call["name"] for turn in turns for call in turn.tool_calls),
            prompt_tokens=sum(usage["input_tokens"] for usage in usages),
            completion_tokens=sum(usage["output_tokens"] for usage in usages),
            think_tokens=sum(
                usage.get("output_token_details", {}).get("reasoning", 0) for usage in usages
            ),
            seconds=seconds,
        )

    def _agent(self, url: str, seed: int) -> Any:
        asked = Asked.of(self._terms, self._where, seed)
        model = ChatOpenAI(
            model=self._where.model,
            base_url=url,
            api_key=SecretStr(os.environ.get(self._where.api_key_env, "") or "none"),
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            max_retries=3,
            extra_body={
                "top_k": asked.top_k,
                "max_tokens": asked.max_tokens,
                "chat_template_kwargs": {"enable_thinking": asked.enable_thinking},
            },
        )
        return create_agent(model, self._tools)

    async def _ask_once(self, url: str) -> None:
        await self._agent(url, seed=7).ainvoke({"messages": [{"role": "user", "content": "?"}]})


def _connection(tools: str) -> Any:
    """An address, or the command line that starts a server."""
    if tools.startswith(("http://", "https://")):
        return {"transport": "streamable_http", "url": tools}
    command, *args = shlex.split(tools)
    return {"transport": "stdio", "command": command, "args": args, "env": dict(os.environ)}
