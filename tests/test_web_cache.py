"""Answers of the open web on disk: kept, recorded, replayed, shared."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from openweb import KEY, OTTERS, engine, pages, says, search
from website import Website, answer, website

from nanoscout.errors import UserError
from nanoscout.records import ToolCall
from nanoscout.search.web.cache import MAX_AGE, Answer, Cache
from nanoscout.search.web.engine import OpenWeb
from nanoscout.search.web.services import searxng
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as site:
        yield site


def test_kept_answers_are_not_asked_for_again(site: Website, tmp_path: Path) -> None:
    site.replies["/search"] = says("serper", OTTERS)
    site.replies["/page"] = answer("some text", kind="text/plain")
    url = f"{site.url}/page"
    for _ in range(2):
        web = engine("serper", site, Cache("read_write", tmp_path / "cache"))
        hits, page = search(web), asyncio.run(web.visit(url, 100))
        assert [hit.title for hit in hits] == ["Otters", "Two"]
        assert page is not None
        assert page.text == "some text"
    assert sorted(site.paths) == ["/page", "/robots.txt", "/search"]
    files = sorted((tmp_path / "cache").iterdir())
    assert [file.name.partition("-")[0] for file in files] == ["page", "search"]
    assert not any(KEY in file.read_text() for file in files)
    entry = json.loads(files[0].read_text())
    assert entry["request"] == {"page": url}
    assert entry["status"] == 200
    assert entry["answer"] == {"title": "page", "text": "some text"}
    assert datetime.now(UTC) - datetime.fromisoformat(entry["when"]) < timedelta(minutes=5)


def test_another_server_is_another_engine_and_credentials_stay_out(
    site: Website, tmp_path: Path
) -> None:
    site.replies["/search"] = says("searxng", OTTERS)
    cache = Cache("read_write", tmp_path)
    with website() as other:
        other.replies["/search"] = says("searxng", [])
        assert len(search(engine("searxng", site, cache))) == 2
        assert search(engine("searxng", other, cache)) == []
        secret = searxng(f"http://me:{KEY}@{site.host}:{site.port}")
        web = OpenWeb(secret, "", cache, pages(site))
        assert len(search(web, "badger")) == 2
        assert site.heard[-1].headers["authorization"].startswith("Basic ")
    assert not any(KEY in file.read_text() for file in tmp_path.iterdir())


def ask_cache(cache: Cache, status: int, request: str = "r") -> tuple[int, bool]:
    """The status of the answer, and whether it was asked for anew."""
    asked = []

    async def ask() -> Answer:
        asked.append(request)
        return Answer(status, {})

    answered = asyncio.run(cache.answer({"page": request}, ask))
    return answered.status, bool(asked)


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"status": "x"}', "\0"])
def test_old_and_broken_entries_are_asked_for_again(tmp_path: Path, broken: str) -> None:
    cache = Cache("read_write", tmp_path)
    assert ask_cache(cache, 200) == (200, True)
    assert ask_cache(cache, 404) == (200, False)
    [file] = tmp_path.iterdir()
    entry = json.loads(file.read_text())
    entry["when"] = (datetime.now(UTC) - MAX_AGE - timedelta(minutes=1)).isoformat()
    file.write_text(json.dumps(entry))
    assert ask_cache(Cache("replay", tmp_path), 500) == (200, False)
    assert ask_cache(cache, 404) == (404, True)
    file.write_text(broken)
    with pytest.raises(UserError, match="delete this file"):
        ask_cache(Cache("replay", tmp_path), 200)
    assert ask_cache(cache, 200) == (200, True)
    assert ask_cache(cache, 404) == (200, False)


def test_passing_failures_are_recorded_and_not_kept(tmp_path: Path) -> None:
    keeping, recording = Cache("read_write", tmp_path / "a"), Cache("record", tmp_path / "b")
    for status in (0, 429, 503):
        assert ask_cache(keeping, status) == (status, True)
        assert ask_cache(recording, status) == (status, True)
        assert ask_cache(Cache("replay", tmp_path / "b"), 200) == (status, False)
    assert ask_cache(recording, 200) == (200, True)
    assert ask_cache(recording, 503) == (200, False)
    assert not (tmp_path / "a").exists()


def test_an_evaluation_is_repeated_without_the_network(tmp_path: Path) -> None:
    """The same conversation with tools, with the servers gone."""
    calls = [
        ToolCall("web_search", {"query": "otter"}),
        ToolCall("web_search", {"query": "otter", "page": 2}),
        ToolCall("visit", {"url": "URL/page"}),
        ToolCall("visit", {"url": "URL/page", "offset": 60}),
        ToolCall("visit", {"url": "URL/gone"}),
        ToolCall("visit", {"url": "http://169.254.169.254/latest"}),
        ToolCall("visit", {"url": "nonsense"}),
    ]

    async def results(web: OpenWeb, url: str) -> list[str]:
        tools = Toolbox(search_tools(web, 1, 100))
        made = [ToolCall(c.name, json.loads(json.dumps(c.args).replace("URL", url))) for c in calls]
        return [(await tools.call(call)).text for call in made]

    with website() as site:
        site.replies["/search"] = says("serper", OTTERS)
        site.replies["/page"] = answer("word " * 50, kind="text/plain")
        recorded = asyncio.run(results(engine("serper", site, Cache("record", tmp_path)), site.url))
        heard = len(site.heard)
    assert recorded[0].startswith("1. Otters")
    assert recorded[1].startswith("2. Two")
    assert "its site answers 404" in recorded[4]
    replayed = engine("serper", site, Cache("replay", tmp_path))
    assert asyncio.run(results(replayed, site.url)) == recorded
    assert len(site.heard) == heard
    with pytest.raises(UserError, match=r'no answer to \{"search": "badger", "engine": "serper"'):
        search(replayed, "badger")
    with pytest.raises(UserError, match=r'no answer to \{"page": "https://w.org/"\}'):
        asyncio.run(replayed.visit("https://w.org/", 100))


def test_the_same_request_goes_out_once(site: Website, tmp_path: Path) -> None:
    site.replies["/search"] = says("serper", OTTERS)
    web = engine("serper", site, Cache("read_write", tmp_path))

    async def eight() -> None:
        hits = await asyncio.gather(*(web.search("otter", 10) for _ in range(8)))
        assert len({tuple(found) for found in hits}) == 1

    asyncio.run(eight())
    asyncio.run(eight())  # a second event loop, as in a training run
    assert len(site.heard) == 1


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Each reads whole entries, whoever writes them at the same time."""
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from nanoscout.search.web.cache import Answer, Cache\n"
        "cache = Cache('read_write', Path(sys.argv[1]))\n"
        "async def ask():\n"
        "    return Answer(200, {'text': sys.argv[2] * 100_000})\n"
        "for n in range(100):\n"
        "    answer = asyncio.run(cache.answer({'page': f'{n % 10}'}, ask))\n"
        "    [letter] = set(answer.content['text'])\n"
        "    assert answer.content['text'] == letter * 100_000\n"
        "    if n % 10 == 9:\n"
        "        [path.unlink(missing_ok=True) for path in Path(sys.argv[1]).glob('*.json')]\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen([*command, letter]) for letter in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert list(tmp_path.glob("*.partial")) == []


def test_a_cache_that_cannot_be_written_is_named() -> None:
    with pytest.raises(UserError, match=r"/proc/none/page-.* search\.cache=off keeps nothing"):
        ask_cache(Cache("read_write", Path("/proc/none")), 200)
