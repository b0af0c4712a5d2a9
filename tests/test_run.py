"""The command line on real runs: all stages on a tiny model, resume after SIGKILL, bad input."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "recipes" / "smoke.toml"


def nanoscout(*args: str, cwd: Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanoscout", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=_environment(),
        **kwargs,  # type: ignore[call-overload]
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke run that was left alone."""
    place = tmp_path_factory.mktemp("alone")
    result = nanoscout("train", str(SMOKE), "--out", "run", cwd=place)
    assert result.returncode == 0, result.stderr
    return place / "run"


def test_smoke_runs_every_stage_and_leaves_a_whole_folder(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 8))
    assert list(dict.fromkeys(r["stage"] for r in records)) == ["mechanics", "answers", "long"]
    updated = [r["learner"] is not None for r in records]
    assert all(updated[:5])
    assert not any(updated[5:])  # all wrong, all dropped: the cap ends the search for groups
    assert all(r["groups"]["rounds"] == 2 for r in records[5:])
    assert all(abs(r["learner"]["ratio"] - 1) < 0.01 for r in records[:5])
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary) >= {"before", "after", "difference", "steps", "seconds", "seed", "model"}
    assert summary["before"]["greedy"]["n"] == 12
    assert summary["difference"]["sampled"]["ci95"][0] <= summary["difference"]["sampled"]["points"]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    trajectory = json.loads(
        (finished / "trajectories" / "step-000001.jsonl").read_text().split("\n")[0]
    )
    assert len(trajectory["token_ids"]) == len(trajectory["sampled"]) == len(trajectory["logprobs"])


def test_final_model_is_an_ordinary_transformers_folder_and_has_moved(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nanoscout.models import load_model
    from nanoscout.recipe import ModelSpec

    trained = AutoModelForCausalLM.from_pretrained(finished / "model")
    AutoTokenizer.from_pretrained(finished / "model")
    untrained, _ = load_model(ModelSpec(source="tiny:qwen3", dtype="float32", device="cpu"))
    moved = [
        (a - b).abs().max().item()
        for a, b in zip(trained.parameters(), untrained.parameters(), strict=True)
    ]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("steps_before_kill", [1, 4])
def test_killed_and_resumed_run_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, steps_before_kill: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nanoscout", "train", str(SMOKE), "--out", "run"],
        cwd=tmp_path,
        env=_environment(),
        stdout=subprocess.DEVNULL,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= steps_before_kill:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    result = nanoscout("train", str(SMOKE), "--out", "run", "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert weights(tmp_path / "run") == weights(finished)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(
        range(1, 8)
    )


def test_finished_run_is_shown_again_at_once_and_never_overwritten(finished: Path) -> None:
    before = weights(finished), (finished / "summary.json").stat().st_mtime_ns
    again = nanoscout("train", str(SMOKE), "--out", str(finished), "--resume", cwd=finished.parent)
    assert again.returncode == 0
    assert "nanoscout ask" in again.stdout
    line = refused(nanoscout("train", str(SMOKE), "--out", str(finished), cwd=finished.parent))
    assert "--resume" in line
    other = nanoscout(
        "train", str(SMOKE), "--set", "seed=5", "--out", str(finished), "--resume",
        cwd=finished.parent,
    )  # fmt: skip
    assert "another recipe" in refused(other)
    assert (weights(finished), (finished / "summary.json").stat().st_mtime_ns) == before


def test_eval_and_ask_use_the_run_folder_alone(finished: Path, tmp_path: Path) -> None:
    asked = nanoscout("ask", "Who is the mayor of Velmora?", "--run", str(finished), cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "Answer:" in asked.stdout or "No answer:" in asked.stdout
    out = tmp_path / "figures.json"
    evaluated = nanoscout(
        "eval", "run", str(finished), "--questions", "4", "--out", str(out), cwd=tmp_path
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(out.read_text())["greedy"]["n"] == 4


RECIPE_FAULTS = {
    "missing": (None, "no such recipe"),
    "not toml": ("name = ", "not valid TOML"),
    "unknown key": ('name = "x"\nseeed = 1\n[[stage]]\nname = "a"\nsteps = 1\n', "'seed'"),
    "wrong type": ('name = "x"\n[[stage]]\nname = "a"\nsteps = "many"\n', "stage.0.steps"),
    "no stage": ('name = "x"\n', "stage"),
    "no such reward": (
        'name = "x"\n[[stage]]\nname = "a"\nsteps = 1\nrewards = { corectness = 1.0 }\n',
        "'correctness'",
    ),
}


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_bad_recipe_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    text, wanted = RECIPE_FAULTS[fault]
    recipe = tmp_path / "recipe.toml"
    if text is not None:
        recipe.write_text(text)
    assert wanted in refused(nanoscout("train", str(recipe), cwd=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_unreadable_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").mkdir()
    assert "cannot be read" in refused(nanoscout("train", "recipe.toml", cwd=tmp_path))


INPUT_FAULTS = {
    "no such model": (["model.source=./nowhere"], "nowhere"),
    "broken line": (
        ["questions.source=jsonl", "questions.path=broken.jsonl", "questions.documents=docs"],
        "line 2",
    ),
    "empty corpus": (
        ["questions.source=jsonl", "questions.path=good.jsonl", "questions.documents=empty"],
        "empty",
    ),
    "no questions": (["questions.source=musique", "questions.path=nowhere.jsonl"], "nowhere.jsonl"),
    "not an override": (["seed"], "key=value"),
}


@pytest.mark.parametrize("fault", INPUT_FAULTS)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, fault: str) -> None:
    overrides, wanted = INPUT_FAULTS[fault]
    (tmp_path / "docs").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Velmora\nVelmora is a city.")
    question = json.dumps({"question": "What is Velmora?", "answer": "a city"})
    (tmp_path / "good.jsonl").write_text(f"{question}\n" * 1)
    (tmp_path / "broken.jsonl").write_text(f"{question}\n{{oops\n")
    sets = [part for override in overrides for part in ("--set", override)]
    result = nanoscout("train", str(SMOKE), *sets, "--out", "run", cwd=tmp_path)
    assert wanted in refused(result)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert "not empty" in refused(nanoscout("train", str(SMOKE), "--out", "run", cwd=tmp_path))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the write of a checkpoint fails midway."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.argv[0] = 'nanoscout'; from nanoscout import run; from nanoscout.rlvr import trainer;"
        "save = trainer.save_checkpoint;\n"
        "def full_at_four(folder, step, **parts):\n"
        "    if step == 4:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "    return save(folder, step, **parts)\n"
        "trainer.save_checkpoint = full_at_four\n"
        "from nanoscout.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", limited, "train", str(SMOKE), "--out", "run",
         "--set", "checkpoint.every=1"],
        cwd=tmp_path, capture_output=True, text=True, env=_environment(),
    )  # fmt: skip
    assert "step-000003" in refused(result)
    checkpoints = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert checkpoints == ["step-000003"]
