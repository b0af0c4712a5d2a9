"""The bad days of a real search engine, on purpose: what a scout should learn to live with.

Which result is lost and which page is empty is a pure function of the seed and of what was asked
for, so all rollouts of a group see the same world, and so does a resumed run. All shares are 0
unless a recipe says otherwise (`[search.faults]`, or `faults` of a stage).
"""

from dataclasses import dataclass, replace

from nanoscout.recipe import FaultSpec
from nanoscout.records import Hit, Page
from nanoscout.seeds import derive_seed

TIMED_OUT = "The request timed out. Try other words or another page."
TOO_MANY = "429 Too many requests. Try other words or another page."
DEAD_LINK = "404 This page is gone. Visit another URL."

MIRROR = "?source=mirror"
"""What the URL of a near-duplicate ends with; visit opens the page that it copies."""


@dataclass(frozen=True)
class Faults:
    """The faults of one world. Each method also names those that it put in."""

    spec: FaultSpec
    seed: int

    def refusal(self, request: str) -> tuple[str, str] | None:
        """What a search or visit is answered with instead of a result, and the fault's name."""
        for name, text in (("timeout", TIMED_OUT), ("rate_limit", TOO_MANY)):
            if self._strikes(name, request):
                return text, name
        return None

    def of_hits(self, query: str, hits: list[Hit]) -> tuple[list[Hit], tuple[str, ...]]:
        """The result page without dropped hits, with demoted ones last, and with near-duplicates
        (the same page under a second URL)."""
        kept: list[Hit] = []
        demoted: list[Hit] = []
        found: list[str] = []
        for hit in hits:
            place = f"{query}\x1f{hit.url}"
            if self._strikes("drop", place):
                found.append("drop")
                continue
            demote = self._strikes("demote", place)
            (demoted if demote else kept).append(hit)
            if demote:
                found.append("demote")
            if self._strikes("duplicate", place):
                kept.append(_near_duplicate(hit))
                found.append("duplicate")
        return [*kept, *demoted][: len(hits)], tuple(found)

    def of_page(self, page: Page) -> tuple[Page | None, tuple[str, ...]]:
        """The page, an empty one, or None where the link is dead."""
        if self._strikes("dead_link", page.url):
            return None, ("dead_link",)
        if self._strikes("empty_page", page.url):
            return replace(page, text="", next_offset=None), ("empty_page",)
        return page, ()

    def _strikes(self, name: str, what: str) -> bool:
        share = getattr(self.spec, name)
        return share > 0 and derive_seed(self.seed, name, what) < share * 2**63


def _near_duplicate(hit: Hit) -> Hit:
    return replace(hit, title=f"{hit.title} (mirror)", url=f"{hit.url}{MIRROR}")
