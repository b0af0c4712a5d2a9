"""The compiled kernels next to torch's operations, and an engine with and without them."""

import copy
import subprocess
from pathlib import Path
from statistics import mean

import pytest
import torch

from nanoscout.engine import kernels, torch_engine
from nanoscout.engine.fast_norm import FastNorm, quicken_norms
from nanoscout.engine.kernels import Kernels, load_kernels
from nanoscout.engine.protocol import Sampling
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


def test_the_source_compiles_without_a_warning(tmp_path: Path, compiled: Kernels) -> None:
    command = ["cc", "-Wall", "-Wextra", "-Werror", *kernels.FLAGS, "-c", str(kernels.SOURCE)]
    done = subprocess.run([*command, "-o", str(tmp_path / "o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_fast_norm_is_the_norm_it_was(compiled: Kernels) -> None:
    model = build("qwen3").to(BFLOAT16)
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    with torch.no_grad():
        for norm in norms:
            norm.weight.normal_(generator=torch.manual_seed(0))
    names = list(model.state_dict())
    rows = [torch.randn(3, 50, len(norm.weight)).mul(5).to(BFLOAT16) for norm in norms]
    with torch.no_grad():
        expected = [norm(x) for norm, x in zip(norms, rows, strict=True)]
        quicken_norms(model)
        for norm, x, wanted in zip(norms, rows, expected, strict=True):
            assert isinstance(norm, FastNorm)
            torch.testing.assert_close(norm(x), wanted, rtol=2**-7, atol=0.0)
    assert list(model.state_dict()) == names
    assert norms[0](rows[0]).requires_grad
    assert isinstance(copy.deepcopy(norms[0]), FastNorm)


def test_a_norm_that_scales_otherwise_stays_as_it_is(compiled: Kernels) -> None:
    model = build("llama").to(BFLOAT16)

    class OnePlus(type(model.model.norm)):  # type: ignore[misc]
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return super().forward(rows) + super().forward(rows) / self.weight

    model.model.norm.__class__ = OnePlus
    quicken_norms(model)
    assert type(model.model.norm) is OnePlus
    assert isinstance(model.model.layers[0].input_layernorm, FastNorm)
