"""Several rankings made one by reciprocal rank fusion (Cormack, Clarke and Buettcher 2009, SIGIR).

Only ranks count, so scores of any kind can be fused.
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

K = 20
"""How much the first ranks are worth above the later ones. The paper's 60 suits long lists; 20 did
better on MuSiQue's paragraphs."""

T = TypeVar("T", bound=Hashable)


def fuse(rankings: Sequence[Sequence[T]], k: int = K) -> list[tuple[T, float]]:
    """All items with the sum of 1 / (k + rank) over the rankings that have them, best first.

    A ranking names an item once. Of items with one sum the one goes first that was named first, the
    rankings being read one after the other.
    """
    scores: dict[T, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return sorted(scores.items(), key=lambda scored: -scored[1])
