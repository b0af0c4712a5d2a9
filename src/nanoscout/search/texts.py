"""The two tools and their results in plain, short words: every character costs a model context.

The tools of an episode and the MCP server say the same thing in the same words.
"""

import re

from nanoscout.records import Hit, Page, ToolSpec

WEB_SEARCH = ToolSpec(
    name="web_search",
    description="Search the web. Returns titles, URLs and previews of the best pages.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string"}, "page": {"type": "integer"}},
        "required": ["query"],
        "additionalProperties": False,
    },
)
VISIT = ToolSpec(
    name="visit",
    description="Read the page at a URL that a search has shown.",
    parameters={
        "type": "object",
        "properties": {"url": {"type": "string"}, "offset": {"type": "integer"}},
        "required": ["url"],
        "additionalProperties": False,
    },
)
UNAVAILABLE = "The search cannot be reached at the moment. Try again later."

_HIT = re.compile(r"^\d+\. (.*)\n(\S+)\n(.*)$", re.MULTILINE)

NO_PAGE = "No page at this URL. Visit a URL from a search result."


def hits_text(hits: list[Hit], first: int = 1) -> str:
    """A result page; `first` is the number of its first hit."""
    if not hits:
        return "No more results." if first > 1 else "No results. Try other words."
    return "\n".join(
        f"{rank}. {hit.title}\n{hit.url}\n{hit.preview}" for rank, hit in enumerate(hits, first)
    )


def hits_in(text: str) -> list[tuple[str, str]]:
    """URL, and title with preview, of each hit that a result page shows."""
    return [(url, f"{title} {preview}") for title, url, preview in _HIT.findall(text)]


def no_result_page(page: int) -> str:
    return f"There is no result page {page}. Leave it away."


def page_text(page: Page) -> str:
    """A portion of a page, with the offset to go on from where there is more."""
    text = f"{page.title}\n{page.text}"
    if page.next_offset is not None:
        text += f'\n(The page goes on: visit it with "offset": {page.next_offset}.)'
    return text


def no_offset(offset: int) -> str:
    return f"The page has no offset {offset}. Leave it away."


def unreadable_page(reason: str) -> str:
    return f"This page cannot be read: {reason}. Visit another URL."
