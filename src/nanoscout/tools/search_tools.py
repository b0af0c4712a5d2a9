"""The two tools of a scout over a search engine: `web_search` finds pages, `visit` reads one.

What the model reads is compact, since every token of it costs context and time.
"""

from typing import Any

from nanoscout.records import Hit, Page, ToolResult, ToolSpec
from nanoscout.search.protocol import SearchEngine, SearchUnavailable
from nanoscout.tools.protocol import Tool, ToolUnavailable

NO_PAGE = "No page at this URL. Visit a URL from a search result."


def search_tools(engine: SearchEngine, results: int, page_chars: int) -> list[Tool]:
    """`results`: hits on a result page; `page_chars`: characters of a page read by one visit."""
    return [WebSearch(engine, results), Visit(engine, page_chars)]


class WebSearch:
    def __init__(self, engine: SearchEngine, results: int):
        self._engine = engine
        self._results = results
        self.spec = ToolSpec(
            name="web_search",
            description="Search the web. Returns titles, URLs and previews of the best pages.",
            parameters={
                "type": "object",
                "properties": {"query": {"type": "string"}, "page": {"type": "integer"}},
                "required": ["query"],
                "additionalProperties": False,
            },
        )

    async def call(self, args: dict[str, Any]) -> ToolResult:
        page = args.get("page", 1)
        if page < 1:
            return ToolResult(f"There is no result page {page}. Leave it away.", ok=False)
        try:
            hits = await self._engine.search(args["query"], self._results, page)
        except SearchUnavailable as error:
            raise ToolUnavailable(str(error)) from error
        if not hits:
            text = "No more results." if page > 1 else "No results. Try other words."
            return ToolResult(text, ok=True)
        first = (page - 1) * self._results + 1
        text = hits_text(hits, first)
        return ToolResult(text, ok=True, shown=tuple(hit.passage_id for hit in hits))


class Visit:
    def __init__(self, engine: SearchEngine, page_chars: int):
        self._engine = engine
        self._page_chars = page_chars
        self.spec = ToolSpec(
            name="visit",
            description="Read the page at a URL that a search has shown.",
            parameters={
                "type": "object",
                "properties": {"url": {"type": "string"}, "offset": {"type": "integer"}},
                "required": ["url"],
                "additionalProperties": False,
            },
        )

    async def call(self, args: dict[str, Any]) -> ToolResult:
        offset = args.get("offset", 0)
        try:
            page = await self._engine.visit(args["url"], self._page_chars, offset)
        except SearchUnavailable as error:
            raise ToolUnavailable(str(error)) from error
        if page is None:
            return ToolResult(NO_PAGE, ok=False)
        if offset < 0 or (offset and not page.text):
            return ToolResult(f"The page has no offset {offset}. Leave it away.", ok=False)
        return ToolResult(page_text(page), ok=True, shown=(page.passage_id,))


def hits_text(hits: list[Hit], first: int = 1) -> str:
    """A result page in plain words; `first` is the number of its first hit."""
    return "\n".join(
        f"{rank}. {hit.title}\n{hit.url}\n{hit.preview}" for rank, hit in enumerate(hits, first)
    )


def page_text(page: Page) -> str:
    """A portion of a page in plain words, with the offset to go on from where there is more."""
    text = f"{page.title}\n{page.text}"
    if page.next_offset is not None:
        text += f'\n(The page goes on: visit it with "offset": {page.next_offset}.)'
    return text
