"""Which search engine a name means: the index in this process, or one that is reached from it."""

import asyncio
import os

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.http_search import TOKEN_VARIABLE, HttpSearch
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.protocol import SearchEngine, SearchUnavailable
from nanoscout.search.web.engine import SEARXNG, open_web
from nanoscout.search.web.services import KEYED


def open_engine(spec: SearchSpec, index: SearchIndex | None) -> SearchEngine:
    """The engine that `spec.engine` names; `local` alone needs an index.

    A server is asked once, so that a missing one shows before any work. Raises UserError for it,
    for the missing key of a service, and for a name that means nothing.
    """
    if spec.engine == "local":
        if index is None:
            raise UserError("search.engine: local: there is no index here; name another engine")
        return LocalSearch(index, spec.preview, spec.preview_chars)
    if spec.engine.startswith(("http://", "https://")):
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        server = HttpSearch(spec.engine, spec.preview, spec.preview_chars, token)
        return _asked_once(server, "start it with nanoscout index serve")
    if spec.engine in KEYED or spec.engine.startswith(SEARXNG):
        return open_web(spec)
    raise UserError(
        f"search.engine: {spec.engine}: no engine's name; take local, http://…, "
        f"{', '.join(KEYED)} or {SEARXNG}http://…"
    )


def _asked_once(engine: SearchEngine, advice: str) -> SearchEngine:
    try:
        asyncio.run(engine.search("", 1))
    except SearchUnavailable as error:
        raise UserError(f"search.engine: {error}; {advice}") from None
    return engine
