"""Texts to vectors: any sentence-transformers model, or a plain transformers model.

How tokens become one vector, which words go before a query or a document, and how long a text may
be are the model's own affair: they stand in its folder, and sentence-transformers reads them there.
Vectors are float32 of length 1, so their dot product is the cosine.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanoscout.errors import UserError
from nanoscout.models.load import locate, quiet, readable
from nanoscout.records import Passage
from nanoscout.search.one_core import on_one_core

MAX_QUERY_CHARS = 10_000
"""Characters of a query beyond this many are not encoded; no model looks that far."""

MAX_PASSAGE_CHARS = 100_000
"""The same of a passage."""

CACHED_QUERIES = 1_024
"""Queries whose vectors are kept: the rollouts of a group often ask alike."""

Floats = NDArray[np.float32]


class Encoder:
    """The model that `source` names: a folder, or a name on the hub.

    Raises UserError where the model is not there or does not load, and without the extra `dense`.
    """

    def __init__(self, source: str):
        library = from_extra("sentence_transformers")
        location, options = locate(source)
        self.source = str(Path(location).resolve()) if Path(location).is_dir() else source
        with quiet(), readable(source):
            self._model = library.SentenceTransformer(location, **options)
        self._query = lru_cache(CACHED_QUERIES)(self._encode_query)

    @property
    def dimension(self) -> int:
        return len(self.probe)

    @cached_property
    def probe(self) -> Floats:
        """The vector of one fixed passage, by which a model is recognised under any name."""
        text = "A heron stands in the shallow water and waits for fish to come near."
        return self.passages([Passage("", "The grey heron", text, "")])[0]

    def passages(self, passages: Sequence[Passage]) -> Floats:
        """Vectors [passages, dimension]; takes all the cores that torch may have."""
        texts = [passage_text(passage)[:MAX_PASSAGE_CHARS] for passage in passages]
        return self._encode(self._model.encode_document, texts)

    def query(self, text: str) -> Floats:
        """The vector [dimension] of any text whatever, on one core; not to be written to."""
        return self._query(text[:MAX_QUERY_CHARS])

    def _encode_query(self, text: str) -> Floats:
        text = text.encode(errors="replace").decode()  # tokenizers know no lone surrogates
        return on_one_core(lambda: self._encode(self._model.encode_query, [text])[0])

    def _encode(self, encode: Any, texts: list[str]) -> Floats:
        vectors = encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, np.float32)


def passage_text(passage: Passage) -> str:
    """What a model reads of a passage."""
    return f"{passage.title}\n{passage.text}"


def from_extra(module: str) -> Any:
    """A module of the extra `dense`; raises UserError where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise UserError(
            "an encoder or a reranker needs an extra: pip install 'nanoscout[dense]'"
        ) from None
