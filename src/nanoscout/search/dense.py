"""Ranking by meaning: the passages whose vectors point most nearly where the query's does.

A query is compared with every vector, or, where there are many passages, with those to which the
graph leads: then a few of the best may be missed. Either way scores are exact cosines, and the
order of equal ones depends on the passages alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanoscout.search.encoder import Encoder, Floats, from_extra
from nanoscout.search.index import Address, Ranked, SearchIndex
from nanoscout.search.one_core import on_one_core
from nanoscout.search.vectors import Ints, PassageVectors, encoder_of, no_vectors, open_vectors

EXPANSION = 128
"""Candidates that a walk through the graph keeps at least; it keeps twice as many as are asked
for. More of them miss less and take longer."""


def open_dense(index: SearchIndex, encoder: str = "") -> "DenseRanking":
    """An index's ranking by its vectors, with the encoder that made them unless one is named.

    Raises UserError as `Encoder` and `open_vectors` do.
    """
    name = encoder or encoder_of(index)
    if not name:
        raise no_vectors(index, "MODEL")
    model = Encoder(name)
    return DenseRanking(index, model, open_vectors(index, model))


class DenseRanking:
    def __init__(self, index: SearchIndex, encoder: Encoder, stored: PassageVectors):
        self._index = index
        self._encoder = encoder
        self._places = stored.places
        self._keys = stored.places["key"].copy()
        self._vectors = torch.from_numpy(stored.vectors)
        self._graph = _open_graph(stored.graph) if stored.graph else None

    def search(self, query: str, k: int) -> list[Ranked]:
        """The k best passages for any text whatever, best first; `score` is the cosine."""
        return [Ranked(self._index.at(address), score) for address, score in self.rank(query, k)]

    def rank(self, query: str, k: int) -> list[tuple[Address, float]]:
        """As `search`, but only where the passages lie: cheap for a large k."""
        if not query.strip():
            return []
        vector = self._encoder.query(query)
        rows, scores = on_one_core(lambda: self._nearest(vector, k))
        places = self._places[rows]
        addresses = zip(places["segment"].tolist(), places["doc"].tolist(), strict=True)
        return list(zip(addresses, scores.tolist(), strict=True))

    def _nearest(self, vector: Floats, k: int) -> tuple[Ints, Floats]:
        """Rows of the k best passages, best first, and their scores."""
        asked = torch.tensor(vector)
        if self._graph is None:
            scores = torch.mv(self._vectors, asked).numpy()
            best = _best(scores, k)
            return best, scores[best]
        self._graph.expansion_search = max(EXPANSION, 2 * k)
        found = self._graph.search(vector, min(k, len(self._places)), threads=1)
        rows = np.sort(np.searchsorted(self._keys, found.keys))
        scores = torch.mv(self._vectors[torch.from_numpy(rows)], asked).numpy()
        best = _best(scores, k)
        return rows[best], scores[best]


def _open_graph(path: Path) -> Any:
    return from_extra("usearch.index").Index.restore(path, view=True)


def _best(scores: Floats, k: int) -> Ints:
    """Places of the k highest scores, highest first; of equals the first."""
    places = np.arange(len(scores))
    if k < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return places[np.argsort(-scores[places], kind="stable")][:k]
