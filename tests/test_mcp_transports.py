"""The MCP server's two transports and its command line, by raw bytes and hostile requests."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp.client.streamable_http import streamable_http_client
from mcp_client import MCP, Client, connected, over_stdio
from serving import FRESH, PAGES, Server, running

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.index import SearchIndex
from nanoscout.search.mcp_server import http_config, serve_http, tools_of_index

HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


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
    assert "headers" not in http_config("::1", 8123, "")
    for host, shown in (("::1", "[::1]"), ("0.0.0.0", socket.gethostname())):
        assert f'"http://{shown}:8123/mcp"' in http_config(host, 8123, "")


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
