"""The search engine behind a nanoscout MCP server (`nanoscout mcp`), over HTTP or as a command.

It reads the structured content of the server's tools and asks for its own result sizes in `_meta`,
so that an episode over MCP is the one in process.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from nanoscout.errors import UserError
from nanoscout.records import Hit, Page
from nanoscout.search.index import MAX_KEY_BYTES, MAX_QUERY_CHARS
from nanoscout.search.mcp_client import McpClient, text_of
from nanoscout.search.mcp_sdk import ClientSession, begin
from nanoscout.search.mcp_tools import META
from nanoscout.search.texts import VISIT, WEB_SEARCH
from nanoscout.search.wire import hit_from_json, page_from_json

T = TypeVar("T")


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
        self._client = McpClient(server, token, self._begin)
        self._previews = {f"{META}preview": preview, f"{META}preview_chars": preview_chars}

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        query = _encodable(query[:MAX_QUERY_CHARS])
        if not query.strip():  # which the tool refuses, since a model could learn from that
            await self._client.open()
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

    async def _begin(self, session: ClientSession) -> None:
        if not {WEB_SEARCH.name, VISIT.name} <= await begin(session):
            raise self._not_ours()

    async def _call(
        self, tool: str, args: dict[str, Any], meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return await self._client.call(tool, args, meta)
        except ValidationError:
            raise self._not_ours() from None

    def _read(self, answer: dict[str, Any], read: Callable[[Any], T]) -> T:
        if answer["isError"] and answer["structuredContent"] is None:
            raise UserError(f"MCP server {self._client.server}: {text_of(answer)}")
        try:
            return read(answer["structuredContent"])
        except (KeyError, TypeError):
            raise self._not_ours() from None

    def _not_ours(self) -> UserError:
        return UserError(
            f"{self._client.server}: no nanoscout MCP server there; start one with nanoscout mcp"
        )


def _encodable(text: str) -> str:
    """`text` with a question mark for each lone surrogate, as the index has it."""
    return text.encode(errors="replace").decode()
