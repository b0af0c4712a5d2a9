"""The two tools as an MCP server offers them: schemas, annotations, and a call's answer.

An answer has the words that the tools of an episode say (texts.py), for a model, and the same as
structured content, for programs. Under the names of the profile `jan` the tools stand in for the
Serper server that Jan's users know: its arguments are taken, those that say nothing to our engines
(country, language, …) without effect.

A client may ask for results of other sizes than the server's by fields of a request's `_meta`
(`Sizes`): so a recipe's settings reach the server, and the schemas that a model reads stay small.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanoscout.arguments import complaint, unknown_tool
from nanoscout.recipe import SearchSpec
from nanoscout.records import ToolSpec
from nanoscout.search.protocol import SearchEngine, SearchUnavailable
from nanoscout.search.texts import (
    NO_PAGE,
    UNAVAILABLE,
    VISIT,
    WEB_SEARCH,
    hits_text,
    no_offset,
    no_result_page,
    page_text,
)
from nanoscout.search.wire import hit_to_json, page_to_json

Profile = Literal["nanoscout", "jan"]
Preview = Literal["first", "window"]
EngineOf = Callable[[Preview, int], SearchEngine]
"""The engine whose hits have previews of this kind and of so many characters."""

META = "nanoscout/"
"""What the names of our fields in `_meta` begin with, in requests and in results."""
UNAVAILABLE_MARK = f"{META}unavailable"
"""In a result's `_meta`: the same call may go through later."""

FAULT = "A fault of the server, written to its log. Try again later."


class Sizes(BaseModel):
    """What a client may ask for in `_meta`, each as `nanoscout/NAME`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    results: Annotated[int, Field(ge=1, le=50)]
    preview: Preview
    preview_chars: Annotated[int, Field(ge=20, le=2_000)]
    page_chars: Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a tools/call."""

    text: str
    structured: dict[str, Any] | None = None
    ok: bool = True
    unavailable: bool = False


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool under the names of one profile."""

    spec: ToolSpec
    title: str
    output: dict[str, Any]
    """JSON schema of the structured content."""
    takes: Mapping[str, str]
    """Its arguments that have an effect, and their names here."""


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_STRING, _INTEGER, _NUMBER = ({"type": name} for name in ("string", "integer", "number"))
_HIT = _object(id=_STRING, title=_STRING, url=_STRING, preview=_STRING, score=_NUMBER)
_PAGE = _object(
    id=_STRING,
    title=_STRING,
    url=_STRING,
    text=_STRING,
    offset=_INTEGER,
    next_offset={"type": ["integer", "null"]},
)
_HITS_OUTPUT = _object(engine=_STRING, hits={"type": "array", "items": _HIT})
_PAGE_OUTPUT = _object(engine=_STRING, page=_PAGE | {"type": ["object", "null"]})


def _said(kind: str, description: str) -> dict[str, str]:
    return {"type": kind, "description": description}


_GOOGLE_SEARCH = ToolSpec(
    name="google_search",
    description=WEB_SEARCH.description,
    parameters={
        "type": "object",
        "properties": {
            "q": _said("string", "What to search for."),
            "gl": _said("string", "Country. Has no effect here."),
            "hl": _said("string", "Language. Has no effect here."),
            "location": _said("string", "Place. Has no effect here."),
            "num": _said("integer", "Results, at most 50."),
            "tbs": _said("string", "Time range. Has no effect here."),
            "page": _said("integer", "Result page, from 1 on."),
            "autocorrect": _said("boolean", "Has no effect here."),
        },
        "required": ["q"],
        "additionalProperties": False,
    },
)
_SCRAPE = ToolSpec(
    name="scrape",
    description=VISIT.description,
    parameters={
        "type": "object",
        "properties": {
            "url": _said("string", "A URL that a search has shown."),
            "includeMarkdown": _said("boolean", "Has no effect here: pages are text."),
            "offset": _said("integer", "Where to read on."),
        },
        "required": ["url"],
        "additionalProperties": False,
    },
)

_SEARCH_TITLE, _VISIT_TITLE = "Search the web", "Read a page"
_PROFILES: dict[Profile, tuple[McpTool, McpTool]] = {
    "nanoscout": (
        McpTool(WEB_SEARCH, _SEARCH_TITLE, _HITS_OUTPUT, {"query": "query", "page": "page"}),
        McpTool(VISIT, _VISIT_TITLE, _PAGE_OUTPUT, {"url": "url", "offset": "offset"}),
    ),
    "jan": (
        McpTool(
            _GOOGLE_SEARCH,
            _SEARCH_TITLE,
            _HITS_OUTPUT,
            {"q": "query", "page": "page", "num": "results"},
        ),
        McpTool(_SCRAPE, _VISIT_TITLE, _PAGE_OUTPUT, {"url": "url", "offset": "offset"}),
    ),
}


class McpTools:
    """The tools over a search engine.

    `spec` has the sizes that hold where a request asks for no others. `open_world` tells clients
    whether the pages are those of the web or of a corpus.
    """

    def __init__(
        self,
        engine_of: EngineOf,
        spec: SearchSpec,
        profile: Profile = "nanoscout",
        open_world: bool = False,
    ):
        self._engine_of = engine_of
        self._sizes = {name: getattr(spec, name) for name in Sizes.model_fields}
        search, visit = _PROFILES[profile]
        self._calls: dict[str, tuple[McpTool, Callable[..., Awaitable[Answer]]]] = {
            search.spec.name: (search, self._search),
            visit.spec.name: (visit, self._visit),
        }
        self._annotations = {
            "readOnlyHint": True,
            "idempotentHint": True,
            "openWorldHint": open_world,
        }

    def listed(self) -> list[dict[str, Any]]:
        """The tools as tools/list names them."""
        return [
            {
                "name": tool.spec.name,
                "title": tool.title,
                "description": tool.spec.description,
                "inputSchema": tool.spec.parameters,
                "outputSchema": tool.output,
                "annotations": {"title": tool.title, **self._annotations},
            }
            for tool, _ in self._calls.values()
        ]

    async def call(self, name: str, args: dict[str, Any], meta: Mapping[str, Any]) -> Answer:
        """The answer to a tools/call, whatever it asks for."""
        if name not in self._calls:
            return Answer(unknown_tool(name, self._calls), ok=False)
        tool, answer = self._calls[name]
        if wrong := complaint(args, tool.spec):
            return Answer(wrong, ok=False)
        try:
            sizes = self._asked_for(meta)
            taken = {ours: args[theirs] for theirs, ours in tool.takes.items() if theirs in args}
            return await answer(sizes, **taken)
        except ValidationError as error:
            return Answer(_complaint(error), ok=False)
        except SearchUnavailable as error:
            logging.warning("%s: %s", name, error)
            return Answer(UNAVAILABLE, ok=False, unavailable=True)
        except Exception:
            logging.exception(name)
            return Answer(FAULT, ok=False, unavailable=True)

    def _asked_for(self, meta: Mapping[str, Any]) -> Sizes:
        asked = {key.removeprefix(META): meta[key] for key in meta if key.startswith(META)}
        return Sizes.model_validate(self._sizes | asked)

    async def _search(
        self, sizes: Sizes, query: str, page: int = 1, results: int | None = None
    ) -> Answer:
        if page < 1:
            return Answer(no_result_page(page), ok=False)
        k = sizes.results if results is None else min(max(results, 1), 50)
        engine = self._engine_of(sizes.preview, sizes.preview_chars)
        hits = await engine.search(query, k, page)
        text = hits_text(hits, first=(page - 1) * k + 1)
        return Answer(text, {"engine": engine.name, "hits": [hit_to_json(hit) for hit in hits]})

    async def _visit(self, sizes: Sizes, url: str, offset: int = 0) -> Answer:
        engine = self._engine_of(sizes.preview, sizes.preview_chars)
        page = await engine.visit(url.strip(), sizes.page_chars, offset)
        if page is None:
            return Answer(NO_PAGE, {"engine": engine.name, "page": None}, ok=False)
        structured = {"engine": engine.name, "page": page_to_json(page)}
        if offset < 0 or (offset and not page.text):
            return Answer(no_offset(offset), structured, ok=False)
        return Answer(page_text(page), structured)


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{META}{str(first['loc'][0])[:40]}: {first['msg']}. Mend the request's _meta."
