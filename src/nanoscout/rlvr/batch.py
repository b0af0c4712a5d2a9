"""Collecting one batch: roll out groups of one question each, and keep those that carry a signal.

Dynamic sampling (DAPO eq. 11): a group whose rollouts are all right or all wrong is dropped and
replaced, round after round, until the batch is full or `max_rounds` is reached. Groups beyond a
full batch are carried over to the next one; their tokens keep the log-probabilities of the
policy that sampled them, so the importance ratio accounts for the step in between.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from nanoscout.engine.protocol import Engine, Sampling
from nanoscout.judge.judge import Judge, JudgeUnavailable
from nanoscout.questions.sampler import QuestionStream
from nanoscout.recipe import ObjectiveSpec, StageSpec
from nanoscout.records import Question, StopReason, Trajectory
from nanoscout.rewards import OUTCOMES, Scores, score
from nanoscout.rewards.correctness import correctness, given_answer
from nanoscout.rewards.overlong import soft_overlong
from nanoscout.rlvr.advantage import group_advantages, is_informative
from nanoscout.rlvr.packing import Sample
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes
from nanoscout.seeds import derive_seed


@dataclass(frozen=True)
class Group:
    """The scored rollouts of one question."""

    question: Question
    trajectories: list[Trajectory]
    scores: list[Scores]

    @property
    def informative(self) -> bool:
        """Whether the rollouts differ in being right, as the stage's own rewards tell it."""
        if len(self.trajectories) < 2:
            return False
        outcomes = [
            [scores.parts[name] for scores in self.scores]
            for name in OUTCOMES.intersection(self.scores[0].parts)
        ] or [[correctness(trajectory) for trajectory in self.trajectories]]
        return any(map(is_informative, outcomes))

    def samples(self, spec: ObjectiveSpec) -> list[Sample]:
        """What the learner trains on: all rollouts count in the advantages; those that a budget
        cut are left out of the loss where `mask_cut`. A conversation whose history was rewritten
        is several samples, each token in the context that it was sampled in."""
        advantages = group_advantages(
            [scores.total for scores in self.scores], scaled=spec.loss != "dr_grpo"
        ).tolist()
        return [
            Sample(
                trajectory.token_ids[part],
                trajectory.sampled[part],
                trajectory.logprobs[part],
                advantage,
                conversation_tokens=trajectory.sampled_tokens,
            )
            for trajectory, advantage in zip(self.trajectories, advantages, strict=True)
            if trajectory.sampled_tokens and not (spec.mask_cut and trajectory.stop.cut_by_budget)
            for part in trajectory.sequences
        ]


GROUPS = TypeAdapter(list[Group])
"""Groups to and from JSON, for checkpoints."""


@dataclass
class StageProgress:
    """Where a stage stands; all that the next batch depends on besides the weights."""

    cursor: int = 0
    """Questions drawn so far."""
    carried: list[Group] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "carried": GROUPS.dump_python(self.carried, mode="json")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StageProgress":
        return cls(data["cursor"], GROUPS.validate_python(data["carried"]))


@dataclass(frozen=True)
class Batch:
    groups: list[Group]
    """The groups to train on, at most the stage's `groups`."""
    fresh: list[Group]
    """All groups rolled out for this batch, dropped ones included: what the policy does now."""
    rounds: int
    unavailable: int
    """Trajectories lost to a tool that failed; they count nowhere."""
    ungraded: int
    """Trajectories lost to a judge that failed; they count nowhere either."""

    @property
    def dropped(self) -> int:
        return sum(not group.informative for group in self.fresh)


class Collector:
    """Collects the batches of one stage."""

    def __init__(
        self,
        stage: StageSpec,
        stream: QuestionStream,
        environment: Environment,
        engine: Engine,
        seed: int,
        judge: Judge | None = None,
    ):
        self.stage = stage
        self._stream = stream
        self._environment = environment
        self._engine = engine
        self._seed = seed
        self._judge = judge if "judge" in stage.rewards else None
        self._limits = Limits(stage.context, stage.turns, stage.turn_tokens, stage.malformed_turns)

    async def collect(
        self,
        progress: StageProgress,
        on_done: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> Batch:
        """Advance `progress` by one batch."""
        stage = self.stage
        kept, progress.carried = progress.carried, []
        fresh: list[Group] = []
        unavailable = ungraded = rounds = 0
        while len(kept) < stage.groups and rounds < stage.max_rounds:
            rounds += 1
            groups, without_tools, without_grade = await self._roll_out(progress, on_done)
            unavailable += without_tools
            ungraded += without_grade
            fresh += groups
            kept += [
                group
                for group in groups
                if group.informative or (group.trajectories and not stage.dynamic_sampling)
            ]
        progress.carried = kept[stage.groups :]
        return Batch(kept[: stage.groups], fresh, rounds, unavailable, ungraded)

    async def _roll_out(
        self, progress: StageProgress, on_done: Callable[[Trajectory], None]
    ) -> tuple[list[Group], int, int]:
        """One round: a full batch of new questions, `group_size` rollouts of each.

        Besides the groups, how many trajectories were lost for want of a tool and of a grade.
        """
        stage = self.stage
        self._stream.cursor = progress.cursor
        questions = [self._stream.next() for _ in range(stage.groups)]
        sampling = Sampling(temperature=stage.temperature)
        requests = [
            EpisodeRequest(
                question,
                sampling,
                derive_seed(self._seed, stage.name, progress.cursor + number, index),
            )
            for number, question in enumerate(questions)
            for index in range(stage.group_size)
        ]
        progress.cursor += len(questions)
        async with self._judge or contextlib.nullcontext():
            trajectories = await run_episodes(
                requests,
                self._environment,
                self._engine,
                self._limits,
                examples=stage.examples,
                grade=self._grade,
                on_done=on_done,
            )
        unavailable = sum(t.stop is StopReason.TOOL_UNAVAILABLE for t in trajectories)
        usable = sum(map(self._is_usable, trajectories))
        groups = []
        for number, question in enumerate(questions):
            first = number * stage.group_size
            members = [
                trajectory
                for trajectory in trajectories[first : first + stage.group_size]
                if self._is_usable(trajectory)
            ]
            groups.append(Group(question, members, [self._score(t) for t in members]))
        return groups, unavailable, len(trajectories) - usable - unavailable

    async def _grade(self, trajectory: Trajectory) -> None:
        if self._judge is None or trajectory.stop is StopReason.TOOL_UNAVAILABLE:
            return
        with contextlib.suppress(JudgeUnavailable):
            trajectory.grade = await self._judge.grade(
                trajectory.question, given_answer(trajectory)
            )

    def _is_usable(self, trajectory: Trajectory) -> bool:
        """A failed tool or judge is not a wrong answer."""
        return trajectory.stop is not StopReason.TOOL_UNAVAILABLE and (
            self._judge is None or trajectory.grade is not None
        )

    def _score(self, trajectory: Trajectory) -> Scores:
        scores = score(trajectory, self.stage.rewards)
        if self.stage.overlong is None:
            return scores
        penalty = soft_overlong(
            trajectory.sampled_tokens,
            self.stage.overlong.max_tokens,
            self.stage.overlong.cache_tokens,
        )
        return Scores({**scores.parts, "overlong": penalty}, scores.total + penalty)
