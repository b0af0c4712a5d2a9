"""What a result page shows of a document: its first characters, or a window around the query."""

import re
from collections.abc import Iterable
from typing import Literal

from nanoscout.records import Hit, Passage

_WORD = re.compile(r"\w+")


PreviewMode = Literal["first", "window"]


def hits_of(
    found: Iterable[tuple[Passage, float]], query: str, mode: PreviewMode, length: int
) -> list[Hit]:
    """Passages and their scores as the hits of a result page."""
    return [
        Hit(
            passage_id=passage.id,
            title=passage.title,
            url=passage.url,
            preview=preview(passage.text, query, mode, length),
            score=score,
        )
        for passage, score in found
    ]


def preview(text: str, query: str, mode: PreviewMode, length: int) -> str:
    return first_characters(text, length) if mode == "first" else query_window(text, query, length)


def first_characters(text: str, length: int) -> str:
    """The beginning of `text` on one line, at most `length` characters, cut at a word with " …"."""
    text = " ".join(text.split(maxsplit=length)[:length])
    return text if len(text) <= length else _cut(text, length) + " …"


def query_window(text: str, query: str, length: int) -> str:
    """About `length` characters of `text` around most of the query's distinct words.

    The first of equal stretches; the beginning where no word of the query occurs.
    """
    words = {match.group().lower() for match in _WORD.finditer(query)}
    hits = [
        (match.start(), match.group().lower())
        for match in _WORD.finditer(text)
        if match.group().lower() in words
    ]
    best, start, left = 0, 0, 0
    for right, (position, _) in enumerate(hits):
        while position - hits[left][0] > length * 3 // 4:
            left += 1
        found = len({word for _, word in hits[left : right + 1]})
        if found > best:
            best, start = found, hits[left][0]
    start = _word_start(text, max(0, min(start - length // 8, len(text) - length)))
    window = first_characters(text[start:], length)
    return f"… {window}" if start else window


def _word_start(text: str, position: int) -> int:
    """The nearest beginning of a word at or before `position`."""
    return text.rfind(" ", 0, position) + 1 if position else 0


def _cut(text: str, length: int) -> str:
    end = text.rfind(" ", 0, length + 1)
    return text[: end if end > 0 else length]
