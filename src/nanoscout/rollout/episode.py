"""One conversation from the question to the answer: the loop that trains, evaluates and serves.

The engine samples a turn; the parser says what it is; a call goes to its tool, and the tool's
result comes back as given tokens. The trajectory records every token as it was sampled. Where
thoughts are stripped from the history, the conversation goes back to where they began, and the
trajectory goes on with the history as the model sees it from then on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Conversation, Engine, Finish, Generation, Sampling
from nanoscout.records import Question, StopReason, ToolResult, Trajectory, Turn, TurnKind
from nanoscout.rollout.environment import Environment
from nanoscout.tools.protocol import ToolUnavailable


@dataclass(frozen=True, slots=True)
class Limits:
    context: int
    """Tokens that the whole conversation may have."""
    turns: int
    """Assistant turns, the answer included."""
    turn_tokens: int
    """Tokens sampled in one turn."""
    malformed_turns: int = 1
    """Malformed turns that are answered with an error; the next one ends the episode."""


async def run_episode(
    question: Question,
    environment: Environment,
    engine: Engine,
    limits: Limits,
    sampling: Sampling,
    *,
    seed: int,
    examples: int | None = None,
    on_turn: Callable[[Turn], None] = lambda turn: None,
) -> Trajectory:
    """Converse until the model answers or a limit ends it; `stop` says which.

    `on_turn` hears of each assistant turn once its result is there (or the episode over).
    `sampling` gives temperature, top_p and top_k; stop and banned tokens are the dialogue's, and
    max_tokens the limits'.
    """
    started = time.perf_counter()
    trajectory = Trajectory(question, seed=seed, format=environment.dialogue.format.name)
    conversation = engine.conversation(seed)
    try:
        await _converse(
            trajectory,
            conversation,
            environment,
            replace(limits, context=min(limits.context, engine.context_limit)),
            replace(
                sampling,
                stop_ids=environment.dialogue.stop_ids,
                banned_ids=environment.dialogue.banned_ids,
            ),
            environment.prompt_ids(question, examples),
            on_turn,
        )
        if trajectory.turns:
            on_turn(trajectory.turns[-1])
    finally:
        conversation.close()
    trajectory.seconds = time.perf_counter() - started
    return trajectory


async def _converse(
    trajectory: Trajectory,
    conversation: Conversation,
    environment: Environment,
    limits: Limits,
    sampling: Sampling,
    new_ids: list[int],
    on_turn: Callable[[Turn], None],
) -> None:
    dialogue = environment.dialogue
    malformed = 0
    history: list[int] = []
    rewritten = False
    while True:
        room = limits.context - len(history) - len(new_ids)
        if room < 1:
            trajectory.stop = StopReason.CONTEXT_LIMIT
            return
        generation = await conversation.generate(
            new_ids, replace(sampling, max_tokens=min(limits.turn_tokens, room))
        )
        if rewritten:
            trajectory.restarts.append(len(trajectory.token_ids))
        given = history + new_ids if rewritten else new_ids
        turn = _append(trajectory, given, generation, dialogue)
        history += [*new_ids, *generation.token_ids]
        if generation.finish is Finish.LENGTH:
            trajectory.stop = (
                StopReason.CONTEXT_LIMIT if room <= limits.turn_tokens else StopReason.TOKEN_LIMIT
            )
            return
        parsed = dialogue.format.parse(turn.text)
        turn.kind, turn.calls = parsed.kind, list(parsed.calls)
        if turn.kind is TurnKind.ANSWER:
            trajectory.answer = parsed.answer
            trajectory.stop = StopReason.ANSWERED
            return
        malformed += turn.kind.malformed
        if malformed > limits.malformed_turns:
            trajectory.stop = StopReason.MALFORMED
            return
        if len(trajectory.turns) == limits.turns:
            trajectory.stop = StopReason.TURN_LIMIT
            return
        if turn.kind.malformed:
            turn.results = [ToolResult(text=dialogue.format.error_text(turn.kind), ok=False)]
        else:
            try:
                turn.results = await environment.toolbox.call_all(turn.calls)
            except ToolUnavailable:
                trajectory.stop = StopReason.TOOL_UNAVAILABLE
                return
        on_turn(turn)
        reply = environment.reply(trajectory.question, turn.results)
        new_ids = dialogue.after_turn(generation.token_ids, reply)
        cut = dialogue.cut_thoughts(generation.token_ids, reply)
        rewritten = cut is not None
        if cut is not None:
            dropped, kept = cut
            del history[-dropped:]
            conversation.rewind(len(history))
            new_ids = kept + new_ids


def _append(
    trajectory: Trajectory, given: list[int], generation: Generation, dialogue: Dialogue
) -> Turn:
    """Record given and sampled tokens; the turn counts as unclosed until it has been parsed."""
    ids = generation.token_ids
    trajectory.token_ids += [*given, *ids]
    trajectory.sampled += [False] * len(given) + [True] * len(ids)
    trajectory.logprobs += [0.0] * len(given) + generation.logprobs
    trajectory.policy_version = generation.policy_version
    end = len(trajectory.token_ids)
    turn = Turn(
        start=end - len(ids),
        end=end,
        text=dialogue.decode_turn(ids),
        kind=TurnKind.UNCLOSED,
        think_tokens=dialogue.think_tokens(ids),
    )
    trajectory.turns.append(turn)
    return turn
