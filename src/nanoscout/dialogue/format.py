"""The written form of calls, results and answers, and the strict parser of an assistant turn.

A turn ends with either a tool call or `<answer>...</answer>`; free text may stand before it,
nothing after it. Two formats differ in how they write calls and results:

 - `xml`: `<tool>{"name": ..., "args": {...}}</tool>`, answered in the next user turn by
   `<result>...</result>`. The system prompt tells of the tools.
 - `hermes`: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, answered in a turn of the
   role `tool` by `<tool_response>...</tool_response>`. Qwen's models were trained on it, and their
   chat template tells of the tools.

With `several_calls` a turn may end with more than one call, each in tags of its own. Whatever does
not fit has a `TurnKind` of its own, so that a reward can count it and the model can be told what
was wrong.

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
from nanoscout.recipe import DialogueSpec
from nanoscout.records import ToolCall, ToolSpec, TurnKind

ERRORS = {
    TurnKind.NO_TAG: "neither a tool call nor an answer was found.",
    TurnKind.UNCLOSED: "the closing tag is missing.",
    TurnKind.SEVERAL: "write only one tool call or one answer in a turn.",
    TurnKind.CALL_AND_ANSWER: "write either a tool call or an answer, not both.",
    TurnKind.TRAILING_TEXT: "write nothing after the closing tag.",
    TurnKind.BAD_JSON: "the tool call is not valid JSON.",
    TurnKind.BAD_CALL: 'a tool call needs exactly "name" (a string) and "{args}" (an object).',
    TurnKind.EMPTY_ANSWER: "the answer is empty.",
    TurnKind.FORGED_RESULT: "results come from tools; do not write them yourself.",
}
UNPAIRED = "write tool calls one after the other, each in tags of its own, or one answer."
"""Takes the place of SEVERAL's text where several calls are allowed."""

EXAMPLE_VALUES = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
"""By JSON schema type; strings and everything else are shown as "..."."""

TASK = "Answer the question with the help of tools. Each turn ends with {call} or the final answer."
ANSWER = "<answer>...</answer> The final answer, as short as possible."


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A CALL has `calls` and an ANSWER has `answer`; a malformed turn has neither."""

    kind: TurnKind
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None


class Format:
    """What the formats have in common: tags around JSON calls, results and answers."""

    name: str
    call_tag: str
    result_tag: str
    args_key: str
    """The key of the arguments in a call."""
    result_role: str
    """The role of the message that brings a result."""
    other_tags: tuple[str, ...] = ()
    """Further tags that a tool's output must not contain."""

    def __init__(self, several_calls: bool = False) -> None:
        self.several_calls = several_calls
        names = (self.call_tag, self.result_tag, "answer")
        self.tags = tuple(f"<{slash}{name}>" for name in names for slash in ("", "/"))
        """Strings that the format itself writes; a `Dialogue` leaves these alone."""
        unsafe = "|".join((*names, "think", *self.other_tags))
        self._tag = re.compile(f"<(/?)({'|'.join(names)})>")
        self._unsafe = re.compile(rf"<(?=/?(?:{unsafe})>|\|)", re.IGNORECASE)

    def parse(self, text: str) -> ParsedTurn:
        """What one assistant turn is. Never raises; a think block at its start is skipped."""
        text = after_thinking(text)
        tags = list(self._tag.finditer(text))
        names = {tag[2] for tag in tags}
        if self.result_tag in names:
            return ParsedTurn(TurnKind.FORGED_RESULT)
        if len(names) == 2:
            return ParsedTurn(TurnKind.CALL_AND_ANSWER)
        closing = [bool(tag[1]) for tag in tags]
        if closing in ([], [True]):
            return ParsedTurn(TurnKind.NO_TAG)
        several = self.several_calls and names == {self.call_tag}
        if closing != [False, True] * (len(tags) // 2) + [False] * (len(tags) % 2) or (
            len(tags) > 2 and not several
        ):
            return ParsedTurn(TurnKind.SEVERAL)
        if len(tags) % 2:
            return ParsedTurn(TurnKind.UNCLOSED)
        ends = [tag.start() for tag in tags[2::2]] + [len(text)]
        if any(text[tag.end() : end].strip() for tag, end in zip(tags[1::2], ends, strict=True)):
            return ParsedTurn(TurnKind.TRAILING_TEXT)
        contents = [
            text[opening.end() : closing.start()].strip()
            for opening, closing in zip(tags[::2], tags[1::2], strict=True)
        ]
        return self._parse_calls(contents) if self.call_tag in names else _parse_answer(*contents)

    def render_call(self, call: ToolCall) -> str:
        """`parse` of this gives `call` back."""
        body = json.dumps({"name": call.name, self.args_key: call.args}, ensure_ascii=False)
        return self._frame_call(self._unsafe.sub(r"\\u003c", body))

    def begin_call(self, name: str = "") -> str:
        """How a turn begins that can only become a call, or a call of the tool `name`."""
        opening, _, _ = self._frame_call("|").partition("|")
        return opening + (f'{{"name": {json.dumps(name)}, "{self.args_key}":' if name else "")

    def render_answer(self, text: str) -> str:
        return f"<answer>{self.defuse(text)}</answer>"

    def render_result(self, text: str) -> str:
        """A tool's output, whatever it contains, as one result."""
        return f"<{self.result_tag}>\n{self.defuse(text)}\n</{self.result_tag}>"

    def defuse(self, text: str) -> str:
        """Break the tags and chat markers in `text` with a space, so that they are mere words."""
        return self._unsafe.sub("< ", text)

    def error_text(self, kind: TurnKind) -> str:
        """What a malformed turn is answered with, in place of a tool's output."""
        several = self.several_calls and kind is TurnKind.SEVERAL
        text = UNPAIRED if several else ERRORS[kind].replace("{args}", self.args_key)
        return f"Error: {text}"

    def system_prompt(self, specs: Sequence[ToolSpec]) -> str:
        """The default system prompt: how a turn ends and, where no template does it, the tools."""
        task = TASK.format(call="tool calls" if self.several_calls else "one tool call")
        return "\n".join([task, *self._tool_lines(specs), ANSWER])

    def tools_section(self, specs: Sequence[ToolSpec]) -> str:
        """The part of the system prompt that a chat template which knows the format writes itself;
        empty for a format that needs no template."""
        return ""

    def _frame_call(self, body: str) -> str:
        return f"<{self.call_tag}>{body}</{self.call_tag}>"

    def _tool_lines(self, specs: Sequence[ToolSpec]) -> list[str]:
        return []

    def _parse_calls(self, contents: Sequence[str]) -> ParsedTurn:
        """All of a turn's calls, or what is wrong with the first bad one."""
        calls = []
        for content in contents:
            try:
                value = json.loads(content, parse_constant=_refuse, object_pairs_hook=_distinct)
                # Infinite numbers and lone surrogates get through `loads` but no tool can be sent
                # them.
                json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
            except (ValueError, RecursionError):
                return ParsedTurn(TurnKind.BAD_JSON)
            if not isinstance(value, dict) or set(value) != {"name", self.args_key}:
                return ParsedTurn(TurnKind.BAD_CALL)
            name, args = value["name"], value[self.args_key]
            if not (isinstance(name, str) and name and isinstance(args, dict)):
                return ParsedTurn(TurnKind.BAD_CALL)
            calls.append(ToolCall(name, args))
        return ParsedTurn(TurnKind.CALL, calls=tuple(calls))


class XmlFormat(Format):
    """The report's tags; they need nothing of a chat template but user and assistant turns."""

    name = "xml"
    call_tag = "tool"
    result_tag = "result"
    args_key = "args"
    result_role = "user"

    def _tool_lines(self, specs: Sequence[ToolSpec]) -> list[str]:
        lines = [self._tool_line(spec) for spec in specs]
        return [*lines, "The tool's output comes back in <result>...</result>."]

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


class HermesFormat(Format):
    """Qwen's own: what the chat templates of Qwen2.5 and Qwen3 write for tools."""

    name = "hermes"
    call_tag = "tool_call"
    result_tag = "tool_response"
    args_key = "arguments"
    result_role = "tool"
    other_tags = ("tools",)

    def tools_section(self, specs: Sequence[ToolSpec]) -> str:
        """Word for word what Qwen's templates add to the system prompt."""
        schemas = [json.dumps(tool_schema(spec), ensure_ascii=False) for spec in specs]
        return "\n".join(
            [
                "# Tools\n",
                "You may call one or more functions to assist with the user query.\n",
                "You are provided with function signatures within <tools></tools> XML tags:",
                "<tools>",
                *schemas,
                "</tools>\n",
                "For each function call, return a json object with function name and arguments "
                "within <tool_call></tool_call> XML tags:",
                "<tool_call>",
                '{"name": <function-name>, "arguments": <args-json-object>}',
                "</tool_call>",
            ]
        )

    def _frame_call(self, body: str) -> str:
        return f"<tool_call>\n{body}\n</tool_call>"


FORMATS: dict[str, type[Format]] = {form.name: form for form in (XmlFormat, HermesFormat)}


def open_format(spec: DialogueSpec) -> Format:
    return FORMATS[spec.format](spec.several_calls)


def tool_schema(spec: ToolSpec) -> dict[str, Any]:
    """A tool as chat templates want it described (OpenAI's form)."""
    function = {
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
    }
    return {"type": "function", "function": function}


def _parse_answer(content: str) -> ParsedTurn:
    if not content:
        return ParsedTurn(TurnKind.EMPTY_ANSWER)
    return ParsedTurn(TurnKind.ANSWER, answer=content)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value
