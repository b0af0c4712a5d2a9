"""The search engine behind a nanoscout search server (`nanoscout index serve`)."""

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import httpx2

from nanoscout.errors import UserError
from nanoscout.records import Hit, Page
from nanoscout.search.index import MAX_QUERY_CHARS
from nanoscout.search.loop_bound import LoopBound
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.wire import hit_from_json, page_from_json

CONNECTIONS = 32
"""Requests on their way at a time; further ones wait here, not in the server."""

TIMEOUT = httpx2.Timeout(30.0, connect=5.0, pool=None)
"""Seconds; a wait for one of the connections has no limit of its own."""

TOKEN_VARIABLE = "NANOSCOUT_TOKEN"
"""The environment variable that holds the server's token, for it and for its clients."""

T = TypeVar("T")


class HttpSearch:
    """A client of the server at `url`, with the previews that it asks for.

    It may serve several event loops one after the other: each gets connections of its own, closed
    when the loop ends. Besides SearchUnavailable, `search` and `visit` raise UserError where the
    server refuses what it was sent (a wrong token, `k` out of range) or is no search server.
    """

    name = "http"

    def __init__(
        self,
        url: str,
        preview: Literal["first", "window"] = "first",
        preview_chars: int = 160,
        token: str = "",
    ):
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url}: no search server's address; it begins with http://")
        self._url = url.rstrip("/")
        self._previews = {"preview": preview, "preview_chars": preview_chars}
        headers = [(b"Authorization", f"Bearer {token}".encode())] if token else []
        self._client = LoopBound(
            lambda: httpx2.AsyncClient(
                headers=headers,
                timeout=TIMEOUT,
                limits=httpx2.Limits(max_connections=CONNECTIONS),
                trust_env=False,
            )
        )

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        asked = {"query": query[:MAX_QUERY_CHARS], "k": k, "page": page}
        response = await self._post("/search", asked | self._previews)
        if response.status_code != 200:
            raise self._refusal(response)
        return self._read(response, _hits)

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        asked = {"url": url, "max_chars": max_chars, "offset": offset}
        response = await self._post("/visit", asked)
        if response.status_code in (404, 413):  # 413: longer than any page's URL
            self._read(response, lambda answer: answer["error"])
            return None
        if response.status_code != 200:
            raise self._refusal(response)
        return self._read(response, page_from_json)

    async def _post(self, path: str, asked: dict[str, Any]) -> httpx2.Response:
        body = json.dumps(asked, ensure_ascii=False).encode(errors="replace")
        client = await self._client.get()
        try:
            response = await client.post(self._url + path, content=body)
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise SearchUnavailable(f"search server {self._url}: {reason}") from error
        if response.status_code == 429 or response.status_code >= 500:
            raise SearchUnavailable(f"search server {self._url}: status {response.status_code}")
        return response

    def _read(self, response: httpx2.Response, read: Callable[[Any], T]) -> T:
        try:
            return read(response.json())
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self._url}: no nanoscout search server there; start one with index serve"
            ) from None

    def _refusal(self, response: httpx2.Response) -> UserError:
        what = self._read(response, lambda answer: answer["error"])
        return UserError(f"search server {self._url}: {what}")


def _hits(answer: Any) -> list[Hit]:
    [hits] = answer["results"]
    return [hit_from_json(hit) for hit in hits]
