"""Wikipedia paragraphs of question sets: which are the same, and an address for each.

Many questions share a paragraph, and many paragraphs a title. Only hashes of what has been seen
are kept, so that a corpus may be larger than memory.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from nanoscout.questions.urls import url_path
from nanoscout.records import Passage

SITE = "https://en.wikipedia.org/wiki/"


class TitleUrls:
    """A different URL at each call."""

    def __init__(self) -> None:
        self._taken: set[bytes] = set()
        self._same_title: dict[bytes, int] = {}

    def new(self, title: str) -> str:
        """The title's URL; for further paragraphs of one title `..._(2)`, `..._(3)`, and so on."""
        first = url = SITE + (url_path("_".join(title.split())) or "Untitled")
        key = _fingerprint(first)
        while _fingerprint(url) in self._taken:
            self._same_title[key] = self._same_title.get(key, 1) + 1
            url = f"{first}_({self._same_title[key]})"
        self._taken.add(_fingerprint(url))
        return url


def distinct_passages(paragraphs: Iterable[tuple[str, str]], prefix: str) -> Iterator[Passage]:
    """A passage for each different (title, text); its id is `prefix` and its number from 0 on."""
    urls = TitleUrls()
    seen: set[bytes] = set()
    for title, text in paragraphs:
        key = _fingerprint(f"{len(title)} {title}{text}")
        if key not in seen:
            yield Passage(f"{prefix}{len(seen):07}", title, text, urls.new(title))
            seen.add(key)


def _fingerprint(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
