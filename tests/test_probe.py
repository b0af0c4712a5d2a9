"""Probes hide one fact in conversations of an exact length, count answers, and go on when stopped.

The conversations are an episode's own, token for token. A tiny random model answers where only the
machinery matters; where the answer matters, a script does.
"""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scripted import ScriptedEngine

from nanoscout import probe
from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.evaluation import haystack
from nanoscout.evaluation.haystack import Needle, haystack_prompt, haystack_toolbox, needles
from nanoscout.evaluation.heat_map import draw_heat_map
from nanoscout.export import export_model
from nanoscout.models import load_model, save_model
from nanoscout.probe import ANSWER_TOKENS, probe_model
from nanoscout.questions import load_questions
from nanoscout.questions.question_set import contains
from nanoscout.recipe import ModelSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits, run_episode
from nanoscout.setting import prepare_folder

QUIET = Console(quiet=True)
TINY = ModelSpec(source="tiny:qwen3", dtype="float32", device="cpu")
SMOKE = Path(__file__).parent.parent / "recipes" / "smoke.toml"


@pytest.fixture(scope="module")
def hidden() -> list[Needle]:
    return needles(3)


@pytest.fixture(scope="module")
def environment() -> Environment:
    return probe._open("tiny:qwen3", "")[1]


def prompt(environment: Environment, needle: Needle, tokens: int, depth: float) -> list[int]:
    return asyncio.run(haystack_prompt(environment, needle, tokens, depth, reserve=0))


@given(tokens=st.integers(1_100, 6_000), depth=st.integers(0, 100), number=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_any_length_and_depth_is_hit(
    hidden: list[Needle], environment: Environment, tokens: int, depth: int, number: int
) -> None:
    needle = hidden[number]
    ids = prompt(environment, needle, tokens, depth)
    assert 0.99 * tokens <= len(ids) <= tokens
    text = environment.dialogue.tokenizer.decode(ids)
    results = text[text.index("<result>\n1.") :]
    before, page, after = results.partition(needle.page.text)
    assert page
    assert not contains(before + after, needle.question.answer)
    share = len(before) / len(before + after)
    step = 700 / len(before + after)  # a page is not cut through to make room for this one
    assert abs(share - depth / 100) <= step


def test_conversation_is_an_episode_token_for_token(
    hidden: list[Needle], environment: Environment
) -> None:
    needle = hidden[0]
    pages = [*needle.others[:17], needle.page, *needle.others[17:25]]
    dialogue, question = environment.dialogue, needle.question

    def search_on(text: str, seed: int) -> str:
        page = text.count("<result>\n")
        more = f', "page": {page + 1}' if page else ""
        return (
            f'<tool>{{"name": "web_search", "args": {{"query": "{question.text}"{more}}}}}</tool>'
        )

    trajectory = asyncio.run(
        run_episode(
            question,
            replace(environment, toolbox=haystack_toolbox(pages)),
            ScriptedEngine(dialogue.tokenizer, search_on),
            Limits(context=100_000, turns=4, turn_tokens=500),
            Sampling(),
            seed=0,
        )
    )
    ids = asyncio.run(haystack._conversation(environment, question, pages))
    assert trajectory.token_ids[: trajectory.turns[3].start] == ids
    assert needle.page.id in trajectory.shown
    assert [result.ok for result in trajectory.results[:3]] == [True] * 3


def test_questions_are_the_same_for_everyone_and_cannot_be_guessed(hidden: list[Needle]) -> None:
    assert [n.question.id for n in needles(2)] == [n.question.id for n in hidden[:2]]
    assert len({needle.question.id for needle in hidden}) == 3
    for needle in hidden:
        assert contains(needle.page.text, needle.question.answer)
        assert not contains(needle.question.text, needle.question.answer)
        assert needle.page not in needle.others


@pytest.mark.parametrize(
    ("answer", "right", "exact"),
    [
        ("{gold}</answer>", True, True),
        ("It is {gold}.</answer> <tool>", True, False),
        ("X{gold}</answer>", False, False),
        ("No idea.</answer> {gold}", False, False),
        ("", False, False),
    ],
)
def test_what_counts_as_found(
    hidden: list[Needle], environment: Environment, answer: str, right: bool, exact: bool
) -> None:
    needle = hidden[0]

    def reply(text: str, seed: int) -> str:
        assert text.endswith("<answer>")
        assert needle.page.text in text
        return answer.format(gold=needle.question.answer)

    engine = ScriptedEngine(environment.dialogue.tokenizer, reply)
    cell = asyncio.run(probe._cell(engine, environment, [needle], 1_500, 50))
    assert (cell["right"], cell["exact"], cell["n"]) == (right, exact, 1)
    assert 0.99 * 1_500 <= cell["tokens"] + ANSWER_TOKENS <= 1_500
    assert engine.conversations[0].closed


def test_a_probe_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(trials: int = 2, depths: str = "0,100") -> dict[str, object]:
        return probe_model("tiny:qwen3", "", "1024,1280", depths, trials, tmp_path / "out", QUIET)

    whole = probe._cell
    calls = 0

    async def stopped_at_the_third(*args: object) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return await whole(*args)

    monkeypatch.setattr(probe, "_cell", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run()
    begun = json.loads((tmp_path / "out" / "probe.json").read_text())["cells"]
    assert [(cell["length"], cell["depth"]) for cell in begun] == [(1024, 0), (1024, 100)]
    found = run()
    assert calls == 5  # the third once more, and the fourth
    assert found["cells"][:2] == begun
    assert found == json.loads((tmp_path / "out" / "probe.json").read_text())
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")
    run(depths="0,50,100")  # a finer grid keeps what there is
    assert calls == 7
    before = (tmp_path / "out" / "probe.json").read_bytes()
    with pytest.raises(UserError, match="other weights, prompt or trials"):
        run(trials=1)
    assert (tmp_path / "out" / "probe.json").read_bytes() == before


def test_other_weights_or_positions_are_another_probe(
    hidden: list[Needle], environment: Environment
) -> None:
    model, _ = load_model(TINY)
    prints = {probe._fingerprint(model, environment, hidden)}
    prints.add(probe._fingerprint(model, environment, hidden))
    assert len(prints) == 1
    prints.add(probe._fingerprint(model, replace(environment, system="Search."), hidden))
    model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3, 4] += 1e-3
    prints.add(probe._fingerprint(model, environment, hidden))
    model.config.rope_parameters["rope_type"] = "yarn"
    prints.add(probe._fingerprint(model, environment, hidden))
    assert len(prints) == 4


def test_lengths_beyond_the_positions_want_an_export(tmp_path: Path) -> None:
    model, tokenizer = load_model(TINY)
    model.config.max_position_embeddings = 1_024
    save_model(model, tokenizer, tmp_path / "short")
    with pytest.raises(UserError, match="nanoscout export --context 1280"):
        probe_model(str(tmp_path / "short"), "", "1024,1280", "50", 1, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
    export_model(str(tmp_path / "short"), tmp_path / "long", 1_280, QUIET)
    found = probe_model(str(tmp_path / "long"), "", "1280", "50", 1, tmp_path / "out", QUIET)
    assert found["positions"] == 1_280


def test_a_run_is_probed_in_its_own_prompt(tmp_path: Path) -> None:
    recipe = load_recipe(SMOKE, ["questions.world.pages=120", "questions.held_out=2"])
    prepare_folder(recipe, tmp_path / "run", load_questions(recipe.questions, recipe.seed))
    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    with pytest.raises(UserError, match="not trained yet"):
        probe_model(run, "", "2048", "50", 1, tmp_path / "out", QUIET)
    save_model(*load_model(TINY), tmp_path / "run" / "model")
    export_model(run, tmp_path / "other", None, QUIET)
    (_, own), (_, others) = probe._open(run, ""), probe._open(run, other)
    for environment in (own, others):
        assert environment.system == "Search, then answer."
        assert len(environment.examples) == 1
        assert not environment.repeat_question
    with pytest.raises(UserError, match="is no run"):
        probe._open(other, run)


REFUSED = {
    "no number": ({"lengths": "4K"}, "whole numbers"),
    "no lengths": ({"lengths": ""}, "whole numbers"),
    "negative": ({"lengths": "-1,1024"}, "-1 is out of range"),
    "too deep": ({"depths": "50,101"}, "101 is out of range"),
    "too short": ({"lengths": "100,2048"}, "100 tokens hold no haystack"),
    "too many": ({"trials": 100_000}, "there are"),
    "no model": ({"run_or_model": "./nowhere"}, "no such folder"),
    "other file": ({}, "holds something else"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path: Path, fault: str) -> None:
    given, words = REFUSED[fault]
    usual = {"run_or_model": "tiny:qwen3", "lengths": "1024", "depths": "50", "trials": 1}
    if fault == "other file":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "probe.json").write_text("[1]")
    with pytest.raises(UserError, match=words):
        probe_model(**{"model": "", "out": tmp_path / "out", "console": QUIET, **usual, **given})
    assert [path.name for path in tmp_path.glob("out/*")] == ["probe.json"] * (
        fault == "other file"
    )


def test_a_heat_map_with_gaps_is_drawn(tmp_path: Path) -> None:
    cells = [
        {"length": 4096, "depth": 0, "right": 4, "n": 4},
        {"length": 8192, "depth": 100, "right": 0, "n": 4},
    ]
    draw_heat_map(cells, tmp_path / "map.png", "two of four")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line_probes_and_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nanoscout", "probe", "tiny:qwen3", "--out", "out"]
    options = ["--lengths", "1024", "--depths", "50", "--trials", "1"]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert "1,024 tokens, depth  50%: 0 of 1 found" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"probe.json", "probe.png"}
