"""What `layers.c` computes, as operations that autograd knows."""

from typing import Any

import torch
from torch import Tensor

from nanoscout.engine.kernels import Kernels


def normalised(kernels: Kernels, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Rows [..., dim] over the root of their mean square, rounded, times the weight [dim]."""
    if not torch.is_grad_enabled():
        return kernels.normalise(rows.contiguous(), weight, epsilon)
    result: Tensor = _Normalised.apply(kernels, rows.contiguous(), weight, epsilon)
    return result


def gated(kernels: Kernels, gates: Tensor, ups: Tensor) -> Tensor:
    """silu(gates), rounded, times ups."""
    if not torch.is_grad_enabled():
        return kernels.gate(gates, ups)
    result: Tensor = _Gated.apply(kernels, gates.contiguous(), ups.contiguous())
    return result


def rotated(kernels: Kernels, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions of heads [N, heads, dim]; in place where no gradients are wanted."""
    if not torch.is_grad_enabled():
        kernels.rotate(heads, cosines, sines, heads)
        return heads
    result: Tensor = _Rotated.apply(kernels, heads, cosines, sines)
    return result


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.kernels, ctx.epsilon = kernels, epsilon
        return kernels.normalise(rows, weight, epsilon)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        return None, *ctx.kernels.normalise_back(rows, weight, upstream, ctx.epsilon), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, gates: Tensor, ups: Tensor) -> Tensor:
        ctx.save_for_backward(gates, ups)
        ctx.kernels = kernels
        return kernels.gate(gates, ups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.kernels.gate_back(*ctx.saved_tensors, gradients[0].contiguous())


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, heads: Tensor, cosines: Tensor, sines: Tensor
    ) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.kernels = kernels
        return _turn(kernels, heads, cosines, sines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The same by the opposite angle: a rotation's transpose."""
        cosines, sines = ctx.saved_tensors
        opposite = -sines.roll(sines.shape[-1] // 2, -1)
        return None, _turn(ctx.kernels, gradients[0], cosines, opposite), None, None


def _turn(kernels: Kernels, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    heads = heads.contiguous()
    output = torch.empty_like(heads)
    kernels.rotate(heads, cosines, sines, output)
    return output
