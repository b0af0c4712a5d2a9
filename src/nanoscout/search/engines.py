"""Which search engine a name means: the index in this process, or one that is reached from it."""

import asyncio
import os

from nanoscout.errors import UserError
from nanoscout.recipe import SearchSpec
from nanoscout.search.http_search import TOKEN_VARIABLE, HttpSearch
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.protocol import SearchEngine, SearchUnavailable


def open_engine(spec: SearchSpec, index: SearchIndex) -> SearchEngine:
    """The engine that `spec.engine` names.

    A server is asked once, so that a missing one shows before any work. Raises UserError for it,
    and for a name that means nothing.
    """
    if spec.engine == "local":
        return LocalSearch(index, spec.preview, spec.preview_chars)
    if spec.engine.startswith(("http://", "https://")):
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        http = HttpSearch(spec.engine, spec.preview, spec.preview_chars, token)
        return _asked_once(http, "start it with nanoscout index serve")
    if spec.engine.startswith(("mcp:", "mcp+http://", "mcp+https://")):
        from nanoscout.search.mcp_search import McpSearch  # a heavy import

        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        address = spec.engine.removeprefix("mcp:").removeprefix("mcp+")
        mcp = McpSearch(address, spec.preview, spec.preview_chars, token)
        return _asked_once(mcp, "start it with nanoscout mcp")
    raise UserError(
        f"search.engine: {spec.engine}: no engine's name; take local, http://…, mcp+http://… or "
        "mcp:COMMAND"
    )


def _asked_once(engine: SearchEngine, advice: str) -> SearchEngine:
    try:
        asyncio.run(engine.search("", 1))
    except SearchUnavailable as error:
        raise UserError(f"search.engine: {error}; {advice}") from None
    return engine
