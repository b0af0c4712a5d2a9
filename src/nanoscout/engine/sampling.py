"""From logits to tokens: temperature, banned tokens, top-k, top-p, min-p, and the draw itself.

A draw inverts the cumulative distribution at one uniform number. That number is a pure function
of the conversation's seed and of how many tokens it has sampled, so it does not depend on who
shares its batch. Log-probabilities are those of the untruncated distribution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from nanoscout.engine.protocol import Sampling

PIECE = 128
"""Tokens whose probabilities are summed before a draw looks at them one by one."""
_MASK = 2**64 - 1


def uniform(seed: int, count: int) -> float:
    """A number in [0, 1) for the token that follows `count` sampled ones.

    SplitMix64 (Steele, Lea and Flood 2014) in its counter form: jump straight to the n-th output.
    """
    return (_mix(_mix(seed & _MASK) + (count + 1) * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def choose_tokens(
    logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """One token, and its log-probability, for each row of `logits` [R, vocabulary].

    `samplings` and `uniforms` have one item a row; rows that are sampled alike go together.
    """
    alike: dict[tuple[float, float, int, float, frozenset[int]], list[int]] = {}
    for row, sampling in enumerate(samplings):
        key = (
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.min_p,
            sampling.banned_ids,
        )
        alike.setdefault(key, []).append(row)
    token_ids, logprobs = [0] * len(samplings), [0.0] * len(samplings)
    for rows in alike.values():
        # A copy in any case: the logits are scaled and masked in place.
        part = (logits if len(alike) == 1 else logits[rows]).to(torch.float32, copy=True)
        chosen, scores = _choose(part, samplings[rows[0]], [uniforms[row] for row in rows])
        for row, token_id, logprob in zip(rows, chosen.tolist(), scores.tolist(), strict=True):
            token_ids[row], logprobs[row] = token_id, logprob
    return token_ids, logprobs


def _choose(logits: Tensor, sampling: Sampling, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Tokens [R] and log-probabilities [R] for float32 `logits` [R, vocabulary]."""
    if sampling.temperature not in (0, 1):
        logits /= sampling.temperature
    if sampling.banned_ids:
        logits[:, sorted(sampling.banned_ids)] = float("-inf")
    probabilities = logits.softmax(-1)
    # The logarithm of the softmax's denominator, from where it is exact and without another pass.
    log_total = logits.amax(-1, keepdim=True) - probabilities.amax(-1, keepdim=True).log()
    if not log_total.isfinite().all():
        raise FloatingPointError("the model's logits are not finite: its weights have diverged")
    if sampling.temperature == 0:
        chosen = logits.argmax(-1, keepdim=True)
    elif 0 < sampling.top_k < logits.shape[-1] or sampling.top_p < 1 or sampling.min_p > 0:
        kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
        best, candidates = probabilities.topk(kept)
        best /= best.sum(-1, keepdim=True)
        left_out = best.cumsum(-1) - best >= sampling.top_p
        best[left_out | (best < sampling.min_p * best[:, :1])] = 0
        chosen = candidates.gather(-1, _invert(best, uniforms))
    else:
        chosen = _invert(probabilities, uniforms)
    return chosen[:, 0], (logits.gather(-1, chosen) - log_total)[:, 0]


def _invert(probabilities: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Where each row's cumulative sum first exceeds its uniform number, [R, 1].

    First the piece of PIECE tokens is found, then the token in it: a sum over pieces is many
    times cheaper than a cumulative sum over the vocabulary. Both in float64, which not every
    device has.
    """
    if missing := -probabilities.shape[-1] % PIECE:
        probabilities = pad(probabilities, (0, missing))
    pieces = probabilities.unflatten(-1, (-1, PIECE))
    sums = pieces.sum(-1).cpu().double()
    target = torch.tensor(uniforms, dtype=torch.float64)[:, None] * sums.sum(-1, keepdim=True)
    piece, rest = _first_above(sums, target)
    rows = torch.arange(len(pieces), device=pieces.device)
    chosen = pieces[rows, piece[:, 0].to(pieces.device)]
    inside, _ = _first_above(chosen.cpu().double(), rest)
    return (piece * PIECE + inside).to(pieces.device)


def _first_above(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's cumulative sum first exceeds its target, and what of the target is left
    there; weights [R, n], the rest [R, 1].

    The target is kept below the row's total, and the sum only grows at a positive weight: a
    weight of zero is never chosen, whatever the rounding.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target, right=True)
    before = cumulative.gather(-1, index) - weights.gather(-1, index)
    return index, (target - before).clamp(min=0)


def _mix(value: int) -> int:
    """SplitMix64's finaliser, a bijection of 64-bit numbers."""
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
