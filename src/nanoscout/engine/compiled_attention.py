"""Attention of one engine step by `attention.c`: one call a layer for all conversations.

A plan as `CachedAttention` is one, for bfloat16 on a CPU. The step is told to the kernel as tables,
made once for all layers: its runs, and the tasks that the processor's cores share.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nanoscout.engine.cached_attention import Run
from nanoscout.engine.kernels import MOST_QUERIES, Kernels
from nanoscout.engine.kv_cache import KvBlock, KvCache
from nanoscout.engine.shared_prefix import SharedPrefix

DECODING_QUERIES = 48
"""Rows of a task of decoding tokens, about: they share what is read of the prefix."""


class CompiledAttention:
    """The plan of a step. `runs` are in flat order: first those of one token."""

    def __init__(
        self,
        kernels: Kernels,
        cache: KvCache,
        runs: Sequence[Run],
        prefix: SharedPrefix | None,
    ):
        self._kernels, self._shape = kernels, cache.shape
        cache.make_room({run.slot: run.count for run in runs})
        shared = prefix.slot.length if prefix else 0
        blocks: dict[KvBlock, int] = {}
        rows, first = [], 0
        for run in runs:
            block, row = cache.place(run.slot)
            number = blocks.setdefault(block, len(blocks))
            seen = shared if run.slot.shares_prefix else 0
            past = run.slot.length
            rows.append((number, row, block.capacity, past, first, run.count, seen))
            first += run.count
        tasks = sorted(self._tasks(runs), key=lambda task: -task[3])
        self._runs, self._tasks_table = torch.tensor(rows), torch.tensor(tasks)
        # Where there is no prefix, nobody looks at what stands in its place.
        caches = [prefix.block if prefix else next(iter(blocks)), *blocks]
        layers = range(cache.shape.layers)
        # Held, for the kernel knows only where they lie.
        self._caches = [[kv for block in caches for kv in block.layer(n)] for n in layers]
        self._places = torch.tensor([[kv.data_ptr() for kv in held] for held in self._caches])
        shape = cache.shape
        capacity = caches[0].capacity
        self._sizes = (len(rows), len(tasks), shape.kv_heads, shape.group, shape.head_dim, capacity)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        query, key, value = (_plain(tensor) for tensor in (query, key, value))
        output = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        strides = (*query.stride()[:2], *key.stride()[:2], *value.stride()[:2])
        sizes = torch.tensor((*self._sizes, *strides))
        tables = (self._runs, self._tasks_table, self._places[layer], sizes)
        self._kernels.attend(query, key, value, output, *tables, scaling=scaling)
        return output

    def _tasks(self, runs: Sequence[Run]) -> Iterator[tuple[int, int, int, int]]:
        """First run, runs, first token and tokens of each: attention.c tells more."""
        group = self._shape.group
        singles = sum(run.count == 1 for run in runs)
        size = max(1, DECODING_QUERIES // group)
        for start in range(0, singles, size):
            count = min(size, singles - start)
            yield start, count, start, count
        size, first = MOST_QUERIES // group, singles
        for number in range(singles, len(runs)):
            stop = first + runs[number].count
            for start in range(first, stop, size):
                yield number, 1, start, min(size, stop - start)
            first = stop


def _plain(tensor: Tensor) -> Tensor:
    """With heads that lie in one piece."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
