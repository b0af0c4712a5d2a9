"""Attention of branches equals PyTorch's own under the mask that says what a branch sees."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nanoscout.rlvr import branch_attention as module
from nanoscout.rlvr.branch_attention import branch_attention
from nanoscout.rlvr.packing import Branch


def branches(*spans: tuple[int, int, list[int]]) -> list[Branch]:
    return [Branch(start, end, torch.tensor(rows).long()) for start, end, rows in spans]


TREES = {
    "one": branches((0, 9, [])),
    "one row": branches((0, 1, [])),
    "apart": branches((0, 4, []), (4, 5, []), (5, 12, [])),
    "of one another": branches((0, 6, []), (6, 9, [0, 1, 2]), (9, 11, [0, 1, 2, 6, 7])),
}


@pytest.mark.parametrize("kept_elements", [0, 2**20], ids=["computed again", "kept"])
@pytest.mark.parametrize("block_rows", [1, 4, 64])
@pytest.mark.parametrize("past", [0, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tree", TREES)
def test_equals_pytorch(
    monkeypatch: pytest.MonkeyPatch,
    tree: str,
    dtype: torch.dtype,
    past: int,
    block_rows: int,
    kept_elements: int,
) -> None:
    """Attention in float32 and its gradients; for bfloat16, a few roundings away."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(module, "KEPT_ELEMENTS", kept_elements)
    count = TREES[tree][-1].end
    generator = torch.Generator().manual_seed(past)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    inputs = [random(6, count, 8), *(random(2, n, 8) for n in (count, count, past, past))]
    upstream = torch.randn(count, 6, 8, generator=generator).to(dtype)
    mask = torch.zeros(count, past + count, dtype=torch.bool)
    mask[:, :past] = True
    for branch in TREES[tree]:
        for row in range(branch.start, branch.end):
            mask[row, past + branch.ancestors] = True
            mask[row, past + branch.start : past + row + 1] = True
    exact = [each.detach().float().requires_grad_() for each in inputs]
    query, key, value, past_key, past_value = exact
    wanted = scaled_dot_product_attention(
        query[None],
        torch.cat([past_key, key], 1)[None],
        torch.cat([past_value, value], 1)[None],
        attn_mask=mask,
        scale=0.3,
        enable_gqa=True,
    )[0].transpose(0, 1)
    query, key, value, past_key, past_value = inputs
    got = branch_attention(TREES[tree], query, key, value, (past_key, past_value), 0.3)
    found = (got, *torch.autograd.grad(got, inputs, upstream))
    true = (wanted, *torch.autograd.grad(wanted, exact, upstream.float()))
    tolerance = {} if dtype == torch.float32 else {"rtol": 2**-5, "atol": 2**-5}
    for one, other in zip(found, true, strict=True):
        torch.testing.assert_close(one.float(), other, **tolerance)
