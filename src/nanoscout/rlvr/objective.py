"""The policy objective as pure functions on flat tensors: DAPO's, and its two next of kin.

All three clip the same importance ratio, token by token. They differ in what a token weighs
(`token_weights`) and in whether the advantages are divided by their deviation
(`advantage.group_advantages`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanoscout.recipe import Loss


@dataclass(frozen=True)
class Objective:
    loss: Tensor
    """Scalar with gradient; the losses of all micro-batches of a step add up to the step's loss."""
    stats: dict[str, float]
    """Sums over these tokens (divide by their number), except `gap_max`, a maximum."""


def token_weights(
    lengths: Sequence[int], loss: Loss, max_tokens: int, wholes: Sequence[int] | None = None
) -> list[float]:
    """The weight of every sampled token in the loss of an optimiser step, for each of its samples.

    `lengths`: sampled tokens of each sample of the *whole* step; so the gradient does not depend
    on how the step is cut into micro-batches. `max_tokens`: most that a trajectory can have
    (L_max). `wholes`: sampled tokens of each sample's trajectory, where that may be several
    samples; S is the number of trajectories, and a sample's length that of its trajectory.

    dapo: 1 / sum of lengths, the same for all tokens of the step (arXiv 2503.14476, eq. 8).
    grpo: 1 / (S length), the same for all trajectories of the step (arXiv 2402.03300, eq. 3).
    dr_grpo: 1 / (S L_max), a constant: no length counts (arXiv 2503.20783, section 3.2).
    """
    wholes = lengths if wholes is None else wholes
    trajectories = round(sum(length / whole for length, whole in zip(lengths, wholes, strict=True)))
    match loss:
        case "dapo":
            return [1.0 / sum(lengths)] * len(lengths)
        case "grpo":
            return [1.0 / (trajectories * whole) for whole in wholes]
        case "dr_grpo":
            return [1.0 / (trajectories * max_tokens)] * len(lengths)


def policy_objective(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    ref_logprobs: Tensor | None = None,
    kl: float = 0.0,
) -> Objective:
    """-sum w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), with r = exp(new - old).

    All tensors are float32 [n], one entry a sampled token: the learner's log-probability, the
    engine's at sampling time, the advantage of the token's trajectory, the token's weight. With
    `ref_logprobs`, kl * k3 is added to each token's loss (Schulman's estimator: exp(d) - d - 1,
    d = ref - new).
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
    return Objective((weights * token_loss).sum(), stats)
