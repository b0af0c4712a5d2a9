"""What every search engine has to keep to, whoever runs it: checks that each engine's tests use."""

import asyncio
from collections.abc import Callable, Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanoscout.records import Passage
from nanoscout.search.protocol import SearchEngine

HERONS = (
    "The heron stands in the shallow water of the river and waits for fish.",
    "A heron colony of forty nests was counted by the lake.",
    "Herons fly with a bent neck, unlike storks.",
    "In winter the heron hunts mice on frozen meadows.",
    "The painter drew a heron on each plate.",
)
PASSAGES = [
    *(Passage(f"h{n}", f"Heron {n}", text, f"https://w.org/h{n}") for n, text in enumerate(HERONS)),
    Passage(
        'Ørsted\'s "id"', "It's <b>odd</b>", "A café in Łódź.", "https://w.org/caf%C3%A9?a=1&b"
    ),
    Passage("long", "A long page", " ".join(f"word{n}" for n in range(800)), "https://w.org/long"),
    Passage("nul", "Nul", "before\0after, and a lone \ud800 surrogate", "https://w.org/nul"),
]

Load = Callable[[Iterable[Passage]], int]


def check_engine(engine: SearchEngine, load: Load) -> None:
    """`engine` searches what `load` puts in; nothing is in there yet."""
    assert load(iter(PASSAGES)) == len(PASSAGES)
    asyncio.run(_searches(engine))
    asyncio.run(_visits(engine))  # another event loop
    _hostile(engine)
    assert load([Passage("h0", "Heron 0", "It moved away to the delta.", "https://w.org/h0")]) == 1
    asyncio.run(_replaced(engine))


async def _searches(engine: SearchEngine) -> None:
    hits = await engine.search("Which animal hunts mice on frozen meadows?", 3)
    assert hits[0].passage_id == "h3"
    assert hits[0].title == "Heron 3"
    assert hits[0].url == "https://w.org/h3"
    assert HERONS[3].startswith(hits[0].preview.removesuffix(" …"))
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    first, second = await engine.search("heron", 3), await engine.search("heron", 3, page=2)
    ids = [hit.passage_id for hit in [*first, *second]]
    assert len(set(ids)) == len(ids)
    assert {"h0", "h1", "h2", "h3", "h4"} <= {*ids, *[h.passage_id for h in second]}
    assert len(first) == 3
    assert await engine.search("heron", 3, page=300) == []
    for nothing in ("", "  \n", "\0"):
        assert await engine.search(nothing, 3) == []
    again = await asyncio.gather(*(engine.search("heron", 3) for _ in range(5)))
    assert all(hits == first for hits in again)
    assert (await engine.search("odd café in Łódź", 3))[0].passage_id == 'Ørsted\'s "id"'


async def _visits(engine: SearchEngine) -> None:
    for passage in PASSAGES[:6]:
        page = await engine.visit(f" {passage.url} ", 10_000)
        assert page is not None
        assert (page.passage_id, page.title, page.text) == (
            passage.id,
            passage.title,
            passage.text,
        )
    text, offset = [], 0
    while True:
        page = await engine.visit("https://w.org/long", 500, offset)
        assert page is not None
        assert len(page.text) <= 500
        text.append(page.text)
        if page.next_offset is None:
            break
        offset = page.next_offset
    assert " ".join(text) == PASSAGES[6].text
    for unknown in ("", "https://w.org/none", "../../etc/passwd", "\0", "x" * 100_000, "h0"):
        assert await engine.visit(unknown, 100) is None


def _hostile(engine: SearchEngine) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(alphabet=st.characters(), max_size=60), st.text(max_size=40))
    def check(query: str, url: str) -> None:
        async def ask() -> None:
            assert len(await engine.search(query, 2)) <= 2
            assert await engine.visit(url, 100) is None

        asyncio.run(ask())

    check()
    for query in (
        "' | !& <-> :*",
        '"heron" AND NOT (title:x^2)',
        "a" * 1_000_000,
        "heron " * 99_999,
    ):
        assert len(asyncio.run(engine.search(query, 2))) <= 2


async def _replaced(engine: SearchEngine) -> None:
    page = await engine.visit("https://w.org/h0", 100)
    assert page is not None
    assert page.text == "It moved away to the delta."
    hits = await engine.search("moved to the delta", 5)
    assert [hit.passage_id for hit in hits].count("h0") == 1
    assert hits[0].passage_id == "h0"
