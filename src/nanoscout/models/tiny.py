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

# What Qwen3's template does: it tells of the tools, frames results, cuts thoughts out of turns
# before the last thing that the user said, and lets a final turn always show a think block.
QWEN3 = """\
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- if tools %}
    {{- '<|im_start|>system\\n' + (system + '\\n\\n' if system is string else '') }}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>\\n' }}
    {%- for tool in tools %}
        {{- (tool | tojson) + '\\n' }}
    {%- endfor %}
    {{- '</tools>\\n\\nFor each function call, return a json object with function name and ' }}
    {{- 'arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif system is string %}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query=messages|length - 1) %}
{%- for message in messages %}
    {%- set text = message.content or '' %}
    {%- if message.role == 'user' and not (
        text.startswith('<tool_response>') and text.endswith('</tool_response>')
    ) %}
        {%- set ns.last_query = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content or '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- set thoughts = thoughts.strip('\\n') %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_query and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n' if content or not loop.first else '' }}
            {%- set call = call.function or call %}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- (call.arguments if call.arguments is string else call.arguments | tojson) }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.previtem is undefined or loop.previtem.role != 'tool' }}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.nextitem is undefined or loop.nextitem.role != 'tool' }}
    {%- endif %}
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
