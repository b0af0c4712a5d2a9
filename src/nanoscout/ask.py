"""Ask a run's trained model one question and watch it work."""

import asyncio
import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nanoscout.engine.protocol import Sampling
from nanoscout.records import Question, StopReason, Trajectory, Turn
from nanoscout.rollout.episode import Limits, run_episode
from nanoscout.search.index import SearchIndex
from nanoscout.setting import open_setting

QUOTED_LINES = 6
"""Lines of a tool result that the terminal shows."""

ENDINGS = {
    StopReason.TURN_LIMIT: "it used all its turns without an answer",
    StopReason.CONTEXT_LIMIT: "the conversation outgrew its context without an answer",
    StopReason.TOKEN_LIMIT: "a turn grew longer than allowed",
    StopReason.MALFORMED: "it lost the form of tool calls and answers",
    StopReason.TOOL_UNAVAILABLE: "its tools could not be reached",
}


def ask_run(question: str, folder: Path, console: Console) -> Trajectory:
    """Print the conversation turn by turn, then the answer with the pages it rests on."""
    recipe, setting = open_setting(folder)
    spec = recipe.evaluation

    def show(turn: Turn) -> None:
        for call in turn.calls:
            arguments = json.dumps(call.args, ensure_ascii=False)
            console.print(f"[bold cyan]{escape(call.name)}[/] {escape(arguments)}")
        if turn.kind.malformed:
            console.print(f"[yellow]malformed turn ({turn.kind})[/] {escape(turn.text)}")
        for result in turn.results:
            lines = result.text.splitlines()
            for line in lines[:QUOTED_LINES]:
                console.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)
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
        console.print(f"[bold green]Answer:[/] {escape(trajectory.answer)}")
        for url in _sources(trajectory, setting.index):
            console.print(f"  source: {escape(url)}", soft_wrap=True)
    return trajectory


def _sources(trajectory: Trajectory, index: SearchIndex) -> list[str]:
    """URLs of the pages that the model was shown and that contain its answer."""
    answer = (trajectory.answer or "").lower()
    pages = (index.passage_by_id(passage_id) for passage_id in sorted(trajectory.shown))
    return [page.url for page in pages if page and answer in f"{page.title} {page.text}".lower()]
