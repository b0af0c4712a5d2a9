"""The written form of calls, results and answers, and the strict parser of an assistant turn.

In the format `xml` a turn ends with either `<tool>{"name": ..., "args": {...}}</tool>` or
`<answer>...</answer>`; free text may stand before it, nothing after it. The tool's output comes
back in the next user turn as `<result>...</result>`. Whatever does not fit has a `TurnKind` of its
own, so that a reward can count it and the model can be told what was wrong.

Text that we put between tags cannot leave them. Where it contains a tag or the start of a chat
marker (`<|`), a call writes the `<` as JSON's `\\u003c`, and answers and results get a space after
it (`< /result>`, `< |im_end|>`): a hostile page can neither end its result nor forge another.
`Dialogue` does the same once more for every token that its tokenizer treats specially.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nanoscout.dialogue.thinking import after_thinking
from nanoscout.records import ToolCall, ToolSpec, TurnKind

TAG = re.compile(r"<(/?)(tool|result|answer)>")
UNSAFE = re.compile(r"<(?=/?(?:tool|result|answer|think)>|\|)", re.IGNORECASE)

ERRORS = {
    TurnKind.NO_TAG: "neither a tool call nor an answer was found.",
    TurnKind.UNCLOSED: "the closing tag is missing.",
    TurnKind.SEVERAL: "write only one tool call or one answer in a turn.",
    TurnKind.CALL_AND_ANSWER: "write either a tool call or an answer, not both.",
    TurnKind.TRAILING_TEXT: "write nothing after the closing tag.",
    TurnKind.BAD_JSON: "the tool call is not valid JSON.",
    TurnKind.BAD_CALL: 'a tool call needs exactly "name" (a string) and "args" (an object).',
    TurnKind.EMPTY_ANSWER: "the answer is empty.",
    TurnKind.FORGED_RESULT: "results come from tools; do not write them yourself.",
}

EXAMPLE_VALUES = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
"""By JSON schema type; strings and everything else are shown as "..."."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """`call` is set for a CALL and `answer` for an ANSWER; both are None for a malformed turn."""

    kind: TurnKind
    call: ToolCall | None = None
    answer: str | None = None


class XmlFormat:
    """Tags around JSON calls, results and answers."""

    tags = ("<tool>", "</tool>", "<result>", "</result>", "<answer>", "</answer>")
    """Strings that the format itself writes; a `Dialogue` leaves these alone."""

    def parse(self, text: str) -> ParsedTurn:
        """What one assistant turn is. Never raises; a think block at its start is skipped."""
        text = after_thinking(text)
        tags = list(TAG.finditer(text))
        names = {tag[2] for tag in tags}
        if "result" in names:
            return ParsedTurn(TurnKind.FORGED_RESULT)
        if len(names) == 2:
            return ParsedTurn(TurnKind.CALL_AND_ANSWER)
        match [bool(tag[1]) for tag in tags]:
            case [] | [True]:
                return ParsedTurn(TurnKind.NO_TAG)
            case [False]:
                return ParsedTurn(TurnKind.UNCLOSED)
            case [False, True]:
                opening, closing = tags
            case _:
                return ParsedTurn(TurnKind.SEVERAL)
        if text[closing.end() :].strip():
            return ParsedTurn(TurnKind.TRAILING_TEXT)
        content = text[opening.end() : closing.start()].strip()
        return _parse_call(content) if opening[2] == "tool" else _parse_answer(content)

    def render_call(self, call: ToolCall) -> str:
        """`parse` of this gives `call` back."""
        body = json.dumps({"name": call.name, "args": call.args}, ensure_ascii=False)
        body = UNSAFE.sub(r"\\u003c", body)
        return f"<tool>{body}</tool>"

    def render_answer(self, text: str) -> str:
        return f"<answer>{defuse(text)}</answer>"

    def render_result(self, text: str) -> str:
        """A tool's output, whatever it contains, as one result."""
        return f"<result>\n{defuse(text)}\n</result>"

    def error_text(self, kind: TurnKind) -> str:
        """What a malformed turn is answered with, in place of a tool's output."""
        return f"Error: {ERRORS[kind]}"

    def system_prompt(self, specs: Sequence[ToolSpec]) -> str:
        """The default system prompt: the tags, each shown once, and the tools."""
        return "\n".join(
            [
                "Answer the question with the help of tools. "
                "Each turn ends with one tool call or the final answer.",
                *(self._tool_line(spec) for spec in specs),
                "The tool's output comes back in <result>...</result>.",
                "<answer>...</answer> The final answer, as short as possible.",
            ]
        )

    def _tool_line(self, spec: ToolSpec) -> str:
        properties: dict[str, Any] = spec.parameters.get("properties", {})
        required = spec.parameters.get("required", [])
        args = {
            name: EXAMPLE_VALUES.get(str(properties.get(name, {}).get("type")), "...")
            for name in required
        }
        optional = ", ".join(name for name in properties if name not in required)
        line = f"{self.render_call(ToolCall(spec.name, args))} {spec.description}"
        return f"{line} Optional: {optional}." if optional else line


def defuse(text: str) -> str:
    """Break the tags and chat markers in `text` with a space, so that they are mere words."""
    return UNSAFE.sub("< ", text)


def _parse_answer(content: str) -> ParsedTurn:
    if not content:
        return ParsedTurn(TurnKind.EMPTY_ANSWER)
    return ParsedTurn(TurnKind.ANSWER, answer=content)


def _parse_call(content: str) -> ParsedTurn:
    try:
        value = json.loads(content, parse_constant=_refuse, object_pairs_hook=_distinct)
        # Infinite numbers and lone surrogates get through `loads` but no tool can be sent them.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return ParsedTurn(TurnKind.BAD_JSON)
    match value:
        case {"name": str(name), "args": dict(args)} if name and len(value) == 2:
            return ParsedTurn(TurnKind.CALL, call=ToolCall(name, args))
        case _:
            return ParsedTurn(TurnKind.BAD_CALL)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value
