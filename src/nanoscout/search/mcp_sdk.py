"""The official MCP SDK behind a few functions, so that both of its majors serve: 1.x and 2.x.

Tools, calls and results pass here as they stand in the protocol's JSON, which is one for both.
1.x is what we install, since other frameworks' adapters still need it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TextIO

from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.shared import exceptions

from nanoscout.errors import UserError

_V1 = version("mcp").startswith("1.")

if _V1:
    import httpx as http
    from mcp.shared.exceptions import McpError as McpFault
else:
    import httpx2 as http  # type: ignore[no-redef]

    McpFault = exceptions.MCPError  # type: ignore[attr-defined,misc]

__all__ = ["ClientSession", "McpFault", "Server", "call_tool", "http_session", "stdio_session"]

Json = dict[str, Any]
CallTool = Callable[[str, Json, Mapping[str, Any]], Awaitable[Json]]
"""From a tool's name, its arguments and the request's `_meta` to the result of tools/call."""


def make_server(
    name: str, version: str, instructions: str, tools: list[Json], call: CallTool
) -> Server:
    """A server of these tools; `call` checks the arguments by itself."""
    listed = types.ListToolsResult.model_validate({"tools": tools})

    async def answer(params: types.CallToolRequestParams) -> types.CallToolResult:
        asked = params.model_dump(by_alias=True, exclude_unset=True)
        result = await call(params.name, asked.get("arguments") or {}, asked.get("_meta") or {})
        return types.CallToolResult.model_validate(result)

    if _V1:
        server: Server = Server(name, version, instructions)

        async def list_tools_1(request: types.ListToolsRequest) -> types.ServerResult:
            return types.ServerResult(listed)

        async def call_tool_1(request: types.CallToolRequest) -> types.ServerResult:
            return types.ServerResult(await answer(request.params))

        server.request_handlers[types.ListToolsRequest] = list_tools_1
        server.request_handlers[types.CallToolRequest] = call_tool_1
        return server

    async def list_tools_2(context: Any, params: Any) -> types.ListToolsResult:
        return listed

    async def call_tool_2(context: Any, params: types.CallToolRequestParams) -> Any:
        return await answer(params)

    return Server(  # type: ignore[call-arg]
        name,
        version=version,
        instructions=instructions,
        on_list_tools=list_tools_2,
        on_call_tool=call_tool_2,
    )


@asynccontextmanager
async def http_session(
    url: str, token: str, connections: int, seconds: float
) -> AsyncGenerator[ClientSession]:
    """A session, not yet begun, with a server over streamable HTTP.

    `connections`: requests on their way at a time; `seconds`: what one may take, waiting for a
    connection not counted. Raises UserError where the server wants another token, or there is none.
    """

    async def check(response: http.Response) -> None:
        if response.status_code == 401:
            raise UserError(f"{url}: it wants its token, in the variable NANOSCOUT_TOKEN")
        if response.status_code == 404 and "mcp-session-id" not in response.request.headers:
            raise UserError(f"{url}: no MCP server there; its address ends with /mcp")

    async with (
        http.AsyncClient(
            headers=[(b"Authorization", f"Bearer {token}".encode())] if token else [],
            timeout=http.Timeout(seconds, pool=None),
            limits=http.Limits(max_connections=connections + 1),  # and one for its notifications
            event_hooks={"response": [check]},
            trust_env=False,
        ) as client,
        streamable_http_client(url, http_client=client) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        yield session


@asynccontextmanager
async def stdio_session(
    command: list[str], environment: dict[str, str], log: TextIO
) -> AsyncGenerator[ClientSession]:
    """A session, not yet begun, with a server that is started for it and ended after it.

    The server's standard error goes to `log`, a file.
    """
    server = StdioServerParameters(command=command[0], args=command[1:], env=environment)
    async with (
        stdio_client(server, errlog=log) as (read, write),
        ClientSession(read, write) as session,
    ):
        yield session


async def begin(session: ClientSession) -> set[str]:
    """Initialize a session; the names of the server's tools."""
    await session.initialize()
    return {tool.name for tool in (await session.list_tools()).tools}


async def call_tool(session: ClientSession, name: str, args: Json, meta: Mapping[str, Any]) -> Json:
    """The result of tools/call. Unlike the SDK's own method this checks no output schema: in 1.x
    that costs 3 ms a call."""
    request: Any = types.CallToolRequest.model_validate(
        {"method": "tools/call", "params": {"name": name, "arguments": args, "_meta": dict(meta)}}
    )
    if _V1:
        request = types.ClientRequest(request)
    result = await session.send_request(request, types.CallToolResult)
    return result.model_dump(by_alias=True)
