"""Counting tool calls by what they do, under the names of both profiles of our MCP server."""

from collections.abc import Iterable

SEARCHES = frozenset({"web_search", "google_search"})
VISITS = frozenset({"visit", "scrape"})


def tally(names: Iterable[str]) -> dict[str, int]:
    """`{"searches": ..., "visits": ...}` of the tools that were called."""
    called = list(names)
    return {
        "searches": sum(name in SEARCHES for name in called),
        "visits": sum(name in VISITS for name in called),
    }
