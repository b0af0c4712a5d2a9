"""What a search engine is to the two tools: it ranks pages for a query, and opens one by its URL.

The index in this process, a server of ours, an MCP server: all answer in these terms, so what the
model reads does not depend on where the search runs.
"""

from typing import Protocol

from nanoscout.records import Hit, Page


class SearchUnavailable(Exception):
    """The engine could not be reached or is overloaded; the same call may go through later."""


class SearchEngine(Protocol):
    @property
    def name(self) -> str:
        """Which back end answers; a result is never silently another one's."""
        ...

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        """Hits `(page - 1) * k + 1` to `page * k` for any text whatever, best first.

        Raises SearchUnavailable.
        """
        ...

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        """The portion of the page that begins at character `offset`; None for an unknown URL.

        Raises SearchUnavailable.
        """
        ...
