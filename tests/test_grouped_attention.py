"""Grouped attention in blocks equals PyTorch's own, forward and backward."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nanoscout.rlvr import grouped_attention as module
from nanoscout.rlvr.grouped_attention import grouped_attention


@pytest.mark.parametrize("block_elements", [1, 200, 2**24])
@pytest.mark.parametrize(("past", "new"), [(0, 1), (0, 9), (7, 5), (20, 1)])
def test_equals_pytorch(
    monkeypatch: pytest.MonkeyPatch, block_elements: int, past: int, new: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block_elements)
    generator = torch.Generator().manual_seed(past + new)
    query = torch.randn(6, new, 8, generator=generator, requires_grad=True)
    key = torch.randn(2, past + new, 8, generator=generator, requires_grad=True)
    value = torch.randn(2, past + new, 8, generator=generator, requires_grad=True)
    upstream = torch.randn(new, 6, 8, generator=generator)
    mask = torch.ones(new, past + new, dtype=torch.bool).tril(past)
    wanted = scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, scale=0.3, enable_gqa=True
    )[0].transpose(0, 1)
    got = grouped_attention(query, key, value, 0.3)
    torch.testing.assert_close(got, wanted)
    inputs = (query, key, value)
    torch.testing.assert_close(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream)
    )
