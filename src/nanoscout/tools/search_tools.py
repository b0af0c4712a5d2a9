"""The two tools of a scout over the local index: `web_search` finds pages, `visit` reads one.

What the model reads is compact, since every token of it costs context and time. The tools run
inline, without threads, so that an episode over them is deterministic.
"""

from typing import Any

from nanoscout.recipe import SearchSpec
from nanoscout.records import Hit, Page, Passage, ToolResult, ToolSpec
from nanoscout.search.index import SearchIndex
from nanoscout.search.snippets import first_characters, query_window


class WebSearch:
    def __init__(self, index: SearchIndex, settings: SearchSpec):
        self._index = index
        self._settings = settings
        self.spec = ToolSpec(
            name="web_search",
            description="Search the web. Returns titles, URLs and previews of the best pages.",
            parameters={
                "type": "object",
                "properties": {"query": {"type": "string"}},
                "required": ["query"],
                "additionalProperties": False,
            },
        )

    def search(self, query: str) -> list[Hit]:
        settings = self._settings
        return [
            Hit(
                passage_id=ranked.passage.id,
                title=ranked.passage.title,
                url=ranked.passage.url,
                preview=first_characters(ranked.passage.text, settings.preview_chars)
                if settings.preview == "first"
                else query_window(ranked.passage.text, query, settings.preview_chars),
                score=ranked.score,
            )
            for ranked in self._index.search(query, settings.results)
        ]

    async def call(self, args: dict[str, Any]) -> ToolResult:
        hits = self.search(args["query"])
        if not hits:
            return ToolResult("No results. Try other words.", ok=True)
        text = "\n".join(
            f"{rank}. {hit.title}\n{hit.url}\n{hit.preview}" for rank, hit in enumerate(hits, 1)
        )
        return ToolResult(text, ok=True, shown=tuple(hit.passage_id for hit in hits))


class Visit:
    def __init__(self, index: SearchIndex, settings: SearchSpec):
        self._index = index
        self._settings = settings
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

    def visit(self, url: str, offset: int = 0) -> Page | None:
        """The portion of the page that begins at character `offset`; None for an unknown URL."""
        url = url.strip()
        passage = self._index.passage(url) or self._index.passage(url.rstrip("/"))
        return page_portion(passage, offset, self._settings.page_chars) if passage else None

    async def call(self, args: dict[str, Any]) -> ToolResult:
        offset = args.get("offset", 0)
        page = self.visit(args["url"], offset)
        if page is None:
            return ToolResult("No page at this URL. Visit a URL from a search result.", ok=False)
        if offset < 0 or (offset and not page.text):
            return ToolResult(f"The page has no offset {offset}. Leave it away.", ok=False)
        text = f"{page.title}\n{page.text}"
        if page.next_offset is not None:
            text += f'\n(The page goes on: visit it with "offset": {page.next_offset}.)'
        return ToolResult(text, ok=True, shown=(page.passage_id,))


def page_portion(passage: Passage, offset: int, length: int) -> Page:
    """At most `length` characters of a page from `offset` on, cut at white space where there is.

    White space around a portion is left out, and so is `offset` moved on to where a word begins.
    """
    text = passage.text.rstrip()
    rest = text[max(0, offset) :].lstrip()
    begin = len(text) - len(rest)
    end = len(rest)
    if end > length:
        cut = max(rest.rfind(" ", 0, length + 1), rest.rfind("\n", 0, length + 1))
        end = cut if cut > 0 else length
    return Page(
        passage_id=passage.id,
        title=passage.title,
        url=passage.url,
        text=rest[:end].rstrip(),
        offset=begin,
        next_offset=begin + end if end < len(rest) else None,
    )
