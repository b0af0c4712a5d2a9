"""The compiled kernels next to torch's operations, and an engine with and without them."""

import copy
import subprocess
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from nanoscout.engine import fast_layers, kernels, torch_engine
from nanoscout.engine.attention import run_layers
from nanoscout.engine.cached_attention import Run
from nanoscout.engine.compiled_attention import CompiledAttention
from nanoscout.engine.fast_layers import KINDS, FastAttention, FastMlp, FastNorm, quicken
from nanoscout.engine.kernels import Kernels, load_kernels
from nanoscout.engine.kv_cache import CacheShape, KvCache
from nanoscout.engine.protocol import Sampling
from nanoscout.engine.shared_prefix import SharedPrefix
from nanoscout.models.lora import add_adapters
from nanoscout.recipe import LoraSpec
from tests.test_engine import build, engine_of, run_all, scored, tokens, turn

BFLOAT16 = torch.bfloat16


@pytest.fixture
def compiled() -> Kernels:
    found = load_kernels()
    if found is None:
        pytest.skip("no C compiler")
    return found


@pytest.mark.parametrize("prefix_length", [0, 30])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_an_engine_with_kernels_samples_as_one_without(
    monkeypatch: pytest.MonkeyPatch, compiled: Kernels, architecture: str, prefix_length: int
) -> None:
    """Ragged conversations, with the shared prefix and without: what the model in float32 says of
    the sampled tokens is met as closely as by torch's operations."""
    exact = build(architecture)
    model = copy.deepcopy(exact).to(BFLOAT16)
    exact.load_state_dict(model.state_dict())
    prefix = tokens(prefix_length, 1)
    prompts = [prefix + tokens(3 + 17 * n, n) for n in range(5)] + [tokens(9, 20)]

    def gap() -> float:
        engine = engine_of(model)
        engine.share_prefix(prefix)
        sampling = Sampling(temperature=1.0, max_tokens=12)
        generations = run_all(*(turn(engine, prompt, sampling) for prompt in prompts))
        gaps = [
            abs(a - b)
            for prompt, generation in zip(prompts, generations, strict=True)
            for a, b in zip(
                generation.logprobs,
                scored(exact, prompt + generation.token_ids, len(generation.token_ids)),
                strict=True,
            )
        ]
        return mean(gaps)

    mine = gap()
    monkeypatch.setattr(torch_engine, "kernels_for", lambda shape: None)
    assert mine < 1.2 * gap() + 0.002


@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128])
@pytest.mark.parametrize("group", [1, 2, 3, 5])
@pytest.mark.parametrize("shared", [0, 50])
def test_attention_of_heads_of_every_shape(
    compiled: Kernels, head_dim: int, group: int, shared: int
) -> None:
    """Tokens that decode and ones of prompts, after pasts of their own and a shared one, against
    attention in float32."""
    torch.manual_seed(0)
    shape = CacheShape(1, 2, group, head_dim, BFLOAT16, torch.device("cpu"))
    prefix = SharedPrefix(shape)
    prefix.cache.make_room({prefix.slot: shared})
    prefix.slot.length = shared
    cache, pasts, counts = KvCache(shape, rows=2), [70, 1, 129, 40], [1, 1, 1, 37]
    runs = [Run(cache.claim(shares_prefix=True), count) for count in counts]
    for run, past in zip(runs, pasts, strict=True):
        run.slot.length = past
    total, scaling = sum(counts), head_dim**-0.5
    query = torch.randn(2 * group, total, head_dim).to(BFLOAT16)
    key, value = torch.randn(2, 2, total, head_dim).to(BFLOAT16)
    plan = CompiledAttention(compiled, cache, runs, prefix if shared else None)
    blocks = [prefix.block, *(cache.place(run.slot)[0] for run in runs)]
    for block in blocks:
        for tensor in block.layer(0):
            tensor.copy_(torch.randn(tensor.shape))

    found = plan.attend(0, query, key, value, scaling)

    first = 0
    for run, past in zip(runs, pasts, strict=True):
        block, row = cache.place(run.slot)
        here = slice(first, first + run.count)
        keys, values = (
            torch.cat([common[0, :, :shared], own[row, :, :past], new[:, here]], dim=1).float()
            for common, own, new in zip(
                prefix.block.layer(0), block.layer(0), (key, value), strict=True
            )
        )
        seen = torch.ones(run.count, keys.shape[1], dtype=torch.bool).tril(shared + past)
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query[:, here].float(), keys, values, attn_mask=seen, scale=scaling, enable_gqa=True
        )
        torch.testing.assert_close(
            found[here].float(), wanted.transpose(0, 1), rtol=0.02, atol=0.01
        )
        first += run.count


def test_without_a_compiler_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOSCOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_kernels.__wrapped__() is None
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert load_kernels.__wrapped__() is None
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_folder_that_cannot_be_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOSCOUT_CACHE", str(tmp_path / "file" / "cache"))
    assert load_kernels.__wrapped__() is None


def test_weights_changed_behind_torchs_back_are_packed_anew() -> None:
    model = build("llama").to(BFLOAT16)
    engine = engine_of(model)
    prompt, sampling = tokens(20, 1), Sampling(temperature=0.0, max_tokens=6)
    run_all(turn(engine, prompt, sampling))
    for param in model.parameters():
        param.data.mul_(1.5)
    engine.weights_changed()
    [after] = run_all(turn(engine, prompt, sampling))
    [fresh] = run_all(turn(engine_of(copy.deepcopy(model)), prompt, sampling))
    assert (after.token_ids, after.logprobs) == (fresh.token_ids, fresh.logprobs)


def test_the_sources_compile_without_a_warning(tmp_path: Path, compiled: Kernels) -> None:
    for source in kernels.SOURCES:
        command = ["cc", "-Wall", "-Wextra", "-Werror", *kernels.FLAGS, "-c", str(source)]
        done = subprocess.run([*command, "-o", str(tmp_path / "o")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def hidden(model: PreTrainedModel, seed: int) -> torch.Tensor:
    token_ids = torch.tensor(tokens(60, seed))
    return run_layers(model, token_ids, torch.arange(60), fast_layers._Plain()).float()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_fast_layers_compute_what_they_did(compiled: Kernels, architecture: str) -> None:
    model = build(architecture).to(BFLOAT16)
    names = list(model.state_dict())
    exact = copy.deepcopy(model).float()
    with torch.no_grad():
        ordinary = hidden(model, 1)
        quicken(model)
        kinds = {kind for kind in KINDS for module in model.modules() if isinstance(module, kind)}
        assert kinds == set(KINDS)
        fast, true = hidden(model, 1), hidden(exact, 1)
        assert (fast - true).norm() < 1.1 * (ordinary - true).norm()
        copied = copy.deepcopy(model)
        torch.testing.assert_close(hidden(copied, 1), fast, rtol=0, atol=0)
        for param in copied.parameters():
            param.mul_(1.01)
        assert not torch.equal(hidden(copied, 1), fast)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "adapters"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_gradients_of_fast_layers_are_as_exact_as_torchs(
    compiled: Kernels, architecture: str, adapted: bool
) -> None:
    model = build(architecture).to(BFLOAT16)
    torch.manual_seed(0)
    if adapted:
        add_adapters(model, LoraSpec(rank=4), seed=0)
    for param in model.parameters():  # Norms' weights would be ones.
        param.data.mul_(1.0 + 0.2 * torch.randn(param.shape).to(BFLOAT16))
    exact, fast = copy.deepcopy(model).float(), copy.deepcopy(model)
    quicken(fast)
    kinds = {kind for kind in KINDS for module in fast.modules() if isinstance(module, kind)}
    assert kinds == set(KINDS)
    upstream = torch.randn(60, model.config.hidden_size)
    for each in (exact, model, fast):
        hidden(each, 1).backward(upstream)
    errors = []
    for name, param in exact.named_parameters():
        true = param.grad
        if true is None or not true.any():  # The head's; of adapters, half start at zero.
            continue
        ordinary, mine = (
            ((each.get_parameter(name).grad.float() - true).norm() / true.norm()).item()
            for each in (model, fast)
        )
        assert 0.0 < mine < 1.5 * ordinary, name
        errors.append((ordinary, mine))
    assert sum(mine for _, mine in errors) < 1.1 * sum(ordinary for ordinary, _ in errors)


@pytest.mark.parametrize("seen", [5, 64, 300])
@pytest.mark.parametrize("block", [1, 5])
def test_causal_softmax(compiled: Kernels, block: int, seen: int) -> None:
    torch.manual_seed(seen)
    scores = (8 * torch.randn(2, 3 * block, seen)).to(BFLOAT16)
    scores[0, 0] += 400  # Of scores, differences alone count.
    upstream = torch.randn(scores.shape).to(BFLOAT16)
    future = torch.ones(block, block, dtype=torch.bool).triu(1).repeat(3, 1)
    exact = scores.float().requires_grad_()
    masked = torch.cat([exact[..., :-block], exact[..., -block:].masked_fill(future, -1e9)], -1)
    wanted = masked.softmax(-1)
    wanted.backward(upstream.float())
    compiled.causal_softmax(scores, block)
    torch.testing.assert_close(scores.float(), wanted, rtol=2**-8, atol=1e-6)
    assert not scores[..., -block:][:, future].any()
    compiled.causal_softmax_back(scores, upstream, block)
    torch.testing.assert_close(upstream.float(), exact.grad, rtol=2**-6, atol=2**-8)


def test_layers_that_compute_otherwise_stay_as_they_are(compiled: Kernels) -> None:
    model = build("llama").to(BFLOAT16)
    first, second, _ = model.model.layers

    class OnePlus(type(model.model.norm)):  # type: ignore[misc]
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return super().forward(rows) + super().forward(rows) / self.weight

    class Capped(type(first.self_attn)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output, weights = super().forward(*args, **kwargs)
            return output.clamp(-0.01, 0.01), weights

    model.model.norm.__class__ = OnePlus
    first.mlp.act_fn = torch.nn.ReLU()
    first.self_attn.__class__ = Capped
    quicken(model)
    assert type(model.model.norm) is OnePlus
    assert type(first.self_attn) is Capped
    assert not isinstance(first.mlp, FastMlp)
    assert isinstance(second.mlp, FastMlp)
    assert isinstance(second.self_attn, FastAttention)
    assert isinstance(first.input_layernorm, FastNorm)


def test_what_is_put_around_a_linear_layer_later_counts(compiled: Kernels) -> None:
    model = build("llama").to(BFLOAT16)
    quicken(model)
    with torch.no_grad():
        before = hidden(model, 1)
        for layer in model.model.layers:
            for parent, name in ((layer.mlp, "up_proj"), (layer.self_attn, "v_proj")):
                nothing = torch.nn.Dropout(1.0).train()
                setattr(parent, name, torch.nn.Sequential(getattr(parent, name), nothing))
        after = hidden(model, 1)
        embedded = model.model.norm(model.get_input_embeddings()(torch.tensor(tokens(60, 1))))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, embedded.float(), rtol=0, atol=0)


class Otherwise(torch.nn.Module):
    """What a layer makes, as numbers of another type that lie column by column."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(rows).float()
        return found.mT.contiguous().mT


@pytest.mark.parametrize("wanted", [False, True], ids=["no gradients", "gradients"])
def test_what_an_adapter_makes_may_be_of_any_type_and_order(
    compiled: Kernels, wanted: bool
) -> None:
    model = build("llama").to(BFLOAT16)
    quicken(model)
    with torch.set_grad_enabled(wanted):
        before = hidden(model, 1)
        for layer in model.model.layers:
            for parent, name in ((layer.mlp, "up_proj"), (layer.self_attn, "q_proj")):
                setattr(parent, name, Otherwise(getattr(parent, name)))
        after = hidden(model, 1)
    assert (after - before).norm() < 0.01 * before.norm()
