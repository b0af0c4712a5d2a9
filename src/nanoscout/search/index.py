"""The local search engine: a tantivy index over passages, embedded in the process.

One field holds the title three times and then the text, lower-cased, folded to ASCII, without stop
words and stemmed; measured on MuSiQue's paragraphs that ranks better than a boosted title field. A
query goes through the same analysis and is searched for as plain terms, so no query has syntax. The
same corpus gives the same ranking every time, in whatever order it was indexed: ties are broken by
a hash of the passage's id. All changes are one commit: a reader sees all of them or none, and so it
stays when the writer is killed.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import tantivy

from nanoscout.errors import UserError
from nanoscout.records import Passage

MAX_QUERY_TERMS = 64
"""Terms of a query beyond this many are ignored."""

MAX_QUERY_CHARS = 100_000
"""Characters of a query beyond this many are ignored."""

MAX_KEY_BYTES = 4_096
"""The longest id or URL of a passage, as UTF-8."""

_WRITER_BYTES = 128 * 2**20


Address = tuple[int, int]
"""Where a passage lies in an index as it is now: segment and document."""


@dataclass(frozen=True, slots=True)
class Ranked:
    passage: Passage
    score: float


class Changes(NamedTuple):
    """How many passages an update added, replaced and deleted."""

    added: int
    replaced: int
    deleted: int


class SearchIndex:
    def __init__(self, index: tantivy.Index, folder: Path | None = None):
        self._index = index
        self.folder = folder
        self._analyser = _analyser()
        self.reload()

    @classmethod
    def build(
        cls, passages: Iterable[Passage], folder: Path | None = None, *, replace: bool = False
    ) -> "SearchIndex":
        """Index `passages` in memory, or in a folder that appears only when it is whole.

        With `replace` the index that is in the folder already is searched until the new one is
        whole. Raises UserError for an empty corpus, for two passages with one id or URL, and for a
        folder that holds something else already or is being written to. Lone surrogates in a
        passage become question marks.
        """
        if folder is None:
            index = tantivy.Index(_schema())
            with _commit(_writer(index, "memory")) as writer:
                _fill(writer, passages)
            return cls(index)
        folder = folder.resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not replace:
                raise UserError(f"{folder}: not empty; replace the index with --replace")
            index = _open(folder)
            with _commit(_writer(index, str(folder), folder)) as writer:
                writer.delete_all_documents()
                _fill(writer, passages)
            return cls(index, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f".{folder.name}.partial")
        partial.mkdir(exist_ok=True)
        writer = _writer(_at(partial), str(folder), partial)
        try:
            with _commit(writer):
                writer.delete_all_documents()  # what a killed build may have left
                _fill(writer, passages)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return cls.open(folder)

    @classmethod
    def update(
        cls, folder: Path, add_or_replace: Iterable[Passage] = (), delete: Iterable[str] = ()
    ) -> Changes:
        """Delete passages by id, then add others; one with an id that is there replaces that one.

        Readers see the change after `reload`. Until the engine merges them away, deleted passages
        still count in the term statistics behind the scores. Raises UserError, and changes
        nothing, for an unknown id, and for an id or URL that two passages would have.
        """
        index = cls.open(folder)
        with _commit(_writer(index._index, str(folder), folder)) as writer:
            index.reload()  # to what has been committed before the folder was ours
            return index._change(writer, add_or_replace, dict.fromkeys(delete))

    def _change(
        self, writer: tantivy.IndexWriter, passages: Iterable[Passage], delete: Iterable[str]
    ) -> Changes:
        deleted, replaced = set[int](), set[int]()
        added = 0
        for passage_id in delete:
            if self.passage_by_id(passage_id) is None:
                raise UserError(f"there is no passage with the id {passage_id}; nothing is changed")
            deleted.add(_hash(passage_id))
            writer.delete_documents_by_term("id", _encodable(passage_id))
        keys = _Keys()
        clashes: dict[int, Passage] = {}
        for passage in passages:
            keys.add(passage)
            if self.passage_by_id(passage.id):
                replaced.add(_hash(passage.id))
                writer.delete_documents_by_term("id", _encodable(passage.id))
            else:
                added += 1
            holder = self.passage(passage.url)
            if holder and holder.id != _encodable(passage.id):
                clashes[_hash(holder.id)] = passage
            writer.add_document(_document(passage))
        for holder_hash, passage in clashes.items():
            if holder_hash not in deleted and holder_hash not in replaced:
                raise UserError(
                    f"another passage of the index has the url {passage.url} of {passage.id}; "
                    "nothing is changed"
                )
        return Changes(added, len(replaced), len(deleted - replaced))

    @classmethod
    def open(cls, folder: Path) -> "SearchIndex":
        """The index that `build` left in a folder; raises UserError where there is none."""
        return cls(_open(folder), folder)

    def reload(self) -> None:
        """Search what has been committed to the folder by now."""
        self._seen = self._last_commit()
        committed = b""
        while (latest := self._committed()) != committed:
            committed = latest
            self._index.reload()
            self._searcher = self._index.searcher()
        self.version = hashlib.blake2b(committed, digest_size=16).hexdigest()

    def _committed(self) -> bytes:
        """The engine's list of what a commit holds; a commit writes a new one."""
        return (self.folder / "meta.json").read_bytes() if self.folder else b"memory"

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """Nobody changes the index in the folder as long as the block lasts; it is read anew first.

        Raises UserError while somebody is changing it.
        """
        writer = _writer(self._index, str(self.folder))
        try:
            self.reload()
            yield
        finally:
            writer.rollback()
            writer.wait_merging_threads()

    def refresh(self) -> None:
        """`reload` if there has been a commit since; some microseconds where there was none.

        An index whose folder is gone is searched as it was.
        """
        if self._last_commit() not in (None, self._seen):
            self.reload()

    def _last_commit(self) -> tuple[int, int] | None:
        """What tells one commit to the folder from the next: each puts a new meta.json there."""
        if self.folder is None:
            return None
        try:
            meta = os.stat(self.folder / "meta.json")
        except FileNotFoundError:
            return None
        return meta.st_ino, meta.st_mtime_ns

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, query: str, k: int) -> list[Ranked]:
        """The k best passages for any text whatever, best first; k is at least 1.

        `score` is BM25, comparable within one query only.
        """
        return [Ranked(self.at(address), score) for address, score in self.rank(query, k)]

    def rank(self, query: str, k: int) -> list[tuple[Address, float]]:
        """As `search`, but only where the passages lie: cheap for a large k."""
        terms = plain_terms(query[:MAX_QUERY_CHARS], self._analyser)[:MAX_QUERY_TERMS]
        if not terms:
            return []
        query_of_terms = tantivy.Query.boolean_query([self._term(term) for term in terms])
        best = _best(self._searcher, query_of_terms, k)
        return [((place.segment_ord, place.doc), score) for score, place in best]

    def at(self, address: Address) -> Passage:
        return _passage(self._searcher, tantivy.DocAddress(*address))

    def addresses(self) -> list[Address]:
        """Of all passages, in the order in which they lie in the index."""
        everything = tantivy.Query.all_query()
        hits = self._searcher.search(everything, max(1, len(self)), count=False).hits
        return [(place.segment_ord, place.doc) for _, place in hits]

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
        searcher = self._searcher
        hits = searcher.search(query, 1).hits
        return _passage(searcher, hits[0][1]) if hits else None


def _best(
    searcher: tantivy.Searcher, query: tantivy.Query, k: int
) -> list[tuple[float, tantivy.DocAddress]]:
    """Scores and addresses of the k best hits, after a look at all that tie at the cut."""
    limit = k + 8
    while True:
        found = searcher.search(query, limit, count=False).hits
        if len(found) < limit or found[-1][0] < found[k - 1][0]:
            break
        limit *= 4
    ties = searcher.fast_field_values("tie", [address for _, address in found])
    order = sorted(zip(found, ties, strict=True), key=lambda hit: (-hit[0][0], hit[1]))
    return [hit for hit, _ in order[:k]]


def _passage(searcher: tantivy.Searcher, address: tantivy.DocAddress) -> Passage:
    stored = searcher.doc(address)
    title, text = (bytes(stored[name][0]).decode() for name in ("title", "text"))
    return Passage(str(stored.get_first("id")), title, text, str(stored.get_first("url")))


def _open(folder: Path) -> tantivy.Index:
    if not (folder / "meta.json").is_file():
        raise UserError(f"{folder}: no search index here")
    return _at(folder)


def _at(folder: Path) -> tantivy.Index:
    """The index in the folder, a new one where there is none."""
    try:
        return tantivy.Index(_schema(), path=str(folder))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: no readable search index, remove it and rebuild it: {reason}"
        ) from None


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("id", "url"):
        builder.add_text_field(name, stored=True, tokenizer_name="raw", index_option="basic")
    for name in ("title", "text"):
        builder.add_bytes_field(name, stored=True, indexed=False, fast=False)
    builder.add_unsigned_field("tie", fast=True)
    builder.add_text_field("body", stored=False, tokenizer_name="scout", index_option="freq")
    return builder.build()


def plain_terms(text: str, analyser: tantivy.TextAnalyzer | None = None) -> list[str]:
    """The terms of any text as the index has them, in their order."""
    terms: list[str] = (analyser or _analyser()).analyze(_encodable(text))
    return terms


@cache
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


def _writer(index: tantivy.Index, where: str, folder: Path | None = None) -> tantivy.IndexWriter:
    """The one writer that an index has at a time; a killed one's claim ends with it, and the file
    that it was just writing goes."""
    index.register_tokenizer("scout", _analyser())
    try:
        writer = index.writer(heap_size=_WRITER_BYTES, num_threads=1)
    except ValueError as error:
        if "LockBusy" in str(error):
            raise UserError(f"{where}: being written to by another process; wait for it") from None
        raise UserError(f"{where}: cannot be written to: {error}") from None
    if folder is not None:
        for left in folder.glob(".tmp*"):
            left.unlink()
    return writer


@contextmanager
def _commit(writer: tantivy.IndexWriter) -> Iterator[tantivy.IndexWriter]:
    """All that is done within is committed at the end, or with an exception none of it."""
    try:
        yield writer
        writer.commit()
    except BaseException:
        writer.rollback()
        writer.garbage_collect_files()
        raise
    finally:
        # Until they have ended, the writer's threads put files into the folder.
        writer.wait_merging_threads()


class _Keys:
    """The ids and URLs of passages that are put in together, as hashes."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, passage: Passage) -> None:
        """Raises UserError for an unusable id or URL and for one that was there before."""
        for name, key in (("id", passage.id), ("url", passage.url)):
            if not key:
                raise UserError(f"a passage has no {name}: {passage.title[:100]!r}")
            if len(_encodable(key).encode()) > MAX_KEY_BYTES:
                raise UserError(f"longer than {MAX_KEY_BYTES} bytes: the {name} {key[:100]}…")
            fingerprint = _hash(f"{name} {key}")
            if fingerprint in self._seen:
                raise UserError(f"the corpus holds two passages with the {name} {key}")
            self._seen.add(fingerprint)


def _fill(writer: tantivy.IndexWriter, passages: Iterable[Passage]) -> None:
    keys = _Keys()
    for passage in passages:
        keys.add(passage)
        writer.add_document(_document(passage))
    if not keys:
        raise UserError("the corpus is empty: there is nothing to search")


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


def _hash(text: str) -> int:
    digest = hashlib.blake2b(_encodable(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
