"""Messages to text, through the model's own chat template.

A format may want the template to describe the tools, and to frame results in the role `tool`. Where
a template does not do so in the format's own words, the same words go into the system prompt and
into user turns. What a template can do is found by trying it.
"""

from collections.abc import Sequence
from itertools import groupby

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from nanoscout.dialogue.examples import Message
from nanoscout.dialogue.format import Format, tool_schema
from nanoscout.dialogue.thinking import SOFT_SWITCH
from nanoscout.records import ToolSpec

PLACEHOLDER = "PLACEHOLDER"

# For models that were never given a chat template: plain headings, the model's own end token.
FALLBACK_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '### ' + message.role + '\\n' + message.content }}
    {{- (eos_token if message.role == 'assistant') ~ '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### assistant\\n' }}
{%- endif %}"""


class ChatTemplate:
    """`empty_block` asks the template for an empty think block where the model is to write;
    `soft_switch` ends each user turn with `/no_think`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        format: Format,
        *,
        empty_block: bool,
        soft_switch: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._format = format
        self._soft_switch = soft_switch
        self._fallback = None if tokenizer.chat_template else FALLBACK_TEMPLATE
        self._empty_block = False
        self._takes_system = self._takes_results = self._takes_tools = True
        self._takes_system = self._accepts_system()
        self._takes_results = format.result_role == "tool" and self._frames_results()
        self._takes_tools = self._describes_tools()
        plain = self.render([user("?")])
        self._empty_block = empty_block
        self.opening = self.render([user("?")])
        """A short conversation up to where the model writes."""
        self.has_empty_block = self.opening != plain
        """Whether an empty think block was asked for, and this template knows how."""

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """The conversation as text, up to where the model writes.

        Tools are described where that is the format's way.
        """
        section = self._format.tools_section(tools) if tools else ""
        messages = list(messages)
        if section and not self._takes_tools:
            messages = _in_system_prompt(section, messages)
        if not self._takes_results:
            messages = self._results_in_user_turns(messages)
        if self._soft_switch:
            messages = [
                user(m["content"] + SOFT_SWITCH) if m["role"] == "user" else m for m in messages
            ]
        if messages[0]["role"] == "system" and not self._takes_system:
            system, first, *rest = messages
            messages = [user(f"{system['content']}\n\n{first['content']}"), *rest]
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tools=[tool_schema(t) for t in tools] if section and self._takes_tools else None,
                chat_template=self._fallback,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=not self._empty_block,
            )
        )

    def around(self, reply: Sequence[Message]) -> tuple[str, str]:
        """What stands before a past turn's content, and after it up to where the model answers
        `reply`."""
        before, _, after = self.render([user("?"), assistant(PLACEHOLDER), *reply]).partition(
            PLACEHOLDER
        )
        return before, after

    def in_history(self, text: str, reply: Sequence[Message]) -> str:
        """What the template shows of a turn's text once `reply` follows it."""
        before, after = self.around(reply)
        whole = self.render([user("?"), assistant(text), *reply])
        return whole.removeprefix(before).removesuffix(after)

    def _accepts_system(self) -> bool:
        """Some templates (Gemma's) refuse system messages; the first question takes theirs in."""
        try:
            self.render([{"role": "system", "content": "?"}, user("?")])
        except TemplateError:
            return False
        return True

    def _frames_results(self) -> bool:
        """Whether results in the role `tool` come out as the format writes them."""
        texts = ("first", "second")
        results = [{"role": "tool", "content": text} for text in texts]
        try:
            _, after = self.around(results)
        except TemplateError:
            return False
        return "\n".join(map(self._format.render_result, texts)) in after

    def _describes_tools(self) -> bool:
        """Whether the template writes the format's section on tools."""
        spec = ToolSpec(PLACEHOLDER, "?", {"type": "object", "properties": {}})
        section = self._format.tools_section([spec])
        try:
            return bool(section) and section in self.render([user("?")], [spec])
        except TemplateError:
            return False

    def _results_in_user_turns(self, messages: Sequence[Message]) -> list[Message]:
        """Results that follow each other become one user turn."""
        turns: list[Message] = []
        for role, group in groupby(messages, key=lambda message: message["role"]):
            if role == "tool":
                results = [self._format.render_result(message["content"]) for message in group]
                turns.append(user("\n".join(results)))
            else:
                turns += group
        return turns


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _in_system_prompt(section: str, messages: list[Message]) -> list[Message]:
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": section}, *messages]
    first, *rest = messages
    return [{"role": "system", "content": f"{first['content']}\n\n{section}"}, *rest]
