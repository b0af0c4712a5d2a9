"""The plan's estimate of memory against measured peaks, each in a process of its own.

    python benchmarks/plan_memory.py [CASE ...]

A case takes two whole steps with the engine and the learner that training uses: conversations that
fill their context, all of them open at the same time; then micro-batches as large as they get.
What is compared is the second step's peak of resident memory, in both of its moments. Linux only:
the peak is reset between the two through /proc.
"""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from results import save
from transformers import AutoModelForCausalLM, PretrainedConfig

from nanoscout import memory as system_memory
from nanoscout.engine.protocol import Sampling
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.models.load import load_config, load_model
from nanoscout.models.lora import add_adapters
from nanoscout.planning.memory import Estimator
from nanoscout.recipe import Recipe
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Sample

SAMPLED = 8
"""Tokens sampled in each conversation."""
SMOL = {"model": {"source": "smollm2-135m-instruct"}}
WIDE = {"model": {"source": "tiny:qwen3"}}
WIDER = {"hidden_size": 512, "intermediate_size": 1_536, "num_hidden_layers": 12, "head_dim": 64,
         "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 32_000}  # fmt: skip
"""What makes the tiny Qwen3 one of 52 M parameters."""


def case(
    recipe: dict[str, Any], conversations: int, context: int, batch: int, **more: Any
) -> Recipe:
    """`batch`: tokens of a micro-batch; `more`: further sections of the recipe."""
    optimiser = {"microbatch_tokens": batch} | more.pop("optimiser", {})
    model = recipe["model"] | {"device": "cpu"} | more.pop("model", {})
    stage = {"name": "measured", "steps": 2, "context": context}
    return Recipe.model_validate(
        {"name": "measured", "engine": {"concurrency": conversations}, "optimiser": optimiser,
         "model": model, "stage": [stage], "evaluation": {"context": context}, **more}
    )  # fmt: skip


CHECKPOINTED = {"optimiser": {"checkpoint_layers": True}}
CASES = {
    "smollm2": case(SMOL, 16, 768, 768),
    "smollm2, larger micro-batches": case(SMOL, 16, 768, 1_536),
    "smollm2, 64 conversations": case(SMOL, 64, 1_024, 512),
    "smollm2, int8 moments": case(SMOL, 16, 768, 768, optimiser={"state": "int8"}),
    "smollm2, layer checkpoints": case(SMOL, 16, 1_024, 2_048, **CHECKPOINTED),
    "smollm2, LoRA": case(SMOL, 16, 768, 1_536, lora={}),
    "smollm2, LoRA, layer checkpoints": case(SMOL, 16, 1_024, 2_048, lora={}, **CHECKPOINTED),
    "smollm2, KL": case(SMOL, 16, 768, 768, objective={"kl": 0.01}),
    "smollm2, long": case(SMOL, 2, 6_144, 2_048, **CHECKPOINTED),
    "wide qwen3": case(WIDE, 16, 1_024, 1_024),
    "wide qwen3, float32": case(WIDE, 16, 1_024, 1_024, model={"dtype": "float32"}),
    "wide qwen3, long": case(WIDE, 4, 6_144, 2_048, **CHECKPOINTED),
}


def config_of(recipe: Recipe) -> PretrainedConfig:
    config = load_config(recipe.model.source)
    if recipe.model.source == "tiny:qwen3":
        for name, value in WIDER.items():
            setattr(config, name, value)
        config.layer_types = ["full_attention"] * config.num_hidden_layers
    return config


def model_of(recipe: Recipe) -> Any:
    if recipe.optimiser.checkpoint_layers:  # As in a run.
        system_memory.keep_few_products()
    if recipe.model.source == "tiny:qwen3":
        dtype = getattr(torch, recipe.model.dtype)
        model = AutoModelForCausalLM.from_config(config_of(recipe), dtype=dtype).eval()
    else:
        model, _ = load_model(recipe.model)
    if recipe.lora:
        add_adapters(model, recipe.lora, seed=0)
    return model


def peak() -> int:
    """Bytes: the most that was resident since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def reset_peak() -> None:
    system_memory.trim()
    Path("/proc/self/clear_refs").write_text("5")


def measure(recipe: Recipe) -> dict[str, int]:
    """The second step's peaks."""
    model = model_of(recipe)
    context, conversations = recipe.stage[0].context, recipe.engine.concurrency
    engine = TorchEngine(model, concurrency=conversations, context=context)
    learner = Learner(model, recipe.optimiser, recipe.objective)
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(5, model.config.vocab_size) for _ in range(count)]

    given = tokens(context - SAMPLED)  # alike, so that the engine computes them once

    async def roll_out() -> None:
        everyone = asyncio.Barrier(conversations)

        async def converse(number: int) -> None:
            conversation = engine.conversation(number)
            await conversation.generate(given, Sampling(max_tokens=SAMPLED))
            await everyone.wait()  # so that all are open at the same time
            conversation.close()

        await asyncio.gather(*(converse(number) for number in range(conversations)))

    sampled = context // 4
    flags = [False] * (context - sampled) + [True] * sampled
    samples = [
        Sample(tokens(context), flags, [-1.0] * context, 1.0 if number % 2 else -1.0)
        for number in range(2 * max(1, recipe.optimiser.microbatch_tokens // context))
    ]
    figures = {}
    for _ in range(2):
        engine.forget()
        reset_peak()
        asyncio.run(roll_out())
        figures["rolling_out"] = peak()
        reset_peak()
        learner.step(samples)
        figures["learning"] = peak()
        engine.weights_changed()
    return figures


def compare(name: str) -> dict[str, float]:
    """Both moments in MB, measured and estimated, and the estimate's error in the larger one."""
    command = [sys.executable, __file__, "--measure", name]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(child.stdout)
    estimate = Estimator(config_of(CASES[name]), "cpu").memory(CASES[name])
    return {
        "measured rolling out": measured["rolling_out"] / 1e6,
        "estimated rolling out": estimate.rolling_out / 1e6,
        "measured learning": measured["learning"] / 1e6,
        "estimated learning": estimate.learning / 1e6,
        "error": estimate.peak / max(measured.values()) - 1,
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(CASES[sys.argv[2]])))
        return
    print(f"{'peak, MB':34}{'rolling out':>13}{'plan':>7}{'learning':>10}{'plan':>7}{'error':>8}")
    for name in sys.argv[1:] or CASES:
        row = compare(name)
        *sizes, error = row.values()
        print("{:34}{:13.0f}{:7.0f}{:10.0f}{:7.0f}{:8.1%}".format(name, *sizes, error), flush=True)
        save(name, row, "plan")


if __name__ == "__main__":
    main()
