"""What a tool is: a name, a description with a JSON schema, and an asynchronous call.

A call that the *model* got wrong (unknown page, missing argument) returns a `ToolResult` with
`ok=False` and a text that says what to do. A call that *infrastructure* failed (server down,
time-out after retries) raises `ToolUnavailable`: the episode is dropped, never scored 0.
"""

from typing import Any, Protocol

from nanoscout.records import ToolResult, ToolSpec

__all__ = ["Tool", "ToolSpec", "ToolUnavailable"]


class ToolUnavailable(Exception):
    """The tool could not be reached, after its retries."""


class Tool(Protocol):
    @property
    def spec(self) -> ToolSpec: ...

    async def call(self, args: dict[str, Any]) -> ToolResult: ...
