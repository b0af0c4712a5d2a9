"""The search engine in an OpenSearch or Elasticsearch cluster, over its REST interface.

One field holds the title three times and then the text, as in our own index, and is ranked by the
cluster's BM25. Nothing is needed but HTTP.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx2

from nanoscout.errors import UserError
from nanoscout.records import Hit, Page, Passage
from nanoscout.search.index import MAX_QUERY_CHARS, MAX_QUERY_TERMS, plain_terms
from nanoscout.search.loading import batches
from nanoscout.search.loop_bound import LoopBound
from nanoscout.search.pages import page_portion
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.snippets import PreviewMode, hits_of

TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
MAX_DEPTH = 10_000
"""Hits beyond this rank are refused by a cluster (index.max_result_window)."""

SCHEMA = {
    "settings": {"index": {"number_of_shards": 1}},
    "mappings": {
        "dynamic": False,
        "_source": {"excludes": ["body"]},
        "properties": {
            "id": {"type": "keyword"},
            "url": {"type": "keyword", "ignore_above": 8191},
            "body": {"type": "text", "analyzer": "english"},
        },
    },
}


class OpenSearch:
    """Searches an index, `http://[user:password@]host:9200/INDEX`, that `load` filled.

    Besides SearchUnavailable, its methods raise UserError where the cluster refuses.
    """

    name = "opensearch"

    def __init__(self, url: str, preview: PreviewMode = "first", preview_chars: int = 160):
        parts = urlsplit(url)
        index = parts.path.strip("/")
        if not index or "/" in index:
            raise UserError(f"opensearch+{url}: name an index: opensearch+http://host:9200/INDEX")
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._index = quote(index, safe="")
        self._preview = preview
        self._preview_chars = preview_chars
        user = (unquote(parts.username or ""), unquote(parts.password or ""))
        self._options: dict[str, Any] = {
            "auth": user if parts.username else None,
            "timeout": TIMEOUT,
            "trust_env": False,
        }
        self._client = LoopBound(lambda: httpx2.AsyncClient(**self._options))

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        terms = plain_terms(query[:MAX_QUERY_CHARS])
        if k * page > MAX_DEPTH:
            return []
        words = _encodable(" ".join(query[:MAX_QUERY_CHARS].split()[: 2 * MAX_QUERY_TERMS]))
        asked = {
            "query": {"match": {"body": {"query": words, "operator": "or"}}},
            "from": k * (page - 1),
            "size": k if terms else 0,
            "sort": [{"_score": "desc"}, {"id": "asc"}],
            "track_total_hits": False,
        }
        found = [(_passage(hit), float(hit["_score"])) for hit in await self._hits(asked)]
        return hits_of(found, query, self._preview, self._preview_chars)

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        asked = {"query": {"term": {"url": _encodable(url.strip())}}, "size": 1}
        hits = await self._hits(asked)
        return page_portion(_passage(hits[0]), offset, max_chars) if hits else None

    async def _hits(self, asked: dict[str, Any]) -> list[Any]:
        client = await self._client.get()
        try:
            response = await client.post(f"{self._url}/{self._index}/_search", json=asked)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        answer = self._answer(response)
        try:
            hits: list[Any] = answer["hits"]["hits"]
        except (KeyError, TypeError):
            raise self._stranger() from None
        return hits

    def load(self, passages: Iterable[Passage]) -> int:
        """Put passages in, batch by batch; one whose id is there is replaced. Returns how many.

        The batches before an error stay, and may be put in once more.
        """
        count = 0
        with httpx2.Client(**self._options) as client:
            if self._send(client, "HEAD", "").status_code == 404:
                self._answer(self._send(client, "PUT", "", SCHEMA))
            for batch in batches(passages):
                lines = [line for passage in batch for line in _bulk_lines(passage)]
                body = "\n".join([*lines, ""]).encode(errors="replace")
                answer = self._answer(self._send(client, "POST", "/_bulk", content=body))
                if answer.get("errors"):
                    results = (item["index"] for item in answer["items"])
                    reason = next(r["error"].get("reason") for r in results if "error" in r)
                    raise UserError(f"{self._url}: a document was refused: {reason}")
                count += len(batch)
            self._answer(self._send(client, "POST", "/_refresh"))
        if not count:
            raise UserError("the corpus is empty: there is nothing to search")
        return count

    def _send(
        self,
        client: httpx2.Client,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content: bytes | None = None,
    ) -> httpx2.Response:
        url = f"{self._url}/{self._index}{path}"
        try:
            if content is not None:
                headers = {"Content-Type": "application/x-ndjson"}
                return client.request(method, url, content=content, headers=headers)
            return client.request(method, url, json=body)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def _answer(self, response: httpx2.Response) -> Any:
        if response.status_code == 429 or response.status_code >= 500:
            raise SearchUnavailable(f"OpenSearch at {self._url}: status {response.status_code}")
        try:
            answer = response.json()
            if response.is_success:
                return answer
            reason = answer["error"]["reason"] if isinstance(answer["error"], dict) else answer
        except (ValueError, KeyError, TypeError):
            if response.status_code in (401, 403):
                raise UserError(
                    f"{self._url}: user and password are wanted: http://USER:PASSWORD@host/INDEX"
                ) from None
            raise self._stranger() from None
        advice = "; fill it with nanoscout index push" if response.status_code == 404 else ""
        raise UserError(f"OpenSearch at {self._url}: {str(reason)[:300]}{advice}")

    def _unreachable(self, error: Exception) -> SearchUnavailable:
        reason = str(error) or type(error).__name__
        return SearchUnavailable(f"OpenSearch at {self._url}: {reason}")

    def _stranger(self) -> UserError:
        return UserError(f"{self._url}: no OpenSearch or Elasticsearch there")


def _bulk_lines(passage: Passage) -> tuple[str, str]:
    # A cluster's own id has 512 bytes at most.
    key = hashlib.blake2b(_encodable(passage.id).encode(), digest_size=16).hexdigest()
    document = {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "url": passage.url,
        "body": f"{f'{passage.title} ' * 3}{passage.text}",
    }
    document = {name: _encodable(value) for name, value in document.items()}
    return json.dumps({"index": {"_id": key}}), json.dumps(document, ensure_ascii=False)


def _passage(hit: dict[str, Any]) -> Passage:
    source = hit["_source"]
    return Passage(source["id"], source["title"], source["text"], source["url"])


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()
