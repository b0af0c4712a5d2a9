"""Transformers' own generation over the rollouts' work; run in a peer's environment.

`generate` has the dynamic cache, and the best of it: a turn is one batch of all conversations, left
padded, and what is cached is kept for the next turn, with a mask over the padding in between. All
wait for the longest turn of a batch; conversations that are over leave it.
`continuous` is transformers' continuous batching: a conversation's next turn is a new request with
everything so far, put in as soon as its last one is there; the paged cache shares prefixes.

    peer_transformers.py MODEL DTYPE generate|continuous
"""

import sys
import time

import torch
import transformers
from peer_protocol import Job, serve
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
)

Work = list[list[tuple[list[int], int]]]


class Generate:
    settings = "dynamic cache kept between turns, sdpa, no log-probabilities asked for"

    def __init__(self, model: PreTrainedModel):
        self.model = model
        # What the request's own configuration leaves open is taken from the model's.
        model.generation_config.eos_token_id = None

    @torch.no_grad()
    def run(self, work: Work, greedy: bool) -> list[list[int]]:
        sampled: list[list[int]] = [[] for _ in work]
        alive = list(range(len(work)))
        cache = DynamicCache(config=self.model.config)
        ids = torch.zeros(len(work), 0, dtype=torch.long)
        mask = torch.zeros(len(work), 0, dtype=torch.long)
        for turn in range(max(map(len, work))):
            rows = [row for row, number in enumerate(alive) if turn < len(work[number])]
            if len(rows) < len(alive):
                alive = [alive[row] for row in rows]
                ids, mask = ids[rows], mask[rows]
                cache.batch_select_indices(torch.tensor(rows))
            given = [work[number][turn][0] for number in alive]
            counts = torch.tensor([work[number][turn][1] for number in alive])
            width = max(map(len, given))
            padded = torch.tensor([[0] * (width - len(row)) + row for row in given])
            real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in given])
            ids, mask = torch.cat([ids, padded], 1), torch.cat([mask, real], 1)
            most = int(counts.max())
            out = self.model.generate(
                ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=GenerationConfig(
                    max_new_tokens=most,
                    do_sample=not greedy,
                    top_k=0,
                    top_p=1.0,
                    pad_token_id=0,
                ),
            )
            new = out[:, ids.shape[1] :]
            for number, row, count in zip(alive, new.tolist(), counts.tolist(), strict=True):
                sampled[number] += row[:count]
            ids = out
            mask = torch.cat([mask, (torch.arange(most) < counts[:, None]).long()], 1)
        return sampled


class Continuous:
    settings = "page size 32, up to 1024 tokens a batch, block sharing, paged sdpa"

    def __init__(self, model: torch.nn.Module):
        self.model = model

    def run(self, work: Work, greedy: bool) -> list[list[int]]:
        longest = max(sum(len(given) + count for given, count in turns) for turns in work)
        page = 32
        sampled: list[list[int]] = [[] for _ in work]
        history: list[list[int]] = [[] for _ in work]
        turn = [0] * len(work)
        owner: dict[str, int] = {}
        manager = self.model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=not greedy, top_k=0, top_p=1.0, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=page,
                num_blocks=(len(work) + 1) * (longest // page + 2),
                max_batch_tokens=1024,
                max_requests_per_batch=len(work),
            ),
        )
        manager.start()

        def submit(number: int) -> None:
            given, count = work[number][turn[number]]
            history[number] += given
            request = manager.add_request(history[number], max_new_tokens=count)
            owner[request] = number

        try:
            for number in range(len(work)):
                submit(number)
            left = len(work)
            while left:
                result = manager.get_result(timeout=1)
                if result is None:
                    if not manager.is_running():
                        raise RuntimeError("continuous batching stopped")
                    continue
                if result.error:
                    raise RuntimeError(result.error)
                if not result.is_finished():
                    continue
                number = owner.pop(result.request_id)
                sampled[number] += result.generated_tokens
                history[number] += result.generated_tokens
                turn[number] += 1
                if turn[number] < len(work[number]):
                    submit(number)
                else:
                    left -= 1
        finally:
            manager.stop(block=True, timeout=10)
        return sampled


def prepare() -> tuple[Job, object]:
    folder, dtype, way = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    engine = {"generate": Generate, "continuous": Continuous}[way](model)
    about = {"version": transformers.__version__, "settings": engine.settings}

    def work(job: Job) -> Job:
        started = time.perf_counter()
        tokens = engine.run(job["work"], job["greedy"])
        return {"seconds": time.perf_counter() - started, "tokens": tokens}

    return about, work


if __name__ == "__main__":
    serve(prepare)
