"""Qwen's own chat templates, and the tiny tokenizer with the tokens that Qwen's has for them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, Qwen2Tokenizer

from nanoscout.models import load_model, load_tokenizer
from nanoscout.recipe import ModelSpec

TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
TRL = importlib.util.find_spec("trl")
NEEDS_TRL = pytest.mark.skipif(
    TRL is None, reason="the package trl, which brings the models' own chat templates, is missing"
)
TEMPLATES = [
    "tiny",
    *(pytest.param(name, marks=NEEDS_TRL) for name in ("qwen3", "qwen2_5")),
]
"""`tiny`: the one of tiny:qwen3. The others are the models' own, word for word."""


def tokenizer(template: str = "tiny") -> Qwen2Tokenizer:
    """As Qwen3's, the tags of calls and results are added tokens, but not special ones."""
    made = load_tokenizer(ModelSpec(source="tiny:qwen3"))
    made.add_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    if template != "tiny":
        made.chat_template = original(template)
    return made


def with_tool_tokens() -> PreTrainedModel:
    """tiny:qwen3 with embeddings for these tokens as well, always the same ones."""
    model, _ = load_model(ModelSpec(source="tiny:qwen3", dtype="float32", device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer()), mean_resizing=False)
    return model


def original(name: str) -> str:
    assert TRL is not None
    assert TRL.origin is not None
    path = Path(TRL.origin).parent / "chat_templates" / f"{name}.jinja"
    return path.read_text(encoding="utf-8")
