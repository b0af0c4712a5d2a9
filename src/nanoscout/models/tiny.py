"""Tiny random models with a tokenizer of their own, built in code: for tests and smoke runs.

The three architectures differ in what matters to an engine: Qwen3 normalises queries and keys and
ties its embeddings, Qwen2 has attention biases, Llama has neither. The tokenizer is Qwen2's
byte-level pipeline with a few merges, so that any text (in Unicode's form NFC) round-trips.
Weights come from a fixed seed and the global random state is left as it was.
"""

from typing import Any

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

from nanoscout.errors import UserError

PREFIX = "tiny:"
SEED = 20250622
MERGES = 128
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
THINK = ("<think>", "</think>")

# What the merges are learned from: the words that conversations are full of.
TEXT = """
<tool>{"name": "web_search", "args": {"query": "the capital of the country"}}</tool>
<tool>{"name": "visit", "args": {"url": "https://"}}</tool> <result> </result>
<answer>the answer</answer> system user assistant
Answer the question with the help of tools. Who was the founder of the city in which it was born?
What is the name of the river that flows through the town where the author of the book lived?
"""

# ChatML with a default system prompt, as Qwen2.5 and SmolLM2 have it.
CHATML = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# ChatML in Qwen3's manner: no default system prompt; thinking is cut out of assistant turns before
# the last question, and a final assistant turn always shows a think block.
QWEN3 = """\
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages if message.role == 'user' %}
    {%- set ns.last_user = messages.index(message) %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_user and (loop.last or thoughts) %}
            {%- set content = '<think>\\n' + thoughts + '\\n</think>\\n\\n' + content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


def model(source: str) -> PreTrainedModel:
    """`tiny:qwen3`, `tiny:qwen2` or `tiny:llama`, float32, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        return AutoModelForCausalLM.from_config(_config(source), dtype=torch.float32)


def tokenizer(source: str) -> Qwen2Tokenizer:
    """About 390 tokens: three special ones, the bytes, merges, and the two think tokens."""
    _config(source)
    blank = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(SPECIAL)},
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    trained = blank.train_new_from_iterator(
        TEXT.splitlines(),
        vocab_size=len(SPECIAL) + 256 + MERGES,
        new_special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.add_tokens([AddedToken(token, normalized=False) for token in THINK])
    trained.chat_template = QWEN3 if source == "tiny:qwen3" else CHATML
    return trained


def _config(source: str) -> PretrainedConfig:
    sizes: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + 256 + MERGES + len(THINK),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 40_960,
        # Wider than usual: the logits of two tokens are then rarely equal to rounding.
        "initializer_range": 0.1,
        "bos_token_id": None,
        "pad_token_id": SPECIAL.index("<|endoftext|>"),
        "eos_token_id": SPECIAL.index("<|im_end|>"),
    }
    match source.removeprefix(PREFIX):
        case "qwen3":
            return Qwen3Config(**sizes, tie_word_embeddings=True)
        case "qwen2":
            return Qwen2Config(**sizes, tie_word_embeddings=False)
        case "llama":
            return LlamaConfig(**sizes, tie_word_embeddings=False)
        case _:
            raise UserError(f"model '{source}': use tiny:qwen3, tiny:qwen2 or tiny:llama")
