"""Ask a run's trained model one question and watch it work."""

import asyncio
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nanoscout.engine.protocol import Sampling
from nanoscout.records import Question, StopReason, Trajectory, Turn
from nanoscout.rollout.episode import Limits, run_episode
from nanoscout.search.texts import hits_in
from nanoscout.setting import open_setting
from nanoscout.terminal import printable, say

QUOTED_LINES = 6
"""Lines of a tool result that the terminal shows."""

ENDINGS = {
    StopReason.TURN_LIMIT: "it used all its turns without an answer",
    StopReason.CONTEXT_LIMIT: "the conversation outgrew its context without an answer",
    StopReason.TOKEN_LIMIT: "a turn grew longer than allowed",
    StopReason.MALFORMED: "it lost the form of tool calls and answers",
    StopReason.TOOL_UNAVAILABLE: "its tools could not be reached",
}


def ask_run(
    question: str, folder: Path, console: Console, overrides: Sequence[str] = ()
) -> Trajectory:
    """Print the conversation turn by turn, then the answer with the pages it rests on.

    `overrides`: what of the run's recipe is otherwise this time, as `key=value`.
    """
    recipe, setting = open_setting(folder, overrides=overrides)
    spec = recipe.evaluation
    if setting.search.name != "local":
        console.print(f"Searching with {setting.search.name}.")

    def show(turn: Turn) -> None:
        for call in turn.calls:
            arguments = json.dumps(call.args, ensure_ascii=False)
            console.print(f"[bold cyan]{_plain(call.name)}[/] {_plain(arguments)}")
        if turn.kind.malformed:
            console.print(f"[yellow]malformed turn ({turn.kind})[/] {_plain(turn.text)}")
        for result in turn.results:
            lines = result.text.splitlines()
            for line in lines[:QUOTED_LINES]:
                console.print(f"  [dim]{_plain(line)}[/]", soft_wrap=True)
            if len(lines) > QUOTED_LINES:
                console.print(f"  [dim]… {len(lines) - QUOTED_LINES} more lines[/]")

    trajectory = asyncio.run(
        run_episode(
            Question(id="asked", text=question, answer=""),
            setting.environment,
            setting.engine,
            Limits(spec.context, spec.turns, spec.turn_tokens, spec.malformed_turns),
            Sampling(temperature=0.0),
            seed=0,
            on_turn=show,
        )
    )
    if trajectory.answer is None:
        console.print(f"[bold red]No answer:[/] {ENDINGS[trajectory.stop]}.")
    else:
        console.print(f"[bold green]Answer:[/] {_plain(trajectory.answer)}")
        for url in _sources(trajectory):
            say(console, f"  source: {url}")
    return trajectory


def _sources(trajectory: Trajectory) -> list[str]:
    """URLs of the pages whose text, as far as the model has seen it, contains its answer."""
    answer = (trajectory.answer or "").lower()
    seen = chain.from_iterable(_seen(turn) for turn in trajectory.turns)
    return list(dict.fromkeys(url for url, text in seen if answer in text.lower()))


def _seen(turn: Turn) -> list[tuple[str, str]]:
    """URL and text of what a turn's tool results have shown."""
    seen = []
    for call, result in zip(turn.calls, turn.results, strict=False):
        if call.name == "visit" and result.shown:
            seen.append((call.args["url"].strip(), result.text))
        elif result.shown:
            seen += hits_in(result.text)
    return seen


def _plain(text: str) -> str:
    """`text` for a line with markup: shown as it is, and unable to steer the terminal."""
    return escape(printable(text))
