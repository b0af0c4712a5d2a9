"""Question sources of files (MuSiQue, one's own), their split, and the order questions come in."""

import gzip
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoscout.errors import UserError
from nanoscout.questions import QuestionSet, load_questions
from nanoscout.questions.documents import read_documents
from nanoscout.questions.sampler import QuestionStream, select
from nanoscout.recipe import QuestionsSpec
from nanoscout.records import Question, Step

MUSIQUE = Path(__file__).parents[1] / "../shared/data/musique"
TRAIN, DEV = MUSIQUE / "train_100_hipporag.json.gz", MUSIQUE / "dev_200_migres.jsonl.gz"
needs_musique = pytest.mark.skipif(not MUSIQUE.is_dir(), reason="no ../shared/data/musique here")

MIX = {"2hop": 2.0, "3hop1": 1.0}


def questions_of(counts: dict[str, int]) -> list[Question]:
    return [
        Question(f"{hop_type}__{n}", f"{hop_type} {n}?", "x", hop_type=hop_type)
        for hop_type, count in counts.items()
        for n in range(count)
    ]


def take(stream: QuestionStream, n: int) -> list[Question]:
    return [stream.next() for _ in range(n)]


# The stream and the selection


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["1hop", "2hop", "3hop1", "3hop2", "4hop1", "4hop2", "4hop3"]),
        st.decimals("0.01", 50, places=2).map(float),
        min_size=1,
    )
)
def test_after_any_number_of_questions_every_hop_type_has_its_share(mix: dict[str, float]) -> None:
    stream = QuestionStream(questions_of(dict.fromkeys(mix, 3)), mix, seed=0)
    seen: Counter[str] = Counter()
    for n in range(1, 120):
        seen[stream.next().hop_type] += 1
        for hop_type, weight in mix.items():
            assert abs(seen[hop_type] - n * weight / sum(mix.values())) < 1 + 1e-9


def test_whole_periods_have_the_exact_mix() -> None:
    stream = QuestionStream(questions_of({"1hop": 50, "2hop": 7}), {"1hop": 0.7, "2hop": 0.3}, 0)
    for _ in range(30):
        assert Counter(q.hop_type for q in take(stream, 10)) == {"1hop": 7, "2hop": 3}


def test_each_pass_asks_every_question_once_in_a_new_order() -> None:
    stream = QuestionStream(questions_of({"1hop": 40}), {"1hop": 1}, seed=3)
    first, second = take(stream, 40), take(stream, 40)
    assert first != second
    assert {q.id for q in first} == {q.id for q in second} == {f"1hop__{n}" for n in range(40)}


def test_the_cursor_is_the_whole_state() -> None:
    questions, mix = questions_of({"1hop": 13, "2hop": 5}), {"2hop": 1.0, "1hop": 2.5}
    whole = take(QuestionStream(questions, mix, seed=1), 200)
    stream = QuestionStream(questions, dict(reversed(mix.items())), seed=1)
    for cursor in (150, 0, 7, 77, 6):
        stream.cursor = cursor
        assert take(stream, 20) == whole[cursor : cursor + 20]
        assert stream.cursor == cursor + 20
    assert take(QuestionStream(questions, mix, seed=2), 200) != whole


def test_a_far_cursor_costs_no_replay() -> None:
    stream = QuestionStream(questions_of({"1hop": 4, "2hop": 2}), {"1hop": 2, "2hop": 1}, seed=0)
    stream.cursor = 3 * 10**15
    assert Counter(q.hop_type for q in take(stream, 6)) == {"1hop": 4, "2hop": 2}


def test_hop_types_that_are_not_there_take_no_share() -> None:
    stream = QuestionStream(questions_of({"2hop": 5, "4hop1": 5}), {"1hop": 9, "2hop": 1}, seed=0)
    assert {q.hop_type for q in take(stream, 20)} == {"2hop"}
    with pytest.raises(UserError, match="no question is 1hop; this source has 2hop or 4hop1"):
        QuestionStream(questions_of({"2hop": 5, "4hop1": 5}), {"1hop": 1}, seed=0)
    with pytest.raises(UserError, match="this source has none"):
        select([], {"1hop": 1}, 3, seed=0)


def test_a_selection_has_the_mix_in_every_prefix_and_no_question_twice() -> None:
    questions = questions_of({"1hop": 300, "2hop": 300, "3hop1": 10})
    chosen = select(questions, {"1hop": 2, "2hop": 1}, 210, seed=0)
    assert len({q.id for q in chosen}) == 210
    for n in range(0, 210, 3):
        assert Counter(q.hop_type for q in chosen[n : n + 3]) == {"1hop": 2, "2hop": 1}
    assert chosen == select(questions, {"1hop": 2, "2hop": 1}, 210, seed=0)
    assert chosen != select(questions, {"1hop": 2, "2hop": 1}, 210, seed=1)


def test_a_short_hop_type_gives_all_and_no_other_fills_in() -> None:
    chosen = select(questions_of({"1hop": 300, "2hop": 10}), {"1hop": 1, "2hop": 1}, 100, seed=0)
    assert Counter(q.hop_type for q in chosen) == {"1hop": 50, "2hop": 10}


# MuSiQue


def record(number: int, hop_type: str = "2hop", **changes: Any) -> dict[str, Any]:
    """A record in MuSiQue's format about invented places; its support is not in list order."""
    hops = int(hop_type[0])
    names = [f"Place {number}-{hop}" for hop in range(hops + 1)]
    paragraphs = [
        {"idx": hop, "title": names[hop], "paragraph_text": f"{names[hop]} is in {names[hop + 1]}."}
        for hop in range(hops)
    ]
    steps = [{"question": f"Where is {names[0]}?", "answer": names[1], "paragraph_support_idx": 0}]
    for hop in range(1, hops):
        question = f"#{hop} >> place"
        steps.append({"question": question, "answer": names[hop + 1], "paragraph_support_idx": hop})
    return {
        "id": f"{hop_type}__{number}",
        "question": f"Where is the place of {names[0]}?",
        "question_decomposition": steps,
        "answer": names[-1],
        "answer_aliases": [f"P{number}"],
        "answerable": True,
        "paragraphs": [*reversed(paragraphs), {"idx": 9, "title": "Sea", "paragraph_text": "Wet."}],
    } | changes


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in records), encoding="utf-8")
    return path


def musique(path: Path, dev: Path | str = "", **changes: Any) -> QuestionSet:
    """MuSiQue's own questions, without the single hops that are added to them."""
    found = with_single_hops(path, dev, **changes)
    return replace(
        found,
        train=[question for question in found.train if question.hops > 1],
        examples=[question for question in found.examples if question.hops > 1],
    )


def with_single_hops(path: Path, dev: Path | str = "", **changes: Any) -> QuestionSet:
    return load_questions(
        QuestionsSpec(
            source="musique", path=str(path), held_out_path=str(dev), hops=MIX, **changes
        ),
        seed=0,
    )


def all_questions(found: QuestionSet) -> list[Question]:
    return [*found.train, *found.held_out, *found.examples]


def test_a_record_becomes_a_question_with_filled_in_steps(tmp_path: Path) -> None:
    found = musique(
        write_lines(tmp_path / "train.jsonl", [record(n, "3hop1") for n in range(20)]),
        write_lines(tmp_path / "dev.jsonl", [record(99, "3hop1")]),
    )
    (question,) = found.held_out
    pages = {passage.title: passage for passage in found.passages}
    assert question == Question(
        id="3hop1__99",
        text="Where is the place of Place 99-0?",
        answer="Place 99-3",
        aliases=("P99",),
        hop_type="3hop1",
        steps=(
            Step("Where is Place 99-0?", "Place 99-1", pages["Place 99-0"].id),
            Step("Place 99-1 >> place", "Place 99-2", pages["Place 99-1"].id),
            Step("Place 99-2 >> place", "Place 99-3", pages["Place 99-2"].id),
        ),
    )
    assert pages["Place 99-1"].text == "Place 99-1 is in Place 99-2."
    assert pages["Place 99-1"].url == "https://en.wikipedia.org/wiki/Place_99-1"


def test_a_number_sign_that_names_no_earlier_hop_stays(tmp_path: Path) -> None:
    odd = record(0)
    odd["question_decomposition"][1]["question"] = "Who wore #40 and #2 after #1, #1?"
    found = musique(write_lines(tmp_path / "a", [odd, *(record(n) for n in range(1, 20))]))
    (steps,) = [q.steps for q in all_questions(found) if q.id == "2hop__0"]
    assert steps[1].question == "Who wore #40 and #2 after Place 0-1, Place 0-1?"


def test_lines_array_and_gzip_read_the_same(tmp_path: Path) -> None:
    records = [record(n, hop_type) for n, hop_type in enumerate(["2hop", "3hop1"] * 20)]
    lines = write_lines(tmp_path / "lines", records)
    array = tmp_path / "array"
    array.write_text("\n " + json.dumps(records, indent=1), encoding="utf-8")
    zipped = tmp_path / "zipped"
    zipped.write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + lines.read_bytes()))
    found = musique(lines)
    assert musique(array) == found
    assert musique(zipped) == found


def test_the_corpus_has_each_paragraph_once_at_an_address_of_its_own(tmp_path: Path) -> None:
    titles = ["Ohio", "Ohio", "Ohio (2)", "Ohio_(2)", "50% off? #1/2", "São Tomé", " "]
    texts = ["River.", "State.", "Film.", "Song.", "Sale.", "Île.", "Blank."]
    paragraphs = [
        {"idx": idx, "title": title, "paragraph_text": text}
        for idx, (title, text) in enumerate(zip(titles, texts, strict=True))
    ]
    records = [record(n, paragraphs=paragraphs) for n in range(10)]
    found = musique(write_lines(tmp_path / "a", records))
    assert [(p.title, p.text) for p in found.passages] == list(zip(titles, texts, strict=True))
    assert len({p.id for p in found.passages}) == 7
    site = "https://en.wikipedia.org/wiki/"
    assert [p.url.removeprefix(site) for p in found.passages] == [
        "Ohio",
        "Ohio_(2)",
        "Ohio_(2)_(2)",
        "Ohio_(2)_(3)",
        "50%25_off%3F_%231/2",
        "São_Tomé",
        "Untitled",
    ]


def test_unanswerable_records_are_skipped(tmp_path: Path) -> None:
    unanswerable = {"id": "2hop__7", "answerable": False}
    found = musique(write_lines(tmp_path / "a", [unanswerable, *(record(n) for n in range(10))]))
    assert len(all_questions(found)) == 10
    with pytest.raises(UserError, match="no answerable question"):
        musique(write_lines(tmp_path / "b", [unanswerable]))


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("{", "line 3: not valid JSON"),
        ("[1]", "line 3: expected a JSON object"),
        ("[" * 100_000, "line 3: not usable JSON"),
        ("9" * 5_000, "line 3: not usable JSON"),
        (json.dumps(record(0)), "line 3: the id 2hop__0 has been used before"),
        (json.dumps({"id": "2hop__5"}), "line 3: question: Field required"),
        (json.dumps(record(5, answer=None)), "line 3: answer: Input should be a valid string"),
        (json.dumps(record(5, question="\ud800")), "line 3: question: "),
        (json.dumps(record(5, answer="The", answer_aliases=[])), "line 3: no answer that could"),
        (json.dumps(record(5, id="5hop__5")), "line 3: the id 5hop__5 does not begin"),
        (json.dumps(record(5, id="3hop1__5")), "line 3: 3hop1, but 2 steps"),
        (json.dumps(record(5, paragraphs=[])), "line 3: no paragraph has the idx 0"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: str, complaint: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(record(0))}\n\n{broken}\n{json.dumps(record(8))}\n")
    with pytest.raises(UserError) as error:
        musique(path)
    assert f"{path}, {complaint}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fault_in_an_array_is_named_by_line_or_item(tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text(f'[\n{json.dumps(record(0))},\n{{"id": }}\n]')
    with pytest.raises(UserError, match="line 3: not valid JSON"):
        musique(path)
    path.write_text(json.dumps([record(0), "x"]))
    with pytest.raises(UserError, match="item 2: expected a JSON object"):
        musique(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"", "holds no record"),
        (b" \n\n", "holds no record"),
        (b"[]", "holds no record"),
        (b'{"id": "\xff"}', "cannot be read"),
        (gzip.compress(b"{}" * 1000)[:-9], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "questions"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        musique(path)
    assert str(error.value).startswith(str(path))
    with pytest.raises(UserError, match=r"questions\.path: not set"):
        load_questions(QuestionsSpec(source="musique"), seed=0)


# The split


def test_questions_are_split_into_disjoint_ones(tmp_path: Path) -> None:
    hop_types = ["2hop"] * 60 + ["3hop1"] * 30 + ["4hop1"] * 10
    path = write_lines(tmp_path / "a", [record(n, hop) for n, hop in enumerate(hop_types)])
    found = musique(path)
    ids = [q.id for q in all_questions(found)]
    assert sorted(ids) == sorted(f"{hop}__{n}" for n, hop in enumerate(hop_types))
    assert Counter(q.hop_type for q in found.held_out) == {"2hop": 12, "3hop1": 6}
    assert len(found.examples) == 8
    assert {q.hop_type for q in found.examples[:3]} == {"2hop", "3hop1", "4hop1"}
    assert musique(path) == found

    fewer = musique(path, train=9, held_out=3)
    assert fewer.held_out == found.held_out[:3]
    assert len(fewer.train) == 9
    before, after = (Counter(q.hop_type for q in some.train) for some in (found, fewer))
    for hop_type, count in before.items():
        assert abs(after[hop_type] - 9 * count / len(found.train)) < 1


def test_a_split_leaves_no_shared_hop_or_text_between_train_and_held_out(tmp_path: Path) -> None:
    records = [record(n) for n in range(60)]
    for n in range(0, 60, 2):
        records[n]["question_decomposition"][0] = records[n + 1]["question_decomposition"][0]
        records[n]["question"] = records[(n + 30) % 60]["question"].upper()
    found = musique(write_lines(tmp_path / "a", records))
    held_out_hops = {(s.question, s.answer) for q in found.held_out for s in q.steps}
    rest = [*found.train, *found.examples]
    assert held_out_hops.isdisjoint((s.question, s.answer) for q in rest for s in q.steps)
    assert {q.text.casefold() for q in found.held_out}.isdisjoint(q.text.casefold() for q in rest)
    assert len(found.held_out) == 12
    assert len(rest) < 48


def test_held_out_questions_that_are_also_in_train_are_left_out(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train", [record(n) for n in range(20)])
    same_text = record(50, question=" " + record(3)["question"].upper())
    held_out = write_lines(tmp_path / "dev", [record(4), same_text, record(60)])
    found = musique(train, held_out)
    assert [q.id for q in found.held_out] == ["2hop__60"]
    assert len(found.train) + len(found.examples) == 20
    with pytest.raises(UserError, match="too few different questions"):
        musique(train, train)


def test_too_few_questions_to_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few different questions"):
        musique(write_lines(tmp_path / "a", [record(0), record(1)]))
    with pytest.raises(UserError, match="no question is 2hop or 3hop1"):
        musique(write_lines(tmp_path / "a", [record(n, "4hop1") for n in range(20)]))


@needs_musique
def test_single_hops_are_real_questions_and_not_those_of_held_out_ones() -> None:
    found = with_single_hops(TRAIN, DEV)
    hops = [q for q in [*found.train, *found.examples] if q.hop_type == "1hop"]
    assert len(hops) > 50
    assert all(q.text.endswith("?") and ">>" not in q.text and "#" not in q.text for q in hops)
    assert len({(q.text, q.answer) for q in hops}) == len(hops)
    held_out = {(step.question, step.answer) for q in found.held_out for step in q.steps}
    assert held_out.isdisjoint((q.text, q.answer) for q in hops)
    assert {q.hops for q in found.held_out} == {2, 3}


@needs_musique
def test_the_real_musique() -> None:
    found = musique(TRAIN, DEV)
    assert len(found.train) + len(found.examples) == 100
    assert Counter(q.hop_type for q in found.held_out) == {"2hop": 140, "3hop1": 28}
    assert {q.hop_type for q in found.examples} == {"2hop", "3hop1", "3hop2", "4hop1", "4hop3"}
    passages = {passage.id: passage for passage in found.passages}
    assert len({p.url for p in found.passages}) == len(passages) == len(found.passages) == 5_021
    assert len({(p.title, p.text) for p in found.passages}) == 5_021
    for question in all_questions(found):
        assert len(question.supporting) == question.hops
        assert all(pid in passages for pid in question.supporting)
        assert not any("#1" in step.question for step in question.steps)
    (example,) = [q for q in all_questions(found) if q.id == "2hop__150763_14904"]
    first, second = example.steps
    assert passages[first.passage_id].title == "Journal of Psychotherapy Integration"
    assert second.question == "Who was the first president of American Psychological Association ?"
    assert second.answer == example.answer == "G. Stanley Hall"
    assert example.aliases == ("Stanley Hall",)


# One's own questions and documents


def own(path: Path, documents: Path | str, held_out: Path | str = "") -> QuestionSet:
    return load_questions(
        QuestionsSpec(
            source="jsonl", path=str(path), documents=str(documents), held_out_path=str(held_out)
        ),
        seed=0,
    )


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    (folder / "guide").mkdir(parents=True)
    (folder / "guide" / "first steps.MD").write_text("Intro.\n## Getting *started* ##\n# Next\n")
    (folder / "guide" / "first_steps.MD").write_text("No steps.")
    (folder / "guide" / "plain.txt").write_text("# not a heading\n")
    (folder / "a.md").write_text("\ufeffNo heading, #tag only.\n", encoding="utf-8")
    (folder / "empty.md").write_text(" \n")
    (folder / "picture.png").write_bytes(b"\xff\xfe")
    (folder / "folder.md").mkdir()
    return folder


def simple(n: int) -> dict[str, Any]:
    return {"question": f"What is {n} and {n}?", "answer": 2 * n}


def test_documents_are_read_with_titles_and_addresses(tmp_path: Path, documents: Path) -> None:
    found = own(write_lines(tmp_path / "q", [simple(n) for n in range(10)]), documents)
    site = "https://documents.local/"
    assert [(p.id, p.title, p.url.removeprefix(site)) for p in found.passages] == [
        ("a.md", "a", "a.md"),
        ("guide/first steps.MD", "Getting *started*", "guide/first%20steps.MD"),
        ("guide/first_steps.MD", "first_steps", "guide/first_steps.MD"),
        ("guide/plain.txt", "plain", "guide/plain.txt"),
    ]
    assert found.passages[0].text == "No heading, #tag only."
    assert found.passages[1].text == "Intro.\n## Getting *started* ##\n# Next"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such file names")
def test_a_file_name_that_is_not_utf8_has_an_address(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"na\xefve.txt")).write_text("Naive.")
    (passage,) = read_documents(tmp_path)
    assert passage.url == "https://documents.local/na%EFve.txt"


def test_own_questions_are_read(tmp_path: Path, documents: Path) -> None:
    full = {
        "question": " Who? ",
        "answer": "Ann",
        "aliases": ["A."],
        "id": "w",
        "hop_type": "2hop",
    }
    path = write_lines(tmp_path / "q", [simple(n) for n in range(10)])
    found = own(path, documents, write_lines(tmp_path / "held", [full, simple(99)]))
    assert {q.answer for q in [*found.train, *found.examples]} == {str(2 * n) for n in range(10)}
    assert len(found.examples) == 5
    who, number = sorted(found.held_out, key=lambda question: question.hop_type, reverse=True)
    assert who == Question("w", "Who?", "Ann", ("A.",), "2hop")
    assert (number.text, number.answer, number.hop_type) == ("What is 99 and 99?", "198", "1hop")
    assert own(path, documents) == own(path, documents)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"question": "Who?"}, "answer: Field required"),
        ({"question": "", "answer": "x"}, "the question is empty"),
        ({"question": "Who?", "answer": " ?"}, "no answer that could be matched"),
        ({"question": "Who?", "answer": "x", "hop_type": "9hop"}, "hop_type: Input should be"),
        ({"question": "Who?", "answer": "x", "alias": []}, "alias: Extra inputs"),
        ({"question": "Who?", "answer": "x", "id": "one"}, "the id one has stood"),
        ({"question": "What is 2 and 2?", "answer": "x"}, "the question has stood"),
    ],
)
def test_a_broken_own_question_is_named_by_line(
    tmp_path: Path, documents: Path, broken: dict[str, Any], complaint: str
) -> None:
    lines = [simple(1) | {"id": "one"}, simple(2), broken]
    path = write_lines(tmp_path / "q", lines)
    with pytest.raises(UserError) as error:
        own(path, documents)
    assert f"{path}, line 3: {complaint}" in str(error.value)


def test_unusable_documents(tmp_path: Path, documents: Path) -> None:
    path = write_lines(tmp_path / "q", [simple(n) for n in range(10)])
    with pytest.raises(UserError, match=r"questions\.documents: not set"):
        own(path, "")
    with pytest.raises(UserError, match="no such folder"):
        own(path, documents / "a.md")
    with pytest.raises(UserError, match="the corpus is empty"):
        own(path, documents / "folder.md")
    (documents / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 text"):
        own(path, documents)
