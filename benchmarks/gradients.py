"""How exact are gradients, packed and one trajectory at a time, in bfloat16 and in float32?

    python benchmarks/gradients.py [--sets 5] [--trajectories 8]

Random choices of the trajectories of learner.py, next to the gradient in float64. What packed and
unpacked gradients differ by says little by itself where either is further from the exact one.
Nothing is clipped, for rounding moves tokens over the bounds and a token that is clipped has no
gradient.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import torch
from learner import trajectories
from results import RESULTS, save
from torch import Tensor

from nanoscout.engine.fast_layers import quicken
from nanoscout.models import load_model
from nanoscout.recipe import ModelSpec, ObjectiveSpec
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Sample, pack

UNCLIPPED = ObjectiveSpec(clip_low=0.999999, clip_high=1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=ModelSpec().source)
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--trajectories", type=int, default=8)
    options = parser.parse_args()
    model, tokenizer = load_model(ModelSpec(source=options.model, dtype="bfloat16"))
    path = RESULTS.parent / "out" / f"trajectories-{options.model.replace('/', '-')}.json"
    optimiser, _, samples = trajectories(path, model, tokenizer)
    learners = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        copy, _ = load_model(ModelSpec(source=options.model, dtype="float32"))
        copy.load_state_dict(model.state_dict())
        quicken(copy.to(dtype))  # As a run's engine does.
        learners[dtype] = Learner(copy, optimiser, UNCLIPPED, total_updates=100)
    rows = []
    for seed in range(options.sets):
        chosen = random.Random(seed).sample(samples, min(options.trajectories, len(samples)))
        weight = 1.0 / sum(sample.sampled_tokens for sample in chosen)
        weighted = [replace(sample, weight=weight) for sample in chosen]
        packed, unpacked = (
            {dtype: gradient(learner, batches) for dtype, learner in learners.items()}
            for batches in ([weighted], [[sample] for sample in weighted])
        )
        low, single, true = torch.bfloat16, torch.float32, packed[torch.float64]
        rows.append(
            {
                "bfloat16, cosine, packed to unpacked": cosine(packed[low], unpacked[low]),
                "bfloat16, cosine, packed to exact": cosine(packed[low], true),
                "bfloat16, cosine, unpacked to exact": cosine(unpacked[low], true),
                "float32, error, packed to unpacked": error(packed[single], unpacked[single]),
                "float32, error, packed to exact": error(packed[single], true),
                "float32, error, unpacked to exact": error(unpacked[single], true),
                "float64, error, packed to unpacked": error(true, unpacked[torch.float64]),
            }
        )
        print(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    means = {name: mean(row[name] for row in rows) for name in rows[0]}
    print("mean: " + ", ".join(f"{name} {value:.4g}" for name, value in means.items()))
    save("sets", {"mean": means, "rows": rows, "trajectories": options.trajectories}, "gradients")


def gradient(learner: Learner, batches: Sequence[Sequence[Sample]]) -> Tensor:
    """All parameters in a row; the model stays as it is."""
    for batch in batches:
        packed = pack(batch, learner.optimiser.spec.microbatch_tokens)
        learner.accumulate_gradients(packed, temperature=1.0)
    found = torch.cat([each.flatten() for each in learner.optimiser.gradients()])
    learner.optimiser.step(0.0)
    return found


def cosine(first: Tensor, second: Tensor) -> float:
    """In float64: float32 adds up so many squares to a few percent only."""
    first, second = first.double(), second.double()
    return (first @ second / (first.norm() * second.norm())).item()


def error(found: Tensor, exact: Tensor) -> float:
    """Relative."""
    return ((found - exact).double().norm() / exact.double().norm()).item()


if __name__ == "__main__":
    main()
