"""When a stage has learned what it can, and when a run has collapsed."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanoscout.errors import UserError
from nanoscout.recipe import CollapseSpec, UntilSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.rlvr.watch import collapsed, reached
from nanoscout.run import train_run

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"


def records(**series: list[float]) -> list[dict[str, Any]]:
    """One record a step of the given figures."""
    steps = [dict(zip(series, step, strict=True)) for step in zip(*series.values(), strict=True)]
    return [{"learner": step if "entropy" in step else None, **step} for step in steps]


def test_a_stage_ends_at_its_reward_averaged_over_the_window() -> None:
    spec = UntilSpec(window=2, reward=0.5)
    assert not reached(spec, records(reward=[0.1, 0.6]))
    assert not reached(spec, records(reward=[0.6]))
    assert reached(spec, records(reward=[0.1, 0.4, 0.6])) == "mean reward 0.50 has reached 0.5"
    assert not reached(None, records(reward=[1.0, 1.0]))
    assert not reached(spec, [{"learner": None}, {"learner": None}])


def test_a_stage_ends_on_a_plateau() -> None:
    spec = UntilSpec(window=1, plateau=3, gain=0.05)
    assert not reached(spec, records(reward=[0.1, 0.5, 0.5, 0.5]))
    assert "not risen above 0.50" in reached(spec, records(reward=[0.1, 0.5, 0.5, 0.4, 0.54]))
    assert not reached(spec, records(reward=[0.1, 0.5, 0.5, 0.4, 0.56]))


def test_collapse_is_seen_in_entropy_form_and_length() -> None:
    spec = CollapseSpec(window=2, entropy=0.01, malformed=0.8, length=4.0)
    assert not collapsed(spec, records(entropy=[0.5, 0.001]))
    assert "entropy 0.0055" in collapsed(spec, records(entropy=[0.5, 0.01, 0.001]))
    assert not collapsed(spec, records(malformed=[1.0, 1.0, 1.0]))  # it never had any form
    assert "95% of" in collapsed(spec, records(malformed=[0.3, 0.3, 0.9, 1.0]))
    assert not collapsed(spec, records(sampled_tokens=[10.0, 10.0, 39.0, 39.0]))
    assert "41 tokens" in collapsed(spec, records(sampled_tokens=[10.0, 10.0, 41.0, 41.0]))
    assert "2 tokens" in collapsed(spec, records(sampled_tokens=[10.0, 10.0, 2.0, 2.0]))


def test_stages_that_end_early_are_left_early_by_a_resumed_run_too(tmp_path: Path) -> None:
    recipe = load_recipe(SMOKE, ["stage.0.until={window=1, reward=-9.0}", "checkpoint.keep=9"])
    summary = train_run(recipe, tmp_path / "run", resume=False, console=Console(quiet=True))
    assert summary["steps"] == 1 + 2 + 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, second, *_ = (json.loads(line) for line in lines)
    assert (first["stage"], second["stage"]) == ("mechanics", "answers")
    assert "has reached -9" in first["ends_stage"]
    assert "ends_stage" not in second


def test_a_collapsed_run_stops_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    strict = "collapse={window=1, length=1.000001}"
    recipe = load_recipe(SMOKE, [strict, "checkpoint={every=1, keep=5}"])
    with pytest.raises(UserError, match=r"collapsed by step 2: .*step-000001\. Try") as caught:
        train_run(recipe, tmp_path / "run", resume=False, console=Console(quiet=True))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "checkpoints" / "step-000001").is_dir()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
