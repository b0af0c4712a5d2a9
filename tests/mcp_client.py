"""The official MCP SDK's client for tests, called from code that is not asynchronous."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult, Tool

MCP = ("-m", "nanoscout", "mcp")


@dataclass(frozen=True)
class Client:
    """The SDK's client, with its session in the event loop of another thread."""

    portal: BlockingPortal
    session: ClientSession

    def call(self, name: str, /, meta: dict[str, Any] | None = None, **args: Any) -> CallToolResult:
        return self.portal.call(lambda: self.session.call_tool(name, args, meta=meta))

    def tools(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self.portal.call(self.session.list_tools).tools}


@contextlib.contextmanager
def connected(streams: Any) -> Iterator[Client]:
    @contextlib.asynccontextmanager
    async def session() -> Any:
        async with streams as (read, write, *_), ClientSession(read, write) as session:
            await session.initialize()
            yield session

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(session()) as opened:
        yield Client(portal, opened)


def over_stdio(*args: str, command: str = sys.executable) -> Any:
    return stdio_client(
        StdioServerParameters(command=command, args=list(args), env=dict(os.environ))
    )


def said(result: CallToolResult) -> tuple[str, bool]:
    """What a model reads, and whether the call went well."""
    [content] = result.content
    assert content.type == "text"
    return content.text, not result.isError
