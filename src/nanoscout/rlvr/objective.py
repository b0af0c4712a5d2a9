"""DAPO's token-level objective as one pure function on flat tensors (arXiv 2503.14476, eq. 8)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    loss: Tensor
    """Scalar with gradient; the losses of all micro-batches of a step add up to the step's loss."""
    stats: dict[str, float]
    """Sums over these tokens (divide by their number), except `gap_max`, a maximum."""


def dapo_objective(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    total_tokens: int,
    clip_low: float,
    clip_high: float,
    ref_logprobs: Tensor | None = None,
    kl: float = 0.0,
) -> Objective:
    """-(1/N) sum min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), with r = exp(new - old).

    All tensors are float32 [n], one entry a sampled token: the learner's log-probability, the
    engine's at sampling time, the advantage of the token's trajectory. `total_tokens` is N, the
    number of sampled tokens of the *whole* optimiser step, so that the gradient does not depend
    on how the step is cut into micro-batches. With `ref_logprobs`, kl * k3 is added to each
    token's loss (Schulman's estimator: exp(d) - d - 1, d = ref - new).
    """
    gap = logprobs - old_logprobs
    ratio = gap.exp()
    clipped_ratio = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    token_loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    stats = {
        "ratio": ratio.detach().sum().item(),
        "clipped": (clipped_ratio * advantages < ratio * advantages).sum().item(),
        "gap": gap.detach().abs().sum().item(),
        "gap_max": gap.detach().abs().max().item() if len(gap) else 0.0,
    }
    if ref_logprobs is not None:
        difference = ref_logprobs - logprobs
        divergence = difference.exp() - difference - 1.0
        token_loss = token_loss + kl * divergence
        stats["kl"] = divergence.detach().sum().item()
    return Objective(token_loss.sum() / total_tokens, stats)
