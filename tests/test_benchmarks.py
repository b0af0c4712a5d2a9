"""The benchmarks run from end to end, at toy size; their figures say nothing here.

Peers of TRL's environment run in this one, which has what they need; vLLM is missing, as it may be.
"""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOY = ["--model", "tiny:qwen3", "--dtype", "float32", "--rounds", "1"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a benchmark with these arguments; returns what it kept."""
    python = tmp_path / "peers" / "trl" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *arguments: str) -> dict[str, Any]:
        results = tmp_path / "results"
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--results", str(results)])
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        kept: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
        return kept

    return run


def test_rollouts_choose_the_tokens_of_transformers(bench: Any, tmp_path: Path) -> None:
    peers = ["transformers generate", "transformers continuous batching"]
    toy = [*TOY, "--conversations", "2", "--peers", str(tmp_path / "peers")]
    kept = bench("rollouts", *toy, "--who", "ours", "vllm", *peers)
    assert kept["greedy_agreement"] == dict.fromkeys(peers, 1.0)
    assert set(kept["ratios"]) == {f"{peer}, 2 conversations" for peer in peers}
    assert "make peers" in kept["peers"]["vllm"]["missing"]
    assert 0 < kept["ours"]["2 conversations"]["share_of_peak"] < 1


def test_the_profile_names_the_parts_of_a_rollout() -> None:
    script = [sys.executable, str(BENCHMARKS / "rollout_profile.py"), "--model", "tiny:qwen3"]
    done = subprocess.run(
        [*script, "--dtype", "float32", "--conversations", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    parts = ["linear layers", "attention in C", "attention by torch", "norms in C"]
    parts += ["positions in C", "activation in C", "head and draw"]
    lines = [line.rsplit(maxsplit=3) for line in done.stdout.splitlines()[-len(parts) :]]
    assert [name for name, *_ in lines] == parts
    spent = {name for name, seconds, *_ in lines if float(seconds) > 0}
    assert spent <= {"attention by torch", "head and draw"}  # In float32 nothing is in C.


def test_learner_and_step_against_trl(bench: Any, tmp_path: Path) -> None:
    toy = [*TOY, "--peers", str(tmp_path / "peers")]
    learner = bench("learner", *toy, "--who", "ours", "TRL 1.16")
    (case,) = (case for case in learner["ours"] if case != "about")
    losses = [side[case]["loss"] for side in (learner["ours"], learner["peers"]["TRL 1.16"])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    # Its template is ChatML, as SmolLM2's is: both sides then have the same prompts.
    step = bench("step", *toy, "--model", "tiny:llama")
    assert set(step["ratios"]) == {"TRL 1.16, step of 32 rollouts"}


def test_growth_and_pictures(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ["--model", "tiny:qwen3", "--axis", "turns", "--values", "2", "--layers", "1"]
    (point,) = bench("growth", *toy, "--part", "learner")["points"]
    assert point["computed_tokens"] == 512 + 8 * 2 * 160
    monkeypatch.setattr(
        sys, "argv", ["draw", "--results", str(tmp_path / "results"), "--out", str(tmp_path)]
    )
    runpy.run_path(str(BENCHMARKS / "draw.py"), run_name="__main__")
    assert (tmp_path / "growth.png").exists()
