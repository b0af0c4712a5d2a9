"""One's own questions and documents: a JSONL file of questions with answers, a folder of texts.

A line is `{"question": ..., "answer": ...}`, with `aliases` (more right answers), `id` and
`hop_type` where one has them. Documents are all .md and .txt files below the folder.
"""

import hashlib
import logging
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.json_records import Text, check_record, read_records
from nanoscout.questions.question_set import QuestionSet
from nanoscout.questions.split import split_questions
from nanoscout.questions.urls import url_path
from nanoscout.recipe import HopType, QuestionsSpec
from nanoscout.records import Passage, Question

SITE = "https://documents.local/"
SUFFIXES = (".md", ".txt")
_HEADING = re.compile(r"^#{1,6}[ \t](.*)", re.MULTILINE)
log = logging.getLogger(__name__)


class QuestionRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    question: Text
    answer: Text
    aliases: list[Text] = []
    id: Text = ""
    """Empty: made from the question's text."""
    hop_type: HopType = "1hop"


def load_jsonl(spec: QuestionsSpec, seed: int) -> QuestionSet:
    """Questions of `spec.path` (and `spec.held_out_path`) over the files below `spec.documents`.

    Raises UserError for an unreadable file, naming the line of a broken record.
    """
    if not spec.path:
        raise UserError("questions.path: not set; name the JSONL file of training questions")
    if not spec.documents:
        raise UserError("questions.documents: not set; name the folder of .md and .txt files")
    questions = _read_questions(Path(spec.path))
    held_out = _read_questions(Path(spec.held_out_path)) if spec.held_out_path else None
    passages = read_documents(Path(spec.documents))
    train, held_out, examples = split_questions(questions, held_out, spec, seed)
    return QuestionSet(train, held_out, examples, passages)


def read_documents(folder: Path) -> list[Passage]:
    """The .md and .txt files below `folder`, ordered by path; empty ones are left out.

    The title is the first heading of a .md file, or the file's name. Raises UserError for a
    missing folder, a file that is not UTF-8, and where nothing is left.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of documents")
    passages = []
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in sorted(paths.items()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        text = _read_text(path)
        if text:
            passages.append(Passage(name, _title(path, text), text, SITE + url_path(name)))
        else:
            log.info("%s: empty, left out", path)
    if not passages:
        raise UserError(f"{folder}: no .md or .txt file with text in it; the corpus is empty")
    return passages


def _read_questions(path: Path) -> list[Question]:
    questions: dict[str, Question] = {}
    for place, fields in read_records(path):
        record = check_record(place, fields, QuestionRecord)
        text = record.question.strip()
        if not text:
            raise UserError(f"{place}: the question is empty")
        if not any(normalise(gold) for gold in (record.answer, *record.aliases)):
            raise UserError(f"{place}: no answer that could be matched: {record.answer!r}")
        question_id = record.id or hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        if question_id in questions:
            what = f"the id {record.id}" if record.id else "the question"
            raise UserError(f"{place}: {what} has stood on an earlier line; each must differ")
        questions[question_id] = Question(
            question_id, text, record.answer.strip(), tuple(record.aliases), record.hop_type
        )
    return list(questions.values())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _title(path: Path, text: str) -> str:
    """The first heading of a .md file, without the `#`s that may close it; else the file's name."""
    heading = _HEADING.search(text) if path.suffix.lower() == ".md" else None
    title = f" {heading[1].strip()}" if heading else ""
    words, _, last = title.rpartition(" ")
    return (words if last.strip("#") == "" else title).strip() or path.stem
