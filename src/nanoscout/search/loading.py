"""What the engines of others want: an encoder (search/encoder.py has one), and batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from nanoscout.records import Passage

RRF_K = 20
"""The constant of reciprocal rank fusion (Cormack et al. 2009); 20 was best on MuSiQue."""


BATCH = 256
"""Passages that are put into an engine together."""


def batches(passages: Iterable[Passage], size: int = BATCH) -> Iterator[list[Passage]]:
    iterator = iter(passages)
    while batch := list(islice(iterator, size)):
        yield batch


class TextEncoder(Protocol):
    @property
    def dimension(self) -> int: ...

    def passages(self, passages: Sequence[Passage]) -> Any:
        """float32 [passages, dimension], each of length 1."""
        ...

    def query(self, text: str) -> Any:
        """float32 [dimension], of length 1."""
        ...
