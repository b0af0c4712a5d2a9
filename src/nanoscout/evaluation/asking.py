"""Ask an agent many questions at once, grade its answers, and keep both as they come.

What is kept already is neither asked nor graded again. An answer is on disk before it is graded.
Where an agent or a judge cannot be reached, the question stays open, and the next run asks it
again; if that happens several times on end the run stops, for it is not going to get better.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from nanoscout.errors import UserError
from nanoscout.evaluation.attempt import Agent, AgentFailed, Attempt
from nanoscout.evaluation.grading.graded import Graded
from nanoscout.evaluation.results_folder import Asked, CellLog
from nanoscout.judge.judge import JudgeUnavailable
from nanoscout.records import Question
from nanoscout.seeds import derive_seed

PATIENCE = 5
"""So many failures, with no success between them, end a run."""

Grading = Callable[[Question, str | None], Awaitable[Graded]]


async def ask(
    agent: Agent,
    questions: Sequence[Asked],
    log: CellLog,
    grade: Grading,
    *,
    seed: int,
    concurrency: int,
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
    on_graded: Callable[[Attempt, Graded], None] = lambda attempt, graded: None,
) -> None:
    """Until every question is answered and graded, or could not be.

    `concurrency`: conversations under way at a time. `agent` is open. Raises UserError after
    PATIENCE failures on end, and for what only a person can mend; what was done is kept.
    """
    free = asyncio.Semaphore(concurrency)
    answers = log.answers
    failures = 0

    async def attempt(question: Question) -> Attempt:
        async with free:
            made = await agent.attempt(question, derive_seed(seed, "evaluation", question.id))
        log.keep_attempt(made)
        on_attempt(made)
        return made

    async def settle(question: Question) -> None:
        nonlocal failures
        try:
            made = answers.attempts.get(question.id) or await attempt(question)
            graded = await grade(question, made.answer)
            log.keep_grade(graded)
            on_graded(made, graded)
            failures = 0
        except (AgentFailed, JudgeUnavailable) as error:
            failures += 1
            if failures == PATIENCE:
                who = "the judge: " if isinstance(error, JudgeUnavailable) else ""
                raise UserError(f"{who}{error} ({PATIENCE} times on end)") from error

    try:
        async with asyncio.TaskGroup() as group:
            for asked in questions:
                if asked.question.id not in answers.grades:
                    group.create_task(settle(asked.question))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
