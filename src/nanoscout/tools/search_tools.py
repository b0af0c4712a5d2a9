"""The two tools of a scout over a search engine: `web_search` finds pages, `visit` reads one.

What the model reads is compact, since every token of it costs context and time.
"""

from typing import Any

from nanoscout.recipe import FaultSpec
from nanoscout.records import ToolResult
from nanoscout.search.faults import DEAD_LINK, MIRROR, Faults
from nanoscout.search.protocol import SearchEngine, SearchUnavailable
from nanoscout.search.texts import (
    NO_PAGE,
    VISIT,
    WEB_SEARCH,
    hits_text,
    no_offset,
    no_result_page,
    page_text,
)
from nanoscout.tools.protocol import Tool, ToolUnavailable

NO_FAULTS = Faults(FaultSpec(), seed=0)


def search_tools(
    engine: SearchEngine, results: int, page_chars: int, faults: Faults = NO_FAULTS
) -> list[Tool]:
    """`results`: hits on a result page; `page_chars`: characters of a page read by one visit."""
    return [WebSearch(engine, results, faults), Visit(engine, page_chars, faults)]


class WebSearch:
    spec = WEB_SEARCH

    def __init__(self, engine: SearchEngine, results: int, faults: Faults = NO_FAULTS):
        self._engine = engine
        self._results = results
        self._faults = faults

    async def call(self, args: dict[str, Any]) -> ToolResult:
        page = args.get("page", 1)
        if page < 1:
            return ToolResult(no_result_page(page), ok=False)
        query = args["query"]
        if refusal := self._faults.refusal(query):
            return _refused(refusal)
        try:
            hits = await self._engine.search(query, self._results, page)
        except SearchUnavailable as error:
            raise ToolUnavailable(str(error)) from error
        hits, faults = self._faults.of_hits(query, hits)
        text = hits_text(hits, first=(page - 1) * self._results + 1)
        shown = tuple(dict.fromkeys(hit.passage_id for hit in hits))
        return ToolResult(text, ok=True, shown=shown, faults=faults)


class Visit:
    spec = VISIT

    def __init__(self, engine: SearchEngine, page_chars: int, faults: Faults = NO_FAULTS):
        self._engine = engine
        self._page_chars = page_chars
        self._faults = faults

    async def call(self, args: dict[str, Any]) -> ToolResult:
        url, offset = args["url"].strip().removesuffix(MIRROR), args.get("offset", 0)
        if refusal := self._faults.refusal(url):
            return _refused(refusal)
        try:
            page = await self._engine.visit(url, self._page_chars, offset)
        except SearchUnavailable as error:
            raise ToolUnavailable(str(error)) from error
        if page is None:
            return ToolResult(NO_PAGE, ok=False)
        if offset < 0 or (offset and not page.text):
            return ToolResult(no_offset(offset), ok=False)
        page, faults = self._faults.of_page(page)
        if page is None:
            return ToolResult(DEAD_LINK, ok=True, faults=faults)
        shown = (page.passage_id,) if page.text else ()
        return ToolResult(page_text(page), ok=True, shown=shown, faults=faults)


def _refused(refusal: tuple[str, str]) -> ToolResult:
    """A fault of the world is not one of the call, which counts as carried out."""
    text, name = refusal
    return ToolResult(text, ok=True, faults=(name,))
