"""Seconds of one optimiser step on the same trajectories: ours, ours unshared, TRL's.

    python benchmarks/learner.py [--rounds 5] [--who ours "TRL 1.16"] [--add]

The trajectories are what the untrained model samples in the quickstart's world: 4 questions, 8
rollouts each. They are kept in benchmarks/out/ for further runs. Every one has an advantage, so
that all of them are learned from; old log-probabilities, clipping, loss and optimiser (AdamW) are
the same. `ours, nothing shared` runs one trajectory after the other through the same learner;
gradients.py compares the gradients of the two.
"""

import asyncio
import json
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from comparison import OURS, Comparison, comparison_options
from flops import forward_flops, peak_flops
from peers import PeerMissing, open_peer
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from work import open_world

from nanoscout.engine.protocol import Sampling
from nanoscout.models import load_model, save_model
from nanoscout.recipe import ModelSpec, ObjectiveSpec, OptimiserSpec
from nanoscout.rlvr.advantage import group_advantages
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import PackedBatch, Sample
from nanoscout.rollout.episode import Limits
from nanoscout.rollout.rollout import EpisodeRequest, run_episodes

UNSHARED, TRL = "ours, nothing shared", "TRL 1.16"
QUESTIONS, GROUP = 4, 8
CASE = "optimiser step on 32 trajectories"
LR = 1e-6


def main() -> None:
    parser = comparison_options(__doc__, 5, [OURS, UNSHARED, TRL])
    parser.add_argument("--rows", type=int, default=8, help="TRL's micro-batch")
    options = parser.parse_args()

    model, tokenizer = load_model(ModelSpec(source=options.model, dtype=options.dtype))
    comparison = Comparison("learner", options.results, add=options.add, first=options.first)
    kept = options.results.parent / "out" / f"trajectories-{options.model.replace('/', '-')}.json"
    optimiser, banned_ids, samples = trajectories(kept, model, tokenizer)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        trl = None
        if TRL in options.who:
            save_model(model, tokenizer, folder / "model")
            settings = folder / "settings.json"
            longest = max(len(sample.token_ids) for sample in samples)
            settings.write_text(
                json.dumps(
                    {
                        "trajectories": len(samples),
                        "group": GROUP,
                        "lr": LR,
                        "completion_tokens": longest,
                    }
                )
            )
            arguments = [str(folder / "model"), options.dtype, str(options.rows), str(settings)]
            try:
                trl = stack.enter_context(
                    open_peer("trl", "peer_trl.py", ["learner", *arguments], folder=options.peers)
                )
                comparison.about(TRL, **trl.about)
            except PeerMissing as missing:
                comparison.missing(TRL, str(missing))
        learner = Learner(model, optimiser, ObjectiveSpec(), banned_ids)
        comparison.about(
            OURS,
            settings=f"{optimiser.microbatch_tokens} tokens a micro-batch, float32 masters, "
            f"{torch.get_num_threads()} threads",
        )
        batch = learner.pack(samples)
        work = model_flops(model, batch)
        peak = peak_flops(model.dtype)
        for number in range(options.rounds):
            for who in options.who:
                extra: dict[str, float] = {}
                if who == OURS:
                    peak = max(peak, peak_flops(model.dtype))
                    started = time.perf_counter()
                    stats = learner.step(samples)
                    seconds = time.perf_counter() - started
                    assert stats
                    extra = {
                        "share_of_peak": work / seconds / peak,
                        "gflops": work / seconds / 1e9,
                        "computed_tokens": stats.computed_tokens,
                        "loss": stats.loss,
                    }
                elif who == UNSHARED:
                    seconds = unshared(learner, samples)
                elif trl:
                    try:
                        answer = trl.ask(samples=[asdict(sample) for sample in samples])
                    except PeerMissing as missing:
                        comparison.missing(TRL, str(missing))
                        trl = None
                        continue
                    seconds, extra = answer["seconds"], {"loss": answer["loss"]}
                else:
                    continue
                comparison.add(number, who, CASE, seconds, **extra)
            comparison.save(
                work={
                    "trajectories": len(samples),
                    "tokens_end_to_end": batch.packed_from,
                    "sampled_tokens": batch.total_tokens,
                },
                peak_gflops=peak / 1e9,
                dtype=options.dtype,
            )


def trajectories(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[OptimiserSpec, list[int], list[Sample]]:
    """The quickstart's optimiser and banned tokens, and the samples that `path` keeps, or new ones.

    Rewards are random, so that every group has a signal.
    """
    with tempfile.TemporaryDirectory() as folder:
        world = open_world(Path(folder), model, tokenizer)
        optimiser = world.recipe.optimiser.model_copy(update={"lr": LR, "warmup_steps": 0})
        banned_ids = sorted(world.setting.environment.dialogue.banned_ids)
        if path.exists():
            return (
                optimiser,
                banned_ids,
                [Sample(**entry) for entry in json.loads(path.read_text())],
            )
        stage = world.recipe.stage[0]
        requests = [
            EpisodeRequest(world.questions[index // GROUP], Sampling(), seed=index)
            for index in range(QUESTIONS * GROUP)
        ]
        done = asyncio.run(
            run_episodes(
                requests,
                world.setting.environment,
                world.setting.engine,
                Limits(stage.context, stage.turns, stage.turn_tokens, stage.malformed_turns),
            )
        )
    rng = random.Random(0)
    samples = []
    for start in range(0, len(done), GROUP):
        advantages = group_advantages([rng.random() for _ in range(GROUP)]).tolist()
        for trajectory, advantage in zip(done[start : start + GROUP], advantages, strict=True):
            samples.append(
                Sample(trajectory.token_ids, trajectory.sampled, trajectory.logprobs, advantage)
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(sample) for sample in samples]))
    return optimiser, banned_ids, samples


def unshared(learner: Learner, samples: list[Sample]) -> float:
    """Seconds of the same step with every trajectory on its own."""
    started = time.perf_counter()
    for sample in samples:
        learner.accumulate_gradients(learner.pack([sample]), 1.0)
    learner.optimiser.step(LR)
    return time.perf_counter() - started


def model_flops(model: PreTrainedModel, batch: PackedBatch) -> float:
    """Of a step on a packed batch, forward and backward."""
    attended = list(range(1, len(batch.prefix_ids) + 1))
    heads = 0
    for micro_batch in batch.micro_batches:
        attended += (micro_batch.positions + 1).tolist()
        heads += len(micro_batch.predictors)
    return 3 * forward_flops(model, attended, heads)


if __name__ == "__main__":
    main()
