"""A client of any MCP server's tools, over HTTP or started as a command.

A session lives in a task of its own, since what the SDK opens must be closed by the task that
opened it; it serves any number of calls at a time, ends with its event loop, and after a fault the
next call opens another.
"""

import asyncio
import os
import shlex
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio

from nanoscout.errors import UserError
from nanoscout.search.http_search import CONNECTIONS
from nanoscout.search.mcp_sdk import (
    ClientSession,
    McpFault,
    call_tool,
    http_session,
    stdio_session,
)
from nanoscout.search.mcp_tools import UNAVAILABLE_MARK
from nanoscout.search.protocol import SearchUnavailable

SECONDS = 60.0
"""What the start of a server, and a call, may take."""

T = TypeVar("T")
Opened = Callable[[], AbstractAsyncContextManager[ClientSession]]
Begin = Callable[[ClientSession], Awaitable[None]]


class McpClient:
    """A client of `server`, an http:// URL or a command line.

    `begin` initializes a session, and raises UserError where the server is not the one wanted. The
    client may serve several event loops one after the other.
    """

    def __init__(self, server: str, token: str, begin: Begin):
        self.server = server
        self._token = token
        self._begin = begin
        self._opened = self._over_http if _is_url(server) else self._over_stdio
        self._command = [] if _is_url(server) else _words(server)
        self._current: _Connection | None = None

    async def open(self) -> None:
        """Open a session where there is none. Raises SearchUnavailable where that fails."""
        await self._connection().session()

    async def call(
        self, tool: str, args: dict[str, Any], meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The result of tools/call. Raises SearchUnavailable where the server is gone, or says
        that its search engine is."""
        connection = self._connection()
        session = await connection.session()
        answer = await connection.outcome_of(call_tool(session, tool, args, meta))
        if (answer.get("_meta") or {}).get(UNAVAILABLE_MARK):
            raise SearchUnavailable(f"MCP server {self.server}: {text_of(answer)}")
        return answer

    async def close(self) -> None:
        """End the session, if there is one, and wait for that."""
        if self._current is not None:
            await self._current.close()

    def _connection(self) -> "_Connection":
        """The one of this event loop, a new one where there is none or it has ended."""
        loop = asyncio.get_running_loop()
        if self._current is None or self._current.ended or self._current.loop is not loop:
            self._current = _Connection(self.server, self._opened, self._begin)
        return self._current

    def _over_http(self) -> AbstractAsyncContextManager[ClientSession]:
        return http_session(self.server, self._token, CONNECTIONS, SECONDS)

    @asynccontextmanager
    async def _over_stdio(self) -> AsyncGenerator[ClientSession]:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            try:
                async with stdio_session(self._command, dict(os.environ), log) as session:
                    yield session
            except Exception as error:
                log.seek(0)
                said = log.read().strip().splitlines()
                first = _first(error)
                if isinstance(first, UserError) or not said:
                    raise
                raise _ServerFailed(f"{first}; it said: {said[-1]}") from error


class _ServerFailed(Exception):
    """What happened, and the last line that the server wrote on its standard error."""


class _Connection:
    """A session and the task that opens it, keeps it, and closes it."""

    def __init__(self, server: str, opened: Opened, begin: Begin):
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._session: asyncio.Future[ClientSession] = self.loop.create_future()
        self._end = asyncio.Event()
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._keep(opened, begin))

    @property
    def ended(self) -> bool:
        return self._end.is_set() or self._task.done()

    async def _keep(self, opened: Opened, begin: Begin) -> None:
        try:
            async with opened() as session:
                await begin(session)
                self._session.set_result(session)
                await self._end.wait()
        except Exception as error:
            self._error = _first(error)
        finally:
            self._end.set()

    def end(self) -> None:
        """Close the session, or give up opening it, without waiting for that."""
        self._end.set()
        if not self._session.done():
            self._task.cancel()

    async def close(self) -> None:
        """Close the session, and wait for that."""
        self.end()
        await asyncio.wait([self._task])

    async def session(self) -> ClientSession:
        """The session, once it is open. Raises SearchUnavailable where it does not come to that."""
        return await self._unless_it_ends(self._session)

    async def outcome_of(self, call: Awaitable[T]) -> T:
        """What a call of the session gives. Raises SearchUnavailable, and ends the connection,
        where the session ends before, or the call fails for any other reason."""
        running = asyncio.ensure_future(call)
        try:
            return await self._unless_it_ends(running)
        except (McpFault, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            self.end()
            reason = str(error) or "it has ended"
            raise SearchUnavailable(f"MCP server {self._server}: {reason}") from error
        finally:
            running.cancel()

    async def _unless_it_ends(self, future: asyncio.Future[T]) -> T:
        either: set[asyncio.Future[Any]] = {future, self._task}
        await asyncio.wait(either, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        self.end()
        if isinstance(self._error, UserError):
            raise self._error
        reason = f"no answer within {SECONDS:g} s" if not self._task.done() else "it has ended"
        if self._error is not None:
            reason = (str(self._error) or type(self._error).__name__).splitlines()[0]
        raise SearchUnavailable(f"MCP server {self._server}: {reason}") from self._error


def _first(error: Exception) -> Exception:
    """What happened first of all that a group of tasks has to tell."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def text_of(answer: dict[str, Any]) -> str:
    """The text parts of a result."""
    return " ".join(part["text"] for part in answer["content"] if "text" in part)


def _is_url(server: str) -> bool:
    return server.startswith(("http://", "https://"))


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"mcp:{command}: no command: {error}") from None
    if not words:
        raise UserError("mcp: a command is missing; write mcp:nanoscout mcp INDEX_FOLDER")
    return words
