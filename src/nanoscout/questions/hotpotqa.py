"""HotpotQA (Yang et al. 2018, EMNLP): the paragraphs of its distractor setting as a corpus.

Reads the official format (github.com/hotpotqa/hotpot): each record's context is a list of
[title, [sentence, ...]]. The paragraphs of all records together, each (title, text) once, are the
corpus.
"""

from collections.abc import Iterable, Iterator

from pydantic import BaseModel

from nanoscout.questions.json_records import Json, Text, check_record
from nanoscout.questions.paragraphs import distinct_passages
from nanoscout.records import Passage


class HotpotRecord(BaseModel):
    context: list[tuple[Text, list[Text]]]


def hotpotqa_passages(records: Iterable[tuple[str, Json]]) -> Iterator[Passage]:
    """The corpus of a file's records, one passage after another."""
    return distinct_passages(
        (
            (title, "".join(sentences).strip())
            for place, fields in records
            for title, sentences in check_record(place, fields, HotpotRecord).context
        ),
        "h",
    )
