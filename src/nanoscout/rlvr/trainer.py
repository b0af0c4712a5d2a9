"""Training, from the first stage to the last.

For each step: collect a batch of conversations, score them, take one (or a few) optimiser steps,
write down what happened, and now and then a checkpoint. There is no reward model, no critic and no
supervised step; by default there is no reference model either (DAPO, arXiv 2503.14476).

Everything random is derived from the recipe's seed and counters that a checkpoint holds, so a run
that was killed ends, on a CPU, with the same bits as one that was left alone.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import TypeAdapter
from transformers import PreTrainedModel

from nanoscout import memory
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.judge.judge import Judge
from nanoscout.questions.quota import default_mix
from nanoscout.questions.sampler import QuestionStream
from nanoscout.recipe import Recipe, StageSpec
from nanoscout.records import Question, Trajectory
from nanoscout.rlvr.batch import Batch, Collector, StageProgress
from nanoscout.rlvr.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from nanoscout.rlvr.learner import Learner, StepStats, mean_stats
from nanoscout.rlvr.metrics import batch_metrics, learner_metrics
from nanoscout.rlvr.watch import collapsed, reached
from nanoscout.rollout.environment import Environment

TRAJECTORY = TypeAdapter(Trajectory)


class Reporter(Protocol):
    """Hears of a run's progress."""

    def episode_done(self, trajectory: Trajectory) -> None: ...

    def step_done(self, record: dict[str, Any]) -> None: ...


@dataclass
class Position:
    """Where a run stands between two steps."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains `model` in place; resumes from the newest checkpoint in the run's folder, if any.

    `environment_of`: a stage's environment; all of them have one dialogue.
    `judge`: needed for stages with the reward `judge`.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: PreTrainedModel,
        environment_of: Callable[[StageSpec], Environment],
        engine: TorchEngine,
        questions: Sequence[Question],
        folder: Path,
        reporter: Reporter,
        judge: Judge | None = None,
    ):
        self.recipe = recipe
        self.environment_of = environment_of
        self.engine = engine
        self.questions = questions
        self.folder = folder
        self.reporter = reporter
        self.judge = judge
        self.learner = Learner(
            model,
            recipe.optimiser,
            recipe.objective,
            sorted(environment_of(recipe.stage[0]).dialogue.banned_ids),
            total_updates=recipe.updates,
        )
        self.position = Position()
        self.progress = StageProgress()
        self._agreement_checked = False
        self._stage_records: list[dict[str, Any]] = []
        self._resume()

    async def train(self) -> None:
        while self.position.stage < len(self.recipe.stage):
            await self._train_stage(self.recipe.stage[self.position.stage])
            self.position.stage += 1
            self.position.stage_step = 0
            self.progress = StageProgress()
            self._stage_records = []
            self._save_checkpoint()

    async def _train_stage(self, stage: StageSpec) -> None:
        while self.position.stage_step < stage.steps:
            now = stage.at(self.position.stage_step)
            collector = self._collector(now)
            started = time.perf_counter()
            # Cached values can differ in their last bits by how they came about: a resumed run
            # has none, so neither may this one.
            self.engine.forget()
            memory.trim()
            batch = await collector.collect(self.progress, self.reporter.episode_done)
            collected = time.perf_counter()
            memory.trim()
            stats = self._learn(batch, now)
            learned = time.perf_counter()

            self.position.step += 1
            self.position.stage_step += 1
            self.position.seconds += learned - started
            ends = self._record(now, batch, stats, collected - started, learned - collected)
            if ends:
                break
            if (
                self.position.stage_step % self.recipe.checkpoint.every == 0
                and self.position.stage_step < stage.steps
            ):
                self._save_checkpoint()

    def _collector(self, stage: StageSpec) -> Collector:
        mix = stage.hops or default_mix(self.recipe.questions, self.questions)
        stream = QuestionStream(self.questions, mix, self.recipe.seed)
        environment = self.environment_of(stage)
        return Collector(stage, stream, environment, self.engine, self.recipe.seed, self.judge)

    def _learn(self, batch: Batch, stage: StageSpec) -> StepStats | None:
        """The optimiser steps on a batch; None where no group of it carries a signal."""
        spec = self.recipe.objective
        groups = [group.samples(spec) for group in batch.groups]
        samples = [sample for group in groups for sample in group]
        if not any(sample.advantage for sample in samples):
            return None
        self._check_agreement(samples, stage)
        minibatches = [
            [sample for group in groups[number :: spec.minibatches] for sample in group]
            for number in range(spec.minibatches)
        ]
        steps = [
            self.learner.step(minibatch, stage.temperature, stage.max_sampled_tokens)
            for _ in range(spec.updates)
            for minibatch in minibatches
        ]
        self.engine.weights_changed()
        return mean_stats([stats for stats in steps if stats is not None])

    def _check_agreement(self, samples: list[Any], stage: StageSpec) -> None:
        """Before this process's first update: the learner must score what the engine sampled
        as the engine did, or every importance ratio is wrong."""
        if self._agreement_checked:
            return
        self._agreement_checked = True
        gap, ratio = self.learner.agreement(samples[:4], stage.temperature)
        if self.progress.carried or abs(ratio - 1.0) < 0.1:
            return
        raise UserError(
            f"engine and learner disagree about the model: mean ratio {ratio:.3f} (1.0 expected), "
            f"mean |log-probability gap| {gap:.3f}. Does model '{self.recipe.model.source}' use "
            "dropout, sliding-window attention or custom generation settings? Try dtype float32."
        )

    def _record(
        self,
        stage: StageSpec,
        batch: Batch,
        stats: StepStats | None,
        rollout_seconds: float,
        learner_seconds: float,
    ) -> str:
        """Trajectories first, then the line of metrics that says the step is done.

        Returns why the stage ends here, if it does before its last step. Raises UserError where
        the policy has collapsed.
        """
        path = self.folder / "trajectories" / f"step-{self.position.step:06d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            for group in batch.fresh:
                for trajectory, scores in zip(group.trajectories, group.scores, strict=True):
                    line = {
                        "stage": stage.name,
                        "informative": group.informative,
                        "reward": scores.total,
                        "rewards": scores.parts,
                        **TRAJECTORY.dump_python(trajectory, mode="json"),
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        sampled = sum(t.sampled_tokens for group in batch.fresh for t in group.trajectories)
        record = {
            "step": self.position.step,
            "stage": stage.name,
            "stage_step": self.position.stage_step,
            **batch_metrics(batch),
            "learner": learner_metrics(stats) if stats else None,
            "carried": len(self.progress.carried),
            "tokens_per_second": sampled / rollout_seconds,
            "seconds": {
                "rollout": rollout_seconds,
                "learner": learner_seconds,
                "total": self.position.seconds,
            },
        }
        self._stage_records.append(record)
        ends = reached(stage.until, self._stage_records)
        if ends:
            record["ends_stage"] = ends
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.reporter.step_done(record)
        self._check_collapse()
        return ends

    def _check_collapse(self) -> None:
        spec = self.recipe.collapse
        sign = collapsed(spec, self._stage_records)
        if not sign:
            return
        step = self.position.step
        good = latest_checkpoint(self.folder / "checkpoints", before=step - spec.window + 1)
        raise UserError(
            f"the policy collapsed by step {step}: {sign}. "
            + (
                f"The last good checkpoint is {good}."
                if good
                else "No checkpoint from before is left; checkpoint.keep and checkpoint.every "
                "keep more of them."
            )
            + " Try a smaller optimiser.lr; [collapse] sets these limits."
        )

    def _save_checkpoint(self) -> None:
        save_checkpoint(
            self.folder / "checkpoints",
            self.position.step,
            tensors={
                "optimiser": self.learner.optimiser.state_dict(),
                "rng": torch.get_rng_state(),
            },
            state={
                "position": vars(self.position),
                "progress": self.progress.to_json(),
                "updates": self.learner.updates,
                "policy_version": self.engine.policy_version,
            },
            keep=self.recipe.checkpoint.keep,
        )

    def _resume(self) -> None:
        """Take up the newest checkpoint, and forget what was written down after it."""
        path = latest_checkpoint(self.folder / "checkpoints")
        if path is not None:
            tensors, state = load_checkpoint(path)
            self.learner.optimiser.load_state_dict(tensors["optimiser"])
            torch.set_rng_state(tensors["rng"])
            self.learner.updates = state["updates"]
            self.engine.policy_version = state["policy_version"]
            self.position = Position(**state["position"])
            self.progress = StageProgress.from_json(state["progress"])
        lines = truncate_metrics(self.folder / "metrics.jsonl", self.position.step)
        self._stage_records = [
            json.loads(line) for line in lines[len(lines) - self.position.stage_step :]
        ]


def truncate_metrics(path: Path, step: int) -> list[str]:
    """Keep and return the lines of the first `step` steps; one that a kill cut short goes too."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    return lines
