"""The contract of search engines over Qdrant: its engine in process, and its REST interface.

No Qdrant server is to be had for tests. In its place a small HTTP server takes what Qdrant's API
documents, refuses all else, and has Qdrant's own engine do it; so the requests' form, the query
and the answers' form are checked, and the server's own code is not.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from engine_contract import PASSAGES, check_engine
from pydantic import BaseModel, ConfigDict, ValidationError
from test_postgres_search import LetterEncoder

from nanoscout.errors import UserError
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.qdrant_search import (
    Point,
    QdrantFolder,
    QdrantSearch,
    QdrantServer,
    Sparse,
    load_qdrant,
)

ENCODERS = pytest.mark.parametrize(
    "encoder", [None, LetterEncoder()], ids=["words", "words and vectors"]
)


@ENCODERS
def test_contract_of_the_folder(tmp_path: Path, encoder: LetterEncoder | None) -> None:
    store = QdrantFolder(tmp_path / "qdrant")
    check_engine(QdrantSearch(store, encoder=encoder), partial(load_qdrant, store, encoder=encoder))
    store.close()
    reopened = QdrantSearch(QdrantFolder(tmp_path / "qdrant"), encoder=encoder)
    assert asyncio.run(reopened.search("delta", 1))[0].passage_id == "h0"


def test_vectors_find_what_words_do_not(tmp_path: Path) -> None:
    store = QdrantFolder(tmp_path / "qdrant")
    load_qdrant(store, PASSAGES, LetterEncoder())
    assert asyncio.run(QdrantSearch(store).search("noreh", 3)) == []
    fused = QdrantSearch(store, encoder=LetterEncoder())
    assert len(asyncio.run(fused.search("noreh", 3))) == 3


def test_a_folder_that_holds_no_collection_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"qdrant:.*nanoscout index push"):
        asyncio.run(QdrantSearch(QdrantFolder(tmp_path / "none")).search("heron", 2))
    with pytest.raises(UserError, match="corpus is empty"):
        load_qdrant(QdrantFolder(tmp_path / "new"), [])
    store = QdrantFolder(tmp_path / "words")
    load_qdrant(store, PASSAGES)
    with pytest.raises(UserError, match="dense"):
        load_qdrant(store, PASSAGES, LetterEncoder())


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SparseVector(Strict):
    indices: list[int]
    values: list[float]


class MatchUrl(Strict):
    value: str


class UrlCondition(Strict):
    key: str
    match: MatchUrl


class Must(Strict):
    must: list[UrlCondition]


class Rrf(Strict):
    k: int


class Fusion(Strict):
    rrf: Rrf


class PrefetchBody(Strict):
    query: SparseVector | list[float]
    using: str
    limit: int


class PointsBody(Strict):
    ids: list[str]
    with_payload: bool


class QueryBody(Strict):
    query: SparseVector | Fusion
    limit: int
    using: str | None = None
    prefetch: list[PrefetchBody] | None = None


class ScrollBody(Strict):
    filter: Must
    limit: int
    with_payload: bool


class Api(BaseHTTPRequestHandler):
    """Qdrant's REST interface as documented, as far as we use it."""

    store: QdrantFolder
    made: dict[str, Any]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == "/collections/things/exists"
        self.answer({"exists": bool(self.made)})

    def do_PUT(self) -> None:
        body = self.body()
        if self.path == "/collections/things":
            assert body["sparse_vectors"] == {"words": {"modifier": "idf"}}
            dense = body["vectors"].get("dense")
            assert dense is None or dense == {"size": 26, "distance": "Cosine"}
            self.store.make(dense["size"] if dense else None)
            self.made["collection"] = body
        elif self.path == "/collections/things/index?wait=true":
            assert body == {"field_name": "url", "field_schema": "keyword"}
        else:
            assert self.path == "/collections/things/points?wait=true"
            self.store.put([self.point(point) for point in body["points"]])
        self.answer(True)

    def do_POST(self) -> None:
        if self.headers.get("api-key") == "wrong":
            self.answer({"error": "Invalid API key"}, status=403)
        elif not self.made:
            self.answer({"error": "Not found: Collection `things` doesn't exist!"}, status=404)
        elif self.path == "/collections/things/points/query":
            self.query(QueryBody.model_validate(self.body()))
        elif self.path == "/collections/things/points":
            ids = PointsBody.model_validate(self.body()).ids
            payloads = asyncio.run(self.store.payloads(ids))
            self.answer([{"id": key, "payload": payload} for key, payload in payloads.items()])
        else:
            assert self.path == "/collections/things/points/scroll"
            wanted = ScrollBody.model_validate(self.body()).filter.must[0]
            assert wanted.key == "url"
            payload = asyncio.run(self.store.at_url(wanted.match.value))
            points = [{"id": "?", "payload": payload}] if payload else []
            self.answer({"points": points, "next_page_offset": None})

    def query(self, body: QueryBody) -> None:
        dense, words = None, body.query
        if isinstance(body.query, Fusion):
            assert body.query.rrf.k == 21
            assert body.prefetch is not None
            by_words, by_vector = body.prefetch
            assert (by_words.using, by_vector.using) == ("words", "dense")
            words, dense = by_words.query, by_vector.query
            assert isinstance(dense, list)
        assert isinstance(words, SparseVector)
        sparse = Sparse(words.indices, words.values)
        assert body.limit == 200
        found = asyncio.run(self.store.query(sparse, dense))
        points = [{"id": key, "version": 0, "score": score} for key, score in found]
        self.answer({"points": points})

    def point(self, body: dict[str, Any]) -> Point:
        assert set(body) == {"id", "payload", "vector"}
        words = SparseVector.model_validate(body["vector"]["words"])
        sparse = Sparse(words.indices, words.values)
        return Point(body["id"], body["payload"], sparse, body["vector"].get("dense"))

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, result: Any, status: int = 200) -> None:
        if status == 200:
            body: dict[str, Any] = {"result": result, "status": "ok", "time": 0.0}
        else:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = {"status": result, "time": 0.0}
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (Api,), {"store": QdrantFolder(tmp_path / "q"), "made": {}})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/things"
    http.shutdown()
    thread.join()
    http.server_close()


@ENCODERS
def test_contract_of_the_server(server: str, encoder: LetterEncoder | None) -> None:
    store = QdrantServer(server)
    check_engine(QdrantSearch(store, encoder=encoder), partial(load_qdrant, store, encoder=encoder))


def test_what_the_server_refuses_is_told(server: str) -> None:
    with pytest.raises(UserError, match=r"doesn't exist!; fill it with nanoscout index push"):
        asyncio.run(QdrantSearch(QdrantServer(server)).search("heron", 2))
    with pytest.raises(UserError, match="Invalid API key"):
        asyncio.run(QdrantSearch(QdrantServer(server, "wrong")).search("heron", 2))
    with pytest.raises(UserError, match="name a collection"):
        QdrantServer("http://127.0.0.1:6333")
    with pytest.raises(SearchUnavailable, match="Qdrant at"):
        asyncio.run(QdrantSearch(QdrantServer("http://127.0.0.1:1/c")).search("heron", 2))


def test_a_body_of_another_form_would_be_noticed() -> None:
    with pytest.raises(ValidationError):
        QueryBody.model_validate({"query": {"fusion": "rrf"}, "limit": 1})
