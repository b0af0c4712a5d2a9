"""Time and peak memory as context, group size and number of turns grow: rollouts and learner.

    python benchmarks/growth.py [--axis context group turns] [--values 1024 40960] [--layers 3]

A point is a process of its own, so that its peak memory is its own: `rollouts` samples one group
of conversations, `learner` takes one optimiser step on it with layers checkpointed. Tokens are
random. `--layers` cuts the model: attention over 40K tokens takes a CPU minutes a layer.

 - context: one conversation of so many tokens, an eighth of it sampled, in 16 turns
 - group: so many rollouts of one question, 1,024 tokens in common, 256 of their own, in 2 turns
 - turns: 8 rollouts of so many turns, each 32 tokens sampled after 128 given ones
"""

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import RESULTS, machine

AXES = {
    "context": [1024, 2048, 4096, 8192, 16384, 40960],
    "group": [4, 8, 16, 32],
    "turns": [1, 2, 4, 8, 16],
}
LAYERS = {"context": 1, "group": 30, "turns": 30}
PARTS = ("rollouts", "learner")
BYTES_A_PARAMETER = 2 + 4 + 4 + 8
"""bfloat16 weight, float32 master and gradient, AdamW's two float32 moments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--axis", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--values", nargs="+", type=int, help="in place of an axis's own")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--layers", type=int, help="of the model's; the first ones")
    parser.add_argument("--add", action="store_true", help="keep the points that are there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are kept")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(**json.loads(options.point))))
        return
    path = options.results / "growth.json"
    points = json.loads(path.read_text())["points"] if options.add and path.exists() else []
    for axis in options.axis:
        for value in options.values or AXES[axis]:
            for part in options.part:
                point = {
                    "model": options.model,
                    "axis": axis,
                    "value": value,
                    "part": part,
                    "layers": options.layers or LAYERS[axis],
                }
                command = [sys.executable, __file__, "--point", json.dumps(point)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                figures = json.loads(done.stdout)
                points = [p for p in points if any(p[key] != point[key] for key in point)]
                points.append(point | figures)
                shown = ", ".join(f"{key} {number:,.1f}" for key, number in figures.items())
                print(f"{axis} {value}, {part}, {point['layers']} layers: {shown}", flush=True)
                keep(points, path)


def keep(points: list[dict[str, Any]], path: Path) -> None:
    everything: dict[str, Any] = {
        "ours": {
            axis: {
                part: [p for p in points if (p["axis"], p["part"]) == (axis, part)]
                for part in PARTS
            }
            for axis in AXES
        },
        "peers": {},
        "ratios": {},
        "spread": {},
        "machine": machine(),
        "points": points,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(everything, indent=1) + "\n")


def shape(axis: str, value: int) -> tuple[int, int, list[tuple[int, int]]]:
    """(rollouts, tokens in common, turns as (given, sampled))."""
    if axis == "context":
        turn = (value - value // 2) // 16
        return 1, value // 2, [(turn - turn // 4, turn // 4)] * 16
    if axis == "group":
        return value, 1024, [(96, 32)] * 2
    return 8, 512, [(128, 32)] * value


def measure(model: str, axis: str, value: int, part: str, layers: int) -> dict[str, float]:
    """Seconds and MB of one point, in this process."""
    import torch

    from nanoscout import memory
    from nanoscout.models import load_model
    from nanoscout.recipe import ModelSpec, ObjectiveSpec, OptimiserSpec

    if part == "learner":  # As a run with checkpointed layers does.
        memory.keep_few_products()
    network, _ = load_model(ModelSpec(source=model))
    network.base_model.layers = network.base_model.layers[:layers]
    network.config.num_hidden_layers = len(network.base_model.layers)
    layer_types = getattr(network.config, "layer_types", None)
    if layer_types:
        network.config.layer_types = layer_types[:layers]
    group, common, turns = shape(axis, value)
    rng = random.Random(value)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, network.config.vocab_size) for _ in range(count)]

    prompt = tokens(common)
    given = [[tokens(count) for count, _ in turns] for _ in range(group)]
    loaded = _resident_mb()
    if part == "rollouts":
        from nanoscout.engine.protocol import Sampling
        from nanoscout.engine.torch_engine import TorchEngine

        length = common + sum(map(sum, turns))
        engine = TorchEngine(network, concurrency=group, context=length + 1)

        async def converse(seed: int) -> None:
            conversation = engine.conversation(seed)
            for turn, ((_, count), new) in enumerate(zip(turns, given[seed], strict=True)):
                ids = prompt + new if turn == 0 else new
                await conversation.generate(ids, Sampling(max_tokens=count))
            conversation.close()

        async def everyone() -> None:
            engine.share_prefix(prompt[:-1])
            await asyncio.gather(*(converse(seed) for seed in range(group)))

        started = time.perf_counter()
        asyncio.run(everyone())
        seconds = time.perf_counter() - started
        sampled = group * sum(count for _, count in turns)
        return {
            "seconds": seconds,
            "tokens_per_second": sampled / seconds,
            "loaded_mb": loaded,
            "peak_mb": _peak_mb(),
        }

    from nanoscout.engine.fast_layers import quicken
    from nanoscout.rlvr.learner import Learner
    from nanoscout.rlvr.packing import Sample

    quicken(network)  # As a run's engine does.
    learner = Learner(network, OptimiserSpec(checkpoint_layers=True), ObjectiveSpec())
    samples = []
    for number, own in enumerate(given):
        ids, sampled_flags = list(prompt), [False] * common
        for (_, count), new in zip(turns, own, strict=True):
            ids += [*new, *tokens(count)]
            sampled_flags += [False] * len(new) + [True] * count
        samples.append(Sample(ids, sampled_flags, [-1.0] * len(ids), 1.0 if number % 2 else -1.0))
    started = time.perf_counter()
    stats = learner.step(samples)
    seconds = time.perf_counter() - started
    assert stats
    parameters = sum(p.numel() for p in network.parameters())
    hidden = network.config.hidden_size
    alive = max(stats.computed_tokens if group == 1 else 0, 0)
    held = alive * (hidden * 2 * layers + _layer_bytes(network))
    return {
        "seconds": seconds,
        "computed_tokens": stats.computed_tokens,
        "loaded_mb": loaded,
        "peak_mb": _peak_mb(),
        "weights_and_optimiser_mb": parameters * BYTES_A_PARAMETER / 1e6,
        "activations_and_checkpoints_mb": held / 1e6,
        "threads": torch.get_num_threads(),
    }


def _layer_bytes(model: Any) -> float:
    """What one layer keeps for its backward pass, a token: all its linear layers' inputs and
    outputs, in the model's precision."""
    from torch import nn

    layer = model.base_model.layers[0]
    size = next(layer.parameters()).element_size()
    linear = [m for m in layer.modules() if isinstance(m, nn.Linear)]
    return float(size * sum(m.in_features + m.out_features for m in linear))


def _resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
