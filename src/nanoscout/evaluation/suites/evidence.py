"""Whether a suite's answers can be found at all in what the agent is given to search.

A figure over a corpus that lacks the evidence measures something else than it seems to, so such a
pair is refused unless it is asked for, and then the result says so. What can be known is known from
addresses: an index holds a question's evidence if it has its supporting pages, or one of the pages
that its source names.
"""

from collections.abc import Callable
from typing import Literal
from urllib.parse import unquote, urlsplit

from nanoscout.errors import UserError
from nanoscout.evaluation.suites.suite import Suite
from nanoscout.questions.paragraphs import SITE, title_url

Place = Literal["own", "index", "web", "nothing"]
"""What is searched: the suite's own paragraphs, some index, the open web, or nothing at all."""

Needed = list[tuple[str, ...]]
"""Addresses, in groups: one page of each group is needed."""

LEAST = 0.5
"""Least share of the questions whose evidence an index must have."""


def check_evidence(
    suite: Suite,
    place: Place,
    has_page: Callable[[str], bool] | None = None,
    *,
    anyway: bool = False,
) -> str:
    """A sentence for the result that says where the answers could be found.

    `has_page`: whether an index has a page at an address (as `SearchIndex.passage` knows); None
    where it cannot be asked. Raises
    UserError for a pair that makes no sense; with `anyway` the sentence says so instead. An own
    corpus that is not there is refused in any case.
    """
    if place == "nothing":
        return "closed book: no search, the model's memory alone"
    if place == "own":
        if suite.passages is None:
            raise UserError(
                f"suite {suite.name} brings no corpus of its own; search the web or an index, "
                "or run it closed book"
            )
        return f"the suite's own corpus of {len(suite.passages):,} passages"
    if place == "web":
        doubt = (
            "the open web knows nothing of a fictional world" if suite.subject == "fiction" else ""
        )
        return _verdict(suite, "the open web", doubt, anyway)
    if suite.subject == "yours":
        return "an index; whether it holds the evidence is for its owner to know"
    known = _evidence(suite)
    if has_page is None or not known:
        return _verdict(suite, "an index", "whether it holds the evidence is not known", anyway)
    there = sum(_holds(needed, has_page) for needed in known)
    share = f"evidence of {there:,} of {len(suite.questions):,} questions is in it"
    if there < LEAST * len(suite.questions):
        return _verdict(suite, "an index", share, anyway)
    return f"an index; {share}"


def _verdict(suite: Suite, place: str, doubt: str, anyway: bool) -> str:
    if not doubt:
        return place
    if not anyway:
        raise UserError(
            f"suite {suite.name} over {place}: {doubt}, so its figures may mean little; "
            "search elsewhere, or ask for it with --anyway"
        )
    return f"{place}, asked for all the same although {doubt}"


def _evidence(suite: Suite) -> list[Needed]:
    """Of each question of which it is known."""
    if suite.passages is None:
        pages = (suite.pages.get(question.id, ()) for question in suite.questions)
        return [[urls] for urls in pages if urls]
    passages = {passage.id: passage for passage in suite.passages}
    return [
        [(passages[key].url, title_url(passages[key].title)) for key in question.supporting]
        for question in suite.questions
        if question.supporting
    ]


def _holds(needed: Needed, has_page: Callable[[str], bool]) -> bool:
    return all(
        any(has_page(spelling) for url in urls for spelling in _spellings(url)) for urls in needed
    )


def _spellings(url: str) -> set[str]:
    """The address without its fragment, and, of a Wikipedia page, as ours are written."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no address that a page could have
        return set()
    plain = parts._replace(fragment="").geturl()
    if parts.netloc not in ("en.wikipedia.org", "en.m.wikipedia.org"):
        return {plain}
    return {plain, title_url(unquote(parts.path.removeprefix(urlsplit(SITE).path)))}
