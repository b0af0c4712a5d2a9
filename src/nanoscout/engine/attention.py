"""How nanoscout runs any transformers causal language model over flat, ragged tokens.

All tokens of a forward pass, of however many conversations, lie in one row of N tokens; linear
layers never see padding. What a token attends to is decided by a *plan*: the torch engine's plan
reads and writes its key/value cache, the learner's plan knows shared prefixes. A plan reaches each
layer through transformers' own extension points: an attention function registered with
`AttentionInterface`, and a keyword argument that the model passes down. There is no model code
here, and keys and values keep their grouped heads.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from nanoscout.errors import UserError

IMPLEMENTATION = "nanoscout"


class AttentionPlan(Protocol):
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Attention of one layer over the flat tokens of a pass.

        query: [heads, N, head_dim]; key, value: [kv_heads, N, head_dim], positions already applied.
        Returns [N, heads, head_dim].
        """
        ...


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    plan: AttentionPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if softcap is not None or s_aux is not None:
        kind = "caps its scores" if s_aux is None else "has sinks"
        raise UserError(f"model: its attention {kind}, which nanoscout does not compute")
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling)
    if sliding_window is not None and query.shape[2] > sliding_window:
        raise ValueError("models with sliding-window attention are not supported")
    layer: int = module.layer_idx  # type: ignore[assignment]
    return plan.attend(layer, query[0], key[0], value[0], scaling).unsqueeze(0), None


AttentionInterface.register(IMPLEMENTATION, _attention)


def run_layers(
    model: PreTrainedModel, token_ids: Tensor, positions: Tensor, plan: AttentionPlan
) -> Tensor:
    """Hidden states [N, hidden] after the last norm; `token_ids` and `positions` are flat [N]."""
    if model.config._attn_implementation != IMPLEMENTATION:
        model.set_attn_implementation(IMPLEMENTATION)
    output = model.base_model(
        input_ids=token_ids.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        use_cache=False,
        plan=plan,
    )
    return output.last_hidden_state[0]


class _Calls:
    """A plan that attends to nothing and notes which layers asked."""

    def __init__(self) -> None:
        self.layers: list[int] = []

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        self.layers.append(layer)
        return torch.zeros_like(query).transpose(0, 1)


@torch.no_grad()
def check_model(model: PreTrainedModel, context: int) -> None:
    """Raise UserError for a model that would not attend as its plans say.

    A layer with an attention of its own never asks a plan, and then conversations silently see one
    another: one token goes through the model, to see whether every layer asks.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    if window is not None and window < context:
        raise UserError(
            f"model: its attention slides over {window} tokens, which the engine can't do; "
            f"use a context of at most {window} or another model"
        )
    positions = getattr(config, "max_position_embeddings", None)
    learned = not getattr(config, "rope_parameters", None)
    if learned and positions is not None and positions < context:
        raise UserError(
            f"model: it has learned {positions} positions; "
            f"use a context of at most {positions} or another model"
        )
    calls, start = _Calls(), torch.zeros(1, dtype=torch.long, device=torch_device(model))
    run_layers(model, start, start, calls)
    if calls.layers != list(range(config.num_hidden_layers)):
        raise UserError(
            f"model: {type(model).__name__} computes attention in a way of its own, or has layers "
            "without; take a model such as Qwen, Llama or Mistral"
        )


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [N, vocabulary] of the language-model head on hidden states [N, hidden]."""
    return model.get_output_embeddings()(hidden)


def torch_device(model: PreTrainedModel) -> torch.device:
    return next(model.parameters()).device
