"""AdamW with its moments in 8 bits: a quarter of the memory, the same training and resuming."""

import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_learner import SHAPE, flat, ragged_samples
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from nanoscout.errors import UserError
from nanoscout.recipe import ObjectiveSpec, OptimiserSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.rlvr.checkpoint import load_checkpoint, save_checkpoint
from nanoscout.rlvr.learner import Learner
from nanoscout.run import train_run

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"
STEPS = 12
UNCLIPPED = ObjectiveSpec(clip_low=0.999999, clip_high=1e6)
"""A token that falls on the other side of a bound would part two trainings for good."""


def build() -> PreTrainedModel:
    """Large enough that its matrices are quantised."""
    torch.manual_seed(0)
    sizes = SHAPE | {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    model = AutoModelForCausalLM.from_config(Qwen3Config(**sizes, tie_word_embeddings=True))
    return model.to(torch.bfloat16).eval()


def learner(state: str) -> Learner:
    spec = OptimiserSpec(lr=1e-3, weight_decay=0.1, state=state)
    return Learner(build(), spec, UNCLIPPED)


def take(learner: Learner, steps: range) -> None:
    for step in steps:
        assert learner.step(ragged_samples(seed=step)) is not None


def moments(learner: Learner) -> int:
    """Bytes of the optimiser's state, the masters apart; what tensors share is counted once."""
    found: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[value.data_ptr()] = value.nbytes
        elif isinstance(value, dict):
            for inner in value.values():
                visit(inner)

    visit(learner.optimiser.state_dict()["adamw"])
    return sum(found.values())


def test_a_quarter_of_the_memory_and_the_same_training() -> None:
    full, small = learner("float32"), learner("int8")
    start = flat([param.detach().float() for param in build().parameters()])
    for one in (full, small):
        take(one, range(STEPS))
    assert 0.25 < moments(small) / moments(full) < 0.28
    moved, moved_small = (
        flat(one.optimiser.state_dict()["masters"]) - start for one in (full, small)
    )
    assert (moved_small - moved).norm() < 0.05 * moved.norm()


def test_resumed_with_the_same_bits(tmp_path: Path) -> None:
    whole = learner("int8")
    take(whole, range(STEPS))
    first = learner("int8")
    take(first, range(STEPS // 2))
    path = save_checkpoint(tmp_path, 1, {"optimiser": first.optimiser.state_dict()}, {})
    second = learner("int8")
    second.optimiser.load_state_dict(load_checkpoint(path)[0]["optimiser"])
    second.updates = first.updates
    take(second, range(STEPS // 2, STEPS))
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(
        whole.optimiser.state_dict()["masters"],
        second.optimiser.state_dict()["masters"],
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_missing_extra_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    recipe = load_recipe(SMOKE, ["optimiser.state=int8"])
    with pytest.raises(UserError, match=r"pip install 'nanoscout\[eightbit\]'"):
        train_run(recipe, tmp_path / "run", resume=False, console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == []
