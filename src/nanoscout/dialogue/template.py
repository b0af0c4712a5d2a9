"""Messages to token ids and back, through the model's own chat template.

The first prompt is rendered as a whole. After that nothing is ever tokenised again: what follows a
sampled turn is found by rendering a short conversation around a placeholder turn and keeping what
the template writes after it (end-of-turn token, newline, headers, the reply's text). What templates
do elsewhere, such as default system prompts, does not reach it. Thoughts leave old turns as the
template has it, but only on demand (`cut_thoughts`).

The text of messages is data: before rendering, a space is put after the first character of every
string in it that the tokenizer would turn into one of its added tokens (`< |im_end|>`), except the
format's own tags. No page can end a turn or open a think block.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from nanoscout.dialogue import thinking as think
from nanoscout.dialogue.chat_template import ChatTemplate, user
from nanoscout.dialogue.examples import Message
from nanoscout.dialogue.format import Format
from nanoscout.errors import UserError
from nanoscout.records import ToolSpec


class Dialogue:
    """The token-level form of conversations with one model.

    `stop_ids` given here (such as the generation config's) are added to those found. `devices` keep
    a model from thinking (dialogue/thinking.py); with `thinking` there are none. `strip_thinking`:
    thoughts leave the history as the template has it.
    Raises UserError for a tokenizer without any token that can end a turn, and for a template that
    opens a think block although thinking is off.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        format: Format,
        thinking: bool,
        stop_ids: Iterable[int] = (),
        *,
        devices: Collection[str] = (think.EMPTY_BLOCK, think.BAN),
        strip_thinking: bool = False,
    ) -> None:
        devices = () if thinking else devices
        self.tokenizer = tokenizer
        self.format = format
        self.thinking = thinking
        self.strips_thinking = strip_thinking
        self._template = ChatTemplate(
            tokenizer,
            format,
            empty_block=think.EMPTY_BLOCK in devices,
            soft_switch=think.NO_THINK in devices,
        )
        added = tokenizer.added_tokens_decoder
        self._special_ids = set(tokenizer.all_special_ids) | {
            token_id for token_id, token in added.items() if token.special
        }
        self._added = _any_of(
            {str(token) for token in added.values()} | set(tokenizer.all_special_tokens),
            except_for=set(format.tags),
        )
        self._end_of_turn = next(
            (i for i in self._between([user("")]) if i in self._special_ids), None
        )
        eos = tokenizer.eos_token_id
        self.stop_ids = frozenset(i for i in (eos, self._end_of_turn, *stop_ids) if i is not None)
        """Tokens that end a turn when they are sampled."""
        self.banned_ids = think.banned_ids(tokenizer, banned=think.BAN in devices)
        """Tokens that must not be sampled."""
        works = {
            think.EMPTY_BLOCK: self._template.has_empty_block,
            think.NO_THINK: True,
            think.BAN: bool(self.banned_ids),
        }
        self.active_devices = tuple(device for device in devices if works[device])
        """Those that this model's template and tokenizer have a use for."""
        if not self.stop_ids:
            raise UserError("the model's tokenizer has no end-of-turn token; set its eos_token")
        self.opens_thinking = self._template.opening.rstrip().endswith(think.OPEN)
        """Whether the template itself opens the think block of each turn."""
        if self.opens_thinking and not thinking:
            raise UserError(
                "this model's template always thinks; set dialogue.thinking=true"
                if think.EMPTY_BLOCK in devices
                else "this model's template opens a think block; add empty_block to "
                "dialogue.non_thinking"
            )
        past, _ = self._template.around([user("?")])
        if strip_thinking and not self._template.opening.startswith(past):
            raise UserError(
                "this model's template begins past turns otherwise than the one to be written; "
                "set dialogue.strip_thinking=false"
            )
        self._opening = len(self._encode(self._template.opening.removeprefix(past)))

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Ids of a conversation that ends with a user message, up to where the model writes.

        `tools` are described where the format leaves that to the template.
        """
        specs = [self._defused_spec(spec) for spec in tools]
        return self._encode(self._template.render(self._defused(messages), specs))

    def after_turn(self, turn_ids: Sequence[int], reply: Sequence[Message]) -> list[int]:
        """The given ids between a sampled turn and the next one, which answers `reply`.

        They begin with the end-of-turn token if the turn was cut before it was sampled.
        """
        ids = self._between(self._defused(reply))
        if turn_ids and turn_ids[-1] == self._end_of_turn:
            return ids[ids.index(self._end_of_turn) + 1 :]
        return ids

    def cut_thoughts(
        self, turn_ids: Sequence[int], reply: Sequence[Message]
    ) -> tuple[int, list[int]] | None:
        """What becomes of a sampled turn in the history, where that loses its thoughts.

        (dropped, kept): the last `dropped` ids of the conversation, which end with the turn, give
        way to `kept`. None where nothing changes: thoughts are not to be stripped, there are none,
        or the template keeps them (as Qwen3's does before a result in the role `tool`). Kept ids
        are those that were sampled; text is tokenised anew only where none of them begins with it.
        """
        text = self.decode_turn(turn_ids)
        if not self.strips_thinking or think.CLOSE not in text:
            return None
        shown = self._template.in_history(text, self._defused(reply))
        if think.CLOSE in shown:
            return None
        ids = self._unended(turn_ids)
        kept = ids[self._start_of_last(ids, len(shown)) :]
        if self._decode(kept) != shown:
            kept = self._encode(shown)
        return len(turn_ids) + self._opening, [*kept, *turn_ids[len(ids) :]]

    def think_tokens(self, turn_ids: Sequence[int]) -> int:
        """How many tokens of a sampled turn belong to its think block, tags included."""
        text = self.decode_turn(turn_ids)
        rest = think.after_thinking(think.OPEN + text if self.opens_thinking else text)
        return 0 if rest == text else self._start_of_last(self._unended(turn_ids), len(rest))

    def decode_turn(self, turn_ids: Sequence[int]) -> str:
        """The text of a sampled turn, without the token that ended it."""
        return self._decode(self._unended(turn_ids))

    def _unended(self, turn_ids: Sequence[int]) -> list[int]:
        ids = list(turn_ids)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        return ids

    def _start_of_last(self, ids: Sequence[int], characters: int) -> int:
        """Where the ids begin that hold no more than the last so many characters of their text."""
        return bisect_left(
            range(len(ids)), -characters, key=lambda start: -len(self._decode(ids[start:]))
        )

    def _between(self, reply: Sequence[Message]) -> list[int]:
        """Ids from the end of an assistant turn's content to the start of the next one's."""
        return self._encode(self._template.around(reply)[1])

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _defused(self, messages: Sequence[Message]) -> list[Message]:
        """Messages whose text is data; a thought becomes the think block that it is."""
        made = []
        for message in messages:
            thought, content = message.get("thought"), self._defuse(message["content"])
            if thought is not None:
                content = think.before_turn(self._defuse(thought)) + content
            made.append({"role": message["role"], "content": content})
        return made

    def _defused_spec(self, spec: ToolSpec) -> ToolSpec:
        """Tools may come from servers of others: not even the format's own tags stay whole."""

        def defused(value: Any) -> Any:
            match value:
                case str():
                    return self._defuse(self.format.defuse(value))
                case list():
                    return [defused(item) for item in value]
                case dict():
                    return {defused(key): defused(item) for key, item in value.items()}
                case _:
                    return value

        return ToolSpec(defused(spec.name), defused(spec.description), defused(spec.parameters))

    def _defuse(self, text: str) -> str:
        while self._added.search(text):
            text = self._added.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
        return text


def _any_of(tokens: set[str], except_for: set[str]) -> re.Pattern[str]:
    """Matches any of `tokens`, the longest first; blank and one-letter tokens are mere text."""
    marks = {token for token in tokens - except_for if len(token.strip()) > 1}
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")
