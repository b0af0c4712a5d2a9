"""What a source of questions gives: disjoint questions for three uses, and the corpus."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nanoscout.records import Passage, Question


@dataclass(frozen=True)
class QuestionSet:
    train: list[Question]
    held_out: list[Question]
    examples: list[Question]
    """For worked examples; in neither of the others."""
    passages: list[Passage]
    """The corpus; ids and URLs are unique."""


def needs_visit(question: Question, passages: Mapping[str, Passage], preview_chars: int) -> bool:
    """Whether some hop's answer does not stand in the first characters of its page.

    `passages` maps ids to passages. Hops whose page is unknown do not count.
    """
    return any(
        not contains(passages[step.passage_id].text[:preview_chars], step.answer)
        for step in question.steps
        if step.passage_id
    )


def contains(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` as whole words."""
    return bool(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE))
