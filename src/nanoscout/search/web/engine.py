"""The open web as a search engine: a service finds pages, and their own sites are asked for them.

For use after training: what the model reads is what the services and the pages say today.
"""

import asyncio
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import httpx2

from nanoscout.errors import UserError
from nanoscout.files import cache_folder
from nanoscout.recipe import SearchSpec
from nanoscout.records import Hit, Page
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.snippets import first_characters, query_window
from nanoscout.search.web.cache import Answer, Cache
from nanoscout.search.web.fetch import Fetcher, tls
from nanoscout.search.web.guard import GuardedNetwork
from nanoscout.search.web.pages import WebPages
from nanoscout.search.web.services import (
    KEYED,
    Result,
    Service,
    clean_query,
    passing_failure,
    read_results,
    searxng,
    wished_wait,
)

SEARXNG = "searxng+"
"""Before the address of a SearXNG server in an engine's name."""

SERVICE_SECONDS = 30.0
"""What a service may take to answer."""

MAX_WAIT = 10.0
"""Seconds that we wait where a service asks us to (Retry-After) before a search has failed."""


class OpenWeb:
    """Besides SearchUnavailable, `search` raises UserError where somebody has to do something
    about a key, a quota, or a recording that lacks the request."""

    def __init__(
        self,
        service: Service,
        key: str,
        cache: Cache,
        pages: WebPages,
        preview: Literal["first", "window"] = "first",
        preview_chars: int = 160,
    ):
        self.name = service.name
        self._service = service
        url = httpx2.URL(service.url)
        self._place = f"{url.scheme}://{url.netloc.decode()}{url.path}"  # without credentials
        self._key = key
        self._cache = cache
        self._pages = pages
        self._preview = preview
        self._preview_chars = preview_chars

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        """The service's results, as far as it gives them; a hit's id is its URL."""
        asked = clean_query(query)
        if not asked:
            return []
        first, end, size = k * (page - 1), k * page, self._service.size
        hits: dict[str, Hit] = {}
        for number in range(first // size + 1, min(-(-end // size), self._service.pages) + 1):
            results = await self._results(asked, number)
            for rank, found in enumerate(results[:size], start=size * (number - 1) + 1):
                if first < rank <= end:
                    preview = self._preview_of(found.snippet, query)
                    hit = Hit(found.url, found.title, found.url, preview, score=1 / rank)
                    hits.setdefault(found.url, hit)
            if not results:
                break
        return list(hits.values())

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        return await self._pages.visit(url, max_chars, offset)

    async def _results(self, query: str, page: int) -> list[Result]:
        """One of the service's own pages of results."""
        request = {"search": query, "engine": self.name, "url": self._place, "page": page}
        answer = await self._cache.answer(request, partial(self._ask, query, page))
        if answer.status != 200:
            raise SearchUnavailable(f"{self.name}: {answer.content['error']}")
        return [Result(**found) for found in answer.content["results"]]

    async def _ask(self, query: str, page: int) -> Answer:
        request = self._service.request(query, page, self._key)
        try:
            async with (
                asyncio.timeout(SERVICE_SECONDS),
                httpx2.AsyncClient(verify=tls(), timeout=None, trust_env=False) as client,
            ):
                response = await client.request(url=self._service.url, **request)
        except (httpx2.TransportError, TimeoutError) as error:
            return Answer(0, {"error": str(error) or "no answer in time"})
        if failure := passing_failure(response):
            wait = wished_wait(response)
            if wait <= MAX_WAIT:
                await asyncio.sleep(wait)
            return Answer(response.status_code, {"error": failure})
        try:
            results = read_results(self._service, response, self._key)
        except SearchUnavailable as error:
            return Answer(503, {"error": str(error)})
        return Answer(200, {"results": [asdict(result) for result in results]})

    def _preview_of(self, snippet: str, query: str) -> str:
        if self._preview == "first":
            return first_characters(snippet, self._preview_chars)
        return query_window(snippet, query, self._preview_chars)


def open_web(spec: SearchSpec) -> OpenWeb:
    """The engine of a service's name, or of `searxng+` and an address.

    Raises UserError for a missing key; a replay needs none.
    """
    if spec.engine.startswith(SEARXNG):
        service = searxng(spec.engine.removeprefix(SEARXNG))
    else:
        service = KEYED[spec.engine]
    key = os.environ.get(service.key_variable, "").strip()
    if service.key_variable and spec.cache != "replay" and not (key and key.isascii()):
        raise UserError(
            f"search.engine: {service.name}: put its key into the environment variable "
            f"{service.key_variable}"
        )
    cache, pages = _cache(spec), open_pages(spec)
    return OpenWeb(service, key, cache, pages, spec.preview, spec.preview_chars)


def open_pages(spec: SearchSpec) -> WebPages:
    return WebPages(_cache(spec), Fetcher(GuardedNetwork()))


def _cache(spec: SearchSpec) -> Cache:
    folder = Path(spec.cache_folder).expanduser() if spec.cache_folder else cache_folder() / "web"
    return Cache(spec.cache, folder)
