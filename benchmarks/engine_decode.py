"""Tokens per second of the torch engine and of transformers' own generate, in one run.

    python benchmarks/engine_decode.py [--conversations 64] [--tokens 32] [--prefix 550]

The load is that of a training step: groups of 8 rollouts ask the same question, and all of them
begin with the same worked examples. Transformers gets the prompts as one batch, which is the best
case for it. Prompts are random tokens, and no token ends a turn, so both sample equally many.
"""

import argparse
import asyncio
import json
import random
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from nanoscout.engine.protocol import Sampling
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.models.load import load_model
from nanoscout.recipe import ModelSpec

GROUP = 8
QUESTION = 40


class Clock(StoppingCriteria):
    """Never stops anything; notes when each token was there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def ours(
    model: PreTrainedModel, prefix: list[int], questions: list[list[int]], count: int
) -> tuple[float, float]:
    """Seconds to the first token of all conversations, and for the `count` - 1 after it."""
    longest = len(prefix) + max(map(len, questions)) + count
    engine = TorchEngine(model, concurrency=len(questions), context=longest)

    async def main() -> tuple[float, float]:
        engine.share_prefix(prefix)
        open_ones = [engine.conversation(seed) for seed in range(len(questions))]
        started = time.perf_counter()
        await asyncio.gather(
            *(
                conversation.generate(prefix + question, Sampling(max_tokens=1))
                for conversation, question in zip(open_ones, questions, strict=True)
            )
        )
        first = time.perf_counter()
        await asyncio.gather(
            *(
                conversation.generate([], Sampling(max_tokens=count - 1))
                for conversation in open_ones
            )
        )
        return first - started, time.perf_counter() - first

    return asyncio.run(main())


@torch.no_grad()
def transformers_generate(
    model: PreTrainedModel, prefix: list[int], questions: list[list[int]], count: int
) -> tuple[float, float]:
    """The same of transformers' generate."""
    model.set_attn_implementation("sdpa")
    model.generation_config.eos_token_id = None
    prompts = torch.tensor([prefix + question for question in questions], device=model.device)
    clock = Clock()
    started = time.perf_counter()
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=count,
        do_sample=True,
        top_k=0,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    return clock.times[0] - started, clock.times[-1] - clock.times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=ModelSpec().source)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32, help="sampled in each, 2 at least")
    parser.add_argument("--prefix", type=int, default=550, help="tokens that all begin with")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/engine_decode.json"))
    options = parser.parse_args()

    model, _ = load_model(ModelSpec(source=options.model))
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(model.config.vocab_size) for _ in range(count)]

    prefix = tokens(options.prefix)
    groups = [tokens(QUESTION) for _ in range(-(-options.conversations // GROUP))]
    questions = [groups[index // GROUP] for index in range(options.conversations)]
    sampled = options.conversations * options.tokens
    rows = []
    for name, measure in (("nanoscout", ours), ("transformers", transformers_generate)):
        measure(model, prefix[:10], questions[:GROUP], 3)  # Warm-up.
        prompt_seconds, decode_seconds = measure(model, prefix, questions, options.tokens)
        rows.append(
            {
                "engine": name,
                "prompt_seconds": prompt_seconds,
                "decode_tokens_per_second": (sampled - options.conversations) / decode_seconds,
                "tokens_per_second": sampled / (prompt_seconds + decode_seconds),
            }
        )
    print(f"{'engine':14}{'prompts, s':>12}{'decode, tokens/s':>18}{'all, tokens/s':>15}")
    for row in rows:
        print(
            f"{row['engine']:14}{row['prompt_seconds']:12.1f}"
            f"{row['decode_tokens_per_second']:18.0f}{row['tokens_per_second']:15.0f}"
        )
    load = {key: value for key, value in vars(options).items() if key != "json"}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({"load": load, "threads": torch.get_num_threads(), "engines": rows}, indent=2)
    )


if __name__ == "__main__":
    main()
