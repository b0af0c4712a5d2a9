"""Bytes that a run needs at the most, part by part: its conversations fill their context.

Two moments decide. While conversations are rolled out, the cache of their keys and values is
there; while the learner goes through them, gradients and activations are. Weights, the float32
masters and AdamW's two moments are always there (rlvr/optimiser.py), as is the untrained model
where there is a KL penalty. Benchmarks hold it against measured peaks (benchmarks/plan_memory.py).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from nanoscout.engine.cached_attention import LEAST_TOKENS, PORTION
from nanoscout.engine.kv_cache import GRAIN, ROWS, CacheShape
from nanoscout.engine.packed_linear import is_packed
from nanoscout.engine.torch_engine import PREFILL_TOKENS
from nanoscout.planning.activations import Activations, activations, empty_model
from nanoscout.recipe import OptimiserSpec, Recipe
from nanoscout.rlvr.chosen import FLOAT_ROWS
from nanoscout.rlvr.scoring import HEAD_ROWS

RUNTIME = 450_000_000
"""Python, torch, the other libraries, the tokenizer and the index."""
SLACK = 450_000_000
"""What the C library keeps unused between pieces in use: about so much where it was measured."""
FLOAT32 = 4
"""Bytes of a master weight, and of its gradient."""
FLOAT_COPIES = 3
"""Of the logits that are in float32 at once: scaled, their softmax, a passing one."""
SAMPLING_BYTES = 12
"""For each logit of a sampled row, besides the logit: two float32 copies and a padded one
(engine/sampling.py)."""
SCORES = 3
"""Copies of the attention scores of a block in the engine: joined, masked, their softmax."""
INT8_LEAST, INT8_BLOCK, INT8_COPIES = 4_096, 256, 4
"""8-bit moments: of larger tensors, with a scale for so many; float32 copies in a step on a CPU."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. The larger of the two moments is what must fit."""

    runtime: float
    weights: float
    """With their packed copies, where the engine makes some (engine/packed_linear.py)."""
    reference: float
    """The untrained model, for the KL penalty."""
    optimiser: float
    """Masters and moments."""
    kv_cache: float
    """While rolling out."""
    decoding: float
    """While rolling out: one step of the engine."""
    gradients: float
    """While learning."""
    activations: float
    """While learning."""

    @property
    def rolling_out(self) -> float:
        return self._always + self.kv_cache + self.decoding

    @property
    def learning(self) -> float:
        return self._always + self.gradients + self.activations

    @property
    def peak(self) -> float:
        return max(self.rolling_out, self.learning)

    @property
    def _always(self) -> float:
        return self.runtime + self.weights + self.reference + self.optimiser


@dataclass(frozen=True, slots=True)
class ModelSize:
    parameters: int
    trained: tuple[int, ...]
    """Weights of each trained tensor: of all of them, or the adapters'."""
    head: int
    """Weights of the language-model head that are trained."""
    tied: bool
    """Whether these are the embeddings' too."""
    kv_bytes: int
    """Of a token's keys and values in all layers."""
    linear: int
    """Weights of linear layers."""
    bytes_each: int
    """Of a weight."""

    def optimiser_bytes(self, spec: OptimiserSpec) -> int:
        """Masters and moments: what a checkpoint holds too."""
        return sum(count * FLOAT32 + _moments(count, spec) for count in self.trained)


def _moments(count: int, spec: OptimiserSpec) -> int:
    """Bytes of both moments of a tensor of so many weights."""
    if spec.state == "float32" or count < INT8_LEAST:
        return 2 * FLOAT32 * count
    return 2 * (count + FLOAT32 * -(-count // INT8_BLOCK))


class Estimator:
    """Estimates for one model on one kind of device; what was traced once is kept."""

    def __init__(self, config: PretrainedConfig, device: str):
        self._config = config
        self._device = device
        self._traced: dict[Any, Activations] = {}
        self._sizes: dict[Any, ModelSize] = {}

    def size(self, recipe: Recipe) -> ModelSize:
        key = (recipe.model.dtype, recipe.lora)
        if key not in self._sizes:
            self._sizes[key] = self._size(recipe)
        return self._sizes[key]

    def memory(self, recipe: Recipe) -> Memory:
        """What the recipe needs in the stage, or the evaluation, that needs the most."""
        uses = [(stage.context, stage.groups * stage.group_size) for stage in recipe.stage]
        asked = recipe.questions.held_out * recipe.evaluation.ways
        parts = [self._rolling_out(recipe, *use) for use in uses]
        parts += [self._rolling_out(recipe, recipe.evaluation.context, asked)] if asked else []
        size = self.size(recipe)
        packed = is_packed(self._device, getattr(torch, recipe.model.dtype))
        weights = (size.parameters + (size.linear if packed else 0)) * size.bytes_each
        return Memory(
            runtime=RUNTIME + (SLACK if self._device == "cpu" else 0),
            weights=weights,
            reference=weights if recipe.objective.kl > 0 else 0,
            optimiser=size.optimiser_bytes(recipe.optimiser),
            kv_cache=max(kv_cache for kv_cache, _ in parts),
            decoding=max(decoding for _, decoding in parts),
            gradients=FLOAT32 * sum(size.trained),
            activations=max(self._learning(recipe, context) for context, _ in uses),
        )

    def _rolling_out(self, recipe: Recipe, context: int, asked: int) -> tuple[float, float]:
        """KV cache as engine/kv_cache.py lays it out, and the rest of an engine step."""
        size = self.size(recipe)
        conversations = min(asked, recipe.engine.concurrency)
        rows = min(ROWS, recipe.engine.concurrency)
        kv_cache = size.kv_bytes * _round_up(conversations, rows) * _round_up(context, GRAIN)
        given = min(PREFILL_TOKENS, context)
        prefill = self._activations(recipe, given, backward=False).peak
        logits = conversations * self._config.vocab_size * (size.bytes_each + SAMPLING_BYTES)
        a_token = self._config.num_attention_heads * context
        portion = max(PORTION, LEAST_TOKENS * a_token)
        held = min(max(rows, given) * a_token, portion) * size.bytes_each * SCORES
        return kv_cache, max(prefill, logits) + held

    def _learning(self, recipe: Recipe, context: int) -> float:
        """The largest of: the head's turn, the layers' way back, the reference model's pass, the
        optimiser's step. A conversation is not cut: it may be longer than a micro-batch."""
        size = self.size(recipe)
        tokens = max(context, recipe.optimiser.microbatch_tokens)
        layers = self._activations(recipe, tokens)
        # The head's gradient collects, piece by piece, until that of the embeddings has come too
        # where they are the same weights. Then both are there, before they go to the masters.
        head_gradient = size.head * size.bytes_each
        in_float = FLOAT_ROWS.get(self._device, FLOAT_ROWS["cuda"]) * FLOAT_COPIES * FLOAT32
        rows = min(HEAD_ROWS, tokens)  # of logits, and of their gradients
        logits = self._config.vocab_size * (2 * size.bytes_each * rows + in_float)
        moments = [layers.kept + logits + head_gradient, 2 * head_gradient]
        moments.append(layers.peak + (head_gradient if size.tied else 0))
        if recipe.objective.kl > 0:
            moments.append(layers.kept + self._activations(recipe, tokens, backward=False).peak)
        if recipe.optimiser.state == "int8" and self._device == "cpu":
            moments.append(INT8_COPIES * FLOAT32 * max(size.trained))
        return max(moments)

    def _activations(self, recipe: Recipe, tokens: int, backward: bool = True) -> Activations:
        dtype = getattr(torch, recipe.model.dtype)
        checkpoint_layers = recipe.optimiser.checkpoint_layers and backward
        key = (dtype, tokens, recipe.lora, checkpoint_layers, backward)
        if key not in self._traced:
            self._traced[key] = activations(
                self._config,
                dtype,
                tokens,
                device_type=self._device,
                lora=recipe.lora,
                checkpoint_layers=checkpoint_layers,
                backward=backward,
            )
        return self._traced[key]

    def _size(self, recipe: Recipe) -> ModelSize:
        dtype = getattr(torch, recipe.model.dtype)
        model = empty_model(self._config, dtype, self._config.num_hidden_layers, recipe.lora)
        head = model.get_output_embeddings().weight
        return ModelSize(
            parameters=sum(param.numel() for param in model.parameters()),
            trained=tuple(p.numel() for p in model.parameters() if p.requires_grad),
            head=head.numel() if head.requires_grad else 0,
            tied=head is model.get_input_embeddings().weight,
            kv_bytes=CacheShape.of(model).token_bytes,
            linear=sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)),
            bytes_each=dtype.itemsize,
        )


def _round_up(count: int, grain: int) -> int:
    return -(-count // grain) * grain
