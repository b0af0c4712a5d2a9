"""What a file of questions gives: the questions, what is known of them, and their paragraphs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from nanoscout.records import Passage, Question


@dataclass(frozen=True)
class QuestionFile:
    questions: list[Question]
    """In the order of the file; ids are unique."""
    passages: list[Passage] | None = None
    """The file's own paragraphs; None where it has none, and answers must be found elsewhere."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """By question id; reports count by them."""
    answer_types: Mapping[str, str] = field(default_factory=dict)
    """By question id: Date, Person, Number, ..."""
    pages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By question id: addresses of pages that hold the answer, any one of them."""


def id_of_text(text: str) -> str:
    """An id for a question whose file gives it none: the same in every file that has it."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
