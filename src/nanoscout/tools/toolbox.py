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
