"""Which passages come first for a query: by their words, by their meaning, or by both.

`lexical` is the index itself. `dense` compares vectors of an encoder. `fused` joins the first
thousand of both by reciprocal rank. Over any of them a cross-encoder may put the first ones in a
better order. Whatever page is asked for, a query has one ranking: a later page never shows again
what an earlier one has shown.
"""

from typing import TYPE_CHECKING, Protocol

from nanoscout.recipe import RankingSpec
from nanoscout.search.fusion import fuse
from nanoscout.search.index import Ranked, SearchIndex

if TYPE_CHECKING:
    from nanoscout.search.dense import DenseRanking
    from nanoscout.search.rerank import Reranker

FUSED = 1_000
"""Ranks of each ranking that are fused."""

RERANKED = 50
"""Candidates that a cross-encoder reads."""


class Ranking(Protocol):
    def search(self, query: str, k: int) -> list[Ranked]:
        """The k best passages for any text whatever, best first; k is at least 1."""
        ...


def open_ranking(index: SearchIndex, spec: RankingSpec) -> Ranking:
    """The ranking that `spec` names; without an encoder the one that made the index's vectors.

    Raises UserError where a model or its library is missing, and for vectors that are not there, of
    another model, or of an earlier state of the index.
    """
    ranking: Ranking = index
    if spec.ranking != "lexical":
        from nanoscout.search.dense import open_dense

        dense = open_dense(index, spec.encoder)
        ranking = dense if spec.ranking == "dense" else FusedRanking(index, dense)
    if spec.reranker:
        from nanoscout.search.rerank import Reranker

        ranking = RerankedRanking(ranking, Reranker(spec.reranker))
    return ranking


class FusedRanking:
    def __init__(self, lexical: SearchIndex, dense: "DenseRanking"):
        self._lexical = lexical
        self._dense = dense

    def search(self, query: str, k: int) -> list[Ranked]:
        rankings = [
            [address for address, _ in ranking.rank(query, max(FUSED, k))]
            for ranking in (self._lexical, self._dense)
        ]
        return [Ranked(self._lexical.at(address), score) for address, score in fuse(rankings)[:k]]


class RerankedRanking:
    """The first candidates of another ranking by a cross-encoder's logits, then its other ones.

    Those keep the scores of their ranking, which cannot be compared with logits.
    """

    def __init__(self, ranking: Ranking, reranker: "Reranker"):
        self._ranking = ranking
        self._reranker = reranker

    def search(self, query: str, k: int) -> list[Ranked]:
        candidates = self._ranking.search(query, max(k, RERANKED))
        first = [candidate.passage for candidate in candidates[:RERANKED]]
        scores = self._reranker.scores(query, first)
        reranked = [Ranked(passage, score) for passage, score in zip(first, scores, strict=True)]
        reranked.sort(key=lambda candidate: -candidate.score)
        return [*reranked, *candidates[RERANKED:]][:k]
