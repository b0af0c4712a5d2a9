"""vLLM's CPU build over the rollouts' work; run in a peer's environment.

A conversation's next turn is a new request with everything so far, put in as soon as its last one
is there; prefix caching finds what is cached already. Log-probabilities of the sampled tokens are
asked for, as learning needs them.

    peer_vllm.py MODEL DTYPE CONVERSATIONS CONTEXT
"""

import os
import sys
import time

# In this process, so that no second one fights for the cores.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import vllm
from peer_protocol import Job, serve

Work = list[list[tuple[list[int], int]]]
BATCH_TOKENS = 2048


def run(llm: vllm.LLM, work: Work, greedy: bool) -> list[list[int]]:
    engine = llm.llm_engine
    sampled: list[list[int]] = [[] for _ in work]
    history: list[list[int]] = [[] for _ in work]
    turn = [0] * len(work)

    def submit(number: int) -> None:
        given, count = work[number][turn[number]]
        history[number] += given
        engine.add_request(
            f"{number}.{turn[number]}",
            {"prompt_token_ids": list(history[number])},
            vllm.SamplingParams(
                max_tokens=count,
                ignore_eos=True,
                temperature=0.0 if greedy else 1.0,
                logprobs=0,
                detokenize=False,
            ),
        )

    for number in range(len(work)):
        submit(number)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                number = int(output.request_id.split(".")[0])
                ids = list(output.outputs[0].token_ids)
                sampled[number] += ids
                history[number] += ids
                turn[number] += 1
                if turn[number] < len(work[number]):
                    submit(number)
    return sampled


def prepare() -> tuple[Job, object]:
    folder, dtype, conversations, context = sys.argv[1:]
    llm = vllm.LLM(
        folder,
        dtype=dtype,
        skip_tokenizer_init=True,
        max_num_seqs=int(conversations),
        max_model_len=int(context),
        max_num_batched_tokens=max(BATCH_TOKENS, int(conversations)),
        enable_prefix_caching=True,
        disable_log_stats=True,
        enforce_eager=bool(os.environ.get("EAGER")),
    )
    about = {
        "version": vllm.__version__,
        "settings": f"compiled, prefix caching, {BATCH_TOKENS} tokens a batch, "
        "one process, both cores, log-probabilities of sampled tokens",
    }

    def work(job: Job) -> Job:
        llm.reset_prefix_cache()
        started = time.perf_counter()
        tokens = run(llm, job["work"], job["greedy"])
        return {"seconds": time.perf_counter() - started, "tokens": tokens}

    return about, work


if __name__ == "__main__":
    serve(prepare)
