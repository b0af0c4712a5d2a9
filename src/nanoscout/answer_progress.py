"""Progress of an evaluation: what is done, how much of it is right, and what it has cost so far."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import TextColumn

from nanoscout.evaluation.attempt import Attempt
from nanoscout.evaluation.grading.graded import Graded
from nanoscout.evaluation.results_folder import Answers
from nanoscout.terminal import progress_bar

LINES = 10
"""So many lines a cell where there is no terminal to draw a bar on."""


class AnswerProgress:
    """A bar for the cell under way, with a line when it ends; in a log, some lines in between."""

    def __init__(self, console: Console):
        self.console = console
        self._progress = progress_bar(console, TextColumn("{task.fields[cost]}"))
        self._task = self._progress.add_task("", total=None, cost="")

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

    def start(self, answers: Answers) -> None:
        """A cell, with what it has from an earlier run."""
        self._answers = answers
        self._name = answers.cell.name
        done = len(answers.grades)
        if done:
            self.console.print(f"{self._name}: {done} answers are there already.", highlight=False)
        self._progress.reset(
            self._task,
            total=len(answers.asked),
            completed=done,
            description=self._name,
            cost=_cost(answers),
        )

    def graded(self, attempt: Attempt, graded: Graded) -> None:
        cost = _cost(self._answers)
        self._progress.update(self._task, advance=1, cost=cost)
        done, total = len(self._answers.grades), len(self._answers.asked)
        if not self.console.is_terminal and done * LINES // total > (done - 1) * LINES // total:
            self.console.print(f"{self._name}: {done} of {total}  {cost}", highlight=False)


def _cost(answers: Answers) -> str:
    """Of all of a cell's answers, those of earlier runs included."""
    attempts = answers.attempts.values()
    right = sum(graded.correct for graded in answers.grades.values())
    tokens = sum(attempt.prompt_tokens + attempt.completion_tokens for attempt in attempts)
    searches = sum(attempt.searches for attempt in attempts)
    visits = sum(attempt.visits for attempt in attempts)
    seconds = sum(attempt.seconds for attempt in attempts) / max(1, len(attempts))
    return (
        f"{right} right, {tokens:,} tokens, {searches:,} searches, {visits:,} visits, "
        f"{seconds:.1f} s an answer"
    )
