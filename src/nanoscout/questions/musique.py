"""MuSiQue (Trivedi et al. 2022, TACL): real multi-hop questions over Wikipedia paragraphs.

Reads the official format (github.com/StonyBrookNLP/musique): each record has a question, its
decomposition into hops, and twenty paragraphs, supporting and misleading ones. All paragraphs of
all files together, each (title, text) once, are the corpus.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.json_records import Json, Text, check_record, read_records
from nanoscout.questions.paragraphs import Corpus, distinct_passages
from nanoscout.questions.question_file import QuestionFile
from nanoscout.questions.question_set import QuestionSet
from nanoscout.questions.split import split_questions
from nanoscout.recipe import HopType, QuestionsSpec
from nanoscout.records import Passage, Question, Step

PREFIX = "m"
log = logging.getLogger(__name__)


class ParagraphRecord(BaseModel):
    idx: int
    title: Text
    paragraph_text: Text


class HopRecord(BaseModel):
    question: Text
    """May name the answer of an earlier hop as #1, #2, ..."""
    answer: Text
    paragraph_support_idx: int | None = None


class ContextRecord(BaseModel):
    paragraphs: list[ParagraphRecord]


class MusiqueRecord(BaseModel):
    id: Text
    """Begins with the hop type: `3hop1__`."""
    question: Text
    answer: Text
    answer_aliases: list[Text] = []
    question_decomposition: list[HopRecord]
    paragraphs: list[ParagraphRecord]


def load_musique(spec: QuestionsSpec, seed: int) -> QuestionSet:
    """MuSiQue from `spec.path` and, where given, `spec.held_out_path`.

    The paragraphs of `spec.corpus` join the corpus; nothing else is read of these files. Records
    marked unanswerable are skipped. Raises UserError for an unreadable file, and naming file and
    line for a broken record.
    """
    if not spec.path:
        raise UserError("questions.path: not set; name MuSiQue's file of training questions")
    corpus = Corpus(PREFIX)
    questions = read_questions(Path(spec.path), corpus)
    held_out = read_questions(Path(spec.held_out_path), corpus) if spec.held_out_path else None
    for path in spec.corpus:
        for title, text in _paragraphs(read_records(Path(path))):
            corpus.add(title, text)
    train, held_out, examples = split_questions(questions, held_out, spec, seed)
    return QuestionSet(
        train + single_hops(train, held_out),
        held_out,
        examples + single_hops(examples, held_out),
        corpus.passages,
    )


def read_musique(path: Path) -> QuestionFile:
    """The answerable questions of a file and all their paragraphs. Raises UserError as below."""
    corpus = Corpus(PREFIX)
    questions = read_questions(path, corpus)
    return QuestionFile(questions, corpus.passages)


def musique_passages(records: Iterable[tuple[str, Json]]) -> Iterator[Passage]:
    """The corpus of a file's records, as `load_musique` numbers it, without keeping it."""
    return distinct_passages(_paragraphs(records), PREFIX)


def _paragraphs(records: Iterable[tuple[str, Json]]) -> Iterator[tuple[str, str]]:
    """Title and text of every paragraph of the records that are not marked unanswerable."""
    for place, fields in records:
        if fields.get("answerable") is not False:
            for paragraph in check_record(place, fields, ContextRecord).paragraphs:
                yield paragraph.title, paragraph.paragraph_text


def single_hops(questions: Sequence[Question], held_out: Sequence[Question]) -> list[Question]:
    """The hops of `questions` as 1hop questions, for stages that begin with those.

    Ours, not MuSiQue's. Hops that are no English question (`Inception >> director`) and hops of
    held-out questions are left out; each one is given once.
    """
    taken = {(step.question, step.answer) for question in held_out for step in question.steps}
    hops: dict[tuple[str, str], Question] = {}
    for question in questions:
        for number, step in enumerate(question.steps, 1):
            key = (step.question, step.answer)
            if step.question.endswith("?") and ">>" not in step.question and key not in taken:
                hop_id = f"1hop__{question.id}_{number}"
                hops.setdefault(
                    key, Question(hop_id, step.question, step.answer, (), "1hop", (step,))
                )
    return list(hops.values())


def read_questions(path: Path, corpus: Corpus) -> list[Question]:
    """The answerable questions of a file; their paragraphs go into `corpus`.

    Raises UserError for an unreadable file, and naming file and line for a broken record.
    """
    questions: dict[str, Question] = {}
    unanswerable = 0
    for place, fields in read_records(path):
        if fields.get("answerable") is False:
            unanswerable += 1
            continue
        record = check_record(place, fields, MusiqueRecord)
        if record.id in questions:
            raise UserError(f"{place}: the id {record.id} has been used before; ids must differ")
        questions[record.id] = _question(place, record, corpus)
    if unanswerable:
        log.info("%s: %d unanswerable questions skipped", path, unanswerable)
    if not questions:
        raise UserError(f"{path}: holds no answerable question")
    return list(questions.values())


def _question(place: str, record: MusiqueRecord, corpus: Corpus) -> Question:
    hop_type = record.id.partition("__")[0]
    if hop_type not in get_args(HopType):
        raise UserError(f"{place}: the id {record.id} does not begin with a hop type (2hop__...)")
    if len(record.question_decomposition) != int(hop_type[0]):
        raise UserError(f"{place}: {hop_type}, but {len(record.question_decomposition)} steps")
    if not any(normalise(gold) for gold in (record.answer, *record.answer_aliases)):
        raise UserError(f"{place}: no answer that could be matched: {record.answer!r}")
    passages = {
        paragraph.idx: corpus.add(paragraph.title, paragraph.paragraph_text)
        for paragraph in record.paragraphs
    }
    steps: list[Step] = []
    for hop in record.question_decomposition:
        support = hop.paragraph_support_idx
        if support is not None and support not in passages:
            raise UserError(f"{place}: no paragraph has the idx {support} that a step names")
        passage_id = passages[support].id if support is not None else ""
        steps.append(Step(_filled_in(hop.question, steps), hop.answer, passage_id))
    return Question(
        id=record.id,
        text=record.question.strip(),
        answer=record.answer,
        aliases=tuple(record.answer_aliases),
        hop_type=hop_type,
        steps=tuple(steps),
    )


def _filled_in(question: str, earlier: list[Step]) -> str:
    """`question` with #1, #2, ... replaced by the answers of the earlier hops."""

    def answer(reference: re.Match[str]) -> str:
        number = int(reference[1])
        return earlier[number - 1].answer if 1 <= number <= len(earlier) else reference[0]

    return re.sub(r"#([0-9]{1,2})(?![0-9])", answer, question)
