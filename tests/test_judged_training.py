"""Training on a judge's grades and on a reward of one's own, with a model that answers at once."""

import asyncio
import hashlib
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from judge_server import Case, JudgeServer, judging
from rich.console import Console
from scripted import ScriptedEngine
from test_episode import TOKENIZER, Down, environment
from tokenizers import AddedToken

from nanoscout.errors import UserError
from nanoscout.judge import judge as judge_module
from nanoscout.judge.judge import Judge
from nanoscout.models import save_model, tiny
from nanoscout.questions.sampler import QuestionStream
from nanoscout.recipe import JudgeSpec, Recipe, StageSpec
from nanoscout.records import Grade, Question
from nanoscout.rlvr.batch import Batch, Collector, StageProgress
from nanoscout.rlvr.metrics import batch_metrics
from nanoscout.run import train_run
from nanoscout.tools import toolbox

OWN = """
from pathlib import Path

def late(trajectory):
    if trajectory.policy_version >= 2 and Path("broken").exists():
        raise LookupError("out of luck")
    return trajectory.answer in ("X", "Z")
"""


@pytest.fixture(autouse=True)
def _in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "RETRY_SECONDS", (0.0,))
    monkeypatch.setattr(toolbox, "RETRY_SECONDS", ())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def generous(case: Case) -> str:
    """Y is what is wanted, in other words."""
    return "CORRECT" if case["answer"] in ("Y", *case["gold"]) else "INCORRECT"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judging(generous) as server:
        yield server


# One batch, with a scripted engine.


def collect(url: str, cache: Path, **stage: Any) -> Batch:
    spec = StageSpec(
        **{"name": "s", "steps": 1, "groups": 4, "group_size": 4, "rewards": {"judge": 1.0}}
        | {"max_rounds": 1, **stage}
    )
    questions = [Question(f"q{n}", f"Question {n}?", "X") for n in range(4)]

    def reply(so_far: str, seed: int) -> str:
        if seed % 5 == 0:
            return '<tool>{"name": "down", "args": {}}</tool>'
        return f"<answer>{'XZY'[seed % 3]}</answer>" if seed % 5 > 1 else "no tag"

    collector = Collector(
        spec,
        QuestionStream(questions, {"1hop": 1.0}, seed=0),
        environment(Down()),
        ScriptedEngine(TOKENIZER, reply),
        seed=0,
        judge=Judge(JudgeSpec(url=url, model="grader"), cache),
    )
    return asyncio.run(collector.collect(StageProgress()))


def test_the_grade_is_kept_with_the_trajectory_and_scored(
    server: JudgeServer, tmp_path: Path
) -> None:
    batch = collect(server.url, tmp_path / "g")
    members = [
        (trajectory, scores)
        for group in batch.fresh
        for trajectory, scores in zip(group.trajectories, group.scores, strict=True)
    ]
    grades = {None: Grade.NOT_ATTEMPTED, "X": Grade.CORRECT, "Y": Grade.CORRECT}
    for trajectory, scores in members:
        assert trajectory.grade is grades.get(trajectory.answer, Grade.INCORRECT)
        assert scores.parts == {"judge": float(trajectory.grade is Grade.CORRECT)}
    assert len({trajectory.grade for trajectory, _ in members}) == 3
    assert (batch.ungraded, batch.unavailable) == (0, 16 - len(members))
    assert all(case["answer"] for case in server.cases)


def test_an_answer_that_could_not_be_graded_is_dropped_and_counted(
    server: JudgeServer, tmp_path: Path
) -> None:
    whole = collect(server.url, tmp_path / "g")
    server.reply = lambda case: 503 if case["answer"] == "Y" else generous(case)
    batch = collect(server.url, tmp_path / "other")
    kept = [t for group in batch.fresh for t in group.trajectories]
    expected = [t for group in whole.fresh for t in group.trajectories if t.answer != "Y"]
    assert [(t.seed, t.answer, t.grade) for t in kept] == [
        (t.seed, t.answer, t.grade) for t in expected
    ]
    assert batch.ungraded == 16 - whole.unavailable - len(kept) > 0
    assert batch.unavailable == whole.unavailable > 0
    assert batch_metrics(batch)["groups"]["ungraded"] == batch.ungraded


def test_a_judge_that_is_down_leaves_nothing_to_train_on(
    server: JudgeServer, tmp_path: Path
) -> None:
    server.reply = lambda case: 500
    batch = collect(server.url, tmp_path / "g", dynamic_sampling=False)
    assert all(t.answer is None for group in batch.fresh for t in group.trajectories)
    assert batch.ungraded > 0


def test_a_refusal_stops_the_run_in_words(server: JudgeServer, tmp_path: Path) -> None:
    server.reply = lambda case: 401
    with pytest.raises(UserError, match="status 401"):
        collect(server.url, tmp_path / "g")


def test_a_stage_without_the_judge_asks_none(server: JudgeServer, tmp_path: Path) -> None:
    batch = collect(server.url, tmp_path / "g", rewards={"correctness": 1.0})
    assert batch.fresh
    assert server.requests == []
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("rewards", "informative"),
    [
        ({"judge": 1.0}, True),
        ({"judge": 1.0, "correctness": 0.1}, True),
        ({"correctness": 1.0}, False),
        ({"format": 1.0}, False),
        ({"f1": 1.0}, False),
    ],
)
def test_a_group_is_informative_by_the_rewards_that_the_stage_has(
    server: JudgeServer, tmp_path: Path, rewards: dict[str, float], informative: bool
) -> None:
    # No answer equals the gold one; the judge takes some of them for right.
    server.reply = lambda case: "CORRECT" if case["answer"] == "Y" else "INCORRECT"
    batch = collect(server.url, tmp_path / "g", rewards=rewards)
    without_x = [
        group for group in batch.fresh if "X" not in {t.answer for t in group.trajectories}
    ]
    assert without_x
    assert {group.informative for group in without_x} == {informative}


# Whole runs, with a real engine and learner.


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers X, Y or Z, each as often: a table of which token follows which."""
    tokenizer = tiny.tokenizer("tiny:qwen2")
    tokenizer.add_tokens([AddedToken("<answer>"), AddedToken("</answer>")])
    model = tiny.model("tiny:qwen2")
    model.resize_token_embeddings(len(tokenizer))

    def token(text: str) -> int:
        (token_id,) = tokenizer.encode(text)
        return token_id

    follow = {"\n": ["<answer>"], "<answer>": ["X", "Y", "Z"], "</answer>": ["<|im_end|>"]}
    follow |= {letter: ["</answer>"] for letter in "XYZ"}
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (before, after) in enumerate(follow.items()):
            model.model.embed_tokens.weight[token(before), place] = 1.0
            for text in after:
                model.lm_head.weight[token(text), place] = 3.0
    folder = tmp_path_factory.mktemp("models") / "speaker"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture
def recipe(
    speaker: Path, server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Recipe:
    monkeypatch.chdir(tmp_path)
    module = f"own_{uuid4().hex}"
    Path(f"{module}.py").write_text(OWN)
    Path("docs").mkdir()
    Path("docs/a.md").write_text("# X\nX is a letter, and so is Y.")
    lines = [json.dumps({"question": f"Which letter is {n}?", "answer": "X"}) for n in range(12)]
    Path("questions.jsonl").write_text("\n".join(lines))
    return Recipe.model_validate(
        {
            "name": "judged",
            "model": {"source": str(speaker), "dtype": "float32", "device": "cpu"},
            "questions": {
                "source": "jsonl",
                "path": "questions.jsonl",
                "documents": "docs",
                "held_out": 2,
            },
            "dialogue": {"system": "Answer."},
            "optimiser": {"lr": 0.05},
            "judge": {"url": server.url, "model": "grader"},
            "stage": [
                {
                    "name": "all",
                    "steps": 4,
                    "context": 200,
                    "turns": 1,
                    "turn_tokens": 8,
                    "groups": 2,
                    "group_size": 8,
                    "dynamic_sampling": False,
                    "rewards": {"judge": 1.0, f"{module}:late": 0.25, "no_thinking": 0.1},
                }
            ],
            "evaluation": {"context": 200, "turns": 1, "turn_tokens": 8},
            "checkpoint": {"every": 1},
        }
    )


def train(recipe: Recipe, folder: str, *, resume: bool = False) -> list[dict[str, Any]]:
    """The run's lines of metrics."""
    train_run(recipe, Path(folder), resume=resume, console=Console(file=io.StringIO()))
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def weights(folder: str) -> str:
    return hashlib.sha256(Path(folder, "model", "model.safetensors").read_bytes()).hexdigest()


def test_a_run_learns_from_both_and_asks_nothing_twice(recipe: Recipe, server: JudgeServer) -> None:
    records = train(recipe, "run")
    own = next(name for name in recipe.stage[0].rewards if ":" in name)
    assert [set(record["rewards"]) for record in records] == [{"judge", own, "no_thinking"}] * 4
    assert 0.0 < records[0]["rewards"]["judge"] < 1.0
    assert all(record["learner"] for record in records[:2])
    assert all(record["groups"]["ungraded"] == 0 for record in records)
    trial, *cases = server.cases
    assert trial["question"] == "What is the capital of France?"
    asked = [json.dumps(case) for case in cases]
    assert len(asked) == len(set(asked)) > 3
    for path in Path("run/trajectories").iterdir():
        for line in map(json.loads, path.read_text().splitlines()):
            assert line["rewards"]["judge"] == float(line["grade"] == "CORRECT")
            assert line["rewards"][own] == float(line["answer"] in ("X", "Z"))


def test_a_run_whose_reward_failed_goes_on_once_it_is_mended_with_the_same_bits(
    recipe: Recipe, server: JudgeServer
) -> None:
    train(recipe, "alone")
    Path("broken").touch()
    with pytest.raises(UserError, match=r"late' failed on .*LookupError: out of luck \(own_"):
        train(recipe, "run")
    done = Path("run/metrics.jsonl").read_text().count("\n")
    assert 0 < done < 4
    Path("broken").unlink()
    graded = len(server.requests)
    server.reply = lambda case: generous(case) if "France" in case["question"] else "INCORRECT"
    cached = Path("alone/grades.sqlite").read_bytes()
    Path("run/grades.sqlite").write_bytes(cached)
    train(recipe, "run", resume=True)
    assert len(server.requests) == graded + 1  # the trial: all grades came from the cache
    assert weights("run") == weights("alone")


def test_a_judge_that_is_down_is_refused_before_any_work(recipe: Recipe) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        spec = JudgeSpec(url=url, model="grader")
        with pytest.raises(UserError, match="start it, or mend"):
            train(recipe.model_copy(update={"judge": spec}), "run")
    assert not Path("run").exists()


def test_a_reward_that_is_none_is_refused_before_any_work(
    recipe: Recipe, server: JudgeServer
) -> None:
    stage = recipe.stage[0].model_copy(update={"rewards": {"nowhere_to_be:found": 1.0}})
    with pytest.raises(UserError, match="no module 'nowhere_to_be'"):
        train(recipe.model_copy(update={"stage": (stage,)}), "run")
    assert not Path("run").exists()
    assert server.requests == []
