"""Configurations of a few published models, so that planning for them needs no connection.

The numbers are those of the models' own config.json; what is not named here has transformers'
default.
"""

from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen3Config

from nanoscout.models import smollm2

_QWEN3 = {
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
}


def known_config(source: str) -> PretrainedConfig | None:
    match source:
        case "Qwen/Qwen3-0.6B":
            return _qwen3(1_024, 3_072, layers=28, heads=16)
        case "Qwen/Qwen3-1.7B":
            return _qwen3(2_048, 6_144, layers=28, heads=16)
        case "Qwen/Qwen3-4B":
            return _qwen3(2_560, 9_728, layers=36, heads=32)
        case "Qwen/Qwen3-8B":
            return _qwen3(4_096, 12_288, layers=36, heads=32, tied=False)
        case smollm2.NAME:
            return LlamaConfig(
                vocab_size=49_152,
                hidden_size=576,
                intermediate_size=1_536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                max_position_embeddings=8_192,
                tie_word_embeddings=True,
            )
    return None


def _qwen3(
    hidden: int, intermediate: int, *, layers: int, heads: int, tied: bool = True
) -> PretrainedConfig:
    sizes: dict[str, Any] = _QWEN3 | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }
    return Qwen3Config(**sizes)
