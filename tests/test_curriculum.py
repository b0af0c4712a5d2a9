"""What changes from stage to stage, and within one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanoscout.errors import UserError
from nanoscout.models import load_model
from nanoscout.questions import load_questions
from nanoscout.recipe import Recipe, StageSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.records import ToolCall
from nanoscout.run import train_run
from nanoscout.setting import make_setting, prepare_folder
from nanoscout.tools.toolbox import Toolbox

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"
ANNEAL = {
    "turns": 8,
    "examples": 0,
    "preview_chars": 40,
    "hops": {"2hop": 1.0},
    "faults": {"drop": 0.2},
}
STAGE: dict[str, Any] = {
    "name": "s",
    "steps": 5,
    "turns": 4,
    "examples": 2,
    "preview_chars": 200,
    "hops": {"1hop": 1.0},
    "faults": {"timeout": 0.1},
}


def test_annealed_values_go_from_start_to_end_in_equal_parts() -> None:
    stage = StageSpec(**STAGE, anneal=ANNEAL)
    steps = [stage.at(step) for step in range(5)]
    assert [s.turns for s in steps] == [4, 5, 6, 7, 8]
    assert [s.examples for s in steps] == [2, 2, 1, 0, 0]
    assert [s.preview_chars for s in steps] == [200, 160, 120, 80, 40]
    assert steps[0].hops == {"1hop": 1.0}
    assert steps[1].hops == {"1hop": 0.75, "2hop": 0.25}
    assert steps[4].hops == {"2hop": 1.0}
    assert [s.faults.drop for s in steps if s.faults] == [0.0, 0.05, 0.1, 0.15, 0.2]
    assert [s.faults.timeout for s in steps if s.faults] == [0.1, 0.075, 0.05, 0.025, 0.0]
    assert stage.at(99) == steps[4]


def test_an_annealed_value_needs_one_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"anneal\.examples needs examples"):
        load_recipe(SMOKE, ["stage.0.anneal={examples=0}"])
    with pytest.raises(UserError, match=r"unknown key 'stage.0.anneal.turn'; .* 'turns'"):
        load_recipe(SMOKE, ["stage.0.anneal={turn=2}"])


def prompts_and_previews(recipe: Recipe, folder: Path) -> list[tuple[str, int]]:
    """For each step of the first stage: the prompt's text, and the length of a preview."""
    setting = make_setting(recipe, folder, *load_model(recipe.model))
    question = load_questions(recipe.questions, recipe.seed).train[0]
    found = []
    for step in range(recipe.stage[0].steps):
        stage = recipe.stage[0].at(step)
        environment = setting.training_environment(recipe, stage)
        ids = environment.prompt_ids(question, stage.examples)
        text = environment.dialogue.tokenizer.decode(ids)
        found.append((text, len(preview(environment.toolbox))))
    return found


def preview(toolbox: Toolbox) -> str:
    result = asyncio.run(toolbox.call(ToolCall("web_search", {"query": "city"})))
    return result.text.splitlines()[2]


def test_a_stage_has_its_own_prompt_examples_and_previews(tmp_path: Path) -> None:
    recipe = load_recipe(
        SMOKE,
        [
            "stage.0.system=Only this stage.",
            "stage.0.examples=1",
            "stage.0.preview_chars=100",
            "stage.0.anneal={examples=0, preview_chars=30}",
        ],
    )
    prepare_folder(recipe, tmp_path / "run", load_questions(recipe.questions, recipe.seed))
    steps = prompts_and_previews(recipe, tmp_path / "run")
    assert all("Only this stage." in text for text, _ in steps)
    assert [text.count("<tool>") for text, _ in steps] == [1, 0, 0]
    longest = [102, 67, 32]
    assert all(size <= most for (_, size), most in zip(steps, longest, strict=True))
    assert steps[0][1] > steps[1][1] > steps[2][1]


def test_an_annealed_run_goes_through(tmp_path: Path) -> None:
    recipe = load_recipe(
        SMOKE,
        [
            "stage.0.hops={1hop=1.0}",
            "stage.0.anneal={turns=5, hops={2hop=1.0}}",
            "stage.2.steps=1",
        ],
    )
    train_run(recipe, tmp_path / "run", resume=False, console=Console(quiet=True))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    hops = [set(json.loads(line)["correct_by_hops"]) for line in lines[:3]]
    assert hops == [{"1"}, {"1", "2"}, {"2"}]
