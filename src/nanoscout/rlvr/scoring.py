"""Log-probabilities of sampled tokens over a packed batch, with gradients.

The batch's prefix runs once, with its graph kept. Each micro-batch attends to *leaf copies* of the
prefix's keys and values, so that its own graph can be freed as soon as it was differentiated; the
gradients collect on the leaves and go through the prefix once, at the end. That is the chain rule
cut at the keys and values: the same gradient as one sequence at a time, at a fraction of the work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from nanoscout.engine.attention import head_logits, run_layers, torch_device
from nanoscout.rlvr.branch_attention import branch_attention
from nanoscout.rlvr.chosen import chosen_logprobs
from nanoscout.rlvr.flex_attention import FlexBranches
from nanoscout.rlvr.packing import Branch, MicroBatch

HEAD_ROWS = 512
"""Rows that go through the language-model head at once: bounds the memory of logits."""


@contextmanager
def checkpointed_layers(model: PreTrainedModel) -> Iterator[None]:
    """Within, layers keep only their input for the backward pass, and compute the rest again.

    A layer asks its own `training` flag whether to; its dropouts have theirs, which stay off.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        model.activation_checkpointing_disable()


class Prefix:
    """The batch's common tokens: keys and values of each layer, with their graph where wanted.

    `attention`: OptimiserSpec's; the micro-batches' too.
    """

    def __init__(self, model: PreTrainedModel, token_ids: Tensor, attention: str = "products"):
        self.length = len(token_ids)
        self.device = torch_device(model)
        self.attention = attention
        self._computed: list[tuple[Tensor, Tensor]] = []
        self._complete = False
        self.layers: list[tuple[Tensor, Tensor]] = []
        """Per layer: key and value leaves [kv_heads, P, head_dim]; empty for an empty prefix."""
        if self.length:
            whole = Branch(0, self.length, torch.arange(0, device=self.device))
            self._attend = _attention(attention, [whole], 0, self.device)
            positions = torch.arange(self.length, device=self.device)
            run_layers(model, token_ids.to(self.device), positions, self)
            self._complete = True
            wanted = torch.is_grad_enabled()
            self.layers = [
                (key.detach().requires_grad_(wanted), value.detach().requires_grad_(wanted))
                for key, value in self._computed
            ]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        if not self._complete:  # a checkpointed layer comes by once more in the backward pass
            self._computed.append((key, value))
        past = (key[:, :0], value[:, :0])
        return self._attend(query, key, value, past, scaling)

    def backward(self) -> None:
        """Send what the micro-batches left on the leaves through the prefix, and free its graph."""
        pairs = [
            (computed, leaf.grad)
            for computed_pair, leaf_pair in zip(self._computed, self.layers, strict=True)
            for computed, leaf in zip(computed_pair, leaf_pair, strict=True)
            if leaf.grad is not None
        ]
        if pairs:
            tensors, gradients = zip(*pairs, strict=True)
            torch.autograd.backward(list(tensors), list(gradients))
        self._computed.clear()


class BranchPlan:
    """Attention of a micro-batch: each branch sees the prefix, its ancestors and itself."""

    def __init__(self, prefix: Prefix, micro_batch: MicroBatch):
        self._prefix = prefix
        branches = [
            replace(branch, ancestors=branch.ancestors.to(prefix.device))
            for branch in micro_batch.branches
        ]
        self._attend = _attention(prefix.attention, branches, prefix.length, prefix.device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        past = self._prefix.layers[layer] if self._prefix.length else (key[:, :0], value[:, :0])
        return self._attend(query, key, value, past, scaling)


def _attention(
    attention: str, branches: Sequence[Branch], past: int, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], float], Tensor]:
    if attention == "flex":
        return FlexBranches(branches, past, device)
    return partial(branch_attention, branches)


@dataclass(frozen=True, slots=True)
class TokenScores:
    logprobs: Tensor
    """float32 [n]: log-probability of each sampled token, with gradient."""
    entropy: float
    """Sum over the n tokens of the policy's entropy, in nats."""


def score_tokens(
    model: PreTrainedModel,
    prefix: Prefix,
    micro_batch: MicroBatch,
    *,
    temperature: float = 1.0,
    banned_ids: Sequence[int] = (),
) -> TokenScores:
    """Score a micro-batch under softmax(logits / temperature), banned tokens left out."""
    device = torch_device(model)
    plan = BranchPlan(prefix, micro_batch)
    hidden = run_layers(
        model, micro_batch.token_ids.to(device), micro_batch.positions.to(device), plan
    )
    predictors = hidden[micro_batch.predictors.to(device)]
    source = micro_batch.source.to(device)
    targets = micro_batch.targets.to(device)
    banned = torch.tensor(list(banned_ids), dtype=torch.long, device=device)

    def chunk(rows: Tensor, wanted_rows: Tensor, wanted_ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = head_logits(model, rows)
        chosen, entropies = chosen_logprobs(logits, wanted_rows, wanted_ids, temperature, banned)
        return chosen, entropies[wanted_rows].sum()

    # Few logits are kept; many are computed again in the backward pass, one piece at a time.
    again = len(predictors) > HEAD_ROWS
    logprobs = []
    entropy = 0.0
    for start in range(0, len(predictors), HEAD_ROWS):
        bounds = torch.tensor([start, start + HEAD_ROWS], device=device)
        first, last = torch.searchsorted(source, bounds).tolist()
        piece = (
            predictors[start : start + HEAD_ROWS],
            source[first:last] - start,
            targets[first:last],
        )
        chosen, chunk_entropy = (
            checkpoint(chunk, *piece, use_reentrant=False) if again else chunk(*piece)
        )
        logprobs.append(chosen)
        entropy += chunk_entropy.item()
    return TokenScores(torch.cat(logprobs), entropy)
