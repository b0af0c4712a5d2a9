"""The generated world: the same on every machine, answerable only by reading, and fairly split."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from itertools import pairwise

import pytest

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.question_set import QuestionSet, needs_visit
from nanoscout.questions.world import load_world
from nanoscout.questions.world_names import PREFIXES
from nanoscout.recipe import QuestionsSpec, WorldSpec
from nanoscout.records import Passage, Question, Step
from nanoscout.search.index import SearchIndex

HOP_TYPES = {"1hop": 1, "2hop": 2, "3hop1": 3, "4hop1": 4}


@pytest.fixture(scope="module")
def world() -> QuestionSet:
    return load_world(QuestionsSpec(), seed=0)


@pytest.fixture(scope="module")
def pages(world: QuestionSet) -> dict[str, Passage]:
    return {passage.id: passage for passage in world.passages}


def everything(world: QuestionSet) -> list[Question]:
    return [*world.train, *world.held_out, *world.examples]


def stands_in(answer: str, text: str) -> bool:
    return f" {normalise(answer)} " in f" {normalise(text)} "


def test_the_same_bytes_on_every_machine() -> None:
    world = load_world(QuestionsSpec(world=WorldSpec(pages=150, seed=7)), seed=0)
    content = json.dumps([asdict(item) for item in (*world.passages, *world.examples)])
    digest = hashlib.sha256(content.encode()).hexdigest()
    assert digest == "bc8112dfffc8f127a9fa2e9697729182568cb3f67607530171bc7ff8f53600ff"


def test_its_own_seed_makes_the_world_and_the_runs_seed_picks_from_it() -> None:
    spec = QuestionsSpec(world=WorldSpec(pages=300), held_out=20)
    first, again, other_run = (load_world(spec, seed) for seed in (1, 1, 2))
    other_world = load_world(QuestionsSpec(world=WorldSpec(pages=300, seed=1), held_out=20), 1)
    assert first == again
    assert first.passages == other_run.passages
    assert first.held_out != other_run.held_out
    titles = {passage.title for passage in first.passages}
    assert len(titles & {passage.title for passage in other_world.passages}) < 100


@pytest.mark.parametrize("pages", [100, 101, 777])
@pytest.mark.parametrize("distractors", [0.0, 1.0])
def test_as_many_pages_as_asked_each_with_its_own_name_and_url(
    pages: int, distractors: float
) -> None:
    spec = QuestionsSpec(world=WorldSpec(pages=pages, distractors=distractors))
    world = load_world(spec, seed=0)
    for field in ("id", "title", "url"):
        assert len({getattr(passage, field) for passage in world.passages}) == pages
    assert all(re.fullmatch(r"https://[a-z.]+/wiki/\w+", p.url) for p in world.passages)
    assert set(Counter(q.hop_type for q in world.train)) == set(HOP_TYPES)
    assert all(
        any(question.hop_type == hop_type for question in world.examples) for hop_type in HOP_TYPES
    )


def test_look_alikes_come_with_distractors_only(world: QuestionSet) -> None:
    none = load_world(QuestionsSpec(world=WorldSpec(distractors=0.0)), seed=0)

    def prefixed(world: QuestionSet) -> list[str]:
        return [p.title for p in world.passages if p.title.split()[0] in PREFIXES]

    assert not prefixed(none)
    assert len(prefixed(world)) > 50
    assert {title.split(" ", 1)[1] for title in prefixed(world)} <= {
        passage.title for passage in world.passages
    }


def test_every_hop_is_told_on_its_page_and_leads_to_the_next(
    world: QuestionSet, pages: dict[str, Passage]
) -> None:
    for question in everything(world):
        assert len(question.steps) == question.hops == HOP_TYPES[question.hop_type]
        assert question.steps[-1].answer == question.answer
        for step in question.steps:
            assert stands_in(step.answer, pages[step.passage_id].text), (question, step)
            assert pages[step.passage_id].title in step.question
        for step, following in pairwise(question.steps):
            assert pages[following.passage_id].title == step.answer
        assert pages[question.steps[0].passage_id].title in question.text
        assert question.id.startswith(f"{question.hop_type}__")
        assert not re.search(r"[{}#]", question.text)


def test_the_answer_stands_on_the_last_page_alone(
    world: QuestionSet, pages: dict[str, Passage]
) -> None:
    for question in everything(world):
        assert not stands_in(question.answer, question.text)
        for step in question.steps[:-1]:
            assert not stands_in(question.answer, pages[step.passage_id].text), question
            assert not stands_in(step.answer, question.text), question


def test_a_question_has_one_answer_wherever_it_is_asked(world: QuestionSet) -> None:
    answers: dict[str, str] = {}
    questions = everything(world)
    steps = [step for question in questions for step in question.steps]
    for asked, answer in [
        *((q.text, q.answer) for q in questions),
        *((s.question, s.answer) for s in steps),
    ]:
        assert answers.setdefault(asked, answer) == answer
    assert len({question.id for question in questions}) == len(questions)


def test_aliases_are_told_on_the_page_of_what_they_name(
    world: QuestionSet, pages: dict[str, Passage]
) -> None:
    by_title = {passage.title: passage for passage in world.passages}
    named = [question for question in everything(world) if question.aliases]
    assert len(named) > 50
    for question in named:
        told_on = by_title.get(question.answer) or pages[question.steps[-1].passage_id]
        assert question.aliases[0] in told_on.text  # A number's alias has its unit.
        assert question.aliases[0] not in by_title


def test_the_splits_share_no_supporting_page(world: QuestionSet) -> None:
    train, held_out, examples = (
        {page for question in questions for page in question.supporting}
        for questions in (world.train, world.held_out, world.examples)
    )
    assert train.isdisjoint(held_out)
    assert train.isdisjoint(examples)
    assert held_out.isdisjoint(examples)


def test_a_capital_lies_in_its_country(world: QuestionSet) -> None:
    by_title = {passage.title: passage for passage in world.passages}
    told = [
        (country, match.group(1))
        for country in world.passages
        if (
            match := re.search(
                r"(?:capital is|capital of .* is|its capital,) ([\w ]+)\.", country.text
            )
        )
    ]
    assert len(told) > 30
    for country, capital in told:
        assert stands_in(country.title, by_title[capital].text)


@pytest.mark.parametrize("hidden", [0.0, 0.15, 0.5, 1.0])
def test_hidden_is_the_share_of_questions_that_need_a_visit(hidden: float) -> None:
    spec = QuestionsSpec(world=WorldSpec(hidden=hidden))
    world = load_world(spec, seed=0)
    pages = {passage.id: passage for passage in world.passages}
    for preview_chars in (160, 300):
        need = sum(needs_visit(question, pages, preview_chars) for question in world.train)
        assert need / len(world.train) == pytest.approx(hidden, abs=0.02)
        assert hidden not in (0.0, 1.0) or need == hidden * len(world.train)
    assert not any(needs_visit(question, pages, 10_000) for question in world.train)


def test_the_mix_is_the_recipes_and_training_has_the_other_hop_types_too(
    world: QuestionSet, pages: dict[str, Passage]
) -> None:
    assert Counter(question.hop_type for question in world.held_out) == {"1hop": 140, "2hop": 70}
    train = Counter(question.hop_type for question in world.train)
    assert train["1hop"] > train["2hop"] > 1_000
    assert min(train["3hop1"], train["4hop1"]) > 200


def test_examples_ask_for_different_relations_first_and_some_need_a_visit(
    world: QuestionSet, pages: dict[str, Passage]
) -> None:
    for hop_type in HOP_TYPES:
        examples = [question for question in world.examples if question.hop_type == hop_type]
        assert len({question.id.rpartition("-")[2] for question in examples[:8]}) == 8
        assert 5 <= sum(needs_visit(question, pages, 160) for question in examples) <= 20


def test_a_search_for_a_hops_question_finds_its_page(world: QuestionSet) -> None:
    index = SearchIndex.build(world.passages)
    steps = [step for question in world.held_out for step in question.steps]
    found = [
        step.passage_id in [hit.passage.id for hit in index.search(step.question, 3)]
        for step in steps
    ]
    assert sum(found) / len(found) > 0.95


def test_a_mix_of_hop_types_that_the_world_lacks_is_an_error() -> None:
    with pytest.raises(UserError):
        load_world(QuestionsSpec(world=WorldSpec(pages=100), hops={"4hop3": 1.0}), seed=0)


def test_a_preview_shows_an_answer_only_as_whole_words() -> None:
    pages = {"p": Passage("p", "Bo Tower", "Bo Tower stands in Ko. Kovu lies far off.", "u")}

    def question(answer: str, passage_id: str = "p") -> Question:
        return Question("q", "?", answer, steps=(Step("?", answer, passage_id),))

    assert not needs_visit(question("Ko"), pages, 22)
    assert needs_visit(question("Kov"), pages, 100)
    assert needs_visit(question("Kovu"), pages, 25)
    assert not needs_visit(question("Kovu"), pages, 27)
    assert not needs_visit(question("anything", passage_id=""), pages, 20)
