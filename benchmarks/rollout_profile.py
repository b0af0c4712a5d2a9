"""Where our rollouts' time goes: by part of the engine, and by operation.

    python benchmarks/rollout_profile.py [--conversations 32] [--operations 20]

The work is that of rollouts.py. Parts are measured without the profiler, operations with it.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollouts import ours
from torch.profiler import ProfilerActivity, profile
from work import Turn, conversations, open_world, sampled_tokens

from nanoscout.engine.cached_attention import CachedAttention
from nanoscout.engine.compiled_attention import CompiledAttention
from nanoscout.engine.kernels import Kernels
from nanoscout.engine.packed_linear import PackedLinear
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.models import load_model
from nanoscout.recipe import ModelSpec

PARTS = {
    "linear layers": (PackedLinear, "forward"),
    "attention in C": (CompiledAttention, "attend"),  # In C where there is a compiler, or by torch.
    "attention by torch": (CachedAttention, "attend"),
    "norms in C": (Kernels, "normalise"),
    "head and draw": (TorchEngine, "_sample"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=ModelSpec().source)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--operations", type=int, default=20)
    options = parser.parse_args()

    model, tokenizer = load_model(ModelSpec(source=options.model, dtype=options.dtype))
    with tempfile.TemporaryDirectory() as folder:
        work = conversations(open_world(Path(folder), model, tokenizer), options.conversations)
    ours(model, [[Turn(list(range(10)), 3)]] * 2, greedy=False)  # Warm-up.
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        ours(model, work, greedy=False)
    table = profiled.key_averages().table("self_cpu_time_total", row_limit=options.operations)
    print(table)

    spent: dict[str, float] = defaultdict(float)
    for part, (owner, name) in PARTS.items():
        setattr(owner, name, _timed(getattr(owner, name), part, spent))
    seconds, _, stats = ours(model, work, greedy=False)
    print(
        f"{seconds:.1f} s, {sampled_tokens(work) / seconds:.0f} sampled tokens a second, "
        f"{stats.prefilled_tokens:,} tokens of prompts and results computed"
    )
    for part in PARTS:
        print(f"{part:20}{spent[part]:6.1f} s {spent[part] / seconds:5.0%}")


def _timed(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        spent[part] += time.perf_counter() - started
        return result

    return timed


if __name__ == "__main__":
    main()
