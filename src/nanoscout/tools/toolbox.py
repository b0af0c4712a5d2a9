"""All the tools of an environment: finds the called one, checks arguments, retries faults."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nanoscout.records import ToolCall, ToolResult, ToolSpec
from nanoscout.tools.protocol import Tool, ToolUnavailable

RETRY_SECONDS = (0.2, 1.0)
"""Pauses before the second and the third try of a tool that is not to be reached."""

_PYTHON_TYPES: dict[str, type] = {"string": str, "integer": int}


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
            known = ", ".join(self._tools)
            return ToolResult(
                f"There is no tool {_quoted(call.name)}. The tools are: {known}.", ok=False
            )
        complaint = _complaint(call.args, tool.spec)
        if complaint:
            return ToolResult(complaint, ok=False)
        result = await _call_with_retries(tool, call.args)
        return replace(result, seconds=time.perf_counter() - started)


async def _call_with_retries(tool: Tool, args: dict[str, Any]) -> ToolResult:
    for pause in RETRY_SECONDS:
        try:
            return await tool.call(args)
        except ToolUnavailable:
            await asyncio.sleep(pause)
    return await tool.call(args)


def _complaint(args: dict[str, Any], spec: ToolSpec) -> str:
    """What is wrong with the arguments, in words for the model; empty if nothing is."""
    properties = spec.parameters["properties"]
    for name in spec.parameters.get("required", []):
        if args.get(name) in (None, "") or not str(args[name]).strip():
            return f'{spec.name} needs "{name}".'
    for name, value in args.items():
        if name not in properties:
            return f"{spec.name} has no {_quoted(name)}; it takes: {', '.join(properties)}."
        wanted = properties[name]["type"]
        if wanted in _PYTHON_TYPES and (
            not isinstance(value, _PYTHON_TYPES[wanted]) or isinstance(value, bool)
        ):
            return f'"{name}" of {spec.name} must be of type {wanted}.'
    return ""


def _quoted(name: str) -> str:
    """What the model wrote, short enough not to fill its context."""
    return repr(name if len(name) <= 40 else f"{name[:40]}…")
