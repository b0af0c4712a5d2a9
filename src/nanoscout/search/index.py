"""The local search engine: a tantivy index over passages, embedded in the process.

One field holds the title three times and then the text, lower-cased, folded to ASCII, without stop
words and stemmed; measured on MuSiQue's paragraphs that ranks better than a boosted title field. A
query is turned into plain terms before it is parsed, so no query has syntax. The same corpus gives
the same ranking every time: one indexing thread, one segment, ties broken by id.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tantivy

from nanoscout.errors import UserError
from nanoscout.records import Passage

MAX_QUERY_TERMS = 64
"""Terms of a query beyond this many are ignored."""

_TERM = re.compile(r"[^\W_]+")
_WRITER_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Ranked:
    passage: Passage
    score: float


class SearchIndex:
    def __init__(self, index: tantivy.Index):
        self._index = index
        index.register_tokenizer("scout", _analyser())
        index.reload()
        self._searcher = index.searcher()

    @classmethod
    def build(cls, passages: Iterable[Passage], folder: Path | None = None) -> "SearchIndex":
        """Index `passages` in memory, or in a folder that appears only when it is whole.

        Raises UserError for an empty corpus and for two passages with one id or URL.
        """
        if folder is None:
            return cls(_fill(tantivy.Index(_schema()), passages))
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
        try:
            _fill(tantivy.Index(_schema(), path=str(partial)), passages)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "SearchIndex":
        if not tantivy.Index.exists(str(folder)):
            raise UserError(f"{folder}: no search index here")
        index = tantivy.Index(_schema(), path=str(folder))
        return cls(index)

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, query: str, k: int) -> list[Ranked]:
        """The k best passages for any text whatever, best first."""
        terms = _TERM.findall(query[:100_000])[:MAX_QUERY_TERMS]
        if not terms:
            return []
        parsed = self._index.parse_query(" ".join(term.lower() for term in terms), ["body"])
        # A few more than asked for, so that a tie at the cut is broken by id and not by chance.
        found = self._searcher.search(parsed, k + 8).hits
        ranked = [Ranked(self._passage(address), score) for score, address in found]
        ranked.sort(key=lambda hit: (-hit.score, hit.passage.id))
        return ranked[:k]

    def passage(self, url: str) -> Passage | None:
        """The passage at `url`, if there is one."""
        return self._lookup("url", url)

    def passage_by_id(self, passage_id: str) -> Passage | None:
        return self._lookup("id", passage_id)

    def _lookup(self, field: str, value: str) -> Passage | None:
        query = tantivy.Query.term_query(self._index.schema, field, value)
        hits = self._searcher.search(query, 1).hits
        return self._passage(hits[0][1]) if hits else None

    def _passage(self, address: tantivy.DocAddress) -> Passage:
        stored = self._searcher.doc(address)
        title, text = (bytes(stored.get_first(name)).decode() for name in ("title", "text"))
        return Passage(str(stored.get_first("id")), title, text, str(stored.get_first("url")))


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("id", "url"):
        builder.add_text_field(name, stored=True, tokenizer_name="raw", index_option="basic")
    for name in ("title", "text"):
        builder.add_bytes_field(name, stored=True, indexed=False, fast=False)
    builder.add_text_field("body", stored=False, tokenizer_name="scout", index_option="freq")
    return builder.build()


def _analyser() -> tantivy.TextAnalyzer:
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(64))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .filter(tantivy.Filter.stopword("english"))
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


def _fill(index: tantivy.Index, passages: Iterable[Passage]) -> tantivy.Index:
    index.register_tokenizer("scout", _analyser())
    writer = index.writer(heap_size=_WRITER_BYTES, num_threads=1)
    seen: set[str] = set()
    for passage in passages:
        for key in (f"id {passage.id}", f"url {passage.url}"):
            if key in seen:
                raise UserError(f"the corpus holds two passages with the {key}")
            seen.add(key)
        document = tantivy.Document(id=passage.id, url=passage.url)
        document.add_bytes("title", passage.title.encode())
        document.add_bytes("text", passage.text.encode())
        document.add_text("body", f"{f'{passage.title} ' * 3}{passage.text}")
        writer.add_document(document)
    if not seen:
        raise UserError("the corpus is empty: there is nothing to search")
    writer.commit()
    writer.wait_merging_threads()
    return index
