"""What the arithmetic of a model takes, and what this machine can do of it.

Model FLOPs are those that the tokens computed need, each once: two for each weight of a linear
layer and for each product of the attention, three times that with the backward pass. What is
computed again to save memory does not count.
"""

import time

import torch
from torch import nn
from transformers import PreTrainedModel

SIZES = ((2048, 2048, 2048), (4096, 1536, 576), (4096, 576, 1536))
"""Products that are tried for the peak: square ones, and those of SmolLM2-135M's layers."""


def peak_flops(dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOPs a second of the fastest matrix product, of those in SIZES."""
    best = 0.0
    for rows, inner, columns in SIZES:
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            begun = time.perf_counter()
            left @ right
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - begun))
    return best


def forward_flops(model: PreTrainedModel, attended: list[int], heads: int) -> float:
    """Of a pass over tokens that attend to so many positions each, of which `heads` are scored."""
    config = model.config
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    linear = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, nn.Linear))
    attention = 4 * width * config.num_hidden_layers * sum(attended)
    return 2.0 * linear * len(attended) + attention + 2.0 * heads * _head_size(model)


def _head_size(model: PreTrainedModel) -> int:
    return int(model.config.vocab_size * model.config.hidden_size)
