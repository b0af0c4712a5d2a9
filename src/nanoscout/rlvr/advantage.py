"""Group-relative advantages, and which groups carry a signal at all (DAPO, arXiv 2503.14476)."""

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Scores closer than this are the same score: float noise is no signal."""


def group_advantages(returns: Sequence[float], *, scaled: bool = True) -> Tensor:
    """(R - mean) / std over the G returns of one question (DAPO eq. 9); float32 [G].

    std is the unbiased one, as in the authors' code; Dr.GRPO leaves it out (`scaled=False`). A
    group of equal returns gets zeros.
    """
    values = torch.tensor(returns, dtype=torch.float64)
    centred = values - values.mean()
    if centred.abs().max() <= TOLERANCE:
        return torch.zeros(len(returns))
    return (centred / values.std() if scaled else centred).float()


def is_informative(correctness: Sequence[float]) -> bool:
    """Whether the rollouts of a group differ in correctness (DAPO eq. 11's constraint).

    Judged on correctness, never on the shaped return: a group that is all wrong in different
    ways would otherwise teach manners in place of answers.
    """
    return max(correctness) - min(correctness) > TOLERANCE
