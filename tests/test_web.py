"""The open web as a search engine: services, their failures, and asking a model with them.

Local servers answer in the shapes that the services document; no live service is asked.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from openweb import (
    KEY,
    OTTERS,
    SAYS,
    engine,
    says,
    search,
    service,
)
from rich.console import Console
from scripted import ScriptedEngine
from typer.testing import CliRunner
from website import Handler, Website, answer, website

from nanoscout.ask import ask_run
from nanoscout.cli import app
from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.models import load_model, save_model
from nanoscout.questions import load_questions
from nanoscout.recipe import SearchSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.records import Hit, Question, ToolCall
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes
from nanoscout.search.engines import open_engine
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.texts import hits_in, hits_text
from nanoscout.search.web.services import BRAVE, SERPER, TAVILY, clean_query
from nanoscout.setting import make_setting, open_setting, prepare_folder
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"


@pytest.fixture
def site() -> Iterator[Website]:
    with website() as site:
        yield site


@pytest.mark.parametrize("name", SAYS)
def test_results_become_hits(site: Website, name: str) -> None:
    site.replies["/search"] = says(name, [*OTTERS, OTTERS[0], ("magnet:?x", "No page", "")])
    web = engine(name, site, preview_chars=20)
    assert web.name == name
    assert search(web) == [
        Hit("https://w.org/otter", "Otters", "https://w.org/otter", "The otter eats fish.", 1.0),
        Hit("https://w.org/2", "Two", "https://w.org/2", "", 0.5),
    ]
    site.replies["/search"] = says(name, [])
    assert search(web) == []
    assert search(web, page=10**9) == []


def test_what_each_service_is_asked(site: Website) -> None:
    for name in SAYS:
        site.replies["/search"] = says(name, OTTERS)
        search(engine(name, site), "otters & co?")
    serper, tavily, brave, own = site.heard
    assert [heard.method for heard in site.heard] == ["POST", "POST", "GET", "GET"]
    assert serper.headers["x-api-key"] == KEY
    assert json.loads(serper.body) == {"q": "otters & co?", "num": 10, "page": 1}
    assert tavily.headers["authorization"] == f"Bearer {KEY}"
    body = {"query": "otters & co?", "max_results": 20, "search_depth": "basic"}
    assert json.loads(tavily.body) == body
    assert brave.headers["x-subscription-token"] == KEY
    assert "q=otters+%26+co%3F&count=20&offset=0" in brave.path
    assert own.path == "/search?q=otters+%26+co%3F&format=json&pageno=1"
    assert KEY not in str(own)


@pytest.mark.parametrize(
    ("name", "k", "page", "asked", "ranks"),
    [
        ("serper", 10, 1, [1], range(1, 11)),
        ("serper", 10, 3, [3], range(21, 31)),
        ("serper", 4, 3, [1, 2], range(9, 13)),
        ("serper", 10, 11, [], range(0)),
        ("brave", 10, 2, [0], range(11, 21)),
        ("brave", 10, 3, [1], range(21, 31)),
        ("brave", 50, 1, [0, 1, 2], range(1, 51)),
        ("searxng", 10, 2, [2], range(11, 21)),
        ("tavily", 10, 2, [None], range(11, 21)),
        ("tavily", 10, 3, [], range(0)),
    ],
)
def test_further_pages(
    site: Website, name: str, k: int, page: int, asked: list[int | None], ranks: range
) -> None:
    """`asked`: the service's own page numbers."""
    size = service(name, site).size
    numbers: list[int | None] = []

    def reply(handler: Handler) -> None:
        heard = site.heard[-1]
        given = json.loads(heard.body) if heard.body else query_of(heard.path)
        number = given.get("page", given.get("offset", given.get("pageno")))
        numbers.append(None if number is None else int(number))
        first = size * (int(number or 1) - (name != "brave")) + 1
        found = [(f"https://w.org/{n}", f"{n}", "") for n in range(first, first + size)]
        says(name, found)(handler)

    site.replies["/search"] = reply
    hits = search(engine(name, site), k=k, page=page)
    assert [int(hit.title) for hit in hits] == list(ranks)
    assert numbers == asked


def query_of(path: str) -> dict[str, str]:
    return dict(part.split("=") for part in path.partition("?")[2].split("&"))


def test_previews_are_cut_from_the_snippet(site: Website) -> None:
    snippet = "A long story about rivers and lakes, at the end of which an otter appears and swims."
    site.replies["/search"] = says("tavily", [("https://w.org/", "T", snippet)])
    assert search(engine("tavily", site, preview_chars=30))[0].preview.startswith("A long story")
    [hit] = search(engine("tavily", site, preview="window", preview_chars=30))
    assert "otter" in hit.preview


def test_texts_come_without_tags_and_on_one_line(site: Website) -> None:
    found = [("https://w.org/", "Q&amp;A: <strong>otter</strong>\n1", "a &lt; b\ud800 <b>c</b>")]
    site.replies["/search"] = says("brave", found)
    [hit] = search(engine("brave", site))
    assert (hit.title, hit.preview) == ("Q&A: otter 1", "a < b? c")


@given(st.text(st.characters()))
def test_any_text_is_made_a_query(text: str) -> None:
    query = clean_query(text)
    query.encode()
    assert query.isprintable()
    assert len(query) <= 400
    assert len(query.split()) <= 50
    assert clean_query(query) == query


def test_a_query_without_words_is_not_sent(site: Website) -> None:
    assert search(engine("serper", site), "\0 \ud800\n") == []
    assert site.heard == []


QUOTA = "your quota there is used up"
REFUSALS = [
    ("serper", 403, '{"message":"Unauthorized.","statusCode":403}', "SERPER_API_KEY"),
    ("serper", 400, '{"message":"Not enough credits","statusCode":400}', QUOTA),
    ("tavily", 401, '{"detail":{"error":"Unauthorized: invalid API key."}}', "TAVILY_API_KEY"),
    ("tavily", 432, '{"detail":{"error":"exceeds your plan\'s limit"}}', QUOTA),
    ("tavily", 433, '{"detail":{"error":"exceeds the pay-as-you-go limit"}}', QUOTA),
    ("brave", 422, '{"error":{"code":"SUBSCRIPTION_TOKEN_INVALID"}}', "BRAVE_API_KEY"),
    ("brave", 429, '{"error":{"code":"QUOTA_LIMITED"}}', QUOTA),
    ("brave", 402, "{}", QUOTA),
    ("brave", 422, '{"error":{"code":"VALIDATION"}}', "status 422: {.*VALIDATION"),
    ("searxng", 403, "<title>403 Forbidden</title>", "add json to search.formats"),
    ("serper", 404, f"no {KEY} here", "status 404: no … here"),
    ("serper", 200, "<html>", "a form that this version of nanoscout does not know"),
    ("serper", 200, "[1]", "a form that this version of nanoscout does not know"),
    ("serper", 200, '{"organic": [{"title": "x"}]}', "a form that this version"),
    ("tavily", 200, '{"results": 5}', "a form that this version"),
    ("searxng", 200, '{"results": [7]}', "a form that this version"),
    ("serper", 301, "", "status 301"),
]


@pytest.mark.parametrize(("name", "status", "body", "advice"), REFUSALS)
def test_what_somebody_has_to_mend_is_said(
    site: Website, name: str, status: int, body: str, advice: str
) -> None:
    site.replies["/search"] = answer(body, status, kind="application/json")
    with pytest.raises(UserError, match=f"^{name}: .*{advice}") as error:
        search(engine(name, site))
    assert KEY not in str(error.value)
    assert len(site.heard) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(site: Website, status: int) -> None:
    def once(handler: Handler) -> None:
        site.replies["/search"] = says("brave", OTTERS)
        answer('{"error":{"code":"RATE_LIMITED"}}', status, Retry_After="0")(handler)

    site.replies["/search"] = once
    tools = Toolbox(search_tools(engine("brave", site), 10, 1_000))
    result = asyncio.run(tools.call(ToolCall("web_search", {"query": "otter"})))
    assert result.text.startswith("1. Otters\nhttps://w.org/otter\n")
    assert result.shown == ("https://w.org/otter", "https://w.org/2")


def test_a_wished_wait_is_kept_within_reason(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    wishes = [{"Retry_After": "3"}, {"X_RateLimit_Reset": "1, 1419704"}]
    wishes += [{"Retry_After": "3600"}, {"Retry_After": "Wed, 21 Oct 2065 07:28:00 GMT"}]
    for headers in wishes:
        site.replies["/search"] = answer("", 429, **headers)
        with pytest.raises(SearchUnavailable, match="brave: status 429"):
            search(engine("brave", site))
    assert [wait for wait in waits if wait] == [3, 1]


def test_a_searxng_whose_engines_are_silent_has_not_found_nothing(site: Website) -> None:
    said = SAYS["searxng"]([]) | {"unresponsive_engines": [["brave", "too many requests"]]}
    site.replies["/search"] = answer(json.dumps(said))
    with pytest.raises(SearchUnavailable, match="searxng: the engines behind it do not answer"):
        search(engine("searxng", site))


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with website() as gone:
        web = engine("serper", gone)
    with pytest.raises(SearchUnavailable, match="serper: "):
        search(web)


# By name, in recipes and from the terminal


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, variable in (("serper", "SERPER_API_KEY"), ("brave", "BRAVE_API_KEY")):
        monkeypatch.delenv(variable, raising=False)
        for key in ("", " ", "schlüssel"):
            monkeypatch.setenv(variable, key)
            with pytest.raises(UserError, match=f"environment variable {variable}"):
                open_engine(SearchSpec(engine=name), None)
        replay = SearchSpec(engine=name, cache="replay", cache_folder=str(tmp_path))
        assert open_engine(replay, None).name == name
        monkeypatch.setenv(variable, KEY)
        assert open_engine(SearchSpec(engine=name), None).name == name
    assert open_engine(SearchSpec(engine="searxng+http://localhost:8888"), None).name == "searxng"
    for wrong in ("searxng+", "searxng+localhost:8888", "searxng+http://", "searxng+http://[::1"):
        with pytest.raises(UserError, match=r"searxng\+http://HOST:PORT"):
            open_engine(SearchSpec(engine=wrong), None)
    with pytest.raises(UserError, match=r"take local, .*serper, tavily, brave, searxng\+http"):
        open_engine(SearchSpec(engine="google"), None)
    with pytest.raises(UserError, match="there is no index here"):
        open_engine(SearchSpec(), None)
    missing = SearchSpec(engine="serper", cache="replay", cache_folder=str(tmp_path / "none"))
    with pytest.raises(UserError, match="no recording here"):
        open_engine(missing, None)


def test_a_recording_needs_a_folder() -> None:
    for mode in ("record", "replay"):
        with pytest.raises(UserError, match="needs cache_folder"):
            load_recipe(SMOKE, [f"search.cache={mode}"])


def nanoscout(*args: str) -> Result:
    """The command line in this process, without anybody's keys."""
    keyless = {service.key_variable: "" for service in (SERPER, TAVILY, BRAVE)}
    return CliRunner().invoke(app, args, env=keyless)


def test_the_web_from_the_terminal(site: Website) -> None:
    site.replies["/search"] = says("searxng", [("https://w.org/\x1b[2J", "No page", "fish")])
    found = nanoscout("web", "search", "otter", "--engine", f"searxng+{site.url}")
    assert found.stdout == "searxng:\nNo results. Try other words.\n"
    site.replies["/search"] = says("searxng", [("https://w.org/", "Otters\x1b[2J", "fish")])
    found = nanoscout("web", "search", "otter", "--engine", f"searxng+{site.url}")
    assert found.stdout == "searxng:\n1. Otters\ufffd[2J\nhttps://w.org/\nfish\n"
    site.replies["/search"] = answer("", 500)
    failed = nanoscout("web", "search", "otter", "--engine", f"searxng+{site.url}")
    assert str(failed.exception) == "searxng: status 500; try again later"
    for name in ("127.0.0.1", "localhost"):
        refused = nanoscout("web", "visit", f"http://{name}:{site.port}/")
        assert refused.stdout == (
            f"This page cannot be read: {name} is not on the public web. Visit another URL.\n"
        )
    assert "begins with https://" in str(nanoscout("web", "visit", "otters").exception)
    assert site.paths == ["/search?q=otter&format=json&pageno=1"] * 3


def test_a_missing_key_is_one_line() -> None:
    command = [sys.executable, "-m", "nanoscout", "web", "search", "otter", "--engine", "tavily"]
    environment = os.environ | {"TAVILY_API_KEY": ""}
    refused = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert refused.returncode == 2
    assert refused.stderr == (
        "nanoscout: search.engine: tavily: put its key into the environment variable "
        "TAVILY_API_KEY\n"
    )


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])).map(str.strip),
            st.text(st.characters(categories=["L", "N", "P"]), min_size=1).map("http://".__add__),
            st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])).map(str.strip),
        ),
        max_size=5,
    ),
    st.integers(1, 500),
)
@settings(max_examples=50)
def test_what_a_result_page_shows_can_be_read_off_it(
    shown: list[tuple[str, str, str]], first: int
) -> None:
    hits = [Hit(url, title, url, preview, 1.0) for title, url, preview in shown]
    expected = [(url, f"{title} {preview}") for title, url, preview in shown]
    assert hits_in(hits_text(hits, first)) == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an untrained model in the place of the trained one."""
    folder = tmp_path_factory.mktemp("web") / "run"
    recipe = load_recipe(SMOKE, ["dialogue.examples=[]"])
    prepare_folder(recipe, folder, load_questions(recipe.questions, recipe.seed))
    save_model(*load_model(recipe.model), folder / "model")
    return folder


TURNS = [
    '<tool>{"name": "web_search", "args": {"query": "otter food"}}</tool>',
    '<tool>{"name": "visit", "args": {"url": "URL/river"}}</tool>',
    '<tool>{"name": "visit", "args": {"url": "URL/gone"}}</tool>',
    "<answer>crabs</answer>",
]


def test_a_model_answers_with_pages_of_the_web_as_its_sources(
    site: Website, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.replies["/search"] = says(
        "searxng", [("https://w.org/a", "Crabs", "are eaten"), ("https://w.org/b", "Fish", "too")]
    )
    site.replies["/river"] = answer("By the river the otter eats CRABS.", kind="text/plain")
    turns = [turn.replace("URL", site.url) for turn in TURNS]
    said = []

    def opened(folder: Path, overrides: list[str]) -> Any:
        recipe, setting = open_setting(folder, overrides=overrides)
        assert setting.search.name == "searxng"
        toolbox = Toolbox(search_tools(engine("searxng", site), 10, 1_000))
        environment = replace(setting.environment, toolbox=toolbox)
        model = ScriptedEngine(
            environment.dialogue.tokenizer,
            lambda so_far, seed: turns[so_far.count("<|im_start|>assistant") - 1],
        )
        return recipe, replace(setting, environment=environment, engine=model)

    monkeypatch.setattr("nanoscout.ask.open_setting", opened)
    with (tmp_path / "said").open("w+") as file:
        overrides = [f"search.engine=searxng+{site.url}", "evaluation.turns=6"]
        ask_run("What?", run, Console(file=file, width=200), overrides)
        file.seek(0)
        said = file.read().splitlines()
    assert said[0] == "Searching with searxng."
    assert said[-3:] == [
        "Answer: crabs",
        "  source: https://w.org/a",
        f"  source: {site.url}/river",
    ]


def test_ask_and_eval_take_another_engine(site: Website, run: Path, tmp_path: Path) -> None:
    site.replies["/search"] = says("searxng", OTTERS)
    other = ("--search", f"searxng+{site.url}", "--set", "evaluation.turns=1")
    asked = nanoscout("ask", "What do otters eat?", "--run", str(run), *other)
    assert asked.exception is None
    assert asked.stdout.startswith("Searching with searxng.\n")
    out = tmp_path / "figures.json"
    evaluated = nanoscout("eval", "run", str(run), "--questions", "1", "--out", str(out), *other)
    assert evaluated.exception is None
    assert json.loads(out.read_text())["search"] == "searxng"
    refused = nanoscout("ask", "What?", "--run", str(run), "--search", "brave")
    assert "BRAVE_API_KEY" in str(refused.exception)


def test_a_used_up_quota_ends_all_conversations_with_one_line(site: Website, run: Path) -> None:
    site.replies["/search"] = answer("{}", 432)
    recipe = load_recipe(run / "recipe.toml")
    setting = make_setting(recipe, run, *load_model(recipe.model))
    toolbox = Toolbox(search_tools(engine("tavily", site), 10, 1_000))
    model = ScriptedEngine(setting.environment.dialogue.tokenizer, lambda so_far, seed: TURNS[0])
    request = EpisodeRequest(Question("q", "What?", "crabs"), Sampling(), 1)
    limits = Limits(context=20_000, turns=3, turn_tokens=200)
    with pytest.raises(UserError, match=f"^tavily: {QUOTA}"):
        asyncio.run(
            run_episodes(
                [request] * 5, replace(setting.environment, toolbox=toolbox), model, limits
            )
        )
