"""Ask a model the held-out questions, by the same episode that trains it, and count."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nanoscout.engine.protocol import Engine, Sampling
from nanoscout.recipe import EvaluationSpec
from nanoscout.records import Question, StopReason, Trajectory
from nanoscout.rewards.correctness import correctness
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes
from nanoscout.seeds import derive_seed

TRAJECTORY = TypeAdapter(Trajectory)


@dataclass(frozen=True)
class Outcome:
    """What became of one question."""

    question_id: str
    hops: int
    correct: bool
    calls: int
    stop: str
    think_tokens: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Outcomes by way of sampling (`greedy`, `sampled`), each in the order of the questions.

    A question whose tools were unavailable has no outcome; `unavailable` counts them.
    """

    outcomes: dict[str, list[Outcome]]
    unavailable: dict[str, int]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """{"greedy": {"correct": share, "n": n, "by_hops": {...}, "calls": mean, ...}, ...}"""
        return {
            mode: {
                **_share(outcomes),
                "by_hops": {str(h): _share(of) for h, of in _by_hops(outcomes).items()},
                "calls": sum(o.calls for o in outcomes) / max(1, len(outcomes)),
                "think_tokens": sum(o.think_tokens for o in outcomes) / max(1, len(outcomes)),
                "answered": sum(o.stop == StopReason.ANSWERED for o in outcomes)
                / max(1, len(outcomes)),
                "unavailable": self.unavailable[mode],
            }
            for mode, outcomes in self.outcomes.items()
        }


EVALUATION = TypeAdapter(Evaluation)


async def evaluate(
    questions: Sequence[Question],
    environment: Environment,
    engine: Engine,
    spec: EvaluationSpec,
    *,
    seed: int,
    on_done: Callable[[Trajectory], None] = lambda trajectory: None,
    keep: Path | None = None,
) -> Evaluation:
    """Run every question once in each way of sampling that the recipe names.

    `keep`: a JSONL file to write every conversation to.
    """
    started = time.perf_counter()
    ways = {"greedy": Sampling(temperature=0.0)} if spec.greedy else {}
    if spec.sampled is not None:
        ways["sampled"] = Sampling(**spec.sampled.model_dump())
    requests = [
        EpisodeRequest(question, sampling, derive_seed(seed, "evaluation", mode, question.id))
        for question in questions
        for mode, sampling in ways.items()
    ]
    modes = list(ways) * len(questions)
    trajectories = await run_episodes(
        requests,
        environment,
        engine,
        Limits(spec.context, spec.turns, spec.turn_tokens, spec.malformed_turns),
        on_done=on_done,
    )
    if keep is not None:
        with open(keep, "w", encoding="utf-8") as file:
            for mode, trajectory in zip(modes, trajectories, strict=True):
                line = {
                    "mode": mode,
                    "correct": correctness(trajectory),
                    **TRAJECTORY.dump_python(trajectory, mode="json"),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    outcomes: dict[str, list[Outcome]] = {mode: [] for mode in ways}
    unavailable = dict.fromkeys(ways, 0)
    for mode, trajectory in zip(modes, trajectories, strict=True):
        if trajectory.stop is StopReason.TOOL_UNAVAILABLE:
            unavailable[mode] += 1
        else:
            outcomes[mode].append(_outcome(trajectory))
    return Evaluation(outcomes, unavailable, time.perf_counter() - started)


def _outcome(trajectory: Trajectory) -> Outcome:
    return Outcome(
        question_id=trajectory.question.id,
        hops=trajectory.question.hops,
        correct=bool(correctness(trajectory)),
        calls=len(trajectory.calls),
        stop=str(trajectory.stop),
        think_tokens=trajectory.think_tokens,
    )


def _share(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    right = sum(outcome.correct for outcome in outcomes)
    return {"correct": right / max(1, len(outcomes)), "n": len(outcomes)}


def _by_hops(outcomes: Sequence[Outcome]) -> dict[int, list[Outcome]]:
    groups: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.hops].append(outcome)
    return dict(sorted(groups.items()))
