"""The open web with a test's own servers in the place of services and sites.

The guard lets them through by an argument of its constructor, and nothing else. Services answer in
the shapes that their documentation shows.
"""

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from website import Reply, Website, answer

from nanoscout.records import Hit, Page
from nanoscout.search.web.cache import Cache
from nanoscout.search.web.engine import OpenWeb
from nanoscout.search.web.fetch import Fetcher, Limits
from nanoscout.search.web.guard import Address, GuardedNetwork
from nanoscout.search.web.pages import WebPages
from nanoscout.search.web.services import BRAVE, SERPER, TAVILY, Service, searxng

SMALL = Limits(bytes=100_000, seconds=5.0, redirects=3)
KEY = "k3y-of-nobody"
OTTERS = [("https://w.org/otter", "Otters", "The otter eats fish."), ("https://w.org/2", "Two", "")]


async def at_home(host: str) -> list[Address]:
    """Every name is this machine's."""
    return [ip_address("127.0.0.1")]


def pages(site: Website, limits: Limits = SMALL, **guard: Any) -> WebPages:
    guard = {"resolve": at_home, "allowed": {(site.host, site.port)}} | guard
    return WebPages(Cache("off", Path()), Fetcher(GuardedNetwork(**guard), limits))


def visit(site: Website, path: str, limits: Limits = SMALL, **guard: Any) -> Page:
    url = path if "://" in path else f"http://site.test:{site.port}{path}"
    page = asyncio.run(pages(site, limits, **guard).visit(url, 10_000))
    assert page is not None
    return page


def refusal(page: Page) -> str:
    """Why a page was not shown, as its reader is told."""
    assert page.text == ""
    assert page.next_offset is None
    head, tail = "This page cannot be read: ", ". Visit another URL."
    assert page.title.startswith(head)
    assert page.title.endswith(tail)
    return page.title[len(head) : -len(tail)]


def serper_says(results: list[tuple[str, str, str]]) -> Any:
    return {
        "searchParameters": {"q": "otter", "type": "search", "engine": "google"},
        "knowledgeGraph": {"title": "Otter"},
        "organic": [
            {"title": title, "link": url, "snippet": snippet, "position": rank, "sitelinks": []}
            for rank, (url, title, snippet) in enumerate(results, start=1)
        ],
        "credits": 1,
    }


def tavily_says(results: list[tuple[str, str, str]]) -> Any:
    return {
        "query": "otter",
        "answer": None,
        "images": [],
        "results": [
            {"title": title, "url": url, "content": snippet, "score": 0.9, "raw_content": None}
            for url, title, snippet in results
        ],
        "response_time": 1.2,
        "request_id": "1",
    }


def brave_says(results: list[tuple[str, str, str]]) -> Any:
    found = [
        {"type": "search_result", "title": title, "url": url, "description": snippet}
        for url, title, snippet in results
    ]
    query = {"original": "otter", "more_results_available": True}
    return {"type": "search", "query": query, "web": {"type": "search", "results": found}}


def searxng_says(results: list[tuple[str, str, str]]) -> Any:
    found = [
        {
            "title": title,
            "url": url,
            "content": snippet,
            "engine": "e",
            "engines": ["e"],
            "score": 1,
        }
        for url, title, snippet in results
    ]
    return {"query": "otter", "number_of_results": 0, "results": found, "unresponsive_engines": []}


SAYS = {
    "serper": serper_says,
    "tavily": tavily_says,
    "brave": brave_says,
    "searxng": searxng_says,
}


def service(name: str, site: Website) -> Service:
    """A service whose server is the test's."""
    if name == "searxng":
        return searxng(site.url)
    known = {"serper": SERPER, "tavily": TAVILY, "brave": BRAVE}[name]
    return replace(known, url=f"{site.url}/search")


def engine(name: str, site: Website, cache: Cache | None = None, **previews: Any) -> OpenWeb:
    cache = cache or Cache("off", Path())
    network = GuardedNetwork(at_home, {(site.host, site.port)})
    pages = WebPages(cache, Fetcher(network))
    return OpenWeb(service(name, site), KEY, cache, pages, **previews)


def says(name: str, results: list[tuple[str, str, str]]) -> Reply:
    return answer(json.dumps(SAYS[name](results)), kind="application/json")


def search(engine: OpenWeb, query: str = "otter", k: int = 10, page: int = 1) -> list[Hit]:
    return asyncio.run(engine.search(query, k, page))
