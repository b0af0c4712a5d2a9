"""A turn as it is being written: what of it may be shown already, and where it must end.

Tokens become text as soon as their characters are whole. Text that could still turn out to be the
beginning of a tool call, of the end of a thought or of a stop string is held back.
"""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from nanoscout.dialogue.thinking import CLOSE, OPEN


class TurnText:
    """`call_tag`: what a call begins with, empty where there are no tools; `thinks`: the template
    has opened a think block already."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str] = (),
        call_tag: str = "",
        thinks: bool = False,
    ):
        self.text = ""
        """All of the turn so far, without the stop string that ended it."""
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._stops = tuple(stops)
        self._call_tag = call_tag
        self._thinks = thinks
        self._shown = 0

    def add(self, token_id: int) -> bool:
        """Take the next token; True where a stop string ends the turn with it."""
        piece = self._stream.step(self._tokenizer, token_id)
        if not piece:
            return False
        self.text += piece
        longest = max(map(len, self._stops), default=0)
        begin = max(0, len(self.text) - len(piece) - longest)
        ends = [end for stop in self._stops if (end := self.text.find(stop, begin)) >= 0]
        if ends:
            self.text = self.text[: min(ends)]
        return bool(ends)

    def fresh(self) -> tuple[str, str]:
        """(thought, content) that may be shown and was not yet."""
        thought, content = self._until_now()
        shown = self._shown
        self._shown = len(thought) + len(content)
        return thought[shown:], content[max(0, shown - len(thought)) :]

    def _until_now(self) -> tuple[str, str]:
        thought, rest = split_thought(self.text, self._thinks)
        if rest is None:
            return _without_beginning_of(thought, (CLOSE, *self._stops)).rstrip("\n"), ""
        if not thought and OPEN.startswith(rest.lstrip()):
            return "", ""  # A thought may be beginning.
        marks = [mark for mark in (self._call_tag, *self._stops) if mark]
        if self._call_tag and self._call_tag in rest:
            return thought, rest[: rest.index(self._call_tag)]
        return thought, _without_beginning_of(rest, marks)


def split_thought(text: str, thinks: bool) -> tuple[str, str | None]:
    """The thought at the beginning of a turn, and what follows it; None while it goes on."""
    opened = text.lstrip().startswith(OPEN)
    if not opened and not thinks:
        return "", text
    thought, closed, rest = text.partition(CLOSE)
    thought = thought.lstrip().removeprefix(OPEN).lstrip("\n")
    return (thought.rstrip("\n"), rest.lstrip("\n")) if closed else (thought, None)


def _without_beginning_of(text: str, marks: Sequence[str]) -> str:
    """`text` without its longest end that one of the marks begins with."""
    for start in range(max(0, len(text) - max(map(len, marks), default=0)), len(text)):
        if any(mark.startswith(text[start:]) for mark in marks):
            return text[:start]
    return text
