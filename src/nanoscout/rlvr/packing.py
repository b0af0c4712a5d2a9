"""Packing: every token that several trajectories share is computed once.

The trajectories of a batch begin alike: all of them with the worked examples, those of a group
with the question too, and often with the same call and its result. Two trajectories that agree on
all tokens up to t have the same hidden states up to t, so a batch is a tree of tokens.

 - What *all* trajectories share is the batch's prefix. The learner runs it once a step.
 - The rest is cut into micro-batches by a budget of distinct tokens. Sorted by their ids, each
   trajectory adds to its micro-batch a *branch*: the tokens after the longest common prefix with
   its predecessor. A branch attends to the batch's prefix, to its ancestors in the micro-batch
   and causally to itself, which is all that the whole sequence would have attended to.

The loss is exact: a shared sampled token appears once in the forward pass and once a trajectory
in the loss, with that trajectory's advantage and sampling log-probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """What the learner needs of a trajectory, or of a stretch of one whose history was rewritten;
    the three lists have the same length T."""

    token_ids: Sequence[int]
    sampled: Sequence[bool]
    logprobs: Sequence[float]
    advantage: float
    weight: float = 1.0
    """Of each of its sampled tokens in the step's loss."""
    conversation_tokens: int = 0
    """Sampled tokens of the whole trajectory; 0: this is all of it."""

    @property
    def sampled_tokens(self) -> int:
        return sum(self.sampled)


@dataclass(frozen=True, slots=True)
class Branch:
    """Flat rows `start:end` are new tokens; `ancestors` are the flat rows they continue."""

    start: int
    end: int
    ancestors: Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """N distinct tokens after the batch's prefix, and the n sampled tokens whose loss is taken."""

    token_ids: Tensor
    """int64 [N]"""
    positions: Tensor
    """int64 [N], counted from the beginning of the sequence, prefix included."""
    branches: tuple[Branch, ...]
    predictors: Tensor
    """int64 [p]: distinct rows whose next token is sampled in some trajectory."""
    source: Tensor
    """int64 [n]: index into `predictors` of the row that predicts each sampled token; ascending."""
    targets: Tensor
    """int64 [n]"""
    old_logprobs: Tensor
    """float32 [n]"""
    advantages: Tensor
    """float32 [n]"""
    weights: Tensor
    """float32 [n]"""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    prefix_ids: Tensor
    """int64 [P]: the tokens with which every sample begins; may be empty."""
    micro_batches: tuple[MicroBatch, ...]
    total_tokens: int
    """Sampled tokens in all micro-batches."""
    packed_from: int
    """Tokens of the samples laid end to end."""


def pack(samples: Sequence[Sample], microbatch_tokens: int) -> PackedBatch:
    """Pack the samples of one optimiser step; a sample longer than the budget stands alone."""
    prefix = _shared_prefix(samples)
    ordered = sorted(samples, key=lambda sample: list(sample.token_ids))
    micro_batches: list[list[Sample]] = []
    room = 0
    for index, sample in enumerate(ordered):
        length = len(sample.token_ids) - prefix
        shared = (
            common_prefix(ordered[index - 1].token_ids, sample.token_ids) - prefix if index else 0
        )
        if index and length - shared <= room:
            micro_batches[-1].append(sample)
            room -= length - shared
        else:
            micro_batches.append([sample])
            room = microbatch_tokens - length
    return PackedBatch(
        prefix_ids=torch.tensor(list(samples[0].token_ids[:prefix]), dtype=torch.long),
        micro_batches=tuple(_micro_batch(members, prefix) for members in micro_batches),
        total_tokens=sum(sample.sampled_tokens for sample in samples),
        packed_from=sum(len(sample.token_ids) for sample in samples),
    )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def _shared_prefix(samples: Sequence[Sample]) -> int:
    """Tokens common to all samples, short of the row that predicts the first sampled token."""
    first = samples[0].token_ids
    shared = min(common_prefix(first, sample.token_ids) for sample in samples)
    first_predictor = min(list(sample.sampled).index(True) - 1 for sample in samples)
    return max(0, min(shared, first_predictor))


def _micro_batch(samples: list[Sample], prefix: int) -> MicroBatch:
    token_ids: list[int] = []
    positions: list[int] = []
    branches: list[Branch] = []
    predictor_index: dict[int, int] = {}
    # source, target, old log-probability, advantage, weight
    taken: list[tuple[int, int, float, float, float]] = []
    rows: list[int] = []  # flat row of each token of the current sample after the prefix
    previous: Sequence[int] = ()
    for sample in samples:
        tail = sample.token_ids[prefix:]
        shared = common_prefix(previous, tail)
        start = len(token_ids)
        rows = rows[:shared] + list(range(start, start + len(tail) - shared))
        token_ids.extend(tail[shared:])
        positions.extend(range(prefix + shared, prefix + len(tail)))
        if len(tail) > shared:
            branches.append(
                Branch(start, len(token_ids), torch.tensor(rows[:shared], dtype=torch.long))
            )
        for position, (token, sampled) in enumerate(
            zip(tail, sample.sampled[prefix:], strict=True)
        ):
            if sampled:
                row = rows[position - 1]
                source = predictor_index.setdefault(row, len(predictor_index))
                logprob = sample.logprobs[prefix + position]
                taken.append((source, token, logprob, sample.advantage, sample.weight))
        previous = tail
    taken.sort(key=lambda entry: entry[0])
    return MicroBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        branches=tuple(branches),
        predictors=torch.tensor(list(predictor_index), dtype=torch.long),
        source=torch.tensor([entry[0] for entry in taken], dtype=torch.long),
        targets=torch.tensor([entry[1] for entry in taken], dtype=torch.long),
        old_logprobs=torch.tensor([entry[2] for entry in taken], dtype=torch.float32),
        advantages=torch.tensor([entry[3] for entry in taken], dtype=torch.float32),
        weights=torch.tensor([entry[4] for entry in taken], dtype=torch.float32),
    )
