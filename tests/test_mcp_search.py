"""The engine that searches over MCP: the engine in process, and what it does when servers fail."""

import asyncio
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp_client import MCP
from serving import PAGES, Server, running

from nanoscout.errors import UserError
from nanoscout.search import mcp_client
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.mcp_search import McpSearch
from nanoscout.search.protocol import SearchUnavailable

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


def command(*args: str | Path) -> str:
    return shlex.join([sys.executable, *map(str, args)])


@pytest.fixture(params=["http", "stdio"])
def where(request: pytest.FixtureRequest, server: Server, folder: Path) -> str:
    return server.url if request.param == "http" else command(*MCP, folder)


def started_by_command() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "--http" not in child.cmdline()]


def search(where: str, query: str = "Brell") -> int:
    """How many hits a search finds there."""
    return len(asyncio.run(McpSearch(where).search(query, 3)))


def test_hits_and_pages_are_those_of_the_engine_in_process(where: str, index: SearchIndex) -> None:
    local = LocalSearch(index, "window", 60)
    engine = McpSearch(where, "window", 60)

    async def check() -> None:
        for query in ("Brell", "mayor paints", "東京", "zzz", "", " \0", "Brell " * 170_000):
            for page in (1, 2, 10**9):
                assert await engine.search(query, 7, page) == await local.search(query, 7, page)
        for url in (BRELL, " https://w.org/東京/ ", "https://w.org/none", " ", "x" * 2_000_000):
            for offset in (-3, 0, 100, 10**30):
                assert await engine.visit(url, 50, offset) == await local.visit(url, 50, offset)

    asyncio.run(check())
    asyncio.run(check())  # a second event loop, as in a training run
    assert started_by_command() == []  # they end with the event loop


@given(st.lists(st.text(st.characters()), min_size=1, max_size=20))
@example(["\ud800 Brell \udfff", "\0" * 100_000])
@settings(max_examples=10, deadline=None)
def test_many_calls_at_a_time_each_get_their_own_answer(
    server: Server, index: SearchIndex, texts: list[str]
) -> None:
    local, engine = LocalSearch(index), McpSearch(server.url)

    async def check(text: str) -> None:
        assert await engine.search(text, 5) == await local.search(text, 5)
        assert await engine.visit(text, 100) == await local.visit(text, 100)

    async def check_all() -> None:
        await asyncio.gather(*map(check, texts))

    asyncio.run(check_all())


def test_after_a_killed_command_the_next_call_starts_another(folder: Path) -> None:
    engine = McpSearch(command(*MCP, folder))

    async def outcomes() -> Counter[str]:
        calls = [asyncio.create_task(engine.search("Brell", 3)) for _ in range(50)]
        await asyncio.sleep(0)
        [server] = started_by_command()
        server.kill()
        done = await asyncio.gather(*calls, return_exceptions=True)
        return Counter(type(outcome).__name__ for outcome in done)

    async def check() -> None:
        for _ in range(2):
            assert len(await engine.search("Brell", 3)) == 3
            found = await outcomes()
            assert found["SearchUnavailable"] > 0
            assert set(found) <= {"list", "SearchUnavailable"}
        assert len(await engine.search("Brell", 3)) == 3

    asyncio.run(check())


def test_after_a_server_was_started_anew_the_next_call_has_a_new_session(folder: Path) -> None:
    async def check() -> None:
        with running(*MCP, str(folder), "--http", "--port", "0") as first:
            port = str(first.port)
            engine = McpSearch(first.url)
            assert len(await engine.search("Brell", 3)) == 3
        with pytest.raises(SearchUnavailable):
            await engine.search("Brell", 3)
        with running(*MCP, str(folder), "--http", "--port", port):
            while True:
                try:
                    assert len(await engine.search("Brell", 3)) == 3
                except SearchUnavailable:
                    continue
                break

    asyncio.run(check())


def test_a_cancelled_call_leaves_the_others_alone(where: str) -> None:
    engine = McpSearch(where)

    async def check() -> None:
        calls = [asyncio.create_task(engine.search("Brell", 3)) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, list) for outcome in done[1::2])

    asyncio.run(check())


def test_an_engine_down_behind_the_server_is_unavailable() -> None:
    server = (
        "from nanoscout.recipe import SearchSpec\n"
        "from nanoscout.search.http_search import HttpSearch\n"
        "from nanoscout.search.mcp_server import serve_stdio\n"
        "from nanoscout.search.mcp_tools import McpTools\n"
        "down = HttpSearch('http://127.0.0.1:1')\n"
        "serve_stdio(McpTools(lambda preview, chars: down, SearchSpec()), 'nothing')\n"
    )
    with pytest.raises(SearchUnavailable, match="Try again later"):
        search(command("-c", server))


def test_another_mcp_server_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no nanoscout MCP server there"):
        search(command(*MCP, folder, "--profile", "jan"))


FOREIGN = """
import json, sys
tools = [{{"name": name, "inputSchema": {{}}}} for name in ("web_search", "visit")]
begun = {{"protocolVersion": "2025-06-18", "capabilities": {{}}}}
begun["serverInfo"] = {{"name": "foreign", "version": "1"}}
results = {{"initialize": begun, "tools/list": {{"tools": tools}}, "tools/call": {result}}}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        answer = {{"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]}}
        print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"type": "text", "text": "1. Brell"}]},
        {"content": [], "structuredContent": {"result": "1. Brell"}},
        {"content": [], "structuredContent": {"hits": [{}]}},
        {"content": [], "structuredContent": {"hits": 7}},
        {"content": 7},
    ],
)
def test_tools_of_the_same_names_with_other_answers_are_refused(result: Any) -> None:
    with pytest.raises(UserError, match="no nanoscout MCP server there"):
        search(command("-c", FOREIGN.format(result=result)))


def test_sizes_out_of_the_servers_limits_are_told(server: Server) -> None:
    with pytest.raises(UserError, match="nanoscout/results: "):
        asyncio.run(McpSearch(server.url).search("Brell", 51))
    with pytest.raises(UserError, match="nanoscout/page_chars: "):
        asyncio.run(McpSearch(server.url).visit(BRELL, 0))


def test_a_server_that_cannot_be_had_says_why(server: Server, folder: Path) -> None:
    with pytest.raises(SearchUnavailable, match="no-such-command"):
        search("no-such-command")
    with pytest.raises(SearchUnavailable, match="no search index here"):
        search(command(*MCP, folder / "none"))
    with pytest.raises(SearchUnavailable, match=r"127\.0\.0\.1:1"):
        search("http://127.0.0.1:1/mcp")
    with pytest.raises(UserError, match="its address ends with /mcp"):
        search(server.url.removesuffix("/mcp"))
    for wrong in ("", "nanoscout 'mcp"):
        with pytest.raises(UserError, match="mcp:"):
            McpSearch(wrong)


def test_a_server_that_says_nothing_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_client, "SECONDS", 0.5)
    with pytest.raises(SearchUnavailable, match=r"no answer within 0\.5 s"):
        search("sleep 1000")
    assert started_by_command() == []


def test_the_token_is_sent(folder: Path) -> None:
    address = ("--http", "--host", "0.0.0.0", "--port", "0")
    with running(*MCP, str(folder), *address, NANOSCOUT_TOKEN="sésame") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert len(asyncio.run(McpSearch(url, token="sésame").search("Brell", 3))) == 3
        for wrong in ("", "other"):
            with pytest.raises(UserError, match="wants its token"):
                asyncio.run(McpSearch(url, token=wrong).search("Brell", 3))


def test_a_command_has_the_environment_of_the_one_who_starts_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_FOLDER", str(folder))
    shell = f'exec {sys.executable} {shlex.join(MCP)} "$SOME_FOLDER"'
    assert search(shlex.join(["/bin/sh", "-c", shell])) == 3
    assert os.environ["SOME_FOLDER"] == str(folder)
