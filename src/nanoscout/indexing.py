"""The verbs of `nanoscout index`: build an index, change it, and look into it from the terminal."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

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
from nanoscout.records import Passage
from nanoscout.search.corpus import NUMBERED, Corpus, Kind, open_corpus
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.terminal import printable, say

DISPLAY_EVERY = 100
"""Documents between two updates of the progress line."""


def build_index(
    source: str, out: Path, kind: Kind | None, *, replace: bool, console: Console
) -> None:
    """Index the corpus `source` into the folder `out`."""
    indexing = _Indexing(source, kind, console)
    with indexing.passages() as passages:
        index = SearchIndex.build(passages, out, replace=replace)
    indexing.report(f"{out}: {len(index):,} documents, {_megabytes(out)}")


def add_to_index(folder: Path, source: str, kind: Kind | None, console: Console) -> None:
    """Add the corpus `source` to an index; documents whose id is there already are replaced."""
    SearchIndex.open(folder)  # so that a wrong folder is refused before a corpus is opened
    indexing = _Indexing(source, kind, console)
    if (numbered := indexing.corpus.kind) in NUMBERED:
        raise UserError(
            f"{source}: the documents of a {numbered} corpus are numbered from 0 on, so these "
            "would replace others; build an index of their own from them"
        )
    with indexing.passages() as passages:
        changes = SearchIndex.update(folder, add_or_replace=passages)
    indexing.report(f"{folder}: {changes.added:,} added, {changes.replaced:,} replaced")


def delete_from_index(folder: Path, ids: Sequence[str], console: Console) -> None:
    """Delete documents by id: all of them or, where one is unknown, none."""
    changes = SearchIndex.update(folder, delete=ids)
    say(console, f"{folder}: {changes.deleted:,} deleted")


def show_info(folder: Path, console: Console, *, as_json: bool) -> None:
    documents = len(SearchIndex.open(folder))
    if as_json:
        print(json.dumps({"documents": documents, "bytes": _bytes(folder)}))
    else:
        say(console, f"{folder}: {documents:,} documents, {_megabytes(folder)}")


def show_search(folder: Path, query: str, k: int, console: Console, *, as_json: bool) -> None:
    """The k best documents for a query, with previews; in JSON a list of hits."""
    hits = asyncio.run(LocalSearch(SearchIndex.open(folder)).search(query, k))
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
        with Progress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            _Rate(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} docs/s")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _megabytes(folder: Path) -> str:
    return f"{_bytes(folder) / 1e6:,.1f} MB"
