"""An export has the same weights, and a scaled one the frequencies that YaRN's paper prescribes."""

import asyncio
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nanoscout.engine.protocol import Generation, Sampling
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.export import export_model
from nanoscout.models import load_model, load_tokenizer, save_model
from nanoscout.recipe import ModelSpec, ObjectiveSpec, OptimiserSpec
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Sample

CONTEXT = 131_072
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 of 40,960 positions, as every Qwen3 has."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(*load_model(ModelSpec(source="tiny:qwen3", dtype="float32", device="cpu")), folder)
    return folder


@pytest.fixture(scope="module")
def scaled(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "scaled"
    export_model(str(model_folder), folder, CONTEXT, QUIET)
    return folder


def edited(source: Path, target: Path, **config: Any) -> Path:
    """A copy of a model's folder with other values in its configuration."""
    export_model(str(source), target, None, QUIET)
    values = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(values))
    return target


def yarn_by_hand(theta: float, dim: int, original: int, factor: float) -> tuple[list[float], float]:
    """Section 3 of arXiv 2309.00071, with alpha = 1 and beta = 32: frequencies and sqrt(1/t).

    A dimension that turns r times within the original context keeps its frequency if r > beta, is
    slowed by the factor if r < alpha, and lies between the two otherwise. As in the authors' code,
    the ramp is linear in the dimension's number, from the last that turns beta times or more to the
    first that turns alpha times or less.
    """

    def number(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(number(32)), 0), min(math.ceil(number(1)), dim - 1)
    frequencies = []
    for i in range(dim // 2):
        plain = theta ** (-2 * i / dim)
        ramp = min(max((i - low) / (high - low), 0.0), 1.0)
        frequencies.append(plain * (1 - ramp) + plain / factor * ramp)
    return frequencies, 0.1 * math.log(factor) + 1


def test_weights_are_the_same_bytes_and_nothing_is_left_out(
    model_folder: Path, scaled: Path
) -> None:
    weights = "model.safetensors"
    assert (scaled / weights).read_bytes() == (model_folder / weights).read_bytes()
    assert {p.name for p in scaled.iterdir()} == {p.name for p in model_folder.iterdir()}


def test_scaled_model_has_the_papers_frequencies(scaled: Path) -> None:
    rotary = AutoModelForCausalLM.from_pretrained(scaled).base_model.rotary_emb
    frequencies, factor = yarn_by_hand(theta=10_000, dim=16, original=40_960, factor=3.2)
    assert rotary.inv_freq.tolist() == pytest.approx(frequencies, rel=1e-6)
    assert rotary.attention_scaling == pytest.approx(factor, rel=1e-9)
    unscaled = [10_000 ** (-2 * i / 16) for i in range(8)]
    assert frequencies != pytest.approx(unscaled, rel=1e-3)


def test_scaled_tokenizer_allows_the_context(model_folder: Path, scaled: Path) -> None:
    before, after = (AutoTokenizer.from_pretrained(f) for f in (model_folder, scaled))
    assert after.model_max_length == CONTEXT
    text = "Who is the mayor of Liko?"
    assert after.encode(text) == before.encode(text)
    assert after.chat_template == before.chat_template


def test_new_and_old_readers_find_the_same_scaling(scaled: Path) -> None:
    config = json.loads((scaled / "config.json").read_text())
    yarn = {"rope_type": "yarn", "factor": 3.2, "original_max_position_embeddings": 40_960}
    assert config["rope_parameters"] == {**yarn, "rope_theta": 10_000.0}
    assert config["rope_scaling"] == yarn  # transformers 4 warns of any other key
    assert config["rope_theta"] == 10_000.0
    assert config["max_position_embeddings"] == CONTEXT
    # vLLM's limit is the product, cut to a whole number.
    assert int(yarn["original_max_position_embeddings"] * yarn["factor"]) == CONTEXT
    for absent in ("rope_parameters", "rope_scaling"):
        rest = {key: value for key, value in config.items() if key != absent}
        read = AutoConfig.for_model(**rest)
        assert read.rope_parameters == config["rope_parameters"]


def test_config_of_transformers_4_is_scaled_alike(
    model_folder: Path, scaled: Path, tmp_path: Path
) -> None:
    old = edited(model_folder, tmp_path / "old", rope_theta=1e6, rope_scaling=None)
    config = json.loads((old / "config.json").read_text())
    del config["rope_parameters"]
    (old / "config.json").write_text(json.dumps(config))
    export_model(str(old), tmp_path / "new", CONTEXT, QUIET)
    read = AutoConfig.from_pretrained(tmp_path / "new")
    assert read.rope_parameters["rope_theta"] == 1e6
    assert read.rope_parameters["factor"] == 3.2
    frequencies, _ = yarn_by_hand(theta=1e6, dim=16, original=40_960, factor=3.2)
    found, _ = ROPE_INIT_FUNCTIONS["yarn"](read)
    assert found.tolist() == pytest.approx(frequencies, rel=1e-6)


@pytest.mark.parametrize("context", [None, 8_192, 40_960])
def test_a_context_within_the_models_own_changes_nothing(
    model_folder: Path, tmp_path: Path, context: int | None
) -> None:
    export_model(str(model_folder), tmp_path / "out", context, QUIET)
    before, after = (AutoConfig.from_pretrained(f) for f in (model_folder, tmp_path / "out"))
    assert after.to_dict() | {"_name_or_path": ""} == before.to_dict() | {"_name_or_path": ""}
    # transformers 4 knows no rope_parameters and would take its own default.
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 10_000.0
    name = "tokenizer_config.json"
    assert (tmp_path / "out" / name).read_bytes() == (model_folder / name).read_bytes()


def test_models_of_several_files_are_copied_whole_or_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    shards = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    export_model(str(tmp_path / "shards"), tmp_path / "out", CONTEXT, QUIET)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for a, b in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    (tmp_path / "shards" / shards[0]).unlink()
    with pytest.raises(UserError, match=shards[0]):
        export_model(str(tmp_path / "shards"), tmp_path / "half", None, QUIET)
    assert not (tmp_path / "half").exists()


@torch.no_grad()
def test_engine_and_learner_honour_the_scaled_positions(model_folder: Path, scaled: Path) -> None:
    """Log-probabilities of sampled tokens equal those of transformers' own forward pass."""
    spec = ModelSpec(source=str(scaled), dtype="float32", device="cpu")
    model, tokenizer = load_model(spec)
    prompt = tokenizer.encode("Who is the mayor of Liko, and since when? " * 60)
    generation = _sample(TorchEngine(model, concurrency=2, context=4_096), prompt)
    ids = [*prompt, *generation.token_ids]
    reference = AutoModelForCausalLM.from_pretrained(scaled)
    unscaled = AutoModelForCausalLM.from_pretrained(model_folder)
    expected, plain = (_logprobs(other, ids, len(prompt)) for other in (reference, unscaled))
    assert generation.logprobs == pytest.approx(expected, abs=1e-4)
    assert generation.logprobs != pytest.approx(plain, abs=1e-2)
    learner = Learner(model, OptimiserSpec(), ObjectiveSpec())
    sampled = [False] * len(prompt) + [True] * len(generation.token_ids)
    sample = Sample(ids, sampled, [0.0] * len(prompt) + expected, advantage=1.0)
    gap, ratio = learner.agreement([sample], temperature=1.0)
    assert gap < 1e-4
    assert ratio == pytest.approx(1, abs=1e-4)


def _sample(engine: TorchEngine, prompt: list[int]) -> Generation:
    async def turn() -> Generation:
        return await engine.conversation(seed=1).generate(prompt, Sampling(max_tokens=24))

    return asyncio.run(turn())


def _logprobs(model: torch.nn.Module, ids: list[int], start: int) -> list[float]:
    logits = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
    return logits.gather(1, torch.tensor(ids[start:])[:, None])[:, 0].tolist()


REFUSED = {
    "no tokens": (0, "at least one token"),
    "fewer than none": (-5, "at least one token"),
    "scaled already": (2 * CONTEXT, "scaled already"),
    "no rope": (CONTEXT, "no rotary"),
    "several ropes": (CONTEXT, "differ"),
    "no weights": (CONTEXT, "model.safetensors is missing"),
    "not json": (CONTEXT, "cannot be loaded"),
    "no model": (CONTEXT, "no such folder"),
    "tiny": (CONTEXT, "no files"),
    "not trained": (CONTEXT, "not trained yet"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    model_folder: Path, scaled: Path, tmp_path: Path, fault: str
) -> None:
    context, words = REFUSED[fault]
    source = str(model_folder)
    bad = tmp_path / "bad"
    match fault:
        case "scaled already":
            source = str(scaled)
        case "no rope":
            edited(model_folder, bad)
            GPT2Config(n_positions=1024).save_pretrained(bad)
            source = str(bad)
        case "several ropes":
            kinds = ["sliding_attention", "full_attention"]
            rope = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in kinds}
            edited(model_folder, bad, model_type="gemma3_text", rope_parameters=rope)
            source = str(bad)
        case "no weights":
            edited(model_folder, bad)
            (bad / "model.safetensors").unlink()
            source = str(bad)
        case "not json":
            edited(model_folder, bad)
            (bad / "config.json").write_text("{")
            source = str(bad)
        case "no model":
            source = str(tmp_path / "nowhere")
        case "tiny":
            source = "tiny:qwen3"
        case "not trained":
            bad.mkdir()
            (bad / "recipe.toml").write_text('name = "x"')
            source = str(bad)
    with pytest.raises(UserError, match=words) as refusal:
        export_model(source, tmp_path / "out", context, QUIET)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_holds_something_is_left_alone(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        export_model(str(model_folder), tmp_path / "out", None, QUIET)
    with pytest.raises(UserError, match="not empty"):
        export_model(str(model_folder), tmp_path / "out" / "thesis.txt", None, QUIET)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    export_model(str(model_folder), tmp_path / "empty", None, QUIET)
    assert load_tokenizer(ModelSpec(source=str(tmp_path / "empty")))


def test_a_full_disk_leaves_no_half_model(model_folder: Path, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="could not be written"):
            export_model(str(model_folder), tmp_path / "out", CONTEXT, QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_command_line_exports_a_runs_model(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    (tmp_path / "run" / "model").symlink_to(model_folder)
    command = ["-m", "nanoscout", "export", "run", "--out", "out", "--context", str(CONTEXT)]
    result = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    assert "40,960 positions x 3.2 = 131,072" in result.stdout
    assert AutoConfig.from_pretrained(tmp_path / "out").max_position_embeddings == CONTEXT
