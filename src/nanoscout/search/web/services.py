"""The search services of the open web: how each is asked for a page of results, and what it says.

A service gives results in pages of a fixed size. What one of them answers is never another's: each
is asked under its own name, and a failure is said to be its own. The live services were not reached
where this was written; requests and answers follow their documentation.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from nanoscout.errors import UserError
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.web.guard import web_url

MAX_QUERY_CHARS = 400
MAX_QUERY_WORDS = 50
"""Brave and Tavily refuse longer queries; the others would hardly find anything with them."""

_TAG = re.compile(r"</?\w[^<>]*>")


@dataclass(frozen=True)
class Result:
    url: str
    title: str
    snippet: str


@dataclass(frozen=True)
class Service:
    name: str
    url: str
    size: int
    """Results on one of its pages."""
    pages: int
    """So many of them it gives, or is asked for."""
    request: Callable[[str, int, str], dict[str, Any]]
    """(query, number of the page from 1 on, key) -> the rest of the request, for httpx2."""
    results: Callable[[Any], list[Result]]
    """Reads the JSON of its answer; raises KeyError, TypeError or AttributeError for another, and
    SearchUnavailable where it says that it could not search."""
    key_variable: str = ""
    """The environment variable of its key; empty where it needs none."""
    refusal: str = ""
    """What a 401 or 403 means, and what to do."""


def _serper(query: str, page: int, key: str) -> dict[str, Any]:
    return {
        "method": "POST",
        "headers": {"X-API-KEY": key},
        "json": {"q": query, "num": 10, "page": page},
    }


def _serper_results(answer: Any) -> list[Result]:
    return [
        _result(found["link"], found.get("title"), found.get("snippet"))
        for found in answer.get("organic", [])
    ]


def _tavily(query: str, page: int, key: str) -> dict[str, Any]:
    return {
        "method": "POST",
        "headers": {"Authorization": f"Bearer {key}"},
        "json": {"query": query, "max_results": 20, "search_depth": "basic"},
    }


def _tavily_results(answer: Any) -> list[Result]:
    return [
        _result(found["url"], found.get("title"), found.get("content"))
        for found in answer["results"]
    ]


def _brave(query: str, page: int, key: str) -> dict[str, Any]:
    return {
        "method": "GET",
        "headers": {"X-Subscription-Token": key, "Accept": "application/json"},
        "params": {
            "q": query,
            "count": 20,
            "offset": page - 1,
            "text_decorations": "false",
            "result_filter": "web",
        },
    }


def _brave_results(answer: Any) -> list[Result]:
    """Without results there is no `web`; texts may hold HTML's entities, and tags all the same."""
    return [
        _result(
            found["url"], _plain(found.get("title") or ""), _plain(found.get("description") or "")
        )
        for found in answer.get("web", {}).get("results", [])
    ]


def _searxng(query: str, page: int, key: str) -> dict[str, Any]:
    return {"method": "GET", "params": {"q": query, "format": "json", "pageno": page}}


def _searxng_results(answer: Any) -> list[Result]:
    """To have found nothing because no engine behind it has answered is not to have found nothing.

    Some kinds of result have no URL.
    """
    if not answer["results"] and answer.get("unresponsive_engines"):
        raise SearchUnavailable("the engines behind it do not answer")
    return [
        _result(found.get("url"), found.get("title"), found.get("content"))
        for found in answer["results"]
    ]


SERPER = Service(
    name="serper",
    url="https://google.serper.dev/search",
    size=10,
    pages=10,
    request=_serper,
    results=_serper_results,
    key_variable="SERPER_API_KEY",
    refusal="it refuses the key in SERPER_API_KEY; serper.dev shows yours",
)
TAVILY = Service(
    name="tavily",
    url="https://api.tavily.com/search",
    size=20,
    pages=1,
    request=_tavily,
    results=_tavily_results,
    key_variable="TAVILY_API_KEY",
    refusal="it refuses the key in TAVILY_API_KEY; app.tavily.com shows yours",
)
BRAVE = Service(
    name="brave",
    url="https://api.search.brave.com/res/v1/web/search",
    size=20,
    pages=10,
    request=_brave,
    results=_brave_results,
    key_variable="BRAVE_API_KEY",
    refusal="it refuses the key in BRAVE_API_KEY; api-dashboard.search.brave.com shows yours",
)
KEYED = {service.name: service for service in (SERPER, TAVILY, BRAVE)}


def searxng(url: str) -> Service:
    """One's own SearXNG, or another that answers in JSON; its pages are cut to their best results.

    Raises UserError for what is no address.
    """
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        address = httpx2.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise UserError(f"search.engine: searxng+{url}: write it as searxng+http://HOST:PORT")
    return Service(
        name="searxng",
        url=f"{url.rstrip('/')}/search",
        size=10,
        pages=10,
        request=_searxng,
        results=_searxng_results,
        refusal="it does not answer in JSON; add json to search.formats in its settings.yml, and "
        "see that its limiter lets you in",
    )


def clean_query(query: str) -> str:
    """What a service is asked for a query: its first words, without control characters."""
    text = "".join(character if character.isprintable() else " " for character in query)
    return " ".join(text.split()[:MAX_QUERY_WORDS])[:MAX_QUERY_CHARS].rstrip()


def passing_failure(response: httpx2.Response) -> str:
    """What is wrong where the same request may go through later; empty otherwise."""
    status = response.status_code
    if (status == 429 and not _quota_is_used_up(response)) or status >= 500:
        return f"status {status}"
    return ""


def wished_wait(response: httpx2.Response) -> float:
    """Seconds that a service asks to be left alone: Retry-After, or Brave's header; else 0."""
    headers = response.headers
    wish = headers.get("Retry-After") or headers.get("X-RateLimit-Reset", "").partition(",")[0]
    return float(wish) if wish.isascii() and wish.isdigit() else 0.0


def read_results(service: Service, response: httpx2.Response, key: str) -> list[Result]:
    """The results on the page, each URL once.

    Raises SearchUnavailable where the answer says so, and UserError where somebody has to do
    something first: about the key, the quota, or this program.
    """
    if response.status_code != 200:
        raise UserError(f"{service.name}: {_lasting_failure(service, response, key)}")
    try:
        results = service.results(response.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{service.name}: its answer has a form that this version of nanoscout does not know"
        ) from None
    found: dict[str, Result] = {}
    for result in results:
        if len(result.url.split()) == 1 and web_url(result.url):
            found.setdefault(result.url, result)
    return list(found.values())


def _lasting_failure(service: Service, response: httpx2.Response, key: str) -> str:
    status, text = response.status_code, response.text
    if status in (401, 403) or (status == 422 and "SUBSCRIPTION_TOKEN_INVALID" in text):
        return service.refusal
    if _quota_is_used_up(response):
        return "your quota there is used up; enlarge it, wait for the next, or take another engine"
    reason = " ".join((text.replace(key, "…") if key else text).split())[:200]
    return f"it refuses the search with status {status}: {reason}"


def _quota_is_used_up(response: httpx2.Response) -> bool:
    """Tavily has statuses of its own for it, Brave and Serper say it in the answer."""
    status, text = response.status_code, response.text
    return (
        status in (402, 432, 433)
        or (status == 429 and "QUOTA_LIMITED" in text)
        or (status == 400 and "not enough credits" in text.lower())
    )


def _result(url: Any, title: Any, snippet: Any) -> Result:
    url, title, snippet = (_line(text) for text in (url, title, snippet))
    return Result(url, title or url, snippet)


def _line(text: Any) -> str:
    """`text` on one line, and such that UTF-8 can write it; JSON's escapes can also make others."""
    return " ".join(str(text or "").encode(errors="replace").decode().split())


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub("", text))
