"""Worked examples as chat messages, and the one way a tool's output becomes a user turn.

Examples and episodes both write their result turns with `result_turn`: what the examples show
is, character for character, what the model will get.
"""

from collections.abc import Sequence

from nanoscout.dialogue.format import XmlFormat
from nanoscout.records import ToolCall

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`"""


def result_turn(fmt: XmlFormat, result_text: str, question_text: str | None) -> str:
    """The user turn after a call; the question is repeated under the result unless None."""
    result = fmt.render_result(result_text)
    return result if question_text is None else f"{result}\n{question_text}"


def example_messages(
    question_text: str,
    turns: Sequence[tuple[ToolCall, str]],
    answer: str,
    fmt: XmlFormat,
    repeat_question: bool,
) -> list[Message]:
    """A solved question: the question, each call with its tool's output, and the answer."""
    messages = [{"role": "user", "content": question_text}]
    repeated = question_text if repeat_question else None
    for call, result_text in turns:
        messages += [
            {"role": "assistant", "content": fmt.render_call(call)},
            {"role": "user", "content": result_turn(fmt, result_text, repeated)},
        ]
    return [*messages, {"role": "assistant", "content": fmt.render_answer(answer)}]
