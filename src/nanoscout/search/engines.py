"""Which search engine a name means: the index in this process, or one that is reached from it."""

import asyncio
import os

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.external import EXTERNAL, open_external
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
    name = spec.engine
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if name == "local":
        if index is None:
            raise UserError("search.engine: local: there is no index here; name another engine")
        return LocalSearch(index, spec.preview, spec.preview_chars)
    if name.startswith(("http://", "https://")):
        http = HttpSearch(name, spec.preview, spec.preview_chars, token)
        return _asked_once(http, "start it with nanoscout index serve")
    if name.startswith(("mcp:", "mcp+http://", "mcp+https://")):
        from nanoscout.search.mcp_search import McpSearch  # a heavy import

        address = name.removeprefix("mcp:").removeprefix("mcp+")
        mcp = McpSearch(address, spec.preview, spec.preview_chars, token)
        return _asked_once(mcp, "start it with nanoscout mcp")
    if name in KEYED or name.startswith(SEARXNG):
        return open_web(spec)
    if name.startswith(EXTERNAL):
        return _asked_once(open_external(spec), "is it running?")
    known = ["http://…", "mcp+http://…", "mcp:COMMAND", *KEYED, f"{SEARXNG}http://…"]
    known += [f"{prefix}…" for prefix in EXTERNAL]
    raise UserError(f"search.engine: {name}: no engine's name; take local, {', '.join(known)}")


def _asked_once(engine: SearchEngine, advice: str) -> SearchEngine:
    try:
        asyncio.run(engine.search("", 1))
    except SearchUnavailable as error:
        raise UserError(f"search.engine: {error}; {advice}") from None
    return engine
