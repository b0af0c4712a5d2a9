"""Architectures that the engine does not compute as they are meant: refused, before any work."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    MambaConfig,
    PretrainedConfig,
    Qwen2Config,
    T5Config,
)

from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.planning.plan import make_plan
from nanoscout.recipe import Recipe
from nanoscout.recipe_file import load_recipe

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
OWN_ATTENTION = {
    "bloom": BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=2),
    "falcon": FalconConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
    ),
    "mamba": MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=4),
}
REFUSED = {
    "sliding": (
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=64),
        "slides over 64 tokens",
    ),
    "softcap": (Gemma2Config(**SHAPE, head_dim=8), "caps its scores"),
    "sinks": (
        GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4, sliding_window=None),
        "has sinks",
    ),
    **{name: (config, "of its own") for name, config in OWN_ATTENTION.items()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_is_computed_otherwise_is_refused(name: str) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(UserError, match=reason):
        TorchEngine(AutoModelForCausalLM.from_config(config), concurrency=1, context=100)


def test_learned_positions_hold_the_context_or_the_model_is_refused() -> None:
    config = GPT2Config(vocab_size=50, n_positions=100, n_embd=32, n_layer=2, n_head=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    TorchEngine(model, concurrency=1, context=100)
    with pytest.raises(UserError, match="learned 100 positions"):
        TorchEngine(model, concurrency=1, context=101)


def test_rotary_positions_may_be_exceeded() -> None:
    config = Qwen2Config(**SHAPE, max_position_embeddings=100)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert TorchEngine(model, concurrency=1, context=500).context_limit == 500


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_a_plan_refuses_them_too(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of its own"):
        make_plan(_recipe(OWN_ATTENTION[name], tmp_path))


def test_a_plan_names_a_model_that_is_no_causal_language_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded: Unrecognized configuration"):
        make_plan(_recipe(T5Config(vocab_size=50, d_model=32, num_layers=2), tmp_path))


def test_a_fault_of_our_own_is_not_taken_for_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object, **__: object) -> torch.Tensor:
        raise AttributeError("our fault")

    monkeypatch.setattr("nanoscout.planning.activations.run_layers", faulty)
    with pytest.raises(AttributeError, match="our fault"):
        make_plan(_recipe(Qwen2Config(**SHAPE), tmp_path))


def _recipe(config: PretrainedConfig, folder: Path) -> Recipe:
    config.save_pretrained(folder)
    smoke = Path(__file__).parents[1] / "recipes" / "smoke.toml"
    return load_recipe(smoke, [f"model.source={folder}"])
