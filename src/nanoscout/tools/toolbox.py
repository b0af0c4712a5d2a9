"""All the tools of an environment: finds the called one, checks arguments, retries faults."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nanoscout.arguments import complaint, unknown_tool
from nanoscout.records import ToolCall, ToolResult, ToolSpec
from nanoscout.tools.protocol import Tool, ToolUnavailable

RETRY_SECONDS = (0.2, 1.0)
"""Pauses before the second and the third try of a tool that is not to be reached."""


class Toolbox:
    def __init__(self, tools: Sequence[Tool]):
        self._tools = {tool.spec.name: tool for tool in tools}

    @property
    def specs(self) -> list[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    async def call_all(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """The results in the order of the calls, which are made at the same time.

        Raises ToolUnavailable as `call` does, and gives the other calls up.
        """
        if len(calls) == 1:
            return [await self.call(calls[0])]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.call(call)) for call in calls]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def call(self, call: ToolCall) -> ToolResult:
        """The tool's result, or one that tells the model what is wrong with its call.

        Raises ToolUnavailable when the tool cannot be reached after its retries.
        """
        started = time.perf_counter()
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolResult(unknown_tool(call.name, self._tools), ok=False)
        if wrong := complaint(call.args, tool.spec):
            return ToolResult(wrong, ok=False)
        result = await _call_with_retries(tool, call.args)
        return replace(result, seconds=time.perf_counter() - started)


async def _call_with_retries(tool: Tool, args: dict[str, Any]) -> ToolResult:
    for pause in RETRY_SECONDS:
        try:
            return await tool.call(args)
        except ToolUnavailable:
            await asyncio.sleep(pause)
    return await tool.call(args)
