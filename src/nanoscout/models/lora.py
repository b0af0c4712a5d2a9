"""Low-rank adapters (LoRA, arXiv 2106.09685) on every linear layer, by the library peft.

The model stays the same object: its linear layers are wrapped while it is trained and restored,
with the adapters added to their weights, at the end. Only the adapters are trained, so gradients,
optimiser state and checkpoints shrink to a few hundredths.
"""

import peft
import torch
from transformers import PreTrainedModel

from nanoscout.recipe import LoraSpec


def add_adapters(model: PreTrainedModel, spec: LoraSpec, seed: int) -> peft.PeftModel:
    """Wrap the linear layers of `model`, the head excepted; its outputs stay what they are."""
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules="all-linear",
        task_type=peft.TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def merge_adapters(adapted: peft.PeftModel) -> None:
    """Add the adapters to the weights of the model they were added to, and unwrap its layers."""
    adapted.merge_and_unload()
