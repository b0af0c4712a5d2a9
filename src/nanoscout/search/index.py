"""The local search engine: a tantivy index over passages, embedded in the process.

One field holds the title three times and then the text, lower-cased, folded to ASCII, without stop
words and stemmed; measured on MuSiQue's paragraphs that ranks better than a boosted title field. A
query goes through the same analysis and is searched for as plain terms, so no query has syntax. The
same corpus gives the same ranking every time, in whatever order it was indexed: ties are broken by
a hash of the passage's id.
"""

import hashlib
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

MAX_QUERY_CHARS = 100_000
"""Characters of a query beyond this many are ignored."""

_WRITER_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Ranked:
    passage: Passage
    score: float


class SearchIndex:
    def __init__(self, index: tantivy.Index):
        self._index = index
        self._analyser = _analyser()
        index.reload()
        self._searcher = index.searcher()

    @classmethod
    def build(cls, passages: Iterable[Passage], folder: Path | None = None) -> "SearchIndex":
        """Index `passages` in memory, or in a folder that appears only when it is whole.

        Raises UserError for an empty corpus, for two passages with one id or URL, and for a folder
        that holds something already. Lone surrogates in a passage become question marks.
        """
        if folder is None:
            return cls(_fill(tantivy.Index(_schema()), passages))
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: not empty; remove it, or build the index elsewhere")
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
        """The index that `build` left in a folder; raises UserError where there is none."""
        if not (folder / "meta.json").is_file():
            raise UserError(f"{folder}: no search index here")
        try:
            return cls(tantivy.Index(_schema(), path=str(folder)))
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{folder}: no readable search index, rebuild it: {reason}") from None

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, query: str, k: int) -> list[Ranked]:
        """The k best passages for any text whatever, best first; k is at least 1.

        `score` is BM25, comparable within one query only.
        """
        terms = self._analyser.analyze(_encodable(query[:MAX_QUERY_CHARS]))[:MAX_QUERY_TERMS]
        if not terms:
            return []
        query_of_terms = tantivy.Query.boolean_query([self._term(term) for term in terms])
        best = self._best(query_of_terms, k)
        return [Ranked(self._passage(address), score) for score, address in best]

    def _best(self, query: tantivy.Query, k: int) -> list[tuple[float, tantivy.DocAddress]]:
        """Scores and addresses of the k best hits, after a look at all that tie at the cut."""
        limit = k + 8
        while True:
            found = self._searcher.search(query, limit, count=False).hits
            if len(found) < limit or found[-1][0] < found[k - 1][0]:
                break
            limit *= 4
        ties = self._searcher.fast_field_values("tie", [address for _, address in found])
        order = sorted(zip(found, ties, strict=True), key=lambda hit: (-hit[0][0], hit[1]))
        return [hit for hit, _ in order[:k]]

    def _term(self, term: str) -> tuple[tantivy.Occur, tantivy.Query]:
        query = tantivy.Query.term_query(self._index.schema, "body", term, index_option="freq")
        return tantivy.Occur.Should, query

    def passage(self, url: str) -> Passage | None:
        """The passage at `url`, if there is one."""
        return self._lookup("url", url)

    def passage_by_id(self, passage_id: str) -> Passage | None:
        return self._lookup("id", passage_id)

    def _lookup(self, field: str, value: str) -> Passage | None:
        query = tantivy.Query.term_query(self._index.schema, field, _encodable(value))
        hits = self._searcher.search(query, 1).hits
        return self._passage(hits[0][1]) if hits else None

    def _passage(self, address: tantivy.DocAddress) -> Passage:
        stored = self._searcher.doc(address)
        title, text = (bytes(stored[name][0]).decode() for name in ("title", "text"))
        return Passage(str(stored.get_first("id")), title, text, str(stored.get_first("url")))


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("id", "url"):
        builder.add_text_field(name, stored=True, tokenizer_name="raw", index_option="basic")
    for name in ("title", "text"):
        builder.add_bytes_field(name, stored=True, indexed=False, fast=False)
    builder.add_unsigned_field("tie", fast=True)
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
    try:
        for passage in passages:
            for key in (f"id {passage.id}", f"url {passage.url}"):
                if key in seen:
                    raise UserError(f"the corpus holds two passages with the {key}")
                seen.add(key)
            writer.add_document(_document(passage))
        if not seen:
            raise UserError("the corpus is empty: there is nothing to search")
        writer.commit()
    finally:
        # Until they have ended, the writer's threads put files into the folder.
        writer.wait_merging_threads()
    return index


def _document(passage: Passage) -> tantivy.Document:
    title, text = _encodable(passage.title), _encodable(passage.text)
    document = tantivy.Document(id=_encodable(passage.id), url=_encodable(passage.url))
    document.add_unsigned("tie", _hash(passage.id))
    document.add_bytes("title", title.encode())
    document.add_bytes("text", text.encode())
    document.add_text("body", f"{f'{title} ' * 3}{text}")
    return document


def _encodable(text: str) -> str:
    """`text` with a question mark for each lone surrogate: JSON can hold one, UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _hash(passage_id: str) -> int:
    digest = hashlib.blake2b(_encodable(passage_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
