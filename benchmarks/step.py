"""A whole step with a search tool, rollouts to update: ours, and TRL's GRPOTrainer's.

    python benchmarks/step.py [--rounds 5] [--who ours "TRL 1.16"] [--add]

The same model, prompts, questions, tool and limits: 4 questions of the quickstart's world, 8
rollouts each, three turns of at most 56 tokens, temperature 1. Every group learns on both sides
(the reward is shortness), so that ours gains nothing from dropping groups without a signal; but so
little that no round has shorter answers for it. What the model samples differs by chance: how many
tokens is noted.
"""

import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from comparison import OURS, Comparison, comparison_options
from peers import PeerMissing, open_peer
from work import World, open_world

from nanoscout.engine.protocol import Sampling
from nanoscout.models import load_model, save_model
from nanoscout.recipe import ModelSpec, ObjectiveSpec
from nanoscout.rlvr.advantage import group_advantages
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Sample
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes
from nanoscout.tools.search_tools import WebSearch
from nanoscout.tools.toolbox import Toolbox

TRL = "TRL 1.16"
QUESTIONS, GROUP = 4, 8
TURNS, TURN_TOKENS, COMPLETION_TOKENS = 3, 56, 512
LR = 1e-12
CASE = "step of 32 rollouts"
SYSTEM = "dialogue.system=Find the answer with the tool web_search."


def main() -> None:
    parser = comparison_options(__doc__, 5, [OURS, TRL])
    parser.add_argument("--rows", type=int, default=8, help="TRL's micro-batch")
    options = parser.parse_args()

    model, tokenizer = load_model(ModelSpec(source=options.model, dtype=options.dtype))
    comparison = Comparison("step", options.results, add=options.add, first=options.first)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        world = open_world(folder, model, tokenizer, SYSTEM)
        prompts = [
            world.setting.environment.prompt_ids(question)
            for question in world.questions[:QUESTIONS]
        ]
        comparison.about(OURS, settings=f"the quickstart's, {torch.get_num_threads()} threads")
        trl = None
        if TRL in options.who:
            save_model(model, tokenizer, folder / "model")
            (folder / "settings.json").write_text(json.dumps(trl_settings(world, folder)))
            arguments = [options.dtype, str(options.rows), str(folder / "settings.json")]
            try:
                trl = stack.enter_context(
                    open_peer(
                        "trl",
                        "peer_trl.py",
                        ["step", str(folder / "model"), *arguments],
                        folder=options.peers,
                    )
                )
                if trl.about.pop("prompt_ids") != prompts:
                    raise SystemExit("TRL's prompts are not ours, token for token")
                comparison.about(TRL, **trl.about)
            except PeerMissing as missing:
                comparison.missing(TRL, str(missing))
        optimiser = world.recipe.optimiser.model_copy(update={"lr": LR})
        learner = Learner(model, optimiser, ObjectiveSpec())
        for number in range(options.rounds):
            for who in options.who:
                if who == OURS:
                    seconds, figures = our_step(world, learner, seed=number, prompts=prompts)
                elif trl:
                    try:
                        figures = trl.ask(seed=number)
                    except PeerMissing as missing:
                        comparison.missing(TRL, str(missing))
                        trl = None
                        continue
                    seconds = figures.pop("seconds")
                else:
                    continue
                comparison.add(number, who, CASE, seconds, **figures)
            comparison.save(dtype=options.dtype)


def our_step(
    world: World, learner: Learner, *, seed: int, prompts: list[list[int]]
) -> tuple[float, dict[str, float]]:
    setting = world.setting
    spec = world.recipe.search
    tool = WebSearch(setting.search, spec.results)
    environment = replace(setting.environment, toolbox=Toolbox([tool]))
    requests = [
        EpisodeRequest(world.questions[index // GROUP], Sampling(), seed=1000 * seed + index)
        for index in range(QUESTIONS * GROUP)
    ]
    context = min(map(len, prompts)) + COMPLETION_TOKENS
    limits = Limits(context, TURNS, TURN_TOKENS, malformed_turns=0)
    started = time.perf_counter()
    setting.engine.forget()
    done = asyncio.run(run_episodes(requests, environment, setting.engine, limits))
    collected = time.perf_counter()
    samples = []
    for start in range(0, len(done), GROUP):
        group = done[start : start + GROUP]
        rewards = [-float(len(t.token_ids)) for t in group]
        for trajectory, advantage in zip(group, group_advantages(rewards).tolist(), strict=True):
            samples.append(
                Sample(trajectory.token_ids, trajectory.sampled, trajectory.logprobs, advantage)
            )
    learner.step(samples)
    setting.engine.weights_changed()
    ended = time.perf_counter()
    return ended - started, {
        "sampled_tokens": float(sum(t.sampled_tokens for t in done)),
        "calls": float(sum(len(t.calls) for t in done)),
        "rollout_seconds": collected - started,
        "learner_seconds": ended - collected,
    }


def trl_settings(world: World, folder: Path) -> dict[str, object]:
    environment, questions = world.setting.environment, world.questions[:QUESTIONS]
    shown = [message for example in environment.examples for message in example]
    system = {"role": "system", "content": environment.system}
    return {
        "prompts": [
            [system, *shown, {"role": "user", "content": question.text}] for question in questions
        ],
        "questions": [question.text for question in questions],
        "index": str(folder / "world" / "index"),
        "preview_chars": world.recipe.search.preview_chars,
        "results": world.recipe.search.results,
        "group": GROUP,
        "lr": LR,
        "temperature": 1.0,
        "turns": TURNS,
        "turn_tokens": TURN_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
    }


if __name__ == "__main__":
    main()
