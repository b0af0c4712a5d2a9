"""The search engine in Qdrant: words as sparse vectors, an encoder's vectors beside them, fused.

Qdrant is a server (`QdrantServer`, its REST interface) or an engine in this process over a folder
(`QdrantFolder`, the package qdrant-edge-py). Both hold the same points and are asked the same
query. A point's sparse vector has BM25's weights of its terms, which are those of our own index;
how rare a term is, Qdrant itself knows (its modifier `idf`).
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import httpx2

from nanoscout.errors import UserError
from nanoscout.records import Hit, Page, Passage
from nanoscout.search.index import MAX_QUERY_CHARS, plain_terms
from nanoscout.search.loading import RRF_K, TextEncoder, batches
from nanoscout.search.loop_bound import LoopBound
from nanoscout.search.pages import page_portion
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.snippets import PreviewMode, hits_of

DENSE, WORDS = "dense", "words"
"""Names of a point's vectors."""
K1, B, MEAN_TERMS = 1.2, 0.75, 80
"""BM25's constants; the mean length is a guess, since it may not change from point to point."""
FUSION_K = RRF_K + 1
"""Qdrant counts ranks from 0."""
CANDIDATES = 100
"""Points that each of the two vectors gives to the fusion."""
DEPTH = 2 * CANDIDATES
"""Points beyond this rank are not looked for."""
TIMEOUT = httpx2.Timeout(30.0, connect=5.0)


class Sparse(NamedTuple):
    indices: list[int]
    values: list[float]


class Point(NamedTuple):
    id: str
    """A UUID made from the passage's id."""
    payload: dict[str, str]
    words: Sparse
    dense: list[float] | None


class Store(Protocol):
    """What holds the points: a server or a folder."""

    async def query(self, words: Sparse, dense: list[float] | None) -> list[tuple[str, float]]:
        """Ids and scores of the DEPTH best points. Raises SearchUnavailable and UserError."""
        ...

    async def payloads(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """By id."""
        ...

    async def at_url(self, url: str) -> dict[str, Any] | None: ...

    def make(self, dimension: int | None) -> None:
        """Make the collection, if there is none."""
        ...

    def put(self, points: list[Point]) -> None: ...


class QdrantSearch:
    """Searches the points that `load_qdrant` put there."""

    name = "qdrant"

    def __init__(
        self,
        store: Store,
        preview: PreviewMode = "first",
        preview_chars: int = 160,
        encoder: TextEncoder | None = None,
    ):
        self._store = store
        self._preview = preview
        self._preview_chars = preview_chars
        self._encoder = encoder

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        query = query[:MAX_QUERY_CHARS]
        words = _sparse(dict.fromkeys(plain_terms(query), 1.0))
        if not words.indices:
            await self._store.at_url("")
            return []
        dense = self._encoder.query(query).tolist() if self._encoder else None
        found = await self._store.query(words, dense)
        # Qdrant gives points of one score in no order; a page must not show what another has shown.
        found.sort(key=lambda point: (-point[1], point[0]))
        shown = found[k * (page - 1) : k * page]
        payloads = await self._store.payloads([key for key, _ in shown])
        passages = ((Passage(**payloads[key]), score) for key, score in shown if key in payloads)
        return hits_of(passages, query, self._preview, self._preview_chars)

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        payload = await self._store.at_url(_encodable(url.strip()))
        return page_portion(Passage(**payload), offset, max_chars) if payload else None


def load_qdrant(
    store: Store, passages: Iterable[Passage], encoder: TextEncoder | None = None
) -> int:
    """Put passages in, batch by batch; one whose id is there is replaced. Returns how many.

    Raises UserError and SearchUnavailable; the batches before stay, and may be put in once more.
    """
    store.make(encoder.dimension if encoder else None)
    count = 0
    for batch in batches(passages):
        vectors = encoder.passages(batch).tolist() if encoder else [None] * len(batch)
        store.put([_point(*pair) for pair in zip(batch, vectors, strict=True)])
        count += len(batch)
    if not count:
        raise UserError("the corpus is empty: there is nothing to search")
    return count


class QdrantServer:
    """A collection of a server: `http://host:6333/COLLECTION`."""

    def __init__(self, url: str, api_key: str = ""):
        parts = urlsplit(url)
        collection = parts.path.strip("/")
        if not collection or "/" in collection:
            raise UserError(f"qdrant+{url}: name a collection: qdrant+http://host:6333/COLLECTION")
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._collection = f"/collections/{quote(collection, safe='')}"
        self._options: dict[str, Any] = {
            "headers": {"api-key": api_key} if api_key else {},
            "timeout": TIMEOUT,
            "trust_env": False,
        }
        self._client = LoopBound(lambda: httpx2.AsyncClient(**self._options))

    async def query(self, words: Sparse, dense: list[float] | None) -> list[tuple[str, float]]:
        lexical = {"query": words._asdict(), "using": WORDS}
        asked: dict[str, Any] = lexical
        if dense is not None:
            asked = {
                "prefetch": [
                    {**lexical, "limit": CANDIDATES},
                    {"query": dense, "using": DENSE, "limit": CANDIDATES},
                ],
                "query": {"rrf": {"k": FUSION_K}},
            }
        answer = await self._post("/points/query", {**asked, "limit": DEPTH})
        return [(str(point["id"]), point["score"]) for point in answer["points"]]

    async def payloads(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        points = await self._post("/points", {"ids": ids, "with_payload": True})
        return {str(point["id"]): point["payload"] for point in points}

    async def at_url(self, url: str) -> dict[str, Any] | None:
        body = {
            "filter": {"must": [{"key": "url", "match": {"value": url}}]},
            "limit": 1,
            "with_payload": True,
        }
        answer = await self._post("/points/scroll", body)
        return answer["points"][0]["payload"] if answer["points"] else None

    def make(self, dimension: int | None) -> None:
        with httpx2.Client(**self._options) as client:
            if self._sync(client, "GET", f"{self._collection}/exists")["exists"]:
                return
            dense = {DENSE: {"size": dimension, "distance": "Cosine"}} if dimension else {}
            schema = {"vectors": dense, "sparse_vectors": {WORDS: {"modifier": "idf"}}}
            self._sync(client, "PUT", self._collection, schema)
            by_url = {"field_name": "url", "field_schema": "keyword"}
            self._sync(client, "PUT", f"{self._collection}/index?wait=true", by_url)

    def put(self, points: list[Point]) -> None:
        body = {
            "points": [
                {
                    "id": point.id,
                    "payload": point.payload,
                    "vector": {
                        WORDS: point.words._asdict(),
                        **({DENSE: point.dense} if point.dense is not None else {}),
                    },
                }
                for point in points
            ]
        }
        with httpx2.Client(**self._options) as client:
            self._sync(client, "PUT", f"{self._collection}/points?wait=true", body)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        client = await self._client.get()
        try:
            response = await client.post(f"{self._url}{self._collection}{path}", json=body)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        return self._result(response)

    def _sync(
        self, client: httpx2.Client, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Any:
        try:
            response = client.request(method, self._url + path, json=body)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        return self._result(response)

    def _result(self, response: httpx2.Response) -> Any:
        if response.status_code == 429 or response.status_code >= 500:
            raise SearchUnavailable(f"Qdrant at {self._url}: status {response.status_code}")
        try:
            answer = response.json()
            if response.is_success:
                return answer["result"]
            status = answer.get("status")
            reason = status["error"] if isinstance(status, dict) else answer
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self._url}: no Qdrant server there") from None
        advice = "; fill it with nanoscout index push" if response.status_code == 404 else ""
        raise UserError(f"Qdrant at {self._url}: {str(reason)[:300]}{advice}")

    def _unreachable(self, error: Exception) -> SearchUnavailable:
        reason = str(error) or type(error).__name__
        return SearchUnavailable(f"Qdrant at {self._url}: {reason}")


class QdrantFolder:
    """Qdrant's engine in this process over a folder, which one process at a time may open."""

    def __init__(self, folder: Path):
        try:
            import qdrant_edge
        except ModuleNotFoundError:
            raise UserError(
                "qdrant:FOLDER needs an extra: pip install 'nanoscout[qdrant]'"
            ) from None
        self._edge = qdrant_edge
        self._folder = folder
        self._shard: Any = None

    async def query(self, words: Sparse, dense: list[float] | None) -> list[tuple[str, float]]:
        edge = self._edge
        query = edge.Query.Nearest(edge.SparseVector(*words), using=WORDS)
        prefetches = None
        if dense is not None:
            by_vector = edge.Query.Nearest(dense, using=DENSE)
            prefetches = [edge.Prefetch(CANDIDATES, query=each) for each in (query, by_vector)]
            query = edge.Fusion.Rrf(k=FUSION_K)
        request = edge.QueryRequest(limit=DEPTH, query=query, prefetches=prefetches)
        return [(str(point.id), point.score) for point in self._opened().query(request)]

    async def payloads(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        records = self._opened().retrieve(ids, with_payload=True, with_vector=False)
        return {str(record.id): record.payload for record in records}

    async def at_url(self, url: str) -> dict[str, Any] | None:
        edge = self._edge
        condition = edge.FieldCondition("url", match=edge.MatchValue(url))
        request = edge.ScrollRequest(
            limit=1, filter=edge.Filter(must=[condition]), with_payload=True
        )
        records, _ = self._opened().scroll(request)
        payload: dict[str, Any] | None = records[0].payload if records else None
        return payload

    def make(self, dimension: int | None) -> None:
        if self._folder.exists() and any(self._folder.iterdir()):
            return
        edge = self._edge
        dense = {DENSE: edge.EdgeVectorParams(dimension, edge.Distance.Cosine)} if dimension else {}
        words = {WORDS: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
        self._folder.mkdir(parents=True, exist_ok=True)
        config = edge.EdgeConfig(vectors=dense, sparse_vectors=words)
        self._shard = edge.EdgeShard.create(str(self._folder), config)
        by_url = edge.UpdateOperation.create_field_index("url", edge.PayloadSchemaType.Keyword)
        self._shard.update(by_url)

    def put(self, points: list[Point]) -> None:
        edge = self._edge
        made = []
        for point in points:
            vector = {WORDS: edge.SparseVector(*point.words)}
            if point.dense is not None:
                vector[DENSE] = point.dense
            made.append(edge.Point(point.id, vector, point.payload))
        shard = self._opened()
        try:
            shard.update(edge.UpdateOperation.upsert_points(made))
        except Exception as error:
            raise UserError(f"qdrant:{self._folder}: {_first_line(error)}") from None
        shard.flush()

    def _opened(self) -> Any:
        if self._shard is None:
            try:
                self._shard = self._edge.EdgeShard.load(str(self._folder))
            except Exception as error:  # the engine has no exceptions of its own
                raise UserError(
                    f"qdrant:{self._folder}: no collection to be opened: {_first_line(error)}; "
                    "fill it with nanoscout index push"
                ) from None
        return self._shard

    def close(self) -> None:
        """Let go of the folder."""
        with suppress(AttributeError):
            self._shard.close()
        self._shard = None


def _point(passage: Passage, dense: list[float] | None) -> Point:
    payload = {
        "id": _encodable(passage.id),
        "title": _encodable(passage.title),
        "text": _encodable(passage.text),
        "url": _encodable(passage.url),
    }
    counts = Counter(plain_terms(f"{f'{passage.title} ' * 3}{passage.text}"))
    length = K1 * (1 - B + B * counts.total() / MEAN_TERMS)
    weights = {term: count * (K1 + 1) / (count + length) for term, count in counts.items()}
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, payload["id"]))
    return Point(key, payload, _sparse(weights), dense)


def _sparse(weights: dict[str, float]) -> Sparse:
    """Terms by a hash of 32 bits; of terms with one hash the last one counts."""
    by_hash = {_hash(term): weight for term, weight in weights.items()}
    return Sparse(list(by_hash), list(by_hash.values()))


def _hash(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
