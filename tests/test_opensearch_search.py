"""The contract of search engines over the REST interface that OpenSearch and Elasticsearch share.

No such server is to be had for tests. In its place a small HTTP server takes the requests that
their API documents, refuses all else, and ranks with our own index.
"""

import asyncio
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from engine_contract import PASSAGES, check_engine

from nanoscout.errors import UserError
from nanoscout.records import Passage
from nanoscout.search.index import SearchIndex
from nanoscout.search.opensearch_search import OpenSearch
from nanoscout.search.protocol import SearchUnavailable


class Api(BaseHTTPRequestHandler):
    """The index interface as documented, as far as we use it."""

    documents: dict[str, Passage]
    made: list[Any]
    password = ""
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.send_response(200 if self.made else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        schema = self.body()
        properties = schema["mappings"]["properties"]
        assert {name: field["type"] for name, field in properties.items()} == {
            "id": "keyword",
            "url": "keyword",
            "body": "text",
        }
        self.made.append(schema)
        self.answer({"acknowledged": True, "index": "things"})

    def do_POST(self) -> None:
        if self.password and self.given_password() != self.password:
            self.read()
            self.answer("Unauthorized", 401)
        elif not self.made:
            self.read()
            reason = {"type": "index_not_found_exception", "reason": "no such index [things]"}
            self.answer({"error": reason, "status": 404}, 404)
        elif self.path == "/things/_refresh":
            self.read()
            self.answer({"_shards": {"failed": 0}})
        elif self.path == "/things/_bulk":
            self.answer(self.bulk())
        else:
            assert self.path == "/things/_search"
            self.answer({"took": 1, "hits": {"hits": self.hits(self.body())}})

    def bulk(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/x-ndjson"
        lines = self.read().decode().split("\n")
        assert lines.pop() == ""  # a bulk body ends with a newline
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            key = json.loads(action)["index"]["_id"]
            assert len(key.encode()) <= 512
            fields = json.loads(source)
            assert fields.pop("body") == f"{fields['title']} " * 3 + fields["text"]
            if fields["title"] == "refuse me":
                items.append({"index": {"_id": key, "status": 400, "error": {"reason": "no"}}})
                continue
            self.documents[key] = Passage(**fields)
            items.append({"index": {"_id": key, "status": 201}})
        return {"errors": any("error" in item["index"] for item in items), "items": items}

    def hits(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        size = asked.pop("size")
        match asked:
            case {"query": {"term": {"url": str(url)}}, **rest} if not rest:
                found = [(p, 1.0) for p in self.documents.values() if p.url == url]
            case {
                "query": {"match": {"body": {"query": str(words), "operator": "or"}}},
                "from": int(start),
                "sort": [{"_score": "desc"}, {"id": "asc"}],
                "track_total_hits": False,
                **rest,
            } if not rest:
                assert start + size <= 10_000
                index = SearchIndex.build(self.documents.values())
                ranked = index.search(words, start + size)[start:] if size else []
                found = [(hit.passage, hit.score) for hit in ranked]
            case _:
                raise AssertionError(asked)
        return [
            {
                "_score": score,
                "_source": {"id": p.id, "title": p.title, "text": p.text, "url": p.url},
                "sort": [score, p.id],
            }
            for p, score in found[:size]
        ]

    def given_password(self) -> str:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return b64decode(value).decode() if scheme == "Basic" else ""

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def body(self) -> Any:
        return json.loads(self.read())

    def answer(self, body: Any, status: int = 200) -> None:
        content = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(**attributes: Any) -> Iterator[str]:
    handler = type("Handler", (Api,), {"documents": {}, "made": [], **attributes})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"127.0.0.1:{http.server_port}/things"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def server() -> Iterator[str]:
    yield from serve()


@pytest.fixture
def guarded() -> Iterator[str]:
    yield from serve(password="me:s3:cret@")


def test_contract(server: str) -> None:
    engine = OpenSearch(f"http://{server}")
    check_engine(engine, engine.load)


def test_a_password_is_sent_and_wanted(guarded: str) -> None:
    engine = OpenSearch(f"http://me:s3%3Acret%40@{guarded}")
    assert engine.load(PASSAGES) == len(PASSAGES)
    assert asyncio.run(engine.search("heron", 2))
    with pytest.raises(UserError, match="user and password are wanted") as caught:
        asyncio.run(OpenSearch(f"http://me:wrong@{guarded}").search("heron", 2))
    assert "wrong" not in str(caught.value)


def test_what_the_cluster_refuses_is_told(server: str) -> None:
    with pytest.raises(UserError, match=r"no such index.*nanoscout index push"):
        asyncio.run(OpenSearch(f"http://{server}").search("heron", 2))
    with pytest.raises(UserError, match="name an index"):
        OpenSearch("http://127.0.0.1:9200")
    with pytest.raises(SearchUnavailable, match="OpenSearch at"):
        asyncio.run(OpenSearch("http://127.0.0.1:1/i").search("heron", 2))
    engine = OpenSearch(f"http://{server}")
    with pytest.raises(UserError, match="a document was refused: no"):
        engine.load([Passage("x", "refuse me", "text", "https://w.org/x")])
    with pytest.raises(UserError, match="corpus is empty"):
        engine.load([])
    assert asyncio.run(engine.search("heron", 2, page=6_000)) == []
