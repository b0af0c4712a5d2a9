"""Wikipedia paragraphs of question sets: which are the same, and an address for each.

Many questions share a paragraph, and many paragraphs a title. An index is built from
`distinct_passages`, which keeps only hashes, so that a corpus may be larger than memory; a `Corpus`
is for questions that name their paragraphs.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from nanoscout.questions.urls import url_path
from nanoscout.records import Passage

SITE = "https://en.wikipedia.org/wiki/"


def title_url(title: str) -> str:
    return SITE + (url_path("_".join(title.split())) or "Untitled")


class TitleUrls:
    """A different URL at each call."""

    def __init__(self) -> None:
        self._taken: set[bytes] = set()
        self._same_title: dict[bytes, int] = {}

    def new(self, title: str) -> str:
        """The title's URL; for further paragraphs of one title `..._(2)`, `..._(3)`, and so on."""
        first = url = title_url(title)
        key = _fingerprint(first)
        while _fingerprint(url) in self._taken:
            self._same_title[key] = self._same_title.get(key, 1) + 1
            url = f"{first}_({self._same_title[key]})"
        self._taken.add(_fingerprint(url))
        return url


class Corpus:
    """Passages with distinct (title, text), ids and URLs, in the order they were added.

    The numbers are those of `distinct_passages`, which keeps no passage.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._passages: dict[tuple[str, str], Passage] = {}
        self._urls = TitleUrls()

    def add(self, title: str, text: str) -> Passage:
        """The passage of this title and text, new or not."""
        if (title, text) not in self._passages:
            passage = Passage(
                f"{self._prefix}{len(self._passages):07}", title, text, self._urls.new(title)
            )
            self._passages[title, text] = passage
        return self._passages[title, text]

    @property
    def passages(self) -> list[Passage]:
        return list(self._passages.values())


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
