"""The report's three stages from end to end at their own contexts, killed in the last, resumed.

    python benchmarks/long_stages.py [--size full] [--format hermes] [--work FOLDER]

What runs is `nanoscout train recipes/jan-nano.toml`, with a tiny Qwen3 in place of the 4B one, a
world of long roads in place of MuSiQue (roads.py), and fewer and smaller steps; contexts, turns,
rewards, prompts, format, losses and minibatches are the recipe's. The model is taught first, by
example, to walk the roads (taught.py), so that conversations get as long as the contexts allow.

It trains twice: once left alone, and once killed with SIGKILL in the middle of the last stage and
resumed. The two must end with the same bits: weights, metrics and every token of every
conversation, and the last stage's conversations must fill its context, or no figures are kept. For
each step it says how long its conversations were, and the peak of resident memory, which is reset
after each step. Linux only: that goes through /proc.
"""

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import ROOT, machine
from roads import PROSE, Guide, Roads
from taught import Lesson, teach, tokenizer, untaught
from watched_run import WatchedRun

from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.files import write_json
from nanoscout.models import save_model
from nanoscout.questions import load_questions
from nanoscout.recipe import Recipe
from nanoscout.recipe_file import load_recipe
from nanoscout.records import Trajectory
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes
from nanoscout.setting import make_setting, prepare_folder

RECIPE = ROOT / "recipes/jan-nano.toml"
FULL = 0.93
"""Of its context, what a conversation has to have to fill it."""


@dataclass(frozen=True)
class Size:
    roads: Roads
    lessons: tuple[Lesson, ...]
    steps: tuple[int, int, int]
    """Of the three stages."""
    kill_after: float
    """Seconds between the last stage's first checkpoint and the kill."""
    more: tuple[str, ...] = ()
    """Further overrides."""


SIZES = {
    "full": Size(
        Roads(roads=3, near=4, far=23, page_words=1_185),
        lessons=(
            Lesson(128, 32, 1_500, text=128, enough=0.08),
            Lesson(384, 24, 1_000, text=40_960, enough=0.06),
        ),
        steps=(1, 1, 3),
        kill_after=20.0,
    ),
    "small": Size(
        Roads(roads=1, near=2, far=6, page_words=60),
        lessons=(
            Lesson(128, 32, 800, text=128, enough=0.08),
            Lesson(256, 24, 200, text=2_048, enough=0.08),
        ),
        steps=(1, 1, 4),
        kill_after=0.0,
        more=(
            *(f"stage.{i}.context={tokens}" for i, tokens in enumerate((1_024, 1_024, 2_048))),
            "search.results=2",
            "evaluation.context=1024",
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--format", choices=["hermes", "xml"], default="hermes")
    parser.add_argument(
        "--work",
        type=Path,
        help="keep model, world and runs here; a model that is there already is taken",
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        try:
            figures = measure(SIZES[options.size], options.format, folder.resolve())
        except UserError as error:
            parser.exit(1, f"long_stages: {error}\n")
    show(figures)
    path = options.results / "long_stages.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, known | {options.format: figures})


def measure(size: Size, form: str, folder: Path) -> dict[str, Any]:
    size.roads.write(folder / "world")
    overrides = overrides_of(size, form, folder)
    if not (folder / "model").exists():
        make_model(size, load_recipe(RECIPE, overrides), folder)
    alone = WatchedRun(RECIPE, overrides, folder / "alone")
    alone.go_on()
    context = load_recipe(RECIPE, overrides).stage[-1].context
    steps = [step_figures(alone, record) for record in alone.records()]
    for row in steps[-size.steps[-1] :]:
        if sum(tokens >= FULL * context for tokens in row["tokens"]) < 2:
            raise UserError(f"step {row['step']} does not fill its context: {row['tokens']}")
    killed = WatchedRun(RECIPE, overrides, folder / "killed")
    first = sum(size.steps[:2]) + 1
    killed.go_on(kill_at=first, kill_after=size.kill_after)
    killed_in = len(killed.records()) + 1
    if killed_in > sum(size.steps):
        raise UserError("the last stage ended before it could be killed")
    killed.go_on()
    for part in ("weights", "metrics", "conversations"):
        if getattr(alone, part)() != getattr(killed, part)():
            raise UserError(f"{part} of the resumed run are not those of the one left alone")
    return {
        "machine": machine(),
        "recipe": RECIPE.name,
        "overrides": overrides_of(size, form, Path("WORK")),
        "steps": steps,
        "killed": f"in step {killed_in}, {size.kill_after:g} s after the checkpoint before it",
        "resumed_run_is_the_same_to_the_bit": True,
        "peak_mb": max(*alone.peaks.values(), *killed.peaks.values()) / 1e6,
        "minutes": alone.seconds / 60,
        "minutes_killed_and_resumed": killed.seconds / 60,
    }


def overrides_of(size: Size, form: str, folder: Path) -> list[str]:
    """What is otherwise than in the report's recipe."""
    world = folder / "world"
    near, far = "{ 2hop = 1.0 }", "{ 4hop1 = 1.0 }"
    stages = zip(size.steps, (near, near, far), strict=True)
    return [
        f"model.source={folder / 'model'}",
        f"questions.path={world / 'train.jsonl'}",
        f"questions.held_out_path={world / 'held_out.jsonl'}",
        f'questions.corpus=["{world / "pages.jsonl"}"]',
        f"dialogue.format={form}",
        "optimiser.lr=1e-5",
        "optimiser.warmup_steps=0",
        "checkpoint.every=1",
        *(
            f"stage.{number}.{key}={value}"
            for number, (steps, hops) in enumerate(stages)
            for key, value in
            {"steps": steps, "hops": hops, "groups": 2, "group_size": 3}.items()
        ),
        *size.more,
    ]  # fmt: skip


def make_model(size: Size, recipe: Recipe, folder: Path) -> None:
    """Teach a tiny Qwen3 from the guide's conversations in each stage."""
    started = time.perf_counter()
    token = tokenizer(size.roads.vocabulary())
    model = untaught(token)
    with tempfile.TemporaryDirectory() as scratch:
        conversations = guided(recipe, Path(scratch) / "run", model, token)
    teach(model, conversations, size.lessons, alike(size.roads, token))
    save_model(model.eval(), token, folder / "model")
    print(f"taught in {time.perf_counter() - started:.0f} s", flush=True)


def alike(roads: Roads, token: Any) -> list[list[int]]:
    """The ids of the towns' names, and of the words that pages are filled with."""
    names = [name for road in roads.names() for name in road]
    words = [" " + word for word in PROSE.split()]
    return [
        [token.convert_tokens_to_ids(token.tokenize(text)[0]) for text in kind]
        for kind in (names, words)
    ]


def guided(recipe: Recipe, folder: Path, model: Any, token: Any) -> list[Trajectory]:
    questions = load_questions(recipe.questions, recipe.seed)
    prepare_folder(recipe, folder, questions)
    setting = make_setting(recipe, folder, model, token)
    walked = []
    for stage in recipe.stage:
        environment = setting.training_environment(recipe, stage)
        asked = [q for q in questions.train if stage.hops and q.hop_type in stage.hops]
        requests = [EpisodeRequest(q, Sampling(), seed) for q in asked for seed in range(4)]
        guide = Guide(environment.dialogue, stage.context)
        limits = Limits(stage.context, stage.turns, stage.turn_tokens)
        walked += asyncio.run(run_episodes(requests, environment, guide, limits))
    return walked


def step_figures(run: WatchedRun, record: dict[str, Any]) -> dict[str, Any]:
    conversations = run.trajectories(record["step"])
    calls = [sum(len(turn["calls"]) for turn in c["turns"]) for c in conversations]
    return {
        "step": record["step"],
        "stage": record["stage"],
        "tokens": sorted(len(conversation["token_ids"]) for conversation in conversations),
        "most_calls": max(calls),
        "answered": record["stops"].get("answered", 0.0),
        "correct": record["correct"],
        "groups_trained": record["groups"]["trained"],
        "tokens_learned_from": record["learner"]["packed_from"] if record["learner"] else 0,
        "rollout_seconds": record["seconds"]["rollout"],
        "learner_seconds": record["seconds"]["learner"],
        "peak_mb": run.peaks[record["step"]] / 1e6,
    }


def show(figures: dict[str, Any]) -> None:
    print(f"{'step':>4} {'stage':10}{'longest':>8}{'calls':>6}{'answered':>9}{'right':>6}"
          f"{'groups':>7}{'rollouts, s':>12}{'learner, s':>11}{'peak, MB':>9}")  # fmt: skip
    for row in figures["steps"]:
        print(
            f"{row['step']:4} {row['stage']:10}{row['tokens'][-1]:8,}{row['most_calls']:6}"
            f"{row['answered']:9.0%}{row['correct']:6.0%}{row['groups_trained']:7}"
            f"{row['rollout_seconds']:12.0f}{row['learner_seconds']:11.0f}{row['peak_mb']:9.0f}"
        )
    print(
        f"{figures['minutes']:.1f} minutes. Killed {figures['killed']}, and resumed: the same bits."
    )


if __name__ == "__main__":
    main()
