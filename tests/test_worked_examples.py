"""Worked examples: solved with the run's own tools, each of other pages, of the kind asked for."""

import asyncio

import pytest

from nanoscout.dialogue.format import XmlFormat
from nanoscout.errors import UserError
from nanoscout.questions.question_set import QuestionSet
from nanoscout.questions.world import load_world
from nanoscout.recipe import DialogueSpec, ExampleSpec, QuestionsSpec, WorldSpec
from nanoscout.rollout.worked_examples import work_examples
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox


@pytest.fixture(scope="module")
def world() -> QuestionSet:
    return load_world(QuestionsSpec(world=WorldSpec(pages=600), held_out=20), seed=0)


@pytest.fixture(scope="module")
def toolbox(world: QuestionSet) -> Toolbox:
    index = SearchIndex.build(world.passages)
    engine = LocalSearch(index, preview_chars=60)
    return Toolbox(search_tools(engine, results=2, page_chars=2_000))


def work(world: QuestionSet, toolbox: Toolbox, *specs: ExampleSpec) -> list[list[dict[str, str]]]:
    spec = DialogueSpec(examples=specs)
    made = asyncio.run(work_examples(spec, world.examples, world.passages, toolbox, XmlFormat()))
    return list(made)


def test_a_drawn_example_shows_what_its_calls_really_return(world, toolbox) -> None:
    (messages,) = work(world, toolbox, ExampleSpec(hop_type="2hop"))
    question = next(q for q in world.examples if q.text == messages[0]["content"])
    assert question.hop_type == "2hop"
    assert messages[-1]["content"] == f"<answer>{question.answer}</answer>"
    for call, result in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        (parsed,) = XmlFormat().parse(call["content"]).calls
        assert asyncio.run(toolbox.call(parsed)).text in result["content"]


def test_the_kind_of_question_is_the_one_asked_for(world, toolbox) -> None:
    begins = ["Who", "When", "In which", "What"]
    made = work(world, toolbox, *(ExampleSpec(hop_type="1hop", begins=b) for b in begins))
    assert [m[0]["content"][: len(b)] for m, b in zip(made, begins, strict=True)] == begins


def test_a_visit_is_shown_exactly_where_it_is_asked_for(world, toolbox) -> None:
    with_visit, without = work(
        world, toolbox, ExampleSpec(hop_type="1hop", visit=True), ExampleSpec(hop_type="1hop")
    )
    assert any('"visit"' in message["content"] for message in with_visit)
    assert not any('"visit"' in message["content"] for message in without)


def test_no_two_examples_tell_of_one_page(world, toolbox) -> None:
    made = work(world, toolbox, *[ExampleSpec(hop_type="1hop")] * 4)
    by_text = {q.text: q for q in world.examples}
    pages = [page for m in made for page in by_text[m[0]["content"]].supporting]
    assert len(made) == 4
    assert len(set(pages)) == len(pages)


def test_an_example_that_cannot_be_made_is_refused_with_its_number(world, toolbox) -> None:
    with pytest.raises(UserError, match=r'no 1hop question beginning "Whence" .* example 2;'):
        work(
            world,
            toolbox,
            ExampleSpec(hop_type="1hop"),
            ExampleSpec(hop_type="1hop", begins="Whence"),
        )
