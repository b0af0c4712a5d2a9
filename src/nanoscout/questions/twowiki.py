"""2WikiMultihopQA (Ho et al. 2020, COLING): questions of two and four hops, and paragraphs.

Reads the official files (github.com/Alab-NII/2wikimultihop): HotpotQA's format, in which sentences
do not bring the space between them. Where the release's `id_aliases.json` lies beside the file, the
other names of an answer count as right, as in the authors' own evaluation.
"""

from collections.abc import Container
from pathlib import Path

from pydantic import BaseModel

from nanoscout.questions.hotpotqa import hotpot_question, hotpot_records
from nanoscout.questions.json_records import Text, check_record, read_records
from nanoscout.questions.paragraphs import Corpus
from nanoscout.questions.question_file import QuestionFile
from nanoscout.records import Question

PREFIX = "t"
ALIASES = "id_aliases.json"


class AliasRecord(BaseModel):
    Q_id: Text
    aliases: list[Text]


def read_2wiki(path: Path) -> QuestionFile:
    """The questions of a file, by `type` (comparison, inference, compositional,
    bridge_comparison) as topic, and all their paragraphs.

    A comparison over two bridges takes four hops, every other type two. Raises UserError for an
    unreadable file, and naming file and line for a broken record.
    """
    records = list(hotpot_records(path))
    names = _names(path.with_name(ALIASES), {record.answer_id for _, record in records})
    corpus = Corpus(PREFIX)
    questions: list[Question] = []
    for place, record in records:
        paragraphs = [
            (title, " ".join(sentence.strip() for sentence in sentences).strip())
            for title, sentences in record.context
        ]
        hop_type = "4hop1" if record.type.startswith("bridge") else "2hop"
        aliases = names.get(record.answer_id or "", ())
        questions.append(hotpot_question(place, record, paragraphs, corpus, hop_type, aliases))
    return QuestionFile(
        questions, corpus.passages, {record.id: record.type for _, record in records}
    )


def _names(path: Path, wanted: Container[str | None]) -> dict[str, tuple[str, ...]]:
    """The other names of each wanted item of Wikidata; none where the file is not there."""
    if not path.exists():
        return {}
    records = (check_record(place, fields, AliasRecord) for place, fields in read_records(path))
    return {record.Q_id: tuple(record.aliases) for record in records if record.Q_id in wanted}
