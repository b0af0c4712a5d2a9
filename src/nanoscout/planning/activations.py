"""What a pass through a model's layers keeps in memory, found by running it without numbers.

On torch's meta device tensors have shapes and no contents. So the learner's own code (its
attention, layer checkpointing, adapters, whatever the architecture) runs over a model of one layer
and of two, while a dispatch mode adds up the sizes of the tensors that are alive. The difference is
what each further layer adds; long contexts are extrapolated in their length too. The vocabulary is
made small: embeddings and head are counted in memory.py.
"""

import copy
import math
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from nanoscout.engine.attention import run_layers
from nanoscout.engine.fast_layers import quicken_shapes
from nanoscout.models.lora import add_adapters
from nanoscout.recipe import LoraSpec
from nanoscout.rlvr.branch_attention import BLOCK_ELEMENTS
from nanoscout.rlvr.packing import Branch, MicroBatch
from nanoscout.rlvr.scoring import BranchPlan, Prefix, checkpointed_layers

LINEAR_FROM = 1_024
"""Tokens from which on memory is linear in them, if their attention goes block by block then."""
FEW = 64
"""Tokens of the small vocabulary."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes, besides weights and what is summed up in gradients."""

    kept: float
    """When the forward pass through the layers is done."""
    peak: float
    """At the most, in that pass and the one back."""


def empty_model(
    config: PretrainedConfig, dtype: torch.dtype, layers: int, lora: LoraSpec | None
) -> PreTrainedModel:
    """The model with so many layers, its adapters added, on the meta device."""
    config = copy.deepcopy(config)
    if layers < config.num_hidden_layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        if lora:
            add_adapters(model, lora, seed=0)
            for param in model.parameters():  # On this device, peft leaves its own in float32.
                param.data = param.data.to(dtype)
    return model


def activations(
    config: PretrainedConfig,
    dtype: torch.dtype,
    tokens: int,
    *,
    device_type: str = "cpu",
    lora: LoraSpec | None = None,
    checkpoint_layers: bool = False,
    backward: bool = True,
) -> Activations:
    """Of a sequence of so many tokens, on such a device.

    Without `backward` as under no_grad: what the engine's pass needs, or the reference model's.
    """
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = FEW, None

    def of_layers(layers: int, tokens: int) -> Activations:
        model = empty_model(small, dtype, layers, lora)
        quicken_shapes(model, device_type)
        with checkpointed_layers(model) if checkpoint_layers else nullcontext():
            return _pass(model, tokens, backward)

    def of(tokens: int) -> Activations:
        one, layers = of_layers(1, tokens), small.num_hidden_layers
        return one if layers == 1 else _extrapolate(one, of_layers(2, tokens), layers - 1)

    start = max(LINEAR_FROM, math.ceil(math.sqrt(BLOCK_ELEMENTS / small.num_attention_heads)))
    if tokens <= 2 * start:  # beyond, so many blocks would take long
        return of(tokens)
    return _extrapolate(of(start), of(2 * start), tokens / start - 1)


def _pass(model: PreTrainedModel, tokens: int, backward: bool) -> Activations:
    for param in model.parameters():
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(_drop_gradient)
    ids = torch.zeros(tokens, dtype=torch.long, device="meta")
    known = [*model.parameters(), *model.buffers()]
    with torch.set_grad_enabled(backward), LiveBytes(known) as live:
        plan = BranchPlan(Prefix(model, ids[:0]), _one_branch(ids))
        hidden = run_layers(model, ids, ids, plan)
        kept = live.now
        if backward:
            hidden.backward(torch.empty_like(hidden))
    return Activations(kept, live.peak)


def _extrapolate(first: Activations, second: Activations, steps: float) -> Activations:
    """From `first`, so many times the step to `second`."""
    return Activations(
        first.kept + steps * (second.kept - first.kept),
        first.peak + steps * (second.peak - first.peak),
    )


def _one_branch(ids: Tensor) -> MicroBatch:
    """A micro-batch of one sequence; all that is not for the layers is empty."""
    none = ids[:0]
    return MicroBatch(
        token_ids=ids,
        positions=ids,
        branches=(Branch(0, len(ids), torch.zeros(0, dtype=torch.long)),),
        predictors=none,
        source=none,
        targets=none,
        old_logprobs=none,
        advantages=none,
        weights=none,
    )


def _drop_gradient(param: Tensor) -> None:
    param.grad = None


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of a device's storages that are alive, except for those it is given."""

    def __init__(self, known: Sequence[Tensor], device: str = "meta"):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._device = device
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
