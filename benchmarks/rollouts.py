"""Generated tokens a second of concurrent search conversations: ours and the peers', in one run.

    python benchmarks/rollouts.py [--conversations 32 64] [--rounds 5] [--who ours vllm] [--add]

The work (work.py) is the same tokens for everyone; all must have sampled equally many. Before a
sample of it is checked: greedy and in float32, ours and transformers must choose the same tokens.
Peers have caches of their own kind, and everyone begins each round with nothing cached.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from comparison import OURS, Comparison, comparison_options
from flops import forward_flops, peak_flops
from peers import Peer, PeerMissing, open_peer
from transformers import PreTrainedModel
from work import Turn, conversations, longest, open_world, sampled_tokens

from nanoscout.engine.protocol import Sampling
from nanoscout.engine.torch_engine import EngineStats, TorchEngine
from nanoscout.models import load_model, save_model
from nanoscout.models.load import locate
from nanoscout.recipe import ModelSpec
from nanoscout.rlvr.packing import common_prefix

PEERS = {
    "vllm": ("vllm", "peer_vllm.py", ()),
    "transformers generate": ("trl", "peer_transformers.py", ("generate",)),
    "transformers continuous batching": ("trl", "peer_transformers.py", ("continuous",)),
}
VLLM_ROWS, VLLM_CONTEXT = 64, 2048
"""Always the same, for what it compiles (minutes) depends on them."""
CHECKED, CHECKED_TOKENS = 4, 12
"""Conversations of the check, and tokens sampled in each of their turns."""


def main() -> None:
    parser = comparison_options(__doc__, 5, [OURS, *PEERS])
    parser.add_argument("--conversations", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--no-check", action="store_true", help="leave out the greedy check")
    options = parser.parse_args()

    model, tokenizer = load_model(ModelSpec(source=options.model, dtype=options.dtype))
    comparison = Comparison("rollouts", options.results, add=options.add, first=options.first)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        if options.model.startswith("tiny:"):
            save_model(model, tokenizer, folder / "model")
            model_folder = str(folder / "model")
        else:  # vLLM compiles anew for every path
            model_folder = locate(options.model)[0]
        world = open_world(folder, model, tokenizer)
        works = {count: conversations(world, count) for count in options.conversations}
        comparison.about(OURS, settings=f"TorchEngine, {torch.get_num_threads()} threads")
        warm_up = [[Turn(list(range(10)), 3)]] * 2
        ours(model, warm_up, greedy=False)
        peers: dict[str, Peer] = {}
        for who in options.who:
            if who != OURS:
                environment, script, more = PEERS[who]
                if environment == "vllm":
                    more = (str(max(VLLM_ROWS, *works)), str(VLLM_CONTEXT))
                arguments = [model_folder, options.dtype, *more]
                try:
                    peers[who] = stack.enter_context(
                        open_peer(environment, script, arguments, folder=options.peers)
                    )
                    comparison.about(who, **peers[who].about)
                    peers[who].ask(work=_plain(warm_up), greedy=False)
                except PeerMissing as missing:
                    peers.pop(who, None)
                    comparison.missing(who, str(missing))
        agreement = {} if options.no_check else check(model, works, peers)
        peak = peak_flops(model.dtype)
        for number in range(options.rounds):
            for count, work in works.items():
                tokens = sampled_tokens(work)
                case = f"{count} conversations"
                for who in options.who:
                    if who == OURS:
                        seconds, sampled, stats = ours(model, work, greedy=False)
                        peak = max(peak, peak_flops(model.dtype))
                        done = flops(model, work, stats)
                        extra = {
                            "tokens_per_second": tokens / seconds,
                            "prefilled_tokens": float(stats.prefilled_tokens),
                            "share_of_peak": done / seconds / peak,
                        }
                    elif who in peers:
                        try:
                            answer = peers[who].ask(work=_plain(work), greedy=False)
                        except PeerMissing as missing:
                            peers.pop(who)
                            comparison.missing(who, str(missing))
                            continue
                        seconds, sampled = answer["seconds"], answer["tokens"]
                        extra = {"tokens_per_second": tokens / seconds}
                    else:
                        continue
                    _check_counts(who, work, sampled)
                    comparison.add(number, who, case, seconds, **extra)
                comparison.save(
                    work={
                        f"{c} conversations": {
                            "sampled_tokens": sampled_tokens(w),
                            "given_tokens": sum(len(t.given) for ts in w for t in ts),
                            "turns": sum(map(len, w)),
                        }
                        for c, w in works.items()
                    },
                    **({"greedy_agreement": agreement} if agreement else {}),
                    peak_gflops=peak / 1e9,
                    dtype=options.dtype,
                )


def ours(
    model: PreTrainedModel, work: Sequence[Sequence[Turn]], *, greedy: bool
) -> tuple[float, list[list[int]], EngineStats]:
    """Seconds, each conversation's sampled tokens, and what the engine counted."""
    engine = TorchEngine(model, concurrency=len(work), context=longest(work) + 1)
    first = [turns[0].given for turns in work]
    shared = min(common_prefix(first[0], other) for other in first)
    temperature = 0.0 if greedy else 1.0

    async def converse(seed: int, turns: Sequence[Turn]) -> list[int]:
        conversation = engine.conversation(seed)
        sampled: list[int] = []
        for turn in turns:
            sampling = Sampling(temperature=temperature, max_tokens=turn.count)
            sampled += (await conversation.generate(turn.given, sampling)).token_ids
        conversation.close()
        return sampled

    async def everyone() -> list[list[int]]:
        engine.share_prefix(first[0][: min(shared, len(first[0]) - 1)])
        return await asyncio.gather(*(converse(seed, turns) for seed, turns in enumerate(work)))

    started = time.perf_counter()
    sampled = asyncio.run(everyone())
    return time.perf_counter() - started, sampled, engine.stats


def flops(model: PreTrainedModel, work: Sequence[Sequence[Turn]], stats: EngineStats) -> float:
    """Of what our engine computed; tokens that it shared count once, by their share of all."""
    attended = []
    for turns in work:
        length = sum(len(turn.given) + turn.count for turn in turns)
        attended += list(range(1, length))
    tokens = sampled_tokens(work)
    everything = forward_flops(model, attended, tokens)
    linear = forward_flops(model, [0] * len(attended), 0)
    computed = stats.prefilled_tokens + stats.sampled_tokens
    return everything - linear * (1.0 - min(1.0, computed / len(attended)))


def check(
    model: PreTrainedModel, works: dict[int, list[list[Turn]]], peers: dict[str, Peer]
) -> dict[str, Any]:
    """Greedy, a sample of the work: the share of conversations in which a peer chose our tokens.

    In the model's own precision near ties fall either way, so the first token that differs ends
    what can be compared: given is the share of tokens before it, too.
    """
    some = min(works.values(), key=len)[:: max(1, len(min(works.values(), key=len)) // CHECKED)]
    sample = [[Turn(turn.given, CHECKED_TOKENS) for turn in turns[:2]] for turns in some[:CHECKED]]
    _, mine, _ = ours(model, sample, greedy=True)
    shares = {}
    for who, peer in peers.items():
        theirs = peer.ask(work=_plain(sample), greedy=True)["tokens"]
        common = [common_prefix(a, b) / len(a) for a, b in zip(mine, theirs, strict=True)]
        shares[who] = statistics.mean(common)
        print(f"greedy check: {who} chose our tokens up to {shares[who]:.0%}", flush=True)
    return shares


def _check_counts(who: str, work: list[list[Turn]], sampled: list[list[int]]) -> None:
    wanted = [sum(turn.count for turn in turns) for turns in work]
    if [len(ids) for ids in sampled] != wanted:
        raise SystemExit(f"{who} did not sample as many tokens as it was to")


def _plain(work: Sequence[Sequence[Turn]]) -> list[list[tuple[list[int], int]]]:
    """The work as JSON."""
    return [[(turn.given, turn.count) for turn in turns] for turns in work]


if __name__ == "__main__":
    main()
