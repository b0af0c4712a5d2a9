"""The report's sampler: the same 10,325 of MuSiQue-Ans' training questions on every machine."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoscout.errors import UserError
from nanoscout.questions import load_questions
from nanoscout.questions.quota import OFFICIAL_TRAIN, default_mix, take_quotas
from nanoscout.questions.sampler import QuestionStream
from nanoscout.recipe import HopType, QuestionsSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.records import Question

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
MUSIQUE = ROOT / "../shared/data/musique"
QUOTAS = load_recipe(RECIPES / "jan-nano.toml").questions.quotas
OFFICIAL_KINDS = {
    "2hop": 14_376, "3hop1": 3_737, "3hop2": 650, "4hop1": 516, "4hop2": 183, "4hop3": 476,
}  # fmt: skip
"""Sizes of the official train split; how its 4-hop questions divide is made up."""
DIGEST = "0c0c7e3c9c3c54155f59512cb7866e0fee4fcb58bd7c8e780c08c3b648140c1a"


def official_ids() -> list[str]:
    """Ids shaped as MuSiQue's: the hop type, and an id of a single-hop question for each hop."""
    rng = random.Random(0)
    return [
        f"{kind}__{'_'.join(str(rng.randrange(1_000, 900_000)) for _ in range(int(kind[0])))}_{n}"
        for kind, count in OFFICIAL_KINDS.items()
        for n in range(count)
    ]


def questions(ids: list[str]) -> list[Question]:
    return [Question(i, f"What is {i}?", "x", hop_type=i.partition("__")[0]) for i in ids]


def test_the_official_train_split_gives_the_reports_questions_in_one_order() -> None:
    assert QUOTAS is not None
    ids = official_ids()
    random.Random(1).shuffle(ids)
    taken = [question.id for question in take_quotas(questions(ids), QUOTAS)]
    assert len(taken) == len(set(taken)) == 10_325
    assert Counter(i[0] for i in taken) == {"2": 7_000, "3": 2_150, "4": 1_175}
    kinds = Counter(i.partition("__")[0] for i in taken)
    assert kinds == {**OFFICIAL_KINDS, "2hop": 7_000, "3hop1": 1_500}
    assert taken == sorted(taken)
    assert hashlib.sha256("\n".join(taken).encode()).hexdigest() == DIGEST
    assert sum(OFFICIAL_TRAIN.values()) == len(ids) == 19_938


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 10**6)), st.integers(1, 60), st.randoms(use_true_random=False))
def test_what_is_taken_is_evenly_spaced_whatever_the_order(
    numbers: set[int], quota: int, rng: random.Random
) -> None:
    pool = questions([f"2hop__{n}" for n in numbers] + ["3hop1__1"])
    rng.shuffle(pool)
    taken = take_quotas(pool, {"2hop": quota, "3hop1": 1})
    ids = sorted(f"2hop__{n}" for n in numbers)
    places = [ids.index(question.id) for question in taken[:-1]]
    assert taken[-1].id == "3hop1__1"
    assert len(places) == min(quota, len(ids))
    if places:
        gaps = [b - a for a, b in zip(places, [*places[1:], len(ids)], strict=True)]
        assert places[0] == 0
        assert max(gaps) - min(gaps) <= 1


def test_no_question_of_the_types_is_told() -> None:
    with pytest.raises(UserError, match=r"questions\.quotas: no question is 3hop1 or 4hop2"):
        take_quotas(questions(["2hop__1"]), {"4hop2": 3, "3hop1": 1})


# From the recipe


def record(question_id: str, paragraphs: int = 4) -> dict[str, Any]:
    hops = int(question_id[0])
    names = [f"{question_id} {n}" for n in range(max(paragraphs, hops))]
    return {
        "id": question_id,
        "question": f"Where is {question_id}?",
        "answer": names[hops - 1],
        "question_decomposition": [
            {"question": f"{names[n]} >> place", "answer": names[n], "paragraph_support_idx": n}
            for n in range(hops)
        ],
        "paragraphs": [
            {"idx": n, "title": name, "paragraph_text": f"{name} is a place."}
            for n, name in enumerate(names)
        ],
    }


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def spec(tmp_path: Path) -> QuestionsSpec:
    quotas: dict[HopType, int] = {"2hop": 20, "3hop1": 5, "4hop3": 50}
    train = [f"2hop__{n}" for n in range(100)] + [f"3hop1__{n}" for n in range(9)]
    train += [f"4hop3__{n}" for n in range(7)] + [f"3hop2__{n}" for n in range(9)]
    dev = [f"2hop__{n}" for n in range(200, 220)]
    test = [{"id": "2hop__300", "question": "?", "paragraphs": record("2hop__300")["paragraphs"]}]
    return QuestionsSpec(
        source="musique",
        path=write(tmp_path / "train", [record(i) for i in train]),
        held_out_path=write(tmp_path / "dev", [record(i) for i in dev]),
        corpus=(write(tmp_path / "test", test),),
        quotas=quotas,
        train=3,
    )


def test_quotas_say_what_is_trained_on_and_examples_come_from_the_rest(
    spec: QuestionsSpec,
) -> None:
    found = load_questions(spec, seed=0)
    train = Counter(question.hop_type for question in found.train)
    assert train == {"2hop": 20, "3hop1": 5, "4hop3": 7}
    assert load_questions(spec, seed=7).train == found.train
    assert len(found.examples) == 8
    assert {q.hop_type for q in found.examples} == {"2hop", "3hop1", "3hop2"}
    ids = {question.id for question in found.train}
    assert ids.isdisjoint(question.id for question in [*found.examples, *found.held_out])


def test_a_stage_without_a_mix_asks_every_question_equally_often(spec: QuestionsSpec) -> None:
    train = load_questions(spec, seed=0).train
    mix = default_mix(spec, [*train, *questions(["1hop__1"])])
    assert mix == {"2hop": 20, "3hop1": 5, "4hop3": 7}
    stream = QuestionStream(train, mix, seed=3)
    assert {stream.next().id for _ in train} == {question.id for question in train}
    assert default_mix(QuestionsSpec(), train) == {"1hop": 2.0, "2hop": 1.0}


def test_all_splits_paragraphs_are_in_the_corpus_once(spec: QuestionsSpec) -> None:
    passages = load_questions(spec, seed=0).passages
    assert len(passages) == (125 + 20 + 1) * 4
    assert passages[-1].title == "2hop__300 3"
    assert len({passage.url for passage in passages}) == len(passages)
    again = spec.model_copy(update={"corpus": (spec.path, *spec.corpus, *spec.corpus)})
    assert load_questions(again, seed=0).passages == passages


def test_quotas_larger_than_the_file_leave_nothing_for_examples(spec: QuestionsSpec) -> None:
    everything = dict.fromkeys(("2hop", "3hop1", "3hop2", "4hop3"), 1_000)
    found = load_questions(spec.model_copy(update={"quotas": everything}), seed=0)
    assert len(found.train) == 125
    assert found.examples == []


def test_a_broken_corpus_file_is_named(spec: QuestionsSpec, tmp_path: Path) -> None:
    broken = write(tmp_path / "broken", [{"id": "x", "paragraphs": [{"idx": 0}]}])
    with pytest.raises(UserError, match=r"broken, line 1: paragraphs\.0\.title: Field required"):
        load_questions(spec.model_copy(update={"corpus": (broken,)}), seed=0)
    gone = spec.model_copy(update={"corpus": ("gone.jsonl",)})
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        load_questions(gone, seed=0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("questions.quotas={2hop=0}", "questions.quotas.2hop"),
        ("questions.quotas={5hop=1}", "questions.quotas.5hop"),
        ("questions.source=world", "quotas are for the sources musique and jsonl"),
        ("questions.source=jsonl", "corpus is for the source musique"),
    ],
)
def test_unusable_settings_are_told(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_recipe(RECIPES / "jan-nano.toml", [setting])


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="no ../shared/data/musique here")
def test_real_records() -> None:
    spec = QuestionsSpec(
        source="musique",
        path=str(MUSIQUE / "train_100_hipporag.json.gz"),
        held_out_path=str(MUSIQUE / "dev_200_migres.jsonl.gz"),
        quotas={"2hop": 7, "3hop1": 3, "3hop2": 3, "4hop1": 10, "4hop2": 10, "4hop3": 10},
    )
    train = [q for q in load_questions(spec, seed=0).train if q.hop_type != "1hop"]
    assert Counter(question.hop_type for question in train) == {
        "2hop": 7, "3hop1": 3, "3hop2": 3, "4hop1": 3, "4hop3": 2,
    }  # fmt: skip
    assert [q.id for q in train] == sorted(q.id for q in train)
