"""The verbs of `nanoscout web`: the open web from the terminal, as a model sees it, never kept."""

import asyncio

from rich.console import Console

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.engines import open_engine
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.texts import hits_text
from nanoscout.search.web.engine import open_pages
from nanoscout.terminal import printable, say


def show_results(query: str, engine: str, k: int, page: int, console: Console) -> None:
    """A page of an engine's results; raises UserError where it cannot be reached."""
    searching = open_engine(SearchSpec(engine=engine, cache="off"), index=None)
    try:
        hits = asyncio.run(searching.search(query, k, page))
    except SearchUnavailable as error:
        raise UserError(f"{error}; try again later") from None
    say(console, f"{searching.name}:\n{hits_text(hits, first=k * (page - 1) + 1)}")


def show_web_page(url: str, offset: int, chars: int, console: Console) -> None:
    """A portion of a page; raises UserError for what is no web address."""
    page = asyncio.run(open_pages(SearchSpec(cache="off")).visit(url, chars, offset))
    if page is None:
        raise UserError(f"{printable(url)}: no page of the web; its address begins with https://")
    say(console, f"{page.title}\n{page.text}".rstrip())
    if page.next_offset is not None:
        say(console, f"(The page goes on: --offset {page.next_offset})")
