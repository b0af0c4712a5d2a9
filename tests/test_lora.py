"""Adapters: exact in the gradient, gone after merging, and whole after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from test_learner import build, flat, ragged_samples, reference_gradients
from transformers import AutoModelForCausalLM, PreTrainedModel

from nanoscout.models.lora import add_adapters, merge_adapters
from nanoscout.progress import ConsoleReporter
from nanoscout.recipe import LoraSpec, ObjectiveSpec, OptimiserSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.rlvr.checkpoint import latest_checkpoint
from nanoscout.rlvr.learner import Learner
from nanoscout.run import train_run

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"
SPEC = LoraSpec(rank=4, alpha=8)
IDS = torch.arange(1, 31)[None]


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def trained(model: PreTrainedModel, steps: int = 3) -> Learner:
    learner = Learner(model, OptimiserSpec(lr=1e-2), ObjectiveSpec())
    for step in range(steps):
        assert learner.step(ragged_samples(seed=step)) is not None
    return learner


def interrupt_at_step_3(reporter: ConsoleReporter, record: dict[str, Any]) -> None:
    if record["step"] == 3:  # the newest checkpoint is that of step 2
        raise KeyboardInterrupt


def test_new_adapters_change_nothing_and_trained_ones_survive_merging() -> None:
    model = build()
    before = logits(model)
    names = [name for name, _ in model.named_parameters()]
    adapted = add_adapters(model, SPEC, seed=0)
    assert torch.equal(logits(model), before)
    trained(model)
    after = logits(model)
    assert (after - before).abs().max() > 0.05
    merge_adapters(adapted)
    torch.testing.assert_close(logits(model), after, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in model.named_parameters()] == names


def test_only_the_adapters_are_trained() -> None:
    model = build()
    add_adapters(model, SPEC, seed=0)
    base = {name: p.clone() for name, p in model.named_parameters() if "lora" not in name}
    learner = trained(model)
    state = learner.optimiser.state_dict()
    assert sum(m.numel() for m in state["masters"]) == sum(
        p.numel() for name, p in model.named_parameters() if "lora" in name
    )
    for name, parameter in model.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name])


def test_packed_gradient_of_adapters_is_that_of_one_sequence_at_a_time() -> None:
    samples = ragged_samples(seed=3)
    models = [build(), build()]
    for model in models:
        add_adapters(model, SPEC, seed=0)
        torch.manual_seed(1)  # away from the start, where half of the adapters are zero
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora" in name:
                    parameter.normal_(std=0.1)
    learner = Learner(models[0], OptimiserSpec(microbatch_tokens=50), ObjectiveSpec())
    learner.accumulate_gradients(learner.pack(samples), temperature=1.0)
    gradients, _ = reference_gradients(models[1], samples)
    wanted = flat(
        [g for g, p in zip(gradients, models[1].parameters(), strict=True) if p.requires_grad]
    )
    assert (flat(learner.optimiser.gradients()) - wanted).norm() / wanted.norm() < 1e-5


def test_a_run_with_adapters_resumes_to_the_same_bits_and_leaves_an_ordinary_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(SMOKE, ["lora.rank=4", "evaluation.sampled.temperature=1.0"])
    console = Console(quiet=True)
    train_run(recipe, tmp_path / "whole", resume=False, console=console)
    with monkeypatch.context() as patch:
        patch.setattr(ConsoleReporter, "step_done", interrupt_at_step_3)
        with pytest.raises(KeyboardInterrupt):
            train_run(recipe, tmp_path / "again", resume=False, console=console)
    train_run(recipe, tmp_path / "again", resume=True, console=console)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again" / "model")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )
    assert not any("lora" in name for name, _ in whole.named_parameters())
    checkpoint = latest_checkpoint(tmp_path / "whole" / "checkpoints")
    assert checkpoint is not None
    model_bytes = (tmp_path / "whole" / "model" / "model.safetensors").stat().st_size
    assert (checkpoint / "tensors.pt").stat().st_size < model_bytes
