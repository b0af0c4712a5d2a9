"""What an engine is to the rest of nanoscout: ids in; ids and log-probabilities out.

An `Engine` opens `Conversation`s. A conversation remembers its tokens (and, where the engine can,
their key/value cache) between turns: `generate` is given only the tokens that are new since
the last turn. Conversations are independent: they may be opened, awaited and closed in any
order, and the engine batches whatever is waiting.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.

    Training samples with these three off: truncated sampling biases the importance ratio.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest one's probability are left out."""
    max_tokens: int = 128
    stop_ids: frozenset[int] = frozenset()
    """Sampling one of these ends the turn; the token itself is part of the turn."""
    banned_ids: frozenset[int] = frozenset()
    """Tokens that are never sampled (their logits are -inf before the softmax)."""


class Finish(StrEnum):
    STOP = "stop"
    """A stop token was sampled."""
    LENGTH = "length"
    """max_tokens were sampled."""


@dataclass(frozen=True, slots=True)
class Generation:
    token_ids: list[int]
    logprobs: list[float]
    """Log-probability of each sampled token under softmax(logits / temperature), before top-k and
    top-p; for greedy sampling, at temperature 1."""
    finish: Finish
    policy_version: int


OnToken = Callable[[int], bool]
"""Hears of a sampled token; True ends the turn, as a stop token does."""


class Conversation(Protocol):
    async def generate(
        self, new_ids: Sequence[int], sampling: Sampling, on_token: OnToken | None = None
    ) -> Generation:
        """Append `new_ids` to the conversation, then sample a turn and append that too.

        `on_token` hears of each token as it is sampled, and may end the turn with it.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`; not while a turn is being sampled."""
        ...

    def close(self) -> None:
        """Give the conversation's memory back; closing twice is harmless."""
        ...


class Engine(Protocol):
    @property
    def context_limit(self) -> int:
        """The largest number of tokens that one conversation can hold."""
        ...

    def conversation(self, seed: int) -> Conversation:
        """Open a conversation whose sampling depends on `seed` and its own tokens alone."""
        ...

    def share_prefix(self, prefix_ids: Sequence[int]) -> None:
        """Announce tokens with which many conversations will begin: they are computed once."""
        ...
