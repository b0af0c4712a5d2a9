"""RMS norms in one pass over memory, for bfloat16 on a CPU.

A norm's class is replaced by an heir of it that computes the same faster, and that leaves the work
to the class it comes from where gradients are wanted: parameters, names and copies stay as they
are. Whether a norm does compute the same is tried on random rows, for models differ in how they
scale, and no name tells.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nanoscout.engine.kernels import load_kernels

TRIED_ROWS = 4
CLOSE = 2**-7
"""Of a number: one step of bfloat16."""


class FastNorm(nn.Module):
    """Rows over the root of their mean square, rounded, times the weight."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, rows: Tensor) -> Tensor:
        kernels = load_kernels()
        plain = rows.dtype == self.weight.dtype == torch.bfloat16 and rows.is_contiguous()
        if torch.is_grad_enabled() or not plain or kernels is None:
            result: Tensor = super().forward(rows)
            return result
        return kernels.normalise(rows, self.weight, self.variance_epsilon)


@torch.no_grad()
def quicken_norms(model: PreTrainedModel) -> None:
    """Make each norm that is of this kind a `FastNorm`, where this is for the model."""
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or load_kernels() is None:
        return
    for module in model.modules():
        names = [name for name, _ in module.named_parameters()]
        epsilon = getattr(module, "variance_epsilon", None)
        if names == ["weight"] and isinstance(epsilon, float) and not isinstance(module, FastNorm):
            _quicken(module)


def _quicken(norm: nn.Module) -> None:
    ordinary = type(norm)
    generator = torch.Generator().manual_seed(0)
    size = (TRIED_ROWS, *norm.get_parameter("weight").shape)
    rows = torch.randn(size, generator=generator).to(torch.bfloat16)
    expected = norm(rows)
    norm.__class__ = type(f"Fast{ordinary.__name__}", (FastNorm, ordinary), {})
    if not torch.allclose(norm(rows), expected, rtol=CLOSE, atol=0.0):
        norm.__class__ = ordinary
