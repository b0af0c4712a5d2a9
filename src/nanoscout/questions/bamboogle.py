"""Bamboogle (Press et al. 2022): 125 two-hop questions that a search engine answers only in parts.

Reads JSON records with `Question` and `Answer` (a file may also have the sub-questions Q1, A1, Q2,
A2), or a CSV with these columns, as the authors' table is exported. It has no corpus.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.csv_records import read_rows, require
from nanoscout.questions.json_records import Text, check_record, read_records
from nanoscout.questions.question_file import QuestionFile, id_of_text
from nanoscout.records import Question, Step


class BamboogleRecord(BaseModel):
    Question: Text
    Answer: Text
    Q1: Text = ""
    A1: list[Text] = []
    Q2: Text = ""
    A2: list[Text] = []


def read_bamboogle(path: Path) -> QuestionFile:
    """The questions of a file; an id is made from a question's text.

    Raises UserError for an unreadable file, and naming file and line for a broken record.
    """
    questions: dict[str, Question] = {}
    for place, record in _records(path):
        text = record.Question.strip()
        if not text:
            raise UserError(f"{place}: the question is empty")
        if not normalise(record.Answer):
            raise UserError(f"{place}: no answer that could be matched: {record.Answer!r}")
        question_id = id_of_text(text)
        if question_id in questions:
            raise UserError(f"{place}: the question has stood earlier; each must differ")
        hops = ((record.Q1, record.A1), (record.Q2, record.A2))
        steps = tuple(Step(question, names[0]) for question, names in hops if question and names)
        questions[question_id] = Question(
            question_id, text, record.Answer.strip(), (), "2hop", steps
        )
    return QuestionFile(list(questions.values()))


def _records(path: Path) -> Iterator[tuple[str, BamboogleRecord]]:
    if ".csv" in path.suffixes:
        for place, row in read_rows(path):
            require(path, row, ("Question", "Answer"))
            yield place, BamboogleRecord(Question=row["Question"], Answer=row["Answer"])
    else:
        for place, fields in read_records(path):
            yield place, check_record(place, fields, BamboogleRecord)
