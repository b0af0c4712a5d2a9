"""One optimiser step on a batch of samples: weigh, pack, score, differentiate, update."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import torch
from transformers import PreTrainedModel

from nanoscout import memory
from nanoscout.recipe import ObjectiveSpec, OptimiserSpec
from nanoscout.rlvr.objective import policy_objective, token_weights
from nanoscout.rlvr.optimiser import MasterAdamW, learning_rate
from nanoscout.rlvr.packing import PackedBatch, Sample, pack
from nanoscout.rlvr.scoring import Prefix, checkpointed_layers, score_tokens


@dataclass(frozen=True, slots=True)
class StepStats:
    """Means over the step's sampled tokens, unless said otherwise."""

    tokens: int
    """Sampled tokens whose loss was taken."""
    computed_tokens: int
    """Tokens that went through the model, the shared ones once."""
    packed_from: int
    """Tokens of the same samples laid end to end."""
    loss: float
    """Of the step."""
    entropy: float
    ratio: float
    clipped: float
    gap: float
    """|log p (learner) - log p (engine)|."""
    gap_max: float
    kl: float
    grad_norm: float
    lr: float


def mean_stats(steps: Sequence[StepStats]) -> StepStats | None:
    """Of a batch's optimiser steps: sums of token counts, the largest gap, means of the rest."""
    if not steps:
        return None
    counts = ("tokens", "computed_tokens", "packed_from")
    tokens = sum(step.tokens for step in steps)
    merged: dict[str, float] = {}
    for name in (field.name for field in fields(StepStats)):
        values = [getattr(step, name) for step in steps]
        if name in counts:
            merged[name] = sum(values)
        elif name == "gap_max":
            merged[name] = max(values)
        else:
            weighted = zip(values, steps, strict=True)
            merged[name] = sum(value * step.tokens for value, step in weighted) / tokens
    return StepStats(**merged)  # type: ignore[arg-type]


class Learner:
    def __init__(
        self,
        model: PreTrainedModel,
        optimiser: OptimiserSpec,
        objective: ObjectiveSpec,
        banned_ids: Sequence[int] = (),
        total_updates: int = 1,
    ):
        """`total_updates`: optimiser steps of the whole run, for the learning rate's schedule."""
        if not optimiser.checkpoint_layers:  # which is to say that memory matters more than time
            memory.keep()
        self.model = model
        self.optimiser = MasterAdamW(model, optimiser)
        self.updates = 0
        self._total_updates = total_updates
        self._checkpoint_layers = optimiser.checkpoint_layers
        self._microbatch_tokens = optimiser.microbatch_tokens
        self._attention = optimiser.attention
        self._objective = objective
        self._banned_ids = tuple(banned_ids)
        self._reference = copy.deepcopy(model).requires_grad_(False) if objective.kl > 0 else None

    def step(
        self, samples: Sequence[Sample], temperature: float = 1.0, max_tokens: int = 1
    ) -> StepStats | None:
        """Update the model on `samples`, all of them with at least one sampled token.

        `max_tokens`: most tokens that a sample can have (for dr_grpo). None, and no update, where
        no sample has an advantage.
        """
        if all(sample.advantage == 0.0 for sample in samples):
            return None
        batch = self.pack(samples, max_tokens)
        with checkpointed_layers(self.model) if self._checkpoint_layers else nullcontext():
            sums = self.accumulate_gradients(batch, temperature)
        lr = learning_rate(self.optimiser.spec, self.updates, self._total_updates)
        grad_norm = self.optimiser.step(lr)
        self.updates += 1
        tokens = batch.total_tokens
        return StepStats(
            tokens=tokens,
            computed_tokens=len(batch.prefix_ids)
            + sum(len(micro_batch.token_ids) for micro_batch in batch.micro_batches),
            packed_from=batch.packed_from,
            loss=sums["loss"],
            entropy=sums["entropy"] / tokens,
            ratio=sums["ratio"] / tokens,
            clipped=sums["clipped"] / tokens,
            gap=sums["gap"] / tokens,
            gap_max=sums["gap_max"],
            kl=sums["kl"] / tokens,
            grad_norm=grad_norm,
            lr=lr,
        )

    def pack(self, samples: Sequence[Sample], max_tokens: int = 1) -> PackedBatch:
        """The samples of an optimiser step with their weights in its loss, cut into micro-batches.

        A sample of no advantage counts in the others' weights but, unless there is a KL penalty,
        needs no pass through the model.
        """
        lengths = [sample.sampled_tokens for sample in samples]
        wholes = [sample.conversation_tokens or sample.sampled_tokens for sample in samples]
        weights = token_weights(lengths, self._objective.loss, max_tokens, wholes)
        weighted = [
            replace(sample, weight=weight)
            for sample, weight in zip(samples, weights, strict=True)
            if sample.advantage != 0.0 or self._objective.kl > 0
        ]
        return pack(weighted, self._microbatch_tokens)

    def accumulate_gradients(self, batch: PackedBatch, temperature: float) -> dict[str, float]:
        """Add the step's gradient to the masters'; returns its loss, and sums over its tokens."""
        sums = dict.fromkeys(("loss", "entropy", "ratio", "clipped", "gap", "gap_max", "kl"), 0.0)
        prefix = Prefix(self.model, batch.prefix_ids, self._attention)
        reference_prefix = self._reference_prefix(batch)
        for micro_batch in batch.micro_batches:
            scores = score_tokens(
                self.model,
                prefix,
                micro_batch,
                temperature=temperature,
                banned_ids=self._banned_ids,
            )
            ref_logprobs = None
            if self._reference is not None and reference_prefix is not None:
                with torch.no_grad():
                    ref_logprobs = score_tokens(
                        self._reference,
                        reference_prefix,
                        micro_batch,
                        temperature=temperature,
                        banned_ids=self._banned_ids,
                    ).logprobs
            objective = policy_objective(
                scores.logprobs,
                micro_batch.old_logprobs.to(scores.logprobs.device),
                micro_batch.advantages.to(scores.logprobs.device),
                micro_batch.weights.to(scores.logprobs.device),
                clip_low=self._objective.clip_low,
                clip_high=self._objective.clip_high,
                ref_logprobs=ref_logprobs,
                kl=self._objective.kl,
            )
            objective.loss.backward()
            sums["loss"] += objective.loss.item()
            sums["entropy"] += scores.entropy
            for name, value in objective.stats.items():
                sums[name] = max(sums[name], value) if name == "gap_max" else sums[name] + value
        prefix.backward()
        return sums

    @torch.no_grad()
    def agreement(self, samples: Sequence[Sample], temperature: float) -> tuple[float, float]:
        """(mean |gap|, mean ratio) between learner's and engine's log-probabilities."""
        batch = pack(samples, self._microbatch_tokens)
        prefix = Prefix(self.model, batch.prefix_ids, self._attention)
        gaps = torch.cat(
            [
                score_tokens(
                    self.model,
                    prefix,
                    micro_batch,
                    temperature=temperature,
                    banned_ids=self._banned_ids,
                ).logprobs.cpu()
                - micro_batch.old_logprobs
                for micro_batch in batch.micro_batches
            ]
        )
        return gaps.abs().mean().item(), gaps.exp().mean().item()

    def _reference_prefix(self, batch: PackedBatch) -> Prefix | None:
        if self._reference is None:
            return None
        with torch.no_grad():
            return Prefix(self._reference, batch.prefix_ids, self._attention)
