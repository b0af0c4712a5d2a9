"""Linear layers whose weights lie ready for a CPU's bfloat16 products.

The instructions take their right operand in blocks of paired rows. torch's linear arranges a weight
so at every call, which for the few rows of a decoding step takes longer than the product itself.
A `PackedLinear` keeps the arranged copy beside its weight and makes it anew when the weight has
changed: one copy an optimiser step in place of one a call. torch counts a tensor's changes, but
not those made behind its back (`.data`); `forget_packed` is for these. Where gradients are wanted,
it is an ordinary linear layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class PackedLinear(nn.Linear):
    """Takes the place of a linear layer, with its very parameters."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.forget()

    def forget(self) -> None:
        self._state: tuple[int, int] | None = None
        self._packed: Tensor | None = None

    def forward(self, rows: Tensor) -> Tensor:
        if torch.is_grad_enabled() or rows.dtype != torch.bfloat16:
            return super().forward(rows)
        weight = self.weight
        state = (weight.data_ptr(), weight._version)
        if state != self._state:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
            self._state = state
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """A copy packs its own weight."""
        return {**self.__dict__, "_state": None, "_packed": None}


def is_packed(device_type: str, dtype: torch.dtype) -> bool:
    """Whether an engine packs the linear layers of a model there."""
    bfloat16_on_cpu = device_type == "cpu" and dtype == torch.bfloat16
    return bfloat16_on_cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_linears(model: PreTrainedModel) -> None:
    """Put a `PackedLinear` in the place of each linear layer, where this is for the model."""
    if not is_packed(model.device.type, model.dtype):
        return
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear:
                setattr(parent, name, PackedLinear(module))


def forget_packed(model: PreTrainedModel) -> None:
    """Let every linear layer pack its weight anew when it is used next."""
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.forget()
