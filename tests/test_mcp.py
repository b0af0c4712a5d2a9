"""A real MCP server, asked by the SDK's client, by raw HTTP, and by those who mean it no good."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Tool
from serving import FRESH, PAGES, Server, running

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.records import Passage, ToolCall
from nanoscout.search.http_search import HttpSearch
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.mcp_server import http_config, serve_http, tools_of_index
from nanoscout.search.mcp_tools import McpTools
from nanoscout.search.texts import UNAVAILABLE, VISIT, WEB_SEARCH
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

MCP = ("-m", "nanoscout", "mcp")
BRELL = "https://w.org/Brell"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


@dataclass(frozen=True)
class Client:
    """The SDK's client, with its session in the event loop of another thread."""

    portal: BlockingPortal
    session: ClientSession

    def call(self, name: str, /, meta: dict[str, Any] | None = None, **args: Any) -> CallToolResult:
        return self.portal.call(lambda: self.session.call_tool(name, args, meta=meta))

    def tools(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self.portal.call(self.session.list_tools).tools}


@contextlib.contextmanager
def connected(streams: Any) -> Iterator[Client]:
    @contextlib.asynccontextmanager
    async def session() -> Any:
        async with streams as (read, write, *_), ClientSession(read, write) as session:
            await session.initialize()
            yield session

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(session()) as opened:
        yield Client(portal, opened)


def over_stdio(*args: str, command: str = sys.executable) -> Any:
    return stdio_client(
        StdioServerParameters(command=command, args=list(args), env=dict(os.environ))
    )


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


def said(result: CallToolResult) -> tuple[str, bool]:
    """What a model reads, and whether the call went well."""
    [content] = result.content
    assert content.type == "text"
    return content.text, not result.isError


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


# Over standard input and output


def request(number: int, method: str, **params: Any) -> bytes:
    asked = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(asked).encode() + b"\n"


BEGIN = request(
    0,
    "initialize",
    protocolVersion="2025-06-18",
    capabilities={},
    clientInfo={"name": "test", "version": "1"},
) + (b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')


def test_standard_output_has_the_protocol_and_nothing_else(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *MCP, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    hostile = (
        b'{"jsonrpc": "2.0", "id": 7, "method": "\\ud800"}\n\xff\xfe\0\n[[[[\n\n{"id": 1e999}\n'
    )
    process.stdin.write(BEGIN + hostile + request(1, "ping") + request(2, "no/such/method"))
    process.stdin.write(request(3, "tools/call", name="web_search", arguments={"query": "Brell"}))
    process.stdin.flush()
    answers = {}
    while len(answers) < 4:
        answer = json.loads(process.stdout.readline())
        assert answer["jsonrpc"] == "2.0"
        if "id" in answer:
            answers[answer["id"]] = answer
    assert answers[0]["result"]["serverInfo"]["name"] == "nanoscout"
    assert answers[1]["result"] == {}
    assert "error" in answers[2]
    assert len(answers[3]["result"]["structuredContent"]["hits"]) == 10
    rest, log = process.communicate(timeout=60)
    assert rest == b""
    assert process.returncode == 0
    ready, *_ = log.decode().splitlines()
    assert ready == "nanoscout MCP server on standard input and output (33 documents)"


def test_an_interrupt_ends_it_at_once(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, *MCP, str(folder)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0


# Over HTTP


def post(url: str, content: bytes, **headers: str) -> httpx2.Response:
    return FRESH.post(url, content=content, headers=HEADERS | headers)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Origin": "http://localhost:6274"}, 200),
        ({"Host": "evil.example.com"}, 421),
        ({"Host": "localhost.evil.example.com:80"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Accept": "text/plain"}, 406),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
def test_only_loopback_names_and_no_foreign_pages_are_let_in(
    server: Server, headers: dict[str, str], status: int
) -> None:
    assert post(server.url, BEGIN.splitlines()[0], **headers).status_code == status


def test_the_token_is_asked_for(folder: Path) -> None:
    address = ("--http", "--host", "0.0.0.0", "--port", "0", "--token-env", "MY_TOKEN")
    with running(*MCP, str(folder), *address, MY_TOKEN="sésame") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "sésame"}):
            encoded = {name: value.encode() for name, value in headers.items()}
            for method in ("POST", "GET", "DELETE"):
                response = FRESH.request(method, url, headers=HEADERS | encoded)
                assert response.status_code == 401
                assert "Bearer TOKEN" in response.json()["error"]
        right = {"Authorization": "Bearer sésame".encode(), "Host": "search.example.org"}
        response = FRESH.post(url, content=BEGIN.splitlines()[0], headers=HEADERS | right)
        assert response.status_code == 200


def test_a_larger_request_is_refused(server: Server) -> None:
    line = request(1, "ping", _meta={"x": "y" * 2**20})
    chunks = (line[at : at + 50_000] for at in range(0, len(line), 50_000))
    for content in (line, chunks):  # with its length given, and without
        response = FRESH.post(server.url, content=content, headers=HEADERS)
        assert response.status_code == 413


def test_another_path_is_told_where_to_go(server: Server) -> None:
    response = FRESH.post(server.url.removesuffix("/mcp") + "/sse")
    assert response.status_code == 404
    assert response.json() == {"error": "not found; this server has /mcp"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
CALLS = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": st.integers() | st.text(), "method": st.just("tools/call")},
    optional={
        "params": st.fixed_dictionaries(
            {"name": st.sampled_from(["web_search", "visit"]) | JSON},
            optional={
                "arguments": st.dictionaries(st.sampled_from(["query", "page", "url"]), JSON),
                "_meta": st.dictionaries(st.sampled_from(["nanoscout/results", "x"]), JSON),
            },
        )
    },
)


@given(st.binary() | (JSON | CALLS).map(lambda value: json.dumps(value).encode()))
@example(b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "visit", '
         b'"arguments": {"url": "\\ud800"}}}')  # fmt: skip
@example(b"[" * 100_000)
@example(b'{"jsonrpc": "2.0", "id": ' + b"9" * 5_000 + b', "method": "ping"}')
@settings(max_examples=40, deadline=None)
def test_no_body_brings_a_session_down(server: Server, http_client: Client, body: bytes) -> None:
    begun = post(server.url, BEGIN.splitlines()[0])
    session = {"mcp-session-id": begun.headers["mcp-session-id"]}
    assert post(server.url, BEGIN.splitlines()[1], **session).status_code == 202
    response = post(server.url, body, **session)
    assert 200 <= response.status_code <= 500
    alive = post(server.url, request(99, "ping"), **session)
    assert '"result":{}' in alive.text
    assert FRESH.delete(server.url, headers=HEADERS | session).status_code == 200
    assert http_client.call("web_search", query="Brell").structuredContent


# From the terminal


def run(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *MCP, *map(str, args)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_printed_block_starts_the_server(folder: Path) -> None:
    printed = run(folder, "--print-config", "--profile", "jan", "--results", "1")
    block = json.loads(printed.stdout)["mcpServers"]["nanoscout"]
    assert Path(block["command"]).is_absolute()
    with connected(over_stdio(*block["args"], command=block["command"])) as client:
        found = client.call("google_search", q="Brell").structuredContent
    assert found is not None
    assert len(found["hits"]) == 1


def test_the_printed_block_for_http_has_address_and_token(folder: Path) -> None:
    printed = run(folder, "--http", "--port", "8123", "--print-config", NANOSCOUT_TOKEN="abc")
    assert json.loads(printed.stdout)["mcpServers"]["nanoscout"] == {
        "type": "http",
        "url": "http://127.0.0.1:8123/mcp",
        "headers": {"Authorization": "Bearer abc"},
    }
    assert "headers" not in http_config("127.0.0.1", 8123, "")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("no-such-folder",), "no search index here"),
        ((".", "--port", "8123"), "add --http"),
        (("index", "--http", "--port", "0", "--print-config"), "choose one"),
        (("index", "--http", "--host", "0.0.0.0"), "set a token"),
        (("index", "--results", "51"), "Invalid value"),
        (("index", "--profile", "bing"), "Invalid value"),
    ],
)
def test_a_wrong_command_ends_with_code_2_and_what_to_do(
    folder: Path, args: tuple[str, ...], complaint: str
) -> None:
    done = run(*(folder if arg == "index" else arg for arg in args), NANOSCOUT_TOKEN="")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_refused_in_a_line(index: SearchIndex) -> None:
    tools = tools_of_index(index, SearchSpec(), "nanoscout")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="cannot listen there"),
    ):
        serve_http(tools, "", port=taken.getsockname()[1])
