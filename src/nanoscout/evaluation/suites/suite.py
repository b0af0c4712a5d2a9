"""A suite: the questions of an evaluation, where they are from, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nanoscout.records import Passage, Question

Subject = Literal["world", "fiction", "yours"]
"""What questions are about: the real world, a generated one, or whatever their writer knows."""


@dataclass(frozen=True)
class Source:
    """Which questions these are, for whoever compares two results."""

    path: str
    """The file, or `world:PAGES:SEED`."""
    sha256: str
    """Of the file's content, unzipped; empty for the generated world."""
    published: bool
    """Whether this is, byte for byte, the file that the catalogue names."""


@dataclass(frozen=True)
class Suite:
    name: str
    source: Source
    questions: list[Question]
    """What is asked, in an order of which every prefix is a fair sample (suites/subset.py)."""
    of: int
    """How many questions the whole set has."""
    subject: Subject = "world"
    passages: list[Passage] | None = None
    """Its own corpus; None where answers must be found elsewhere."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """By question id: SimpleQA's topic, HotpotQA's type, PopQA's relation; may be empty."""
    answer_types: Mapping[str, str] = field(default_factory=dict)
    """By question id: Date, Person, ...; may be empty."""
    pages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By question id: addresses of pages elsewhere, any of which holds the answer; may be empty."""
