"""Attention of one engine step: new tokens of many conversations against their caches.

The step's flat tokens are runs, one a conversation. Runs of one token (decoding) are computed
together, block by block of the cache; longer runs (prefill) one by one. A shared prefix is
attended to by all decoding rows as one product per key/value head; the softmax goes over prefix
and own tokens jointly, so that sharing changes nothing but speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanoscout.engine.kv_cache import KvBlock, KvCache, Slot
from nanoscout.engine.shared_prefix import SharedPrefix

BLOCK_ELEMENTS = 2**24
"""Attention scores of a prefill that are held at once."""


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
    masked: Tensor
    """True where a row must not look: [m, 1, 1, prefix + capacity]."""


@dataclass(frozen=True, slots=True)
class _Prefill:
    block: KvBlock
    row: int
    past: int
    tokens: slice
    prefix: KvBlock | None


class CachedAttention:
    """The plan of a step. `runs` are in flat order: first those of one token, by slot index."""

    def __init__(self, cache: KvCache, runs: Sequence[Run], prefix: SharedPrefix | None):
        self._prefix = prefix.block if prefix else None
        self._prefix_length = prefix.slot.length if prefix else 0
        cache.make_room({run.slot: run.count for run in runs})
        singles = [run.slot for run in runs if run.count == 1]
        self._rows = self._decoding_rows(cache, singles)
        self._decoding = len(singles)
        self._padded = self._rows[-1].span.stop if self._rows else 0
        index = [rows.span.start + rows.row for rows in self._rows]
        self._index = torch.cat(index) if self._padded > len(singles) else None
        self._prefills = []
        start = len(singles)
        for run in runs[len(singles) :]:
            block, row = cache.place(run.slot)
            shared = self._prefix if run.slot.shares_prefix else None
            tokens = slice(start, start + run.count)
            self._prefills.append(_Prefill(block, row, run.slot.length, tokens, shared))
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
            prefix_keys, prefix_values = self._prefix.keys[layer][0], self._prefix.values[layer][0]
            prefix_scores = torch.bmm(by_head.flatten(1, 2), prefix_keys[..., :shared])
            prefix_scores = prefix_scores.unflatten(1, by_head.shape[1:3])
            prefix_weights = torch.empty_like(prefix_scores)
        for rows in self._rows:
            count = rows.span.stop - rows.span.start
            keys, values = rows.block.keys[layer], rows.block.values[layer]
            keys[rows.row, :, :, rows.position] = key[:, rows.tokens].transpose(0, 1)
            values[rows.row, :, rows.position] = value[:, rows.tokens].transpose(0, 1)
            scores = torch.bmm(query[rows.span].flatten(0, 1), keys[:count].flatten(0, 1))
            scores = scores.unflatten(0, (count, -1))
            if self._prefix:
                scores = torch.cat([prefix_scores[:, rows.span].transpose(0, 1), scores], -1)
            weights = scores.masked_fill_(rows.masked, float("-inf")).softmax(-1)
            own = torch.bmm(weights[..., shared:].flatten(0, 1), values[:count].flatten(0, 1))
            output[rows.span] = own.unflatten(0, (count, -1))
            if self._prefix:
                prefix_weights[:, rows.span] = weights[..., :shared].transpose(0, 1)
        if self._prefix:
            seen = torch.bmm(prefix_weights.flatten(1, 2), prefix_values[:, :shared])
            output += seen.view_as(output.transpose(0, 1)).transpose(0, 1)
        return output if self._index is None else output[self._index]

    def _prefill(self, layer: int, prefill: _Prefill, query: Tensor, output: Tensor) -> None:
        """Fill output [n, kv_heads, group, head_dim]; query [kv_heads, group, n, head_dim].

        Query i stands behind the prefix and past + i own tokens, and sees itself too.
        """
        count = query.shape[2]
        end = prefill.past + count
        keys = prefill.block.keys[layer][prefill.row, :, :, :end]
        values = prefill.block.values[layer][prefill.row, :, :end]
        shared = self._prefix_length if prefill.prefix else 0
        step = max(1, BLOCK_ELEMENTS // (query.shape[0] * query.shape[1] * (shared + end)))
        for start in range(0, count, step):
            block = query[:, :, start : start + step]
            size = block.shape[2]
            flat = block.flatten(1, 2)
            scores = torch.bmm(flat, keys).unflatten(1, block.shape[1:3])
            future = torch.ones(size, count - start, dtype=torch.bool, device=query.device).triu(1)
            scores[..., prefill.past + start :].masked_fill_(future, float("-inf"))
            if prefill.prefix:
                before = torch.bmm(flat, prefill.prefix.keys[layer][0, :, :, :shared])
                scores = torch.cat([before.unflatten(1, block.shape[1:3]), scores], -1)
            weights = scores.softmax(-1).flatten(1, 2)
            result = torch.bmm(weights[..., shared:], values)
            if prefill.prefix:
                shared_values = prefill.prefix.values[layer][0, :, :shared]
                result = torch.baddbmm(result, weights[..., :shared], shared_values)
            output[start : start + size] = result.view_as(block).permute(2, 0, 1, 3)

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
            device = block.keys[0].device
            row = torch.tensor(places, device=device)
            position = torch.tensor([slot.length for slot in members], device=device)
            shares = torch.tensor([slot.shares_prefix for slot in members], device=device)
            masked = torch.zeros(
                count, self._prefix_length + block.capacity, dtype=torch.bool, device=device
            )
            masked[row, : self._prefix_length] = ~shares[:, None]
            own = torch.arange(block.capacity, device=device) > position[:, None]
            masked[row, self._prefix_length :] = own
            batches.append(
                _Rows(
                    block=block,
                    span=slice(first_row, first_row + count),
                    tokens=slice(first_token, first_token + len(members)),
                    row=row,
                    position=position,
                    masked=masked[:, None, None],
                )
            )
            first_row += count
            first_token += len(members)
        return batches
