"""Layers that compute the same in fewer passes over memory, for bfloat16 on a CPU.

A layer's class is replaced by an heir of it, which leaves other types to the class it comes from:
parameters, names and copies stay as they are. Whether an heir does compute the same is tried on
what an ordinary pass of the model gave the layer and got from it, for models differ in details that
no name tells; if it does not, the layer stays as it was.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nanoscout.engine.attention import AttentionPlan, run_layers
from nanoscout.engine.kernels import Kernels, load_kernels
from nanoscout.engine.layer_gradients import gated, normalised, rotated
from nanoscout.engine.packed_linear import PackedLinear, PackedWeights, is_packed, pack_linears

TRIED_TOKENS = 8
CLOSE = 2**-7
"""Length of the difference over that of the whole: one step of bfloat16."""


class FastNorm(nn.Module):
    """Rows over the root of their mean square, rounded, times the weight."""

    weight: Tensor
    variance_epsilon: float
    kernels: Kernels

    @staticmethod
    def suits(module: nn.Module) -> bool:
        names = [name for name, _ in module.named_parameters()]
        return names == ["weight"] and isinstance(getattr(module, "variance_epsilon", None), float)

    def forward(self, rows: Tensor) -> Tensor:
        if not rows.dtype == self.weight.dtype == torch.bfloat16:
            result: Tensor = super().forward(rows)
            return result
        return normalised(self.kernels, rows, self.weight, self.variance_epsilon)


class FastMlp(nn.Module):
    """down(silu(gate(rows)) up(rows)): gate and up are one product where they can be."""

    JOINED = ("gate_proj", "up_proj")
    kernels: Kernels
    packed: PackedWeights

    @staticmethod
    def suits(module: nn.Module) -> bool:
        return _projections(module) == ["gate_proj", "up_proj", "down_proj"]

    def forward(self, rows: Tensor) -> Tensor:
        if rows.dtype != torch.bfloat16:
            result: Tensor = super().forward(rows)
            return result
        gates, ups = _products(self, rows)
        return self.down_proj(gated(self.kernels, gates, ups))  # type: ignore[operator]


class FastAttention(nn.Module):
    """Queries and keys get their positions in one pass; with values, they are one product where
    they can be."""

    JOINED = ("q_proj", "k_proj", "v_proj")
    kernels: Kernels
    packed: PackedWeights
    head_dim: int
    layer_idx: int
    scaling: float

    @staticmethod
    def suits(module: nn.Module) -> bool:
        known = all(hasattr(module, name) for name in ("head_dim", "layer_idx", "scaling"))
        return known and _projections(module) == ["q_proj", "k_proj", "v_proj", "o_proj"]

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        *args: Any,
        plan: AttentionPlan | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        whole = (torch.bfloat16, self.head_dim)
        if (
            plan is None
            or position_embeddings is None
            or any((each.dtype, each.shape[-1]) != whole for each in position_embeddings)
            or hidden_states.dtype != torch.bfloat16
        ):
            result: tuple[Tensor, Any] = super().forward(
                hidden_states, position_embeddings, *args, plan=plan, **kwargs
            )
            return result
        query, key, value = (
            product.unflatten(-1, (-1, self.head_dim))
            for product in _products(self, hidden_states[0])
        )
        if hasattr(self, "q_norm"):
            query, key = self.q_norm(query), self.k_norm(key)  # type: ignore[operator]
        query, key = (rotated(self.kernels, heads, *position_embeddings) for heads in (query, key))
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        attended = plan.attend(self.layer_idx, query, key, value, self.scaling)
        return self.o_proj(attended.flatten(1).unsqueeze(0)), None  # type: ignore[operator]


KINDS: tuple[type[Any], ...] = (FastNorm, FastMlp, FastAttention)


@torch.no_grad()
def quicken(model: PreTrainedModel) -> None:
    """Pack the model's linear layers and replace those that have a faster heir, where this is for
    the model and there is a C compiler."""
    kernels = load_kernels()
    if kernels is None or not is_packed(model.device.type, model.dtype):
        pack_linears(model)
        return
    suited = _suited(model)
    seen: dict[nn.Module, tuple[Any, Any, Any]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, kwargs, output: seen.update({module: (args, kwargs, output)}),
            with_kwargs=True,
        )
        for module, kind in suited
        if not isinstance(module, kind)
    ]
    generator = torch.Generator().manual_seed(0)
    size = (TRIED_TOKENS,)
    token_ids = torch.randint(model.config.vocab_size, size, generator=generator)
    run_layers(model, token_ids, torch.arange(TRIED_TOKENS), _Plain())
    for hook in hooks:
        hook.remove()
    pack_linears(model)
    for module, kind in suited:
        if module in seen:
            ordinary = type(module)
            _replace(module, kind, kernels)
            if not _computes(module, *seen[module]):
                module.__class__ = ordinary
                vars(module).pop("packed", None)


def quicken_shapes(model: PreTrainedModel, device_type: str) -> None:
    """What `quicken` does on such a device, to a model on the meta device: nothing can be tried."""
    kernels = load_kernels()
    if kernels is not None and is_packed(device_type, model.dtype):
        for module, kind in _suited(model):
            _replace(module, kind, kernels)


def _suited(model: PreTrainedModel) -> list[tuple[nn.Module, type[Any]]]:
    return [(module, kind) for module in model.modules() for kind in KINDS if kind.suits(module)]


def _replace(module: nn.Module, kind: type[Any], kernels: Kernels) -> None:
    ordinary = type(module)
    name = f"Fast{ordinary.__name__}"
    module.__class__ = type(name, (kind, ordinary), {"kernels": kernels})
    if hasattr(kind, "JOINED"):
        module.packed = PackedWeights()  # type: ignore[assignment]


def _computes(module: nn.Module, args: Any, kwargs: Any, output: Any) -> bool:
    """Whether the module makes such an output of these arguments."""
    found, wanted = (
        whole[0] if isinstance(whole, tuple) else whole
        for whole in (module(*args, **kwargs), output)
    )
    close: bool = (found - wanted).float().norm() <= CLOSE * wanted.float().norm()
    return close


class _Plain:
    """A plan: one conversation from its beginning."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        whole = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return whole.transpose(0, 1)


def _projections(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children() if name.endswith("_proj")]


def _products(module: Any, rows: Tensor) -> Sequence[Tensor]:
    """What the linear layers make of the rows [..., in]: views of one product, if there are no
    gradients to find and nothing was put around the layers, such as an adapter. What that makes may
    be of any type and lie anyhow, which C would not see."""
    linears = [getattr(module, name) for name in module.JOINED]
    if torch.is_grad_enabled() or any(type(linear) is not PackedLinear for linear in linears):
        return [linear(rows).to(rows.dtype).contiguous() for linear in linears]
    joined: Tensor = module.packed.apply(rows, *linears)
    return joined.split([linear.out_features for linear in linears], dim=-1)
