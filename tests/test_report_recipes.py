"""The report's recipe and the authors', run from end to end on a tiny Qwen3 and real questions."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_run import ROOT, nanoscout

MUSIQUE = ROOT.parent / "shared/data/musique"

pytestmark = pytest.mark.skipif(not MUSIQUE.is_dir(), reason="no ../shared/data/musique here")

# Smaller than in the recipe. A random model is never right: its groups differ in how long they
# ramble, which the overlong punishment tells apart.
SMALL = [
    "model.source=tiny:qwen3",
    "model.dtype=float32",
    f"questions.path={MUSIQUE / 'train_100_hipporag.json.gz'}",
    f"questions.held_out_path={MUSIQUE / 'dev_200_migres.jsonl.gz'}",
    "questions.corpus=[]",
    "questions.held_out=2",
    "optimiser.warmup_steps=0",
    "objective.mask_cut=false",
    "evaluation.context=1200",
    "evaluation.turns=2",
    "evaluation.turn_tokens=32",
]
STAGE = {
    "steps": "2",
    "groups": "2",
    "group_size": "8",
    "turn_tokens": "128",
    "dynamic_sampling": "false",
    "overlong": "{ max_tokens = 256, cache_tokens = 255 }",
}


def train(name: str, stages: int, folder: Path) -> list[dict[str, Any]]:
    small = [*SMALL, *(f"stage.{i}.{k}={v}" for i in range(stages) for k, v in STAGE.items())]
    small += [f"stage.{i}.context={1200 * (i + 1)}" for i in range(stages)]
    overrides = [part for value in small for part in ("--set", value)]
    recipe = str(ROOT / f"recipes/{name}.toml")
    done = nanoscout("train", recipe, *overrides, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def test_the_reports_three_stages_run_and_learn(tmp_path: Path) -> None:
    records = train("jan-nano", 3, tmp_path)
    assert [r["stage"] for r in records] == [
        "mechanics", "mechanics", "answers", "answers", "long", "long",
    ]  # fmt: skip
    assert all(r["learner"]["grad_norm"] > 0 for r in records)
    prompts = [first(tmp_path, step) for step in (1, 3, 5)]
    assert prompts[0] == prompts[1] != prompts[2]  # stage 3 has a minimal system prompt
    assert len(prompts[2]) < len(prompts[0])
    assert set(records[0]["rewards"]) >= {"tool_execution", "format", "xml_structure"}
    assert "tool_execution" not in records[2]["rewards"]


def test_the_authors_recipe_runs_with_four_updates_a_step_and_a_reference(tmp_path: Path) -> None:
    records = train("as-published", 2, tmp_path)
    assert [r["stage"] for r in records] == ["short", "short", "long", "long"]
    assert all(r["learner"]["grad_norm"] > 0 for r in records)
    assert any(r["learner"]["kl"] > 0 for r in records)
    recipe = (tmp_path / "run/recipe.toml").read_text()
    assert "updates = 4" in recipe
    state = json.loads(next((tmp_path / "run/checkpoints").glob("*/state.json")).read_text())
    assert state["updates"] == 16


def first(folder: Path, step: int) -> list[int]:
    """The given tokens before the first sampled one, of a step's first conversation."""
    path = folder / f"run/trajectories/step-{step:06d}.jsonl"
    trajectory = json.loads(path.read_text().splitlines()[0])
    return trajectory["token_ids"][: trajectory["sampled"].index(True)]
