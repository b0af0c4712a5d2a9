"""Tokens with which many conversations begin, and the one copy of their keys and values.

An announced prefix takes the place of the one before it as soon as no open conversation attends
to that one. What the two have in common is not computed again.
"""

from collections.abc import Sequence

from nanoscout.engine.kv_cache import CacheShape, KvBlock, KvCache


class SharedPrefix:
    def __init__(self, shape: CacheShape):
        self._shape = shape
        self._announced: list[int] = []
        self.forget()

    def forget(self) -> None:
        """Drop keys and values; what was announced stays so."""
        self.token_ids: list[int] = []
        self.cache = KvCache(self._shape, rows=1)
        self.slot = self.cache.claim(shares_prefix=False)

    @property
    def block(self) -> KvBlock:
        return self.cache.place(self.slot)[0]

    @property
    def missing(self) -> list[int]:
        """The prefix's last tokens, whose keys and values are still to be computed."""
        return self.token_ids[self.slot.length :]

    def announce(self, token_ids: Sequence[int]) -> None:
        self._announced = list(token_ids)

    def take_up(self) -> None:
        """Replace the prefix by the announced one; no conversation may attend to it."""
        common = min(len(self._announced), self.slot.length)
        self.slot.length = common_length(self._announced, self.token_ids, 0, common)
        self.token_ids = self._announced

    def begins(self, token_ids: list[int]) -> bool:
        """Whether a conversation starts with the prefix and goes on after it."""
        shared = len(self.token_ids)
        return 0 < shared < len(token_ids) and token_ids[:shared] == self.token_ids


def common_length(a: Sequence[int], b: Sequence[int], start: int, stop: int) -> int:
    """How many tokens, `stop` at most, a and b have in common from the first one on; `start` where
    there are not more than that."""
    if start >= stop or a[start] != b[start] or a[:start] != b[:start]:
        return start
    length = start + 1
    while length < stop and a[length] == b[length]:
        length += 1
    return length
