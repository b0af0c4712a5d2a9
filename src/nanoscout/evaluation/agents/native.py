"""The agent that the model was trained in: the episode itself, on the engine in this process."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, Self

from nanoscout.dialogue.thinking import after_thinking
from nanoscout.evaluation.agents.tally import tally
from nanoscout.evaluation.agents.terms import InProcess, Terms
from nanoscout.evaluation.attempt import AgentFailed, Attempt
from nanoscout.records import Question, StopReason, Trajectory, Turn, TurnKind
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import run_episode
from nanoscout.rollout.rollout import EpisodeRequest, shared_prefix


class NativeAgent:
    """Its prompt tokens are those that the model was given, each counted once: a conversation
    keeps its cache between turns."""

    name = "native"

    def __init__(self, terms: Terms, where: InProcess):
        self._terms = terms
        self._environment = where.environment
        self._engine = where.engine

    async def __aenter__(self) -> Self:
        asked = [EpisodeRequest(Question(text, text, ""), self._terms.sampling, 0) for text in "AB"]
        self._engine.share_prefix(shared_prefix(asked, self._environment, examples=None))
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def attempt(self, question: Question, seed: int) -> Attempt:
        trajectory = await run_episode(
            question,
            self._environment,
            self._engine,
            self._terms.limits,
            self._terms.sampling,
            seed=seed,
        )
        if trajectory.stop is StopReason.TOOL_UNAVAILABLE:
            raise AgentFailed("native: its tools could not be reached")
        return attempt_of(trajectory, self._environment)


def attempt_of(trajectory: Trajectory, environment: Environment) -> Attempt:
    """A trajectory as every agent reports its conversation."""
    made = (call for turn in trajectory.turns if turn.results for call in turn.calls)
    return Attempt(
        question_id=trajectory.question.id,
        answer=trajectory.answer,
        stop=str(trajectory.stop),
        messages=list(_messages(trajectory, environment)),
        **tally(call.name for call in made),
        prompt_tokens=len(trajectory.token_ids) - trajectory.sampled_tokens,
        completion_tokens=trajectory.sampled_tokens,
        think_tokens=trajectory.think_tokens,
        seconds=trajectory.seconds,
    )


def _messages(trajectory: Trajectory, environment: Environment) -> Iterator[dict[str, Any]]:
    """The conversation without the worked examples, which all conversations share."""
    question = {"role": "user", "content": trajectory.question.text}
    yield {"role": "system", "content": environment.system}
    yield question
    numbers = count(1)
    for turn in trajectory.turns:
        message: dict[str, Any] = {"role": "assistant", "content": _said(turn, environment)}
        calls = [
            {
                "id": f"call_{next(numbers)}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.args)},
            }
            for call in turn.calls
        ]
        yield message | ({"tool_calls": calls} if calls else {})
        for call, result in zip(calls, turn.results, strict=False):
            yield {"role": "tool", "tool_call_id": call["id"], "content": result.text}
        if turn.kind.malformed:
            yield from ({"role": "user", "content": result.text} for result in turn.results)
        if turn.results and environment.repeat_question:
            yield question


def _said(turn: Turn, environment: Environment) -> str:
    """A turn's text as it was sampled; where it makes calls, what stands before them."""
    if turn.kind is not TurnKind.CALL:
        return turn.text
    rest = after_thinking(turn.text)
    before, _, _ = rest.partition(f"<{environment.dialogue.format.call_tag}>")
    return (turn.text.removesuffix(rest) + before).rstrip()
