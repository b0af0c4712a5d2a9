"""The index ranks and keeps passages exactly; any text is a query; previews are pieces of text."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoscout.errors import UserError
from nanoscout.records import Passage
from nanoscout.search.index import SearchIndex
from nanoscout.search.snippets import first_characters, query_window

MUSIQUE = Path(__file__).parents[1] / "../shared/data/musique"

TOWNS = [
    Passage("p1", "Zürich", "Zürich is the largest city of Switzerland.", "https://w.org/zurich"),
    Passage("p2", "Bern", "Bern is the seat of the Swiss government.", "https://w.org/bern"),
    Passage("p3", "İzmir", "A port in Türkiye; trams run to its harbour.", "https://w.org/izmir"),
    Passage(
        "p4", "東京", "東京 is the capital of Japan. C++ & body:text NOT AND", "https://w.org/t"
    ),
]
INDEX = SearchIndex.build(TOWNS)


def ids(index: SearchIndex, query: str, k: int = 10) -> list[str]:
    return [hit.passage.id for hit in index.search(query, k)]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("zurich", "p1"),
        ("ZÜRICH's cities", "p1"),  # folded, and stemmed to "city"
        ("seat of the governments", "p2"),
        ("İzmir", "p3"),
        ("東京", "p4"),
    ],
)
def test_a_search_finds_the_page_it_names_first(query: str, best: str) -> None:
    assert ids(INDEX, query)[0] == best


def test_a_title_outweighs_a_mention() -> None:
    index = SearchIndex.build(
        [
            Passage("mention", "Rivers", "The Rhone passes Lyon and Avignon.", "u:1"),
            Passage("title", "Lyon", "A city on the Rhone and the Saone.", "u:2"),
        ]
    )
    assert ids(index, "Lyon") == ["title", "mention"]


@pytest.mark.parametrize("query", ["", " ", "the of and", "?!*", "\0", "unknownword", "\ud800"])
def test_a_query_that_says_nothing_finds_nothing(query: str) -> None:
    assert ids(INDEX, query) == []


@pytest.mark.parametrize(
    "query",
    [
        'title:"Bern" AND NOT body:bern^9',
        "bern -bern +(bern",
        "[bern TO *}",
        '"bern',
        "bern\0",
        "\ud800 bern",
        "bern " * 200_000,
        "bern " + "x" * 1_000_000,
    ],
)
def test_a_query_has_no_syntax(query: str) -> None:
    assert ids(INDEX, query)[0] == "p2"


@given(st.text(st.characters(exclude_categories=[]), max_size=200), st.integers(1, 5))
def test_any_text_is_a_query(query: str, k: int) -> None:
    hits = INDEX.search(query, k)
    assert len(hits) <= k
    assert all(hit.passage in TOWNS for hit in hits)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert len({hit.passage.id for hit in hits}) == len(hits)


@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_any_text_is_a_url_to_look_up(url: str) -> None:
    assert INDEX.passage(url) == {town.url: town for town in TOWNS}.get(url)


def test_every_passage_is_found_by_its_url_and_id_as_it_was() -> None:
    odd = Passage("i d", "Tab\tand \0 null", " spaces \n and 🙂 ", "https://w.org/a_(b)?q=ä#x")
    index = SearchIndex.build([*TOWNS, odd])
    assert len(index) == 5
    for passage in [*TOWNS, odd]:
        assert index.passage(passage.url) == passage
        assert index.passage_by_id(passage.id) == passage
    assert index.passage("https://w.org") is None
    assert index.passage_by_id("p") is None


def test_a_lone_surrogate_in_a_passage_becomes_a_question_mark() -> None:
    index = SearchIndex.build([Passage("p", "Half \ud83d", "a \udc00 b", "u:\ud800")])
    assert index.passage("u:?") == Passage("p", "Half ?", "a ? b", "u:?")


def test_ties_do_not_depend_on_the_order_of_the_corpus() -> None:
    same = [Passage(f"p{n:03}", "Twin", "a page like any other", f"u:{n}") for n in range(200)]
    shuffled = random.Random(0).sample(same, len(same))
    ranking = ids(SearchIndex.build(same), "twin", 10)
    assert ids(SearchIndex.build(shuffled), "twin", 10) == ranking
    assert ids(SearchIndex.build(same), "twin", 200)[:10] == ranking
    assert len(set(ids(SearchIndex.build(same), "twin", 200))) == 200


def test_a_folder_gives_the_same_ranking_as_memory(tmp_path: Path) -> None:
    built = SearchIndex.build(iter(TOWNS), tmp_path / "new" / "index")
    opened = SearchIndex.open(tmp_path / "new" / "index")
    for query in ("swiss city", "capital port", "Japan"):
        assert built.search(query, 3) == opened.search(query, 3) == INDEX.search(query, 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[Passage]:
        yield TOWNS[0]
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        SearchIndex.build(breaks_off(), tmp_path / "index")
    with pytest.raises(UserError, match="the corpus is empty"):
        SearchIndex.build([], tmp_path / "index")
    with pytest.raises(UserError, match="two passages with the url u"):
        SearchIndex.build([Passage("a", "", "", "u"), Passage("b", "", "", "u")])
    with pytest.raises(UserError, match="two passages with the id a"):
        SearchIndex.build([Passage("a", "", "", "u"), Passage("a", "", "", "v")])
    assert list(tmp_path.iterdir()) == []


def test_a_build_overwrites_nothing(tmp_path: Path) -> None:
    SearchIndex.build(TOWNS, tmp_path / "index")
    with pytest.raises(UserError, match="not empty"):
        SearchIndex.build(TOWNS[:1], tmp_path / "index")
    assert len(SearchIndex.open(tmp_path / "index")) == len(TOWNS)


def test_opening_what_is_no_index_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no search index here"):
        SearchIndex.open(tmp_path / "missing")
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(UserError, match="rebuild it") as error:
        SearchIndex.open(tmp_path)
    assert "\n" not in str(error.value)


def test_the_first_characters_end_at_a_word() -> None:
    assert first_characters("one two three", 13) == "one two three"
    assert first_characters("one two three", 12) == "one two …"
    assert first_characters("one two three", 7) == "one two …"
    assert first_characters("one\n\n  two\tthree", 20) == "one two three"
    assert first_characters("one" + " " * 500 + "two three", 7) == "one two …"
    assert first_characters("unbroken" * 5, 10) == "unbrokenun …"
    assert first_characters("", 20) == ""


def test_the_window_shows_where_the_query_is_answered() -> None:
    filler = "Nothing of note happened there for a long time. " * 20
    text = f"{filler}The mill was built by Anna Kerr in 1911. {filler}"
    window = query_window(text, "who built the mill", 100)
    assert "mill was built by Anna Kerr" in window
    assert window.startswith("… ")
    assert window.endswith(" …")
    assert len(window) <= 104
    assert query_window(text, "zebra", 100) == first_characters(text, 100)


def test_the_window_at_the_end_of_a_text_is_as_long_as_any() -> None:
    text = "Plain words. " * 50 + "Its architect was Kerr"
    window = query_window(text, "architect", 100)
    assert window.endswith("architect was Kerr")
    assert len(window) > 90


@given(st.text(max_size=300), st.text(max_size=30), st.integers(20, 60))
def test_previews_are_short_pieces_of_the_text(text: str, query: str, length: int) -> None:
    flat = " ".join(text.split())
    for preview in (first_characters(text, length), query_window(text, query, length)):
        assert len(preview) <= length + len("…  …")
        assert preview.removeprefix("… ").removesuffix(" …").strip() in flat


def single_hops() -> tuple[dict[tuple[str, str], Passage], list[tuple[str, str]]]:
    """Every paragraph of both MuSiQue files, and each sub-question with its paragraph's id."""
    passages: dict[tuple[str, str], Passage] = {}
    questions: list[tuple[str, str]] = []
    for name in ("train_100_hipporag.json.gz", "dev_200_migres.jsonl.gz"):
        text = gzip.decompress((MUSIQUE / name).read_bytes()).decode()
        array = text.lstrip().startswith("[")
        records = json.loads(text) if array else map(json.loads, text.splitlines())
        for record in records:
            keys = [(p["title"], p["paragraph_text"]) for p in record["paragraphs"]]
            for key in keys:
                number = str(len(passages))
                passages.setdefault(key, Passage(number, *key, f"https://m.org/{number}"))
            answers: list[str] = []
            for step in record["question_decomposition"]:
                question = step["question"]
                for hop, answer in enumerate(answers, start=1):
                    question = question.replace(f"#{hop}", answer)
                answers.append(step["answer"])
                questions.append((question, passages[keys[step["paragraph_support_idx"]]].id))
    return passages, questions


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="no ../shared/data/musique here")
def test_recall_of_single_hop_questions_on_musique() -> None:
    passages, questions = single_hops()
    index = SearchIndex.build(passages.values())
    ranks = [ids(index, question) for question, _ in questions]
    golds = [gold for _, gold in questions]
    at_5, at_10 = (
        sum(gold in rank[:k] for gold, rank in zip(golds, ranks, strict=True)) / len(golds)
        for k in (5, 10)
    )
    print(f"{len(index)} paragraphs, {len(golds)} questions: {at_5:.3f} @5, {at_10:.3f} @10")
    assert at_10 >= 0.92
    assert at_5 >= 0.87
