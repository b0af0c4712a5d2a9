"""Which search engine a name means: the index in this process, or one that is reached from it."""

import asyncio
import os

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.http_search import TOKEN_VARIABLE, HttpSearch
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.protocol import SearchEngine, SearchUnavailable
from nanoscout.search.ranking import open_ranking


def open_engine(spec: SearchSpec, index: SearchIndex) -> SearchEngine:
    """The engine that `spec.engine` names.

    A server is asked once, so that a missing one shows before any work. Raises UserError for it,
    and for a name that means nothing.
    """
    if spec.engine == "local":
        ranking = open_ranking(index, spec)
        return LocalSearch(index, spec.preview, spec.preview_chars, ranking)
    if spec.engine.startswith(("http://", "https://")):
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        server = HttpSearch(spec.engine, spec.preview, spec.preview_chars, token)
        return _asked_once(server, "start it with nanoscout index serve")
    raise UserError(f"search.engine: {spec.engine}: no engine's name; take local or http://…")


def _asked_once(engine: SearchEngine, advice: str) -> SearchEngine:
    try:
        asyncio.run(engine.search("", 1))
    except SearchUnavailable as error:
        raise UserError(f"search.engine: {error}; {advice}") from None
    return engine
