"""Search engines that others run: PostgreSQL, Qdrant, OpenSearch; opened and filled by name."""

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.records import Passage
from nanoscout.search.loading import TextEncoder
from nanoscout.search.protocol import SearchEngine, SearchUnavailable

EXTERNAL = (
    "postgresql://",
    "qdrant+http://",
    "qdrant+https://",
    "qdrant:",
    "opensearch+http://",
    "opensearch+https://",
)
"""What their names begin with."""

API_KEY_VARIABLE = "QDRANT_API_KEY"


def open_external(spec: SearchSpec, encoder: TextEncoder | None = None) -> SearchEngine:
    """The engine that `spec.engine` names; with an encoder it ranks by words and vectors."""
    previews = (spec.preview, spec.preview_chars)
    if spec.engine.startswith("postgresql://"):
        postgres: SearchEngine = _postgres().PostgresSearch(spec.engine, *previews, encoder)
        return postgres
    if spec.engine.startswith("qdrant"):
        from nanoscout.search.qdrant_search import QdrantSearch

        return QdrantSearch(_qdrant_store(spec.engine), *previews, encoder)
    from nanoscout.search.opensearch_search import OpenSearch

    _no_vectors(encoder)
    return OpenSearch(spec.engine.removeprefix("opensearch+"), *previews)


def push(name: str, passages: Iterable[Passage], encoder: TextEncoder | None = None) -> int:
    """Put passages into the engine of this name, replacing those whose id is there.

    Returns how many. Raises UserError, also where the engine cannot be reached.
    """
    try:
        if name.startswith("postgresql://"):
            return int(_postgres().load_postgres(name, passages, encoder))
        if name.startswith(("qdrant:", "qdrant+")):
            from nanoscout.search.qdrant_search import load_qdrant

            return load_qdrant(_qdrant_store(name), passages, encoder)
        if name.startswith("opensearch+"):
            from nanoscout.search.opensearch_search import OpenSearch

            _no_vectors(encoder)
            return OpenSearch(name.removeprefix("opensearch+")).load(passages)
    except SearchUnavailable as error:
        raise UserError(f"{error}; is it running?") from None
    raise UserError(f"--to {name}: no engine to be filled; see docs/search-engines.md")


def _qdrant_store(name: str) -> Any:
    from nanoscout.search.qdrant_search import QdrantFolder, QdrantServer

    if name.startswith("qdrant:"):
        return QdrantFolder(Path(name.removeprefix("qdrant:")))
    return QdrantServer(name.removeprefix("qdrant+"), os.environ.get(API_KEY_VARIABLE, ""))


def _postgres() -> Any:
    try:
        return import_module("nanoscout.search.postgres_search")
    except ModuleNotFoundError:
        raise UserError(
            "postgresql://… needs an extra: pip install 'nanoscout[postgres]'"
        ) from None


def _no_vectors(encoder: TextEncoder | None) -> None:
    if encoder:
        raise UserError("opensearch+…: ranks by words only; leave the encoder out")
