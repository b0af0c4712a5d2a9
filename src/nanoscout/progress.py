"""Progress on the terminal: a bar for the conversations under way, a line for each step."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from nanoscout.recipe import Recipe
from nanoscout.records import Trajectory
from nanoscout.terminal import progress_bar


class ConsoleReporter:
    """Prints a run's progress; on a pipe or in a log, the lines without the bar."""

    def __init__(self, recipe: Recipe, console: Console):
        self._recipe = recipe
        self.console = console
        self._total = sum(stage.steps for stage in recipe.stage)
        self._first_step = 0
        self._started = time.perf_counter()
        self._progress = progress_bar(console)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def start_evaluation(self, conversations: int) -> None:
        self._progress.reset(self._task, total=conversations, description="evaluation")

    def resume_at(self, step: int) -> None:
        self._first_step = step
        self._started = time.perf_counter()
        if step:
            self.console.print(f"Going on after step {step} of {self._total}.")
        self._next_step(step)

    def episode_done(self, trajectory: Trajectory) -> None:
        self._progress.advance(self._task)

    def step_done(self, record: dict[str, Any]) -> None:
        step = record["step"]
        self.console.print(self._step_line(record), highlight=False, soft_wrap=True)
        if "ends_stage" in record:
            self.console.print(f"Stage {record['stage']} ends here: {record['ends_stage']}.")
        self._next_step(step)

    def _next_step(self, step: int) -> None:
        self._progress.reset(self._task, description=f"step {step + 1}/{self._total}: rollouts")

    def _step_line(self, record: dict[str, Any]) -> str:
        step = record["step"]
        elapsed = time.perf_counter() - self._started
        eta = elapsed / max(1, step - self._first_step) * (self._total - step)
        head = f"{step:4}/{self._total} {record['stage']:<10} ETA {_clock(eta)}"
        if "reward" not in record:
            return f"{head}  no usable rollout: every conversation lost its tools or its judge"
        parts = " ".join(f"{name} {value:.2f}" for name, value in record["rewards"].items())
        hops = " ".join(f"{h}hop {v:.2f}" for h, v in record["correct_by_hops"].items())
        groups = record["groups"]
        learner = record["learner"]
        update = (
            f"entropy {learner['entropy']:.2f} grad {learner['grad_norm']:.2f}"
            if learner
            else "no signal, not updated"
        )
        return (
            f"{head}  reward {record['reward']:.2f} ({parts})  "
            f"right {record['correct']:.2f} ({hops})  tools {record['tool_use']:.2f} "
            f"calls {record['calls']:.1f}  dropped {groups['dropped']}/{groups['fresh']}  "
            f"{update}  {record['tokens_per_second']:.0f} tok/s  "
            f"{record['seconds']['rollout']:.0f}+{record['seconds']['learner']:.0f} s"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
