"""Loss and gradient of a step are those of TRL's GRPOTrainer, for each of the three losses."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from datasets import Dataset
from test_learner import build, flat, ragged_samples
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from nanoscout.models.tiny import tokenizer
from nanoscout.recipe import Loss, ObjectiveSpec, OptimiserSpec
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Sample

MAX_TOKENS = 64
PROMPT = 20
"""Tokens with which all samples begin."""


def trl_trainer(
    model: PreTrainedModel, spec: ObjectiveSpec, samples: int, folder: Path
) -> GRPOTrainer:
    config = GRPOConfig(
        output_dir=str(folder),
        loss_type=spec.loss,
        beta=spec.kl,
        use_bias_correction_kl=False,  # the later estimator of DeepSeek-V3.2, which ours is not
        epsilon=spec.clip_low,
        epsilon_high=spec.clip_high,
        num_generations=samples,
        per_device_train_batch_size=samples,
        max_completion_length=MAX_TOKENS,
        activation_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["?"] * samples}),
        processing_class=tokenizer("tiny:qwen3"),
    )


def trl_inputs(samples: list[Sample], reference: PreTrainedModel) -> dict[str, Tensor]:
    """The samples as TRL has them: one prompt, padded completions, a mask for the tools' tokens."""

    def padded(rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True)

    completions = [torch.tensor(sample.token_ids[PROMPT:]) for sample in samples]
    sampled = padded([torch.tensor(sample.sampled[PROMPT:]).long() for sample in samples])
    with torch.no_grad():
        scores = [
            reference(torch.tensor([sample.token_ids])).logits[0, PROMPT - 1 : -1].log_softmax(-1)
            for sample in samples
        ]
    return {
        "prompt_ids": torch.tensor([sample.token_ids[:PROMPT] for sample in samples]),
        "prompt_mask": torch.ones(len(samples), PROMPT, dtype=torch.long),
        "completion_ids": padded(completions),
        "completion_mask": padded([torch.ones_like(ids) for ids in completions]),
        "tool_mask": sampled,
        "advantages": torch.tensor([sample.advantage for sample in samples]),
        "old_per_token_logps": padded([torch.tensor(s.logprobs[PROMPT:]) for s in samples]),
        "ref_per_token_logps": padded(
            [
                row.gather(1, ids[:, None])[:, 0]
                for row, ids in zip(scores, completions, strict=True)
            ]
        ),
        "num_items_in_batch": sampled.sum(),
    }


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("loss", get_args(Loss))
def test_loss_and_gradient_are_trls(loss: Loss, kl: float, tmp_path: Path) -> None:
    spec = ObjectiveSpec(loss=loss, kl=kl)
    samples = ragged_samples(seed=8)
    samples[1] = replace(samples[1], advantage=0.0)
    ours, reference = build(), build()
    reference.save_pretrained(tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    learner = Learner(ours, OptimiserSpec(microbatch_tokens=50), spec)
    for model in (ours, theirs):  # away from the reference, so that the KL penalty has a gradient
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    stats = learner.accumulate_gradients(learner.pack(samples, MAX_TOKENS), temperature=1.0)

    trainer = trl_trainer(theirs, spec, len(samples), tmp_path)
    value = trainer._compute_loss(theirs.eval(), trl_inputs(samples, reference))
    value.backward()
    wanted = [torch.zeros_like(p) if p.grad is None else p.grad for p in theirs.parameters()]
    assert stats["loss"] == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
    error = (flat(learner.optimiser.gradients()) - flat(wanted)).norm() / flat(wanted).norm()
    assert error < 1e-4
