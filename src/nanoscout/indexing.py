"""The verbs of `nanoscout index`: build an index, change it, and look into it from the terminal."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from nanoscout.errors import UserError
from nanoscout.recipe import RankingSpec
from nanoscout.records import Passage
from nanoscout.search.corpus import NUMBERED, Corpus, Kind, open_corpus
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.ranking import open_ranking
from nanoscout.terminal import printable, say

if TYPE_CHECKING:
    from nanoscout.search.encoder import Encoder

DISPLAY_EVERY = 100
"""Documents between two updates of the progress line."""


def build_index(
    source: str, out: Path, kind: Kind | None, *, replace: bool, console: Console
) -> None:
    """Index the corpus `source` into the folder `out`."""
    encoder = _encoder_of(out) if replace else None
    indexing = _Indexing(source, kind, console)
    with indexing.passages() as passages:
        index = SearchIndex.build(passages, out, replace=replace)
    indexing.report(f"{out}: {len(index):,} documents, {_megabytes(out)}")
    _encode(out, encoder, console)


def add_to_index(folder: Path, source: str, kind: Kind | None, console: Console) -> None:
    """Add the corpus `source` to an index; documents whose id is there already are replaced."""
    SearchIndex.open(folder)  # so that a wrong folder is refused before a corpus is opened
    encoder = _encoder_of(folder)
    indexing = _Indexing(source, kind, console)
    if (numbered := indexing.corpus.kind) in NUMBERED:
        raise UserError(
            f"{source}: the documents of a {numbered} corpus are numbered from 0 on, so these "
            "would replace others; build an index of their own from them"
        )
    with indexing.passages() as passages:
        changes = SearchIndex.update(folder, add_or_replace=passages)
    indexing.report(f"{folder}: {changes.added:,} added, {changes.replaced:,} replaced")
    _encode(folder, encoder, console)


def push_corpus(source: str, kind: Kind | None, engine: str, model: str, console: Console) -> None:
    """Put the corpus `source` into an engine that others run; with an encoder, its vectors too."""
    from nanoscout.search.external import push

    encoder = None
    if model:
        from nanoscout.search.encoder import Encoder

        encoder = Encoder(model)
    indexing = _Indexing(source, kind, console)
    with indexing.passages() as passages:
        count = push(engine, passages, encoder)
    indexing.report(f"{engine.split('@')[-1]}: {count:,} documents put in")


def delete_from_index(folder: Path, ids: Sequence[str], console: Console) -> None:
    """Delete documents by id: all of them or, where one is unknown, none."""
    encoder = _encoder_of(folder)
    changes = SearchIndex.update(folder, delete=ids)
    say(console, f"{folder}: {changes.deleted:,} deleted")
    _encode(folder, encoder, console)


def encode_index(folder: Path, model: str, console: Console) -> None:
    """Make the vectors of an index for dense and fused ranking, or bring them up to date.

    A pass that is cut off goes on when it is called again. An empty `model` is the one that made
    the vectors that are there.
    """
    SearchIndex.open(folder)
    if model:
        from nanoscout.search.encoder import Encoder

        _encode(folder, Encoder(model), console)
        return
    encoder = _encoder_of(folder)
    if encoder is None:
        raise UserError(f"{folder}: no vectors here; name the model to make them: --encoder")
    _encode(folder, encoder, console)


def _encoder_of(folder: Path) -> "Encoder | None":
    """The model of an index's vectors, None where it has none.

    Asked for before an index is changed: where the model is not to be had, nothing is.
    """
    if not (folder / "vectors").exists():
        return None
    from nanoscout.search.encoder import Encoder
    from nanoscout.search.vectors import encoder_of

    name = encoder_of(SearchIndex.open(folder))
    try:
        return Encoder(name) if name else None
    except UserError as error:
        raise UserError(
            f"{error}; it made the vectors of {folder}: remove {folder / 'vectors'} to do without"
        ) from None


def _encode(folder: Path, encoder: "Encoder | None", console: Console) -> None:
    if encoder is None:
        return
    from nanoscout.search.vectors import encode_passages

    started = time.perf_counter()
    with _progress(console) as progress:
        task = progress.add_task("")

        def show(done: int, total: int) -> None:
            description = f"{done:,} of {total:,} vectors"
            progress.update(task, completed=done, total=total, description=description)

        index = SearchIndex.open(folder)
        encoded = encode_passages(index, encoder, show)
    seconds = time.perf_counter() - started
    outcome = f"{encoded:,} of {len(index):,} vectors made with {encoder.source}"
    say(console, f"{folder}: {outcome} ({seconds:.1f} s)")


def show_info(folder: Path, console: Console, *, as_json: bool) -> None:
    documents = len(SearchIndex.open(folder))
    if as_json:
        print(json.dumps({"documents": documents, "bytes": _bytes(folder)}))
    else:
        say(console, f"{folder}: {documents:,} documents, {_megabytes(folder)}")


def show_search(
    folder: Path, query: str, k: int, ranking: RankingSpec, console: Console, *, as_json: bool
) -> None:
    """The k best documents for a query, with previews; in JSON a list of hits."""
    index = SearchIndex.open(folder)
    engine = LocalSearch(index, ranking=open_ranking(index, ranking))
    hits = asyncio.run(engine.search(query, k))
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits]))
        return
    for rank, hit in enumerate(hits, start=1):
        say(console, f"{rank}. {hit.title}  [{hit.passage_id}, {hit.score:.2f}]")
        say(console, f"   {hit.url}\n   {hit.preview}")
    if not hits:
        say(console, "No results. Try other words.")


def show_page(folder: Path, url: str, offset: int, chars: int, console: Console) -> None:
    """A portion of a document; raises UserError where no document has the URL."""
    page = asyncio.run(LocalSearch(SearchIndex.open(folder)).visit(url, chars, offset))
    if page is None:
        raise UserError(
            f"{printable(url)}: no document with this URL; nanoscout index search shows"
        )
    if not page.text and offset:
        raise UserError(f"--offset {offset}: the document is not that long")
    say(console, f"{page.title}\n{page.text}")
    if page.next_offset is not None:
        say(console, f"(The page goes on: --offset {page.next_offset})")


class _Indexing:
    """A corpus on its way into an index: progress, warnings, and a line at the end."""

    def __init__(self, source: str, kind: Kind | None, console: Console):
        self._console = console
        self._unreadable = 0
        self._count = 0
        self._started = time.perf_counter()
        for library in ("trafilatura", "pypdf"):  # what they can't read is named by us
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self.corpus: Corpus = open_corpus(source, kind, self._warn)

    @contextmanager
    def passages(self) -> Iterator[Iterator[Passage]]:
        """The corpus, passage by passage, with a progress line as long as the block lasts."""
        with _progress(self._console) as progress:
            yield self._followed(progress)

    def _followed(self, progress: Progress) -> Iterator[Passage]:
        total = self.corpus.total
        task = progress.add_task("", total=total)
        of_all = "" if total is None else f" of {total:,}"
        for passage in self.corpus.passages:
            yield passage
            self._count += 1
            if self._count % DISPLAY_EVERY == 0 or self._count == total:
                done = f"{self._count:,}{of_all} documents"
                progress.update(task, completed=self._count, description=done)
        progress.update(task, description=f"{self._count:,} documents: writing")

    def _warn(self, error: UserError) -> None:
        self._unreadable += 1
        say(self._console, f"warning: {error}")

    def report(self, outcome: str) -> None:
        seconds = time.perf_counter() - self._started
        say(self._console, f"{outcome} ({seconds:.1f} s, {self._count / seconds:,.0f} docs/s)")
        if self._unreadable:
            files = "1 file" if self._unreadable == 1 else f"{self._unreadable:,} files"
            say(self._console, f"{files} could not be read and had to be left out; see above")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        _Rate(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} docs/s")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _megabytes(folder: Path) -> str:
    return f"{_bytes(folder) / 1e6:,.1f} MB"
