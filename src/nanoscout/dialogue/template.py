"""Messages to token ids and back, through the model's own chat template.

The first prompt is rendered as a whole. After that nothing is ever tokenised again: what follows a
sampled turn is found by rendering a short conversation around a placeholder turn and keeping what
the template writes after it (end-of-turn token, newline, headers, the user's text). What templates
do elsewhere, such as default system prompts or cutting thoughts from old turns, does not reach it.

The text of messages is data: before rendering, a space is put after the first character of every
string in it that the tokenizer would turn into one of its added tokens (`< |im_end|>`), except the
format's own tags. No page can end a turn or open a think block.
"""

import re
from collections.abc import Iterable, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from nanoscout.dialogue import thinking as think
from nanoscout.dialogue.examples import Message
from nanoscout.dialogue.format import XmlFormat
from nanoscout.errors import UserError

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


class Dialogue:
    """The token-level form of conversations with one model.

    `stop_ids` given here (such as the generation config's) are added to those found.
    Raises UserError for a tokenizer without any token that can end a turn, and for a template that
    opens a think block although thinking is off.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        format: XmlFormat,
        thinking: bool,
        stop_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.format = format
        self.thinking = thinking
        self._template = None if tokenizer.chat_template else FALLBACK_TEMPLATE
        self._takes_system = self._accepts_system()
        added = tokenizer.added_tokens_decoder
        self._special_ids = set(tokenizer.all_special_ids) | {
            token_id for token_id, token in added.items() if token.special
        }
        self._added = _any_of(
            {str(token) for token in added.values()} | set(tokenizer.all_special_tokens),
            except_for=set(format.tags),
        )
        self._end_of_turn = next((i for i in self._between("") if i in self._special_ids), None)
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(i for i in (eos, self._end_of_turn, *stop_ids) if i is not None)
        """Tokens that end a turn when they are sampled."""
        self.banned_ids = think.banned_ids(tokenizer, thinking)
        """Tokens that must not be sampled."""
        if not self.stop_ids:
            raise UserError("the model's tokenizer has no end-of-turn token; set its eos_token")
        if not thinking and self._render([_user("?")]).rstrip().endswith(think.OPEN):
            raise UserError("this model's template always thinks; set dialogue.thinking=true")

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that ends with a user message, up to where the model writes."""
        return self._encode(
            self._render([{**m, "content": self._defuse(m["content"])} for m in messages])
        )

    def after_turn(self, turn_ids: Sequence[int], user_text: str) -> list[int]:
        """The given ids between a sampled turn and the next one, which answers `user_text`.

        They begin with the end-of-turn token if the turn was cut before it was sampled.
        """
        ids = self._between(self._defuse(user_text))
        if turn_ids and turn_ids[-1] == self._end_of_turn:
            return ids[ids.index(self._end_of_turn) + 1 :]
        return ids

    def decode_turn(self, turn_ids: Sequence[int]) -> str:
        """The text of a sampled turn, without the token that ended it."""
        ids = list(turn_ids)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _between(self, user_text: str) -> list[int]:
        """Ids from the end of an assistant turn's content to the start of the next one's."""
        text = self._render(
            [_user("?"), {"role": "assistant", "content": PLACEHOLDER}, _user(user_text)]
        )
        return self._encode(text.partition(PLACEHOLDER)[2])

    def _render(self, messages: Sequence[Message]) -> str:
        if messages[0]["role"] == "system" and not self._takes_system:
            system, first, *rest = messages
            messages = [_user(f"{system['content']}\n\n{first['content']}"), *rest]
        return str(
            self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self.thinking,
            )
        )

    def _accepts_system(self) -> bool:
        """Some templates (Gemma's) refuse system messages; the first question takes theirs in."""
        self._takes_system = True
        try:
            self._render([{"role": "system", "content": "?"}, _user("?")])
        except TemplateError:
            return False
        return True

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _defuse(self, text: str) -> str:
        while self._added.search(text):
            text = self._added.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
        return text


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _any_of(tokens: set[str], except_for: set[str]) -> re.Pattern[str]:
    """Matches any of `tokens`, the longest first; blank and one-letter tokens are mere text."""
    marks = {token for token in tokens - except_for if len(token.strip()) > 1}
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")
