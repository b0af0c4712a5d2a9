"""The tools of a real MCP server, over both transports, as the official SDK's client finds them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp.client.streamable_http import streamable_http_client
from mcp_client import MCP, Client, connected, over_stdio, said
from serving import PAGES, Server, running

from nanoscout.recipe import SearchSpec
from nanoscout.records import Passage, ToolCall
from nanoscout.search.http_search import HttpSearch
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.mcp_server import tools_of_index
from nanoscout.search.mcp_tools import McpTools
from nanoscout.search.texts import UNAVAILABLE, VISIT, WEB_SEARCH
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

BRELL = "https://w.org/Brell"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "index"
    SearchIndex.build(PAGES, folder)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> SearchIndex:
    return SearchIndex.open(folder)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running(*MCP, str(folder), "--http", "--port", "0") as server:
        yield server


@pytest.fixture(scope="module")
def http_client(server: Server) -> Iterator[Client]:
    with connected(streamable_http_client(server.url)) as client:
        yield client


@pytest.fixture(scope="module")
def stdio_client_(folder: Path) -> Iterator[Client]:
    with connected(over_stdio(*MCP, str(folder))) as client:
        yield client


@pytest.fixture(params=["http_client", "stdio_client_"])
def client(request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def jan(folder: Path) -> Iterator[Client]:
    """With names and sizes other than the default ones."""
    sizes = ("--results", "2", "--preview", "window", "--preview-chars", "40")
    with connected(
        over_stdio(*MCP, str(folder), "--profile", "jan", *sizes, "--page-chars", "100")
    ) as client:
        yield client


def said_in_process(toolbox: Toolbox, name: str, **args: Any) -> tuple[str, bool]:
    result = asyncio.run(toolbox.call(ToolCall(name, args)))
    return result.text, result.ok


@pytest.fixture(scope="module")
def in_process(index: SearchIndex) -> Toolbox:
    spec = SearchSpec()
    return Toolbox(search_tools(LocalSearch(index), spec.results, spec.page_chars))


def test_the_tools_and_what_is_said_of_them(client: Client) -> None:
    tools = client.tools()
    assert list(tools) == ["web_search", "visit"]
    for spec, title in ((WEB_SEARCH, "Search the web"), (VISIT, "Read a page")):
        tool = tools[spec.name]
        assert (tool.description, tool.title) == (spec.description, title)
        assert tool.inputSchema == spec.parameters
        assert tool.outputSchema is not None
        assert tool.outputSchema["type"] == "object"
        assert tool.annotations is not None
        assert tool.annotations.model_dump(exclude_none=True) == {
            "title": title,
            "readOnlyHint": True,
            "idempotentHint": True,
            "openWorldHint": False,
        }


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("web_search", {"query": "Brell"}),
        ("web_search", {"query": "Brell", "page": 2}),
        ("web_search", {"query": "Brell", "page": 10**9}),
        ("web_search", {"query": "Brell", "page": 0}),
        ("web_search", {"query": "zzz"}),
        ("web_search", {"query": "東京\0\n"}),
        ("web_search", {"query": "Brell " * 170_000}),
        ("web_search", {}),
        ("web_search", {"query": " \n"}),
        ("web_search", {"query": None}),
        ("web_search", {"query": 7}),
        ("web_search", {"query": "Brell", "page": "2"}),
        ("web_search", {"query": "Brell", "page": True}),
        ("web_search", {"query": "Brell", "x" * 1_000: 3}),
        ("visit", {"url": BRELL}),
        ("visit", {"url": f" {BRELL}/", "offset": 100}),
        ("visit", {"url": BRELL, "offset": 10**30}),
        ("visit", {"url": BRELL, "offset": -1}),
        ("visit", {"url": "https://w.org/none"}),
        ("visit", {"url": "../../etc/passwd"}),
        ("visit", {"url": "x" * 1_000_000}),
        ("visit", {"offset": 3}),
        ("no_such_tool", {"query": "Brell"}),
    ],
)
def test_a_model_reads_what_it_reads_in_process(
    client: Client, in_process: Toolbox, name: str, args: dict[str, Any]
) -> None:
    assert said(client.call(name, **args)) == said_in_process(in_process, name, **args)


def test_the_structured_content_is_that_of_the_engine(client: Client, index: SearchIndex) -> None:
    async def local() -> tuple[Any, Any]:
        engine = LocalSearch(index)
        return await engine.search("Brell", 10), await engine.visit(BRELL, 2_000)

    hits, page = asyncio.run(local())
    found = client.call("web_search", query="Brell").structuredContent
    assert found == {
        "engine": "local",
        "hits": [
            {
                "id": hit.passage_id,
                "title": hit.title,
                "url": hit.url,
                "preview": hit.preview,
                "score": hit.score,
            }
            for hit in hits
        ],
    }
    read = client.call("visit", url=BRELL).structuredContent
    assert read == {
        "engine": "local",
        "page": {
            "id": "p2",
            "title": "Brell",
            "url": BRELL,
            "text": page.text,
            "offset": 0,
            "next_offset": None,
        },
    }
    assert client.call("visit", url="u:none").structuredContent == {"engine": "local", "page": None}


def test_a_request_may_ask_for_other_sizes(client: Client, index: SearchIndex) -> None:
    other = Toolbox(search_tools(LocalSearch(index, "window", 30), 3, 60))
    sizes = {"results": 3, "preview": "window", "preview_chars": 30, "page_chars": 60}
    meta = {f"nanoscout/{name}": value for name, value in sizes.items()}
    for name, args in (
        ("web_search", {"query": "mayor Brell"}),
        ("web_search", {"query": "mayor Brell", "page": 2}),
        ("visit", {"url": BRELL}),
    ):
        mine = {"progressToken": 1, "other/field": [1], **meta}
        assert said(client.call(name, mine, **args)) == said_in_process(other, name, **args)


@pytest.mark.parametrize(
    ("field", "value"),
    [("results", 51), ("results", "3"), ("preview", "all"), ("page_chars", 0), ("k", 3)],
)
def test_sizes_that_cannot_be_had_are_refused(client: Client, field: str, value: Any) -> None:
    text, ok = said(client.call("web_search", {f"nanoscout/{field}": value}, query="Brell"))
    assert not ok
    assert text.startswith(f"nanoscout/{field}: ")
    assert text.endswith("Mend the request's _meta.")


def test_it_can_stand_in_for_the_server_that_jan_users_know(
    jan: Client, index: SearchIndex
) -> None:
    tools = jan.tools()
    assert list(tools) == ["google_search", "scrape"]
    search, scrape = (tool.inputSchema["properties"] for tool in tools.values())
    assert {"q", "gl", "hl", "location", "num", "tbs", "page", "autocorrect"} == set(search)
    assert {"url", "includeMarkdown"} < set(scrape)
    toolbox = Toolbox(search_tools(LocalSearch(index, "window", 40), 2, 100))
    three = Toolbox(search_tools(LocalSearch(index, "window", 40), 3, 100))
    plain = {"gl": "us", "hl": "en", "autocorrect": True, "tbs": "qdr:w"}
    asked = jan.call("google_search", q="mayor of Brell", page=2, **plain)
    assert said(asked) == said_in_process(toolbox, "web_search", query="mayor of Brell", page=2)
    asked = jan.call("google_search", q="Brell", num=3)
    assert said(asked) == said_in_process(three, "web_search", query="Brell")
    read = jan.call("scrape", url=BRELL, includeMarkdown=False, offset=90)
    assert said(read) == said_in_process(toolbox, "visit", url=BRELL, offset=90)
    assert said(jan.call("google_search", q="Brell", num=-1))[0].count("\n") == 2
    for args, complaint in (
        ({"query": "Brell"}, 'google_search needs "q".'),
        ({"q": "Brell", "autocorrect": 1}, '"autocorrect" of google_search must be of type'),
        ({"q": "Brell", "site": "w.org"}, "google_search has no 'site'; it takes: q, gl"),
    ):
        text, ok = said(jan.call("google_search", **args))
        assert not ok
        assert text.startswith(complaint)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers())
@example("\0", 0)
@example('Brell AND (title:"x" OR -y)^2 [* TO *]', 1)
@settings(max_examples=30, deadline=None)
def test_any_text_is_a_query_and_a_url(
    stdio_client_: Client, in_process: Toolbox, text: str, number: int
) -> None:
    for name, args in (
        ("web_search", {"query": text, "page": number}),
        ("visit", {"url": text, "offset": number}),
    ):
        assert said(stdio_client_.call(name, **args)) == said_in_process(in_process, name, **args)


def test_changes_of_the_index_are_seen(tmp_path: Path) -> None:
    index = SearchIndex.build(PAGES, tmp_path / "index")
    tools = tools_of_index(index, SearchSpec(), "nanoscout")

    def found(query: str) -> str:
        return asyncio.run(tools.call("web_search", {"query": query}, {})).text

    assert found("quokka") == "No results. Try other words."
    for n in range(3):
        SearchIndex.update(tmp_path / "index", [Passage("q", f"Quokka {n}", "Smiles.", "u:q")])
        assert found("quokka") == f"1. Quokka {n}\nu:q\nSmiles."
    (tmp_path / "index" / "meta.json").unlink()
    assert found("quokka").startswith("1. Quokka 2\n")


def test_an_engine_that_is_not_to_be_reached_is_told_so() -> None:
    tools = McpTools(lambda preview, chars: HttpSearch("http://127.0.0.1:1"), SearchSpec())
    answer = asyncio.run(tools.call("web_search", {"query": "Brell"}, {}))
    assert (answer.text, answer.ok, answer.unavailable) == (UNAVAILABLE, False, True)
