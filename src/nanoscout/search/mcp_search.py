"""The search engine behind a nanoscout MCP server (`nanoscout mcp`), over HTTP or as a command.

It reads the structured content of the server's tools and asks for its own result sizes in `_meta`,
so that an episode over MCP is the one in process. A session lives in a task of its own, since what
the SDK opens must be closed by the task that opened it; it serves any number of calls at a time,
ends with its event loop, and after a fault the next call opens another.
"""

import asyncio
import os
import shlex
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TypeVar

import anyio
from pydantic import ValidationError

from nanoscout.errors import UserError
from nanoscout.records import Hit, Page
from nanoscout.search.http_search import CONNECTIONS
from nanoscout.search.index import MAX_KEY_BYTES, MAX_QUERY_CHARS
from nanoscout.search.mcp_sdk import (
    ClientSession,
    McpFault,
    begin,
    call_tool,
    http_session,
    stdio_session,
)
from nanoscout.search.mcp_tools import META, UNAVAILABLE_MARK
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.texts import VISIT, WEB_SEARCH
from nanoscout.search.wire import hit_from_json, page_from_json

SECONDS = 60.0
"""What the start of a server, and a call, may take."""

T = TypeVar("T")
Opened = Callable[[], AbstractAsyncContextManager[ClientSession]]


class McpSearch:
    """A client of `server`, an http:// URL or a command line, with the previews that it asks for.

    It may serve several event loops one after the other. Besides SearchUnavailable, `search` and
    `visit` raise UserError where the server refuses what it was sent or is none of ours.
    """

    name = "mcp"

    def __init__(
        self,
        server: str,
        preview: Literal["first", "window"] = "first",
        preview_chars: int = 160,
        token: str = "",
    ):
        self._server = server
        self._token = token
        self._previews = {f"{META}preview": preview, f"{META}preview_chars": preview_chars}
        self._opened = self._over_http if _is_url(server) else self._over_stdio
        self._command = [] if _is_url(server) else _words(server)
        self._current: _Connection | None = None

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        query = _encodable(query[:MAX_QUERY_CHARS])
        if not query.strip():  # which the tool refuses, since a model could learn from that
            await self._connection().session()
            return []
        asked = {"query": query, "page": page}
        answer = await self._call(WEB_SEARCH.name, asked, {f"{META}results": k, **self._previews})
        return self._read(answer, lambda content: [hit_from_json(hit) for hit in content["hits"]])

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        url = _encodable(url.strip())
        if not url or len(url) > MAX_KEY_BYTES:  # no page has it
            return None
        asked = {"url": url, "offset": offset}
        answer = await self._call(VISIT.name, asked, {f"{META}page_chars": max_chars})
        return self._read(
            answer, lambda content: page_from_json(content["page"]) if content["page"] else None
        )

    async def _call(
        self, tool: str, args: dict[str, Any], meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        connection = self._connection()
        session = await connection.session()
        answer = await connection.outcome_of(call_tool(session, tool, args, meta))
        if (answer.get("_meta") or {}).get(UNAVAILABLE_MARK):
            raise SearchUnavailable(f"MCP server {self._server}: {_text(answer)}")
        return answer

    def _read(self, answer: dict[str, Any], read: Callable[[Any], T]) -> T:
        if answer["isError"] and answer["structuredContent"] is None:
            raise UserError(f"MCP server {self._server}: {_text(answer)}")
        try:
            return read(answer["structuredContent"])
        except (KeyError, TypeError):
            raise _not_ours(self._server) from None

    def _connection(self) -> "_Connection":
        """The one of this event loop, a new one where there is none or it has ended."""
        loop = asyncio.get_running_loop()
        if self._current is None or self._current.ended or self._current.loop is not loop:
            self._current = _Connection(self._server, self._opened)
        return self._current

    def _over_http(self) -> AbstractAsyncContextManager[ClientSession]:
        return http_session(self._server, self._token, CONNECTIONS, SECONDS)

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

    def __init__(self, server: str, opened: Opened):
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._session: asyncio.Future[ClientSession] = self.loop.create_future()
        self._end = asyncio.Event()
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._keep(opened))

    @property
    def ended(self) -> bool:
        return self._end.is_set() or self._task.done()

    async def _keep(self, opened: Opened) -> None:
        try:
            async with opened() as session:
                if not {WEB_SEARCH.name, VISIT.name} <= await begin(session):
                    raise _not_ours(self._server)
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
        except ValidationError:
            raise _not_ours(self._server) from None
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


def _not_ours(server: str) -> UserError:
    return UserError(f"{server}: no nanoscout MCP server there; start one with nanoscout mcp")


def _text(answer: dict[str, Any]) -> str:
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


def _encodable(text: str) -> str:
    """`text` with a question mark for each lone surrogate, as the index has it."""
    return text.encode(errors="replace").decode()
