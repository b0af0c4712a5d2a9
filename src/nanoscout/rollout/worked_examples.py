"""Worked examples: conversations that end well, made by running real calls on the run's tools.

An example is either written out in the recipe or drawn from the question set, where the
question's own decomposition tells what to search for. The results in it come from the same
tools that the model will use, so they look exactly like what it will get.
"""

from collections.abc import Sequence

from nanoscout.dialogue.examples import example_messages
from nanoscout.dialogue.format import Format
from nanoscout.errors import UserError
from nanoscout.recipe import DialogueSpec, ExampleSpec
from nanoscout.records import Passage, Question, ToolCall
from nanoscout.tools.toolbox import Toolbox

Turns = list[tuple[ToolCall, str]]


async def work_examples(
    spec: DialogueSpec,
    candidates: Sequence[Question],
    passages: Sequence[Passage],
    toolbox: Toolbox,
    fmt: Format,
) -> tuple[list[dict[str, str]], ...]:
    """Chat messages of each example of the recipe; raises UserError where none can be made."""
    urls = {passage.id: passage.url for passage in passages}
    free = list(candidates)
    examples = []
    for number, example in enumerate(spec.examples, start=1):
        if example.question:
            question_text, answer = example.question, example.answer
            turns = [
                await _call(toolbox, ToolCall(call.name, call.args), number)
                for call in example.calls
            ]
        else:
            question, turns = await _draw(example, free, urls, toolbox, number)
            free = [q for q in free if not set(q.supporting) & set(question.supporting)]
            question_text, answer = question.text, question.answer
        examples.append(
            example_messages(question_text, turns, answer, fmt, spec.repeat_question, spec.thinking)
        )
    return tuple(examples)


async def _call(toolbox: Toolbox, call: ToolCall, number: int) -> tuple[ToolCall, str]:
    result = await toolbox.call(call)
    if not result.ok:
        raise UserError(f"dialogue.examples: the call of example {number} fails: {result.text}")
    return call, result.text


async def _draw(
    spec: ExampleSpec,
    candidates: Sequence[Question],
    urls: dict[str, str],
    toolbox: Toolbox,
    number: int,
) -> tuple[Question, Turns]:
    """The first candidate as the recipe wants it whose every hop is found."""
    for question in candidates:
        if question.hop_type == spec.hop_type and question.text.startswith(spec.begins):
            turns = await _solve(question, urls, toolbox)
            visits = sum(call.name == "visit" for call, _ in turns or [])
            if turns and bool(visits) == spec.visit:
                return question, turns
    kind = (
        f"{spec.hop_type} question"
        + (f' beginning "{spec.begins}"' if spec.begins else "")
        + (" that needs a visit" if spec.visit else "")
    )
    raise UserError(
        f"dialogue.examples: no {kind} of this question set makes example {number}; "
        "write it out (question, calls, answer) or leave it away"
    )


async def _solve(question: Question, urls: dict[str, str], toolbox: Toolbox) -> Turns | None:
    """Search each hop's question, and visit its page where the preview lacks the answer."""
    turns: Turns = []
    for step in question.steps:
        search = ToolCall("web_search", {"query": step.question})
        result = await toolbox.call(search)
        if not result.ok or step.passage_id not in result.shown:
            return None
        turns.append((search, result.text))
        if step.answer.lower() not in result.text.lower():
            visit = ToolCall("visit", {"url": urls[step.passage_id]})
            result = await toolbox.call(visit)
            if not result.ok or step.answer.lower() not in result.text.lower():
                return None
            turns.append((visit, result.text))
    return turns
