"""Attention of a tree's branches by PyTorch's flex attention, compiled: for CUDA devices.

A micro-batch's rows are in the order of a walk through its tree (rlvr/packing.py): a row is seen by
itself and by rows that follow it without a gap, up to where its subtree ends. So two numbers a
column, where it begins to be seen and where that ends, say what the mask is, and whether a block of
it is empty, full, or has to be looked at.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nanoscout.rlvr.packing import Branch

BLOCK = 128
"""Rows, and columns, of a block of the mask."""


class FlexBranches:
    """As `branch_attention`, for one set of branches and any layer."""

    def __init__(self, branches: Sequence[Branch], past: int, device: torch.device):
        """`past`: how many keys and values come before the branches' own."""
        rows = branches[-1].end
        begins = torch.arange(-past, rows, device=device).clamp_(min=0)
        ends = torch.full_like(begins, rows)
        for branch in branches:
            ends[past + branch.ancestors] = branch.end
            ends[past + branch.start : past + branch.end] = branch.end
        self._mask = _block_mask(begins, ends, rows)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, past: tuple[Tensor, Tensor], scaling: float
    ) -> Tensor:
        """query [heads, N, d]; key, value [kv_heads, N, d]; past: keys and values [kv_heads, P, d].

        Returns [N, heads, d].
        """
        keys, values = (torch.cat(pair, 1)[None] for pair in zip(past, (key, value), strict=True))
        whole: Tensor = _kernel(query.device.type)(
            query[None], keys, values, block_mask=self._mask, scale=scaling, enable_gqa=True
        )
        return whole[0].transpose(0, 1)


def _block_mask(begins: Tensor, ends: Tensor, rows: int) -> BlockMask:
    """Column c is seen by the rows from begins[c] up to, and not including, ends[c]."""

    def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (begins[column] <= row) & (row < ends[column])

    first = torch.arange(0, rows, BLOCK, device=begins.device)[:, None]
    last = (first + BLOCK).clamp(max=rows) - 1
    (begin, latest), (earliest, end) = (_extremes(each) for each in (begins, ends))
    some = (begin <= last) & (first < end)
    full = (latest <= first) & (last < earliest)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~full),
        *_listed(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(rows, len(begins)),
    )


def _extremes(columns: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest number of each block of columns."""
    short = -len(columns) % BLOCK
    blocks = torch.cat([columns, columns[-1:].expand(short)]).view(-1, BLOCK)
    return blocks.amin(1), blocks.amax(1)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of the mask has, and which, these first."""
    order = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]


@cache
def _kernel(device_type: str) -> Any:
    return torch.compile(flex_attention, dynamic=True) if device_type == "cuda" else flex_attention
