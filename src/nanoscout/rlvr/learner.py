"""One optimiser step of DAPO on a batch of samples: pack, score, differentiate, update."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from nanoscout.recipe import DapoSpec, OptimiserSpec
from nanoscout.rlvr.objective import dapo_objective
from nanoscout.rlvr.optimiser import MasterAdamW
from nanoscout.rlvr.packing import PackedBatch, Sample, pack
from nanoscout.rlvr.scoring import Prefix, score_tokens


@dataclass(frozen=True, slots=True)
class StepStats:
    """Means over the step's sampled tokens, unless said otherwise."""

    tokens: int
    """Sampled tokens whose loss was taken."""
    computed_tokens: int
    """Tokens that went through the model, the shared ones once."""
    packed_from: int
    """Tokens of the same samples laid end to end."""
    entropy: float
    ratio: float
    clipped: float
    gap: float
    """|log p (learner) - log p (engine)|."""
    gap_max: float
    kl: float
    grad_norm: float
    lr: float


class Learner:
    def __init__(
        self,
        model: PreTrainedModel,
        optimiser: OptimiserSpec,
        dapo: DapoSpec,
        banned_ids: Sequence[int] = (),
    ):
        self.model = model
        self.optimiser = MasterAdamW(model, optimiser)
        self.updates = 0
        self._microbatch_tokens = optimiser.microbatch_tokens
        self._dapo = dapo
        self._banned_ids = tuple(banned_ids)
        self._reference = copy.deepcopy(model).requires_grad_(False) if dapo.kl > 0 else None

    def step(self, samples: Sequence[Sample], temperature: float = 1.0) -> StepStats:
        """Update the model on `samples`, all of them with at least one sampled token."""
        batch = pack(samples, self._microbatch_tokens)
        sums = self.accumulate_gradients(batch, temperature)
        grad_norm, lr = self.optimiser.step(self.updates)
        self.updates += 1
        tokens = batch.total_tokens
        return StepStats(
            tokens=tokens,
            computed_tokens=len(batch.prefix_ids)
            + sum(len(micro_batch.token_ids) for micro_batch in batch.micro_batches),
            packed_from=sum(len(sample.token_ids) for sample in samples),
            entropy=sums["entropy"] / tokens,
            ratio=sums["ratio"] / tokens,
            clipped=sums["clipped"] / tokens,
            gap=sums["gap"] / tokens,
            gap_max=sums["gap_max"],
            kl=sums["kl"] / tokens,
            grad_norm=grad_norm,
            lr=lr,
        )

    def accumulate_gradients(self, batch: PackedBatch, temperature: float) -> dict[str, float]:
        """Add the step's gradient to the masters'; returns sums over its sampled tokens."""
        sums = dict.fromkeys(("entropy", "ratio", "clipped", "gap", "gap_max", "kl"), 0.0)
        prefix = Prefix(self.model, batch.prefix_ids)
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
            objective = dapo_objective(
                scores.logprobs,
                micro_batch.old_logprobs.to(scores.logprobs.device),
                micro_batch.advantages.to(scores.logprobs.device),
                total_tokens=batch.total_tokens,
                clip_low=self._dapo.clip_low,
                clip_high=self._dapo.clip_high,
                ref_logprobs=ref_logprobs,
                kl=self._dapo.kl,
            )
            objective.loss.backward()
            sums["entropy"] += scores.entropy
            for name, value in objective.stats.items():
                sums[name] = max(sums[name], value) if name == "gap_max" else sums[name] + value
        prefix.backward()
        return sums

    @torch.no_grad()
    def agreement(self, samples: Sequence[Sample], temperature: float) -> tuple[float, float]:
        """(mean |gap|, mean ratio) between learner's and engine's log-probabilities."""
        batch = pack(samples, self._microbatch_tokens)
        prefix = Prefix(self.model, batch.prefix_ids)
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
            return Prefix(self._reference, batch.prefix_ids)
