"""SimpleQA (Wei et al. 2024, arXiv 2411.04368): short questions with one answer, and their sources.

Reads the official file (openai/simple-evals, `simple_qa_test_set.csv`: metadata, problem, answer)
and that of SimpleQA Verified (Haas et al. 2025, arXiv 2509.07968, `simpleqa_verified.csv`: problem,
answer, topic, answer_type, urls and more). Neither brings a corpus: the metadata names the pages
that an answer was found on.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.csv_records import Row, read_rows, require
from nanoscout.questions.question_file import QuestionFile, id_of_text
from nanoscout.records import Question

VERIFIED = ("topic", "answer_type", "urls")
"""Columns that stand in the place of the official file's `metadata`."""

_RANGE = re.compile(r"\s*\(acceptable range: [^()]*\)\s*$", re.IGNORECASE)
"""What Verified adds to some answers that are numbers."""
_BETWEEN_URLS = re.compile(r"[\s,]+(?=https?://)")


class Metadata(NamedTuple):
    topic: str
    answer_type: str
    urls: tuple[str, ...]


def read_simpleqa(path: Path) -> QuestionFile:
    """The questions of either file; an id is made from a question's text.

    An answer that names its acceptable range has the number alone as an alias. Raises UserError
    for an unreadable file, a missing column, and naming the line of a broken record.
    """
    questions: dict[str, Question] = {}
    known: dict[str, Metadata] = {}
    for place, row in read_rows(path):
        if not questions:
            require(path, row, ("problem", "answer"))
            require(path, row, VERIFIED if "topic" in row else ("metadata",))
        text, answer = row["problem"].strip(), row["answer"].strip()
        if not text:
            raise UserError(f"{place}: the problem is empty")
        if not normalise(answer):
            raise UserError(f"{place}: no answer that could be matched: {answer!r}")
        question_id = id_of_text(text)
        if question_id in questions:
            raise UserError(f"{place}: the problem has stood on an earlier line; each must differ")
        number = _RANGE.sub("", answer)
        aliases = (number,) if number != answer and normalise(number) else ()
        questions[question_id] = Question(question_id, text, answer, aliases)
        known[question_id] = _metadata(place, row)
    return QuestionFile(
        list(questions.values()),
        topics={question_id: metadata.topic for question_id, metadata in known.items()},
        answer_types={question_id: metadata.answer_type for question_id, metadata in known.items()},
        pages={question_id: metadata.urls for question_id, metadata in known.items()},
    )


def _metadata(place: str, row: Row) -> Metadata:
    if "metadata" not in row:
        urls = _BETWEEN_URLS.split(row["urls"].strip())
        return Metadata(row["topic"], row["answer_type"], _distinct(urls))
    try:
        fields = ast.literal_eval(row["metadata"])
        metadata = Metadata(fields["topic"], fields["answer_type"], _distinct(fields["urls"]))
        known = all(isinstance(text, str) for text in (*metadata[:2], *metadata.urls))
    except (ValueError, SyntaxError, LookupError, TypeError, MemoryError, RecursionError):
        known = False
    if not known:
        raise UserError(
            f"{place}: metadata: expected {{'topic': ..., 'answer_type': ..., 'urls': [...]}}"
        )
    return metadata


def _distinct(urls: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url.strip() for url in urls if url.strip()))
