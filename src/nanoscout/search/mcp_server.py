"""The MCP server: one index for chat programs and agents, by `nanoscout mcp`.

Over standard input and output for a program that starts it, or over streamable HTTP for many. The
protocol is the official SDK's; what the tools say is in mcp_tools.py. On loopback a request must
name a loopback host, and come from no web page elsewhere (DNS rebinding); any other address wants
the token. What is committed to the index while it runs is found by the next call.
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nanoscout import __version__
from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.index import SearchIndex
from nanoscout.search.listening import (
    MAX_BODY_BYTES,
    is_loopback,
    listen,
    may_ask,
    unauthorised,
    url_of,
)
from nanoscout.search.local import LocalSearch
from nanoscout.search.mcp_sdk import Server, make_server
from nanoscout.search.mcp_tools import UNAVAILABLE_MARK, McpTools, Preview, Profile

NAME = "nanoscout"
PATH = "/mcp"
INSTRUCTIONS = "Search first, then read the pages whose previews look right."
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def tools_of_index(index: SearchIndex, spec: SearchSpec, profile: Profile) -> McpTools:
    """The tools over an index, with the last commit to its folder seen by each call."""

    def engine_of(preview: Preview, preview_chars: int) -> LocalSearch:
        index.refresh()
        return LocalSearch(index, preview, preview_chars)

    return McpTools(engine_of, spec, profile)


def sdk_server(tools: McpTools) -> Server:
    """The SDK's server of these tools."""

    async def call(name: str, args: dict[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
        answer = await tools.call(name, args, meta)
        result: dict[str, Any] = {
            "content": [{"type": "text", "text": answer.text}],
            "isError": not answer.ok,
        }
        if answer.structured is not None:
            result["structuredContent"] = answer.structured
        if answer.unavailable:
            result["_meta"] = {UNAVAILABLE_MARK: True}
        return result

    return make_server(NAME, __version__, INSTRUCTIONS, tools.listed(), call)


def serve_stdio(tools: McpTools, what: str) -> None:
    """Answer on standard output what comes in on standard input, until its end.

    Nothing else goes to standard output; a line on standard error tells `what` is served.
    """
    # The SDK reads in a thread that no exception of the main one ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(f"nanoscout MCP server on standard input and output ({what})", file=sys.stderr)
    asyncio.run(_serve_stdio(sdk_server(tools)))


async def _serve_stdio(server: Server) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def serve_http(
    tools: McpTools, what: str, host: str = "127.0.0.1", port: int = 8000, token: str = ""
) -> None:
    """Answer until SIGINT or SIGTERM; a line on standard output tells when, where and `what`.

    Port 0 takes a free one. Raises UserError where the address cannot be had, or is not loopback
    and there is no token.
    """
    listening, url = listen(host, port, token)
    logging.getLogger("mcp.server.streamable_http").addFilter(_is_no_end_of_a_session)
    config = uvicorn.Config(
        http_app(sdk_server(tools), host, token),
        lifespan="on",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    with listening, contextlib.suppress(KeyboardInterrupt):
        _HttpServer(config, f"nanoscout MCP server on {url}{PATH} ({what})").run([listening])


def _is_no_end_of_a_session(record: logging.LogRecord) -> bool:
    """The SDK (1.30) logs each end of a session as an error with a traceback."""
    return record.getMessage() != "Error in standalone SSE writer"


class _HttpServer(uvicorn.Server):
    """Says when it serves."""

    def __init__(self, config: uvicorn.Config, ready: str):
        super().__init__(config)
        self._ready = ready

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        await super().startup(*args, **kwargs)
        if self.started:
            print(self._ready, flush=True)


def http_app(server: Server, host: str, token: str) -> Starlette:
    """The server at PATH, for clients that may reach and use the address `host`."""
    manager = StreamableHTTPSessionManager(
        server,
        security_settings=_rebinding_protection(host),
        max_request_body_size=MAX_BODY_BYTES,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with manager.run():
            yield

    app = Starlette(
        routes=[Route(PATH, _Endpoint(manager, token))],
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_such_route},
    )
    app.router.redirect_slashes = False
    return app


class _Endpoint:
    def __init__(self, manager: StreamableHTTPSessionManager, token: str):
        self._manager = manager
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = may_ask(Headers(scope=scope), self._token)
        answer = self._manager.handle_request if allowed else unauthorised()
        await answer(scope, receive, send)


def _rebinding_protection(host: str) -> TransportSecuritySettings:
    """On loopback no token stands between the tools and a web page whose name resolves to us.

    Elsewhere our own names are not known, and the token is asked for.
    """
    if not is_loopback(host):
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    names = {*LOOPBACK_NAMES, f"[{host}]" if ":" in host else host}
    hosts = [f"{name}{port}" for name in sorted(names) for port in ("", ":*")]
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{error.detail.lower()}; this server has {PATH}"
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)


def stdio_config(folder: Path, spec: SearchSpec, profile: Profile) -> str:
    """The block that makes a chat program start the server: for Jan, LM Studio, Claude Desktop."""
    args = ["-m", "nanoscout", "mcp", str(folder.resolve())]
    if profile != "nanoscout":
        args += ["--profile", profile]
    default = SearchSpec()
    for field in ("results", "preview", "preview_chars", "page_chars"):
        if (value := getattr(spec, field)) != getattr(default, field):
            args += [f"--{field.replace('_', '-')}", str(value)]
    return _config({"command": sys.executable, "args": args})


def http_config(host: str, port: int, token: str) -> str:
    """The block that makes a chat program use the server at this address."""
    if not port:
        raise UserError("--print-config: a block for --port 0 would name no port; choose one")
    if host in ("0.0.0.0", "::"):  # every address of this machine, and none to connect to
        host = socket.gethostname()
    server: dict[str, Any] = {"type": "http", "url": f"{url_of(host, port)}{PATH}"}
    if token:
        server["headers"] = {"Authorization": f"Bearer {token}"}
    return _config(server)


def _config(server: dict[str, Any]) -> str:
    return json.dumps({"mcpServers": {NAME: server}}, indent=2)
