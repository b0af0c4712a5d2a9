"""Simulated faults: seeded by what is asked, in the recipe's share, and written down."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nanoscout.models import load_model
from nanoscout.questions import load_questions
from nanoscout.questions.world import load_world
from nanoscout.recipe import FaultSpec, QuestionsSpec, WorldSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.records import ToolCall, ToolResult
from nanoscout.search.faults import DEAD_LINK, MIRROR, TIMED_OUT, TOO_MANY, Faults
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.setting import make_setting, prepare_folder
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

WORLD = load_world(QuestionsSpec(world=WorldSpec(pages=300), held_out=20), seed=0)
ENGINE = LocalSearch(SearchIndex.build(WORLD.passages))
TITLES = [passage.title for passage in WORLD.passages]
URLS = [passage.url for passage in WORLD.passages]


def tools(seed: int = 0, **shares: float) -> Toolbox:
    return Toolbox(search_tools(ENGINE, 5, 2_000, Faults(FaultSpec(**shares), seed)))


def call(box: Toolbox, name: str, **args: Any) -> ToolResult:
    return asyncio.run(box.call(ToolCall(name, args)))


def searches(box: Toolbox) -> list[ToolResult]:
    return [call(box, "web_search", query=title) for title in TITLES]


def texts(results: list[ToolResult]) -> list[str]:
    return [result.text for result in results]


def test_without_faults_nothing_changes() -> None:
    plain = Toolbox(search_tools(ENGINE, 5, 2_000))
    results = searches(tools())
    assert texts(results) == texts(searches(plain))
    assert not any(result.faults for result in results)


def test_one_seed_is_one_world_and_another_seed_another() -> None:
    shares = {"drop": 0.3, "timeout": 0.1}
    first = texts(searches(tools(1, **shares)))
    assert texts(searches(tools(1, **shares))) == first
    assert texts(searches(tools(2, **shares))) != first


@pytest.mark.parametrize(("fault", "text"), [("timeout", TIMED_OUT), ("rate_limit", TOO_MANY)])
def test_refusals_strike_searches_and_visits_in_their_share(fault: str, text: str) -> None:
    box = tools(**{fault: 0.3})
    results = [*searches(box), *(call(box, "visit", url=url) for url in URLS)]
    struck = [result for result in results if result.faults]
    assert 0.24 < len(struck) / len(results) < 0.36
    assert {(result.text, result.faults, result.shown) for result in struck} == {
        (text, (fault,), ())
    }


def test_a_dropped_hit_is_gone_and_all_of_them_leave_no_result() -> None:
    plain, some = searches(tools()), searches(tools(drop=0.4))
    for full, left in zip(plain, some, strict=True):
        assert set(left.shown) <= set(full.shown)
        assert len(full.shown) - len(left.shown) == len(left.faults)
    assert any(result.faults for result in some)
    assert call(tools(drop=1.0), "web_search", query=TITLES[0]).text.startswith("No results.")


def test_a_demoted_hit_is_still_there_behind_the_others() -> None:
    plain, some = searches(tools()), searches(tools(demote=0.3))
    assert [set(r.shown) for r in plain] == [set(r.shown) for r in some]
    moved = [(a, b) for a, b in zip(plain, some, strict=True) if a.shown != b.shown]
    assert moved
    assert all(b.faults for _, b in moved)


def test_a_near_duplicate_takes_a_place_and_opens_the_page_it_copies() -> None:
    box = tools(duplicate=1.0)
    result = call(box, "web_search", query=TITLES[0])
    lines = result.text.splitlines()
    urls = [line for line in lines if line.startswith("https://")]
    assert len(urls) == 5
    assert urls[1] == urls[0] + MIRROR
    assert call(box, "visit", url=urls[1]).text == call(box, "visit", url=urls[0]).text


def test_empty_pages_and_dead_links_show_no_evidence() -> None:
    empty = call(tools(empty_page=1.0), "visit", url=URLS[0])
    assert empty.text == f"{TITLES[0]}\n"
    dead = call(tools(dead_link=1.0), "visit", url=URLS[0])
    assert dead.text == DEAD_LINK
    for result in (empty, dead):
        assert result.ok
        assert result.shown == ()
        assert result.faults


def test_each_stage_has_its_faults_and_evaluation_has_none(tmp_path: Path) -> None:
    recipe = load_recipe(
        Path(__file__).parents[1] / "recipes" / "smoke.toml",
        ["search.faults={timeout=1.0}", "stage.1.faults={rate_limit=1.0}", "stage.2.faults={}"],
    )
    prepare_folder(recipe, tmp_path / "run", load_questions(recipe.questions, recipe.seed))
    setting = make_setting(recipe, tmp_path / "run", *load_model(recipe.model))
    boxes = [setting.training_environment(recipe, stage).toolbox for stage in recipe.stage]
    found = [call(box, "web_search", query="bridge").faults for box in boxes]
    assert found == [("timeout",), ("rate_limit",), ()]
    assert call(setting.environment.toolbox, "web_search", query="bridge").faults == ()
