"""Two real runs, a step of each stage, that differ in one field."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanoscout.diff import diff_runs
from nanoscout.errors import UserError
from nanoscout.recipe_file import dump_recipe, load_recipe
from nanoscout.run import train_run

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke.toml"
SHORT = [
    "questions.held_out=6",
    "evaluation.context=700",
    "evaluation.turn_tokens=8",
    *(f"stage.{i}.{key}" for i in range(3) for key in ("steps=1", "turns=2", "turn_tokens=24")),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-4), ("fast", 5e-2)):
        recipe = load_recipe(SMOKE, [*SHORT, f"optimiser.lr={rate}"])
        train_run(recipe, folder / name, resume=False, console=Console(quiet=True))
    return folder / "slow", folder / "fast"


def shown(first: Path, second: Path, out: Path | None = None) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    found = diff_runs(first, second, out, Console(file=text, width=120), as_json=False)
    return found, text.getvalue()


def test_one_field_differs_and_the_results_stand_side_by_side(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    found, text = shown(*runs, out=tmp_path / "out")
    assert found["fields"] == {"optimiser.lr": [1e-4, 5e-2]}
    assert "optimiser.lr" in text
    assert "0.0001" in text
    assert "0.05" in text
    for run, result in zip(runs, found["results"], strict=True):
        assert result == json.loads((run / "summary.json").read_text())
    assert found["difference"]["greedy"]["n"] == 6
    assert found["difference"]["greedy"]["ci95"] == [0.0, 0.0]  # both answer nothing
    assert "greedy: right after" in text
    assert json.loads((tmp_path / "out" / "diff.json").read_text()) == found
    assert (tmp_path / "out" / "diff.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_equals_itself(runs: tuple[Path, Path], tmp_path: Path) -> None:
    found, text = shown(runs[0], runs[0], out=tmp_path)
    assert found["fields"] == {}
    assert "The recipes are the same." in text


def edited(run: Path, target: Path, *overrides: str) -> Path:
    """A run that was only just begun, by a recipe with other values."""
    target.mkdir()
    (target / "recipe.toml").write_text(dump_recipe(load_recipe(run / "recipe.toml", [*overrides])))
    return target


def test_absent_fields_differ_from_any_value(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = edited(
        runs[0], tmp_path / "other", "lora.rank=4", "stage.1.rewards={correctness=1.0, f1=0.5}"
    )
    found, text = shown(runs[0], other, tmp_path / "out")
    assert found["fields"] == {
        "lora.rank": [None, 4],
        "lora.alpha": [None, 32],
        "stage.1.rewards.f1": [None, 0.5],
    }
    assert found["results"][1] is None
    assert found["difference"] is None
    assert "other is not finished" in text


def test_a_line_that_is_just_being_written_is_left_out(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = edited(runs[0], tmp_path / "other")
    metrics = (runs[0] / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(metrics[:-30])
    shown(runs[1], other, tmp_path / "out")
    assert (tmp_path / "out" / "diff.png").exists()


def test_without_a_step_there_is_no_picture(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = edited(runs[0], tmp_path / "a"), edited(runs[0], tmp_path / "b", "seed=9")
    found, _ = shown(first, second)
    assert found["fields"] == {"seed": [0, 9]}
    assert [path.name for path in (tmp_path / "diff-a-b").iterdir()] == ["diff.json"]


def test_runs_that_were_asked_other_questions_are_not_compared(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    path = other / "evaluation" / "after.json"
    path.write_text(path.read_text().replace('"question_id":"', '"question_id":"other'))
    found, text = shown(runs[0], other, tmp_path / "out")
    assert found["difference"] is None
    assert "greedy: right after" in text


def test_command_line_writes_json(runs: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nanoscout", "diff", *map(str, runs), "--json", "--out", "out"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "40"}
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["fields"] == {"optimiser.lr": [1e-4, 5e-2]}


def test_what_is_no_run_is_refused_and_left_alone(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for other in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match="no run here"):
            shown(runs[0], other)
        with pytest.raises(UserError, match="no run here"):
            shown(other, runs[0])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match="can't be made"):
        shown(*runs, out=tmp_path / "file")
