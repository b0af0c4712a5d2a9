"""One's own questions and documents: a JSONL file of questions with answers, a folder of texts.

A line is `{"question": ..., "answer": ...}`, with `aliases` (more right answers), `id`, `hop_type`
and `topic` where one has them. Documents are all .md, .txt, .html and .pdf files below the
folder.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.documents import read_documents
from nanoscout.questions.json_records import Text, check_record, read_records
from nanoscout.questions.question_file import QuestionFile, id_of_text
from nanoscout.questions.question_set import QuestionSet
from nanoscout.questions.split import split_questions
from nanoscout.recipe import HopType, QuestionsSpec
from nanoscout.records import Question


class QuestionRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    question: Text
    answer: Text
    aliases: list[Text] = []
    id: Text = ""
    """Empty: made from the question's text."""
    hop_type: HopType = "1hop"
    topic: Text = ""
    """For reports by topic; has no other use."""


def load_jsonl(spec: QuestionsSpec, seed: int) -> QuestionSet:
    """Questions of `spec.path` (and `spec.held_out_path`) over the files below `spec.documents`.

    Raises UserError for an unreadable file, naming the line of a broken record.
    """
    if not spec.path:
        raise UserError("questions.path: not set; name the JSONL file of training questions")
    if not spec.documents:
        raise UserError("questions.documents: not set; name the folder of your documents")
    questions = read_jsonl(Path(spec.path)).questions
    held_out = read_jsonl(Path(spec.held_out_path)).questions if spec.held_out_path else None
    passages = list(read_documents(Path(spec.documents)))
    train, held_out, examples = split_questions(questions, held_out, spec, seed)
    return QuestionSet(train, held_out, examples, passages)


def read_jsonl(path: Path) -> QuestionFile:
    """The questions of a file, and their topics. Raises UserError as `load_jsonl` does."""
    questions: dict[str, Question] = {}
    topics: dict[str, str] = {}
    for place, fields in read_records(path):
        record = check_record(place, fields, QuestionRecord)
        text = record.question.strip()
        if not text:
            raise UserError(f"{place}: the question is empty")
        if not any(normalise(gold) for gold in (record.answer, *record.aliases)):
            raise UserError(f"{place}: no answer that could be matched: {record.answer!r}")
        question_id = record.id or id_of_text(text)
        if question_id in questions:
            what = f"the id {record.id}" if record.id else "the question"
            raise UserError(f"{place}: {what} has stood on an earlier line; each must differ")
        questions[question_id] = Question(
            question_id, text, record.answer.strip(), tuple(record.aliases), record.hop_type
        )
        if record.topic:
            topics[question_id] = record.topic
    return QuestionFile(list(questions.values()), topics=topics)
