"""The search engine in this process: an index with previews. No threads, so deterministic."""

from nanoscout.records import Hit, Page
from nanoscout.search.index import SearchIndex
from nanoscout.search.pages import page_portion
from nanoscout.search.snippets import PreviewMode, hits_of

MAX_DEPTH = 1_000
"""Hits beyond this rank are not looked for: nobody turns that many pages."""


class LocalSearch:
    name = "local"

    def __init__(
        self, index: SearchIndex, preview: PreviewMode = "first", preview_chars: int = 160
    ):
        self.index = index
        self._preview = preview
        self._preview_chars = preview_chars

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        if k * page > MAX_DEPTH:
            return []
        ranked = self.index.search(query, k * page)[k * (page - 1) :]
        found = ((hit.passage, hit.score) for hit in ranked)
        return hits_of(found, query, self._preview, self._preview_chars)

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        url = url.strip()
        passage = self.index.passage(url) or self.index.passage(url.rstrip("/"))
        return page_portion(passage, offset, max_chars) if passage else None
