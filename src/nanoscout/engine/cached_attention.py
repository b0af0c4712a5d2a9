"""Attention of one engine step by torch's operations: new tokens against their caches.

The step's flat tokens are runs, one a conversation. Runs of one token (decoding) are computed
together, block by block of the cache; longer runs (prefill) one by one. A shared prefix is
attended to by all decoding rows as one product per key/value head; the softmax goes over prefix
and own tokens jointly, so that sharing changes nothing but speed.

Scores are made, normalised and used up a portion at a time: one that stays in a core's cache takes
half the time of one that goes through memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanoscout.engine.kv_cache import KvBlock, KvCache, Slot
from nanoscout.engine.shared_prefix import SharedPrefix

PORTION = 2**20
"""Attention scores of a prefill that are held at once, about: two megabytes in bfloat16."""
LEAST_TOKENS = 16
"""Tokens of a portion at least, however long the past."""


@dataclass(frozen=True, slots=True)
class Run:
    """The next `count` tokens of a slot."""

    slot: Slot
    count: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """Decoding rows of one block: the block's rows 0 to m, of which some may sit this step out."""

    block: KvBlock
    span: slice
    """The m rows among those of all blocks."""
    tokens: slice
    """The decoding tokens among the step's flat tokens."""
    row: Tensor
    position: Tensor
    """Where each decoding token's key and value go: row and column, both [tokens]."""
    mask: Tensor
    """-inf where a row must not look, else 0: [m, 1, 1, capacity]."""


@dataclass(frozen=True, slots=True)
class _Prefill:
    block: KvBlock
    row: int
    past: int
    tokens: slice
    prefix: KvBlock | None
    mask: Tensor
    """-inf above the diagonal, else 0: [count, count]."""


class CachedAttention:
    """The plan of a step. `runs` are in flat order: first those of one token, by slot index."""

    def __init__(self, cache: KvCache, runs: Sequence[Run], prefix: SharedPrefix | None):
        self._shape = cache.shape
        self._prefix = prefix.block if prefix else None
        self._prefix_length = prefix.slot.length if prefix else 0
        cache.make_room({run.slot: run.count for run in runs})
        singles = [run.slot for run in runs if run.count == 1]
        self._rows = self._decoding_rows(cache, singles)
        self._decoding = len(singles)
        self._padded = self._rows[-1].span.stop if self._rows else 0
        nowhere = torch.empty(0, dtype=torch.long, device=self._shape.device)
        places = torch.cat([nowhere, *(rows.span.start + rows.row for rows in self._rows)])
        self._index = places if self._padded > len(singles) else None
        alone = [not slot.shares_prefix for slot in singles]
        self._outside = places[torch.tensor(alone, dtype=torch.bool, device=self._shape.device)]
        self._prefills = []
        start = len(singles)
        for run in runs[len(singles) :]:
            block, row = cache.place(run.slot)
            shared = self._prefix if run.slot.shares_prefix else None
            tokens = slice(start, start + run.count)
            mask = self._nothing(run.count, run.count).fill_(float("-inf")).triu_(1)
            self._prefills.append(_Prefill(block, row, run.slot.length, tokens, shared, mask))
            start += run.count

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        kv_heads, _, head_dim = key.shape
        grouped = query.unflatten(0, (kv_heads, -1)) * scaling
        output = query.new_empty(query.shape[1], *grouped.shape[:2], head_dim)
        if self._rows:
            output[: self._decoding] = self._decode(layer, grouped, key, value)
        for prefill in self._prefills:
            tokens = prefill.tokens
            prefill.block.write(layer, prefill.row, prefill.past, key[:, tokens], value[:, tokens])
            self._prefill(layer, prefill, grouped[:, :, tokens], output[tokens])
        return output.flatten(1, 2)

    def _decode(self, layer: int, grouped: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Outputs [decoding, kv_heads, group, head_dim]; grouped [kv_heads, group, N, head_dim]."""
        query = grouped[:, :, : self._decoding].permute(2, 0, 1, 3).contiguous()
        if self._index is not None:
            query = query.new_zeros(self._padded, *query.shape[1:]).index_copy_(
                0, self._index, query
            )
        output = torch.empty_like(query)
        shared = self._prefix_length
        if self._prefix:
            by_head = query.transpose(0, 1)
            prefix_keys = self._prefix.keys[layer][0, :, :shared]
            before = torch.bmm(by_head.flatten(1, 2), prefix_keys.transpose(1, 2))
            before = before.unflatten(1, by_head.shape[1:3]).transpose(0, 1)
            before[self._outside] = float("-inf")
            prefix_weights = torch.empty_like(before)
        for rows in self._rows:
            count = rows.span.stop - rows.span.start
            keys, values = rows.block.keys[layer], rows.block.values[layer]
            keys[rows.row, :, rows.position] = key[:, rows.tokens].transpose(0, 1)
            values[rows.row, :, rows.position] = value[:, rows.tokens].transpose(0, 1)
            own_keys = keys[:count].flatten(0, 1).transpose(1, 2)
            scores = torch.bmm(query[rows.span].flatten(0, 1), own_keys)
            scores = scores.unflatten(0, (count, -1)).add_(rows.mask)
            if self._prefix:
                scores = torch.cat([before[rows.span], scores], -1)
            weights = scores.softmax(-1)
            own = torch.bmm(weights[..., shared:].flatten(0, 1), values[:count].flatten(0, 1))
            output[rows.span] = own.unflatten(0, (count, -1))
            if self._prefix:
                prefix_weights[rows.span] = weights[..., :shared]
        if self._prefix:
            by_head_weights = prefix_weights.transpose(0, 1).flatten(1, 2)
            seen = torch.bmm(by_head_weights, self._prefix.values[layer][0, :, :shared])
            output += seen.view_as(output.transpose(0, 1)).transpose(0, 1)
        return output if self._index is None else output[self._index]

    def _prefill(self, layer: int, prefill: _Prefill, query: Tensor, output: Tensor) -> None:
        """Fill output [n, kv_heads, group, head_dim]; query [kv_heads, group, n, head_dim].

        Query i stands behind the prefix and past + i own tokens, and sees itself too.
        """
        kv_heads, group, count, _ = query.shape
        keys = prefill.block.keys[layer][prefill.row, :, : prefill.past + count]
        values = prefill.block.values[layer][prefill.row, :, : prefill.past + count]
        if prefill.prefix:
            shared = self._prefix_length
            keys = torch.cat([prefill.prefix.keys[layer][0, :, :shared], keys], 1)
            values = torch.cat([prefill.prefix.values[layer][0, :, :shared], values], 1)
        total = keys.shape[1]
        size = max(LEAST_TOKENS, PORTION // (kv_heads * group * total))
        for start in range(0, count, size):
            portion = query[:, :, start : start + size]
            scores = torch.bmm(portion.flatten(1, 2), keys.transpose(1, 2))
            by_head = scores.view(kv_heads * group, -1, total)
            by_head[..., total - count :].add_(prefill.mask[start : start + size])
            result = torch.bmm(scores.softmax(-1), values).view_as(portion)
            output[start : start + size] = result.permute(2, 0, 1, 3)

    def _decoding_rows(self, cache: KvCache, slots: Sequence[Slot]) -> list[_Rows]:
        """The decoding slots, which come by index, block by block."""
        by_block: dict[KvBlock, list[Slot]] = {}
        for slot in slots:
            by_block.setdefault(cache.place(slot)[0], []).append(slot)
        batches = []
        first_row = first_token = 0
        for block, members in by_block.items():
            places = [cache.place(slot)[1] for slot in members]
            count = places[-1] + 1
            device = self._shape.device
            row = torch.tensor(places, device=device)
            position = torch.tensor([slot.length for slot in members], device=device)
            beyond = torch.arange(block.capacity, device=device) > position[:, None]
            mask = self._nothing(count, block.capacity)
            mask[row] = mask[row].masked_fill_(beyond, float("-inf"))
            batches.append(
                _Rows(
                    block=block,
                    span=slice(first_row, first_row + count),
                    tokens=slice(first_token, first_token + len(members)),
                    row=row,
                    position=position,
                    mask=mask[:, None, None],
                )
            )
            first_row += count
            first_token += len(members)
        return batches

    def _nothing(self, *size: int) -> Tensor:
        return torch.zeros(size, dtype=self._shape.dtype, device=self._shape.device)
