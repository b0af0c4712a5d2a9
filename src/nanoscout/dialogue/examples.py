"""Worked examples as chat messages, and the one way tools' outputs become messages.

Examples and episodes both write their results with `result_messages`: what the examples show
is, character for character, what the model will get.
"""

from collections.abc import Sequence

from nanoscout.dialogue.format import Format
from nanoscout.records import ToolCall

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant" | "tool", "content": text}`"""


def result_messages(
    fmt: Format, results: Sequence[str], question_text: str | None
) -> list[Message]:
    """What follows a turn's calls: their results in order, each in a block of its own.

    With a question they are one user turn that ends with it, whatever the format: the role `tool`
    has no place for words of the user's.
    """
    if fmt.result_role == "tool" and question_text is None:
        return [{"role": "tool", "content": fmt.defuse(text)} for text in results]
    blocks = [fmt.render_result(text) for text in results]
    if question_text is not None:
        blocks.append(question_text)
    return [{"role": "user", "content": "\n".join(blocks)}]


def example_messages(
    question_text: str,
    turns: Sequence[tuple[ToolCall, str]],
    answer: str,
    fmt: Format,
    repeat_question: bool,
) -> list[Message]:
    """A solved question: the question, each call with its tool's output, and the answer."""
    messages = [{"role": "user", "content": question_text}]
    repeated = question_text if repeat_question else None
    for call, result_text in turns:
        messages.append({"role": "assistant", "content": fmt.render_call(call)})
        messages += result_messages(fmt, [result_text], repeated)
    return [*messages, {"role": "assistant", "content": fmt.render_answer(answer)}]
