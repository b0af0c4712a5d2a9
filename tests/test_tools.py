"""What the model reads from web_search, visit and the toolbox that stands before them."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoscout.records import Passage, ToolCall, ToolResult, ToolSpec
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.pages import page_portion
from nanoscout.tools import toolbox as toolbox_module
from nanoscout.tools.protocol import ToolUnavailable
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

LONG = " ".join(f"word{n}" for n in range(400))
PAGES = [
    Passage("p1", "Alma Voss", "Alma Voss is a painter. She lives in Brell.", "https://w.org/Alma"),
    Passage("p2", "Brell", "Brell is a town on the river Onn.", "https://w.org/Brell_(town)"),
    Passage("p3", "Chronicle", LONG, "https://w.org/Chronicle"),
]
INDEX = SearchIndex.build(PAGES)
PAGE_CHARS = 1_000
TOOLS = Toolbox(search_tools(LocalSearch(INDEX, preview_chars=30), 2, PAGE_CHARS))


def call(name: str, tools: Toolbox = TOOLS, **args: Any) -> ToolResult:
    return asyncio.run(tools.call(ToolCall(name, args)))


def test_a_search_shows_numbered_titles_urls_and_previews() -> None:
    result = call("web_search", query="Brell")
    assert result.ok
    assert result.text == (
        "1. Brell\nhttps://w.org/Brell_(town)\nBrell is a town on the river …\n"
        "2. Alma Voss\nhttps://w.org/Alma\nAlma Voss is a painter. She …"
    )
    assert result.shown == ("p2", "p1")
    assert result.seconds > 0


def test_the_window_preview_shows_the_words_of_the_query() -> None:
    window = LocalSearch(INDEX, preview="window", preview_chars=40)
    tools = Toolbox(search_tools(window, 1, PAGE_CHARS))
    result = call("web_search", tools, query="word390")
    assert "word390" in result.text
    assert "word390" not in call("web_search", query="word390").text


def test_further_result_pages_go_on_where_the_last_one_ended() -> None:
    tools = Toolbox(search_tools(LocalSearch(INDEX, preview_chars=30), 1, PAGE_CHARS))
    ones = [call("web_search", tools, query="Brell", page=n) for n in (1, 2, 3)]
    assert [one.shown for one in ones] == [("p2",), ("p1",), ()]
    assert ones[1].text.startswith("2. Alma Voss\n")
    assert ones[2].text == "No more results."
    assert call("web_search", query="Brell", page=10**9).text == "No more results."
    for page in (0, -1):
        assert not call("web_search", query="Brell", page=page).ok


def test_a_search_without_hits_says_so_in_words() -> None:
    result = call("web_search", query="xylophone")
    assert result.ok
    assert result.text == "No results. Try other words."
    assert result.shown == ()


def test_every_url_that_a_search_names_can_be_visited() -> None:
    for page in PAGES:
        urls = re.findall(r"^https://.*$", call("web_search", query=page.title).text, re.M)
        assert page.url in urls
        for url in urls:
            visited = call("visit", url=url)
            assert visited.ok
            (shown,) = visited.shown
            assert url == next(p.url for p in PAGES if p.id == shown)


@pytest.mark.parametrize("url", [" https://w.org/Alma\n", "https://w.org/Alma/"])
def test_a_url_with_a_space_or_slash_too_many_opens(url: str) -> None:
    result = call("visit", url=url)
    assert result.text == "Alma Voss\nAlma Voss is a painter. She lives in Brell."
    assert result.shown == ("p1",)


@pytest.mark.parametrize("url", ["https://w.org/alma", "Alma Voss", "\0", "/", "x" * 100_000])
def test_an_unknown_url_is_refused(url: str) -> None:
    result = call("visit", url=url)
    assert not result.ok
    assert result.text == "No page at this URL. Visit a URL from a search result."
    assert result.shown == ()


def test_a_long_page_is_read_to_its_end_by_following_its_last_line() -> None:
    read, args, visits = [], {}, 0
    while True:
        result = call("visit", url="https://w.org/Chronicle", **args)
        visits += 1
        assert result.ok
        assert result.shown == ("p3",)
        title, _, text = result.text.partition("\n")
        assert title == "Chronicle"
        text, _, more = text.partition("\n(")
        assert len(text) <= PAGE_CHARS
        read.append(text)
        if not more:
            break
        offset = re.fullmatch(r'The page goes on: visit it with "offset": (\d+)\.\)', more)
        assert offset
        args = {"offset": int(offset[1])}
    assert visits == 4
    assert " ".join(read) == LONG


@pytest.mark.parametrize("offset", [-1, len(LONG), 10**30])
def test_an_offset_outside_the_page_is_refused(offset: int) -> None:
    result = call("visit", url="https://w.org/Chronicle", offset=offset)
    assert not result.ok
    assert result.shown == ()


@given(st.text(st.sampled_from("ab \n\t🙂"), max_size=300), st.integers(1, 40))
def test_the_portions_of_a_page_are_the_page(text: str, length: int) -> None:
    passage = Passage("p", "t", text, "u")
    portions, offset = [page_portion(passage, 0, length)], -1
    while (following := portions[-1].next_offset) is not None:
        assert following > offset
        offset = following
        portions.append(page_portion(passage, offset, length))
    assert all(0 < len(portion.text) <= length for portion in portions if text.strip())
    assert "".join("".join(p.text for p in portions).split()) == "".join(text.split())
    for portion in portions:
        assert text[portion.offset :].startswith(portion.text)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("web_search", {}, 'web_search needs "query".'),
        ("web_search", {"query": ""}, 'web_search needs "query".'),
        ("web_search", {"query": " \n"}, 'web_search needs "query".'),
        ("web_search", {"query": None}, 'web_search needs "query".'),
        ("web_search", {"query": ["a"]}, '"query" of web_search must be of type string.'),
        ("web_search", {"query": 7}, '"query" of web_search must be of type string.'),
        ("web_search", {"query": "a", "k": 3}, "web_search has no 'k'; it takes: query, page."),
        ("visit", {"offset": 3}, 'visit needs "url".'),
        ("visit", {"url": "u", "offset": "3"}, '"offset" of visit must be of type integer.'),
        ("visit", {"url": "u", "offset": True}, '"offset" of visit must be of type integer.'),
        ("visit", {"url": "u", "offset": 2.0}, '"offset" of visit must be of type integer.'),
        ("search", {"query": "a"}, "There is no tool 'search'. The tools are: web_search, visit."),
    ],
)
def test_a_wrong_call_is_answered_with_what_to_do(
    name: str, args: dict[str, Any], says: str
) -> None:
    assert call(name, **args) == ToolResult(says, ok=False)


def test_what_the_model_wrote_is_not_echoed_at_length_nor_unencodable() -> None:
    for name in ("x" * 100_000, "\ud800" * 100_000):
        assert len(call(name).text.encode()) < 500
        wrong_key = asyncio.run(TOOLS.call(ToolCall("web_search", {"query": "a", name: 1})))
        assert len(wrong_key.text.encode()) < 500


class Flaky:
    """A tool that cannot be reached the first `faults` times."""

    spec = ToolSpec("flaky", "", {"type": "object", "properties": {}})

    def __init__(self, faults: int):
        self.faults = faults
        self.calls = 0

    async def call(self, args: dict[str, Any]) -> ToolResult:
        self.calls += 1
        if self.calls <= self.faults:
            raise ToolUnavailable("connection refused")
        return ToolResult("there", ok=True)


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox_module, "RETRY_SECONDS", (0.0, 0.0))


@pytest.mark.usefixtures("_no_pauses")
def test_a_tool_is_tried_three_times() -> None:
    flaky = Flaky(faults=2)
    assert call("flaky", Toolbox([flaky])).text == "there"
    assert flaky.calls == 3


@pytest.mark.usefixtures("_no_pauses")
def test_a_tool_that_stays_away_is_an_error_and_no_result() -> None:
    gone = Flaky(faults=9)
    with pytest.raises(ToolUnavailable, match="connection refused"):
        call("flaky", Toolbox([gone]))
    assert gone.calls == 3


def test_the_specs_are_those_of_the_tools_in_order() -> None:
    assert [spec.name for spec in TOOLS.specs] == ["web_search", "visit"]
    for spec in TOOLS.specs:
        assert spec.parameters["additionalProperties"] is False
        assert set(spec.parameters["required"]) <= set(spec.parameters["properties"])
