"""PopQA (Mallen et al. 2023, ACL): one-hop questions about entities, most of them little known.

Reads the official file (github.com/AlexTMallen/adaptive-retrieval, data/popQA.tsv). It has no
corpus; it names the Wikipedia page of the entity that is asked about.
"""

import json
from pathlib import Path

from nanoscout.answers import normalise
from nanoscout.errors import UserError
from nanoscout.questions.csv_records import read_rows, require
from nanoscout.questions.paragraphs import title_url
from nanoscout.questions.question_file import QuestionFile
from nanoscout.records import Question

COLUMNS = ("id", "prop", "obj", "s_wiki_title", "question", "possible_answers")


def read_popqa(path: Path) -> QuestionFile:
    """The questions of a file, by relation (occupation, director, ...) as topic.

    Raises UserError for an unreadable file, a missing column, and naming the line of a broken
    record.
    """
    questions: dict[str, Question] = {}
    topics: dict[str, str] = {}
    pages: dict[str, tuple[str, ...]] = {}
    for place, row in read_rows(path, delimiter="\t"):
        if not questions:
            require(path, row, COLUMNS)
        question_id = row["id"].strip()
        if question_id in questions:
            raise UserError(f"{place}: the id {question_id} has been used before; ids must differ")
        answers = dict.fromkeys([row["obj"].strip(), *_names(place, row["possible_answers"])])
        answer, *aliases = [name for name in answers if normalise(name)] or [""]
        if not answer or not row["question"].strip():
            raise UserError(f"{place}: no question, or no answer that could be matched")
        questions[question_id] = Question(
            question_id, row["question"].strip(), answer, tuple(aliases)
        )
        topics[question_id] = row["prop"]
        if row["s_wiki_title"]:
            pages[question_id] = (title_url(row["s_wiki_title"]),)
    return QuestionFile(list(questions.values()), topics=topics, pages=pages)


def _names(place: str, text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{place}: possible_answers: expected a list of texts, as ["...", ...]')
    return names
