"""Worked examples as chat messages, and the one way tools' outputs become messages.

Examples and episodes both write their results with `result_messages`: what the examples show
is, character for character, what the model will get.
"""

from collections.abc import Sequence

from nanoscout.dialogue.format import Format
from nanoscout.records import ToolCall

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant" | "tool", "content": text}`; an assistant's may have a
`thought`, which comes before its content."""


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
    thinking: bool = False,
) -> list[Message]:
    """A solved question: the question, each call with its tool's output, and the answer.

    With `thinking` each turn is thought about first, in a few words.
    """
    messages = [{"role": "user", "content": question_text}]
    repeated = question_text if repeat_question else None
    for call, result_text in turns:
        wanted = ", ".join(str(value) for value in call.args.values())
        thought = f"I have to find out: {wanted}"
        messages.append(_turn(fmt.render_call(call), thought if thinking else ""))
        messages += result_messages(fmt, [result_text], repeated)
    thought = f"The result says it: {answer}"
    return [*messages, _turn(fmt.render_answer(answer), thought if thinking else "")]


def _turn(content: str, thought: str) -> Message:
    message = {"role": "assistant", "content": content}
    return message | {"thought": thought} if thought else message
