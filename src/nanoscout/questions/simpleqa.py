"""SimpleQA (Wei et al. 2024, arXiv 2411.04368): short questions with one answer, and their sources.

Reads the official file (openai/simple-evals, `simple_qa_test_set.csv`: metadata, problem, answer)
and that of SimpleQA Verified (Haas et al. 2025, arXiv 2509.07968, `simpleqa_verified.csv`: problem,
answer, topic, answer_type, urls and more). Neither brings a corpus: the metadata names the pages
that an answer was found on.
"""

import ast
import re
from pathlib import Path

from pydantic import BaseModel

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.csv_records import Row, read_rows, require
from nanoscout.questions.json_records import Text, check_record
from nanoscout.questions.question_file import QuestionFile, id_of_text
from nanoscout.records import Question

VERIFIED = ("topic", "answer_type", "urls")
"""Columns that stand in the place of the official file's `metadata`."""

_RANGE = re.compile(r"\s*\(acceptable range: [^()]*\)\s*$", re.IGNORECASE)
"""What Verified adds to some answers that are numbers."""
_BETWEEN_URLS = re.compile(r"[\s,]+(?=https?://)")


class Metadata(BaseModel):
    topic: Text
    answer_type: Text
    urls: list[Text]


class MetadataColumn(BaseModel):
    metadata: Metadata


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
        topics={key: metadata.topic for key, metadata in known.items()},
        answer_types={key: metadata.answer_type for key, metadata in known.items()},
        pages={key: _distinct(metadata.urls) for key, metadata in known.items()},
    )


def _metadata(place: str, row: Row) -> Metadata:
    if "metadata" not in row:
        urls = _BETWEEN_URLS.split(row["urls"])
        return Metadata(topic=row["topic"], answer_type=row["answer_type"], urls=urls)
    try:
        fields = ast.literal_eval(row["metadata"])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{place}: metadata: not a Python literal") from None
    return check_record(place, {"metadata": fields}, MetadataColumn).metadata


def _distinct(urls: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url.strip() for url in urls if url.strip()))
