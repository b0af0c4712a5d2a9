"""Many episodes at once: each runs as a task of its own, and the engine batches whatever waits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nanoscout.engine.protocol import Engine, Sampling
from nanoscout.records import Question, Trajectory
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits, run_episode


async def _nothing(trajectory: Trajectory) -> None:
    pass


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    question: Question
    sampling: Sampling
    seed: int


async def run_episodes(
    requests: Sequence[EpisodeRequest],
    environment: Environment,
    engine: Engine,
    limits: Limits,
    *,
    examples: int | None = None,
    grade: Callable[[Trajectory], Awaitable[None]] = _nothing,
    on_done: Callable[[Trajectory], None] = lambda trajectory: None,
) -> list[Trajectory]:
    """Run all requests, in the order given; `on_done` hears of each episode as it ends.

    Before that, `grade` may add to its trajectory what others say of it; meanwhile the remaining
    episodes go on. The first error in an episode cancels the others and is raised: faults of tools
    are stop reasons, so it is a defect, or a UserError for a person to mend.
    """
    if requests:
        engine.share_prefix(shared_prefix(requests, environment, examples))

    async def run(request: EpisodeRequest) -> Trajectory:
        trajectory = await run_episode(
            request.question,
            environment,
            engine,
            limits,
            request.sampling,
            seed=request.seed,
            examples=examples,
        )
        await grade(trajectory)
        on_done(trajectory)
        return trajectory

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(request)) for request in requests]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def shared_prefix(
    requests: Sequence[EpisodeRequest], environment: Environment, examples: int | None
) -> list[int]:
    """The tokens with which all prompts begin, short of the last one (which predicts)."""
    prompts = [environment.prompt_ids(request.question, examples) for request in requests]
    first, last = min(prompts), max(prompts)
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return first[:shared]
