"""Suites: real and hostile files, fair samples, downloads, and where answers can be found."""

import csv
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from website import Handler, answer, redirect, website

from nanoscout.answers import exact_match
from nanoscout.errors import UserError
from nanoscout.evaluation.suites import SUITES, Suite, check_evidence, open_suite
from nanoscout.evaluation.suites.catalogue import NAMES
from nanoscout.evaluation.suites.download import Published, fetch
from nanoscout.evaluation.suites.subset import fair_order
from nanoscout.evaluation.suites.suite import Source
from nanoscout.questions.bamboogle import read_bamboogle
from nanoscout.questions.csv_records import read_rows
from nanoscout.questions.hotpotqa import read_hotpotqa
from nanoscout.questions.jsonl import read_jsonl
from nanoscout.questions.musique import read_musique
from nanoscout.questions.popqa import read_popqa
from nanoscout.questions.question_file import QuestionFile
from nanoscout.questions.simpleqa import read_simpleqa
from nanoscout.questions.twowiki import read_2wiki
from nanoscout.records import Question
from nanoscout.search.index import SearchIndex

DATA = Path(__file__).parents[1] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data here")
SIMPLEQA = DATA / "simpleqa/simple_qa_test_set.csv.gz"
HOTPOT_DEV = DATA / "hotpotqa/dev_200_migres.jsonl.gz"
MUSIQUE_DEV = DATA / "musique/dev_200_migres.jsonl.gz"


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Real files


@needs_data
def test_simpleqa_s_real_questions() -> None:
    suite = open_suite("simpleqa", SIMPLEQA)
    assert suite.of == len(suite.questions) == len({q.id for q in suite.questions}) == 4_326
    assert suite.source.published
    assert suite.passages is None
    assert Counter(suite.topics.values()) == {
        "Science and technology": 858,
        "Politics": 709,
        "Art": 550,
        "Other": 475,
        "Geography": 424,
        "Sports": 368,
        "Music": 341,
        "TV shows": 293,
        "History": 173,
        "Video games": 135,
    }
    types = Counter(suite.answer_types.values())
    assert types == {"Date": 1418, "Person": 1041, "Other": 777, "Number": 663, "Place": 427}
    on_wikipedia = [
        urls for urls in suite.pages.values() if any("wikipedia.org" in url for url in urls)
    ]
    assert len(on_wikipedia) >= 3_513  # en.wikipedia.org and others
    (rosenblatt,) = [q for q in suite.questions if "Frank Rosenblatt Award in 2010" in q.text]
    assert rosenblatt.answer == "Michio Sugeno"
    assert suite.pages[rosenblatt.id][1] == "https://ieeexplore.ieee.org/author/37271220500"
    assert all(exact_match(q.answer, [q.answer]) for q in suite.questions)


@needs_data
def test_the_other_real_files() -> None:
    hotpot = open_suite("hotpotqa", HOTPOT_DEV)
    assert hotpot.of == 200
    assert Counter(hotpot.topics.values()) == {"bridge": 134, "comparison": 66}
    assert {q.hops for q in hotpot.questions} == {2}
    musique = open_suite("musique", MUSIQUE_DEV)
    assert Counter(q.hop_type for q in musique.questions) == {
        "2hop": 145, "3hop1": 28, "3hop2": 4, "4hop1": 18, "4hop2": 1, "4hop3": 4
    }  # fmt: skip
    for suite in (hotpot, musique):
        assert not suite.source.published  # a part of the file that is
        assert suite.passages is not None
        ids = {passage.id for passage in suite.passages}
        assert all(len(q.supporting) >= 2 and ids.issuperset(q.supporting) for q in suite.questions)
    bamboogle = open_suite("bamboogle", DATA / "bamboogle/bamboogle.json")
    assert (bamboogle.of, bamboogle.source.published) == (125, True)
    assert {len(q.steps) for q in bamboogle.questions} == {2}


@needs_data
def test_a_file_and_its_gz_are_the_same_source(tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_bytes(gzip.decompress(SIMPLEQA.read_bytes()))
    first, second = open_suite("simpleqa", plain), open_suite("simpleqa", SIMPLEQA)
    assert first.questions == second.questions
    assert first.source == replace(second.source, path=str(plain))
    plain.write_bytes(plain.read_bytes() + b"\r\n")
    assert not open_suite("simpleqa", plain).source.published


# Formats, in files as small as a test can read


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


METADATA = str({"topic": "Art", "answer_type": "Person", "urls": ["https://x.org/a"]})


def simpleqa_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"metadata": METADATA, "problem": f"Who {number}?", "answer": f"N{number}"} | changes


def test_simpleqa_verified(tmp_path: Path) -> None:
    row = {
        "original_index": 5,
        "problem": "How many acres?",
        "answer": "168 acres (acceptable range: anything between 166 and 170 acres)",
        "topic": "Geography",
        "answer_type": "Number",
        "multi_step": False,
        "requires_reasoning": False,
        "urls": "https://en.wikipedia.org/wiki/Smith,_Kansas,https://x.org/b",
    }
    other = row | {"problem": "Who (or what)?", "answer": "Salter (or collier)", "urls": ""}
    file = read_simpleqa(write_csv(tmp_path / "v.csv", [row, other]))
    (acres, trade) = file.questions
    assert (acres.answer, acres.aliases) == (row["answer"], ("168 acres",))
    assert trade.aliases == ()
    assert file.topics[acres.id] == "Geography"
    assert file.answer_types[acres.id] == "Number"
    assert file.pages[acres.id] == (
        "https://en.wikipedia.org/wiki/Smith,_Kansas",
        "https://x.org/b",
    )
    assert file.pages[trade.id] == ()


def test_the_same_question_has_the_same_id_in_both_of_simpleqa_s_files(tmp_path: Path) -> None:
    verified = {"problem": "Who 0?", "answer": "N", "topic": "", "answer_type": "", "urls": ""}
    (one,) = read_simpleqa(write_csv(tmp_path / "a.csv", [simpleqa_row()])).questions
    (two,) = read_simpleqa(write_csv(tmp_path / "b.csv", [verified])).questions
    assert one.id == two.id


def hotpot_record(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "_id": f"q{number}",
        "question": "Where is the mill?",
        "answer": "Brell",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": [["Mill", 0], ["Onn", 1], ["Mill", 1]],
        "context": [["Sea", ["Wet."]], ["Onn", ["A town.", " Near Brell."]], ["Mill", ["Old."]]],
    } | changes


def test_hotpotqa(tmp_path: Path) -> None:
    other = hotpot_record(1, context=[["Mill", ["New."]], ["Onn", ["A town.", " Near Brell."]]])
    file = read_hotpotqa(write_lines(tmp_path / "h", [hotpot_record(), other]))
    assert file.passages is not None
    texts = {passage.id: passage.text for passage in file.passages}
    assert [texts[key] for key in file.questions[0].supporting] == ["Old.", "A town. Near Brell."]
    assert [texts[key] for key in file.questions[1].supporting] == ["New.", "A town. Near Brell."]
    assert len(texts) == 4
    assert len({passage.url for passage in file.passages}) == 4


def test_2wikimultihopqa(tmp_path: Path) -> None:
    more = {
        "evidences": [["Mill", "town", "Onn"]],
        "entity_ids": "Q1_Q2",
        "evidences_id": [],
        "context": [["Onn", ["A town.", "Near Brell."]], ["Mill", ["Old."]]],
    }
    records = [
        hotpot_record(0, **more, type="bridge_comparison", answer_id="Q7"),
        hotpot_record(1, **more, type="compositional", answer_id=None),
        hotpot_record(2, **more, type="comparison"),
    ]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(records))
    (four, two, _), passages = (file := read_2wiki(path)).questions, file.passages
    assert (four.hops, four.aliases, two.hops) == (4, (), 2)
    assert file.topics == {"q0": "bridge_comparison", "q1": "compositional", "q2": "comparison"}
    assert passages is not None
    assert {passage.text for passage in passages} == {"A town. Near Brell.", "Old."}
    aliases = [
        {"Q_id": "Q6", "aliases": ["No"], "demonyms": []},
        {"Q_id": "Q7", "aliases": ["Old Brell", "Brel"], "demonyms": []},
    ]
    write_lines(tmp_path / "id_aliases.json", aliases)
    assert [q.aliases for q in read_2wiki(path).questions] == [("Old Brell", "Brel"), (), ()]


def popqa_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "subj": "George Rankin",
        "prop": "occupation",
        "obj": "politician",
        "s_aliases": '["George James Rankin"]',
        "s_wiki_title": 'George "G" Rankin',
        "question": "What is George Rankin's occupation?",
        "possible_answers": '["politician", "polit.", "!", "pol"]',
    } | changes


def test_popqa(tmp_path: Path) -> None:
    rows = [popqa_row(0), popqa_row(1, s_wiki_title="")]  # the same question of another Rankin
    file = read_popqa(write_csv(tmp_path / "p.tsv", rows, "\t"))
    assert [q.id for q in file.questions] == ["0", "1"]
    assert (file.questions[0].answer, file.questions[0].aliases) == (
        "politician",
        ("polit.", "pol"),
    )
    assert file.topics == {"0": "occupation", "1": "occupation"}
    assert file.pages == {"0": ("https://en.wikipedia.org/wiki/George_%22G%22_Rankin",)}


def test_bamboogle_as_the_authors_table(tmp_path: Path) -> None:
    row = {"Question": "Who, then?", "Answer": "Élodie", "Notes": ""}
    (question,) = read_bamboogle(write_csv(tmp_path / "b.csv", [row])).questions
    assert (question.text, question.answer, question.hops) == ("Who, then?", "Élodie", 2)


def test_one_s_own_questions_may_have_topics(tmp_path: Path) -> None:
    lines = [{"question": "A?", "answer": "1", "topic": "sums"}, {"question": "B?", "answer": "2"}]
    suite = open_suite("jsonl", write_lines(tmp_path / "q.jsonl", lines))
    assert sorted(suite.topics.values()) == ["sums"]
    assert suite.of == 2


any_cell = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(any_cell, any_cell), min_size=1, max_size=6))
def test_whatever_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    rows = [{"first": one, "second": two} for one, two in cells]
    path = write_csv(tmp_path_factory.mktemp("csv") / "any.csv", rows)
    assert [row for _, row in read_rows(path)] == rows


def test_places_are_the_lines_that_records_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,"two\nlines"\n\n3,4\n')
    assert [place for place, _ in read_rows(path)] == [f"{path}, line 2", f"{path}, line 5"]


# Hostile files

READERS: dict[str, Callable[[Path], QuestionFile]] = {
    "simpleqa": read_simpleqa,
    "musique": read_musique,
    "hotpotqa": read_hotpotqa,
    "2wiki": read_2wiki,
    "bamboogle": read_bamboogle,
    "popqa": read_popqa,
    "jsonl": read_jsonl,
}
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n\n\n",
    "not UTF-8": b"\xff\xfea\x00b\x00",
    "cut gzip": gzip.compress(b"metadata,problem,answer\n" * 100)[:-12],
    "gzip of nothing": gzip.compress(b""),
    "gzip with a wrong checksum": gzip.compress(b"x,y\n1,2\n")[:-8] + b"\0" * 8,
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "a page": b"<!doctype html><title>404</title>",
    "zeros": b"\0" * 1000,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path: Path, reader: str, damage: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(DAMAGED[damage])
    assert refusal(lambda: READERS[reader](path)).startswith(str(path))


@pytest.mark.parametrize("reader", READERS)
def test_no_such_file_and_a_folder(tmp_path: Path, reader: str) -> None:
    assert "no such file" in refusal(lambda: READERS[reader](tmp_path / "none"))
    assert str(tmp_path) in refusal(lambda: READERS[reader](tmp_path))


def test_hostile_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    head = "metadata,problem,answer\n"
    good = f'"{METADATA}",Who?,N\n'

    def line(text: str) -> str:
        path.write_text(text, encoding="utf-8")
        return refusal(lambda: read_simpleqa(path)).removeprefix(str(path))

    assert "no column problem or answer; it has 'question, gold'" in line("question,gold\nW?,N\n")
    assert "no column metadata" in line("problem,answer\nW?,N\n")
    assert "no column urls" in line("problem,answer,topic,answer_type\nW?,N,A,P\n")
    assert "holds no record" in line(head)
    assert ", line 3: not valid CSV" in line(head + good + 'x,"y"z,w\n')
    assert "not valid CSV: unexpected end" in line(head + good + 'x,"y,w\nz,1,2\n')
    assert ", line 3: 2 fields, but 3 columns" in line(head + good + "x,y\n")
    assert ", line 3: 4 fields, but 3 columns" in line(head + good + "x,y,z,w\n")
    assert "same name" in line("problem,answer,answer\na,b,c\n")
    assert ", line 3: the problem has stood" in line(head + good + good)
    assert ", line 2: the problem is empty" in line(head + f'"{METADATA}", ,N\n')
    assert ", line 2: no answer" in line(head + f'"{METADATA}",Who?,?!\n')
    assert "field larger" in line(head + good + f"x,{'y' * 200_000},z\n")
    for metadata, fault in {
        "Art": "not a Python literal",
        "__import__('os').abort()": "not a Python literal",
        "{[]: 1}": "not a Python literal",
        "(" * 5_000: "not a Python literal",
        "[1]": "valid dictionary",
        "{'topic': 'Art'}": "answer_type: Field required",
        "{'topic': 'Art'\\, 'answer_type': 'x'\\, 'urls': 'x'}": "urls: Input should be",
    }.items():
        cell = metadata.replace("\\,", ",")
        assert fault in line(head + f'"{cell}",Who?,N\n')


BROKEN_RECORDS: list[tuple[str, Any, str]] = [
    ("hotpotqa", hotpot_record(question=" "), "question is empty"),
    ("hotpotqa", hotpot_record(answer="?"), "no answer"),
    ("hotpotqa", hotpot_record(supporting_facts=[["Lake", 0]]), "title 'Lake'"),
    ("hotpotqa", hotpot_record(context="x"), "context"),
    ("hotpotqa", {"question": "x"}, "Field required"),
    ("hotpotqa", [hotpot_record(), hotpot_record()], "line 2: the id q0"),
    ("2wiki", hotpot_record(answer=3), "answer"),
    ("2wiki", [hotpot_record(), hotpot_record()], "line 2: the id q0"),
    ("bamboogle", {"Question": "x"}, "Answer: Field required"),
    ("bamboogle", {"Question": "", "Answer": "x"}, "empty"),
    ("bamboogle", {"Question": "x", "Answer": "-"}, "no answer"),
    ("bamboogle", [{"Question": "x", "Answer": "y"}] * 2, "line 2: the question has stood"),
    ("jsonl", [{"question": "x", "answer": "y"}] * 2, "line 2: the question has stood"),
    ("jsonl", {"question": "x", "answer": "y", "topik": "z"}, "topik"),
]


@pytest.mark.parametrize(("reader", "records", "fault"), BROKEN_RECORDS)
def test_broken_records(tmp_path: Path, reader: str, records: Any, fault: str) -> None:
    path = write_lines(tmp_path / "x", records if isinstance(records, list) else [records])
    line = refusal(lambda: READERS[reader](path))
    assert line.startswith(f"{path}, line")
    assert fault in line


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([popqa_row(), popqa_row()], "line 3: the id 0"),
        ([popqa_row(possible_answers="politician")], "line 2: possible_answers"),
        ([popqa_row(possible_answers="[1]")], "line 2: possible_answers"),
        ([popqa_row(question="")], "line 2: no question"),
        ([popqa_row(obj="", possible_answers="[]")], "line 2: no question, or no answer"),
        ([{"id": "1", "question": "x"}], "no column prop or obj"),
    ],
)
def test_broken_rows_of_popqa(tmp_path: Path, rows: list[dict[str, Any]], fault: str) -> None:
    path = write_csv(tmp_path / "p.tsv", rows, "\t")
    assert fault in refusal(lambda: read_popqa(path))


def test_what_cannot_be_opened() -> None:
    assert "no suite is called 'simpelqa'; there are simpleqa," in refusal(
        lambda: open_suite("simpelqa")
    )
    for name in ("musique", "2wikimultihopqa", "popqa", "jsonl"):
        assert "--path" in refusal(lambda name=name: open_suite(name))
    assert set(NAMES) == {*SUITES, "world"}


# Fair samples

kinds = st.sampled_from(["1hop", "2hop", "3hop1"])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(kinds, st.sampled_from("abc")), min_size=1, max_size=80),
    st.integers(),
    st.randoms(),
)
def test_a_sample_is_stratified_nested_and_blind_to_the_file_s_order(
    sorts: list[tuple[str, str]], seed: int, rng: Any
) -> None:
    questions = [Question(str(n), "?", "x", hop_type=hop) for n, (hop, _) in enumerate(sorts)]
    topics = {str(n): topic for n, (_, topic) in enumerate(sorts)}
    order = fair_order(questions, topics, seed)
    assert sorted(q.id for q in order) == sorted(topics)
    shuffled = rng.sample(questions, len(questions))
    assert fair_order(shuffled, topics, seed) == order
    sizes = Counter(sorts)
    seen: Counter[tuple[str, str]] = Counter()
    for n, question in enumerate(order, start=1):
        seen[question.hop_type, topics[question.id]] += 1
        for sort, size in sizes.items():
            assert abs(seen[sort] - size * n / len(order)) <= len(sizes)


@needs_data
def test_200_of_simpleqa_s_questions() -> None:
    whole = open_suite("simpleqa", SIMPLEQA)
    sample = open_suite("simpleqa", SIMPLEQA, limit=200)
    assert sample.questions == whole.questions[:200]
    assert (sample.of, len(sample.questions)) == (4_326, 200)
    shares = Counter(whole.topics[q.id] for q in sample.questions)
    for topic, count in Counter(whole.topics.values()).items():
        assert abs(shares[topic] - 200 * count / 4_326) <= 1
    other = open_suite("simpleqa", SIMPLEQA, limit=200, seed=1)
    assert len({q.id for q in sample.questions} & {q.id for q in other.questions}) < 40
    digest = hashlib.sha256(" ".join(q.id for q in sample.questions).encode()).hexdigest()
    assert digest[:12] == "cef22dcbeadd"  # the same on every machine


def test_a_limit_beyond_the_questions_gives_all(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", [simpleqa_row(n) for n in range(5)])
    assert len(open_suite("simpleqa", path, limit=9).questions) == 5


def test_the_world_of_a_recipe_asks_what_its_run_holds_out(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "x"\nseed = 3\n[questions]\nheld_out = 20\n'
        "[questions.world]\npages = 300\nseed = 5\n"
        '[[stage]]\nname = "a"\nsteps = 1\ncontext = 512\n'
    )
    suite = open_suite("world", recipe, limit=10)
    assert (suite.of, len(suite.questions), len(suite.passages or [])) == (20, 10, 300)
    assert open_suite("world", tmp_path, limit=10) == replace(
        suite, source=replace(suite.source, path=str(tmp_path))
    )
    other = tmp_path / "other.toml"
    other.write_text(recipe.read_text().replace("[questions]", '[questions]\nsource = "jsonl"'))
    assert "not a generated world" in refusal(lambda: open_suite("world", other))


# Published files

CONTENT = b"metadata,problem,answer\n" + b"x" * 100_000


def published(url: str, content: bytes = CONTENT) -> Published:
    return Published("file.csv", f"{url}/file.csv", hashlib.sha256(content).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOSCOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "suites"


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_published_file_is_fetched_once(cache: Path) -> None:
    with website() as site:
        site.replies["/file.csv"] = redirect("/elsewhere")
        site.replies["/elsewhere"] = answer(CONTENT)
        with ThreadPoolExecutor(4) as pool:
            paths = set(pool.map(lambda _: fetch(published(site.url)), range(4)))
        assert site.paths == ["/file.csv", "/elsewhere"]
    assert paths == {cache / "file.csv"}
    assert kept(cache) == ["file.csv"]
    assert (cache / "file.csv").read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_refused(cache: Path) -> None:
    with website() as site:
        site.replies["/file.csv"] = answer(CONTENT + b"!")
        line = refusal(lambda: fetch(published(site.url)))
        assert "not the file that it was" in line
        assert "--path" in line
        assert kept(cache) == []
        site.replies["/file.csv"] = answer(CONTENT)
        fetch(published(site.url))
    (cache / "file.csv").write_bytes(b"damaged on disk")
    with website() as site:
        site.replies["/file.csv"] = answer(CONTENT)
        assert fetch(published(site.url)).read_bytes() == CONTENT


def test_a_download_that_breaks_off_leaves_nothing(cache: Path) -> None:
    def half(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:1000])
        handler.close_connection = True

    with website() as site:
        site.replies["/file.csv"] = half
        assert "cannot be fetched" in refusal(lambda: fetch(published(site.url)))
        assert kept(cache) == []
        site.replies["/file.csv"] = answer("gone", 404)
        assert "404" in refusal(lambda: fetch(published(site.url)))
    assert "cannot be fetched" in refusal(lambda: fetch(published(site.url)))  # nobody there
    assert kept(cache) == []


def test_a_suite_without_a_path_comes_from_its_published_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = write_csv(tmp_path / "s.csv", [simpleqa_row(n) for n in range(3)]).read_bytes()
    with website() as site:
        site.replies["/file.csv"] = answer(content)
        kind = replace(SUITES["simpleqa"], published=published(site.url, content))
        monkeypatch.setitem(SUITES, "simpleqa", kind)
        suite = open_suite("simpleqa")
        assert suite.of == 3
        assert suite.source.path == f"{site.url}/file.csv"
        assert suite.source.published
        assert open_suite("simpleqa", tmp_path / "s.csv").source.published
        assert len(site.heard) == 1


def test_every_published_file_is_named_by_a_whole_checksum() -> None:
    files = [kind.published for kind in SUITES.values() if kind.published]
    assert len({file.name for file in files}) == len(files) == 4
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in files)


# Where answers can be found


def has(index: SearchIndex) -> Callable[[str], bool]:
    return lambda url: index.passage(url) is not None


def test_own_paragraphs_the_web_an_index_and_a_closed_book(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "h", [hotpot_record(n) for n in range(4)])
    hotpot = open_suite("hotpotqa", path)
    simpleqa = open_suite("simpleqa", write_csv(tmp_path / "s.csv", [simpleqa_row()]))
    world = replace(hotpot, name="world", subject="fiction")
    assert check_evidence(hotpot, "own") == "the suite's own corpus of 3 passages"
    assert check_evidence(hotpot, "web") == check_evidence(simpleqa, "web") == "the open web"
    for suite in (hotpot, simpleqa, world):
        assert check_evidence(suite, "nothing").startswith("closed book")
    assert "brings no corpus" in refusal(lambda: check_evidence(simpleqa, "own", anyway=True))
    line = refusal(lambda: check_evidence(world, "web"))
    assert "--anyway" in line
    assert "asked for all the same although" in check_evidence(world, "web", anyway=True)


def test_an_index_is_asked_for_the_evidence(tmp_path: Path) -> None:
    hotpot = open_suite("hotpotqa", write_lines(tmp_path / "h", [hotpot_record()]))
    assert hotpot.passages is not None
    whole = SearchIndex.build(hotpot.passages, tmp_path / "whole")
    assert check_evidence(hotpot, "index", has(whole)) == (
        "an index; evidence of 1 of 1 questions is in it"
    )
    part = SearchIndex.build(hotpot.passages[:2], tmp_path / "part")
    assert "evidence of 0 of 1 questions" in refusal(
        lambda: check_evidence(hotpot, "index", has(part))
    )
    assert check_evidence(hotpot, "index", has(part), anyway=True) == (
        "an index, asked for all the same although evidence of 0 of 1 questions is in it"
    )


def suite_of(urls: list[tuple[str, ...]]) -> Suite:
    return Suite(
        name="simpleqa",
        source=Source("simpleqa.csv", "", False),
        questions=[Question(str(n), "?", "x") for n in range(len(urls))],
        of=len(urls),
        pages={str(n): pages for n, pages in enumerate(urls)},
    )


def test_simpleqa_runs_over_a_corpus_without_its_evidence_only_when_asked_for() -> None:
    wiki = "https://en.wikipedia.org/wiki/"
    suite = suite_of(
        [
            (f"{wiki}Z%C3%BCrich#History",),
            ("https://x.org/a", "https://en.m.wikipedia.org/wiki/Alma"),
            ("https://x.org/b", "http://[no address"),
            (),
        ]
    )
    there = {f"{wiki}Zürich", f"{wiki}Alma"}
    assert check_evidence(suite, "index", there.__contains__).endswith("2 of 4 questions is in it")
    there.remove(f"{wiki}Alma")
    assert "1 of 4" in refusal(lambda: check_evidence(suite, "index", there.__contains__))
    assert "not known" in refusal(lambda: check_evidence(suite, "index"))
    unknown = suite_of([(), ()])
    assert "not known" in refusal(lambda: check_evidence(unknown, "index", lambda url: True))
    assert "not known" in check_evidence(unknown, "index", anyway=True)
    yours = replace(unknown, name="jsonl", subject="yours")
    assert "owner" in check_evidence(yours, "index")
