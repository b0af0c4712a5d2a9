"""Pages of the open web as visit shows them: fetched, read, kept, and cut into portions.

A page that cannot be read is no fault of the search. It is shown with the reason in place of its
title and without text, and whoever asked goes elsewhere.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import unquote

import httpx2

from nanoscout.extraction import NoText
from nanoscout.records import Page, Passage
from nanoscout.search.pages import page_portion
from nanoscout.search.texts import unreadable_page
from nanoscout.search.web.cache import Answer, Cache
from nanoscout.search.web.fetch import Fetcher
from nanoscout.search.web.guard import Unreadable, web_url
from nanoscout.search.web.reader import kind_of, read_page

READERS = 2
"""Pages that are read (not: fetched) at a time."""


class WebPages:
    def __init__(self, cache: Cache, fetcher: Fetcher):
        self._cache = cache
        self._fetcher = fetcher
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        """A portion of the page at `url`, which is its id too; None for what is no web address."""
        url = url.strip()
        address = web_url(url)
        if address is None:
            return None
        answer = await self._cache.answer({"page": str(address)}, partial(self._read, address))
        passage = Passage(url, answer.content["title"], answer.content["text"], url)
        return page_portion(passage, offset, max_chars)

    async def _read(self, address: httpx2.URL) -> Answer:
        try:
            title, text = await self._text(address)
        except Unreadable as error:
            return Answer(error.status, {"title": unreadable_page(str(error)), "text": ""})
        return Answer(200, {"title": title, "text": text})

    async def _text(self, address: httpx2.URL) -> tuple[str, str]:
        fetched = await self._fetcher.fetch(address)
        kind = kind_of(fetched.content_type, fetched.content)
        if kind is None:
            content = fetched.content_type.partition(";")[0].strip()[:50] or "no text"
            raise Unreadable(f"its content is {content}", status=200)
        loop = asyncio.get_running_loop()
        try:
            title, text = await loop.run_in_executor(
                self._readers, read_page, fetched.content, kind, fetched.content_type
            )
        except NoText as error:
            raise Unreadable(str(error), status=200) from None
        if not text:
            raise Unreadable("it is empty", status=200)
        return title or unquote(address.path.rstrip("/").rpartition("/")[2]) or address.host, text
