"""From logits to the log-probabilities of chosen tokens, and back.

A row of logits is as long as the vocabulary, so passes over them are what costs. They go through
float32 a few rows at a time, which stay in a processor's cache, and only what the backward pass
needs is kept: the logits as they are, and one normaliser a row.
"""

from typing import Any

import torch
from torch import Tensor

FLOAT_ROWS = {"cpu": 32, "cuda": 1_024}
"""Rows that are in float32 at once."""


def chosen_logprobs(
    logits: Tensor, rows: Tensor, tokens: Tensor, temperature: float, banned: Tensor
) -> tuple[Tensor, Tensor]:
    """(float32 [n], float32 [p]) for logits [p, vocabulary] and int64 rows, tokens [n].

    The log-probability of each token in its row of softmax(logits / temperature), banned tokens
    left out, with gradient; and the entropy of each row, in nats, without.
    """
    logprobs: tuple[Tensor, Tensor] = _ChosenLogprobs.apply(
        logits, rows, tokens, temperature, banned
    )
    return logprobs


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, tokens: Tensor, temperature: float, banned: Tensor
    ) -> tuple[Tensor, Tensor]:
        normalisers = torch.empty(len(logits), device=logits.device)
        entropies = torch.empty_like(normalisers)
        for part in _parts(logits):
            scaled = _scaled(logits[part], temperature, banned)
            probabilities = scaled.softmax(1)
            # The largest probability never underflows.
            normalisers[part] = scaled.amax(1) - probabilities.amax(1).log_()
            mean = torch.bmm(probabilities.unsqueeze(1), scaled.unsqueeze(2)).view(-1)
            entropies[part] = normalisers[part] - mean
        chosen = logits[rows, tokens].float() / temperature - normalisers[rows]
        ctx.save_for_backward(logits, rows, tokens, normalisers, banned)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, rows, tokens, normalisers, banned = ctx.saved_tensors
        upstream = gradients[0] / ctx.temperature
        totals = torch.zeros_like(normalisers).index_add_(0, rows, upstream)
        grad_logits = torch.empty_like(logits)
        for part in _parts(logits):
            probabilities = (
                _scaled(logits[part], ctx.temperature, banned).sub_(normalisers[part, None]).exp_()
            )
            scores = probabilities.mul_(-totals[part, None])
            first, last = torch.searchsorted(
                rows, torch.tensor([part.start, part.stop], device=rows.device)
            ).tolist()
            index = (rows[first:last] - part.start, tokens[first:last])
            grad_logits[part] = scores.index_put_(index, upstream[first:last], accumulate=True)
        return grad_logits, None, None, None, None


def _parts(logits: Tensor) -> list[slice]:
    size = FLOAT_ROWS.get(logits.device.type, FLOAT_ROWS["cuda"])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def _scaled(logits: Tensor, temperature: float, banned: Tensor) -> Tensor:
    """logits / temperature in float32, those of banned tokens so low that nothing is left."""
    scaled = logits.float() / temperature
    return scaled.index_fill_(1, banned, torch.finfo(scaled.dtype).min)
