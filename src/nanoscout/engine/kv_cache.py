"""Keys and values of many conversations, kept between their turns.

Each conversation has a *slot*. Slots lie in *blocks* of a few rows; a block's tensors are as long
as its longest conversation, and grow and shrink with it: memory follows use, not the context limit.
Occupied slots are always the first ones: whoever leaves is replaced by the last. So decoding
multiplies by whole, contiguous tensors, which on a CPU are the only ones that need no copy for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

ROWS = 16
"""Slots of a block: more share a kernel call, fewer are padded to the longest of them."""
GRAIN = 64
"""A block's capacity is a multiple of this many tokens."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    layers: int
    kv_heads: int
    group: int
    """Query heads of a key/value head."""
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Of a token's keys and values in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    @classmethod
    def of(cls, model: PreTrainedModel) -> "CacheShape":
        config = model.config
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return cls(
            layers=config.num_hidden_layers,
            kv_heads=kv_heads,
            group=heads // kv_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=model.dtype,
            device=model.device,
        )


class KvBlock:
    """A few rows of cache: per layer, keys and values [rows, kv_heads, capacity, head_dim]. Unused
    places hold finite numbers, never NaN."""

    def __init__(self, shape: CacheShape, rows: int):
        self.capacity = 0
        nothing = torch.empty(
            rows, shape.kv_heads, 0, shape.head_dim, dtype=shape.dtype, device=shape.device
        )
        self.keys = [nothing] * shape.layers
        self.values = [nothing] * shape.layers

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer."""
        return self.keys[number], self.values[number]

    def fit(self, tokens: int) -> None:
        """Make the rows long enough for `tokens`, and not much longer."""
        capacity = -(-tokens // GRAIN) * GRAIN
        if 0.75 * self.capacity <= capacity <= self.capacity:
            return
        kept = min(capacity, self.capacity)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
                tensors[layer][:, :, :kept] = old[:, :, :kept]
        self.capacity = capacity

    def write(self, layer: int, row: int, start: int, key: Tensor, value: Tensor) -> None:
        """Store key and value [kv_heads, n, head_dim] of tokens start to start + n of a row."""
        stop = start + key.shape[1]
        self.keys[layer][row, :, start:stop] = key
        self.values[layer][row, :, start:stop] = value

    def copy(self, row: int, source: "KvBlock", source_row: int, start: int, stop: int) -> None:
        """Take tokens start to stop over from a row of `source`."""
        pairs = ((self.keys, source.keys), (self.values, source.values))
        for tensors, source_tensors in pairs:
            for mine, other in zip(tensors, source_tensors, strict=True):
                mine[row, :, start:stop] = other[source_row, :, start:stop]


@dataclass(slots=True, eq=False)
class Slot:
    """A conversation's place in the cache."""

    index: int
    shares_prefix: bool
    """Whether the engine's shared prefix comes before the slot's own tokens."""
    length: int = 0
    """Own tokens whose keys and values are stored."""


class KvCache:
    def __init__(self, shape: CacheShape, rows: int = ROWS):
        self.slots: list[Slot] = []
        self.shape = shape
        self._rows = rows
        self._blocks: list[KvBlock] = []

    def claim(self, shares_prefix: bool) -> Slot:
        slot = Slot(len(self.slots), shares_prefix)
        self.slots.append(slot)
        if slot.index == len(self._blocks) * self._rows:
            self._blocks.append(KvBlock(self.shape, self._rows))
        return slot

    def release(self, slot: Slot) -> None:
        last = self.slots.pop()
        if last is not slot:
            block, _ = self.place(slot)
            block.fit(max(block.capacity, last.length))
            self._copy(slot, last, 0, last.length)
            last.index = slot.index
            self.slots[last.index] = last
        del self._blocks[-(-len(self.slots) // self._rows) :]

    def place(self, slot: Slot) -> tuple[KvBlock, int]:
        """The block of a slot, and its row there."""
        return self._blocks[slot.index // self._rows], slot.index % self._rows

    def make_room(self, coming: Mapping[Slot, int]) -> None:
        """Fit each block to its longest slot, once the tokens that are coming are there."""
        for number, block in enumerate(self._blocks):
            members = self.slots[number * self._rows : (number + 1) * self._rows]
            block.fit(max(slot.length + coming.get(slot, 0) for slot in members))

    def reuse(self, slot: Slot, source: Slot, length: int) -> None:
        """Take the tokens that `slot` lacks of `source`'s first `length` ones over."""
        self.make_room({slot: length - slot.length})
        self._copy(slot, source, slot.length, length)
        slot.length = length

    def _copy(self, slot: Slot, source: Slot, start: int, stop: int) -> None:
        (block, row), (source_block, source_row) = self.place(slot), self.place(source)
        block.copy(row, source_block, source_row, start, stop)
