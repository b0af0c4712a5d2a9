"""The search server: one index for many clients over HTTP, by `nanoscout index serve`.

Worker processes share one listening socket and the memory-mapped index; one that dies is replaced.
What is committed to the index while they run is found by the next request.
A worker answers its requests in the order in which they came and turns away more than it can hold
(429), so it stays quick under any load. Each worker counts into a file of its own and /metrics adds
the files up, so a scrape gives totals whichever worker answers it.
"""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from nanoscout.errors import UserError
from nanoscout.search.index import Ranked, SearchIndex
from nanoscout.search.listening import MAX_BODY_BYTES, listen, may_ask, unauthorised
from nanoscout.search.local import LocalSearch
from nanoscout.search.wire import hit_to_json, page_to_json

MAX_QUERIES = 256
"""Queries in one request."""

START_SECONDS = 60
"""What a worker may take to open the index."""


@dataclass(frozen=True)
class Limits:
    """What one worker takes on."""

    requests: int = 128
    """Requests in work or waiting; one more is answered with 429."""
    body_bytes: int = MAX_BODY_BYTES
    seconds: float = 10.0
    """From a request's headers to its answer; beyond it the answer is 503."""


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class SearchRequest(_Asked):
    query: str | None = None
    queries: Annotated[list[str], Field(max_length=MAX_QUERIES)] | None = None
    k: Annotated[int, Field(ge=1, le=50)] = 10
    page: Annotated[int, Field(ge=1)] = 1
    preview: Literal["first", "window"] = "first"
    preview_chars: Annotated[int, Field(ge=20, le=2_000)] = 160

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError('give either "query" or "queries"')
        return self


class VisitRequest(_Asked):
    url: str
    offset: int = 0
    max_chars: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000


class RetrieveRequest(_Asked):
    """What two existing clients send: Search-R1's `topk`, and the Jan authors' other two."""

    model_config = ConfigDict(strict=True, extra="ignore")

    queries: Annotated[list[str], Field(max_length=MAX_QUERIES)]
    topk: Annotated[int, Field(ge=1, le=50)] | None = None
    topk_retrieval: Annotated[int, Field(ge=1)] | None = None
    topk_rerank: Annotated[int, Field(ge=1, le=50)] | None = None
    return_scores: bool = False

    @property
    def k(self) -> int:
        """How many documents a query gets: 3 unless asked, as both clients' own servers do."""
        return min(self.topk or self.topk_rerank or 3, self.topk_retrieval or 50)


AskedT = TypeVar("AskedT", bound=_Asked)


class _Metrics:
    """Counters of this worker; `text` is of all workers, also of those that have died."""

    def __init__(self) -> None:
        self.requests = PrometheusCounter(
            "nanoscout_requests", "Requests answered.", ["path", "status"], registry=None
        )
        self.queries = PrometheusCounter(
            "nanoscout_queries", "Queries searched for.", registry=None
        )
        self.seconds = PrometheusHistogram(
            "nanoscout_request_seconds",
            "From a request's headers to its answer, waiting included.",
            ["path"],
            registry=None,
        )

    def text(self) -> bytes:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


class _Worker:
    def __init__(self, index: SearchIndex, token: str, limits: Limits):
        self._index = index
        self._token = token
        self._limits = limits
        self._metrics = _Metrics()
        self._requests = 0
        self._turn = asyncio.Lock()

    def app(self) -> Starlette:
        app = Starlette(
            routes=[
                self._post("/search", SearchRequest, self._search),
                self._post("/visit", VisitRequest, self._visit),
                self._post("/retrieve", RetrieveRequest, self._retrieve),
                Route("/health", self._health),
                Route("/metrics", self._metrics_page),
            ],
            exception_handlers={HTTPException: _no_such_route, Exception: _fault},
        )
        app.router.redirect_slashes = False
        return app

    async def _search(self, asked: SearchRequest) -> Response:
        engine = LocalSearch(self._index, asked.preview, asked.preview_chars)
        queries = [asked.query] if asked.query is not None else asked.queries or []
        results = []
        for query in queries:
            hits = await engine.search(query, asked.k, asked.page)
            results.append([hit_to_json(hit) for hit in hits])
            await self._count_query()
        return JSONResponse({"results": results})

    async def _visit(self, asked: VisitRequest) -> Response:
        page = await LocalSearch(self._index).visit(asked.url, asked.max_chars, asked.offset)
        if page is None:
            return _error(404, "no page at this url; visit a url from a search result")
        return JSONResponse(page_to_json(page))

    async def _retrieve(self, asked: RetrieveRequest) -> Response:
        result = []
        for query in asked.queries:
            ranked = self._index.search(query, asked.k)
            result.append([_retrieved(found, asked.return_scores) for found in ranked])
            await self._count_query()
        return JSONResponse({"result": result})

    async def _count_query(self) -> None:
        """Between two queries the event loop gets its turn: for time limits, 429s and /health."""
        self._metrics.queries.inc()
        await asyncio.sleep(0)

    async def _health(self, request: Request) -> Response:
        self._index.refresh()
        return JSONResponse({"status": "ok", "documents": len(self._index)})

    async def _metrics_page(self, request: Request) -> Response:
        if not may_ask(request.headers, self._token):
            return unauthorised()
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    def _post(
        self, path: str, model: type[AskedT], answer: Callable[[AskedT], Awaitable[Response]]
    ) -> Route:
        """A route that checks, reads and counts a request before `answer` gets it."""

        async def respond(request: Request) -> Response:
            with self._metrics.seconds.labels(path).time():
                response = await self._admitted(request, model, answer)
            self._metrics.requests.labels(path, str(response.status_code)).inc()
            return response

        return Route(path, respond, methods=["POST"])

    async def _admitted(
        self,
        request: Request,
        model: type[AskedT],
        answer: Callable[[AskedT], Awaitable[Response]],
    ) -> Response:
        if not may_ask(request.headers, self._token):
            return unauthorised()
        if self._requests >= self._limits.requests:
            return _error(429, "too many requests at once; try again later", retry=True)
        self._requests += 1
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._body(request)
                if body is None:
                    limit = f"{self._limits.body_bytes} bytes"
                    return _error(413, f"the request is larger than {limit}; send less at once")
                asked = model.model_validate_json(body)
                # All that have come in by now are admitted or turned away before the work begins.
                await asyncio.sleep(0)
                async with self._turn:
                    self._index.refresh()
                    return await answer(asked)
        except ValidationError as error:
            return _error(400, _complaint(error))
        except ClientDisconnect:
            return _error(400, "the request broke off; send it again")
        except TimeoutError:
            limit = f"{self._limits.seconds:g} s"
            return _error(503, f"no answer within {limit}; ask less at once, or later", retry=True)
        finally:
            self._requests -= 1

    async def _body(self, request: Request) -> bytes | None:
        """The request's body; None as soon as it is known to be too large."""
        if int(request.headers.get("content-length", 0)) > self._limits.body_bytes:
            return None
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._limits.body_bytes:
                return None
        return bytes(body)


def _retrieved(found: Ranked, with_score: bool) -> dict[str, Any]:
    passage = found.passage
    document = {
        "id": passage.id,
        "doc_id": passage.id,
        "contents": f'"{passage.title}"\n{passage.text}',
        "title": passage.title,
        "text": passage.text,
        "url": passage.url,
    }
    return {"document": document, "score": found.score} if with_score else document


def _complaint(error: ValidationError) -> str:
    """The first thing that is wrong with a request, in a line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}; mend the request" if where else f"{what}; mend the request"


def _error(status: int, text: str, retry: bool = False) -> Response:
    headers = {"Retry-After": "1"} if retry else None
    return JSONResponse({"error": text}, status, headers=headers)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    routes = "POST /search, /visit and /retrieve, GET /health and /metrics"
    text = f"{error.detail.lower()}; this server has {routes}"
    return JSONResponse({"error": text}, error.status_code, headers=error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    return _error(500, "a fault of the server, written to its log; try again later")


def serve(
    index_folder: Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    workers: int = 1,
    token: str = "",
    limits: Limits = Limits(),
) -> None:
    """Answer until SIGINT or SIGTERM; a line on standard output tells when and where.

    Port 0 takes a free one. With a token every request but /health needs it as bearer token.
    Raises UserError where there is no index, the address cannot be had, or the host is not
    loopback and there is no token.
    """
    documents = len(SearchIndex.open(index_folder))
    listening, url = listen(host, port, token)
    config = uvicorn.Config(
        partial(_make_app, index_folder, token, limits),
        factory=True,
        workers=workers,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    ready = f"nanoscout search server on {url} ({documents} documents, {workers} workers)"
    with listening, tempfile.TemporaryDirectory(prefix="nanoscout-metrics-") as counts:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts
        _Supervisor(config, [listening], ready).run()


class _Supervisor(Multiprocess):
    """Starts the workers, says when all of them serve, and replaces those that die."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], ready: str):
        super().__init__(config, sockets)
        self._ready = ready

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(START_SECONDS) for process in self.processes):
            print(self._ready, flush=True)


def _make_app(index_folder: Path, token: str, limits: Limits) -> Starlette:
    """What a worker process runs; it ends the service where the index is gone."""
    try:
        index = SearchIndex.open(index_folder)
    except UserError as error:
        print(f"nanoscout: {error}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)
    return _Worker(index, token, limits).app()
