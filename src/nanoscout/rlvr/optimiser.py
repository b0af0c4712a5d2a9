"""AdamW on float32 master weights, behind a model whose own weights may be bfloat16.

Gradients are summed in float32: as soon as autograd has finished a parameter's gradient, a hook
adds it to the master's and frees it. So micro-batches may be many and small without losing bits.

AdamW's two moments are float32, or 8 bits each with a scale for every 256 of them (Dettmers et al.
2021, arXiv 2110.02861), by the library bitsandbytes, which has that for CPU and CUDA. It leaves
tensors of fewer than 4,096 weights, such as norms, at float32. The masters are float32 either way.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nanoscout.errors import UserError
from nanoscout.recipe import OptimiserSpec

DECAY_SHARE = 0.2
"""Of a run's updates, over which the schedule `wsd` decays."""


def learning_rate(spec: OptimiserSpec, update: int, total: int) -> float:
    """For optimiser step `update`, counted from 0, of a run of `total`.

    Rises linearly over `warmup_steps`; then as the schedule says. Beyond `total`, which a run with
    dropped batches never reaches, it stays where it was.
    """
    warmup = min(1.0, (update + 1) / (spec.warmup_steps + 1))
    update = min(update, total - 1)
    match spec.schedule:
        case "constant":
            factor = 1.0
        case "cosine":
            done = (update - spec.warmup_steps) / max(1, total - spec.warmup_steps)
            factor = (1.0 + math.cos(math.pi * max(0.0, done))) / 2.0
        case "wsd":
            factor = min(1.0, (total - update) / max(1.0, DECAY_SHARE * total))
    return spec.lr * warmup * factor


def adamw(spec: OptimiserSpec) -> Callable[..., torch.optim.Optimizer]:
    """AdamW with moments as the spec has them; raises UserError where the extra is missing."""
    if spec.state == "float32":
        return partial(torch.optim.AdamW, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimiser.state = 'int8' needs an extra: pip install 'nanoscout[eightbit]'"
        ) from None
    return AdamW8bit


class MasterAdamW:
    def __init__(self, model: nn.Module, spec: OptimiserSpec):
        self.spec = spec
        self._params = [param for param in model.parameters() if param.requires_grad]
        self._masters = [param.detach().float().clone() for param in self._params]
        self._adamw = adamw(spec)(
            self._masters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay
        )
        for param, master in zip(self._params, self._masters, strict=True):
            param.register_post_accumulate_grad_hook(_accumulate_into(master))

    def step(self, lr: float) -> float:
        """Clip, update the masters, copy them to the model; returns the gradient's norm."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(
            self._masters, self.spec.clip_grad_norm, error_if_nonfinite=True
        )
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._publish()
        return norm.item()

    def gradients(self) -> list[Tensor]:
        """The float32 gradients collected since the last step, one a parameter."""
        return [
            torch.zeros_like(master) if master.grad is None else master.grad
            for master in self._masters
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"masters": self._masters, "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for master, saved in zip(self._masters, state["masters"], strict=True):
                master.copy_(saved)
        self._adamw.load_state_dict(state["adamw"])
        self._publish()

    def _publish(self) -> None:
        with torch.no_grad():
            for param, master in zip(self._params, self._masters, strict=True):
                param.copy_(master)


def _accumulate_into(master: Tensor) -> Any:
    def hook(param: Tensor) -> None:
        gradient = param.grad
        assert gradient is not None
        if master.grad is None:
            master.grad = gradient.float() if gradient.dtype != torch.float32 else gradient
        else:
            master.grad.add_(gradient)
        param.grad = None

    return hook
