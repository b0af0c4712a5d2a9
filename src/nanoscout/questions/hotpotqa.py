"""HotpotQA (Yang et al. 2018, EMNLP), the distractor setting: two-hop questions and paragraphs.

Reads the official format (github.com/hotpotqa/hotpot): each record's context is a list of
[title, [sentence, ...]]. The paragraphs of all records together, each (title, text) once, are the
corpus.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, Field

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.json_records import Json, Text, check_record, read_records
from nanoscout.questions.paragraphs import Corpus, distinct_passages
from nanoscout.questions.question_file import QuestionFile
from nanoscout.records import Passage, Question, Step

PREFIX = "h"


class ContextRecord(BaseModel):
    context: list[tuple[Text, list[Text]]]
    """Title and sentences of each paragraph."""


class HotpotRecord(ContextRecord):
    id: Text = Field(alias="_id")
    question: Text
    answer: Text
    type: Text
    supporting_facts: list[tuple[Text, int]]
    """Title, and the sentence's place in its paragraph."""
    answer_id: Text | None = None
    """2WikiMultihopQA's: the answer as an item of Wikidata."""


def read_hotpotqa(path: Path) -> QuestionFile:
    """The questions of a file, by `type` (bridge, comparison) as topic, and all their paragraphs.

    Raises UserError for an unreadable file, and naming file and line for a broken record.
    """
    corpus = Corpus(PREFIX)
    questions: list[Question] = []
    topics: dict[str, str] = {}
    for place, record in hotpot_records(path):
        paragraphs = [(title, _joined(sentences)) for title, sentences in record.context]
        questions.append(hotpot_question(place, record, paragraphs, corpus))
        topics[record.id] = record.type
    return QuestionFile(questions, corpus.passages, topics)


def hotpotqa_passages(records: Iterable[tuple[str, Json]]) -> Iterator[Passage]:
    """The corpus of a file's records, as `read_hotpotqa` numbers it, without keeping it."""
    return distinct_passages(
        (
            (title, _joined(sentences))
            for place, fields in records
            for title, sentences in check_record(place, fields, ContextRecord).context
        ),
        PREFIX,
    )


def hotpot_records(path: Path) -> Iterator[tuple[str, HotpotRecord]]:
    """Every record with its place; raises UserError for a broken one, or an id used before."""
    taken: set[str] = set()
    for place, fields in read_records(path):
        record = check_record(place, fields, HotpotRecord)
        if record.id in taken:
            raise UserError(f"{place}: the id {record.id} has been used before; ids must differ")
        taken.add(record.id)
        yield place, record


def hotpot_question(
    place: str,
    record: HotpotRecord,
    paragraphs: list[tuple[str, str]],
    corpus: Corpus,
    hop_type: str = "2hop",
    aliases: tuple[str, ...] = (),
) -> Question:
    """The record as a question; its paragraphs, (title, text), go into `corpus`.

    Its steps name the supporting pages and nothing else: the format tells no question of a hop.
    """
    if not record.question.strip():
        raise UserError(f"{place}: the question is empty")
    if not normalise(record.answer):
        raise UserError(f"{place}: no answer that could be matched: {record.answer!r}")
    passages = {title: corpus.add(title, text) for title, text in paragraphs}
    supporting = dict.fromkeys(title for title, _ in record.supporting_facts)
    missing = [title for title in supporting if title not in passages]
    if missing:
        raise UserError(f"{place}: no paragraph has the title {missing[0]!r} of a supporting fact")
    steps = tuple(Step("", "", passages[title].id) for title in supporting)
    return Question(record.id, record.question.strip(), record.answer, aliases, hop_type, steps)


def _joined(sentences: list[str]) -> str:
    return "".join(sentences).strip()
